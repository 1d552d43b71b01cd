// The whole step: gradients of every kind of trainable part against finite differences of
// the loss, and what a tuner does to a model and leaves behind.
#include "tune/tuner.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <set>

#include "adapter/fusion.h"
#include "model/inference.h"
#include "test/check.h"
#include "test/tiny_model.h"
#include "tune/singular.h"

using namespace s2ft;
using namespace s2ft::test;

namespace {

LayerSelection select(std::vector<int32_t> q, std::vector<int32_t> k,
                      std::vector<int32_t> v, std::vector<int32_t> o,
                      std::vector<int32_t> gate, std::vector<int32_t> up,
                      std::vector<int32_t> down) {
  return {q, k, v, o, gate, up, down};
}

MethodSpec s2ft_method() {
  MethodSpec m;
  // q and o overlap in part; gate, up and down differ; layer 1 trains attention only.
  m.selection = {select({4, 1}, {2}, {0, 2}, {1, 5}, {3, 7}, {7, 3, 11}, {11, 20}),
                 select({0}, {}, {1}, {3}, {}, {}, {}),
                 select({}, {}, {}, {}, {22}, {22, 0}, {0, 1, 2})};
  return m;
}

MethodSpec full_method() {
  MethodSpec m;
  m.kind = MethodSpec::Kind::full;
  return m;
}

/// LoRA or DoRA on layers 0 and 2, o and down with a rank and a scale of their own.
MethodSpec lora_method(float dropout = 0,
                       MethodSpec::Kind kind = MethodSpec::Kind::lora) {
  MethodSpec m;
  m.kind = kind;
  for (const char* name :
       {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
    LoraOptions options;
    const bool residual = std::strcmp(name, "self_attn.o_proj") == 0 ||
                          std::strcmp(name, "mlp.down_proj") == 0;
    options.r = residual ? 2 : 3;
    options.scale = residual ? 0.8f : 1.7f;
    options.dropout = dropout;
    for (int i : {0, 2})
      m.lora.push_back({"model.layers." + std::to_string(i) + "." + name, options});
  }
  return m;
}

MethodSpec dora_method(float dropout = 0) {
  return lora_method(dropout, MethodSpec::Kind::dora);
}

/// LoRA's B starts at zero, where A has no gradient: moves all values away from it.
void move_values(Tuner& tuner, double by) {
  std::vector<std::vector<float>> values;
  Rng rng(5);
  for (const Parameter* p : tuner.parameters()) {
    values.push_back(tuner.values(*p));
    for (float& x : values.back()) x += float(by * rng.normal());
  }
  tuner.set_values(values);
}

MethodSpec sparse_method(
    SparseOptions::Selection selection = SparseOptions::Selection::random,
    double share = 0.1) {
  MethodSpec m;
  m.kind = MethodSpec::Kind::sparse;
  m.sparse.selection = selection;
  m.sparse.share = share;
  for (const LoraModule& module : lora_method().lora) m.modules.push_back(module.name);
  return m;
}

MethodSpec lisa_method(int layers = 1, int64_t interval = 2) {
  MethodSpec m;
  m.kind = MethodSpec::Kind::lisa;
  m.lisa = {layers, interval, 4};
  return m;
}

MethodSpec galore_method(int64_t r = 4, int64_t interval = 2) {
  MethodSpec m;
  m.kind = MethodSpec::Kind::galore;
  m.galore.r = r;
  m.galore.interval = interval;
  m.galore.scale = 1;
  return m;
}

double mean_loss(Model& model, const TinyData& data) {
  double sum = 0;
  int64_t n = 0;
  const auto scores = score(model, data.samples());
  for (size_t s = 0; s < scores.size(); ++s) {
    for (size_t i = 0; i < scores[s].size(); ++i) {
      if (data.labels[s][i + 1] == -100) continue;
      sum -= scores[s][i];
      ++n;
    }
  }
  return sum / double(n);
}

void nudge(Mat w, int64_t i, int64_t j, float by) {
  w.as<float>()[i * w.ld + j] += by;
}

/// Central differences at a few entries of every parameter. f32 forward passes carry
/// about 1e-6 of the loss, so a step of 1e-2 leaves 1e-4, and the curvature about as
/// much.
void check_gradients(ModelConfig config, const MethodSpec& method, Recompute recompute) {
  auto model = tiny_model(config, DType::f32);
  const TinyData data = tiny_data({9, 1, 14, 2}, config.vocab_size);
  Tuner tuner(model, method, OptimizerSpec(), recompute);
  if (!method.lora.empty()) move_values(tuner, 0.3);
  const double loss = tuner.gradients(data.samples());
  CHECK_NEAR(loss, mean_loss(*model, data), 1e-5);
  Rng rng(11);
  for (const Parameter* p : tuner.parameters()) {
    const std::vector<float> gradient = tuner.gradient(*p);
    const Mat w = p->weight;
    double largest = 0;
    for (float g : gradient) largest = std::max(largest, double(std::fabs(g)));
    CHECK(largest > 0);
    for (int trial = 0; trial < 3; ++trial) {
      const int64_t i = int64_t(rng.below(uint64_t(w.rows)));
      const int64_t j = int64_t(rng.below(uint64_t(w.cols)));
      const float h = 1e-2f;
      nudge(w, i, j, h);
      const double up = mean_loss(*model, data);
      nudge(w, i, j, -2 * h);
      const double down = mean_loss(*model, data);
      nudge(w, i, j, h);
      const double expected = (up - down) / (2 * h);
      CHECK_NEAR(gradient[size_t(i * w.cols + j)], expected,
                 4e-4 + 2e-2 * std::fabs(expected));
    }
  }
}

std::string temporary(const char* name) {
  return "/tmp/s2ft-" + std::to_string(getpid()) + "-" + name;
}

}  // namespace

TEST(s2ft_gradients_match_differences) {
  check_gradients(tiny_config(), s2ft_method(), Recompute::selective);
}

TEST(s2ft_gradients_match_with_biases_norms_and_window) {
  ModelConfig c = tiny_config();
  c.qkv_bias = c.o_bias = c.mlp_bias = c.qk_norm = c.tie_word_embeddings = true;
  c.sliding_window = {0, 4, 0};
  check_gradients(c, s2ft_method(), Recompute::selective);
}

TEST(full_gradients_match_differences) {
  ModelConfig c = tiny_config();
  check_gradients(c, full_method(), Recompute::selective);
  c.qkv_bias = c.o_bias = c.mlp_bias = c.qk_norm = c.tie_word_embeddings = true;
  check_gradients(c, full_method(), Recompute::block);
}

TEST(lora_gradients_match_differences) {
  check_gradients(tiny_config(), lora_method(), Recompute::selective);
}

TEST(lisa_gradients_match_differences) {
  ModelConfig c = tiny_config();
  check_gradients(c, lisa_method(2), Recompute::selective);
  c.qkv_bias = c.o_bias = c.mlp_bias = c.qk_norm = c.tie_word_embeddings = true;
  check_gradients(c, lisa_method(1), Recompute::block);
}

TEST(lisa_trains_its_layers_and_no_other) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    auto model = tiny_model(tiny_config(), dtype);
    const TinyData data = tiny_data({8, 9}, 37);
    const MethodSpec method = lisa_method();
    Tuner tuner(model, method, OptimizerSpec(), Recompute::selective);
    std::set<int> seen;
    size_t count = 0;
    for (int step = 0; step < 12; ++step) {
      const std::vector<char> before = weight_bytes(*model);
      tuner.step({data.samples()}, 1e-2);
      const std::vector<char> after = weight_bytes(*model);
      const std::vector<int> live = sample_layers(method.lisa, 3, step / 2);
      CHECK(live.size() == 1);
      seen.insert(live[0]);
      size_t at = 0;
      for (const TensorPlace& t : model->tensors) {
        const size_t bytes = size_t(t.value.count()) * dtype_size(t.value.dtype);
        const bool same = std::memcmp(&before[at], &after[at], bytes) == 0;
        const bool layer = t.name.find("model.layers.") == 0;
        const bool lives = !layer || t.name[13] - '0' == live[0];
        CHECK(same == !lives);
        at += bytes;
      }
      if (count) CHECK(tuner.parameters().size() == count);
      count = tuner.parameters().size();
    }
    CHECK(seen.size() > 1);
    // The tuned weights stay.
    const std::vector<char> tuned = weight_bytes(*model);
    tuner.detach();
    CHECK(weight_bytes(*model) == tuned);
  }
}

