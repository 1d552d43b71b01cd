// Training, scoring and fusing over quantized models, against plain models that hold the
// same numbers.
#include <cstdio>

#include "adapter/fusion.h"
#include "model/load.h"
#include "test/tuner_fixture.h"

using namespace s2ft;
using namespace s2ft::test;

namespace {

/// Rows of one, two and three blocks, all with an odd end.
ModelConfig blocks_config() {
  ModelConfig c = tiny_config();
  c.hidden_size = 70;
  c.intermediate_size = 131;
  return c;
}

std::shared_ptr<Backend> two_threads() {
  CpuOptions options;
  options.threads = 2;
  return make_cpu_backend(options);
}

/// A checkpoint on disk and what is loaded from it.
struct Checkpoint {
  std::string path = temporary("quantized.safetensors");
  ModelConfig config;

  explicit Checkpoint(ModelConfig c = blocks_config()) : config(std::move(c)) {
    const auto model = tiny_model(config, DType::f32);
    std::vector<std::pair<std::string, std::string>> names;
    for (const TensorPlace& t : model->tensors) names.emplace_back(t.name, "F32");
    save_tensors(*model, path, names, {});
  }
  ~Checkpoint() { std::remove(path.c_str()); }

  std::shared_ptr<Model> load(Quantization kind, DType dtype = DType::f32) const {
    return load_model(config, {path}, dtype, two_threads(), kind);
  }
  /// A plain model with the weights that `quantized` multiplies by, patches included.
  std::shared_ptr<Model> plain(Model& quantized) const {
    const auto model = load(Quantization::none, quantized.dtype);
    for (size_t i = 0; i < model->layers.size(); ++i) {
      for (int k = 0; k < kModules; ++k) {
        const Linear& from = *quantized.layers[i].linears[k];
        model->backend->dequantize(model->layers[i].linears[k]->weight,
                                   {&from.quantized, 1});
      }
    }
    return model;
  }
};

const Quantization kKinds[] = {Quantization::int8, Quantization::nf4};

std::vector<float> logits(Model& model) {
  const std::vector<int32_t> tokens = {3, 1, 4, 1, 5, 9, 2, 6};
  return all_logits(model, tokens.data(), int32_t(tokens.size()), nullptr);
}

/// Codes and scales of every quantized weight.
std::vector<uint8_t> quantized_bytes(const Model& model) {
  std::vector<uint8_t> out;
  const auto append = [&](const void* from, size_t bytes) {
    if (!from) return;
    const uint8_t* p = static_cast<const uint8_t*>(from);
    out.insert(out.end(), p, p + bytes);
  };
  for (const Layer& layer : model.layers) {
    for (const Linear* linear : layer.linears) {
      const QuantizedMat& w = linear->quantized;
      append(w.codes, size_t(w.blocks() * w.block_bytes()));
      append(w.scales, size_t(w.blocks()) * sizeof(float));
      append(w.scale_codes, size_t(w.blocks()));
      append(w.group_scales, size_t(w.groups()) * sizeof(float));
    }
  }
  return out;
}

double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
    size += double(b[i]) * b[i];
  }
  CHECK(a.size() == b.size() && size > 0);
  return std::sqrt(difference / size);
}

AdapterDeltas slices_of(Tuner& tuner) {
  AdapterDeltas deltas;
  for (const Parameter* p : tuner.parameters())
    deltas.slices.push_back({p->module, p->kind == "rows", p->index, tuner.values(*p)});
  return deltas;
}

AdapterDeltas factors_of(Tuner& tuner, const MethodSpec& method) {
  AdapterDeltas deltas;
  for (const LoraModule& module : method.lora) {
    LoraDelta l;
    l.module = module.name;
    l.r = module.options.r;
    l.scale = module.options.scale;
    for (const Parameter* p : tuner.parameters()) {
      if (p->module != module.name) continue;
      if (p->kind == "lora_A") l.a = tuner.values(*p);
      if (p->kind == "lora_B") l.b = tuner.values(*p);
      if (p->kind == "lora_magnitude_vector") l.magnitudes = tuner.values(*p);
    }
    deltas.loras.push_back(l);
  }
  return deltas;
}

}  // namespace

