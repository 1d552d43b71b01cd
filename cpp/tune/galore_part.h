// GaLore: the whole weight trains, with gradient and moments in a low-rank projection
// that is renewed from time to time.
#pragma once

#include "tune/parts.h"

namespace s2ft {

struct GaloreOptions {
  int64_t r = 128;         // at most the smaller side of a weight
  float scale = 0.25f;     // of the update, projected back
  int64_t interval = 200;  // steps between new projections
  uint64_t seed = 0;
};

/// W [out, in] moves by scale P u, where u is Adam's update of P^T G (or, where out >=
/// in, by scale u P^T with G P), and P holds the first r singular vectors of a gradient
/// G. P is renewed from the first micro-batch of the step that asks for it; moments stay,
/// as in the published code. Only that micro-batch takes the dense gradient, in scratch;
/// otherwise the projected one comes from thin products. The bias trains as it is.
///
/// There is no f32 master: bf16 weights are rounded after every step.
class GalorePart : public TunedPart {
 public:
  GalorePart(Backend& backend, const Linear& linear, const GaloreOptions& options);
  Columns input_needed() const override { return {0, weight_.cols}; }
  void layout_scratch(Arena& arena, int64_t tokens) override;
  void backward(Backend& backend, Mat dx, Mat dy, Mat x) override;
  void stepped(Backend& backend, double rate, double decay) override;

  /// The next backward pass makes a new projection, the same one for the same `step`.
  void renew(int64_t step) { renewal_ = step; }
  Mat projection() const { return projection_; }
  /// The projection was written from outside (a state was loaded).
  void projection_loaded(Backend& backend);

 private:
  bool left() const { return weight_.rows < weight_.cols; }
  void project(Backend& backend);

  GaloreOptions options_;
  Mat weight_;
  uint64_t salt_;
  int64_t renewal_ = 0;  // -1: keep the projection
  Mat projection_;       // [min(out, in), r] f32, values of the weight's dtype
  Mat compute_;          // the same in that dtype
  Mat dense_;            // [out, in] f32, scratch
  Mat low_;              // (T, r) scratch
};

}  // namespace s2ft
