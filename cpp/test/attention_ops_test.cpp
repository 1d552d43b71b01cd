// Attention's conformance on the CPU, through its backend.
#include "test/conformance/attention.h"
#include "test/conformance/cpu_backends.h"

const std::vector<s2ft::test::NamedBackend>& s2ft::test::backends_under_test() {
  static const std::vector<NamedBackend> all = kernel_backends();
  return all;
}
