// The conformance suite of matrix products on the CPU.
#include "test/conformance/matmul.h"

#include "test/conformance/cpu_backends.h"

const std::vector<s2ft::test::NamedBackend>& s2ft::test::backends_under_test() {
  static const std::vector<NamedBackend> all = product_backends();
  return all;
}
