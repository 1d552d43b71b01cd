#include <cmath>

#include "core/error.h"
#include "model/passes.h"

namespace s2ft {

namespace {

/// y = x W^T with each part's share, + bias, for a group of layers that share the input.
void linear_group(const Pass& pass, Mat y, Mat x, Mat weight, Mat bias,
                  std::initializer_list<Linear*> linears) {
  Backend& backend = *pass.model.backend;
  weight_product(backend, y, x, weight, linears, true, 0);
  int64_t begin = 0;
  for (Linear* linear : linears) {
    const int64_t out = linear->weight.rows;
    if (linear->part) {
      linear->part->forward(backend, y.col_range(begin, out), x, pass.training);
    }
    if (pass.added) pass.added->add(backend, *linear, y.col_range(begin, out), x);
    begin += out;
  }
  if (bias) backend.add_bias(y, bias);
}

Mat product_apart(const Linear& linear, int64_t tokens) {
  return linear.part ? linear.part->product_apart(tokens) : Mat{};
}

/// y += x W^T + bias: a product into the residual stream.
void linear_residual(const Pass& pass, Mat y, Mat x, Linear& linear) {
  Backend& backend = *pass.model.backend;
  if (const Mat apart = product_apart(linear, x.rows)) {
    linear_group(pass, apart, x, linear.weight, linear.bias, {&linear});
    backend.add(y, apart);
    return;
  }
  weight_product(backend, y, x, linear.weight, {&linear}, true, 1);
  if (linear.bias) backend.add_bias(y, linear.bias);
  if (linear.part) linear.part->forward(backend, y, x, pass.training);
  if (pass.added) pass.added->add(backend, linear, y, x);
}

void attention_half(const Pass& pass, int index, const LayerActivations& a) {
  Model& model = pass.model;
  Backend& backend = *model.backend;
  const ModelConfig& c = model.config;
  Layer& l = model.layers[index];
  backend.rms_norm(a.attention_in, a.input, l.attention_norm.value, c.norm_epsilon);
  linear_group(pass, a.qkv, a.attention_in, l.qkv, l.qkv_bias, {&l.q, &l.k, &l.v});
  const Mat qk = a.qkv.col_range(0, c.q_size() + c.kv_size());
  const Mat q = a.qkv.col_range(0, c.q_size());
  Mat k = a.qkv.col_range(c.q_size(), c.kv_size());
  Mat v = a.qkv.col_range(c.q_size() + c.kv_size(), c.kv_size());
  if (c.qk_norm) {
    backend.copy(a.qkv_raw, qk);
    backend.rms_norm(q, q, l.q_norm.value, c.norm_epsilon);
    backend.rms_norm(k, k, l.k_norm.value, c.norm_epsilon);
  }
  rotate(pass, qk, false);
  if (pass.cache) {
    const Mat cache_k = pass.cache->k[index], cache_v = pass.cache->v[index];
    // Rows that fill a batch up belong to no sequence.
    const int64_t n = pass.batch.begins.back();
    backend.scatter_rows(cache_k, k.row_range(0, n), pass.cache_rows);
    backend.scatter_rows(cache_v, v.row_range(0, n), pass.cache_rows);
    k = cache_k;
    v = cache_v;
  }
  backend.attention(a.attention_out, pass.training ? a.lse : Mat{}, q, k, v,
                    pass.batch.sequences(), attention_shape(model, index));
}

void middle_and_gate_up(const Pass& pass, int index, const LayerActivations& a) {
  Backend& backend = *pass.model.backend;
  Layer& l = pass.model.layers[index];
  backend.copy(a.middle, a.input);
  linear_residual(pass, a.middle, a.attention_out, l.o);
  backend.rms_norm(a.mlp_in, a.middle, l.mlp_norm.value, pass.model.config.norm_epsilon);
  linear_group(pass, a.gate_up, a.mlp_in, l.gate_up, l.gate_up_bias, {&l.gate, &l.up});
}

}  // namespace

void weight_product(Backend& backend, Mat y, Mat x, Mat weight,
                    std::initializer_list<Linear*> linears, bool transpose, float beta) {
  if (weight) return backend.matmul(y, x, false, weight, transpose, beta);
  QuantizedMat pieces[3];
  int count = 0;
  for (const Linear* linear : linears) pieces[count++] = linear->quantized;
  backend.matmul_quantized(y, x, {pieces, count}, transpose, beta);
}

void check_cancel(const Pass& pass) {
  auto raised = [](const std::atomic<bool>* flag) {
    return flag && flag->load(std::memory_order_relaxed);
  };
  if (raised(pass.cancel) || raised(pass.stop))
    throw Error("CANCELLED", "the step was cancelled");
}

AttentionShape attention_shape(const Model& model, int layer) {
  const ModelConfig& c = model.config;
  AttentionShape shape;
  shape.heads = c.heads;
  shape.kv_heads = c.kv_heads;
  shape.head_dim = c.head_dim;
  shape.kv_head_of = model.layers[layer].kv_head_of.data();
  shape.window = c.sliding_window.empty() ? 0 : c.sliding_window[layer];
  shape.scale = 1 / std::sqrt(float(c.head_dim));
  return shape;
}

LayerActivations layer_rows(const Pass& pass, int index) {
  LayerActivations a = pass.activations.layers[index];
  const int64_t tokens = pass.batch.size();
  for (Mat* m : {&a.input, &a.attention_in, &a.qkv_raw, &a.qkv, &a.attention_out, &a.lse,
                 &a.middle, &a.mlp_in, &a.gate_up, &a.hidden})
    *m = rows_of(*m, tokens);
  return a;
}

void rotate(const Pass& pass, Mat qk, bool inverse) {
  Model& model = pass.model;
  const Batch& b = pass.batch;
  const int hd = model.config.head_dim;
  // Equal frequencies (all but dynamic scaling of long sequences) rotate in one call.
  for (int s = 0; s < b.samples();) {
    int64_t longest = b.k_len[s];
    int end = s + 1;
    for (; end < b.samples() && model.rope.same_frequencies(longest, b.k_len[end]); ++end)
      longest = std::max<int64_t>(longest, b.k_len[end]);
    const RopeTable::View table = model.rope.view(longest);
    const int32_t row = b.begins[s], n = b.begins[end] - row;
    model.backend->rope(qk.row_range(row, n), b.positions.data() + row, table.cos,
                        table.sin, hd, inverse);
    s = end;
  }
}

void forward_layer(const Pass& pass, int index, Mat next) {
  check_cancel(pass);
  Backend& backend = *pass.model.backend;
  Layer& l = pass.model.layers[index];
  const LayerActivations a = layer_rows(pass, index);
  attention_half(pass, index, a);
  middle_and_gate_up(pass, index, a);
  const int64_t k = pass.model.config.intermediate_size;
  backend.swiglu(a.hidden, a.gate_up.col_range(0, k), a.gate_up.col_range(k, k));
  backend.copy(next, a.middle);
  linear_residual(pass, next, a.hidden, l.down);
  if (l.intervention) l.intervention->forward(backend, next, pass.batch, pass.training);
}

void recompute_layer(const Pass& pass, int index) {
  const LayerActivations a = layer_rows(pass, index);
  attention_half(pass, index, a);
  middle_and_gate_up(pass, index, a);
  // The down projection's part may have saved something of its own in forward.
  Layer& l = pass.model.layers[index];
  if (l.down.part) {
    const int64_t k = pass.model.config.intermediate_size;
    Backend& backend = *pass.model.backend;
    backend.swiglu(a.hidden, a.gate_up.col_range(0, k), a.gate_up.col_range(k, k));
    if (const Mat apart = product_apart(l.down, a.hidden.rows)) {
      linear_group(pass, apart, a.hidden, l.down.weight, Mat{}, {&l.down});
      return;
    }
    // d_normed is free until the backward of this layer begins.
    l.down.part->forward(backend, rows_of(pass.activations.d_normed, pass.batch.size()),
                         a.hidden, pass.training);
  }
}

void forward(const Pass& pass) {
  Model& model = pass.model;
  Activations& a = pass.activations;
  const int64_t tokens = pass.batch.size();
  model.backend->gather_rows(rows_of(a.layers[0].input, tokens), model.embedding.value,
                             pass.batch.tokens.data());
  for (int i = 0; i < model.config.layers; ++i) {
    const bool last = i + 1 == model.config.layers;
    forward_layer(pass, i, rows_of(last ? a.output : a.layers[i + 1].input, tokens));
  }
}

KvCache make_kv_cache(const Model& model, int64_t rows) {
  KvCache cache;
  cache.rows = rows;
  const int64_t kv = model.config.kv_size();
  Arena count;
  auto place = [&](Arena& arena) {
    cache.k.clear(), cache.v.clear();
    for (int i = 0; i < model.config.layers; ++i) {
      cache.k.push_back(arena.matrix(model.dtype, rows, kv));
      cache.v.push_back(arena.matrix(model.dtype, rows, kv));
    }
  };
  place(count);
  cache.storage = model.backend->allocate(count.peak());
  Arena arena(cache.storage.data());
  place(arena);
  return cache;
}

}  // namespace s2ft
