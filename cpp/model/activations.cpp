#include "model/activations.h"

#include "model/batch.h"

namespace s2ft {

namespace {

// A chunk's logits stay near the last-level cache.
constexpr int64_t kLogitsBytes = 24 << 20;
constexpr int64_t kSmallestChunk = 32;

int64_t head_chunk(const Model& model, int64_t rows) {
  const int64_t fit = kLogitsBytes / (model.config.vocab_size * 4);
  const int64_t chunk = std::max(kSmallestChunk, fit / 16 * 16);
  return std::max<int64_t>(1, std::min(padded_tokens(rows), chunk));
}

/// What the head works in: whole logits of a chunk of rows, or the loss's own scratch.
void place_head(const Model& model, const ActivationRequest& r, Arena& arena,
                Activations& a) {
  const ModelConfig& c = model.config;
  const bool whole = r.logits || model.head.parameter;
  a.head_chunk = whole ? head_chunk(model, r.trained) : r.trained;
  a.head_normed = arena.matrix(model.dtype, a.head_chunk, c.hidden_size);
  if (whole) {
    a.logits = arena.matrix(DType::f32, a.head_chunk, c.vocab_size);
  } else {
    a.head_scratch = arena.take(model.backend->linear_cross_entropy_scratch(
        r.trained, c.hidden_size, c.vocab_size));
  }
}

void place_products(const Model& model, int64_t tokens, Arena& arena,
                    LayerActivations& l) {
  const ModelConfig& c = model.config;
  const DType t = model.dtype;
  if (c.qk_norm) l.qkv_raw = arena.matrix(t, tokens, c.q_size() + c.kv_size());
  l.qkv = arena.matrix(t, tokens, c.qkv_size());
  l.attention_out = arena.matrix(t, tokens, c.q_size());
  l.lse = arena.matrix(DType::f32, tokens, c.heads);
  l.middle = arena.matrix(t, tokens, c.hidden_size);
  l.gate_up = arena.matrix(t, tokens, 2 * c.intermediate_size);
}

void place_cheap(const Model& model, int64_t tokens, Arena& arena, LayerActivations& l) {
  const ModelConfig& c = model.config;
  l.attention_in = arena.matrix(model.dtype, tokens, c.hidden_size);
  l.mlp_in = arena.matrix(model.dtype, tokens, c.hidden_size);
  l.hidden = arena.matrix(model.dtype, tokens, c.intermediate_size);
}

/// What parts and interventions keep, and one piece of scratch that they take turns in.
void place_parts(Model& model, const ActivationRequest& r, Arena& arena) {
  const int64_t tokens = r.tokens;
  for (Layer& layer : model.layers)
    if (layer.intervention) layer.intervention->layout_saved(arena, tokens, r.samples);
  // What a part keeps is made again together with its layer.
  const bool in_turns = !r.training || r.recompute == Recompute::block;
  size_t base = arena.mark(), top = base;
  for (Layer& layer : model.layers) {
    if (in_turns) arena.release(base);
    for (Linear* linear : layer.linears)
      if (linear->part) linear->part->layout_saved(arena, tokens, r.training);
    top = std::max(top, arena.mark());
  }
  arena.release(top);
  base = top;
  for (Layer& layer : model.layers) {
    for (Linear* linear : layer.linears) {
      if (!linear->part) continue;
      linear->part->layout_scratch(arena, tokens);
      top = std::max(top, arena.mark());
      arena.release(base);
    }
    if (!layer.intervention) continue;
    layer.intervention->layout_scratch(arena, tokens, r.samples);
    top = std::max(top, arena.mark());
    arena.release(base);
  }
  arena.release(top);
}

void place_backward(const Model& model, int64_t tokens, Arena& arena, Activations& a) {
  const ModelConfig& c = model.config;
  const DType t = model.dtype;
  a.d_normed = arena.matrix(t, tokens, c.hidden_size);
  // The two halves of a layer's backward take turns.
  const size_t base = arena.mark();
  a.d_hidden = arena.matrix(t, tokens, c.intermediate_size);
  const bool copies =
      std::any_of(model.layers.begin(), model.layers.end(), [](const Layer& layer) {
        return output_needed({&layer.gate, &layer.up});
      });
  if (copies) a.gate_up = arena.matrix(t, tokens, 2 * c.intermediate_size);
  const size_t top = arena.mark();
  arena.release(base);
  a.d_qkv = arena.matrix(t, tokens, c.qkv_size());
  a.d_attention = arena.matrix(t, tokens, c.q_size());
  arena.release(std::max(top, arena.mark()));
}

}  // namespace

bool output_needed(std::initializer_list<const Linear*> linears) {
  return std::any_of(linears.begin(), linears.end(), [](const Linear* linear) {
    return linear->part && linear->part->output_needed();
  });
}

Activations lay_out(Model& model, const ActivationRequest& r, Arena& arena) {
  const ModelConfig& c = model.config;
  const DType t = model.dtype;
  Activations a;
  a.tokens = r.tokens;
  a.trained = r.trained;
  a.recompute = r.recompute;
  a.first_saved = r.training ? model.lowest_saved() : c.layers;
  a.layers.resize(c.layers);

  // The head never lives at the same time as a layer: it works where layers and their
  // backward do.
  const size_t base = arena.mark();
  place_head(model, r, arena, a);
  const size_t head_top = arena.mark();
  arena.release(base);
  // Norm outputs and SwiGLU are scratch for both directions: whoever needs them computes
  // them just before.
  LayerActivations shared;
  place_cheap(model, r.tokens, arena, shared);
  shared.mlp_in = shared.attention_in;  // never alive together
  const bool any_shared = a.first_saved > 0 || r.recompute == Recompute::block;
  if (any_shared) place_products(model, r.tokens, arena, shared);
  Mat ping[2];
  if (a.first_saved > 0)
    for (Mat& m : ping) m = arena.matrix(t, r.tokens, c.hidden_size);
  if (r.training) place_backward(model, r.tokens, arena, a);
  arena.release(std::max(head_top, arena.mark()));

  for (int i = 0; i < c.layers; ++i) {
    LayerActivations& l = a.layers[i];
    const bool saved = i >= a.first_saved;
    l = shared;
    l.input = saved ? arena.matrix(t, r.tokens, c.hidden_size) : ping[i % 2];
    if (saved && r.recompute != Recompute::block)
      place_products(model, r.tokens, arena, l);
    if (saved && r.recompute == Recompute::none) place_cheap(model, r.tokens, arena, l);
  }
  // Once the head has taken its rows, the last output makes room for the gradient.
  a.output = arena.matrix(t, r.tokens, c.hidden_size);
  a.d_stream = a.output;

  place_parts(model, r, arena);
  a.head_rows = arena.matrix(t, padded_tokens(r.trained), c.hidden_size);
  a.nll = arena.matrix(DType::f32, 1, padded_tokens(r.trained));
  if (r.training) a.d_head_rows = a.head_rows;
  return a;
}

}  // namespace s2ft