// A period's first step is the first step of Adam: each value moves by the rate, as far
// as its gradient is well above epsilon.
TEST(lisa_begins_each_period_with_fresh_moments) {
  auto model = tiny_model(tiny_config(), DType::f32);
  const TinyData data = tiny_data({8, 9}, 37);
  Tuner tuner(model, lisa_method(3, 2), OptimizerSpec(), Recompute::selective);
  for (int step = 0; step < 5; ++step) {
    const Mat w = model->layers[1].q.weight;
    std::vector<float> before(w.as<float>(), w.as<float>() + w.count());
    tuner.step({data.samples()}, 1e-3);
    int64_t full_moves = 0;
    for (int64_t i = 0; i < w.count(); ++i)
      full_moves +=
          std::fabs(std::fabs(w.as<float>()[i] - before[size_t(i)]) - 1e-3f) < 1e-5f;
    CHECK((full_moves > w.count() * 9 / 10) == (step % 2 == 0));
  }
}

TEST(lisa_samples_every_layer_equally_often) {
  std::vector<int> times(7, 0);
  const LisaOptions options = {3, 1, 11};
  for (int64_t period = 0; period < 7000; ++period)
    for (int layer : sample_layers(options, 7, period)) ++times[size_t(layer)];
  // 3000 expected, standard deviation 41.
  for (int t : times) CHECK(std::abs(t - 3000) < 250);
  CHECK(sample_layers(options, 7, 5) == sample_layers(options, 7, 5));
}

