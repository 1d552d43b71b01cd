// Fusion is exact and reversible in any order; selection is reproducible.
#include <set>

#include "adapter/fusion.h"
#include "model/inference.h"
#include "model/load.h"
#include "test/check.h"
#include "test/tiny_model.h"
#include "tune/tuner.h"

using namespace s2ft;
using namespace s2ft::test;

namespace {

AdapterDeltas random_slices(const Model& model, uint64_t seed) {
  AdapterDeltas out;
  Rng rng(seed);
  auto add = [&](const char* name, bool rows, std::vector<int32_t> index, int64_t other) {
    SliceDelta s;
    s.module = std::string("model.layers.1.") + name;
    s.rows = rows;
    s.index = index;
    for (size_t i = 0; i < index.size() * size_t(other); ++i)
      s.delta.push_back(0.1f * float(rng.normal()));
    out.slices.push_back(s);
  };
  add("mlp.down_proj", false, {int32_t(rng.below(10)), 12, 17}, model.config.hidden_size);
  add("mlp.down_proj", true, {3, int32_t(4 + rng.below(10))},
      model.config.intermediate_size);
  add("self_attn.q_proj", true, {5, 0}, model.config.hidden_size);
  return out;
}

AdapterDeltas random_elements(const Model& model, uint64_t seed) {
  AdapterDeltas out;
  Rng rng(seed);
  for (const char* name : {"mlp.down_proj", "self_attn.q_proj"}) {
    ElementDelta e;
    e.module = std::string("model.layers.1.") + name;
    for (int32_t place = 0; place < model.config.hidden_size * 23;
         place += 1 + int32_t(rng.below(9))) {
      e.places.push_back(place);
      e.delta.push_back(0.1f * float(rng.normal()));
    }
    out.elements.push_back(e);
  }
  return out;
}

AdapterDeltas random_lora(const Model& model, uint64_t seed, bool magnitudes = false) {
  AdapterDeltas out;
  Rng rng(seed);
  LoraDelta l;
  l.module = "model.layers.1.mlp.down_proj";
  l.r = 2;
  l.scale = 0.5f;
  for (int64_t i = 0; i < 2 * model.config.intermediate_size; ++i)
    l.a.push_back(float(rng.normal()));
  for (int64_t i = 0; i < 2 * model.config.hidden_size; ++i)
    l.b.push_back(float(rng.normal()));
  if (magnitudes)
    for (int64_t i = 0; i < model.config.hidden_size; ++i)
      l.magnitudes.push_back(rng.uniform());
  out.loras.push_back(l);
  return out;
}

}  // namespace

TEST(fusing_and_unfusing_restores_every_bit_in_any_order) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    auto model = tiny_model(tiny_config(), dtype);
    Fusion fusion(model);
    const std::vector<char> base = weight_bytes(*model);
    fusion.fuse("a", random_slices(*model, 1));
    const std::vector<char> with_a = weight_bytes(*model);
    CHECK(with_a != base);
    fusion.fuse("b", random_lora(*model, 2));
    fusion.fuse("c", random_slices(*model, 3));
    fusion.unfuse("b");
    fusion.unfuse("c");
    CHECK(weight_bytes(*model) == with_a);
    fusion.fuse("c", random_slices(*model, 3));
    fusion.unfuse("a");
    fusion.unfuse("c");
    CHECK(weight_bytes(*model) == base);
    CHECK(fusion.empty());
  }
}

TEST(masks_slices_and_dora_come_out_of_each_other_exactly) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    auto model = tiny_model(tiny_config(), dtype);
    Fusion fusion(model);
    const std::vector<char> base = weight_bytes(*model);
    fusion.fuse("a", random_elements(*model, 1));
    const std::vector<char> with_a = weight_bytes(*model);
    CHECK(with_a != base);
    fusion.fuse("b", random_elements(*model, 2));
    const std::vector<char> with_ab = weight_bytes(*model);
    fusion.fuse("c", random_slices(*model, 3));
    fusion.fuse("d", random_lora(*model, 4, true));
    CHECK(weight_bytes(*model) != with_ab);
    fusion.unfuse("c");
    fusion.unfuse("d");
    CHECK(weight_bytes(*model) == with_ab);
    fusion.unfuse("b");
    CHECK(weight_bytes(*model) == with_a);
    fusion.unfuse("a");
    CHECK(weight_bytes(*model) == base);
  }
}

