// Unstructured sparse fine-tuning: single elements of a weight train, at places that a
// mask names.
#pragma once

#include "tune/parts.h"

namespace s2ft {

struct SparseOptions {
  /// What the mask takes: places at random, or where the weight, the calibration data's
  /// mean gradient, or their empirical Fisher information (the mean over samples of the
  /// squared gradient of a sample's log-likelihood) is largest.
  enum class Selection { random, weight, gradient, fisher } selection = Selection::random;
  double share = 0.01;  // of every weight's elements; at least one trains
  uint64_t seed = 0;

  bool by_gradient() const {
    return selection == Selection::gradient || selection == Selection::fisher;
  }
};

/// Values, gradient and moments exist at the mask's size and the weight is updated in
/// place. What the method costs: the gradient is a dense product [out, in] in f32
/// scratch, from which the mask's elements are gathered.
class SparsePart : public TunedPart {
 public:
  /// A mask chosen by gradients is random until it is scored. Throws UNSUPPORTED for
  /// weights of 2^31 elements and more.
  SparsePart(Backend& backend, const Linear& linear, const SparseOptions& options);
  Columns input_needed() const override { return {0, weight_.cols}; }
  void layout_scratch(Arena& arena, int64_t tokens) override;
  void backward(Backend& backend, Mat dx, Mat dy, Mat x) override;
  /// Writes the values into the weight.
  void refresh(Backend& backend) override;
  /// Gives the weight its base values back, bit for bit; refresh() undoes that.
  void take_out(Backend& backend) override;

  /// From here to end_scoring() backward adds to dense scores instead of the gradient:
  /// gradients, or their `squares`.
  void begin_scoring(Backend& backend, bool squares);
  /// Ends scoring; with `select` the largest scores become the mask. Throws NOT_FINITE.
  void end_scoring(Backend& backend, bool select);
  /// Trains at these places from here on: from base values, without moments. Throws
  /// SHAPE_MISMATCH unless they are as many as before, ascending and in the weight.
  void select(Backend& backend, std::vector<int32_t> places);
  /// (1, n) the values before training.
  Mat base() const { return base_; }
  /// Bytes that scoring takes.
  size_t score_bytes() const { return size_t(weight_.count()) * sizeof(float); }

 private:
  Mat weight_, base_, dense_;
  Mat scores_;  // [out, in] f32 while scoring
  Buffer score_storage_;
  bool squares_ = false;
};

/// `count` distinct places in [0, n), ascending, uniformly from (seed, stream).
std::vector<int32_t> random_places(int64_t n, int64_t count, uint64_t seed,
                                   uint64_t stream);
/// Places of the `count` largest magnitudes, ascending; of equal ones the first.
std::vector<int32_t> largest_places(std::vector<float> magnitudes, int64_t count);

}  // namespace s2ft
