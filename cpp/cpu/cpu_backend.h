// The CPU backend: the kernels of cpp/cpu/kernels, compiled once per instruction set and
// chosen at run time; matrix products by oneDNN where the processor has AMX.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace s2ft {

/// How products over bf16 storage are computed: `native` uses the machine's bf16 or AMX
/// instructions, `widen` converts blocks to f32 scratch and multiplies in f32.
enum class Arithmetic { automatic, native, widen };

/// Who computes matrix products: the kernels of this library or oneDNN. Automatic takes
/// oneDNN for AMX, whose tiles the kernels do not use.
enum class Gemm { automatic, built_in, onednn };

struct CpuOptions {
  int threads = 0;  // 0: one per CPU this process may use
  Arithmetic arithmetic = Arithmetic::automatic;
  std::string isa;  // "", "plain", "avx2", "avx512", "avx512bf16"; for tests
  Gemm gemm = Gemm::automatic;
};

/// What a CPU backend found and chose; shown by `s2ft devices`.
struct CpuDescription {
  std::string name;        // the processor's model name
  std::string isa;         // chosen instruction set of the kernels
  std::string gemm;        // "built-in" or "oneDNN 2.6.3"
  std::string arithmetic;  // for bf16 weights: "bf16", "amx" or "f32"
  int threads = 0;
  // Measured: the registers' rate, with AMX a large product's.
  double peak_gflops_f32 = 0, peak_gflops_bf16 = 0;
};

/// Throws INVALID_ARGUMENT for an instruction set this machine lacks.
std::shared_ptr<Backend> make_cpu_backend(const CpuOptions& options);
/// Measures for some milliseconds (once a process, then cached).
CpuDescription describe_cpu(const CpuOptions& options);
/// GFLOP/s of products of this dtype during about `seconds` from now on, beside whatever
/// else the machine does; at its best it is the description's peak.
double current_cpu_gflops(const CpuOptions& options, DType dtype, double seconds);

}  // namespace s2ft
