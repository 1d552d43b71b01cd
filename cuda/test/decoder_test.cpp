// Decoding on CUDA against the CPU: sequences with adapters of every kind beside one
// another, keys and values in pages.
#include "cuda/test/checkpoint.h"
#include "test/decoder_fixture.h"

using namespace s2ft;
using namespace s2ft::test;

const std::vector<NamedBackend>& s2ft::test::backends_under_test() {
  return cuda_backends();
}

namespace {

void check_decoding(Quantization kind, DType dtype, double tolerance) {
  ModelConfig config = tiny_config();
  config.sliding_window = {0, 3, 0};
  config.qk_norm = true;
  const Checkpoint checkpoint(config);
  std::vector<std::vector<std::vector<Decoded>>> found;
  for (const auto& backend : {gpu(), cpu()}) {
    const auto model = checkpoint.load(backend, kind, dtype);
    Runner runner(model, 40);
    std::vector<Script> scripts;
    const auto adapters = some_adapters(*model);
    for (size_t i = 0; i < adapters.size(); ++i)
      runner.decoder.add_adapter(int64_t(i), adapters[i]);
    const auto prompts = tiny_data({5, 21, 1, 17, 3, 40}, config.vocab_size).tokens;
    for (size_t i = 0; i < prompts.size(); ++i)
      scripts.push_back({prompts[i], int64_t(i) - 2 < 0 ? -1 : int64_t(i) - 2});
    found.push_back(runner.run(scripts, 20));
  }
  for (size_t s = 0; s < found[1].size(); ++s) {
    for (size_t i = 0; i < found[1][s].size(); ++i) {
      const Decoded &got = found[0][s][i], &want = found[1][s][i];
      double worst = 0;
      for (size_t t = 0; t < want.log_probs.size(); ++t)
        worst = std::max(worst, std::fabs(double(got.log_probs[t]) - want.log_probs[t]));
      CHECK(worst <= tolerance);
      // Two tokens that are nearly as likely may change places; what follows differs.
      if (got.token != want.token) {
        CHECK(std::fabs(want.log_probs[size_t(got.token)] -
                        want.log_probs[size_t(want.token)]) <= 2 * tolerance);
        break;
      }
    }
  }
}

}  // namespace

TEST(decoding_with_adapters_is_the_cpu_s) {
  check_decoding(Quantization::none, DType::f32, 1e-4);
}

TEST(decoding_over_quantized_weights_is_the_cpu_s) {
  check_decoding(Quantization::nf4, DType::f32, 1e-4);
}

TEST(decoding_in_bf16_is_near_the_cpu_s) {
  // Activations of three layers, rounded to 8 bits.
  check_decoding(Quantization::none, DType::bf16, 0.15);
}
