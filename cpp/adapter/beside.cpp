#include "adapter/beside.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "core/error.h"
#include "model/elements.h"
#include "model/load.h"

namespace s2ft {

namespace {

Mat upload_floats(Backend& backend, const std::vector<float>& host, DType dtype,
                  int64_t rows, int64_t cols, Buffer& storage) {
  const Buffer staging = backend.allocate(host.size() * sizeof(float));
  backend.upload(staging.data(), host.data(), host.size() * sizeof(float));
  storage = backend.allocate(host.size() * dtype_size(dtype));
  const Mat x = mat(storage.data(), dtype, rows, cols);
  backend.copy(x, mat(staging.data(), DType::f32, rows, cols));
  backend.synchronize();
  return x;
}

/// The change of every row's length to the adapter's magnitudes (DoRA): m / |W + s B A|.
std::vector<float> length_factors(Model& model, const Linear& linear,
                                  const LoraDelta& l) {
  Backend& backend = *model.backend;
  const int64_t out = linear.weight.rows, in = linear.weight.cols;
  Buffer a_storage, b_storage;
  const Mat a = upload_floats(backend, l.a, DType::f32, l.r, in, a_storage);
  const Mat b = upload_floats(backend, l.b, DType::f32, out, l.r, b_storage);
  const size_t count = size_t(out * in);
  const Buffer weight = backend.allocate(count * dtype_size(model.dtype));
  const Buffer sum = backend.allocate(count * sizeof(float));
  const Buffer squares = backend.allocate(size_t(out) * sizeof(float));
  const Mat w = mat(weight.data(), model.dtype, out, in);
  const Mat v = mat(sum.data(), DType::f32, out, in);
  const Mat lengths = mat(squares.data(), DType::f32, 1, out);
  QuantizedMat base = linear.quantized;
  base.patch = {};
  backend.dequantize(w, {&base, 1});
  backend.matmul(v, b, false, a, false, 0);
  backend.scale(v, l.scale);
  backend.add(v, w);
  backend.dot_rows(lengths, v, v);
  backend.synchronize();
  std::vector<float> factors(static_cast<size_t>(out));
  backend.download(factors.data(), squares.data(), factors.size() * sizeof(float));
  for (size_t i = 0; i < factors.size(); ++i)
    factors[i] = factors[i] > 0 ? l.magnitudes[i] / std::sqrt(factors[i]) : 0;
  return factors;
}

/// The low-rank adapters of one layer as one: y = g (x W^T) + x A^T B^T with all factors
/// side by side. A DoRA adapter, m / |V| (x W^T + s x A^T B^T), adds m / |V| - 1 to g,
/// which is 1, and scales the rows of its own B.
class FusedFactors : public TrainablePart {
 public:
  FusedFactors(Model& model, const Linear& linear,
               const std::vector<const LoraDelta*>& loras) {
    const int64_t out = linear.weight.rows, in = linear.weight.cols;
    int64_t r = 0;
    for (const LoraDelta* l : loras) r += l->r;
    std::vector<float> a, b(size_t(out * r)), g(size_t(out), 1.0f);
    int64_t first = 0;
    for (const LoraDelta* l : loras) {
      a.insert(a.end(), l->a.begin(), l->a.end());
      std::vector<float> factors(size_t(out), 1.0f);
      if (!l->magnitudes.empty()) {
        factors = length_factors(model, linear, *l);
        scales_product_ = true;
      }
      for (int64_t i = 0; i < out; ++i) {
        g[size_t(i)] += factors[size_t(i)] - 1;
        for (int64_t j = 0; j < l->r; ++j)
          b[size_t(i * r + first + j)] =
              l->scale * factors[size_t(i)] * l->b[size_t(i * l->r + j)];
      }
      first += l->r;
    }
    a_ = upload_floats(*model.backend, a, model.dtype, r, in, storage_[0]);
    b_ = upload_floats(*model.backend, b, model.dtype, out, r, storage_[1]);
    g_ = upload_floats(*model.backend, g, DType::f32, 1, out, storage_[2]);
  }

