// What a LLaMA-family checkpoint's config.json says, already validated.
#pragma once

#include <cstdint>
#include <vector>

namespace s2ft {

struct RopeConfig {
  enum class Type { standard, linear, dynamic, llama3 };
  Type type = Type::standard;
  double theta = 10000, factor = 1;
  double low_freq_factor = 1, high_freq_factor = 4;  // llama3
  int64_t original_max_positions = 0;                // dynamic, llama3
};

struct ModelConfig {
  int64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0;
  int layers = 0, heads = 0, kv_heads = 0, head_dim = 0;
  float norm_epsilon = 1e-5f;
  bool tie_word_embeddings = false;
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  bool qk_norm = false;             // RMS norm of every q and k head before rotation
  std::vector<int> sliding_window;  // [layers], 0: unlimited
  RopeConfig rope;

  int64_t q_size() const { return int64_t(heads) * head_dim; }
  int64_t kv_size() const { return int64_t(kv_heads) * head_dim; }
  int64_t qkv_size() const { return q_size() + 2 * kv_size(); }
};

}  // namespace s2ft
