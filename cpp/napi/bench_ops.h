// Times single operations of the backend. A group owns the buffers of its operations and
// is made, measured and freed on one worker.
#pragma once

#include <napi.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "tune/parts.h"

namespace s2ft {

/// Sizes of one transformer block and of what trains in it.
struct OpsShape {
  DType dtype = DType::f32;
  int64_t tokens = 0, hidden = 0, intermediate = 0;
  int64_t heads = 0, kv_heads = 0, head_dim = 0, vocab = 0;
  int64_t channels = 0;  // S2FT: of gate, up and down
  int64_t rank = 0;      // LoRA
};

struct TimedOp {
  std::string name;
  double flops = 0;               // 0 where memory is the limit
  double bytes = 0;               // operands read and results written, once each
  std::function<void()> run;      // timed
  std::function<void()> prepare;  // not timed; before every run, may be empty
  std::vector<double> seconds;    // of one run, one entry a round
};

/// Operations that are measured in turns, and the memory that they work on.
struct OpGroup {
  std::vector<Buffer> storage;
  std::vector<std::unique_ptr<TunedPart>> parts;
  std::vector<TimedOp> ops;
};

/// `name` is copy, products, attention, elementwise or method (the published kernels over
/// one feed-forward block). Throws INVALID_ARGUMENT for another, OUT_OF_MEMORY.
OpGroup make_op_group(Backend& backend, const OpsShape& shape, const std::string& name);

/// At least five rounds over all operations, every second one backwards, and more until
/// `seconds` an operation have passed. Throws CANCELLED once `stopping` is raised.
void measure(Backend& backend, OpGroup& group, double seconds,
             const std::atomic<bool>& stopping);

Napi::Value bench_ops_js(const Napi::CallbackInfo& info);

}  // namespace s2ft
