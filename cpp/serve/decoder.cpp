#include "serve/decoder.h"

#include <string>

#include "core/error.h"

namespace s2ft {

namespace {

// A long prompt goes through in pieces, so that activations stay small.
constexpr int64_t kPrefillTokens = 512;

}  // namespace

Decoder::Decoder(std::shared_ptr<Model> model, int slots, int capacity)
    : model_(std::move(model)) {
  if (slots < 1 || capacity < 1) {
    throw Error(
        "INVALID_ARGUMENT",
        "[decode] expected at least one slot and a capacity of one token, found " +
            std::to_string(slots) + " and " + std::to_string(capacity));
  }
  cache_ = make_kv_cache(*model_, slots, capacity);
  history_.resize(size_t(slots));
  prompts_.resize(size_t(slots));
}

void Decoder::check(const std::vector<DecodeRow>& rows) const {
  std::vector<bool> seen(history_.size(), false);
  for (const DecodeRow& row : rows) {
    const std::string where = "[decode] slot " + std::to_string(row.slot) + ": ";
    if (row.slot < 0 || row.slot >= cache_.slots)
      throw Error("INVALID_ARGUMENT",
                  where + "expected a slot below " + std::to_string(cache_.slots));
    if (seen[row.slot]) throw Error("INVALID_ARGUMENT", where + "named twice");
    seen[row.slot] = true;
    if (row.tokens.empty())
      throw Error("INVALID_ARGUMENT", where + "no tokens to append");
    const size_t length = history_[row.slot].size() + row.tokens.size();
    if (length > size_t(cache_.capacity)) {
      throw Error("INVALID_ARGUMENT", where + "expected at most " +
                                          std::to_string(cache_.capacity) +
                                          " tokens, found " + std::to_string(length));
    }
    for (int32_t token : row.tokens) {
      if (token >= 0 && token < model_->config.vocab_size) continue;
      throw Error("INVALID_ARGUMENT", where + "expected tokens in [0, " +
                                          std::to_string(model_->config.vocab_size) +
                                          "), found " + std::to_string(token));
    }
  }
}

std::vector<SampledToken> Decoder::append(const std::vector<DecodeRow>& rows,
                                          const std::atomic<bool>* cancel) {
  check(rows);
  for (const DecodeRow& row : rows)
    if (history_[row.slot].empty()) prompts_[row.slot] = int32_t(row.tokens.size());
  std::vector<SampledToken> out(rows.size());
  // Group rows into passes of bounded size; only a row's last piece samples.
  std::vector<DecodeRow> pass;
  std::vector<size_t> owner;
  int64_t size = 0;
  auto flush = [&] {
    if (pass.empty()) return;
    const std::vector<SampledToken> sampled = append_some(pass, cancel);
    for (size_t i = 0; i < owner.size(); ++i) out[owner[i]] = sampled[i];
    pass.clear(), owner.clear();
    size = 0;
  };
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::vector<int32_t>& tokens = rows[i].tokens;
    for (size_t begin = 0; begin < tokens.size(); begin += kPrefillTokens) {
      const size_t end = std::min(tokens.size(), begin + size_t(kPrefillTokens));
      if (size + int64_t(end - begin) > kPrefillTokens) flush();
      // Two pieces of one row may not share a pass.
      if (!pass.empty() && pass.back().slot == rows[i].slot) flush();
      pass.push_back({rows[i].slot,
                      {tokens.begin() + begin, tokens.begin() + end},
                      rows[i].sampling});
      owner.push_back(i);
      size += int64_t(end - begin);
    }
  }
  flush();
  return out;
}

std::vector<SampledToken> Decoder::append_some(const std::vector<DecodeRow>& rows,
                                               const std::atomic<bool>* cancel) {
  Batch batch;
  std::vector<int32_t> cache_rows, last_rows;
  batch.begins.push_back(0);
  for (const DecodeRow& row : rows) {
    const int32_t past = int32_t(history_[row.slot].size());
    const int32_t first = row.slot * cache_.capacity;
    for (size_t i = 0; i < row.tokens.size(); ++i) {
      batch.tokens.push_back(row.tokens[i]);
      batch.positions.push_back(past + int32_t(i));
      cache_rows.push_back(first + past + int32_t(i));
    }
    last_rows.push_back(int32_t(batch.tokens.size()) - 1);
    batch.begins.push_back(int32_t(batch.tokens.size()));
    batch.k_begin.push_back(first);
    batch.k_len.push_back(past + int32_t(row.tokens.size()));
    batch.prompts.push_back(prompts_[row.slot]);
  }

  // Rows that belong to no sequence: computed with the others, looked at by nobody.
  for (int64_t fill = padded_tokens(batch.size()) - batch.size(); fill > 0; --fill) {
    batch.tokens.push_back(0);
    batch.positions.push_back(0);
  }

  ActivationRequest request;
  request.tokens = batch.size();
  request.trained = int64_t(rows.size());
  request.logits = true;
  request.samples = batch.samples();
  Arena count;
  lay_out(*model_, request, count);
  if (count.peak() > arena_.bytes()) {
    arena_.reset();
    arena_ = model_->backend->allocate(count.peak());
  }
  Arena place(arena_.data());
  Activations activations = lay_out(*model_, request, place);
  const Pass pass{*model_,           batch,  activations, false, &cache_,
                  cache_rows.data(), cancel, nullptr};
  forward(pass);
  const int64_t vocab = model_->config.vocab_size;
  std::vector<float> logits(rows.size() * size_t(vocab));
  logits_of_rows(pass, last_rows, logits.data());

  std::vector<SampledToken> out;
  for (size_t i = 0; i < rows.size(); ++i) {
    std::vector<int32_t>& history = history_[rows[i].slot];
    history.insert(history.end(), rows[i].tokens.begin(), rows[i].tokens.end());
    out.push_back(
        sample(logits.data() + i * size_t(vocab), vocab, rows[i].sampling, history));
  }
  return out;
}

void Decoder::reset(int slot) {
  if (slot < 0 || slot >= cache_.slots)
    throw Error("INVALID_ARGUMENT", "[decode] there is no slot " + std::to_string(slot));
  history_[slot].clear();
}

}  // namespace s2ft