TEST(the_order_of_fusion_does_not_show) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    auto model = tiny_model(tiny_config(), dtype);
    const std::vector<AdapterDeltas> adapters = {
        random_slices(*model, 1), random_slices(*model, 2), random_elements(*model, 3),
        random_lora(*model, 4),   random_lora(*model, 5),   random_lora(*model, 6, true)};
    std::vector<size_t> order = {0, 1, 2, 3, 4, 5};
    std::vector<char> expected;
    for (int round = 0; round < 8; ++round) {
      Fusion fusion(model);
      for (size_t i : order) fusion.fuse(std::to_string(i), adapters[i]);
      if (round == 0) expected = weight_bytes(*model);
      CHECK(weight_bytes(*model) == expected);
      for (size_t i : order) fusion.unfuse(std::to_string(i));
      Rng rng{uint64_t(round)};
      for (size_t i = order.size() - 1; i > 0; --i)
        std::swap(order[i], order[rng.below(i + 1)]);
    }
  }
}

TEST(replacing_is_unfusing_and_fusing_or_nothing) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    auto model = tiny_model(tiny_config(), dtype);
    const std::vector<char> base = weight_bytes(*model);
    Fusion fusion(model);
    fusion.fuse("a", random_slices(*model, 1));
    fusion.fuse("b", random_lora(*model, 2));
    fusion.fuse("c", random_elements(*model, 3));
    fusion.unfuse("a");
    fusion.unfuse("c");
    fusion.fuse("d", random_slices(*model, 4));
    const std::vector<char> expected = weight_bytes(*model);
    fusion.unfuse("d");
    fusion.fuse("a", random_slices(*model, 1));
    fusion.fuse("c", random_elements(*model, 3));
    const std::vector<char> before = weight_bytes(*model);
    AdapterDeltas broken = random_slices(*model, 4);
    broken.slices.back().delta.pop_back();
    CHECK_THROWS_CODE(fusion.replace({"a", "c"}, "d", broken), "ADAPTER_MISMATCH");
    CHECK_THROWS_CODE(fusion.replace({"a", "x"}, "d", random_slices(*model, 4)),
                      "INVALID_ARGUMENT");
    CHECK_THROWS_CODE(fusion.replace({"a"}, "b", random_slices(*model, 4)),
                      "INVALID_ARGUMENT");
    CHECK(weight_bytes(*model) == before);
    fusion.replace({"a", "c"}, "d", random_slices(*model, 4));
    CHECK(weight_bytes(*model) == expected);
    fusion.replace({"d"}, "d", random_slices(*model, 4));  // in the place of itself
    CHECK(weight_bytes(*model) == expected);
    fusion.unfuse("b");
    fusion.unfuse("d");
    CHECK(weight_bytes(*model) == base);
  }
}

TEST(dora_sets_the_rows_lengths) {
  auto model = tiny_model(tiny_config(), DType::f32);
  Fusion fusion(model);
  const AdapterDeltas adapter = random_lora(*model, 4, true);
  fusion.fuse("d", adapter);
  const Mat w = model->layers[1].down.weight;
  for (int64_t i = 0; i < w.rows; ++i) {
    double squares = 0;
    for (int64_t j = 0; j < w.cols; ++j)
      squares += std::pow(double(w.as<float>()[i * w.ld + j]), 2);
    CHECK_NEAR(std::sqrt(squares), adapter.loras[0].magnitudes[size_t(i)], 1e-6);
  }
}

TEST(adapters_that_do_not_fit_are_refused_whole) {
  auto model = tiny_model(tiny_config(), DType::f32);
  Fusion fusion(model);
  const std::vector<char> base = weight_bytes(*model);
  auto refuse = [&](auto change) {
    AdapterDeltas a = random_slices(*model, 1);
    change(a);
    CHECK_THROWS_CODE(fusion.fuse("a", a), "ADAPTER_MISMATCH");
    CHECK(weight_bytes(*model) == base);
  };
  refuse([](AdapterDeltas& a) { a.slices[2].module = "model.layers.7.mlp.up_proj"; });
  refuse([](AdapterDeltas& a) { a.slices[0].index[1] = 23; });
  refuse([](AdapterDeltas& a) { a.slices[0].index[1] = -1; });
  refuse([](AdapterDeltas& a) { a.slices[2].index[1] = a.slices[2].index[0]; });
  refuse([](AdapterDeltas& a) { a.slices[1].delta.pop_back(); });
  refuse([&](AdapterDeltas& a) {
    a.elements = random_elements(*model, 1).elements;
    a.elements[1].places[5] = a.elements[1].places[4];
  });
  refuse([&](AdapterDeltas& a) {
    a.elements = random_elements(*model, 1).elements;
    a.elements[0].places.back() = 20 * 23;
  });
  refuse([&](AdapterDeltas& a) {
    a.loras = random_lora(*model, 1, true).loras;
    a.loras[0].magnitudes.pop_back();
  });
  fusion.fuse("a", random_slices(*model, 1));
  CHECK_THROWS_CODE(fusion.fuse("a", random_slices(*model, 1)), "INVALID_ARGUMENT");
  CHECK_THROWS_CODE(fusion.unfuse("b"), "INVALID_ARGUMENT");
}

