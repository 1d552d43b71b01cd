// The transformer's forward and backward pass over a packed batch, written once against
// the backend's operations.
#pragma once

#include <atomic>

#include "core/error.h"
#include "model/activations.h"
#include "model/batch.h"

namespace s2ft {

/// Keys and values of decoded sequences: slot s owns rows [s * capacity, (s+1) *
/// capacity) of every layer's two matrices.
struct KvCache {
  int slots = 0, capacity = 0;
  std::vector<Mat> k, v;  // per layer (slots * capacity, kv)
  Buffer storage;
};

KvCache make_kv_cache(const Model& model, int slots, int capacity);

struct Pass {
  Model& model;
  const Batch& batch;
  Activations& activations;
  bool training = false;                      // dropout on
  KvCache* cache = nullptr;                   // k and v go there and are read from there
  const int32_t* cache_rows = nullptr;        // [T] rows of the cache
  const std::atomic<bool>* cancel = nullptr;  // checked at layer boundaries
  const std::atomic<bool>* stop = nullptr;    // likewise
};

/// Fills activations up to `output`. Throws CANCELLED.
void forward(const Pass& pass);

/// What the loss head computes for the rows that predict.
struct HeadResult {
  std::vector<float> nll;  // [N] -log p(target)
};

/// A predicting row whose loss is not a finite number.
struct NonFiniteRow : Error {
  NonFiniteRow(const std::string& message, int sample_index)
      : Error("NOT_FINITE", message), sample(sample_index) {}
  int sample;
};

/// Negative log-likelihoods of batch.targets from `output`. With `gradient_scale` != 0
/// also the gradient of gradient_scale * sum(nll) into d_stream (and the head's and final
/// norm's parameters). Throws NonFiniteRow.
HeadResult loss_head(const Pass& pass, float gradient_scale);

/// Logits of the given rows of `output`, to host.   out [n * vocabulary]
void logits_of_rows(const Pass& pass, const std::vector<int32_t>& rows, float* out);

/// From d_stream down to the lowest trainable layer: adds to every parameter's gradient.
void backward(const Pass& pass);

}  // namespace s2ft
