// What a CPU backend may be asked for, what that means on this machine, and what it
// found.
#pragma once

#include <string>

#include "core/dtype.h"

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

/// What options mean on this machine.
struct CpuChoice {
  std::string isa;
  bool onednn;  // computes the products
  bool native;  // products of bf16 use the machine's bf16 instructions
  int threads;
};

/// Measures for some milliseconds where arithmetic is left open (once a process, then
/// cached). Throws INVALID_ARGUMENT for what this machine or build lacks.
CpuChoice resolve_cpu(const CpuOptions& options);

/// Measures for some milliseconds (once a process, then cached).
CpuDescription describe_cpu(const CpuOptions& options);
/// GFLOP/s of products of this dtype during about `seconds` from now on, beside whatever
/// else the machine does; at its best it is the description's peak.
double current_cpu_gflops(const CpuOptions& options, DType dtype, double seconds);

}  // namespace s2ft
