// Owns a square weight, a batch, and all adapters that are resident beside it, in the
// form in which the engine serves them (serve/served_adapter.h): each one allocation.
#include "napi/bench_layer.h"

#include <algorithm>

#include "core/arena.h"
#include "core/memory.h"
#include "core/rng.h"
#include "napi/bench_worker.h"

namespace s2ft {

namespace {

struct LayerSpec {
  DType dtype = DType::f32;
  int64_t width = 0, adapters = 0, batch = 0, k = 0, rounds = 0, passes = 0;
  std::string method;
};

struct LayerTimes {
  int64_t parameters = 0;     // of an adapter
  double resident_bytes = 0;  // of the process, by all adapters
  // Of a batch and of what adapters add to it: a round's median, an entry a round.
  std::vector<double> seconds, adapter_seconds;
};

double middle(std::vector<double> values) {
  const auto at = values.begin() + int64_t(values.size() / 2);
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

class LayerBench {
 public:
  LayerBench(Backend& backend, const LayerSpec& spec) : b_(backend), s_(spec) {
    values_.resize(size_t(1) << 20);
    for (float& x : values_) x = 0.05f * (rng_.uniform() - 0.5f);
    weight_ = random(s_.width, s_.width);
    x_ = random(s_.batch, s_.width);
    y_ = random(s_.batch, s_.width);
    pattern_ = random(1, int64_t(values_.size()));
    const size_t before = resident_bytes();
    adapters_.reserve(size_t(s_.adapters));
    for (int64_t i = 0; i < s_.adapters; ++i) add_adapter();
    times_.resident_bytes = double(resident_bytes()) - double(before);
  }

  LayerTimes measure(const std::atomic<bool>& stopping) {
    for (int64_t round = -1; round < s_.rounds; ++round) {  // the first does not count
      std::vector<double> seconds, adapter_seconds;
      for (int64_t pass = 0; pass < s_.passes; ++pass) {
        if (stopping) throw Error("CANCELLED", "the benchmark was cancelled");
        const std::vector<AdapterRows> groups = draw();
        const double begin = bench_now();
        b_.matmul(y_, x_, false, weight_, true, 0);
        b_.synchronize();
        const double between = bench_now();
        b_.add_adapters(y_, x_, groups.data(), int(groups.size()));
        b_.synchronize();
        const double end = bench_now();
        seconds.push_back(end - begin);
        adapter_seconds.push_back(end - between);
      }
      if (round < 0) continue;
      times_.seconds.push_back(middle(seconds));
      times_.adapter_seconds.push_back(middle(adapter_seconds));
    }
    return times_;
  }

 private:
  struct Resident {
    AdapterRows rows;
    Buffer storage;
  };

  Mat random(int64_t rows, int64_t cols) {
    storage_.push_back(b_.allocate(size_t(rows * cols) * dtype_size(s_.dtype)));
    const Mat m = mat(storage_.back().data(), s_.dtype, rows, cols);
    const int64_t n = int64_t(values_.size());
    const Buffer staging = b_.allocate(values_.size() * sizeof(float));
    b_.upload(staging.data(), values_.data(), values_.size() * sizeof(float));
    const Mat to = mat(m.data, m.dtype, 1, m.count());
    for (int64_t i = 0; i < m.count(); i += n) {
      const int64_t part = std::min(n, m.count() - i);
      b_.copy(to.col_range(i, part), mat(staging.data(), DType::f32, 1, part));
    }
    b_.synchronize();
    return m;
  }

  void add_adapter() {
    Resident made;
    AdapterRows& r = made.rows;
    r.count = 1, r.k = s_.k;
    std::vector<int32_t> index(static_cast<size_t>(s_.k));
    const auto place = [&](Arena& arena) {
      if (s_.method != "lora") {
        void* at = arena.take(index.size() * sizeof(int32_t));
        (s_.method == "s2ft-cols" ? r.gather : r.scatter) = static_cast<int32_t*>(at);
      }
      if (s_.method != "s2ft-cols") r.a = arena.matrix(s_.dtype, s_.k, s_.width);
      if (s_.method != "s2ft-rows") r.b = arena.matrix(s_.dtype, s_.k, s_.width);
    };
    Arena count;
    place(count);
    made.storage = b_.allocate(count.peak());
    Arena arena(made.storage.data());
    place(arena);
    for (int64_t j = 0; j < s_.k; ++j) {  // distinct and ascending, one of each stretch
      const int64_t from = s_.width * j / s_.k, to = s_.width * (j + 1) / s_.k;
      index[size_t(j)] = int32_t(from + int64_t(rng_.below(uint64_t(to - from))));
    }
    void* places = const_cast<int32_t*>(r.gather ? r.gather : r.scatter);
    if (places) b_.upload(places, index.data(), index.size() * sizeof(int32_t));
    for (const Mat& m : {r.a, r.b}) {
      if (!m) continue;
      for (int64_t i = 0; i < m.rows; ++i) {
        const int64_t at = int64_t(rng_.below(uint64_t(pattern_.cols - m.cols)));
        b_.copy(m.row_range(i, 1), pattern_.col_range(at, m.cols));
      }
    }
    times_.parameters = r.a.count() + r.b.count();
    adapters_.push_back(std::move(made));
  }

  /// A batch of requests with different adapters, which the caches do not have.
  std::vector<AdapterRows> draw() {
    std::vector<size_t> chosen;
    while (int64_t(chosen.size()) < s_.batch) {
      const size_t i = size_t(rng_.below(uint64_t(s_.adapters)));
      if (std::find(chosen.begin(), chosen.end(), i) == chosen.end()) chosen.push_back(i);
    }
    std::vector<AdapterRows> groups;
    for (size_t i : chosen) {
      groups.push_back(adapters_[i].rows);
      groups.back().begin = int64_t(groups.size()) - 1;
    }
    return groups;
  }

  Backend& b_;
  const LayerSpec s_;
  Rng rng_{1};
  std::vector<float> values_;
  std::vector<Buffer> storage_;
  Mat weight_, x_, y_, pattern_;
  std::vector<Resident> adapters_;
  LayerTimes times_;
};

LayerSpec read_spec(const Napi::Object& o) {
  LayerSpec s;
  s.dtype = read_bench_dtype(o);
  s.width = read_bench_size(o, "width", 1 << 16);
  s.adapters = read_bench_size(o, "adapters", 1 << 24);
  s.batch = read_bench_size(o, "batch", s.adapters);
  s.k = read_bench_size(o, "k", s.width);
  s.rounds = read_bench_size(o, "rounds", 1000);
  s.passes = read_bench_size(o, "passes", 1 << 20);
  s.method = get_string(o, "method");
  check_served_method(s.method, "method");
  return s;
}

}  // namespace

Napi::Value bench_layer_js(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const Napi::Object object = bench_argument(info);
    return run_bench(
        env, object,
        [spec = read_spec(object)](Backend& backend, const std::atomic<bool>& stopping) {
          return LayerBench(backend, spec).measure(stopping);
        },
        [](Napi::Env env, LayerTimes& times) -> Napi::Value {
          Napi::Object o = Napi::Object::New(env);
          o.Set("parameters", double(times.parameters));
          o.Set("residentBytes", times.resident_bytes);
          o.Set("seconds", seconds_to_js(env, times.seconds));
          o.Set("adapterSeconds", seconds_to_js(env, times.adapter_seconds));
          return o;
        });
  });
}

}  // namespace s2ft