// The element's own place in the weight is nudged: the values are written there after a
// step only.
TEST(sparse_gradients_match_differences) {
  ModelConfig c = tiny_config();
  c.qk_norm = c.tie_word_embeddings = true;
  for (Recompute recompute : {Recompute::selective, Recompute::block}) {
    auto model = tiny_model(c, DType::f32);
    const TinyData data = tiny_data({9, 1, 14, 2}, c.vocab_size);
    Tuner tuner(model, sparse_method(), OptimizerSpec(), recompute);
    tuner.gradients(data.samples());
    for (const Parameter* p : tuner.parameters()) {
      const std::vector<float> gradient = tuner.gradient(*p);
      const Mat w = model->find_linear(p->module)->weight;
      CHECK(int64_t(gradient.size()) == std::llround(0.1 * double(w.count())));
      for (size_t i : {size_t(0), gradient.size() / 2, gradient.size() - 1}) {
        const float h = 1e-2f;
        nudge(w, 0, p->index[i], h);
        const double up = mean_loss(*model, data);
        nudge(w, 0, p->index[i], -2 * h);
        const double down = mean_loss(*model, data);
        nudge(w, 0, p->index[i], h);
        const double expected = (up - down) / (2 * h);
        CHECK_NEAR(gradient[i], expected, 4e-4 + 2e-2 * std::fabs(expected));
      }
    }
  }
}

TEST(sparse_training_touches_its_elements_only_and_detaches_exactly) {
  using Selection = SparseOptions::Selection;
  for (DType dtype : {DType::f32, DType::bf16}) {
    for (Selection selection :
         {Selection::random, Selection::weight, Selection::gradient, Selection::fisher}) {
      auto model = tiny_model(tiny_config(), dtype);
      const std::vector<char> base = weight_bytes(*model);
      const TinyData data = tiny_data({13, 6}, model->config.vocab_size);
      Tuner tuner(model, sparse_method(selection), OptimizerSpec(), Recompute::selective);
      const bool by_gradient = tuner.mask_pending();
      CHECK(by_gradient ==
            (selection == Selection::gradient || selection == Selection::fisher));
      if (by_gradient) {
        CHECK_THROWS_CODE(tuner.step({data.samples()}, 2e-2), "INVALID_ARGUMENT");
        const size_t before = tuner.plan(20, 20).trainable;
        tuner.calibrate({data.samples()});
        CHECK(tuner.plan(20, 20).trainable < before);
        CHECK(weight_bytes(*model) == base);
      }
      const double first = tuner.step({data.samples()}, 2e-2).loss;
      double last = first;
      for (int i = 0; i < 20; ++i) last = tuner.step({data.samples()}, 2e-2).loss;
      CHECK(last < first - 0.3);
      const std::vector<char> tuned = weight_bytes(*model);
      int64_t changed = 0, trained = 0;
      const size_t size = dtype_size(dtype);
      for (size_t i = 0; i < base.size(); i += size)
        changed += std::memcmp(&base[i], &tuned[i], size) != 0;
      for (const Parameter* p : tuner.parameters()) trained += p->weight.cols;
      CHECK(changed <= trained);
      CHECK(changed > trained * 9 / 10);
      AdapterDeltas adapter;
      for (const Parameter* p : tuner.parameters())
        adapter.elements.push_back({p->module, p->index, tuner.values(*p)});
      tuner.detach();
      CHECK(weight_bytes(*model) == base);
      tuner.attach();
      CHECK(weight_bytes(*model) == tuned);
      tuner.detach();
      // bf16 differences are exact in f32, f32 differences are rounded.
      Fusion fusion(model);
      fusion.fuse("sparse", adapter);
      if (dtype == DType::bf16) CHECK(weight_bytes(*model) == tuned);
      fusion.unfuse("sparse");
      CHECK(weight_bytes(*model) == base);
    }
  }
}

