// Models on CUDA against the same models on the CPU: loading, inference, training by
// every method, quantized bases, adapters and saved state. On an emulated device, whose
// memory the host cannot touch, and on the real one where there is one.
#include "adapter/fusion.h"
#include "cuda/test/checkpoint.h"

using namespace s2ft;
using namespace s2ft::test;

const std::vector<NamedBackend>& s2ft::test::backends_under_test() {
  return cuda_backends();
}

namespace {

/// |got - want| within `relative` of the largest number of `want`.
void check_same(const std::vector<float>& got, const std::vector<float>& want,
                double relative, const std::string& what) {
  CHECK(got.size() == want.size());
  double largest = 0, worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    largest = std::max(largest, double(std::fabs(want[i])));
    worst = std::max(worst, double(std::fabs(got[i] - want[i])));
    if (std::isnan(got[i]) != std::isnan(want[i])) worst = HUGE_VAL;
  }
  if (!(worst <= relative * largest))
    fail(__FILE__, __LINE__,
         what + ": differ by " + std::to_string(worst) + ", the largest is " +
             std::to_string(largest));
}

ModelConfig rich_config() {
  ModelConfig c = tiny_config();
  c.qkv_bias = c.o_bias = c.mlp_bias = true;
  c.qk_norm = true;
  c.tie_word_embeddings = true;
  c.sliding_window = {0, 5, 0};
  return c;
}

std::vector<float> logits_of(Model& model) {
  const std::vector<int32_t> tokens = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9};
  return all_logits(model, tokens.data(), int32_t(tokens.size()));
}

struct NamedMethod {
  const char* name;
  MethodSpec method;
};

std::vector<NamedMethod> every_method() {
  return {{"s2ft", s2ft_method()},
          {"s2ft by gradients", chosen_s2ft_method()},
          {"lora", lora_method(0.2f)},
          {"dora", dora_method()},
          {"sparse", sparse_method()},
          {"sparse by gradients", sparse_method(SparseOptions::Selection::gradient)},
          {"lisa", lisa_method()},
          {"galore", galore_method()},
          {"loreft", loreft_method(false, 0.2f)},
          {"full", full_method()}};
}

/// Trains both some steps and compares losses, norms, gradients and values.
void check_training(std::shared_ptr<Model> got, std::shared_ptr<Model> want,
                    const NamedMethod& m, Recompute recompute, double tolerance) {
  const TinyData first = tiny_data({9, 1, 14, 2}, got->config.vocab_size, 3),
                 second = tiny_data({5, 8}, got->config.vocab_size, 4);
  OptimizerSpec optimizer;
  optimizer.weight_decay = 0.01;
  Tuner a(got, m.method, optimizer, recompute), b(want, m.method, optimizer, recompute);
  for (Tuner* tuner : {&a, &b}) tuner->calibrate({first.samples()});
  if (!m.method.lora.empty())
    for (Tuner* tuner : {&a, &b}) move_values(*tuner, 0.3);
  const auto compare = [&](const char* when) {
    CHECK(a.parameters().size() == b.parameters().size());
    for (size_t i = 0; i < b.parameters().size(); ++i) {
      const Parameter &p = *a.parameters()[i], &q = *b.parameters()[i];
      const std::string what = std::string(m.name) + " " + q.name + " " + when;
      check_same(a.gradient(p), b.gradient(q), tolerance, what + " gradient");
    }
  };
  CHECK_NEAR(a.gradients(first.samples()), b.gradients(first.samples()), tolerance);
  compare("first");
  for (int step = 0; step < 3; ++step) {
    const StepResult x = a.step({first.samples(), second.samples()}, 1e-3),
                     y = b.step({first.samples(), second.samples()}, 1e-3);
    CHECK_NEAR(x.loss, y.loss, tolerance);
    CHECK_NEAR(x.grad_norm, y.grad_norm, 10 * tolerance * y.grad_norm);
    CHECK(x.tokens == y.tokens);
  }
  // Adam divides by the gradient's size: an element near zero may step the other way, by
  // no more than the steps' length.
  for (size_t i = 0; i < b.parameters().size(); ++i) {
    const std::vector<float> x = a.values(*a.parameters()[i]),
                             y = b.values(*b.parameters()[i]);
    CHECK(x.size() == y.size());
    double sum = 0;
    for (size_t j = 0; j < y.size(); ++j) {
      CHECK_NEAR(x[j], y[j], 6.1e-3);
      sum += std::fabs(double(x[j]) - double(y[j]));
    }
    CHECK(sum <= 2e-4 * double(y.size()));
  }
  CHECK(a.plan(64, 32, 2).weights == b.plan(64, 32, 2).weights);
  a.detach(), b.detach();
  check_same(logits_of(*got), logits_of(*want), 1e-3, std::string(m.name) + " detached");
}

}  // namespace