TEST(a_quantized_model_computes_with_its_dequantized_weights) {
  const Checkpoint checkpoint;
  for (Quantization kind : kKinds) {
    for (DType dtype : {DType::f32, DType::bf16}) {
      const auto model = checkpoint.load(kind, dtype);
      const auto plain = checkpoint.plain(*model);
      CHECK(logits(*model) == logits(*plain));
      const auto original = checkpoint.load(Quantization::none, dtype);
      const double error = relative_error(logits(*model), logits(*original));
      CHECK(error > 0 && error < (kind == Quantization::nf4 ? 0.3 : 0.03));
      CHECK(fingerprint(*model) == fingerprint(*original));
      CHECK(model->parameter_count() == original->parameter_count());
    }
  }
}

// At the size that the differences' step and tolerance were chosen for.
TEST(gradients_over_quantized_weights_by_finite_differences) {
  const Checkpoint checkpoint(tiny_config());
  for (Quantization kind : kKinds) {
    check_gradients(checkpoint.load(kind), s2ft_method(), Recompute::selective);
    check_gradients(checkpoint.load(kind), lora_method(), Recompute::none);
    check_gradients(checkpoint.load(kind), dora_method(), Recompute::selective);
  }
}

// Every gradient against the plain model with the same numbers, for every policy.
TEST(gradients_over_quantized_weights_are_those_of_the_same_plain_weights) {
  const Checkpoint checkpoint;
  for (Quantization kind : kKinds) {
    for (Recompute recompute :
         {Recompute::none, Recompute::selective, Recompute::block}) {
      for (const MethodSpec& method :
           {s2ft_method(), lora_method(), dora_method(), loreft_method()}) {
        const auto model = checkpoint.load(kind);
        const TinyData data = tiny_data({9, 1, 14, 2}, model->config.vocab_size);
        Tuner tuner(model, method, OptimizerSpec(), recompute);
        const auto plain = checkpoint.plain(*model);  // slices in full precision
        Tuner reference(plain, method, OptimizerSpec(), recompute);
        if (!method.lora.empty()) move_values(tuner, 0.3), move_values(reference, 0.3);
        const double loss = tuner.gradients(data.samples());
        CHECK_NEAR(loss, reference.gradients(data.samples()), 1e-6);
        CHECK(tuner.parameters().size() == reference.parameters().size());
        for (size_t i = 0; i < tuner.parameters().size(); ++i) {
          const Parameter &p = *tuner.parameters()[i], &q = *reference.parameters()[i];
          CHECK(p.name == q.name && p.kind == q.kind);
          const std::vector<float> got = tuner.gradient(p), want = reference.gradient(q);
          double largest = 0;
          for (float x : want) largest = std::max(largest, std::fabs(double(x)));
          CHECK(p.index == q.index);
          for (size_t e = 0; e < got.size(); ++e)
            CHECK_NEAR(got[e], want[e], 1e-5 * largest);
        }
      }
    }
  }
}

// Whatever ranks units sees the weights that products see; what is chosen by data changes
// the slices after they were hooked in.
TEST(units_are_chosen_as_in_the_same_plain_model) {
  using Strategy = UnitChoice::Strategy;
  const Checkpoint checkpoint;
  for (Strategy strategy : {Strategy::weight, Strategy::activation,
                            Strategy::weight_activation, Strategy::gradient}) {
    MethodSpec method;
    method.choice.strategy = strategy;
    method.choice.counts.assign(3, {2, 1, 1, 2, 5, 5, 9});
    const auto model = checkpoint.load(Quantization::nf4);
    const auto plain = checkpoint.plain(*model);
    const std::vector<float> before = logits(*model);
    const TinyData data = tiny_data({9, 14}, model->config.vocab_size);
    {
      Tuner tuner(model, method, OptimizerSpec(), Recompute::selective);
      Tuner reference(plain, method, OptimizerSpec(), Recompute::selective);
      tuner.calibrate({data.samples()});
      reference.calibrate({data.samples()});
      CHECK(tuner.parameters().size() == reference.parameters().size());
      for (size_t i = 0; i < tuner.parameters().size(); ++i)
        CHECK(tuner.parameters()[i]->index == reference.parameters()[i]->index);
      const double first = tuner.step({data.samples()}, 1e-2).loss;
      CHECK(tuner.step({data.samples()}, 1e-2).loss < first);
    }
    CHECK(logits(*model) == before);
  }
}