// Against full fine-tuning's gradients, and their squares a sample at a time.
TEST(sparse_masks_take_what_they_say) {
  using Selection = SparseOptions::Selection;
  auto model = tiny_model(tiny_config(), DType::f32);
  const TinyData data = tiny_data({9, 14, 5}, model->config.vocab_size);
  const std::vector<Sample> samples = data.samples();
  std::map<std::string, std::vector<float>> gradients, squares, weights;
  {
    Tuner full(tiny_model(tiny_config(), DType::f32), full_method(), OptimizerSpec(),
               Recompute::selective);
    full.gradients(samples);
    for (const Parameter* p : full.parameters()) {
      gradients[p->name] = full.gradient(*p);
      weights[p->name] = full.values(*p);
      squares[p->name].resize(gradients[p->name].size());
    }
    for (const Sample& s : samples) {
      full.gradients({s});
      const double tokens = double(pack({s}, model->config.vocab_size).targets.size());
      for (const Parameter* p : full.parameters()) {
        const std::vector<float> g = full.gradient(*p);
        for (size_t i = 0; i < g.size(); ++i)
          squares[p->name][i] += float(std::pow(g[i] * tokens, 2));
      }
    }
  }
  auto check = [&](Selection selection, std::map<std::string, std::vector<float>>& by) {
    Tuner tuner(model, sparse_method(selection, 0.05), OptimizerSpec(),
                Recompute::selective);
    tuner.calibrate({{samples[0], samples[1]}, {samples[2]}});
    for (const Parameter* p : tuner.parameters()) {
      const auto expected = largest_places(by[p->name], p->weight.cols);
      std::vector<int32_t> both;
      std::set_intersection(expected.begin(), expected.end(), p->index.begin(),
                            p->index.end(), std::back_inserter(both));
      // Other orders of the same sums may exchange elements at the threshold.
      CHECK(both.size() + 1 >= expected.size());
    }
  };
  check(Selection::weight, weights);
  check(Selection::gradient, gradients);
  check(Selection::fisher, squares);
}

TEST(places_are_chosen_evenly_and_by_size) {
  std::vector<int> times(20, 0);
  for (uint64_t seed = 0; seed < 4000; ++seed) {
    const auto places = random_places(20, 5, seed, 3);
    CHECK(places.size() == 5);
    for (size_t i = 0; i < 5; ++i) {
      CHECK(i == 0 || places[i] > places[i - 1]);
      ++times[size_t(places[i])];
    }
  }
  // 1000 expected, standard deviation 27.
  for (int t : times) CHECK(std::abs(t - 1000) < 170);
  CHECK(random_places(3, 3, 1, 1) == (std::vector<int32_t>{0, 1, 2}));
  CHECK(largest_places({1, -5, 2, 2, 0, 2}, 3) == (std::vector<int32_t>{1, 2, 3}));
  CHECK(largest_places({7}, 1) == (std::vector<int32_t>{0}));
}

