// Several adapters may touch the same element. So every change goes: base bits back, keep
// the base bits that are newly touched, add all adapters again in an order of their own.
#include "adapter/fusion.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <tuple>

#include "adapter/check.h"
#include "core/error.h"

namespace s2ft {

namespace {

/// A weight's bytes on the host, written back when it goes out of scope unless read-only.
class HostWeight {
 public:
  HostWeight(Backend& backend, Mat w) : backend_(backend), w_(w) {
    bytes_.resize(size_t(w.count()) * dtype_size(w.dtype));
    backend_.synchronize();
    backend_.download(bytes_.data(), w.data, bytes_.size());
  }
  void write_back() {
    backend_.upload(w_.data, bytes_.data(), bytes_.size());
    backend_.synchronize();
  }
  char* at(int64_t row, int64_t col) {
    return bytes_.data() + size_t(row * w_.cols + col) * dtype_size(w_.dtype);
  }
  void add(int64_t row, int64_t col, float delta) {
    char* p = at(row, col);
    if (w_.dtype == DType::f32) {
      float x;
      std::memcpy(&x, p, 4);
      x += delta;
      std::memcpy(p, &x, 4);
    } else {
      bf16 x;
      std::memcpy(&x, p, 2);
      x = to_bf16(to_float(x) + delta);
      std::memcpy(p, &x, 2);
    }
  }
  std::vector<char>& bytes() { return bytes_; }

