// Attention by cuDNN's fused kernels, for batches of equally long causal sequences. Asked
// for by S2FT_CUDA_ATTENTION=cudnn; everything else, and everything that the library
// refuses, is this package's own kernels'.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "cuda/cudnn_graph.h"
#include "cuda/shared_library.h"

namespace s2ft::cuda {

/// What decides a plan: sizes, and the distance of rows in every matrix.
struct DnnShape {
  int64_t batch = 0, tokens = 0, heads = 0, kv_heads = 0, head_dim = 0;
  // q, k, v, o, lse; backward also d_o, dq, dk, dv.
  std::vector<int64_t> distances;

  bool operator<(const DnnShape& other) const;
};

/// cuDNN, opened once a process. Which library it is, and every place that was tried.
const SharedLibrary& cudnn_library();
/// All of its functions, or none where it lacks one or is too old.
dnn::Api load_dnn(const SharedLibrary& library);

/// The shape of a batch that the library's plans are for; none where sequences differ in
/// length, have a window, pages or keys that they did not bring themselves, where heads
/// do not lie in the order of their key/value heads, or where matrices are not bf16 in
/// vectors of 16 bytes. `mats` are q, k, v, o, lse, and for backward d_o, dq, dk, dv.
std::optional<DnnShape> dnn_shape(const std::vector<Mat>& mats,
                                  const Sequences& sequences,
                                  const AttentionShape& shape);

/// o and lse from q, k and v.
std::unique_ptr<dnn::ExecutionPlan> dnn_forward_plan(const dnn::Api& api,
                                                     const dnn::Device& device,
                                                     const DnnShape& shape);
/// dq, dk and dv; sums are taken in one order, so that the same input gives the same
/// bits.
std::unique_ptr<dnn::ExecutionPlan> dnn_backward_plan(const dnn::Api& api,
                                                      const dnn::Device& device,
                                                      const DnnShape& shape);

class Context;

/// The plans of one device. Does nothing without a handle.
class DnnAttention {
 public:
  struct Queue {
    /// Memory for what is queued until the next call.
    std::function<void*(size_t bytes)> scratch;
    /// Returns when all that was queued has run.
    std::function<void()> wait;
    /// Whether a plan is to be run now, by all that this depends on (Repeats). Where
    /// there is none, it always is.
    std::function<bool(const std::vector<uint64_t>& what)> proceed;
  };

  /// Owns the handle, whose work goes into the queue.
  DnnAttention(const dnn::Api& api, dnn::Handle handle, Queue queue);
  ~DnnAttention();
  DnnAttention(const DnnAttention&) = delete;

  /// With the library where the environment asks for it, else without. Throws
  /// INVALID_ARGUMENT for what the environment may not ask for, DEVICE_UNAVAILABLE where
  /// the library is not found.
  static std::unique_ptr<DnnAttention> open(Context& context);

  /// Who computes, with its version, or nothing.
  std::string name() const;
  /// Upper bound of the scratch that it takes for batches of so many tokens.
  size_t workspace_bytes(int64_t tokens, const AttentionShape& shape) const;
  /// Computes and says so, or leaves the work to the caller. Meaning as in backend.h.
  bool forward(Mat o, Mat lse, Mat q, Mat k, Mat v, const Sequences&,
               const AttentionShape&);
  bool backward(Mat dq, Mat dk, Mat dv, Mat d_o, Mat q, Mat k, Mat v, Mat o, Mat lse,
                const Sequences&, const AttentionShape&);

 private:
  struct Plan {
    std::unique_ptr<dnn::ExecutionPlan> plan;  // null: the library has none
    uint64_t number = 0;                       // of no other plan
  };
  using Plans = std::map<DnnShape, Plan>;
  using MakePlan = std::unique_ptr<dnn::ExecutionPlan>(const dnn::Api&,
                                                       const dnn::Device&,
                                                       const DnnShape&);

  const Plan& plan(Plans& plans, MakePlan* make, const DnnShape& shape);
  /// `memory` is on the device, the scalars are not; one of them is `scale`.
  void run(const Plan& plan, std::vector<dnn::Binding> memory,
           const std::vector<dnn::Binding>& scalars, float scale, void* workspace);

  dnn::Api api_;
  dnn::Handle handle_;
  Queue queue_;
  float lowest_ = 0;  // the score of a key that a query does not see
  Plans forward_, backward_;
  uint64_t plans_made_ = 0;
};

}  // namespace s2ft::cuda
