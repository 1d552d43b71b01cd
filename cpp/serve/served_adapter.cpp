#include "serve/served_adapter.h"

#include "adapter/check.h"
#include "core/arena.h"
#include "core/error.h"
#include "model/elements.h"

namespace s2ft {

namespace {

constexpr const char* kWhere = "[adapter]";

void check_kinds(const AdapterDeltas& deltas) {
  auto refuse = [](const std::string& what) {
    throw Error("UNSUPPORTED", std::string(kWhere) + " " + what +
                                   " cannot run beside other adapters: fuse it into a "
                                   "model of its own");
  };
  if (!deltas.lorefts.empty()) refuse("a LoReFT adapter");
  if (!deltas.elements.empty()) refuse("a sparse adapter");
  for (const LoraDelta& l : deltas.loras)
    if (!l.magnitudes.empty()) refuse("a DoRA adapter");
}

/// A matrix whose element (i, j) is value(i, j), on the device.
template <class Value>
void fill(Backend& backend, Mat to, Value value) {
  std::vector<char> bytes(size_t(to.count()) * dtype_size(to.dtype));
  for (int64_t i = 0; i < to.rows; ++i)
    for (int64_t j = 0; j < to.cols; ++j)
      write_element(bytes.data(), to.dtype, i * to.cols + j, value(i, j));
  backend.upload(to.data, bytes.data(), bytes.size());
  backend.synchronize();
}

}  // namespace

ServedAdapter::ServedAdapter(Model& model, const AdapterDeltas& deltas) {
  check_deltas(model, deltas, kWhere);
  check_kinds(deltas);
  auto part_of = [&](const std::string& module) -> Part& {
    const auto [at, fresh] = parts_.try_emplace(&linear_of(model, module, kWhere));
    if (!fresh)
      throw Error("ADAPTER_MISMATCH",
                  std::string(kWhere) + " " + module + " is changed twice");
    return at->second;
  };
  auto place = [&](Arena& arena) {
    parts_.clear();
    for (const SliceDelta& s : deltas.slices) {
      Part& part = part_of(s.module);
      const Mat w = linear_of(model, s.module, kWhere).weight;
      const int64_t k = int64_t(s.index.size());
      void* index = arena.take(s.index.size() * sizeof(int32_t));
      (s.rows ? part.scatter : part.gather) = static_cast<int32_t*>(index);
      (s.rows ? part.a : part.b) = arena.matrix(model.dtype, k, s.rows ? w.cols : w.rows);
    }
    for (const LoraDelta& l : deltas.loras) {
      Part& part = part_of(l.module);
      const Mat w = linear_of(model, l.module, kWhere).weight;
      part.a = arena.matrix(model.dtype, l.r, w.cols);
      part.b = arena.matrix(model.dtype, l.r, w.rows);
    }
  };
  Arena count;
  place(count);
  Backend& backend = *model.backend;
  storage_ = backend.allocate(count.peak());
  Arena arena(storage_.data());
  place(arena);
  for (const SliceDelta& s : deltas.slices) {
    Part& part = parts_.at(model.find_linear(s.module));
    const int64_t k = int64_t(s.index.size());
    backend.upload(s.rows ? part.scatter : part.gather, s.index.data(),
                   s.index.size() * sizeof(int32_t));
    if (s.rows) {
      fill(backend, part.a,
           [&](int64_t i, int64_t j) { return s.delta[size_t(i * part.a.cols + j)]; });
    } else {
      fill(backend, part.b,
           [&](int64_t i, int64_t j) { return s.delta[size_t(j * k + i)]; });
    }
  }
  for (const LoraDelta& l : deltas.loras) {
    Part& part = parts_.at(model.find_linear(l.module));
    fill(backend, part.a,
         [&](int64_t i, int64_t j) { return l.a[size_t(i * part.a.cols + j)]; });
    fill(backend, part.b,
         [&](int64_t i, int64_t j) { return l.scale * l.b[size_t(j * l.r + i)]; });
  }
}

AdapterRows ServedAdapter::rows(const Linear& linear, int64_t begin,
                                int64_t count) const {
  AdapterRows out;
  const auto at = parts_.find(&linear);
  if (at == parts_.end()) return out;
  const Part& part = at->second;
  out.begin = begin;
  out.count = count;
  out.k = part.a ? part.a.rows : part.b.rows;
  out.a = part.a;
  out.b = part.b;
  out.gather = part.gather;
  out.scatter = part.scatter;
  return out;
}

}  // namespace s2ft
