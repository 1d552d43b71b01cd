// The conformance suite of quantized weights on the CPU, and NF4 with double quantization
// against bitsandbytes, QLoRA's own library (test/golden/nf4).
#include "io/safetensors.h"
#include "test/conformance/cpu_backends.h"
#include "test/conformance/quantized.h"

using namespace s2ft;
using namespace s2ft::test;

const std::vector<s2ft::test::NamedBackend>& s2ft::test::backends_under_test() {
  static const std::vector<NamedBackend> all = product_backends();
  return all;
}

TEST(nf4_decodes_as_bitsandbytes_does) {
  const auto file =
      SafetensorsFile::open(std::string(S2FT_GOLDEN) + "/nf4/nf4.safetensors");
  const TensorInfo& source = *file->find("weight");
  const TensorInfo& expected = *file->find("decoded");
  const int64_t rows = source.shape[0], cols = source.shape[1];
  CHECK(source.dtype == "BF16" && expected.dtype == "F32");
  Host weight(rows, cols), want(rows, cols);
  for (size_t i = 0; i < weight.v.size(); ++i) {
    bf16 x;
    float y;
    std::memcpy(&x, static_cast<const char*>(file->data(source)) + 2 * i, 2);
    std::memcpy(&y, static_cast<const char*>(file->data(expected)) + 4 * i, 4);
    weight.v[i] = to_float(x);
    want.v[i] = y;
  }
  for (const NamedBackend& named : backends_under_test()) {
    const QuantizedDevice w(*named.backend, Quantization::nf4, weight);
    CHECK(w.weight.groups() == 2);
    Device y(*named.backend, DType::f32, rows, cols);
    named.backend->dequantize(y, {&w.weight, 1});
    const Host got = y.read(named.name);
    // The library rounds to f32 after every operation, here once.
    for (size_t i = 0; i < want.v.size(); ++i)
      CHECK_NEAR(got.v[i], want.v[i], 0x1p-21 * std::fabs(want.v[i]));
  }
}
