// Where a step's activations live: one layout function, run once to count (the memory
// plan) and once to place.
#pragma once

#include <vector>

#include "model/model.h"

namespace s2ft {

/// What survives from forward to backward.
///  none       everything a layer computes, norms and SwiGLU included
///  selective  products only; norms and SwiGLU are computed again (they are memory-bound)
///  block      a layer's input; the whole layer is computed again
enum class Recompute { none, selective, block };

/// One layer's values, T rows each, in the model's dtype (lse: f32).
struct LayerActivations {
  Mat input;          // (T, d)
  Mat attention_in;   // (T, d) normed input; shared scratch unless Recompute::none
  Mat qkv_raw;        // (T, q + kv) before q/k norm and rotation; only with qk_norm
  Mat qkv;            // (T, q + 2 kv) rotated
  Mat attention_out;  // (T, q)
  Mat lse;            // (T, heads)
  Mat middle;         // (T, d) after the attention residual
  Mat mlp_in;         // (T, d) normed middle; shared scratch unless Recompute::none
  Mat gate_up;        // (T, 2 k)
  Mat hidden;         // (T, k) SwiGLU; shared scratch unless Recompute::none
};

struct Activations {
  int64_t tokens = 0, trained = 0, head_chunk = 0;
  Recompute recompute = Recompute::selective;
  int first_saved = 0;  // layers below it keep nothing
  std::vector<LayerActivations> layers;
  Mat output;  // (T, d) of the last layer
  // Loss head.
  Mat head_rows;    // (N, d) last hidden states of the rows that predict
  Mat head_normed;  // (N, d), or (chunk, d) beside logits
  Mat nll;          // (1, N) f32 losses
  Mat logits;       // (chunk, vocabulary) f32; only where asked for or the head trains
  void* head_scratch = nullptr;  // the loss without logits
  Mat d_head_rows;               // (N, d)
  // Backward.
  Mat d_stream;        // (T, d) gradient of the residual stream
  Mat d_normed;        // (T, d)
  Mat d_hidden;        // (T, k)
  Mat d_qkv;           // (T, q + 2 kv)
  Mat d_attention;     // (T, q)
  Mat gate_up;         // (T, 2 k) a copy, for parts that want their output
  Mat weight_scratch;  // f32 row of a norm's gradient
};

struct ActivationRequest {
  int64_t tokens = 0;
  int64_t trained = 0;    // rows that go through the head
  bool logits = false;    // their logits are asked for, not their losses alone
  int64_t samples = 1;    // sequences that the tokens belong to
  bool training = false;  // keep what backward needs
  Recompute recompute = Recompute::selective;
};

/// Whether through() of any of these layers' parts wants its output.
bool output_needed(std::initializer_list<const Linear*> linears);

/// Places everything, the parts' share included, in `arena`; with a counting arena all
/// views are null and arena.peak() is the size.
Activations lay_out(Model& model, const ActivationRequest& request, Arena& arena);

}  // namespace s2ft