 private:
  Backend& backend_;
  Mat w_;
  std::vector<char> bytes_;
};

float value_at(const std::vector<char>& bytes, DType t, size_t i) {
  if (t == DType::f32) {
    float x;
    std::memcpy(&x, bytes.data() + 4 * i, 4);
    return x;
  }
  bf16 x;
  std::memcpy(&x, bytes.data() + 2 * i, 2);
  return to_float(x);
}

/// From the change of a base weight to one after which row i has length lengths[i].
void set_row_lengths(std::vector<float>& change, const std::vector<char>& base, Mat w,
                     const std::vector<float>& lengths) {
  for (int64_t i = 0; i < w.rows; ++i) {
    const size_t first = size_t(i * w.cols);
    double squares = 0;
    for (size_t j = first; j < first + size_t(w.cols); ++j) {
      const double v = double(value_at(base, w.dtype, j)) + change[j];
      squares += v * v;
    }
    const double factor = squares > 0 ? lengths[size_t(i)] / std::sqrt(squares) : 0;
    for (size_t j = first; j < first + size_t(w.cols); ++j) {
      const double before = value_at(base, w.dtype, j);
      change[j] = float(factor * (before + change[j]) - before);
    }
  }
}

/// A total order over finite adapters, whatever the order they came in.
bool before(const AdapterDeltas& a, const AdapterDeltas& b) {
  auto slice = [](const SliceDelta& x, const SliceDelta& y) {
    return std::tie(x.module, x.rows, x.index, x.delta) <
           std::tie(y.module, y.rows, y.index, y.delta);
  };
  auto element = [](const ElementDelta& x, const ElementDelta& y) {
    return std::tie(x.module, x.places, x.delta) < std::tie(y.module, y.places, y.delta);
  };
  auto lora = [](const LoraDelta& x, const LoraDelta& y) {
    return std::tie(x.module, x.r, x.scale, x.a, x.b, x.magnitudes) <
           std::tie(y.module, y.r, y.scale, y.a, y.b, y.magnitudes);
  };
  auto less = [](const auto& x, const auto& y, auto compare) {
    return std::lexicographical_compare(x.begin(), x.end(), y.begin(), y.end(), compare);
  };
  if (less(a.slices, b.slices, slice)) return true;
  if (less(b.slices, a.slices, slice)) return false;
  if (less(a.elements, b.elements, element)) return true;
  if (less(b.elements, a.elements, element)) return false;
  return less(a.loras, b.loras, lora);
}

std::set<std::string> modules_of(const AdapterDeltas& adapter) {
  std::set<std::string> out;
  for (const SliceDelta& s : adapter.slices) out.insert(s.module);
  for (const ElementDelta& e : adapter.elements) out.insert(e.module);
  for (const LoraDelta& l : adapter.loras) out.insert(l.module);
  return out;
}

}  // namespace

void Fusion::check(const AdapterDeltas& adapter) const {
  check_deltas(*model_, adapter);
  check_lorefts(adapter.lorefts);
}

void Fusion::restore(const std::string& module) {
  auto it = bases_.find(module);
  if (it == bases_.end()) return;
  const Base& base = it->second;
  const Mat w = linear_of(*model_, module).weight;
  HostWeight host(*model_->backend, w);
  const size_t size = dtype_size(w.dtype);
  if (base.whole) {
    host.bytes() = base.all;
  } else {
    for (const auto& [row, bytes] : base.rows)
      std::memcpy(host.at(row, 0), bytes.data(), bytes.size());
    for (const auto& [col, bytes] : base.cols)
      for (int64_t i = 0; i < w.rows; ++i)
        std::memcpy(host.at(i, col), bytes.data() + size_t(i) * size, size);
    for (const auto& [place, bits] : base.elements)
      std::memcpy(host.at(0, place), &bits, size);
  }
  host.write_back();
}

void Fusion::keep(const AdapterDeltas& adapter) {
  for (const std::string& module : modules_of(adapter)) {
    const Mat w = linear_of(*model_, module).weight;
    HostWeight host(*model_->backend, w);
    Base& base = bases_[module];
    const size_t size = dtype_size(w.dtype);
    for (const LoraDelta& l : adapter.loras) {
      if (l.module != module || base.whole) continue;
      base.whole = true;
      base.all = host.bytes();
    }
    for (const ElementDelta& e : adapter.elements)
      if (e.module == module) keep_elements(base, e.places, host.bytes(), size);
    for (const SliceDelta& s : adapter.slices) {
      if (s.module != module) continue;
      for (int32_t i : s.index) {
        if (s.rows) {
          base.rows.emplace(
              i, std::vector<char>(host.at(i, 0), host.at(i, 0) + size_t(w.cols) * size));
        } else if (!base.cols.count(i)) {
          std::vector<char>& column = base.cols[i];
          column.resize(size_t(w.rows) * size);
          for (int64_t r = 0; r < w.rows; ++r)
            std::memcpy(column.data() + size_t(r) * size, host.at(r, i), size);
        }
      }
    }
  }
}

void Fusion::keep_elements(Base& base, const std::vector<int32_t>& places,
                           const std::vector<char>& bytes, size_t size) {
  auto& kept = base.elements;
  const size_t before = kept.size();
  for (int32_t place : places) {
    const auto end = kept.begin() + int64_t(before);
    const auto at = std::lower_bound(kept.begin(), end, std::make_pair(place, 0u));
    if (at != end && at->first == place) continue;
    uint32_t bits = 0;
    std::memcpy(&bits, bytes.data() + size_t(place) * size, size);
    kept.emplace_back(place, bits);
  }
  std::inplace_merge(kept.begin(), kept.begin() + int64_t(before), kept.end());
}

void Fusion::add(const AdapterDeltas& adapter) {
  for (const ElementDelta& e : adapter.elements) {
    HostWeight host(*model_->backend, linear_of(*model_, e.module).weight);
    for (size_t i = 0; i < e.places.size(); ++i) host.add(0, e.places[i], e.delta[i]);
    host.write_back();
  }
  for (const SliceDelta& s : adapter.slices) {
    const Mat w = linear_of(*model_, s.module).weight;
    HostWeight host(*model_->backend, w);
    const int64_t n = int64_t(s.index.size());
    if (s.rows) {
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < w.cols; ++j)
          host.add(s.index[i], j, s.delta[size_t(i * w.cols + j)]);
    } else {
      for (int64_t i = 0; i < w.rows; ++i)
        for (int64_t j = 0; j < n; ++j)
          host.add(i, s.index[j], s.delta[size_t(i * n + j)]);
    }
    host.write_back();
  }
  for (const LoraDelta& l : adapter.loras) add_lora(l);
}

