// Partial back-propagation (paper, section 3.3): dX = dY W always uses the whole weight;
// a weight's gradient exists only for its trainable part; below the lowest trainable
// layer nothing is computed.
#include "model/passes.h"

namespace s2ft {

namespace {

bool any_part(std::initializer_list<const Linear*> linears) {
  for (const Linear* linear : linears)
    if (linear->part) return true;
  return false;
}

Mat gradient_of(const Weight& weight) {
  return weight.parameter ? weight.parameter->gradient : Mat{};
}

/// Columns [begin, begin + count) of the normed input, for a part.
Mat part_input(const TrainablePart& part, Mat x) {
  const Columns need = part.input_needed();
  return need.count ? x.col_range(need.begin, need.count) : Mat{};
}

/// The gradient of layers' products that lie side by side, in place of their outputs'.
/// y (T, all out), where a part wants it.
void through_parts(const Pass& pass, Mat dy, Mat y,
                   std::initializer_list<Linear*> linears) {
  int64_t begin = 0;
  for (Linear* linear : linears) {
    const int64_t out = linear->weight.rows;
    const Mat output = y ? y.col_range(begin, out) : y;
    if (linear->part)
      linear->part->through(*pass.model.backend, dy.col_range(begin, out), output, true);
    begin += out;
  }
}

/// The gradient of a product into the residual stream, whose own gradient dy stays.
Mat through_part(const Pass& pass, const Linear& linear, Mat dy) {
  return linear.part ? linear.part->through(*pass.model.backend, dy, Mat{}, false) : dy;
}

/// Gradients of layers that share the input x, and d x = sum of d y W when wanted.
void group_backward(const Pass& pass, Mat dx, Mat dy, Mat x, Mat weight,
                    std::initializer_list<Linear*> linears) {
  Backend& backend = *pass.model.backend;
  if (dx) weight_product(backend, dx, dy, weight, linears, false, 0);
  int64_t begin = 0;
  for (Linear* linear : linears) {
    const int64_t out = linear->weight.rows;
    if (linear->part) {
      linear->part->backward(backend, dx, dy.col_range(begin, out),
                             part_input(*linear->part, x));
    }
    begin += out;
  }
}

/// d hidden = d y W_down, with the part's gradient from the SwiGLU output, recomputed for
/// the columns it needs.
void down_backward(const Pass& pass, int index, const LayerActivations& a, Mat dx,
                   Mat d_stream) {
  Backend& backend = *pass.model.backend;
  Linear& down = pass.model.layers[index].down;
  const Mat dy = through_part(pass, down, d_stream);
  const int64_t k = pass.model.config.intermediate_size;
  if (dx) weight_product(backend, dx, dy, down.weight, {&down}, false, 0);
  if (!down.part) return;
  const Columns need = down.part->input_needed();
  Mat x;
  if (need.count && pass.activations.recompute == Recompute::none) {
    x = a.hidden.col_range(need.begin, need.count);
  } else if (need.count) {
    x = mat(a.hidden.data, a.hidden.dtype, a.hidden.rows, need.count);
    backend.swiglu(x, a.gate_up.col_range(need.begin, need.count),
                   a.gate_up.col_range(k + need.begin, need.count));
  }
  down.part->backward(backend, dx, dy, x);
}

/// Gradients of the MLP; adds to d_stream what flows to its input.
void mlp_backward(const Pass& pass, int index, const LayerActivations& a, bool below) {
  Model& model = pass.model;
  Backend& backend = *model.backend;
  Layer& l = model.layers[index];
  const int64_t tokens = pass.batch.size(), k = model.config.intermediate_size;
  const float eps = model.config.norm_epsilon;
  const Mat d_stream = rows_of(pass.activations.d_stream, tokens);
  const bool parts = any_part({&l.gate, &l.up});
  const bool into = below || parts || l.mlp_norm.parameter;
  const Mat d_hidden = into ? rows_of(pass.activations.d_hidden, tokens) : Mat{};
  down_backward(pass, index, a, d_hidden, d_stream);
  if (!into) return;
  const bool outputs = output_needed({&l.gate, &l.up});
  const Mat gate_up = outputs ? rows_of(pass.activations.gate_up, tokens) : Mat{};
  if (outputs) backend.copy(gate_up, a.gate_up);
  backend.swiglu_backward(a.gate_up.col_range(0, k), a.gate_up.col_range(k, k), d_hidden);
  if (parts && pass.activations.recompute != Recompute::none)
    backend.rms_norm(a.mlp_in, a.middle, l.mlp_norm.value, eps);
  const bool through_norm = below || l.mlp_norm.parameter;
  const Mat d_normed = through_norm ? rows_of(pass.activations.d_normed, tokens) : Mat{};
  through_parts(pass, a.gate_up, gate_up, {&l.gate, &l.up});
  group_backward(pass, d_normed, a.gate_up, a.mlp_in, l.gate_up, {&l.gate, &l.up});
  if (!through_norm) return;
  backend.rms_norm_backward(d_stream, true, gradient_of(l.mlp_norm), d_normed, a.middle,
                            l.mlp_norm.value, eps);
}

/// Makes q and k in a.qkv the layers' outputs again, once attention is done with them.
void restore_outputs(const Pass& pass, const LayerActivations& a) {
  const ModelConfig& c = pass.model.config;
  const Mat qk = a.qkv.col_range(0, c.q_size() + c.kv_size());
  if (c.qk_norm) return pass.model.backend->copy(qk, a.qkv_raw);
  rotate(pass, qk, true);
}

/// Gradients of q/k norms (Qwen3), in place on d q and d k.
void qk_norm_backward(const Pass& pass, Layer& l, const LayerActivations& a, Mat dq,
                      Mat dk) {
  Backend& backend = *pass.model.backend;
  const ModelConfig& c = pass.model.config;
  backend.rms_norm_backward(dq, false, gradient_of(l.q_norm), dq,
                            a.qkv_raw.col_range(0, c.q_size()), l.q_norm.value,
                            c.norm_epsilon);
  backend.rms_norm_backward(dk, false, gradient_of(l.k_norm), dk,
                            a.qkv_raw.col_range(c.q_size(), c.kv_size()), l.k_norm.value,
                            c.norm_epsilon);
}

/// Gradients of the attention; adds to d_stream what flows to the layer's input.
void attention_half_backward(const Pass& pass, int index, const LayerActivations& a,
                             bool below) {
  Model& model = pass.model;
  Backend& backend = *model.backend;
  const ModelConfig& c = model.config;
  Layer& l = model.layers[index];
  const int64_t tokens = pass.batch.size();
  const Mat d_stream = rows_of(pass.activations.d_stream, tokens);
  const bool parts = any_part({&l.q, &l.k, &l.v});
  const bool into =
      below || parts || l.attention_norm.parameter || l.q_norm.parameter != nullptr;
  const Mat d_attention = into ? rows_of(pass.activations.d_attention, tokens) : Mat{};
  group_backward(pass, d_attention, through_part(pass, l.o, d_stream), a.attention_out,
                 l.o.weight, {&l.o});
  if (!into) return;

  const Mat d_qkv = rows_of(pass.activations.d_qkv, tokens);
  const int64_t q = c.q_size(), kv = c.kv_size();
  const Mat dq = d_qkv.col_range(0, q), dk = d_qkv.col_range(q, kv);
  backend.attention_backward(dq, dk, d_qkv.col_range(q + kv, kv), d_attention,
                             a.qkv.col_range(0, q), a.qkv.col_range(q, kv),
                             a.qkv.col_range(q + kv, kv), a.attention_out, a.lse,
                             pass.batch.sequences(), attention_shape(model, index));
  rotate(pass, d_qkv.col_range(0, q + kv), true);
  if (c.qk_norm) qk_norm_backward(pass, l, a, dq, dk);
  if (parts && pass.activations.recompute != Recompute::none)
    backend.rms_norm(a.attention_in, a.input, l.attention_norm.value, c.norm_epsilon);
  const bool through_norm = below || l.attention_norm.parameter;
  const Mat d_normed = through_norm ? rows_of(pass.activations.d_normed, tokens) : Mat{};
  const bool outputs = output_needed({&l.q, &l.k, &l.v});
  if (outputs) restore_outputs(pass, a);
  through_parts(pass, d_qkv, outputs ? a.qkv : Mat{}, {&l.q, &l.k, &l.v});
  group_backward(pass, d_normed, d_qkv, a.attention_in, l.qkv, {&l.q, &l.k, &l.v});
  if (!through_norm) return;
  backend.rms_norm_backward(d_stream, true, gradient_of(l.attention_norm), d_normed,
                            a.input, l.attention_norm.value, c.norm_epsilon);
}

}  // namespace

void backward(const Pass& pass) {
  Model& model = pass.model;
  const int lowest = model.lowest_trainable();
  for (int i = model.config.layers - 1; i >= std::max(lowest, 0); --i) {
    check_cancel(pass);
    Layer& l = model.layers[i];
    if (l.intervention) {
      const Mat d_stream = rows_of(pass.activations.d_stream, pass.batch.size());
      l.intervention->backward(*model.backend, d_stream, pass.batch);
    }
    if (i < pass.activations.first_saved) break;
    if (pass.activations.recompute == Recompute::block) recompute_layer(pass, i);
    const LayerActivations a = layer_rows(pass, i);
    const bool below = i > lowest;
    const bool attention_trains = any_part({&l.q, &l.k, &l.v, &l.o}) ||
                                  l.attention_norm.parameter || l.q_norm.parameter;
    mlp_backward(pass, i, a, below || attention_trains);
    if (below || attention_trains) attention_half_backward(pass, i, a, below);
  }
  if (model.embedding.parameter) {
    model.backend->scatter_add_rows(model.embedding.parameter->gradient,
                                    rows_of(pass.activations.d_stream, pass.batch.size()),
                                    pass.batch.tokens.data());
  }
}

}  // namespace s2ft
