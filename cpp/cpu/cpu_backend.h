// The CPU backend: products by oneDNN or the portable kernel, everything else by the
// kernels of cpp/cpu/kernels, compiled once per instruction set and chosen at run time.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace s2ft {

/// How products over bf16 storage are computed: `native` uses the machine's bf16 or AMX
/// instructions, `widen` converts blocks to f32 scratch and multiplies in f32.
enum class Arithmetic { automatic, native, widen };

struct CpuOptions {
  int threads = 0;  // 0: one per CPU this process may use
  Arithmetic arithmetic = Arithmetic::automatic;
  std::string isa;             // "", "plain", "avx2", "avx512", "avx512bf16"; for tests
  bool portable_gemm = false;  // force the portable kernel (the oracle)
};

/// What a CPU backend found and chose; shown by `s2ft devices`.
struct CpuDescription {
  std::string name;        // the processor's model name
  std::string isa;         // chosen instruction set of the kernels
  std::string gemm;        // "oneDNN 2.6.3" or "portable"
  std::string arithmetic;  // for bf16 weights: "bf16", "amx" or "f32"
  int threads = 0;
  double peak_gflops_f32 = 0, peak_gflops_bf16 = 0;  // measured by the probe
};

/// Throws INVALID_ARGUMENT for an instruction set this machine lacks.
std::shared_ptr<Backend> make_cpu_backend(const CpuOptions& options);
/// Measures both arithmetics for a few milliseconds (once a process, then cached).
CpuDescription describe_cpu(const CpuOptions& options);

}  // namespace s2ft
