// What a step computes for the host. It stays in the backend's memory until somebody
// reads it, so that a step waits once, at its end.
#pragma once

#include <vector>

#include "core/error.h"
#include "model/batch.h"

namespace s2ft {

/// NOT_FINITE during a step: where.
struct NotFinite : Error {
  NotFinite(const std::string& message, int micro, int sample_index)
      : Error("NOT_FINITE", message), micro_batch(micro), sample(sample_index) {}
  int micro_batch, sample;
};

/// The losses of a step's micro-batches, and the sums of squares that decide about its
/// updates.
class StepNumbers {
 public:
  /// Room for these micro-batches' losses, none of which is known yet.
  void expect(Backend& backend, std::vector<Batch> batches);
  const std::vector<Batch>& batches() const { return batches_; }
  /// Where a micro-batch's losses go.   (1, targets) f32
  Mat losses(size_t batch) const;
  /// Sums the squares of all gradients, and of the losses.
  void sum_squares(Backend& backend, const std::vector<Mat>& gradients);
  /// For updates after sum_squares().
  Clipping clipping(double max_norm) const;

  /// Waits for all that is queued; returns the sum of losses. Throws NotFinite.
  double read(Backend& backend);
  /// As of then. Throws NotFinite.
  double gradient_norm() const;

 private:
  // In storage_: [2] sums of squares, then all losses.
  double* squares() const { return static_cast<double*>(storage_.data()); }
  float* first_loss() const;

  std::vector<Batch> batches_;
  std::vector<int64_t> begins_;  // [batches + 1] into the losses
  Buffer storage_;
  std::vector<char> host_;
};

}  // namespace s2ft
