// Decoder: autoregressive decoding of several independent sequences over one model, with
// a KV cache of fixed capacity a slot. Not thread-safe.
#pragma once

#include <memory>
#include <vector>

#include "model/transformer.h"
#include "serve/sampling.h"

namespace s2ft {

struct DecodeRow {
  int slot;
  std::vector<int32_t> tokens;  // appended to the slot
  Sampling sampling;
};

class Decoder {
 public:
  /// Throws INVALID_ARGUMENT for non-positive sizes, OUT_OF_MEMORY.
  Decoder(std::shared_ptr<Model> model, int slots, int capacity);

  /// Appends the rows' tokens in one pass and samples one next token for each; the tokens
  /// that an empty slot gets first are its prompt. Throws
  /// INVALID_ARGUMENT when a slot is unknown, named twice, or would exceed its capacity;
  /// nothing is appended then.
  std::vector<SampledToken> append(const std::vector<DecodeRow>& rows,
                                   const std::atomic<bool>* cancel = nullptr);
  /// Forgets a slot's tokens.
  void reset(int slot);

 private:
  void check(const std::vector<DecodeRow>& rows) const;
  std::vector<SampledToken> append_some(const std::vector<DecodeRow>& rows,
                                        const std::atomic<bool>* cancel);

  std::shared_ptr<Model> model_;
  KvCache cache_;
  std::vector<std::vector<int32_t>> history_;  // per slot
  std::vector<int32_t> prompts_;               // per slot: tokens of its prompt
  Buffer arena_;
};

}  // namespace s2ft