std::vector<const AdapterDeltas*> Fusion::in_order(size_t without) const {
  std::vector<const AdapterDeltas*> order;
  for (size_t i = 0; i < adapters_.size(); ++i)
    if (i != without) order.push_back(&adapters_[i].second);
  std::sort(order.begin(), order.end(),
            [](const auto* a, const auto* b) { return before(*a, *b); });
  return order;
}

void Fusion::add_all() {
  for (const AdapterDeltas* adapter : in_order(adapters_.size())) add(*adapter);
}

void Fusion::add_lora(const LoraDelta& l) {
  Backend& backend = *model_->backend;
  const Mat w = linear_of(*model_, l.module).weight;
  const size_t product_bytes = size_t(w.count()) * sizeof(float);
  const Buffer a = backend.allocate(l.a.size() * sizeof(float) + 64);
  const Buffer b = backend.allocate(l.b.size() * sizeof(float) + 64);
  const Buffer product = backend.allocate(product_bytes);
  backend.upload(a.data(), l.a.data(), l.a.size() * sizeof(float));
  backend.upload(b.data(), l.b.data(), l.b.size() * sizeof(float));
  const Mat ba = mat(product.data(), DType::f32, w.rows, w.cols);
  backend.matmul(ba, mat(b.data(), DType::f32, w.rows, l.r), false,
                 mat(a.data(), DType::f32, l.r, w.cols), false, 0);
  backend.scale(ba, l.scale);
  std::vector<float> change(size_t(w.count()));
  backend.synchronize();
  backend.download(change.data(), ba.data, product_bytes);
  if (!l.magnitudes.empty())
    set_row_lengths(change, bases_.at(l.module).all, w, l.magnitudes);
  HostWeight host(backend, w);
  for (int64_t i = 0; i < w.rows; ++i)
    for (int64_t j = 0; j < w.cols; ++j) host.add(i, j, change[size_t(i * w.cols + j)]);
  host.write_back();
}

void Fusion::forget_unused() {
  std::set<std::string> used;
  for (const auto& [id, adapter] : adapters_)
    for (const std::string& module : modules_of(adapter)) used.insert(module);
  for (auto it = bases_.begin(); it != bases_.end();)
    it = used.count(it->first) ? std::next(it) : bases_.erase(it);
}

void Fusion::rebuild_beside(size_t without) {
  beside_.replace(*model_, in_order(without));
}

void Fusion::fuse(const std::string& id, AdapterDeltas adapter) {
  if (model_->tuner)
    throw Error("BUSY", "[fuse] a trainer holds the model's weights: dispose it first");
  for (const auto& entry : adapters_)
    if (entry.first == id)
      throw Error("INVALID_ARGUMENT", "[fuse] adapter " + id + " is fused already");
  check(adapter);
  const bool quantized = model_->quantization != Quantization::none;
  if (quantized) Beside::check(adapter);
  try {
    hook(id, adapter.lorefts);
  } catch (...) {
    unhook(id);
    throw;
  }
  adapter.lorefts.clear();
  if (quantized) {
    adapters_.emplace_back(id, std::move(adapter));
    try {
      rebuild_beside(adapters_.size());
    } catch (...) {
      adapters_.pop_back();
      unhook(id);
      throw;
    }
    return;
  }
  for (const auto& entry : bases_) restore(entry.first);
  keep(adapter);
  adapters_.emplace_back(id, std::move(adapter));
  add_all();
}

void Fusion::unfuse(const std::string& id) {
  if (model_->tuner)
    throw Error("BUSY", "[unfuse] a trainer holds the model's weights: dispose it first");
  auto it = std::find_if(adapters_.begin(), adapters_.end(),
                         [&](const auto& entry) { return entry.first == id; });
  if (it == adapters_.end())
    throw Error("INVALID_ARGUMENT", "[unfuse] adapter " + id + " is not fused");
  if (model_->quantization != Quantization::none) {
    rebuild_beside(size_t(it - adapters_.begin()));
    unhook(id);
    adapters_.erase(it);
    return;
  }
  unhook(id);
  for (const auto& entry : bases_) restore(entry.first);
  adapters_.erase(it);
  forget_unused();
  add_all();
}

}  // namespace s2ft