TEST(masks_can_be_given) {
  auto model = tiny_model(tiny_config(), DType::f32);
  const std::vector<char> base = weight_bytes(*model);
  const TinyData data = tiny_data({9, 5}, model->config.vocab_size);
  Tuner tuner(model, sparse_method(SparseOptions::Selection::fisher), OptimizerSpec(),
              Recompute::selective);
  std::vector<std::vector<int32_t>> masks;
  for (const Parameter* p : tuner.parameters())
    masks.push_back(random_places(model->find_linear(p->module)->weight.count(),
                                  p->weight.cols, 77, 5));
  auto bad = masks;
  bad[2].pop_back();
  CHECK_THROWS_CODE(tuner.set_masks(bad), "SHAPE_MISMATCH");
  bad = masks;
  bad[0].back() = 1 << 20;
  CHECK_THROWS_CODE(tuner.set_masks(bad), "SHAPE_MISMATCH");
  tuner.set_masks(masks);
  CHECK(weight_bytes(*model) == base);
  tuner.step({data.samples()}, 1e-2);
  for (size_t i = 0; i < masks.size(); ++i)
    CHECK(tuner.parameters()[i]->index == masks[i]);
  tuner.detach();
  CHECK(weight_bytes(*model) == base);
}

TEST(singular_vectors_are_found_from_either_side) {
  auto model = tiny_model(tiny_config(), DType::f32);
  Backend& backend = *model->backend;
  // W = q, k, v: 66 x 20, and its halves; reference: |g^T u| = sigma and g g^T u ~ u.
  for (bool left : {false, true}) {
    const Mat g =
        left ? model->layers[0].q.weight.row_range(0, 17) : model->layers[0].qkv;
    const int64_t side = left ? g.rows : g.cols, r = 5;
    Buffer storage = backend.allocate(size_t(side * r) * sizeof(float));
    const Mat u = mat(storage.data(), DType::f32, side, r);
    singular_vectors(backend, u, g, left, Rng(3));
    auto at = [&](int64_t i, int64_t j) {
      return double(left ? g.as<float>()[i * g.ld + j] : g.as<float>()[j * g.ld + i]);
    };
    const int64_t other = left ? g.cols : g.rows;
    double above = HUGE_VAL;
    for (int64_t c = 0; c < r; ++c) {
      std::vector<double> image(static_cast<size_t>(other)),
          back(static_cast<size_t>(side));
      double squares = 0, length = 0;
      for (int64_t j = 0; j < other; ++j) {
        for (int64_t i = 0; i < side; ++i)
          image[size_t(j)] += at(i, j) * u.as<float>()[i * r + c];
        squares += image[size_t(j)] * image[size_t(j)];
      }
      for (int64_t i = 0; i < side; ++i) {
        for (int64_t j = 0; j < other; ++j)
          back[size_t(i)] += at(i, j) * image[size_t(j)];
        length += std::pow(u.as<float>()[i * r + c], 2);
      }
      CHECK_NEAR(length, 1, 1e-5);
      CHECK(squares <= above);
      above = squares;
      for (int64_t i = 0; i < side; ++i)
        CHECK_NEAR(back[size_t(i)] / squares, u.as<float>()[i * r + c], 2e-3);
    }
  }
}

// With P from the same batch's gradient G, P^T G has orthogonal rows whose squared
// lengths are G's first squared singular values, so together they are the best share of
// |G|^2.
TEST(galore_gradients_are_projections_of_the_whole) {
  auto model = tiny_model(tiny_config(), DType::f32);
  const TinyData data = tiny_data({9, 14, 5}, model->config.vocab_size);
  std::map<std::string, double> whole;
  {
    Tuner full(tiny_model(tiny_config(), DType::f32), full_method(), OptimizerSpec(),
               Recompute::selective);
    full.gradients(data.samples());
    for (const Parameter* p : full.parameters())
      for (float x : full.gradient(*p)) whole[p->name] += double(x) * x;
  }
  for (int64_t r : {int64_t(4), int64_t(1000)}) {
    Tuner tuner(model, galore_method(r), OptimizerSpec(), Recompute::selective);
    tuner.gradients(data.samples());
    for (const Parameter* p : tuner.parameters()) {
      const std::vector<float> g = tuner.gradient(*p);
      double squares = 0;
      for (float x : g) squares += double(x) * x;
      const double all = whole[p->name];
      if (p->kind != "galore" || r == 1000) {
        CHECK_NEAR(squares / all, 1, 1e-4);
        continue;
      }
      CHECK(squares < all);
      CHECK(squares > 0.3 * all);
      const int64_t rows = p->weight.rows, cols = p->weight.cols;
      const bool left = rows == 4;
      for (int a = 0; a < 4; ++a) {
        for (int b = 0; b < a; ++b) {
          double dot = 0;
          for (int64_t i = 0; i < (left ? cols : rows); ++i)
            dot += left ? double(g[size_t(a * cols + i)]) * g[size_t(b * cols + i)]
                        : double(g[size_t(i * cols + a)]) * g[size_t(i * cols + b)];
          CHECK_NEAR(dot / squares, 0, 1e-4);
        }
      }
    }
  }
}

