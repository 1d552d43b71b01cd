// The op conformance suite, products and attention apart, on the CPU.
#include "test/conformance/cpu_backends.h"
#include "test/conformance/elementwise.h"
#include "test/conformance/loss.h"
#include "test/conformance/rank.h"
#include "test/conformance/serving.h"
#include "test/conformance/transformer.h"
#include "test/conformance/vectors.h"

const std::vector<s2ft::test::NamedBackend>& s2ft::test::backends_under_test() {
  static const std::vector<NamedBackend> all = kernel_backends();
  return all;
}
