// The CPU backend: the kernels of cpp/cpu/kernels, compiled once per instruction set and
// chosen at run time; matrix products by oneDNN where the processor has AMX.
#pragma once

#include <memory>

#include "backend/backend.h"
#include "cpu/cpu_options.h"

namespace s2ft {

/// Throws INVALID_ARGUMENT for an instruction set this machine lacks.
std::shared_ptr<Backend> make_cpu_backend(const CpuOptions& options);

}  // namespace s2ft