// Nudged factors leave the norms as they were, so the differences are those of the
// gradient that takes the norms for constants.
TEST(dora_gradients_match_differences) {
  ModelConfig c = tiny_config();
  check_gradients(c, dora_method(), Recompute::selective);
  c.qkv_bias = c.o_bias = c.mlp_bias = c.qk_norm = true;
  check_gradients(c, dora_method(), Recompute::block);
}

TEST(dora_starts_at_the_base_and_is_the_fused_weight) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    auto model = tiny_model(tiny_config(), dtype);
    const TinyData data = tiny_data({13, 6}, model->config.vocab_size);
    const int32_t* tokens = data.tokens[0].data();
    const auto base = all_logits(*model, tokens, 13);
    Tuner tuner(model, dora_method(), OptimizerSpec(), Recompute::selective);
    // bf16: products and activations are rounded in other places, 2^-8 of a value each.
    const double tolerance = dtype == DType::f32 ? 2e-5 : 6e-2;
    const auto start = all_logits(*model, tokens, 13);
    for (size_t i = 0; i < base.size(); ++i) CHECK_NEAR(start[i], base[i], tolerance);
    move_values(tuner, 0.2);
    const auto tuned = all_logits(*model, tokens, 13);
    AdapterDeltas adapter;
    const auto& p = tuner.parameters();
    for (size_t i = 0; i < p.size(); i += 3) {
      LoraDelta l;
      l.module = p[i]->module;
      l.r = p[i]->weight.rows;
      l.a = tuner.values(*p[i]);
      l.b = tuner.values(*p[i + 1]);
      l.magnitudes = tuner.values(*p[i + 2]);
      const bool residual = l.module.find("o_proj") != std::string::npos ||
                            l.module.find("down_proj") != std::string::npos;
      l.scale = residual ? 0.8f : 1.7f;
      adapter.loras.push_back(l);
    }
    tuner.detach();
    Fusion fusion(model);
    fusion.fuse("dora", adapter);
    const auto fused = all_logits(*model, tokens, 13);
    double moved = 0;
    for (size_t i = 0; i < tuned.size(); ++i) {
      CHECK_NEAR(fused[i], tuned[i], tolerance);
      moved = std::max(moved, double(std::fabs(tuned[i] - base[i])));
    }
    CHECK(moved > 0.3);
  }
}

TEST(recompute_policies_agree_bitwise) {
  for (const MethodSpec& method :
       {s2ft_method(), full_method(), lora_method(), lora_method(0.3f), dora_method(),
        dora_method(0.3f), sparse_method(), galore_method()}) {
    std::vector<std::vector<float>> reference;
    for (Recompute r : {Recompute::none, Recompute::selective, Recompute::block}) {
      auto model = tiny_model(tiny_config(), DType::f32);
      const TinyData data = tiny_data({9, 5}, model->config.vocab_size);
      Tuner tuner(model, method, OptimizerSpec(), r);
      for (int i = 0; i < 2; ++i) tuner.step({data.samples()}, 1e-2);
      std::vector<std::vector<float>> now;
      for (const Parameter* p : tuner.parameters()) now.push_back(tuner.values(*p));
      if (reference.empty()) reference = now;
      CHECK(reference == now);
    }
  }
}

TEST(permuted_model_computes_the_same_function) {
  // Other orders of the same sums: f32 rounding only.
  auto model = tiny_model(tiny_config(), DType::f32);
  const TinyData data = tiny_data({17}, model->config.vocab_size);
  const auto before = all_logits(*model, data.tokens[0].data(), 17);
  const std::vector<char> base = weight_bytes(*model);
  Tuner tuner(model, s2ft_method(), OptimizerSpec(), Recompute::selective);
  CHECK(weight_bytes(*model) != base);
  const auto permuted = all_logits(*model, data.tokens[0].data(), 17);
  for (size_t i = 0; i < before.size(); ++i) CHECK_NEAR(permuted[i], before[i], 2e-5);
  tuner.detach();
  CHECK(weight_bytes(*model) == base);
  CHECK(all_logits(*model, data.tokens[0].data(), 17) == before);
}

