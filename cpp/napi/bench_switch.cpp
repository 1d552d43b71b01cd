// Owns the weights and adapters while they are measured. A round takes every weight
// through fuse, switch and unfuse with one method after another, so that ratios pair
// figures of the same moment; several weights keep all but the largest out of the caches.
#include "napi/bench_switch.h"

#include <algorithm>

#include "adapter/fused_weight.h"
#include "core/rng.h"
#include "napi/bench_worker.h"

namespace s2ft {

namespace {

struct SwitchSpec {
  DType dtype = DType::f32;
  int64_t width = 0, weights = 0, rank = 0, channels = 0, rounds = 0;
  std::vector<std::string> methods;
};

/// Seconds for one weight, an entry a round.
struct SwitchTimes {
  std::string method;
  int64_t parameters = 0;
  std::vector<double> fuse, exchange, unfuse;
  size_t kept_bytes = 0;  // of the base, for one weight
};

std::vector<float> random_floats(Rng& rng, int64_t n) {
  std::vector<float> out(size_t(n), 0.0f);
  for (float& x : out) x = 0.02f * (rng.uniform() - 0.5f);
  return out;
}

/// One adapter of one weight.
class SwitchAdapter {
 public:
  SwitchAdapter(const std::string& method, const SwitchSpec& s, Rng& rng) {
    if (method == "lora") {
      lora_.r = s.rank, lora_.scale = 2;
      lora_.a = random_floats(rng, s.rank * s.width);
      lora_.b = random_floats(rng, s.rank * s.width);
      part_ = &lora_;
      return;
    }
    slice_.rows = method == "s2ft-rows";
    std::vector<int32_t> all(static_cast<size_t>(s.width));
    for (size_t i = 0; i < all.size(); ++i) all[i] = int32_t(i);
    rng.shuffle(all.data(), all.size());
    slice_.index.assign(all.begin(), all.begin() + s.channels);
    std::sort(slice_.index.begin(), slice_.index.end());
    slice_.delta = random_floats(rng, s.channels * s.width);
    part_ = &slice_;
  }
  SwitchAdapter(const SwitchAdapter&) = delete;

  FusedWeight::Part part() const { return part_; }
  int64_t parameters() const {
    return int64_t(slice_.delta.size() + lora_.a.size() + lora_.b.size());
  }

 private:
  SliceDelta slice_;
  LoraDelta lora_;
  FusedWeight::Part part_;
};

class SwitchBench {
 public:
  SwitchBench(Backend& backend, const SwitchSpec& spec) : b_(backend), s_(spec) {
    Rng rng(1);
    const size_t bytes = size_t(s_.width * s_.width) * dtype_size(s_.dtype);
    for (int64_t i = 0; i < s_.weights; ++i) {
      storage_.push_back(b_.allocate(bytes));
      weights_.push_back(mat(storage_.back().data(), s_.dtype, s_.width, s_.width));
      fill(weights_.back(), rng);
    }
    for (const std::string& method : s_.methods) {
      Run run;
      run.times.method = method;
      for (int64_t i = 0; i < 2 * s_.weights; ++i)
        run.adapters.push_back(std::make_unique<SwitchAdapter>(method, s_, rng));
      run.times.parameters = run.adapters[0]->parameters();
      runs_.push_back(std::move(run));
    }
  }

  std::vector<SwitchTimes> measure(const std::atomic<bool>& stopping) {
    const uint64_t before = checksum();
    // The first round touches memory for the first time and does not count.
    for (int64_t round = -1; round < s_.rounds; ++round) {
      for (size_t i = 0; i < runs_.size(); ++i) {
        Run& run = runs_[round % 2 ? runs_.size() - 1 - i : i];
        if (stopping) throw Error("CANCELLED", "the benchmark was cancelled");
        std::vector<FusedWeight> fused(weights_.size());
        const double fuse = pass(fused, run, 0), exchange = pass(fused, run, 1);
        run.times.kept_bytes = fused[0].kept_bytes();
        const double unfuse = pass(fused, run, 2);
        if (round < 0) continue;
        run.times.fuse.push_back(fuse);
        run.times.exchange.push_back(exchange);
        run.times.unfuse.push_back(unfuse);
      }
    }
    if (checksum() != before)
      throw Error("INTERNAL", "[bench] the weights differ from the base after unfuse");
    std::vector<SwitchTimes> out;
    for (Run& run : runs_) out.push_back(std::move(run.times));
    return out;
  }

