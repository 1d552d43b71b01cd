#include "napi/bench_ops.h"

#include <algorithm>
#include <chrono>

#include "core/threads.h"
#include "cpu/cpu_backend.h"
#include "napi/async.h"
#include "napi/convert.h"

namespace s2ft {

namespace {

constexpr int kFewestRounds = 5, kMostRounds = 100;
// One sample repeats a short operation until the clock's own cost does not show.
constexpr double kSampleSeconds = 5e-4;
constexpr double kMostRepeats = 1000;

double now() {
  const auto t = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(t).count();
}

double run_once(Backend& backend, const TimedOp& op) {
  if (op.prepare) {
    op.prepare();
    backend.synchronize();
  }
  const double begin = now();
  op.run();
  backend.synchronize();
  return now() - begin;
}

int64_t read_size(const Napi::Object& o, const char* key, int64_t most) {
  const int64_t n = get_int(o, key);
  if (n >= 1 && n <= most) return n;
  throw Error("INVALID_ARGUMENT", std::string("[bench] ") + key + ": expected 1 to " +
                                      std::to_string(most) + ", found " +
                                      std::to_string(n));
}

void expect(bool holds, const std::string& message) {
  if (!holds) throw Error("INVALID_ARGUMENT", "[bench] " + message);
}

OpsShape read_shape(const Napi::Object& o) {
  constexpr int64_t most = 1 << 20;
  OpsShape s;
  const std::string dtype = get_string(o, "dtype");
  expect(dtype == "f32" || dtype == "bf16",
         "dtype: expected f32 or bf16, found " + dtype);
  s.dtype = dtype == "f32" ? DType::f32 : DType::bf16;
  s.tokens = read_size(o, "tokens", most);
  s.hidden = read_size(o, "hidden", most);
  s.intermediate = read_size(o, "intermediate", most);
  s.heads = read_size(o, "heads", 4096);
  s.kv_heads = read_size(o, "kvHeads", 4096);
  s.head_dim = read_size(o, "headDim", 1024);
  s.vocab = read_size(o, "vocab", most);
  s.channels = read_size(o, "channels", s.intermediate);
  s.rank = read_size(o, "rank", most);
  expect(s.heads % s.kv_heads == 0, "heads: expected a multiple of kvHeads, found " +
                                        std::to_string(s.heads) + " and " +
                                        std::to_string(s.kv_heads));
  expect(s.head_dim % 2 == 0,
         "headDim: expected an even number, found " + std::to_string(s.head_dim));
  return s;
}

CpuOptions read_options(const Napi::Object& o) {
  CpuOptions options;
  const int64_t threads = get_int(o, "threads");
  expect(threads >= 0 && threads <= 4096,
         "threads: expected 0 to 4096, found " + std::to_string(threads));
  options.threads = threads ? int(threads) : available_cpus();
  const std::string name = get_string(o, "arithmetic");
  expect(name == "auto" || name == "native" || name == "widen",
         "arithmetic: expected auto, native or widen, found " + name);
  if (name == "native") options.arithmetic = Arithmetic::native;
  if (name == "widen") options.arithmetic = Arithmetic::widen;
  return options;
}

Napi::Value to_js(Napi::Env env, const std::vector<TimedOp>& ops) {
  auto out = Napi::Array::New(env, ops.size());
  for (size_t i = 0; i < ops.size(); ++i) {
    auto seconds = Napi::Array::New(env, ops[i].seconds.size());
    for (size_t j = 0; j < ops[i].seconds.size(); ++j)
      seconds.Set(uint32_t(j), ops[i].seconds[j]);
    Napi::Object o = Napi::Object::New(env);
    o.Set("op", ops[i].name);
    o.Set("flops", ops[i].flops);
    o.Set("bytes", ops[i].bytes);
    o.Set("seconds", seconds);
    out.Set(uint32_t(i), o);
  }
  return out;
}

}  // namespace

void measure(Backend& backend, OpGroup& group, double seconds,
             const std::atomic<bool>& stopping) {
  std::vector<int> repeats;
  auto check = [&stopping] {
    if (stopping) throw Error("CANCELLED", "the benchmark was cancelled");
  };
  for (const TimedOp& op : group.ops) {
    check();
    run_once(backend, op);  // compiles product kernels, touches memory
    const double typical = std::max(run_once(backend, op), 1e-9);
    repeats.push_back(int(std::clamp(kSampleSeconds / typical, 1.0, kMostRepeats)));
  }
  const size_t n = group.ops.size();
  const double end = now() + seconds * double(n);
  for (int round = 0; round < kFewestRounds || (round < kMostRounds && now() < end);
       ++round) {
    for (size_t i = 0; i < n; ++i) {
      const size_t at = round % 2 ? n - 1 - i : i;
      TimedOp& op = group.ops[at];
      double sum = 0;
      for (int k = 0; k < repeats[at]; ++k) {
        check();
        sum += run_once(backend, op);
      }
      op.seconds.push_back(sum / repeats[at]);
    }
  }
}

Napi::Value bench_ops_js(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&]() -> Napi::Value {
    if (!info[0].IsObject())
      throw Error("INVALID_ARGUMENT", "[bench] expected an object of sizes");
    const auto spec = info[0].As<Napi::Object>();
    const OpsShape shape = read_shape(spec);
    const CpuOptions options = read_options(spec);
    const std::string group = get_string(spec, "group");
    const double seconds = get_number(spec, "seconds");
    expect(seconds >= 0 && seconds <= 60, "seconds: expected 0 to 60");
    Instance& instance = Instance::of(env);
    instance.collect_workers();
    auto worker = instance.make_worker([n = options.threads] { enter_worker_thread(n); });
    return run_async(
        env, worker,
        // The task that holds this closure holds the worker as well.
        [shape, options, group, seconds, worker = worker.get()] {
          const auto backend = make_cpu_backend(options);
          OpGroup made = make_op_group(*backend, shape, group);
          measure(*backend, made, seconds, worker->stopping);
          return std::move(made.ops);
        },
        [](Napi::Env env, std::vector<TimedOp>& ops) -> Napi::Value {
          return to_js(env, ops);
        });
  });
}

}  // namespace s2ft
