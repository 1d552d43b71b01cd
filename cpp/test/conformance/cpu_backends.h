// Every CPU backend this machine can run: instruction sets, product libraries,
// arithmetics and thread counts.
#pragma once

#include "cpu/cpu_backend.h"
#include "cpu/cpu_info.h"
#include "test/conformance/support.h"

namespace s2ft::test {

inline NamedBackend cpu_backend(const std::string& isa, bool portable,
                                Arithmetic arithmetic, int threads) {
  CpuOptions options;
  options.isa = isa;
  options.portable_gemm = portable;
  options.arithmetic = arithmetic;
  options.threads = threads;
  const std::string name = isa + (portable                           ? "/portable"
                                  : arithmetic == Arithmetic::native ? "/native"
                                                                     : "/widen");
  return {name + "/" + std::to_string(threads), make_cpu_backend(options)};
}

/// One backend an instruction set, and the best set with other thread counts: what can
/// change the kernels.
inline std::vector<NamedBackend> kernel_backends() {
  std::vector<NamedBackend> list;
  const std::vector<std::string> isas = supported_isas();
  for (const std::string& isa : isas) {
    list.push_back(cpu_backend(isa, true, Arithmetic::widen, 2));
  }
  list.push_back(cpu_backend(isas.back(), true, Arithmetic::widen, 1));
  list.push_back(cpu_backend(isas.back(), true, Arithmetic::widen, 3));
  return list;
}

/// What can change the products as well: the library and the arithmetic.
inline std::vector<NamedBackend> product_backends() {
  std::vector<NamedBackend> list = kernel_backends();
  const std::vector<std::string> isas = supported_isas();
  list.push_back(cpu_backend("plain", false, Arithmetic::widen, 2));
  list.push_back(cpu_backend(isas.back(), false, Arithmetic::widen, 2));
  list.push_back(cpu_backend(isas.back(), false, Arithmetic::widen, 3));
  if (has_bf16_instructions()) {
    list.push_back(cpu_backend(isas.back(), false, Arithmetic::native, 2));
    list.push_back(cpu_backend(isas.back(), false, Arithmetic::native, 1));
  }
  return list;
}

}  // namespace s2ft::test
