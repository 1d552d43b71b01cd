// Choosing units: scores against plain sums and full fine-tuning's gradients, ranking,
// and training on what was chosen.
#include <map>

#include "test/tuner_fixture.h"
#include "tune/scores.h"

using namespace s2ft;
using namespace s2ft::test;
using Strategy = UnitChoice::Strategy;

namespace {

/// Odd counts; layer 1 trains attention only, layer 2 no query head.
MethodSpec chosen_method(Strategy strategy, bool largest = true) {
  MethodSpec m;
  m.choice.strategy = strategy;
  m.choice.largest = largest;
  m.choice.seed = 3;
  m.choice.counts = {{2, 1, 1, 3, 4, 4, 7}, {1, 0, 1, 1, 0, 0, 0}, {0, 2, 0, 0, 0, 5, 3}};
  return m;
}

float at(Mat m, int64_t i, int64_t j) {
  return m.dtype == DType::f32 ? m.as<float>()[i * m.ld + j]
                               : to_float(m.as<bf16>()[i * m.ld + j]);
}

/// Norms over the parts of each unit that modules with a count train, one value at a
/// time.
UnitScores plain_norms(const ModelConfig& c, const LayerCounts& counts,
                       const std::function<float(int, int64_t, int64_t)>& value) {
  UnitScores norms;
  const int64_t hd = c.head_dim, d = c.hidden_size, k = c.intermediate_size;
  const int64_t outs[kModules] = {
      c.heads * hd, c.kv_heads * hd, c.kv_heads * hd, d, k, k, d};
  const int64_t ins[kModules] = {d, d, d, c.heads * hd, d, d, k};
  for (int m = 0; m < kModules; ++m) {
    if (counts[m] == 0) continue;
    std::vector<double>& sums = norms[group_of(Module(m))];
    const int64_t units = unit_count(c, Module(m));
    sums.resize(size_t(units));
    const bool cols = m == kO || m == kDown;
    const int64_t width = (cols ? ins[m] : outs[m]) / units;
    for (int64_t i = 0; i < outs[m]; ++i)
      for (int64_t j = 0; j < ins[m]; ++j)
        sums[size_t((cols ? j : i) / width)] += std::pow(double(value(m, i, j)), 2);
  }
  for (auto& group : norms)
    for (double& x : group) x = std::sqrt(x);
  return norms;
}

void check_scores(const std::vector<UnitScores>& found,
                  const std::vector<UnitScores>& expected, double tolerance) {
  CHECK(found.size() == expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    for (int g = 0; g < kGroups; ++g) {
      CHECK(found[i][g].size() == expected[i][g].size());
      for (size_t u = 0; u < expected[i][g].size(); ++u) {
        CHECK(expected[i][g][u] > 0);
        CHECK_NEAR(found[i][g][u] / expected[i][g][u], 1, tolerance);
      }
    }
  }
}

std::vector<UnitScores> plain_weight_norms(const Model& model,
                                           const std::vector<LayerCounts>& counts) {
  std::vector<UnitScores> norms;
  for (int i = 0; i < model.config.layers; ++i)
    norms.push_back(
        plain_norms(model.config, counts[i], [&](int m, int64_t row, int64_t col) {
          return at(model.layers[i].linears[m]->weight, row, col);
        }));
  return norms;
}

/// Keeps the rows that went into a layer.
struct Recorder : TrainablePart {
  std::vector<std::vector<float>> inputs;
  Columns input_needed() const override { return {}; }
  void forward(Backend&, Mat, Mat x, bool) override {
    inputs.clear();
    for (int64_t i = 0; i < x.rows; ++i) {
      inputs.emplace_back();
      for (int64_t j = 0; j < x.cols; ++j) inputs.back().push_back(at(x, i, j));
    }
  }
  void backward(Backend&, Mat, Mat, Mat) override {}
};

/// Mean norms of the inputs of o and down, a sample and a token at a time.
std::vector<UnitScores> plain_activations(Model& model, const TinyData& data) {
  const ModelConfig& c = model.config;
  std::vector<UnitScores> means(c.layers);
  double tokens = 0;
  for (UnitScores& m : means)
    for (int g = 0; g < kGroups; ++g)
      m[g].resize(size_t(g == kHeads     ? c.heads
                         : g == kKvHeads ? c.kv_heads
                                         : c.intermediate_size));
  for (const std::vector<int32_t>& sample : data.tokens) {
    std::vector<Recorder> recorders(size_t(2 * c.layers));
    for (int i = 0; i < c.layers; ++i) {
      model.layers[i].o.part = &recorders[2 * i];
      model.layers[i].down.part = &recorders[2 * i + 1];
    }
    all_logits(model, sample.data(), int32_t(sample.size()), nullptr);
    for (int i = 0; i < c.layers; ++i) {
      model.layers[i].o.part = model.layers[i].down.part = nullptr;
      for (size_t t = 0; t < sample.size(); ++t) {
        for (int g = 0; g < kGroups; ++g) {
          const std::vector<float>& x =
              recorders[2 * i + (g == kChannels ? 1 : 0)].inputs[t];
          const size_t width = x.size() / means[i][g].size();
          for (size_t u = 0; u < means[i][g].size(); ++u) {
            double squares = 0;
            for (size_t j = u * width; j < (u + 1) * width; ++j)
              squares += double(x[j]) * x[j];
            means[i][g][u] += std::sqrt(squares);
          }
        }
      }
    }
    tokens += double(sample.size());
  }
  for (UnitScores& m : means)
    for (auto& group : m)
      for (double& x : group) x /= tokens;
  return means;
}

std::vector<std::vector<Sample>> in_two(const std::vector<Sample>& samples) {
  return {{samples.begin(), samples.begin() + 2}, {samples.begin() + 2, samples.end()}};
}

/// Units of each layer that the tuner's parameters cover.
std::vector<LayerSelection> units_of(const Model& model, const Tuner& tuner) {
  std::vector<LayerSelection> out(model.config.layers);
  for (const Parameter* p : tuner.parameters())
    for (int i = 0; i < model.config.layers; ++i)
      for (int m = 0; m < kModules; ++m) {
        if (model.layers[i].linears[m]->name != p->module) continue;
        const int width = group_of(Module(m)) == kChannels ? 1 : model.config.head_dim;
        for (size_t j = 0; j < p->index.size(); j += width)
          out[i][m].push_back(p->index[j] / width);
        std::sort(out[i][m].begin(), out[i][m].end());
      }
  return out;
}

}  // namespace

