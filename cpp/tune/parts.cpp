#include "tune/parts.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/rng.h"

namespace s2ft {

namespace {

struct StateViews {
  Mat master, gradient, first, second;
};

StateViews cut_state(const Parameter& p, Arena& arena) {
  StateViews v;
  const int64_t rows = p.weight.rows, cols = p.weight.cols;
  if (p.weight.dtype != DType::f32) v.master = arena.matrix(DType::f32, rows, cols);
  v.gradient = arena.matrix(DType::f32, rows, cols);
  v.first = arena.matrix(DType::f32, rows, cols);
  v.second = arena.matrix(DType::f32, rows, cols);
  return v;
}

}  // namespace

uint64_t salted(uint64_t seed, const std::string& name) {
  for (char c : name) seed = (seed ^ uint64_t(uint8_t(c))) * 0x100000001b3u;
  return seed;
}

size_t optimizer_state_bytes(const Parameter& parameter) {
  Arena count;
  cut_state(parameter, count);
  return count.peak();
}

Buffer allocate_optimizer_state(Backend& backend, Parameter& p) {
  Buffer buffer = backend.allocate(optimizer_state_bytes(p));
  Arena arena(buffer.data());
  const StateViews v = cut_state(p, arena);
  p.master = v.master, p.gradient = v.gradient, p.first = v.first, p.second = v.second;
  if (p.master) backend.copy(p.master, p.weight);
  for (Mat m : {p.gradient, p.first, p.second}) backend.zero(m);
  return buffer;
}

size_t bytes_of(const std::vector<Buffer>& buffers) {
  size_t bytes = 0;
  for (const Buffer& buffer : buffers) bytes += buffer.bytes();
  return bytes;
}

size_t TunedPart::bytes() const {
  return bytes_of(storage_);
}

Parameter& TunedPart::add(Backend& backend, const Linear& linear,
                          const std::string& suffix, const std::string& kind,
                          Mat weight) {
  parameters.push_back(std::make_unique<Parameter>());
  Parameter& p = *parameters.back();
  p.name = linear.name + suffix;
  p.module = linear.name;
  p.kind = kind;
  p.weight = weight;
  storage_.push_back(allocate_optimizer_state(backend, p));
  return p;
}

// -- S2FT ----------------------------------------------------------------------------

RowsPart::RowsPart(Backend& backend, const Linear& linear, int64_t begin, int64_t count)
    : begin_(begin), in_(linear.weight.cols) {
  add(backend, linear, "", "rows", linear.weight.row_range(begin, count));
}

void RowsPart::backward(Backend& backend, Mat, Mat dy, Mat x) {
  const Mat gradient = parameters[0]->gradient;
  backend.matmul(gradient, dy.col_range(begin_, gradient.rows), true, x, false, 1);
}

ColsPart::ColsPart(Backend& backend, const Linear& linear, int64_t begin, int64_t count)
    : columns_{begin, count} {
  add(backend, linear, "", "cols", linear.weight.col_range(begin, count));
}

void ColsPart::backward(Backend& backend, Mat, Mat dy, Mat x) {
  backend.matmul(parameters[0]->gradient, dy, true, x, false, 1);
}

PatchPart::PatchPart(Backend& backend, const Linear& linear, bool rows,
                     std::vector<int32_t> index, const std::vector<char>& base)
    : rows_(rows), in_(linear.weight.cols) {
  const int64_t n = int64_t(index.size());
  place_.resize(index.size());
  std::iota(place_.begin(), place_.end(), 0);
  std::sort(place_.begin(), place_.end(),
            [&](int32_t a, int32_t b) { return index[size_t(a)] < index[size_t(b)]; });
  for (int32_t at : place_) sorted_.push_back(index[size_t(at)]);
  storage_.push_back(backend.allocate(base.size()));
  backend.upload(storage_.back().data(), base.data(), base.size());
  const Mat weight = mat(storage_.back().data(), linear.weight.dtype,
                         rows ? n : linear.weight.rows, rows ? in_ : n);
  add(backend, linear, "", rows ? "rows" : "cols", weight).index = std::move(index);
}

Patch PatchPart::patch() const {
  const Parameter& p = *parameters[0];
  return {p.weight, sorted_.data(), place_.data(), int64_t(sorted_.size()), rows_};
}

void PatchPart::layout_saved(Arena& arena, int64_t tokens, bool training) {
  const Parameter& p = *parameters[0];
  if (!rows_ && training)
    gathered_ = arena.matrix(p.weight.dtype, tokens, int64_t(p.index.size()));
}

void PatchPart::layout_scratch(Arena& arena, int64_t tokens) {
  const Parameter& p = *parameters[0];
  if (rows_) gathered_ = arena.matrix(p.weight.dtype, tokens, int64_t(p.index.size()));
}

void PatchPart::forward(Backend& backend, Mat, Mat x, bool training) {
  if (rows_ || !training) return;
  backend.gather_cols(gathered_.row_range(0, x.rows), x, parameters[0]->index.data());
}

void PatchPart::backward(Backend& backend, Mat, Mat dy, Mat x) {
  const Parameter& p = *parameters[0];
  const Mat gathered = gathered_.row_range(0, dy.rows);
  if (!rows_) return backend.matmul(p.gradient, dy, true, gathered, false, 1);
  backend.gather_cols(gathered, dy, p.index.data());
  backend.matmul(p.gradient, gathered, true, x, false, 1);
}

// -- full ----------------------------------------------------------------------------

AllPart::AllPart(Backend& backend, const Linear& linear) : in_(linear.weight.cols) {
  add(backend, linear, "", "all", linear.weight);
  if (linear.bias) add(backend, linear, ".bias", "bias", linear.bias).decays = false;
}

void AllPart::backward(Backend& backend, Mat, Mat dy, Mat x) {
  backend.matmul(parameters[0]->gradient, dy, true, x, false, 1);
  if (parameters.size() > 1) backend.sum_rows(parameters[1]->gradient, dy);
}

// -- LoRA ----------------------------------------------------------------------------

LoraPart::LoraPart(Backend& backend, const Linear& linear, const LoraOptions& options)
    : options_(options),
      in_(linear.weight.cols),
      out_(linear.weight.rows),
      dtype_(linear.weight.dtype) {
  salt_ = salted(options.seed, linear.name);
  const int64_t r = options.r;
  // Compute copies in the model's dtype; with f32 they are the masters themselves.
  Arena count;
  auto place = [&](Arena& arena) {
    const Mat a = arena.matrix(dtype_, r, in_), b = arena.matrix(dtype_, out_, r);
    scaled_ = arena.matrix(dtype_, out_, r);
    return std::make_pair(a, b);
  };
  place(count);
  storage_.push_back(backend.allocate(count.peak()));
  Arena arena(storage_.back().data());
  const auto [a, b] = place(arena);

  // Kaiming-uniform with a = sqrt(5): U(-1/sqrt(in), 1/sqrt(in)).
  std::vector<float> host(size_t(r) * in_);
  Rng rng(options.seed, salt_ | 1);
  const float bound = 1 / std::sqrt(float(in_));
  for (float& x : host) x = (2 * rng.uniform() - 1) * bound;
  Buffer staging = backend.allocate(host.size() * sizeof(float));
  backend.upload(staging.data(), host.data(), host.size() * sizeof(float));
  const Mat initial = mat(staging.data(), DType::f32, r, in_);
  backend.copy(a, initial);
  backend.zero(b);
  Parameter& pa = add(backend, linear, ".lora_A", "lora_A", a);
  if (pa.master) backend.copy(pa.master, initial);
  add(backend, linear, ".lora_B", "lora_B", b);
  backend.synchronize();
}

void LoraPart::layout_saved(Arena& arena, int64_t tokens, bool) {
  low_ = arena.matrix(dtype_, tokens, options_.r);
}

void LoraPart::layout_scratch(Arena& arena, int64_t tokens) {
  d_low_ = arena.matrix(dtype_, tokens, options_.r);
  if (options_.dropout > 0) dropped_ = arena.matrix(dtype_, tokens, in_);
}

Mat LoraPart::dropped(Backend& backend, Mat x, bool training) {
  if (!training || options_.dropout <= 0) return x;
  const Mat y = dropped_.row_range(0, x.rows);
  backend.dropout(y, x, options_.dropout, step_seed_ ^ salt_);
  return y;
}

void LoraPart::forward(Backend& backend, Mat y, Mat x, bool training) {
  training_ = training;
  const Mat low = low_.row_range(0, x.rows);
  backend.matmul(low, dropped(backend, x, training), false, parameters[0]->weight, true,
                 0);
  backend.copy(scaled_, parameters[1]->weight);
  backend.scale(scaled_, options_.scale);
  backend.matmul(y, low, false, scaled_, true, 1);
}

void LoraPart::backward(Backend& backend, Mat dx, Mat dy, Mat x) {
  Parameter &a = *parameters[0], &b = *parameters[1];
  const Mat low = low_.row_range(0, dy.rows), d_low = d_low_.row_range(0, dy.rows);
  backend.matmul(d_low, dy, false, scaled_, false, 0);
  backend.scale(low, options_.scale);
  backend.matmul(b.gradient, dy, true, low, false, 1);
  backend.matmul(a.gradient, d_low, true, dropped(backend, x, training_), false, 1);
  if (!dx) return;
  if (training_ && options_.dropout > 0) {
    const Mat through = dropped_.row_range(0, dx.rows);
    backend.matmul(through, d_low, false, a.weight, false, 0);
    backend.dropout(through, through, options_.dropout, step_seed_ ^ salt_);
    backend.add(dx, through);
  } else {
    backend.matmul(dx, d_low, false, a.weight, false, 1);
  }
}

}  // namespace s2ft
