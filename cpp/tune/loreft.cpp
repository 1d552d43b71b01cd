#include "tune/loreft.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/rng.h"
#include "model/batch.h"
#include "tune/parts.h"
#include "tune/singular.h"

namespace s2ft {

PromptPlaces prompt_places(int32_t prompt, int32_t first, int32_t last) {
  PromptPlaces places;
  places.prefix = std::min(first, std::max(prompt / 2, prompt - last));
  places.suffix = std::min(last, prompt - places.prefix);
  return places;
}

Loreft::Loreft(Backend& backend, int64_t hidden, const LoreftOptions& options)
    : options_(options), hidden_(hidden) {
  if (options.r < 1 || options.r > hidden)
    throw Error("INVALID_ARGUMENT", "[loreft] r: expected 1 to " +
                                        std::to_string(hidden) + ", found " +
                                        std::to_string(options.r));
  if (options.first < 0 || options.last < 0 || options.first + options.last < 1)
    throw Error("INVALID_ARGUMENT", "[loreft] positions: expected at least one, found " +
                                        std::to_string(options.first) + " first and " +
                                        std::to_string(options.last) + " last ones");
  const bool both = options.first > 0 && options.last > 0;
  if (options.shared || !both) {
    sets_.resize(1);
  } else {
    sets_.resize(2);
    sets_[0].name = "prefix", sets_[0].suffix = false;
    sets_[1].name = "suffix", sets_[1].prefix = false;
  }
  work_.resize(sets_.size());
  auto place = [&](Arena& arena) {
    for (Set& set : sets_) {
      set.rotation = arena.matrix(DType::f32, options_.r, hidden_);
      set.source = arena.matrix(DType::f32, options_.r, hidden_);
      set.bias = arena.matrix(DType::f32, 1, options_.r);
    }
  };
  Arena count;
  place(count);
  storage_ = backend.allocate(count.peak());
  Arena arena(storage_.data());
  place(arena);
}

int64_t Loreft::most_rows(const Set& set, int64_t tokens, int64_t samples) const {
  const int64_t of_each =
      (set.prefix ? options_.first : 0) + (set.suffix ? options_.last : 0);
  return std::min(tokens, samples * of_each);
}

void Loreft::layout_saved(Arena& arena, int64_t tokens, int64_t samples) {
  for (size_t i = 0; i < sets_.size(); ++i) {
    const int64_t n = most_rows(sets_[i], tokens, samples);
    work_[i].input = arena.matrix(DType::f32, n, hidden_);
    work_[i].moved = arena.matrix(DType::f32, n, options_.r);
  }
}

void Loreft::layout_scratch(Arena& arena, int64_t tokens, int64_t samples) {
  for (size_t i = 0; i < sets_.size(); ++i) {
    work_[i].output =
        arena.matrix(DType::f32, most_rows(sets_[i], tokens, samples), hidden_);
    work_[i].apart = arena.matrix(DType::f32, options_.r, hidden_);
  }
}

std::vector<int32_t> Loreft::rows_of_set(const Set& set, const Batch& batch) const {
  std::vector<int32_t> rows;
  for (int s = 0; s < batch.samples(); ++s) {
    const int32_t prompt = batch.prompts[size_t(s)];
    const PromptPlaces places = prompt_places(prompt, options_.first, options_.last);
    for (int32_t row = batch.begins[s]; row < batch.begins[s + 1]; ++row) {
      const int32_t at = batch.positions[size_t(row)];
      const bool prefix = at < places.prefix;
      const bool suffix = at < prompt && at >= prompt - places.suffix;
      if ((prefix && set.prefix) || (suffix && set.suffix)) rows.push_back(row);
    }
  }
  return rows;
}

void Loreft::difference(Backend& backend, size_t set) {
  const Mat apart = work_[set].apart;
  backend.copy(apart, sets_[set].rotation);
  backend.scale(apart, -1);
  backend.add(apart, sets_[set].source);
}

void Loreft::forward(Backend& backend, Mat h, const Batch& batch, bool training) {
  for (size_t i = 0; i < sets_.size(); ++i) {
    const std::vector<int32_t> rows = rows_of_set(sets_[i], batch);
    const int64_t n = int64_t(rows.size());
    if (n == 0) continue;
    const Mat x = work_[i].input.row_range(0, n), u = work_[i].moved.row_range(0, n);
    const Mat change = work_[i].output.row_range(0, n);
    difference(backend, i);
    backend.gather_rows(x, h, rows.data());
    backend.matmul(u, x, false, work_[i].apart, true, 0);
    backend.add_bias(u, sets_[i].bias);
    backend.matmul(change, u, false, sets_[i].rotation, false, 0);
    if (training && options_.dropout > 0) {
      // change = dropout(x + change) - x
      backend.add(change, x);
      backend.dropout(change, change, options_.dropout, dropout_seed(i));
      backend.scale(x, -1);
      backend.add(change, x);
      backend.scale(x, -1);
    }
    backend.scatter_add_rows(h, change, rows.data());
  }
}

void Loreft::backward(Backend&, Mat, const Batch&) {
  throw Error("INTERNAL", "[loreft] a fused adapter has no gradient");
}

TrainedLoreft::TrainedLoreft(Backend& backend, const std::string& layer, int64_t hidden,
                             const LoreftOptions& options)
    : Loreft(backend, hidden, options), salt_(salted(options.seed, layer)) {
  gradients_.resize(sets_.size());
  const float bound = 1 / std::sqrt(float(hidden));
  for (Set& set : sets_) {
    const std::string module = set.name.empty() ? layer : layer + "." + set.name;
    Rng rng(options.seed, salted(options.seed, module) | 1);
    auto start = [&](Mat m, auto draw) {
      std::vector<float> host(size_t(m.count()));
      for (float& x : host) x = draw();
      backend.upload(m.data, host.data(), host.size() * sizeof(float));
    };
    start(set.rotation, [&] { return float(rng.normal()); });
    orthonormalise_rows(backend, set.rotation);
    start(set.source, [&] { return (2 * rng.uniform() - 1) * bound; });
    start(set.bias, [&] { return (2 * rng.uniform() - 1) * bound; });
    auto add = [&](const char* kind, Mat weight) {
      parameters.push_back(std::make_unique<Parameter>());
      Parameter& p = *parameters.back();
      p.name = module + "." + kind;
      p.module = module;
      p.kind = kind;
      p.weight = weight;
      // Decay would pull R from its constraint and b, as everywhere, does not decay.
      p.decays = weight.data == set.source.data;
      state_.push_back(allocate_optimizer_state(backend, p));
    };
    add("loreft_R", set.rotation);
    add("loreft_W", set.source);
    add("loreft_b", set.bias);
  }
  backend.synchronize();
}

void TrainedLoreft::layout_scratch(Arena& arena, int64_t tokens, int64_t samples) {
  Loreft::layout_scratch(arena, tokens, samples);
  for (size_t i = 0; i < sets_.size(); ++i) {
    const int64_t n = most_rows(sets_[i], tokens, samples);
    gradients_[i].output = arena.matrix(DType::f32, n, hidden_);
    gradients_[i].moved = arena.matrix(DType::f32, n, options_.r);
    gradients_[i].product = arena.matrix(DType::f32, options_.r, hidden_);
  }
}

void TrainedLoreft::forward(Backend& backend, Mat h, const Batch& batch, bool training) {
  training_ = training;
  Loreft::forward(backend, h, batch, training);
}

// With y = x + u R, u = x (W - R)^T + b and dy:  du = dy R^T,  dx = dy + du (W - R),
// dW = du^T x,  db = sum du,  dR = u^T dy - du^T x.
void TrainedLoreft::backward(Backend& backend, Mat dh, const Batch& batch) {
  for (size_t i = 0; i < sets_.size(); ++i) {
    const std::vector<int32_t> rows = rows_of_set(sets_[i], batch);
    const int64_t n = int64_t(rows.size());
    if (n == 0) continue;
    const Mat x = work_[i].input.row_range(0, n), u = work_[i].moved.row_range(0, n);
    const Mat change = work_[i].output.row_range(0, n);
    const Mat dy = gradients_[i].output.row_range(0, n);
    const Mat du = gradients_[i].moved.row_range(0, n);
    const Mat product = gradients_[i].product;
    const Mat rotation = sets_[i].rotation;
    const Mat d_rotation = parameters[3 * i]->gradient;
    difference(backend, i);
    backend.gather_rows(dy, dh, rows.data());
    const bool dropout = training_ && options_.dropout > 0;
    if (dropout) {
      backend.copy(change, dy);
      backend.dropout(dy, dy, options_.dropout, dropout_seed(i));
      // change = the masked gradient less the whole
      backend.scale(change, -1);
      backend.add(change, dy);
    }
    backend.matmul(du, dy, false, rotation, true, 0);
    backend.matmul(product, du, true, x, false, 0);
    backend.add(parameters[3 * i + 1]->gradient, product);
    backend.sum_rows(parameters[3 * i + 2]->gradient, du);
    backend.matmul(d_rotation, u, true, dy, false, 1);
    backend.scale(product, -1);
    backend.add(d_rotation, product);
    backend.matmul(change, du, false, work_[i].apart, false, dropout ? 1 : 0);
    backend.scatter_add_rows(dh, change, rows.data());
  }
}

void TrainedLoreft::finish_gradients(Backend& backend) {
  const size_t bytes = size_t(options_.r * options_.r) * sizeof(float);
  const Buffer storage = backend.allocate(bytes);
  const Mat overlap = mat(storage.data(), DType::f32, options_.r, options_.r);
  for (size_t i = 0; i < sets_.size(); ++i) {
    const Mat gradient = parameters[3 * i]->gradient, rotation = sets_[i].rotation;
    backend.matmul(overlap, gradient, false, rotation, true, 0);
    backend.matmul(overlap, rotation, false, gradient, true, 1);
    backend.scale(overlap, -0.5f);
    backend.matmul(gradient, overlap, false, rotation, false, 1);
  }
}

size_t TrainedLoreft::bytes() const {
  return storage_.bytes() + bytes_of(state_);
}

void TrainedLoreft::stepped(Backend& backend) {
  for (Set& set : sets_) orthonormalise_rows(backend, set.rotation);
}

void orthonormalise_rows(Backend& backend, Mat x) {
  // f32 products leave about 1e-7 of an ill-conditioned matrix's condition: a second and
  // third round take that away. A step's change needs one.
  constexpr int kRounds = 4;
  constexpr double kEnough = 1e-6;
  const int64_t r = x.rows;
  Mat products, copy;
  auto place = [&](Arena& arena) {
    products = arena.matrix(DType::f32, r, r);
    copy = arena.matrix(DType::f32, r, x.cols);
  };
  Arena count;
  place(count);
  const Buffer storage = backend.allocate(count.peak());
  Arena arena(storage.data());
  place(arena);
  std::vector<float> host(size_t(r * r));
  const size_t bytes = host.size() * sizeof(float);
  for (int round = 0; round < kRounds; ++round) {
    backend.matmul(products, x, false, x, true, 0);
    backend.synchronize();
    backend.download(host.data(), products.data, bytes);
    double off = 0;
    for (int64_t i = 0; i < r * r; ++i)
      off = std::max(off, std::fabs(host[size_t(i)] - (i % (r + 1) == 0 ? 1.0 : 0.0)));
    if (off <= kEnough) return;
    const std::vector<double> root =
        inverse_square_root(std::vector<double>(host.begin(), host.end()), r);
    std::copy(root.begin(), root.end(), host.begin());
    backend.upload(products.data, host.data(), bytes);
    backend.copy(copy, x);
    backend.matmul(x, products, false, copy, false, 0);
    backend.synchronize();
  }
}

}  // namespace s2ft
