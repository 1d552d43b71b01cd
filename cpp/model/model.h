// Model: configuration, weights and where each checkpoint tensor lives. All layers are
// one allocation; q|k|v and gate|up lie behind one another so that each group is one
// product.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/quantized.h"
#include "model/config.h"
#include "model/rope_table.h"
#include "model/trainable.h"

namespace s2ft {

class SafetensorsFile;
struct TensorInfo;

struct Linear {
  std::string name;  // checkpoint module, e.g. model.layers.0.self_attn.q_proj
  Mat weight;        // [out, in]; a shape without data when it is quantized
  Mat bias;          // (1, out) or empty
  TrainablePart* part = nullptr;
  QuantizedMat quantized = {};  // the same, frozen in few bits; empty when it is not
};

/// The layer's weight [out, in]; a quantized one, patches included, is made in `storage`.
Mat weight_values(Backend& backend, const Linear& linear, Buffer& storage);

/// A weight that only full fine-tuning trains (norms, embedding, head).
struct Weight {
  Mat value;
  Parameter* parameter = nullptr;
};

struct Layer {
  Linear q, k, v, o, gate, up, down;
  Mat qkv, qkv_bias;          // [q + 2 kv, d]: the rows of q, k, v; no data if quantized
  Mat gate_up, gate_up_bias;  // [2 k, d]: the rows of gate, up; likewise
  Weight attention_norm, mlp_norm, q_norm, k_norm;
  Intervention* intervention = nullptr;  // on what the layer gives to the next
  std::vector<int32_t> kv_head_of;       // [heads], positions after co-permutation
  // Co-permutation: order[i] is the original index of the unit now at place i; empty
  // means identity.
  std::vector<int32_t> head_order, kv_order, channel_order;

  Linear* linears[7];
  /// Anything in it but the intervention behind it.
  bool trains() const;
};

/// Where a checkpoint tensor lives, and which orders its rows and columns are in.
struct TensorPlace {
  std::string name;
  std::string file_dtype;  // F32, BF16, F16
  std::vector<int64_t> shape;
  Mat value;
  const std::vector<int32_t>* row_order = nullptr;  // of units of `row_unit` rows
  const std::vector<int32_t>* col_order = nullptr;
  int row_unit = 1, col_unit = 1;
  QuantizedMat* quantized = nullptr;  // instead of the value's data
  // Quantized tensors: where the checkpoint has them in full precision.
  std::shared_ptr<SafetensorsFile> file;
  const TensorInfo* info = nullptr;
};

class Model {
 public:
  /// Allocates all weights, uninitialised. Quantization is for the linear layers of the
  /// blocks; embedding, head, norms and biases keep `dtype`.
  Model(ModelConfig config, DType dtype, std::shared_ptr<Backend> backend,
        Quantization quantization = Quantization::none);
  Model(const Model&) = delete;

  const ModelConfig config;
  const DType dtype;
  const Quantization quantization;
  const std::shared_ptr<Backend> backend;
  Weight embedding, final_norm, head;  // head.value is the embedding when tied
  std::vector<Layer> layers;
  std::vector<TensorPlace> tensors;  // in checkpoint order
  RopeTable rope;
  const void* tuner = nullptr;  // the tuner whose parts are hooked in, if any
  /// Quantized models: the fingerprint of what was quantized.
  std::string checkpoint_fingerprint;

  /// The linear layer of a module name, or null.
  Linear* find_linear(const std::string& module);
  int64_t parameter_count() const;
  size_t bytes() const { return bytes_; }
  /// Lowest layer with a trainable part or an intervention (config.layers when there is
  /// none); -1 when the embedding trains.
  int lowest_trainable() const;
  /// Lowest layer whose own values backward needs: the one above, where the lowest has an
  /// intervention only.
  int lowest_saved() const;

 private:
  void build_layer(int index, Arena& arena);
  void add_tensor(const std::string& name, Mat value, bool vector,
                  const std::vector<int32_t>* row_order = nullptr, int row_unit = 1,
                  const std::vector<int32_t>* col_order = nullptr, int col_unit = 1);
  void add_weight(Linear& linear, const std::vector<int32_t>* row_order, int row_unit,
                  const std::vector<int32_t>* col_order, int col_unit);

  Buffer top_storage_, layer_storage_;
  size_t bytes_ = 0;
};

}  // namespace s2ft