TEST(weight_scores_are_norms_of_what_trains) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    auto model = tiny_model(tiny_config(), dtype);
    const std::vector<LayerCounts> counts = chosen_method(Strategy::weight).choice.counts;
    std::vector<UnitScores> found;
    for (int i = 0; i < 3; ++i)
      found.push_back(
          weight_scores(*model->backend, model->config, model->layers[i], counts[i]));
    // Squares are summed in f32.
    check_scores(found, plain_weight_norms(*model, counts), 1e-6);
  }
}

TEST(activation_scores_are_mean_norms_over_tokens) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    for (bool qk_norm : {false, true}) {
      ModelConfig config = tiny_config();
      config.qk_norm = qk_norm;
      auto model = tiny_model(config, dtype);
      // More tokens than a probe takes at a time.
      const TinyData data = tiny_data({9, 1, 90, 5}, config.vocab_size);
      const MethodSpec method = chosen_method(Strategy::activation);
      const std::vector<UnitScores> expected = plain_activations(*model, data);
      // Packed and alone, other tiles multiply; bf16 then rounds other values.
      const double tolerance = dtype == DType::f32 ? 2e-5 : 2e-2;
      Tuner tuner(model, method, OptimizerSpec(), Recompute::block);
      check_scores(tuner.unit_scores(in_two(data.samples())), expected, tolerance);
      tuner.detach();

      std::vector<UnitScores> products = expected;
      const auto weights = plain_weight_norms(*model, method.choice.counts);
      for (size_t i = 0; i < products.size(); ++i)
        for (int g = 0; g < kGroups; ++g)
          for (size_t u = 0; u < weights[i][g].size(); ++u)
            products[i][g][u] *= weights[i][g][u];
      Tuner both(model, chosen_method(Strategy::weight_activation), OptimizerSpec(),
                 Recompute::selective);
      check_scores(both.unit_scores(in_two(data.samples())), products, tolerance);
    }
  }
}

