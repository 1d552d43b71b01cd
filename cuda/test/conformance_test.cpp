// The op conformance suite, attention over whole sequences apart, on CUDA: on an emulated
// device, or on the real one where there is one.
#include "cuda/test/backends.h"
#include "test/conformance/elementwise.h"
#include "test/conformance/linear_cross_entropy.h"
#include "test/conformance/loss.h"
#include "test/conformance/matmul.h"
#include "test/conformance/quantized.h"
#include "test/conformance/rank.h"
#include "test/conformance/serving.h"
#include "test/conformance/transformer.h"
#include "test/conformance/vectors.h"

const std::vector<s2ft::test::NamedBackend>& s2ft::test::backends_under_test() {
  return cuda_backends();
}
