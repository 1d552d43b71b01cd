#include "model/model.h"

#include "core/error.h"
#include "model/quantize.h"

namespace s2ft {

namespace {

struct LayerViews {
  Mat qkv, qkv_bias, o, o_bias, gate_up, gate_up_bias, down, down_bias;
  Mat attention_norm, mlp_norm, q_norm, k_norm;
  QuantizedMat quantized[7];  // in the order of Layer::linears
};

LayerViews cut_layer(Arena& arena, DType dtype, const ModelConfig& m,
                     Quantization quantization) {
  LayerViews v;
  auto cut = [&](int64_t rows, int64_t cols) { return arena.matrix(dtype, rows, cols); };
  const int64_t d = m.hidden_size, k = m.intermediate_size;
  if (quantization == Quantization::none) {
    v.qkv = cut(m.qkv_size(), d);
    v.o = cut(d, m.q_size());
    v.gate_up = cut(2 * k, d);
    v.down = cut(d, k);
  } else {
    v.qkv = mat(nullptr, dtype, m.qkv_size(), d);
    v.o = mat(nullptr, dtype, d, m.q_size());
    v.gate_up = mat(nullptr, dtype, 2 * k, d);
    v.down = mat(nullptr, dtype, d, k);
    const int64_t q = m.q_size(), kv = m.kv_size();
    const int64_t shapes[7][2] = {{q, d}, {kv, d}, {kv, d}, {d, q},
                                  {k, d}, {k, d},  {d, k}};
    for (int i = 0; i < 7; ++i)
      v.quantized[i] = place_quantized(arena, quantization, shapes[i][0], shapes[i][1]);
  }
  v.attention_norm = cut(1, d);
  v.mlp_norm = cut(1, d);
  if (m.qk_norm) v.q_norm = cut(1, m.head_dim);
  if (m.qk_norm) v.k_norm = cut(1, m.head_dim);
  if (m.qkv_bias) v.qkv_bias = cut(1, m.qkv_size());
  if (m.o_bias) v.o_bias = cut(1, d);
  if (m.mlp_bias) v.gate_up_bias = cut(1, 2 * k);
  if (m.mlp_bias) v.down_bias = cut(1, d);
  return v;
}

/// Rows of a group of weights; a shape alone where the group is one.
Mat weight_rows(Mat group, int64_t begin, int64_t n) {
  return group ? group.row_range(begin, n) : mat(nullptr, group.dtype, n, group.cols);
}

}  // namespace

Mat weight_values(Backend& backend, const Linear& linear, Buffer& storage) {
  const Mat w = linear.weight;
  if (w) return w;
  storage = backend.allocate(size_t(w.count()) * dtype_size(w.dtype));
  const Mat made = mat(storage.data(), w.dtype, w.rows, w.cols);
  backend.dequantize(made, {&linear.quantized, 1});
  return made;
}

bool Layer::trains() const {
  for (const Linear* linear : linears)
    if (linear->part) return true;
  return attention_norm.parameter || mlp_norm.parameter;
}

Model::Model(ModelConfig c, DType t, std::shared_ptr<Backend> b, Quantization q)
    : config(std::move(c)),
      dtype(t),
      quantization(q),
      backend(std::move(b)),
      rope(config, backend) {
  const int64_t d = config.hidden_size, vocab = config.vocab_size;
  const size_t table = size_t(vocab) * d * dtype_size(dtype);
  const size_t padded = (table + 63) / 64 * 64;
  const size_t norm = (size_t(d) * dtype_size(dtype) + 63) / 64 * 64;
  const bool nf4 = quantization == Quantization::nf4;
  const size_t top = padded * (config.tie_word_embeddings ? 1 : 2) + norm +
                     (nf4 ? sizeof(ScaleLevels) : 0);
  top_storage_ = backend->allocate(top);
  bytes_ = top;
  Arena arena(top_storage_.data());
  embedding.value = arena.matrix(dtype, vocab, d);
  head.value =
      config.tie_word_embeddings ? embedding.value : arena.matrix(dtype, vocab, d);
  final_norm.value = arena.matrix(dtype, 1, d);
  const float* levels = nullptr;
  if (nf4) {
    void* place = arena.take(sizeof(ScaleLevels));
    backend->upload(place, scale_levels().data(), sizeof(ScaleLevels));
    levels = static_cast<float*>(place);
  }
  add_tensor("model.embed_tokens.weight", embedding.value, false);
  layers = std::vector<Layer>(config.layers);
  Arena count;
  cut_layer(count, dtype, config, quantization);
  const size_t all = count.peak() * size_t(config.layers);
  layer_storage_ = backend->allocate(all);
  bytes_ += all;
  Arena place(layer_storage_.data());
  for (int i = 0; i < config.layers; ++i) {
    build_layer(i, place);
    for (Linear* linear : layers[i].linears) linear->quantized.scale_levels = levels;
  }
  add_tensor("model.norm.weight", final_norm.value, true);
  if (!config.tie_word_embeddings) add_tensor("lm_head.weight", head.value, false);
}

void Model::build_layer(int index, Arena& arena) {
  Layer& l = layers[index];
  const LayerViews v = cut_layer(arena, dtype, config, quantization);
  const int64_t q = config.q_size(), kv = config.kv_size(), k = config.intermediate_size;
  const int hd = config.head_dim;

  l.qkv = v.qkv, l.qkv_bias = v.qkv_bias;
  l.gate_up = v.gate_up, l.gate_up_bias = v.gate_up_bias;
  l.attention_norm.value = v.attention_norm;
  l.mlp_norm.value = v.mlp_norm;
  l.q_norm.value = v.q_norm;
  l.k_norm.value = v.k_norm;
  l.kv_head_of.resize(config.heads);
  for (int h = 0; h < config.heads; ++h)
    l.kv_head_of[h] = h / (config.heads / config.kv_heads);

  const std::string base = "model.layers." + std::to_string(index) + ".";
  auto part = [](Mat bias, int64_t begin, int64_t n) {
    return bias ? bias.col_range(begin, n) : Mat{};
  };
  const std::string attn = base + "self_attn.", mlp = base + "mlp.";
  l.q = {attn + "q_proj", weight_rows(v.qkv, 0, q), part(v.qkv_bias, 0, q)};
  l.k = {attn + "k_proj", weight_rows(v.qkv, q, kv), part(v.qkv_bias, q, kv)};
  l.v = {attn + "v_proj", weight_rows(v.qkv, q + kv, kv), part(v.qkv_bias, q + kv, kv)};
  l.o = {attn + "o_proj", v.o, v.o_bias};
  l.gate = {mlp + "gate_proj", weight_rows(v.gate_up, 0, k), part(v.gate_up_bias, 0, k)};
  l.up = {mlp + "up_proj", weight_rows(v.gate_up, k, k), part(v.gate_up_bias, k, k)};
  l.down = {mlp + "down_proj", v.down, v.down_bias};
  Linear* all[7] = {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down};
  std::copy(all, all + 7, l.linears);
  for (int i = 0; i < 7; ++i) all[i]->quantized = v.quantized[i];

  auto rows = [&](Linear& linear, const std::vector<int32_t>* order, int unit) {
    add_weight(linear, order, unit, nullptr, 1);
    if (linear.bias) {
      add_tensor(linear.name + ".bias", linear.bias, true, nullptr, 1, order, unit);
    }
  };
  auto cols = [&](Linear& linear, const std::vector<int32_t>* order, int unit) {
    add_weight(linear, nullptr, 1, order, unit);
    if (linear.bias) add_tensor(linear.name + ".bias", linear.bias, true);
  };
  add_tensor(base + "input_layernorm.weight", l.attention_norm.value, true);
  rows(l.q, &l.head_order, hd);
  rows(l.k, &l.kv_order, hd);
  rows(l.v, &l.kv_order, hd);
  cols(l.o, &l.head_order, hd);
  if (config.qk_norm) {
    add_tensor(base + "self_attn.q_norm.weight", l.q_norm.value, true);
    add_tensor(base + "self_attn.k_norm.weight", l.k_norm.value, true);
  }
  add_tensor(base + "post_attention_layernorm.weight", l.mlp_norm.value, true);
  rows(l.gate, &l.channel_order, 1);
  rows(l.up, &l.channel_order, 1);
  cols(l.down, &l.channel_order, 1);
}

void Model::add_tensor(const std::string& name, Mat value, bool vector,
                       const std::vector<int32_t>* row_order, int row_unit,
                       const std::vector<int32_t>* col_order, int col_unit) {
  TensorPlace place;
  place.name = name;
  place.file_dtype = dtype == DType::bf16 ? "BF16" : "F32";
  place.shape = vector ? std::vector<int64_t>{value.cols}
                       : std::vector<int64_t>{value.rows, value.cols};
  place.value = value;
  place.row_order = row_order;
  place.row_unit = row_unit;
  place.col_order = col_order;
  place.col_unit = col_unit;
  tensors.push_back(std::move(place));
}

void Model::add_weight(Linear& linear, const std::vector<int32_t>* row_order,
                       int row_unit, const std::vector<int32_t>* col_order,
                       int col_unit) {
  add_tensor(linear.name + ".weight", linear.weight, false, row_order, row_unit,
             col_order, col_unit);
  if (quantization != Quantization::none) tensors.back().quantized = &linear.quantized;
}

Linear* Model::find_linear(const std::string& module) {
  for (Layer& layer : layers)
    for (Linear* linear : layer.linears)
      if (linear->name == module) return linear;
  return nullptr;
}

int64_t Model::parameter_count() const {
  int64_t n = 0;
  for (const TensorPlace& t : tensors) n += t.value.count();
  return n;
}

int Model::lowest_trainable() const {
  if (embedding.parameter) return -1;
  for (int i = 0; i < config.layers; ++i)
    if (layers[i].trains() || layers[i].intervention) return i;
  return config.layers;
}

int Model::lowest_saved() const {
  const int lowest = std::max(0, lowest_trainable());
  const bool within = lowest == config.layers || embedding.parameter != nullptr ||
                      layers[lowest].trains();
  return within ? lowest : lowest + 1;
}

}  // namespace s2ft
