// Steps as CUDA graphs: the same bits as without, whatever changes between them, and what
// the host asks of the device meanwhile. On the emulated device and on a real one.
#include <cstdlib>

#include "cuda/test/checkpoint.h"
#include "test/decoder_fixture.h"

#ifdef S2FT_CUDA_EMULATION
#include "cuda/emulation/device.h"
#endif

using namespace s2ft;
using namespace s2ft::test;

const std::vector<NamedBackend>& s2ft::test::backends_under_test() {
  return cuda_backends();
}

namespace {

std::shared_ptr<Backend> without_graphs() {
  static const auto backend = [] {
    setenv("S2FT_CUDA_GRAPHS", "off", 1);
    auto made = make_test_backend();
    unsetenv("S2FT_CUDA_GRAPHS");
    return made;
  }();
  return backend;
}

struct Calls {
  uint64_t kernels = 0, graphs = 0, waits = 0;
};

#ifdef S2FT_CUDA_EMULATION
constexpr bool kCounted = true;
Calls calls() {
  const auto& c = cuda::emulation::calls();
  return {c.kernels, c.graphs, c.waits};
}
#else
constexpr bool kCounted = false;
Calls calls() {
  return {};
}
#endif

Calls operator-(const Calls& a, const Calls& b) {
  return {a.kernels - b.kernels, a.graphs - b.graphs, a.waits - b.waits};
}

/// One run with graphs and one without, which have to stay the same to the bit.
class Twins {
 public:
  Twins(const Checkpoint& checkpoint, const MethodSpec& method, DType dtype = DType::f32,
        Quantization kind = Quantization::none)
      : checked_(checkpoint.load(make_test_backend(), kind, dtype)),
        plain_(checkpoint.load(without_graphs(), kind, dtype)) {
    OptimizerSpec optimizer;
    optimizer.weight_decay = 0.01;
    optimizer.max_grad_norm = 0.5;
    a_ = std::make_unique<Tuner>(checked_, method, optimizer, Recompute::selective);
    b_ = std::make_unique<Tuner>(plain_, method, optimizer, Recompute::selective);
  }

  template <class F>
  void both(F&& f) {
    f(*a_, *checked_);
    f(*b_, *plain_);
  }

  /// A step over micro-batches of these lengths; what it asked of the device with graphs.
  Calls step(const std::vector<std::vector<int32_t>>& lengths) {
    std::vector<TinyData> data;
    for (const auto& l : lengths)
      data.push_back(tiny_data(l, checked_->config.vocab_size, ++seed_));
    std::vector<std::vector<Sample>> samples;
    for (const TinyData& d : data) samples.push_back(d.samples());
    const Calls before = calls();
    const StepResult x = a_->step(samples, 1e-2);
    const Calls asked = calls() - before;
    const StepResult y = b_->step(samples, 1e-2);
    CHECK(x.loss == y.loss && x.grad_norm == y.grad_norm && x.tokens == y.tokens);
    return asked;
  }

  /// Losses tell of a difference one step later; this tells of it now.
  ~Twins() {
    try {
      for (size_t i = 0; i < a_->parameters().size(); ++i) {
        const Parameter &p = *a_->parameters()[i], &q = *b_->parameters()[i];
        CHECK(a_->gradient(p) == b_->gradient(q));
        CHECK(a_->values(p) == b_->values(q));
      }
    } catch (const std::exception& e) {
      fail(__FILE__, __LINE__, std::string("comparing threw ") + e.what());
    }
  }

 private:
  std::shared_ptr<Model> checked_, plain_;
  std::unique_ptr<Tuner> a_, b_;
  uint64_t seed_ = 0;
};

}  // namespace

