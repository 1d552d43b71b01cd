#include "napi/bench_ops.h"

#include <algorithm>

#include "napi/bench_worker.h"

namespace s2ft {

namespace {

constexpr int kFewestRounds = 5, kMostRounds = 100;
// One sample repeats a short operation until the clock's own cost does not show.
constexpr double kSampleSeconds = 5e-4;
constexpr double kMostRepeats = 1000;

double run_once(Backend& backend, const TimedOp& op) {
  if (op.prepare) {
    op.prepare();
    backend.synchronize();
  }
  const double begin = bench_now();
  op.run();
  backend.synchronize();
  return bench_now() - begin;
}

void expect(bool holds, const std::string& message) {
  if (!holds) throw Error("INVALID_ARGUMENT", "[bench] " + message);
}

OpsShape read_shape(const Napi::Object& o) {
  constexpr int64_t most = 1 << 20;
  OpsShape s;
  s.dtype = read_bench_dtype(o);
  s.tokens = read_bench_size(o, "tokens", most);
  s.hidden = read_bench_size(o, "hidden", most);
  s.intermediate = read_bench_size(o, "intermediate", most);
  s.heads = read_bench_size(o, "heads", 4096);
  s.kv_heads = read_bench_size(o, "kvHeads", 4096);
  s.head_dim = read_bench_size(o, "headDim", 1024);
  s.vocab = read_bench_size(o, "vocab", most);
  s.channels = read_bench_size(o, "channels", s.intermediate);
  s.rank = read_bench_size(o, "rank", most);
  expect(s.heads % s.kv_heads == 0, "heads: expected a multiple of kvHeads, found " +
                                        std::to_string(s.heads) + " and " +
                                        std::to_string(s.kv_heads));
  expect(s.head_dim % 2 == 0,
         "headDim: expected an even number, found " + std::to_string(s.head_dim));
  return s;
}

Napi::Value to_js(Napi::Env env, const std::vector<TimedOp>& ops) {
  auto out = Napi::Array::New(env, ops.size());
  for (size_t i = 0; i < ops.size(); ++i) {
    Napi::Object o = Napi::Object::New(env);
    o.Set("op", ops[i].name);
    o.Set("flops", ops[i].flops);
    o.Set("bytes", ops[i].bytes);
    o.Set("seconds", seconds_to_js(env, ops[i].seconds));
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
  const double end = bench_now() + seconds * double(n);
  for (int round = 0; round < kFewestRounds || (round < kMostRounds && bench_now() < end);
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
    const Napi::Object spec = bench_argument(info);
    const OpsShape shape = read_shape(spec);
    const std::string group = get_string(spec, "group");
    const double seconds = get_number(spec, "seconds");
    expect(seconds >= 0 && seconds <= 60, "seconds: expected 0 to 60");
    return run_bench(
        env, spec,
        [shape, group, seconds](Backend& backend, const std::atomic<bool>& stopping) {
          OpGroup made = make_op_group(backend, shape, group);
          measure(backend, made, seconds, stopping);
          return std::move(made.ops);
        },
        [](Napi::Env env, std::vector<TimedOp>& ops) -> Napi::Value {
          return to_js(env, ops);
        });
  });
}

}  // namespace s2ft
