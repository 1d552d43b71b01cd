// Unstructured sparse fine-tuning: masks, gradients at their places, exact detaching.
#include <map>
#include <set>

#include "adapter/fusion.h"
#include "test/tuner_fixture.h"

using namespace s2ft;
using namespace s2ft::test;

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
      const bool by_gradient = tuner.choice_pending();
      CHECK(by_gradient ==
            (selection == Selection::gradient || selection == Selection::fisher));
      if (by_gradient) {
        CHECK_THROWS_CODE(tuner.step({data.samples()}, 2e-2), "INVALID_ARGUMENT");
        const size_t before = tuner.plan(20, 20, 2).trainable;
        tuner.calibrate({data.samples()});
        CHECK(tuner.plan(20, 20, 2).trainable < before);
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
  CHECK_THROWS_CODE(tuner.set_places(bad), "SHAPE_MISMATCH");
  bad = masks;
  bad[0].back() = 1 << 20;
  CHECK_THROWS_CODE(tuner.set_places(bad), "SHAPE_MISMATCH");
  tuner.set_places(masks);
  CHECK(weight_bytes(*model) == base);
  tuner.step({data.samples()}, 1e-2);
  for (size_t i = 0; i < masks.size(); ++i)
    CHECK(tuner.parameters()[i]->index == masks[i]);
  tuner.detach();
  CHECK(weight_bytes(*model) == base);
}