TEST(training_moves_the_slices_and_detaching_restores_every_bit) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    auto model = tiny_model(tiny_config(), dtype);
    const std::vector<char> base = weight_bytes(*model);
    const TinyData data = tiny_data({13, 6}, model->config.vocab_size);
    Tuner tuner(model, s2ft_method(), OptimizerSpec(), Recompute::selective);
    const double first = tuner.step({data.samples()}, 2e-2).loss;
    double last = first;
    for (int i = 0; i < 20; ++i) last = tuner.step({data.samples()}, 2e-2).loss;
    CHECK(last < first - 0.3);
    const auto tuned = all_logits(*model, data.tokens[0].data(), 13);
    tuner.detach();
    CHECK(weight_bytes(*model) == base);
    tuner.attach();
    CHECK(all_logits(*model, data.tokens[0].data(), 13) == tuned);
    tuner.detach();
    CHECK(weight_bytes(*model) == base);
  }
}

TEST(one_of_two_tuners_at_a_time) {
  auto model = tiny_model(tiny_config(), DType::f32);
  Tuner first(model, s2ft_method(), OptimizerSpec(), Recompute::selective);
  CHECK_THROWS_CODE(Tuner(model, s2ft_method(), OptimizerSpec(), Recompute::selective),
                    "BUSY");
  first.detach();
  Tuner second(model, lora_method(), OptimizerSpec(), Recompute::selective);
  CHECK_THROWS_CODE(first.attach(), "BUSY");
}

TEST(bad_selections_leave_the_model_alone) {
  auto model = tiny_model(tiny_config(), DType::f32);
  const std::vector<char> base = weight_bytes(*model);
  auto refuse = [&](MethodSpec m) {
    CHECK_THROWS_CODE(Tuner(model, m, OptimizerSpec(), Recompute::selective),
                      "INVALID_ARGUMENT");
    CHECK(weight_bytes(*model) == base);
    CHECK(model->tuner == nullptr);
  };
  MethodSpec m = s2ft_method();
  m.selection.pop_back();
  refuse(m);
  m = s2ft_method();
  m.selection[2][kDown] = {23};
  refuse(m);
  m.selection[2][kDown] = {1, 1};
  refuse(m);
  m.selection[2] = select({}, {}, {}, {}, {0, 1}, {1, 2}, {2, 0});  // a ring
  refuse(m);
  m.selection = {{}, {}, {}};
  refuse(m);
  m = lora_method();
  m.lora[3].name = "model.layers.9.mlp.up_proj";
  refuse(m);
  m.lora[3].name = m.lora[2].name;
  refuse(m);
  m.lora.resize(1);
  m.lora[0].options.r = 0;
  refuse(m);
  refuse(sparse_method(SparseOptions::Selection::random, 0));
  refuse(sparse_method(SparseOptions::Selection::random, 1.5));
  refuse(galore_method(0));
  refuse(galore_method(4, 0));
  refuse(lisa_method(0));
  refuse(lisa_method(4));
  refuse(lisa_method(1, 0));
}

TEST(a_step_that_is_not_finite_or_cancelled_changes_nothing) {
  auto model = tiny_model(tiny_config(), DType::f32);
  const TinyData data = tiny_data({7, 5}, model->config.vocab_size);
  Tuner tuner(model, s2ft_method(), OptimizerSpec(), Recompute::selective);
  tuner.step({data.samples()}, 1e-2);
  const std::vector<char> before = weight_bytes(*model);
  // Token 36 appears in the second sample only.
  TinyData bad = data;
  for (auto& tokens : bad.tokens)
    for (int32_t& t : tokens) t = t == 36 ? 0 : t;
  bad.tokens[1][2] = 36;
  const Mat embedding = model->embedding.value;
  const float kept = embedding.as<float>()[36 * embedding.ld];
  embedding.as<float>()[36 * embedding.ld] = NAN;
  try {
    tuner.step({data.samples(), bad.samples()}, 1e-2);
    CHECK(!"a step with a NaN must throw");
  } catch (const NotFinite& e) {
    CHECK(e.sample == 1);
    CHECK(e.micro_batch == 1 || data.tokens[1] == bad.tokens[1]);
  }
  embedding.as<float>()[36 * embedding.ld] = kept;
  std::atomic<bool> stop{true};
  CHECK_THROWS_CODE(tuner.step({data.samples()}, 1e-2, &stop), "CANCELLED");
  CHECK(weight_bytes(*model) == before);
  tuner.step({data.samples()}, 1e-2);
  CHECK(weight_bytes(*model) != before);
}

