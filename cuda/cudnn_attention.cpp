#include "cuda/cudnn_attention.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "core/error.h"
#include "cuda/context.h"
#include "cuda/cudnn_ids.h"

namespace s2ft::cuda {

namespace {

// Backward in one order of sums keeps the scores of a batch in memory.
constexpr int64_t kMostWorkspace = int64_t(256) << 20;
// Each holds compiled code.
constexpr size_t kMostPlans = 64;
// From here on masks are minus infinity; before, the library wanted the lowest number.
constexpr size_t kInfiniteMasks = 91000;
constexpr size_t kLeastVersion = 90000;

/// Throws INVALID_ARGUMENT for a value that means nothing.
[[maybe_unused]] bool asked_for() {
  const char* value = std::getenv("S2FT_CUDA_ATTENTION");
  const std::string wanted = value ? value : "";
  if (wanted == "cudnn") return true;
  if (wanted.empty() || wanted == "own") return false;
  throw Error("INVALID_ARGUMENT",
              "S2FT_CUDA_ATTENTION: expected own or cudnn, found " + wanted);
}

const void* from(const Mat& m, int64_t row) {
  return m.row_range(row, 0).data;
}

bool in_vectors(const Mat& m) {
  return m.dtype == DType::bf16 && m.ld % 8 == 0 &&
         reinterpret_cast<uintptr_t>(m.data) % 16 == 0;
}

bool equally_long(const Sequences& s, int64_t tokens) {
  if (s.pages) return false;
  for (int i = 0; i < s.count; ++i) {
    if (s.q[i + 1] - s.q[i] != tokens || s.k_len[i] != tokens ||
        s.k_begin[i] - s.k_begin[0] != i * tokens)
      return false;
  }
  return true;
}

bool heads_in_order(const AttentionShape& shape) {
  if (shape.heads % shape.kv_heads) return false;
  const int group = shape.heads / shape.kv_heads;
  for (int h = 0; h < shape.heads; ++h)
    if (shape.kv_head_of[h] != h / group) return false;
  return true;
}

/// What the library keeps of a batch for backward: scores in bf16, in tiles of 128 rows
/// and 64 columns, and where key/value heads are shared, gradients of every query head's
/// own keys and values. No division of the tokens into sequences that are long enough to
/// be worth it takes more than one sequence of all tokens; backward() holds plans to it.
int64_t backward_bytes(int64_t tokens, const AttentionShape& shape) {
  const int64_t scores = shape.heads * (tokens + 127) * (tokens + 63) * 2;
  const bool shared = shape.heads != shape.kv_heads;
  return scores + (shared ? 4 * tokens * shape.heads * shape.head_dim : 0);
}

int64_t delta_bytes(int64_t rows, int64_t heads) {
  return (rows * heads * int64_t(sizeof(float)) + 255) / 256 * 256;
}

}  // namespace

const SharedLibrary& cudnn_library() {
  static const SharedLibrary library = open_library("libcudnn.so.9", "cudnn");
  return library;
}

dnn::Api load_dnn(const SharedLibrary& library) {
  dnn::Api api{};
  bool whole = bool(library);
  const auto find = [&](auto& function, const char* name) {
    function = library.function<std::remove_reference_t<decltype(function)>>(name);
    whole = whole && function;
  };
  find(api.create, "cudnnCreate");
  find(api.destroy, "cudnnDestroy");
  find(api.set_stream, "cudnnSetStream");
  find(api.version, "cudnnGetVersion");
  find(api.descriptor_create, "cudnnBackendCreateDescriptor");
  find(api.descriptor_destroy, "cudnnBackendDestroyDescriptor");
  find(api.descriptor_finalize, "cudnnBackendFinalize");
  find(api.attribute_set, "cudnnBackendSetAttribute");
  find(api.attribute_get, "cudnnBackendGetAttribute");
  find(api.execute, "cudnnBackendExecute");
  return whole && api.version() >= kLeastVersion ? api : dnn::Api{};
}

std::optional<DnnShape> dnn_shape(const std::vector<Mat>& mats, const Sequences& s,
                                  const AttentionShape& shape) {
  if (s.count == 0 || shape.window || shape.head_dim % 8 || shape.head_dim > 256)
    return {};
  const int64_t tokens = s.q[1] - s.q[0];
  if (tokens == 0 || !equally_long(s, tokens) || !heads_in_order(shape)) return {};
  DnnShape out{s.count, tokens, shape.heads, shape.kv_heads, shape.head_dim, {}};
  for (size_t i = 0; i < mats.size(); ++i) {
    if (!mats[i] || (i != kLse && !in_vectors(mats[i]))) return {};
    out.distances.push_back(mats[i].ld);
  }
  return out;
}

DnnAttention::DnnAttention(const dnn::Api& api, dnn::Handle handle, Queue queue)
    : api_(api), handle_(handle), queue_(std::move(queue)) {
  if (!handle_) return;
  lowest_ = api_.version() >= kInfiniteMasks ? -std::numeric_limits<float>::infinity()
                                             : std::numeric_limits<float>::lowest();
}

std::unique_ptr<DnnAttention> DnnAttention::open(Context& context) {
  dnn::Api api{};
  dnn::Handle handle = nullptr;
#ifndef S2FT_CUDA_EMULATION
  if (asked_for()) {
    api = load_dnn(cudnn_library());
    if (!api.create) {
      throw Error(
          "DEVICE_UNAVAILABLE",
          "S2FT_CUDA_ATTENTION asks for cuDNN 9, which was not found: pip install "
          "nvidia-cudnn-cu13, or see s2ft devices for every place that was tried");
    }
    dnn::Status status = api.create(&handle);
    if (status == 0 && (status = api.set_stream(handle, context.stream())) != 0)
      api.destroy(handle);
    if (status != 0) {
      throw Error("DEVICE_UNAVAILABLE",
                  "[cuda] cuDNN cannot be used on this device: it answered status " +
                      std::to_string(status));
    }
  }
#endif
  Queue queue{[&context](size_t bytes) { return context.scratch(bytes); },
              [&context] { context.synchronize(); },
              [&context](const std::vector<uint64_t>& what) {
                return context.repeats().proceed(Repeats::Tag::attention, what);
              }};
  return std::make_unique<DnnAttention>(api, handle, std::move(queue));
}

DnnAttention::~DnnAttention() {
  if (!handle_) return;
  try {
    queue_.wait();
  } catch (...) {
    // The device is lost, and nothing runs on it any more.
  }
  forward_.clear();
  backward_.clear();
  api_.destroy(handle_);
}

std::string DnnAttention::name() const {
  return handle_ ? "cudnn-" + std::to_string(api_.version()) : "";
}

size_t DnnAttention::workspace_bytes(int64_t tokens, const AttentionShape& shape) const {
  if (!handle_) return 0;
  const int64_t plan = std::min(backward_bytes(tokens, shape), kMostWorkspace);
  return size_t(delta_bytes(tokens, shape.heads) + plan);
}

const DnnAttention::Plan& DnnAttention::plan(Plans& plans, MakePlan* make,
                                             const DnnShape& shape) {
  const auto known = plans.find(shape);
  if (known != plans.end()) return known->second;
  if (plans.size() >= kMostPlans) {
    // Plans hold the code of what may still run.
    queue_.wait();
    plans.clear();
  }
  Plan made{make(api_, {handle_, nullptr}, shape), ++plans_made_};
  return plans.emplace(shape, std::move(made)).first->second;
}

void DnnAttention::run(const Plan& plan, std::vector<dnn::Binding> memory,
                       const std::vector<dnn::Binding>& scalars, float scale,
                       void* workspace) {
  if (queue_.proceed) {
    uint32_t bits;
    std::memcpy(&bits, &scale, sizeof bits);
    std::vector<uint64_t> what = {plan.number, bits,
                                  reinterpret_cast<uint64_t>(workspace)};
    for (const dnn::Binding& b : memory)
      what.push_back(reinterpret_cast<uint64_t>(b.data));
    if (!queue_.proceed(what)) return;
  }
  memory.insert(memory.end(), scalars.begin(), scalars.end());
  plan.plan->run(handle_, memory, workspace);
}

bool DnnAttention::forward(Mat o, Mat lse, Mat q, Mat k, Mat v, const Sequences& s,
                           const AttentionShape& shape) {
  if (!handle_) return false;
  const auto wanted = dnn_shape({q, k, v, o, lse}, s, shape);
  if (!wanted) return false;
  const Plan& p = plan(forward_, dnn_forward_plan, *wanted);
  if (!p.plan || p.plan->workspace_bytes() > workspace_bytes(q.rows, shape)) return false;
  run(p,
      {{kQ, from(q, s.q[0])},
       {kK, from(k, s.k_begin[0])},
       {kV, from(v, s.k_begin[0])},
       {kO, from(o, s.q[0])},
       {kLse, from(lse, s.q[0])}},
      {{kScale, &shape.scale}, {kLowest, &lowest_}}, shape.scale,
      queue_.scratch(p.plan->workspace_bytes()));
  return true;
}

bool DnnAttention::backward(Mat dq, Mat dk, Mat dv, Mat d_o, Mat q, Mat k, Mat v, Mat o,
                            Mat lse, const Sequences& s, const AttentionShape& shape) {
  if (!handle_) return false;
  const auto wanted = dnn_shape({q, k, v, o, lse, d_o, dq, dk, dv}, s, shape);
  // Making a plan takes long: none is made that could not be used.
  if (!wanted || wanted->batch * wanted->heads * wanted->tokens * wanted->tokens * 2 >
                     kMostWorkspace)
    return false;
  const Plan& p = plan(backward_, dnn_backward_plan, *wanted);
  const size_t delta = size_t(delta_bytes(q.rows, shape.heads));
  const size_t bytes = p.plan ? p.plan->workspace_bytes() : 0;
  if (!p.plan || delta + bytes > workspace_bytes(q.rows, shape)) return false;
  auto* scratch = static_cast<char*>(queue_.scratch(delta + bytes));
  const float one = 1;
  run(p,
      {{kQ, from(q, s.q[0])},
       {kK, from(k, s.k_begin[0])},
       {kV, from(v, s.k_begin[0])},
       {kO, from(o, s.q[0])},
       {kLse, from(lse, s.q[0])},
       {kDo, from(d_o, s.q[0])},
       {kDq, from(dq, s.q[0])},
       {kDk, from(dk, s.k_begin[0])},
       {kDv, from(dv, s.k_begin[0])},
       {kDelta, scratch}},
      {{kScale, &shape.scale}, {kOne, &one}, {kLowest, &lowest_}}, shape.scale,
      scratch + delta);
  return true;
}

}  // namespace s2ft::cuda