TEST(training_slices_leaves_everything_quantized_untouched) {
  const Checkpoint checkpoint;
  for (Quantization kind : kKinds) {
    for (DType dtype : {DType::f32, DType::bf16}) {
      const auto model = checkpoint.load(kind, dtype);
      const std::vector<uint8_t> bytes = quantized_bytes(*model);
      const std::vector<float> before = logits(*model);
      AdapterDeltas adapter;
      std::vector<float> trained;
      {
        Tuner tuner(model, s2ft_method(), OptimizerSpec(), Recompute::selective);
        const TinyData data = tiny_data({9, 14}, model->config.vocab_size);
        double first = 0, last = 0;
        for (int i = 0; i < 20; ++i) {
          last = tuner.step({data.samples()}, 1e-2).loss;
          if (i == 0) first = last;
        }
        CHECK(last < first - 0.05);
        adapter = slices_of(tuner);
        trained = logits(*model);
        tuner.detach();
        CHECK(logits(*model) == before);
        tuner.attach();
        CHECK(logits(*model) == trained);
        CHECK(slices_of(tuner).slices[0].delta == adapter.slices[0].delta);
      }
      CHECK(logits(*model) == before);
      Fusion fusion(model);
      fusion.fuse("a", adapter);
      // The deltas are rounded once more in f32; with bf16 weights the sums round back.
      CHECK(relative_error(logits(*model), trained) <
            (dtype == DType::f32 ? 1e-5 : 1e-9));
      CHECK(quantized_bytes(*model) == bytes);
      fusion.unfuse("a");
      CHECK(logits(*model) == before);
      CHECK(quantized_bytes(*model) == bytes);
    }
  }
}

TEST(fusing_several_adapters_beside_quantized_weights) {
  const Checkpoint checkpoint;
  const auto model = checkpoint.load(Quantization::nf4);
  const std::vector<float> before = logits(*model);
  AdapterDeltas a, b;
  const int64_t d = model->config.hidden_size;
  a.slices = {{"model.layers.1.mlp.up_proj",
               true,
               {7, 2},
               std::vector<float>(size_t(2 * d), 0.5f)}};
  b.slices = {{"model.layers.1.mlp.up_proj",
               true,
               {2, 90},
               std::vector<float>(size_t(2 * d), -0.25f)}};
  const auto plain = checkpoint.plain(*model);
  const auto original = checkpoint.load(Quantization::none);
  const auto row = [&](Model& m, int64_t i) {
    const Mat w = m.layers[1].up.weight;
    return w.as<float>() + i * w.ld;
  };
  const double change[3] = {0.5, 0.25, -0.25};
  const int64_t rows[3] = {7, 2, 90};
  for (int k = 0; k < 3; ++k)
    for (int64_t j = 0; j < d; ++j)
      row(*plain, rows[k])[j] = float(row(*original, rows[k])[j] + change[k]);
  Fusion fusion(model);
  fusion.fuse("a", a);
  fusion.fuse("b", b);
  CHECK(relative_error(logits(*model), logits(*plain)) < 1e-5);
  fusion.unfuse("a");
  const std::vector<float> only_b = logits(*model);
  fusion.unfuse("b");
  CHECK(logits(*model) == before);
  fusion.fuse("b", b);
  CHECK(logits(*model) == only_b);
}

