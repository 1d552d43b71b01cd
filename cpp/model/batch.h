// Batch: samples packed row after row, without padding. Positions restart in each.
#pragma once

#include <vector>

#include "backend/backend.h"

namespace s2ft {

/// One sequence; labels[i] is the label of token i, -100 where it is not trained. Without
/// labels there are no targets.
struct Sample {
  const int32_t* tokens = nullptr;
  const int32_t* labels = nullptr;
  int32_t length = 0;
};

struct Batch {
  std::vector<int32_t> tokens, positions;     // [T]
  std::vector<int32_t> begins;                // [samples + 1]
  std::vector<int32_t> k_begin, k_len;        // [samples]
  std::vector<int32_t> prompts;               // [samples] tokens of a sequence's prompt
  std::vector<int32_t> target_rows, targets;  // [N]: row i predicts token i + 1
  // Keys in pages (Sequences); empty where k_begin tells.
  std::vector<int32_t> pages, page_begin;
  int page_rows = 0;
  int64_t longest = 0;

  int64_t size() const { return int64_t(tokens.size()); }
  /// Sequences, the filling one included.
  int samples() const { return int(k_len.size()); }
  Sequences sequences() const {
    Sequences s{samples(), begins.data(), k_begin.data(), k_len.data()};
    if (page_rows > 0) {
      s.pages = pages.data();
      s.page_begin = page_begin.data();
      s.page_rows = page_rows;
    }
    return s;
  }
  /// The sample that a row belongs to.
  int sample_of(int32_t row) const;
};

/// Another key for every key and list.
uint64_t mixed(uint64_t key, const std::vector<int32_t>& lengths);

/// The same for batches whose passes are the same operations over other tokens.
uint64_t shape_key(const Batch& batch);

/// Rows a batch of this many tokens is filled up to: 16 sizes an octave, at most 63 rows
/// more. Product libraries compile a kernel for every new shape, which can take as long
/// as a step; batches of true lengths would bring a new one every time.
int64_t padded_tokens(int64_t tokens);

/// Packs samples; a sample's prompt ends where its labels begin, and is all of it where
/// there are none. Fills up with one more sequence of token 0 that predicts nothing:
/// its gradients are exact zeros. Throws INVALID_ARGUMENT for an empty sample, a token
/// outside the vocabulary, or a label that is neither -100 nor a token; names the sample
/// and the place.
Batch pack(const std::vector<Sample>& samples, int64_t vocab_size);

}  // namespace s2ft