TEST(gradient_scores_are_norms_of_full_gradients) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    auto model = tiny_model(tiny_config(), dtype);
    const ModelConfig& c = model->config;
    const TinyData data = tiny_data({9, 14, 5}, c.vocab_size);
    std::map<std::string, std::vector<float>> gradients;
    {
      Tuner full(tiny_model(tiny_config(), dtype), full_method(), OptimizerSpec(),
                 Recompute::selective);
      full.gradients(data.samples());
      for (const Parameter* p : full.parameters())
        gradients[p->module + (p->kind == "bias" ? ".bias" : "")] = full.gradient(*p);
    }
    const MethodSpec method = chosen_method(Strategy::gradient);
    std::vector<UnitScores> expected;
    for (int i = 0; i < c.layers; ++i)
      expected.push_back(
          plain_norms(c, method.choice.counts[i], [&](int m, int64_t row, int64_t col) {
            const Linear& linear = *model->layers[i].linears[m];
            return gradients.at(linear.name)[size_t(row * linear.weight.cols + col)];
          }));
    // Two micro-batches instead of one: other sums in f32, other roundings in bf16.
    const double tolerance = dtype == DType::f32 ? 1e-4 : 3e-2;
    for (Recompute recompute :
         {Recompute::none, Recompute::selective, Recompute::block}) {
      Tuner tuner(model, method, OptimizerSpec(), recompute);
      check_scores(tuner.unit_scores(in_two(data.samples())), expected, tolerance);
    }
  }
}

TEST(units_are_ranked_nested_and_avoided) {
  const ModelConfig c = tiny_config();
  UnitChoice choice;
  choice.strategy = Strategy::weight;
  choice.counts = {{2, 0, 0, 3, 1, 4, 2}};
  UnitScores scores;
  scores[kHeads] = {1, 5, 5, 0, 2, 5};
  scores[kChannels].assign(23, 7);
  scores[kChannels][20] = 8;
  scores[kChannels][3] = 6;
  LayerSelection s = choose_units(c, choice, &scores, 0);
  CHECK(s[kO] == (std::vector<int32_t>{1, 2, 5}));
  CHECK(s[kQ] == (std::vector<int32_t>{1, 2}));
  CHECK(s[kGate] == (std::vector<int32_t>{20}));
  CHECK(s[kDown] == (std::vector<int32_t>{0, 20}));
  CHECK(s[kUp] == (std::vector<int32_t>{0, 1, 2, 20}));
  CHECK(s[kK].empty() && s[kV].empty());
  choice.largest = false;
  s = choose_units(c, choice, &scores, 0);
  CHECK(s[kO] == (std::vector<int32_t>{0, 3, 4}));
  CHECK(s[kQ] == (std::vector<int32_t>{0, 3}));
  CHECK(s[kUp] == (std::vector<int32_t>{0, 1, 2, 3}));

  // What q avoids, o does not take either.
  choice.avoid.resize(1);
  choice.avoid[0][kQ] = {3, 1};
  choice.avoid[0][kDown] = {0};
  s = choose_units(c, choice, &scores, 0);
  CHECK(s[kO] == (std::vector<int32_t>{0, 2, 4}));
  CHECK(s[kUp] == (std::vector<int32_t>{1, 2, 3, 4}));
  choice.counts[0][kO] = 5;
  CHECK_THROWS_CODE(choose_units(c, choice, &scores, 0), "INVALID_ARGUMENT");
  choice.counts[0][kO] = 4;
  choice.avoid[0][kDown] = {23};
  CHECK_THROWS_CODE(choose_units(c, choice, &scores, 0), "INVALID_ARGUMENT");

  // Random choices that avoid the first one's units are another order of the rest.
  UnitChoice random;
  random.counts = {{3, 1, 1, 3, 11, 11, 11}};
  const LayerSelection first = choose_units(c, random, nullptr, 0);
  CHECK(first == select_random(c, random.counts[0], 0, 0));
  random.avoid = {first};
  const LayerSelection second = choose_units(c, random, nullptr, 0);
  for (int m = 0; m < kModules; ++m)
    for (int32_t unit : second[m])
      CHECK(!std::binary_search(first[m].begin(), first[m].end(), unit));
  CHECK(second[kDown].size() == 11);
}