TEST(loading_keeps_every_bit) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    const Checkpoint checkpoint(rich_config());
    const auto a = checkpoint.load(gpu(), Quantization::none, dtype),
               b = checkpoint.load(cpu(), Quantization::none, dtype);
    CHECK(fingerprint(*a) == fingerprint(*b));
  }
}

TEST(logits_and_scores_are_the_cpu_s) {
  for (const ModelConfig& config : {tiny_config(), rich_config()}) {
    const Checkpoint checkpoint(config);
    const auto a = checkpoint.load(gpu()), b = checkpoint.load(cpu());
    check_same(logits_of(*a), logits_of(*b), 1e-5, "logits");
    const TinyData data = tiny_data({9, 1, 14, 70}, config.vocab_size);
    const auto x = score(*a, data.samples(), {{1, 2}, {3}, {}, {4}}),
               y = score(*b, data.samples(), {{1, 2}, {3}, {}, {4}});
    for (size_t i = 0; i < y.size(); ++i) check_same(x[i], y[i], 1e-5, "scores");
  }
}

TEST(logits_of_bf16_are_near_the_cpu_s) {
  const Checkpoint checkpoint;
  const auto a = checkpoint.load(gpu(), Quantization::none, DType::bf16),
             b = checkpoint.load(cpu(), Quantization::none, DType::bf16);
  // Every activation is rounded to 8 bits; roundings that fall the other way add up over
  // three layers.
  check_same(logits_of(*a), logits_of(*b), 0.03, "bf16 logits");
}

TEST(every_method_trains_as_on_the_cpu) {
  const Checkpoint checkpoint;
  for (const NamedMethod& m : every_method())
    check_training(checkpoint.load(gpu()), checkpoint.load(cpu()), m,
                   Recompute::selective, 1e-4);
}

TEST(every_recomputation_trains_as_on_the_cpu) {
  const Checkpoint checkpoint(rich_config());
  for (Recompute recompute : {Recompute::none, Recompute::block})
    for (const NamedMethod& m :
         {NamedMethod{"s2ft", s2ft_method()}, {"full", full_method()}})
      check_training(checkpoint.load(gpu()), checkpoint.load(cpu()), m, recompute, 1e-4);
}

TEST(methods_beside_quantized_bases_train_as_on_the_cpu) {
  const Checkpoint checkpoint;
  for (Quantization kind : {Quantization::int8, Quantization::nf4}) {
    const auto a = checkpoint.load(gpu(), kind), b = checkpoint.load(cpu(), kind);
    CHECK(fingerprint(*a) == fingerprint(*b));
    check_same(logits_of(*a), logits_of(*b), 1e-5, "quantized logits");
    for (const NamedMethod& m : {NamedMethod{"s2ft", s2ft_method()},
                                 {"lora", lora_method()},
                                 {"dora", dora_method()}})
      check_training(checkpoint.load(gpu(), kind), checkpoint.load(cpu(), kind), m,
                     Recompute::selective, 1e-4);
  }
}

