// The transformer's forward and backward pass over a packed batch, written once against
// the backend's operations.
#pragma once

#include <atomic>
#include <functional>

#include "core/error.h"
#include "model/activations.h"
#include "model/batch.h"

namespace s2ft {

/// Keys and values of decoded sequences, row by row.
struct KvCache {
  int64_t rows = 0;
  std::vector<Mat> k, v;  // per layer (rows, kv)
  Buffer storage;
};

KvCache make_kv_cache(const Model& model, int64_t rows);

/// What is added to the linear layers' outputs, beside the model's own weights.
class AddedOutputs {
 public:
  virtual ~AddedOutputs() = default;
  /// y += ...   y (T, out), x (T, in)
  virtual void add(Backend& backend, const Linear& linear, Mat y, Mat x) const = 0;
};

struct Pass {
  Model& model;
  const Batch& batch;
  Activations& activations;
  bool training = false;                      // dropout on
  KvCache* cache = nullptr;                   // k and v go there and are read from there
  const int32_t* cache_rows = nullptr;        // [T] distinct rows of the cache
  const std::atomic<bool>* cancel = nullptr;  // checked at layer boundaries
  const std::atomic<bool>* stop = nullptr;    // likewise
  const AddedOutputs* added = nullptr;
};

/// Fills activations up to `output`. Throws CANCELLED.
void forward(const Pass& pass);

/// A predicting row whose loss is not a finite number.
struct NonFiniteRow : Error {
  NonFiniteRow(const std::string& message, int sample_index)
      : Error("NOT_FINITE", message), sample(sample_index) {}
  int sample;
};

/// Negative log-likelihoods of batch.targets from `output`, into activations.nll. With
/// `gradient_scale` != 0 also the gradient of gradient_scale * sum(nll) into d_stream
/// (and the head's and final norm's parameters).
void loss_head(const Pass& pass, float gradient_scale);

/// Looks at the losses of batch.targets. Throws NonFiniteRow.
void require_finite(const Batch& batch, const float* nll);

/// body(i, logits) for chunk after chunk of the rows of `output`: the logits of rows i,
/// i + 1, ..., which body may change.   logits (n, vocabulary, f32)
void each_logits_chunk(const Pass& pass, const std::vector<int32_t>& rows,
                       const std::function<void(int64_t i, Mat logits)>& body);

/// Logits of the given rows of `output`, to host. With `normalizers` [n] also the
/// logarithms of the sums of their exponentials.   out [n * vocabulary]
void logits_of_rows(const Pass& pass, const std::vector<int32_t>& rows, float* out,
                    float* normalizers = nullptr);

/// -log p(target) of the given rows of `output`, whose logits stay on the device.
/// out, targets [n]
void losses_of_rows(const Pass& pass, const std::vector<int32_t>& rows,
                    const std::vector<int32_t>& targets, float* out);

/// From d_stream down to the lowest trainable layer: adds to every parameter's gradient.
void backward(const Pass& pass);

}  // namespace s2ft