TEST(training_goes_on_with_the_units_that_data_chose) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    for (Strategy strategy : {Strategy::weight, Strategy::activation,
                              Strategy::weight_activation, Strategy::gradient}) {
      auto model = tiny_model(tiny_config(), dtype);
      const std::vector<char> base = weight_bytes(*model);
      const TinyData data = tiny_data({13, 6, 7}, model->config.vocab_size);
      const MethodSpec method = chosen_method(strategy, strategy != Strategy::activation);
      Tuner tuner(model, method, OptimizerSpec(), Recompute::selective);
      std::vector<LayerSelection> expected;
      if (tuner.choice_pending()) {
        CHECK(strategy != Strategy::weight);
        CHECK_THROWS_CODE(tuner.step({data.samples()}, 1e-2), "INVALID_ARGUMENT");
        const std::atomic<bool> stop{true};
        CHECK_THROWS_CODE(tuner.calibrate({data.samples()}, &stop), "CANCELLED");
        const size_t planned = tuner.plan(20, 20, 3).trainable;
        const auto scores = tuner.unit_scores(in_two(data.samples()));
        CHECK(weight_bytes(*model) == base);
        for (int i = 0; i < 3; ++i)
          expected.push_back(choose_units(model->config, method.choice, &scores[i], i));
        tuner.calibrate(in_two(data.samples()));
        CHECK(!tuner.choice_pending());
        const size_t after = tuner.plan(20, 20, 3).trainable;
        CHECK(strategy == Strategy::gradient ? after < planned : after == planned);
      } else {
        CHECK(strategy == Strategy::weight);
        const auto scores =
            plain_weight_norms(*tiny_model(tiny_config(), dtype), method.choice.counts);
        for (int i = 0; i < 3; ++i)
          expected.push_back(choose_units(model->config, method.choice, &scores[i], i));
      }
      CHECK(units_of(*model, tuner) == expected);
      const double first = tuner.step({data.samples()}, 2e-2).loss;
      double last = first;
      for (int i = 0; i < 20; ++i) last = tuner.step({data.samples()}, 2e-2).loss;
      CHECK(last < first - 0.2);
      tuner.detach();
      CHECK(weight_bytes(*model) == base);
    }
  }
}

TEST(units_can_be_given) {
  auto model = tiny_model(tiny_config(), DType::f32);
  const std::vector<char> base = weight_bytes(*model);
  const TinyData data = tiny_data({9, 5}, model->config.vocab_size);
  std::vector<std::vector<int32_t>> places;
  {
    Tuner other(model, chosen_method(Strategy::random), OptimizerSpec(),
                Recompute::selective);
    for (const Parameter* p : other.parameters()) places.push_back(p->index);
  }
  Tuner tuner(model, chosen_method(Strategy::gradient), OptimizerSpec(),
              Recompute::selective);
  tuner.calibrate({data.samples()});
  CHECK(tuner.parameters()[0]->index != places[0]);
  auto refuse = [&](size_t parameter, size_t i, int32_t value) {
    auto bad = places;
    bad[parameter][i] = value;
    bool refused = false;
    try {
      tuner.set_places(bad);
    } catch (const Error&) {
      refused = true;
    }
    CHECK(refused);
  };
  refuse(0, 1, places[0][1] + 1);  // not whole heads
  refuse(0, 0, -6);
  refuse(4, 0, 23);            // no such channel
  refuse(4, 0, places[4][1]);  // twice
  auto short_one = places;
  short_one[2].pop_back();
  CHECK_THROWS_CODE(tuner.set_places(short_one), "SHAPE_MISMATCH");
  tuner.set_places(places);
  for (size_t i = 0; i < places.size(); ++i)
    CHECK(tuner.parameters()[i]->index == places[i]);
  tuner.step({data.samples()}, 1e-2);
  tuner.detach();
  CHECK(weight_bytes(*model) == base);
}
