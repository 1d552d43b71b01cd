// What the decoder's tests share: a decoder whose pages are dealt out in turn, sequences
// run greedily to a length, and one adapter of each kind.
#pragma once

#include <map>

#include "adapter/deltas.h"
#include "serve/decoder.h"
#include "test/tiny_model.h"

namespace s2ft::test {

struct Script {
  std::vector<int32_t> prompt;
  int64_t adapter = -1;  // none
};

/// A sampled token and the log-probabilities of all tokens.
struct Decoded {
  int32_t token;
  std::vector<float> log_probs;
  bool operator==(const Decoded& o) const {
    return token == o.token && log_probs == o.log_probs;
  }
};

/// A decoder with pages of 16 tokens that are dealt out as sequences grow.
class Runner {
 public:
  Runner(std::shared_ptr<Model> model, int pages)
      : decoder(model, pages, 16), vocab_(int(model->config.vocab_size)) {
    for (int32_t page = 0; page < pages; ++page) free_.push_back(page);
  }

  void open(int64_t id, SequenceOptions options, int prompt) {
    options.prompt = prompt;
    held_[id] = {int64_t(options.cached.size()), options.pages};
    decoder.open(id, std::move(options));
  }
  const std::vector<int32_t>& pages_of(int64_t id) { return held_[id].pages; }

  std::vector<DecodedRow> pass(std::vector<DecodeRow> rows) {
    for (DecodeRow& row : rows) {
      Held& held = held_[row.sequence];
      held.tokens += int64_t(row.tokens.size());
      while (int64_t(held.pages.size()) * 16 < held.tokens) {
        row.pages.push_back(free_.back());
        held.pages.push_back(free_.back());
        free_.pop_back();
      }
    }
    return decoder.pass(rows);
  }

  /// All of them together, `count` tokens each; their pages are free again afterwards.
  std::vector<std::vector<Decoded>> run(const std::vector<Script>& scripts, int count) {
    std::vector<DecodeRow> rows;
    for (size_t s = 0; s < scripts.size(); ++s) {
      SequenceOptions options;
      options.adapter = scripts[s].adapter;
      options.sampling.top = vocab_;
      open(kFirst + int64_t(s), options, int(scripts[s].prompt.size()));
      rows.push_back({kFirst + int64_t(s), scripts[s].prompt});
    }
    std::vector<std::vector<Decoded>> out(scripts.size());
    for (int i = 0; i < count; ++i) {
      const std::vector<DecodedRow> found = pass(rows);
      for (size_t s = 0; s < rows.size(); ++s) {
        const SampledToken& sampled = found[s].sampled;
        Decoded decoded{sampled.token, std::vector<float>(size_t(vocab_), NAN)};
        for (const TokenProbability& t : sampled.top)
          decoded.log_probs[size_t(t.token)] = t.log_prob;
        out[s].push_back(decoded);
        rows[s] = {rows[s].sequence, {sampled.token}};
      }
    }
    for (const DecodeRow& row : rows) {
      decoder.close(row.sequence);
      const auto& pages = held_[row.sequence].pages;
      free_.insert(free_.end(), pages.begin(), pages.end());
      held_.erase(row.sequence);
    }
    return out;
  }

  Decoder decoder;

 private:
  static constexpr int64_t kFirst = 1000;
  struct Held {
    int64_t tokens = 0;
    std::vector<int32_t> pages;
  };
  int vocab_;
  std::vector<int32_t> free_;
  std::map<int64_t, Held> held_;
};

/// A `cols` adapter, a `rows` adapter, LoRA, and slices of both kinds with LoRA
/// elsewhere.
inline std::vector<AdapterDeltas> some_adapters(Model& model) {
  Rng rng(5);
  const auto values = [&](int64_t n, double scale) {
    std::vector<float> out;
    for (int64_t i = 0; i < n; ++i) out.push_back(float(scale * rng.normal()));
    return out;
  };
  const auto slice = [&](const std::string& module, bool rows,
                         std::vector<int32_t> index) {
    const Mat w = model.find_linear(module)->weight;
    const int64_t n = int64_t(index.size()) * (rows ? w.cols : w.rows);
    return SliceDelta{module, rows, std::move(index), values(n, 0.5)};
  };
  const auto lora = [&](const std::string& module, int64_t r) {
    const Mat w = model.find_linear(module)->weight;
    return LoraDelta{module, r, values(r * w.cols, 0.4), values(w.rows * r, 0.4), 2, {}};
  };
  AdapterDeltas cols, rows, factors, mixed;
  for (const char* layer : {"model.layers.0.", "model.layers.2."}) {
    const std::string at = layer;
    cols.slices.push_back(slice(at + "mlp.down_proj", false, {22, 0, 7, 3}));
    cols.slices.push_back(slice(at + "self_attn.o_proj", false, {6, 7, 8, 9, 10, 11}));
    rows.slices.push_back(slice(at + "mlp.up_proj", true, {5, 1, 20}));
    rows.slices.push_back(slice(at + "mlp.gate_proj", true, {5, 1, 20}));
    rows.slices.push_back(slice(at + "self_attn.q_proj", true, {12, 13, 14, 15, 16, 17}));
    rows.slices.push_back(slice(at + "self_attn.v_proj", true, {0, 1, 2, 3, 4, 5}));
    factors.loras.push_back(lora(at + "self_attn.k_proj", 2));
    factors.loras.push_back(lora(at + "self_attn.o_proj", 5));
    factors.loras.push_back(lora(at + "mlp.down_proj", 3));
  }
  mixed.slices = {cols.slices[0], rows.slices[0]};
  mixed.loras = {factors.loras[0]};
  return {cols, rows, factors, mixed};
}

}  // namespace s2ft::test