TEST(low_rank_adapters_lie_beside_quantized_weights) {
  const Checkpoint checkpoint;
  for (const MethodSpec& method : {lora_method(), dora_method()}) {
    const auto model = checkpoint.load(Quantization::nf4);
    const std::vector<uint8_t> bytes = quantized_bytes(*model);
    const std::vector<float> before = logits(*model);
    std::vector<float> trained;
    AdapterDeltas adapter;
    {
      Tuner tuner(model, method, OptimizerSpec(), Recompute::selective);
      move_values(tuner, 0.3);
      trained = logits(*model);
      adapter = factors_of(tuner, method);
    }
    Fusion fusion(model);
    fusion.fuse("a", adapter);
    CHECK(relative_error(logits(*model), trained) < 1e-5);
    CHECK(relative_error(trained, before) > 1e-2);
    // Two of them: as the plain model that has both added.
    const auto plain = checkpoint.load(Quantization::none);
    for (size_t i = 0; i < model->layers.size(); ++i)
      for (int k = 0; k < kModules; ++k)
        plain->backend->dequantize(plain->layers[i].linears[k]->weight,
                                   {&model->layers[i].linears[k]->quantized, 1});
    Fusion reference(plain);
    reference.fuse("a", adapter);
    reference.fuse("b", adapter);
    fusion.fuse("b", adapter);
    CHECK(relative_error(logits(*model), logits(*plain)) < 1e-5);
    fusion.unfuse("a");
    CHECK(relative_error(logits(*model), trained) < 1e-5);
    fusion.unfuse("b");
    CHECK(logits(*model) == before);
    CHECK(quantized_bytes(*model) == bytes);
  }
}

TEST(what_quantized_models_refuse) {
  const Checkpoint checkpoint;
  const auto model = checkpoint.load(Quantization::int8);
  const std::vector<float> before = logits(*model);
  for (const MethodSpec& method :
       {full_method(), sparse_method(), lisa_method(), galore_method()}) {
    CHECK_THROWS_CODE(Tuner(model, method, OptimizerSpec(), Recompute::none),
                      "UNSUPPORTED");
  }
  CHECK_THROWS_CODE(save_tensors(*model, temporary("none"),
                                 {{"model.layers.0.mlp.up_proj.weight", "F32"}}, {}),
                    "UNSUPPORTED");
  Fusion fusion(model);
  AdapterDeltas elements, across;
  elements.elements = {{"model.layers.0.mlp.up_proj", {3}, {1.0f}}};
  across.slices = {
      {"model.layers.0.mlp.up_proj", false, {0}, std::vector<float>(131, 1.0f)}};
  CHECK_THROWS_CODE(fusion.fuse("a", elements), "UNSUPPORTED");
  CHECK_THROWS_CODE(fusion.fuse("a", across), "UNSUPPORTED");
  CHECK(fusion.empty());
  CHECK(logits(*model) == before);
}

TEST(weights_that_are_not_finite_are_not_quantized) {
  const std::string path = temporary("nan.safetensors");
  const auto source = tiny_model(tiny_config(), DType::f32);
  source->layers[1].down.weight.as<float>()[5] = std::nanf("");
  std::vector<std::pair<std::string, std::string>> names;
  for (const TensorPlace& t : source->tensors) names.emplace_back(t.name, "F32");
  save_tensors(*source, path, names, {});
  for (Quantization kind : kKinds)
    CHECK_THROWS_CODE(load_model(tiny_config(), {path}, DType::f32, two_threads(), kind),
                      "UNSUPPORTED_MODEL");
  std::remove(path.c_str());
}

TEST(a_quantized_run_resumes_where_it_was) {
  const Checkpoint checkpoint;
  const std::string state = temporary("quantized-state.safetensors");
  const TinyData data = tiny_data({9, 14}, checkpoint.config.vocab_size);
  const auto run = [&](Tuner& tuner, int steps) {
    double loss = 0;
    for (int i = 0; i < steps; ++i) loss = tuner.step({data.samples()}, 1e-2).loss;
    return loss;
  };
  Tuner whole(checkpoint.load(Quantization::nf4, DType::bf16), s2ft_method(),
              OptimizerSpec(), Recompute::selective);
  run(whole, 3);
  whole.save_state(state, {});
  const double expected = run(whole, 2);
  Tuner resumed(checkpoint.load(Quantization::nf4, DType::bf16), s2ft_method(),
                OptimizerSpec(), Recompute::selective);
  resumed.load_state(state);
  CHECK(run(resumed, 2) == expected);
  std::remove(state.c_str());
}