TEST(a_fused_adapter_is_the_tuned_model) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    auto model = tiny_model(tiny_config(), dtype);
    const TinyData data = tiny_data({13, 6}, model->config.vocab_size);
    MethodSpec m;
    for (int i = 0; i < 3; ++i)
      m.selection.push_back(select_random(model->config, {2, 1, 1, 3, 4, 4, 6}, 9, i));
    Tuner tuner(model, m, OptimizerSpec(), Recompute::selective);
    for (int i = 0; i < 5; ++i) tuner.step({data.samples()}, 1e-2f);
    const auto tuned = all_logits(*model, data.tokens[0].data(), 13);
    AdapterDeltas adapter;
    for (const Parameter* p : tuner.parameters())
      adapter.slices.push_back(
          {p->module, p->kind == "rows", p->index, tuner.values(*p)});
    tuner.detach();
    Fusion fusion(model);
    fusion.fuse("tuned", adapter);
    const auto fused = all_logits(*model, data.tokens[0].data(), 13);
    // Equal weights, in base order instead of permuted. bf16 activations: the order of a
    // sum can move a rounding, 2^-8 of a value, through three layers.
    const double tolerance = dtype == DType::f32 ? 2e-5 : 6e-2;
    for (size_t i = 0; i < tuned.size(); ++i) CHECK_NEAR(fused[i], tuned[i], tolerance);
  }
}

TEST(random_selection_is_reproducible_nested_and_distinct) {
  const ModelConfig c = tiny_config();
  const LayerSelection a = select_random(c, {2, 1, 3, 4, 5, 7, 9}, 42, 1);
  CHECK(a == select_random(c, {2, 1, 3, 4, 5, 7, 9}, 42, 1));
  CHECK(a != select_random(c, {2, 1, 3, 4, 5, 7, 9}, 43, 1));
  CHECK(a != select_random(c, {2, 1, 3, 4, 5, 7, 9}, 42, 2));
  auto subset = [&](int small, int large) {
    const std::set<int32_t> all(a[large].begin(), a[large].end());
    for (int32_t unit : a[small]) CHECK(all.count(unit) == 1);
  };
  subset(kQ, kO);
  subset(kK, kV);
  subset(kGate, kUp);
  subset(kUp, kDown);
  CHECK_THROWS_CODE(select_random(c, {7, 0, 0, 0, 0, 0, 0}, 1, 0), "INVALID_ARGUMENT");
}

TEST(co_permutation_makes_every_selection_one_range) {
  const ModelConfig c = tiny_config();
  LayerSelection s = {{{4, 1}, {2}, {0, 2}, {1, 5}, {3, 7}, {3, 7, 11}, {11, 20}}};
  check_selection(c, s, 0);
  const CoPermutation p = co_permutation(c, s, 0);
  auto check_range = [&](int m, const std::vector<int32_t>& order) {
    std::set<int32_t> found(order.begin() + p.range[m].begin,
                            order.begin() + p.range[m].begin + p.range[m].count);
    CHECK(found == std::set<int32_t>(s[m].begin(), s[m].end()));
  };
  for (int m : {kQ, kO}) check_range(m, p.heads);
  for (int m : {kK, kV}) check_range(m, p.kv_heads);
  for (int m : {kGate, kUp, kDown}) check_range(m, p.channels);
  // only-producer | both | only-consumer | rest
  CHECK(p.heads == (std::vector<int32_t>{4, 1, 5, 0, 2, 3}));
}

TEST(the_fingerprint_sees_values_and_not_storage) {
  auto a = tiny_model(tiny_config(), DType::f32, 1),
       b = tiny_model(tiny_config(), DType::f32, 2);
  const std::string base = fingerprint(*a);
  CHECK(base.size() == 64);
  CHECK(fingerprint(*b) != base);
  MethodSpec m;
  for (int i = 0; i < 3; ++i)
    m.selection.push_back(select_random(a->config, {2, 1, 1, 3, 4, 4, 6}, 9, i));
  Tuner tuner(a, m, OptimizerSpec(), Recompute::selective);  // permuted, values as before
  CHECK(fingerprint(*a) == base);
}