TEST(repeated_steps_of_every_method_keep_every_bit) {
  const Checkpoint checkpoint;
  struct Case {
    const char* name;
    MethodSpec method;
    bool moves;  // its update is a graph, too
  };
  for (const Case& c : {Case{"s2ft", s2ft_method(), true},
                        {"lora", lora_method(0.2f), true},
                        {"dora", dora_method(0.2f), false},
                        {"sparse", sparse_method(), true},
                        {"full", full_method(), true},
                        {"loreft", loreft_method(false, 0.2f), false},
                        {"lisa", lisa_method(1, 100), true},
                        {"galore", galore_method(4, 100), false}}) {
    Twins twins(checkpoint, c.method);
    Calls last;
    for (int i = 0; i < 7; ++i) last = twins.step({{9, 2}, {9, 2}});
    if (!kCounted) continue;
    // Gradients to zero, two micro-batches, the update.
    const uint64_t graphs = c.moves ? 4 : 3;
    if (last.graphs != graphs)
      fail(__FILE__, __LINE__,
           std::string(c.name) + ": " + std::to_string(last.graphs) + " graphs");
  }
}

TEST(a_repeated_step_starts_graphs_and_waits_once) {
  const Checkpoint checkpoint;
  for (DType dtype : {DType::f32, DType::bf16}) {
    Twins twins(checkpoint, s2ft_method(), dtype);
    for (int i = 0; i < 5; ++i) {
      const Calls asked = twins.step({{9, 1, 14, 2}});
      if (!kCounted) continue;
      // For the copy of its numbers into memory that is not pinned, and for the stream.
      CHECK(asked.waits == 2);
      // Seen, written down, captured, launched: what a graph does not hold is the copy of
      // the losses.
      if (i < 2) CHECK(asked.graphs == 0 && asked.kernels > 50);
      if (i == 2) CHECK(asked.graphs == 3 && asked.kernels > 50);
      if (i > 2) CHECK(asked.graphs == 3 && asked.kernels == 1);
    }
  }
}

TEST(quantized_bases_repeat) {
  const Checkpoint checkpoint;
  for (Quantization kind : {Quantization::int8, Quantization::nf4}) {
    Twins twins(checkpoint, s2ft_method(), DType::f32, kind);
    Calls last;
    for (int i = 0; i < 5; ++i) last = twins.step({{9, 14}});
    if (kCounted) CHECK(last.graphs == 3);
  }
}

TEST(shapes_that_come_and_go_keep_every_bit) {
  const Checkpoint checkpoint;
  Twins twins(checkpoint, s2ft_method());
  const std::vector<std::vector<int32_t>> shapes = {{9, 1}, {3}, {5, 5}, {9, 1}};
  for (int round = 0; round < 4; ++round)
    for (size_t i = 0; i < shapes.size(); ++i)
      twins.step({shapes[i], shapes[(i + 1) % shapes.size()]});
  // A batch that needs a larger arena, so that nothing lies where graphs have it.
  twins.step({{90, 40}});
  for (int i = 0; i < 5; ++i) twins.step({{9, 1}});
  // Staged arrays that need more than there was at first.
  for (int i = 0; i < 6; ++i) twins.step({std::vector<int32_t>(70, 8)});
  Calls last;
  for (int i = 0; i < 5; ++i) last = twins.step({{9, 1}});
  if (kCounted) CHECK(last.graphs == 3);
}

TEST(what_changes_between_steps_is_not_lost_on_graphs) {
  const Checkpoint checkpoint;
  const std::string path = temporary("cuda-repeats.safetensors");
  Twins twins(checkpoint, s2ft_method());
  const auto some_steps = [&] {
    for (int i = 0; i < 4; ++i) twins.step({{9, 1, 14}});
  };
  some_steps();
  twins.both([&](Tuner& tuner, Model&) { tuner.detach(); });
  twins.both([&](Tuner& tuner, Model&) { tuner.attach(); });
  some_steps();
  twins.both([&](Tuner& tuner, Model&) {
    tuner.save_state(path, {});
    move_values(tuner, 0.1);
  });
  some_steps();
  twins.both([&](Tuner& tuner, Model&) { tuner.load_state(path); });
  some_steps();
  std::remove(path.c_str());
}

TEST(runs_over_one_model_each_have_their_graphs) {
  const Checkpoint checkpoint;
  const auto model = checkpoint.load(make_test_backend());
  const TinyData data = tiny_data({9, 14}, tiny_config().vocab_size);
  for (int run = 0; run < 8; ++run) {
    Tuner tuner(model, run % 2 ? lora_method() : s2ft_method(), {}, Recompute::selective);
    Calls before;
    for (int i = 0; i < 5; ++i) {
      before = calls();
      tuner.step({data.samples()}, 1e-2);
    }
    if (kCounted) CHECK((calls() - before).graphs == 3);
  }
}

