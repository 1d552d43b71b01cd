// The conformance suite of quantized weights on the CPU.
#include "test/conformance/cpu_backends.h"
#include "test/conformance/quantized.h"

const std::vector<s2ft::test::NamedBackend>& s2ft::test::backends_under_test() {
  static const std::vector<NamedBackend> all = product_backends();
  return all;
}