  Columns input_needed() const override { return {}; }
  void layout_scratch(Arena& arena, int64_t tokens) override {
    low_ = arena.matrix(a_.dtype, tokens, a_.rows);
    if (scales_product_) apart_ = arena.matrix(a_.dtype, tokens, b_.rows);
  }
  Mat product_apart(int64_t tokens) override {
    return scales_product_ ? apart_.row_range(0, tokens) : Mat{};
  }
  void forward(Backend& backend, Mat y, Mat x, bool) override {
    if (scales_product_) backend.scale_cols(y, y, g_, false);
    const Mat low = low_.row_range(0, x.rows);
    backend.matmul(low, x, false, a_, true, 0);
    backend.matmul(y, low, false, b_, true, 1);
  }
  void backward(Backend&, Mat, Mat, Mat) override {
    throw Error("INTERNAL", "[fuse] fused adapters are not trained");
  }

 private:
  Buffer storage_[3];
  Mat a_, b_, g_, low_, apart_;
  bool scales_product_ = false;
};

bool takes_rows(const std::string& module) {
  const auto ends = [&](const std::string& end) {
    return module.size() >= end.size() &&
           module.compare(module.size() - end.size(), end.size(), end) == 0;
  };
  return !ends("o_proj") && !ends("down_proj");
}

}  // namespace

void Beside::check(const AdapterDeltas& adapter) {
  const auto refuse = [](const std::string& module, const char* what) {
    throw Error("UNSUPPORTED", "[fuse] " + module + ": " + what +
                                   " cannot be added to a quantized model: load it "
                                   "without quantization");
  };
  for (const ElementDelta& e : adapter.elements) refuse(e.module, "single elements");
  for (const SliceDelta& s : adapter.slices)
    if (s.rows != takes_rows(s.module))
      refuse(s.module, s.rows ? "output rows" : "input columns");
}

Beside::Slice Beside::make_slice(Model& model, const std::string& module,
                                 const std::vector<const SliceDelta*>& deltas) {
  const Linear& linear = *model.find_linear(module);
  Slice slice;
  slice.rows = deltas[0]->rows;
  std::set<int32_t> all;
  for (const SliceDelta* d : deltas) all.insert(d->index.begin(), d->index.end());
  slice.index.assign(all.begin(), all.end());
  slice.place.resize(all.size());
  std::iota(slice.place.begin(), slice.place.end(), 0);
  std::vector<char> values = checkpoint_slice(model, linear, slice.rows, slice.index);
  const int64_t n = int64_t(slice.index.size());
  const int64_t other = slice.rows ? linear.weight.cols : linear.weight.rows;
  for (const SliceDelta* d : deltas) {
    const int64_t count = int64_t(d->index.size());
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at =
          std::lower_bound(slice.index.begin(), slice.index.end(), d->index[size_t(i)]) -
          slice.index.begin();
      for (int64_t j = 0; j < other; ++j) {
        const int64_t place = slice.rows ? at * other + j : j * n + at;
        const int64_t from = slice.rows ? i * other + j : j * count + i;
        write_element(
            values.data(), model.dtype, place,
            read_element(values.data(), model.dtype, place) + d->delta[size_t(from)]);
      }
    }
  }
  slice.values = model.backend->allocate(values.size());
  model.backend->upload(slice.values.data(), values.data(), values.size());
  slice.view = mat(slice.values.data(), model.dtype, slice.rows ? n : other,
                   slice.rows ? other : n);
  return slice;
}

void Beside::replace(Model& model, const std::vector<const AdapterDeltas*>& adapters) {
  std::map<std::string, std::vector<const SliceDelta*>> slices;
  std::map<std::string, std::vector<const LoraDelta*>> loras;
  for (const AdapterDeltas* adapter : adapters) {
    for (const SliceDelta& s : adapter->slices)
      if (!s.index.empty()) slices[s.module].push_back(&s);
    for (const LoraDelta& l : adapter->loras) loras[l.module].push_back(&l);
  }
  Made made;
  for (const auto& [module, deltas] : slices)
    made.slices.emplace(module, make_slice(model, module, deltas));
  for (const auto& [module, deltas] : loras)
    made.factors.emplace(module, std::make_unique<FusedFactors>(
                                     model, *model.find_linear(module), deltas));
  model.backend->synchronize();
  std::swap(made_, made);
  for (Layer& layer : model.layers) {
    for (Linear* linear : layer.linears) {
      const auto slice = made_.slices.find(linear->name);
      const auto factors = made_.factors.find(linear->name);
      linear->quantized.patch = {};
      if (slice != made_.slices.end()) {
        const Slice& s = slice->second;
        linear->quantized.patch = {s.view, s.index.data(), s.place.data(),
                                   int64_t(s.index.size()), s.rows};
      }
      linear->part = factors == made_.factors.end() ? nullptr : factors->second.get();
    }
  }
}

}  // namespace s2ft
