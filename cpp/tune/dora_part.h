// DoRA: LoRA's factors decide the direction of every row of the weight, a trained vector
// its length.
#pragma once

#include "tune/parts.h"

namespace s2ft {

/// y = (m / |V|) V x by rows, V = W + scale B A. m [out] starts as |W|. As the paper's
/// section 4.3 proposes, and PEFT does, |V| counts as a constant in backward. |V| comes
/// from thin products: V itself is never formed. Dropout is on the factors' input only.
///
/// d m = sum over tokens of dy (V x) / |V| = sum of dy y / m: the output that the model
/// keeps anyway serves. It does not for o and down, which are added to the residual
/// stream, nor where there is a bias, whose size would drown the product's in bf16: those
/// keep the product before scaling, (T, out). A row with m = 0 has no gradient: it began
/// as a row of zeros, and its factor passes none on to B.
class DoraPart : public LoraPart {
 public:
  /// `residual`: the output is added to the residual stream.
  DoraPart(Backend& backend, const Linear& linear, const LoraOptions& options,
           bool residual);
  void layout_saved(Arena& arena, int64_t tokens, bool training) override;
  void layout_scratch(Arena& arena, int64_t tokens) override;
  Mat product_apart(int64_t tokens) override { return apart_.row_range(0, tokens); }
  void forward(Backend& backend, Mat y, Mat x, bool training) override;
  bool output_needed() const override { return !keeps_product_; }
  Mat through(Backend& backend, Mat dy, Mat y, bool in_place) override;
  void refresh(Backend& backend) override;

 private:
  Parameter& magnitude() { return *parameters[2]; }

  bool keeps_product_;
  const Linear& linear_;
  Mat base_squares_;   // (1, out) |W|^2
  Mat squares_;        // (1, out) |V|^2, scratch for a dot product between refreshes
  Mat inverse_norms_;  // (1, out) 1 / |V|
  Mat factors_;        // (1, out) m / |V|
  Mat inverses_;       // (1, out) 1 / m, 0 where m is
  Mat product_;        // (T, out) x V^T, from forward to backward; may be empty
  Mat apart_;          // (T, out)
};

}  // namespace s2ft
