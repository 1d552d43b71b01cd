// Methods that train the base itself a part at a time: LISA's layers, GaLore's
// projections.
#include <map>
#include <set>

#include "test/tuner_fixture.h"
#include "tune/singular.h"

using namespace s2ft;
using namespace s2ft::test;

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