TEST(state_saved_on_cuda_continues_bit_by_bit) {
  const Checkpoint checkpoint;
  const TinyData data = tiny_data({9, 6}, tiny_config().vocab_size);
  const std::string path = temporary("cuda-state.safetensors");
  for (const NamedMethod& m : {NamedMethod{"s2ft", s2ft_method()},
                               {"lora", lora_method()},
                               {"lisa", lisa_method()}}) {
    Tuner whole(checkpoint.load(gpu()), m.method, {}, Recompute::selective);
    whole.step({data.samples()}, 1e-3);
    whole.save_state(path, {});
    whole.step({data.samples()}, 1e-3);
    Tuner resumed(checkpoint.load(gpu()), m.method, {}, Recompute::selective);
    resumed.load_state(path);
    resumed.step({data.samples()}, 1e-3);
    for (size_t i = 0; i < whole.parameters().size(); ++i)
      CHECK(whole.values(*whole.parameters()[i]) ==
            resumed.values(*resumed.parameters()[i]));
  }
  std::remove(path.c_str());
}

TEST(fusing_and_taking_out_restores_every_bit) {
  const Checkpoint checkpoint;
  const auto a = checkpoint.load(gpu()), b = checkpoint.load(cpu());
  const std::string before = fingerprint(*a);
  AdapterDeltas deltas;
  Rng rng(7);
  for (bool rows : {true, false}) {
    SliceDelta s;
    s.module = "model.layers.1.mlp.down_proj";
    s.rows = rows;
    s.index = {3, 11, 17};
    const int64_t other = rows ? a->config.intermediate_size : a->config.hidden_size;
    for (int64_t i = 0; i < 3 * other; ++i) s.delta.push_back(float(rng.normal()));
    deltas.slices.push_back(std::move(s));
  }
  Fusion x(a), y(b);
  x.fuse("one", deltas), y.fuse("one", deltas);
  CHECK(fingerprint(*a) == fingerprint(*b));
  CHECK(fingerprint(*a) != before);
  x.unfuse("one");
  CHECK(fingerprint(*a) == before);
}

namespace {

/// What a run is told before it begins is what it holds, but for what the backend takes
/// for itself and only knows a bound of.
void check_plan(const NamedMethod& m, DType dtype, Quantization kind) {
  ModelConfig config = tiny_config();
  config.hidden_size = 64, config.intermediate_size = 176, config.vocab_size = 500;
  const Checkpoint checkpoint(config);
  const std::vector<int> lengths = {100, 60, 96};
  const auto backend = make_test_backend();
  const size_t own = backend->device_memory().held;
  const auto model = checkpoint.load(backend, kind, dtype);
  const TinyData data = tiny_data(lengths, config.vocab_size);
  Tuner tuner(model, m.method, {}, Recompute::selective);
  tuner.calibrate({data.samples()});
  int64_t trained = 0;
  for (const auto& labels : data.labels)
    for (int32_t label : labels) trained += label != -100;
  const MemoryPlan plan = tuner.plan(256, trained, int64_t(lengths.size()));
  backend->reset_peak_memory();
  for (int i = 0; i < 5; ++i) tuner.step({data.samples()}, 1e-3);
  const size_t peak = backend->device_memory().peak;
  const size_t exact = plan.weights + plan.trainable + plan.optimizer + plan.activations;
  CHECK(peak <= exact + plan.workspace);
  CHECK(double(peak - own) >= 0.95 * double(exact));
#ifdef S2FT_CUDA_EMULATION
  // No library's workspace lies beside it.
  CHECK(double(peak - own) <= 1.05 * double(exact));
#endif
}

}  // namespace

TEST(memory_plans_are_what_training_holds) {
  for (const NamedMethod& m : every_method()) {
    check_plan(m, DType::f32, Quantization::none);
    check_plan(m, DType::bf16, Quantization::none);
  }
  for (const NamedMethod& m : {NamedMethod{"s2ft", s2ft_method()},
                               {"lora", lora_method()},
                               {"dora", dora_method()}})
    check_plan(m, DType::bf16, Quantization::int8);
}

TEST(memory_that_is_held_is_counted) {
  const Checkpoint checkpoint;
  const auto backend = gpu();
  const DeviceMemory before = backend->device_memory();
  CHECK(before.total > 0);
  {
    const auto model = checkpoint.load(backend);
    backend->reset_peak_memory();
    const Buffer more = backend->allocate(1 << 20);
    const DeviceMemory now = backend->device_memory();
    CHECK(now.held >= before.held + model->bytes() + (1 << 20));
    CHECK(now.peak == now.held);
  }
  CHECK(backend->device_memory().held == before.held);
}
