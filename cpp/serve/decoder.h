// Decoder: autoregressive decoding of many independent sequences over one model, each
// with an adapter of its own or none. Keys and values live in pages of fixed size, which
// the caller deals out: a page may belong to several sequences that begin alike. Not
// thread-safe.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "model/transformer.h"
#include "serve/ranked_sampling.h"
#include "serve/served_adapter.h"

namespace s2ft {

struct SequenceOptions {
  Sampling sampling;
  int64_t adapter = -1;  // id of an added adapter; -1: the model alone
  /// Tokens whose keys and values lie in `pages` already.
  std::vector<int32_t> cached;
  std::vector<int32_t> pages;
  /// Tokens of the prompt, the cached ones included; later ones were generated.
  int32_t prompt = 0;
};

/// What a pass does for one sequence.
struct DecodeRow {
  int64_t sequence = 0;
  std::vector<int32_t> tokens = {};  // appended
  std::vector<int32_t> pages = {};   // added to the sequence's own
  bool sample = true;                // else there are more tokens to come
  double random = 0;                 // decides the draw
  /// Asks for log p(targets[i] | what ends with tokens[i]); empty or one a token.
  std::vector<int32_t> targets = {};
};

struct DecodedRow {
  SampledToken sampled{};               // where it was asked for
  bool finite = true;                   // else the model answered with no numbers
  std::vector<float> target_log_probs;  // likewise
};

class Decoder {
 public:
  /// `page_rows` tokens a page, a multiple of 16. Throws INVALID_ARGUMENT, OUT_OF_MEMORY.
  Decoder(std::shared_ptr<Model> model, int pages, int page_rows);

  /// Throws as ServedAdapter does, INVALID_ARGUMENT for an id in use. Returns its bytes.
  size_t add_adapter(int64_t id, const AdapterDeltas& deltas);
  /// Throws BUSY while a sequence uses it.
  void remove_adapter(int64_t id);

  /// Throws INVALID_ARGUMENT for an id in use, an unknown adapter or page, or cached
  /// tokens that the pages cannot hold.
  void open(int64_t id, SequenceOptions options);
  /// Its pages may be dealt out again. Unknown ids are ignored.
  void close(int64_t id);

  /// Appends the rows' tokens and samples. Activations grow with the tokens of a pass.
  /// Throws INVALID_ARGUMENT when a sequence is unknown or named twice, a token is none,
  /// or its pages are too few; BUSY for adapters while a trainer holds the model; nothing
  /// is appended then.
  std::vector<DecodedRow> pass(const std::vector<DecodeRow>& rows,
                               const std::atomic<bool>* cancel = nullptr);

 private:
  struct Sequence {
    SequenceOptions options;
    std::vector<int32_t> tokens;  // cached and appended ones
  };
  struct Packed;

  void check_pages(const std::vector<int32_t>& pages, const std::string& where) const;
  void check(const std::vector<DecodeRow>& rows) const;
  Packed pack(const std::vector<DecodeRow>& rows) const;
  void read_results(const Pass& pass, const Packed& packed,
                    const std::vector<DecodeRow>& rows, std::vector<DecodedRow>& out);
  /// A token for each of the given rows of `output`.
  void choose_tokens(const Pass& pass, const std::vector<int32_t>& last,
                     std::vector<SampledRow>& rows);
  Activations place(const ActivationRequest& request);

  std::shared_ptr<Model> model_;
  const int pages_, page_rows_;
  KvCache cache_;
  std::unordered_map<int64_t, Sequence> sequences_;
  std::unordered_map<int64_t, std::unique_ptr<ServedAdapter>> adapters_;
  Buffer arena_;
  std::vector<float> logits_;  // of the last pass's sampled rows, where they come here
  Buffer ranked_;              // what is ranked of them elsewhere
};

}  // namespace s2ft