TEST(a_resumed_run_is_bitwise_the_same) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    for (const MethodSpec& method :
         {s2ft_method(), lora_method(0.2f), dora_method(0.2f), lisa_method(1, 2),
          lisa_method(2, 3), sparse_method(SparseOptions::Selection::gradient),
          galore_method(3, 2), galore_method(3, 4), full_method()}) {
      const std::string path = temporary("state.safetensors");
      const TinyData data = tiny_data({8, 9}, 37);
      auto run = [&](Tuner& t, int steps) {
        for (int i = 0; i < steps; ++i) t.step({data.samples()}, 1e-2);
      };
      auto whole = tiny_model(tiny_config(), dtype),
           half = tiny_model(tiny_config(), dtype),
           rest = tiny_model(tiny_config(), dtype);
      OptimizerSpec optimizer;
      optimizer.weight_decay = 0.1;
      optimizer.max_grad_norm = 0.5;
      Tuner a(whole, method, optimizer, Recompute::selective);
      a.calibrate({data.samples()});
      run(a, 5);
      {
        Tuner b(half, method, optimizer, Recompute::selective);
        b.calibrate({data.samples()});
        run(b, 3);
        b.save_state(path, {{"note", "kept"}});
      }
      Tuner c(rest, method, optimizer, Recompute::selective);
      // Masks come from the state.
      CHECK(c.load_state(path)["note"] == "kept");
      run(c, 2);
      CHECK(weight_bytes(*rest) == weight_bytes(*whole));
      // Another method's state does not fit.
      auto other = tiny_model(tiny_config(), dtype);
      MethodSpec m = s2ft_method();
      m.selection[0][kGate].push_back(15);
      m.selection[0][kUp].push_back(15);
      Tuner d(other, m, optimizer, Recompute::selective);
      const std::vector<char> before = weight_bytes(*other);
      bool refused = false;
      try {
        d.load_state(path);
      } catch (const Error&) {
        refused = true;
      }
      CHECK(refused);
      CHECK(weight_bytes(*other) == before);
      std::remove(path.c_str());
    }
  }
}

TEST(accumulation_equals_one_large_batch) {
  // The same sums in another order: f32 rounding of the gradients, then ten steps.
  const TinyData data = tiny_data({8, 9, 5, 3}, 37);
  const std::vector<Sample> s = data.samples();
  auto one = tiny_model(tiny_config(), DType::f32),
       two = tiny_model(tiny_config(), DType::f32);
  Tuner a(one, s2ft_method(), OptimizerSpec(), Recompute::selective);
  Tuner b(two, s2ft_method(), OptimizerSpec(), Recompute::selective);
  const StepResult ra = a.step({s}, 1e-3);
  const StepResult rb = b.step({{s[0]}, {s[1], s[2]}, {s[3]}}, 1e-3);
  CHECK(ra.tokens == rb.tokens);
  CHECK_NEAR(ra.loss, rb.loss, 1e-6);
  CHECK_NEAR(ra.grad_norm, rb.grad_norm, 1e-5);
}

TEST(packing_does_not_leak_between_samples) {
  auto model = tiny_model(tiny_config(), DType::f32);
  const TinyData data = tiny_data({8, 9, 5}, 37);
  const auto together = score(*model, data.samples());
  for (size_t i = 0; i < 3; ++i) {
    const auto alone = score(*model, {data.samples()[i]});
    for (size_t j = 0; j < alone[0].size(); ++j)
      CHECK_NEAR(together[i][j], alone[0][j], 1e-5);
  }
}

TEST(the_plan_is_what_the_arena_takes) {
  auto model = tiny_model(tiny_config(), DType::f32);
  Tuner tuner(model, s2ft_method(), OptimizerSpec(), Recompute::selective);
  const MemoryPlan small = tuner.plan(10, 10), large = tuner.plan(1000, 10);
  CHECK(small.weights == model->bytes());
  CHECK(large.activations > 50 * small.activations);
  const MemoryPlan block = Tuner(tiny_model(tiny_config(), DType::f32), s2ft_method(),
                                 OptimizerSpec(), Recompute::block)
                               .plan(1000, 10);
  CHECK(block.activations < large.activations);
}
