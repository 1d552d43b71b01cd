// Pieces of a layer that forward and backward share.
#pragma once

#include "model/transformer.h"

namespace s2ft {

/// One layer from l.input to `next` (T, d).
void forward_layer(const Pass& pass, int index, Mat next);
/// The products of a layer again, up to gate_up (Recompute::block).
void recompute_layer(const Pass& pass, int index);
/// Rotates q and k of qkv forward or back, sequence by sequence where their frequencies
/// differ.
void rotate(const Pass& pass, Mat qk, bool inverse);
AttentionShape attention_shape(const Model& model, int layer);
void check_cancel(const Pass& pass);
/// The view of `saved` for T rows of this batch (activations may be laid out for more).
inline Mat rows_of(Mat saved, int64_t tokens) {
  return saved ? saved.row_range(0, tokens) : saved;
}
LayerActivations layer_rows(const Pass& pass, int index);
/// y = x W^T (`transpose`) or x W, + beta y, for the weights of layers that lie below one
/// another.
void weight_product(Backend& backend, Mat y, Mat x, Mat weight,
                    std::initializer_list<Linear*> linears, bool transpose, float beta);

}  // namespace s2ft
