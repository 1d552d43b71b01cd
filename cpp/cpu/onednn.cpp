// Matrix products by oneDNN: one matmul primitive per shape, layout and type.
#include "cpu/onednn.h"

#ifndef S2FT_HAVE_ONEDNN

namespace s2ft {
std::unique_ptr<OneDnn> OneDnn::create() {
  return nullptr;
}
}  // namespace s2ft

#else

#include <array>
#include <cstring>
#include <list>
#include <mutex>
#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

#include "core/error.h"

namespace s2ft {
namespace {

constexpr size_t kPrimitives = 512;

struct Key {
  // M, N, K, the three leading dimensions, and the flags and types as bits.
  std::array<int64_t, 7> v;
  bool operator==(const Key& other) const { return v == other.v; }
};

struct KeyHash {
  size_t operator()(const Key& key) const {
    uint64_t h = 1469598103934665603u;
    for (int64_t x : key.v) h = (h ^ uint64_t(x)) * 1099511628211u ^ (h >> 29);
    return size_t(h);
  }
};

struct Entry {
  dnnl::matmul primitive;  // empty: only a reference implementation exists
  dnnl::memory::desc a, b, c, scratch;
  bool usable() const { return bool(primitive.get(true)); }
};

dnnl::memory::desc describe(const Mat& m, bool transposed) {
  const auto type = m.dtype == DType::f32 ? dnnl::memory::data_type::f32
                                          : dnnl::memory::data_type::bf16;
  // A single row's distance to the next means nothing, and could read as overlap.
  const int64_t ld = m.rows == 1 ? m.cols : m.ld;
  if (transposed) return {{m.cols, m.rows}, type, {1, ld}};
  return {{m.rows, m.cols}, type, {ld, 1}};
}

class OneDnnImpl final : public OneDnn {
 public:
  OneDnnImpl() : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {}

  bool matmul(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b, float beta,
              ScratchPool& pool) override {
    try {
      const std::shared_ptr<Entry> entry = find(c, a, transpose_a, b, transpose_b, beta);
      if (!entry->usable()) return false;
      ScratchPool::Lease scratch = pool.take(entry->scratch.get_size());
      std::unordered_map<int, dnnl::memory> arguments = {
          {DNNL_ARG_SRC, {entry->a, engine_, a.data}},
          {DNNL_ARG_WEIGHTS, {entry->b, engine_, b.data}},
          {DNNL_ARG_DST, {entry->c, engine_, c.data}}};
      if (entry->scratch.get_size()) {
        arguments.insert(
            {DNNL_ARG_SCRATCHPAD, {entry->scratch, engine_, scratch.data()}});
      }
      entry->primitive.execute(stream_, arguments);
      return true;
    } catch (const dnnl::error& e) {
      throw error(e, c);
    }
  }

  std::string version() const override {
    const dnnl_version_t* v = dnnl_version();
    return "oneDNN " + std::to_string(v->major) + "." + std::to_string(v->minor) + "." +
           std::to_string(v->patch);
  }

 private:
  static Error error(const dnnl::error& e, const Mat& c) {
    const std::string where = "matmul to " + std::to_string(c.rows) + " x " +
                              std::to_string(c.cols) + " " + dtype_name(c.dtype);
    if (e.status == dnnl_out_of_memory) {
      return Error("OUT_OF_MEMORY", "oneDNN ran out of memory in a " + where);
    }
    return Error("INTERNAL",
                 std::string("oneDNN failed in a ") + where + ": " + e.what());
  }

  std::shared_ptr<Entry> find(const Mat& c, const Mat& a, bool transpose_a, const Mat& b,
                              bool transpose_b, float beta) {
    const int64_t depth = transpose_a ? a.rows : a.cols;
    const int64_t bits = int64_t(transpose_a) | int64_t(transpose_b) << 1 |
                         int64_t(beta != 0) << 2 | int64_t(a.dtype == DType::bf16) << 3 |
                         int64_t(c.dtype == DType::bf16) << 4;
    const Key key{{c.rows, c.cols, depth, a.ld, b.ld, c.ld, bits}};
    {
      std::lock_guard<std::mutex> lock(mutex_);
      const auto at = index_.find(key);
      if (at != index_.end()) {
        recent_.splice(recent_.begin(), recent_, at->second);
        return at->second->second;
      }
    }
    auto entry = build(c, a, transpose_a, b, transpose_b, beta);
    std::lock_guard<std::mutex> lock(mutex_);
    const auto at = index_.find(key);
    if (at != index_.end()) return at->second->second;
    recent_.emplace_front(key, entry);
    index_[key] = recent_.begin();
    if (recent_.size() > kPrimitives) {
      index_.erase(recent_.back().first);
      recent_.pop_back();
    }
    return entry;
  }

  std::shared_ptr<Entry> build(const Mat& c, const Mat& a, bool transpose_a, const Mat& b,
                               bool transpose_b, float beta) {
    auto entry = std::make_shared<Entry>();
    entry->a = describe(a, transpose_a);
    entry->b = describe(b, transpose_b);
    entry->c = describe(c, false);
    dnnl::primitive_attr attributes;
    // Scratch of ours: oneDNN's own is bound to the thread that built the primitive.
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    if (beta != 0) {
      dnnl::post_ops sum;
      sum.append_sum(1.0f);
      attributes.set_post_ops(sum);
    }
    const dnnl::matmul::desc desc(entry->a, entry->b, entry->c);
    const dnnl::matmul::primitive_desc chosen(desc, attributes, engine_, true);
    if (!chosen) return entry;
    const std::string implementation = chosen.impl_info_str();
    if (implementation.find("ref") != std::string::npos) return entry;
    entry->scratch = chosen.scratchpad_desc();
    entry->primitive = dnnl::matmul(chosen);
    return entry;
  }

  dnnl::engine engine_;
  dnnl::stream stream_;
  std::mutex mutex_;
  std::list<std::pair<Key, std::shared_ptr<Entry> > > recent_;
  std::unordered_map<Key, decltype(recent_)::iterator, KeyHash> index_;
};

}  // namespace

std::unique_ptr<OneDnn> OneDnn::create() {
  return std::make_unique<OneDnnImpl>();
}

}  // namespace s2ft

#endif
