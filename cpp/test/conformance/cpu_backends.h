// Every CPU backend this machine can run: instruction sets, product libraries,
// arithmetics and thread counts.
#pragma once

#include "cpu/cpu_backend.h"
#include "cpu/cpu_info.h"
#include "cpu/onednn.h"
#include "test/conformance/support.h"

namespace s2ft::test {

inline NamedBackend cpu_backend(const std::string& isa, Gemm gemm, int threads) {
  CpuOptions options;
  options.isa = isa;
  options.gemm = gemm;
  // Built-in products follow the instruction set; oneDNN is there for the native ones.
  if (gemm == Gemm::onednn) options.arithmetic = Arithmetic::native;
  options.threads = threads;
  const std::string name = isa + (gemm == Gemm::onednn ? "/oneDNN/" : "/");
  return {name + std::to_string(threads), make_cpu_backend(options)};
}

/// One backend an instruction set, and the best set with other thread counts: what can
/// change the kernels.
inline std::vector<NamedBackend> kernel_backends() {
  std::vector<NamedBackend> list;
  const std::vector<std::string> isas = supported_isas();
  for (const std::string& isa : isas) {
    list.push_back(cpu_backend(isa, Gemm::built_in, 2));
  }
  list.push_back(cpu_backend(isas.back(), Gemm::built_in, 1));
  list.push_back(cpu_backend(isas.back(), Gemm::built_in, 3));
  return list;
}

/// What can change the products as well: the library.
inline std::vector<NamedBackend> product_backends() {
  std::vector<NamedBackend> list = kernel_backends();
  if (has_bf16_instructions() && OneDnn::create()) {
    for (int threads : {1, 2}) {
      list.push_back(cpu_backend(supported_isas().back(), Gemm::onednn, threads));
    }
  }
  return list;
}

}  // namespace s2ft::test
