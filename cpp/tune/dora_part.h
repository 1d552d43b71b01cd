// DoRA: LoRA's factors decide the direction of every row of the weight, a trained vector
// its length.
#pragma once

#include "tune/parts.h"

namespace s2ft {

/// y = (m / |V|) V x by rows, V = W + scale B A. m [out] starts as |W|. As the paper's
/// section 4.3 proposes, and PEFT does, |V| counts as a constant in backward. |V| comes
/// from thin products: V itself is never formed. Dropout is on the factors' input only.
///
/// Beside LoRA's needs it keeps the product before scaling, (T, out), for m's gradient.
class DoraPart : public LoraPart {
 public:
  DoraPart(Backend& backend, const Linear& linear, const LoraOptions& options);
  void layout_saved(Arena& arena, int64_t tokens, bool training) override;
  void layout_scratch(Arena& arena, int64_t tokens) override;
  Mat product_apart(int64_t tokens) override { return apart_.row_range(0, tokens); }
  void forward(Backend& backend, Mat y, Mat x, bool training) override;
  Mat through(Backend& backend, Mat dy, bool in_place) override;
  void refresh(Backend& backend) override;

 private:
  Parameter& magnitude() { return *parameters[2]; }

  Mat weight_;         // [out, in] the layer's
  Mat base_squares_;   // (1, out) |W|^2
  Mat squares_;        // (1, out) |V|^2, scratch for a dot product between refreshes
  Mat inverse_norms_;  // (1, out) 1 / |V|
  Mat factors_;        // (1, out) m / |V|
  Mat product_;        // (T, out) x V^T, from forward to backward
  Mat apart_;          // (T, out)
};

}  // namespace s2ft