TEST(layers_that_take_turns_repeat) {
  const Checkpoint checkpoint;
  Twins twins(checkpoint, lisa_method(1, 5));
  for (int i = 0; i < 16; ++i) twins.step({{9, 1, 14}});
}

TEST(steps_that_end_early_leave_no_trace) {
  const Checkpoint checkpoint;
  Twins twins(checkpoint, s2ft_method());
  const TinyData data = tiny_data({9, 1, 14}, tiny_config().vocab_size);
  std::atomic<bool> stop{true};
  for (int i = 0; i < 6; ++i) {
    twins.both([&](Tuner& tuner, Model&) {
      CHECK_THROWS_CODE(tuner.step({data.samples()}, 1e-2, &stop), "CANCELLED");
    });
    twins.step({{9, 1, 14}});
  }
}

TEST(a_step_that_is_not_finite_moves_nothing) {
  const Checkpoint checkpoint;
  for (const MethodSpec& method :
       {s2ft_method(), dora_method(), galore_method(), loreft_method(false)}) {
    Twins twins(checkpoint, method);
    for (int i = 0; i < 4; ++i) twins.step({{9, 1, 14}});
    const TinyData data = tiny_data({9, 1, 14}, tiny_config().vocab_size);
    twins.both([&](Tuner& tuner, Model& model) {
      const Mat row = model.final_norm.value;
      std::vector<float> kept(size_t(row.cols)), bad(size_t(row.cols), NAN);
      model.backend->download(kept.data(), row.data, kept.size() * sizeof(float));
      std::vector<std::vector<float>> before;
      const auto values = [&] {
        std::vector<std::vector<float>> all;
        for (const Parameter* p : tuner.parameters())
          if (p->weight.data != row.data) all.push_back(tuner.values(*p));
        return all;
      };
      before = values();
      model.backend->upload(row.data, bad.data(), bad.size() * sizeof(float));
      CHECK_THROWS_CODE(tuner.step({data.samples()}, 1e-2), "NOT_FINITE");
      model.backend->upload(row.data, kept.data(), kept.size() * sizeof(float));
      CHECK(values() == before);
    });
    for (int i = 0; i < 3; ++i) twins.step({{9, 1, 14}});
  }
}

namespace {

/// Sequences with adapters and without, with and without graphs; how many graphs ran.
uint64_t check_decoding(DType dtype, const std::vector<int>& prompts, int count,
                        bool adapters) {
  const Checkpoint checkpoint;
  std::vector<std::vector<std::vector<Decoded>>> found;
  uint64_t graphs = 0;
  for (const auto& backend : {make_test_backend(), without_graphs()}) {
    const auto model = checkpoint.load(backend, Quantization::none, dtype);
    Runner runner(model, 160);
    const auto deltas = some_adapters(*model);
    for (size_t i = 0; i < deltas.size(); ++i)
      runner.decoder.add_adapter(int64_t(i), deltas[i]);
    std::vector<Script> scripts;
    for (const auto& tokens : tiny_data(prompts, model->config.vocab_size).tokens)
      scripts.push_back({tokens, adapters ? int64_t(scripts.size()) % 4 : -1});
    const uint64_t before = calls().graphs;
    found.push_back(runner.run(scripts, count));
    graphs += calls().graphs - before;
  }
  CHECK(found[0] == found[1]);
  return graphs;
}

}  // namespace

TEST(decoding_repeats) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    for (bool adapters : {false, true}) {
      const uint64_t graphs = check_decoding(dtype, {5, 21, 1, 17}, 30, adapters);
      // All but the prompts, the first steps and one for which the rotations' table grew.
      if (kCounted) CHECK(graphs == 25);
    }
  }
}

TEST(long_sequences_repeat_while_their_keys_are_split) {
  // Keys are split from 513 on, and into four parts from 1,025 on.
  const uint64_t graphs = check_decoding(DType::bf16, {505, 1015}, 40, false);
  if (kCounted) CHECK(graphs >= 20);
}