 private:
  struct Run {
    SwitchTimes times;
    std::vector<std::unique_ptr<SwitchAdapter>> adapters;  // two a weight
  };

  /// Puts each weight's first or second adapter in the place of what was there, or
  /// nothing; seconds for one weight.
  double pass(std::vector<FusedWeight>& fused, const Run& run, size_t which) {
    const double begin = bench_now();
    for (size_t i = 0; i < weights_.size(); ++i) {
      std::vector<FusedWeight::Part> parts;
      if (which < 2) parts.push_back(run.adapters[2 * i + which]->part());
      fused[i].apply(b_, weights_[i], fused[i].plan(b_, weights_[i], parts));
    }
    return (bench_now() - begin) / double(weights_.size());
  }

  void fill(Mat w, Rng& rng) {
    const std::vector<float> values = random_floats(rng, 1 << 16);
    const int64_t n = int64_t(values.size());
    const Buffer staging = b_.allocate(values.size() * sizeof(float));
    b_.upload(staging.data(), values.data(), values.size() * sizeof(float));
    for (int64_t i = 0; i < w.count(); i += n) {
      const int64_t part = std::min(n, w.count() - i);
      const Mat to = mat(w.data, w.dtype, 1, w.count()).col_range(i, part);
      b_.copy(to, mat(staging.data(), DType::f32, 1, part));
    }
    b_.synchronize();
  }

  uint64_t checksum() {
    std::vector<char> row(size_t(s_.width) * dtype_size(s_.dtype));
    uint64_t sum = 0;
    for (const Mat& w : weights_) {
      for (int64_t i = 0; i < w.rows; ++i) {
        b_.download(row.data(), w.row_range(i, 1).data, row.size());
        for (size_t k = 0; k + 4 <= row.size(); k += 4) {
          uint32_t bits;
          std::memcpy(&bits, row.data() + k, 4);
          sum = (sum ^ bits) * 0x100000001b3u;
        }
      }
    }
    return sum;
  }

  Backend& b_;
  const SwitchSpec s_;
  std::vector<Buffer> storage_;
  std::vector<Mat> weights_;
  std::vector<Run> runs_;
};

SwitchSpec read_spec(const Napi::Object& o) {
  SwitchSpec s;
  s.dtype = read_bench_dtype(o);
  s.width = read_bench_size(o, "width", 1 << 16);
  s.weights = read_bench_size(o, "weights", 1 << 16);
  s.rank = read_bench_size(o, "rank", s.width);
  s.channels = read_bench_size(o, "channels", s.width);
  s.rounds = read_bench_size(o, "rounds", 1000);
  s.methods = get_strings(get(o, "methods"), "methods");
  for (const std::string& method : s.methods) check_served_method(method, "methods");
  return s;
}

Napi::Value to_js(Napi::Env env, const std::vector<SwitchTimes>& times) {
  auto out = Napi::Array::New(env, times.size());
  for (size_t i = 0; i < times.size(); ++i) {
    Napi::Object o = Napi::Object::New(env);
    o.Set("method", times[i].method);
    o.Set("parameters", double(times[i].parameters));
    o.Set("keptBytes", double(times[i].kept_bytes));
    o.Set("fuse", seconds_to_js(env, times[i].fuse));
    o.Set("switch", seconds_to_js(env, times[i].exchange));
    o.Set("unfuse", seconds_to_js(env, times[i].unfuse));
    out.Set(uint32_t(i), o);
  }
  return out;
}

}  // namespace

Napi::Value bench_switch_js(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    const Napi::Object object = bench_argument(info);
    return run_bench(
        env, object,
        [spec = read_spec(object)](Backend& backend, const std::atomic<bool>& stopping) {
          return SwitchBench(backend, spec).measure(stopping);
        },
        [](Napi::Env env, std::vector<SwitchTimes>& times) -> Napi::Value {
          return to_js(env, times);
        });
  });
}

}  // namespace s2ft
