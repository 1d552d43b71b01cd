// What this machine's processor is and can do.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernels/kernels.h"

namespace s2ft {

/// The processor's model name as the operating system tells it.
std::string cpu_name();

/// Names of the kernel sets this build has and this machine can run, best last.
std::vector<std::string> supported_isas();

/// The kernels of a set. Throws INVALID_ARGUMENT when the build or the machine lacks it.
const Kernels& kernels_of(const std::string& isa);

/// Whether the processor multiplies pairs of bf16 (AVX512-BF16), fast or slow.
bool has_bf16_instructions();

/// Whether processor and operating system offer AMX tiles of bf16.
bool has_amx();

}  // namespace s2ft
