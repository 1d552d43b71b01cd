#include "serve/decoder.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <string>

#include "core/error.h"

namespace s2ft {

namespace {

[[noreturn]] void invalid(const std::string& message) {
  throw Error("INVALID_ARGUMENT", "[decode] " + message);
}

/// The adapters of a batch whose rows lie adapter by adapter.
class BatchAdapters : public AddedOutputs {
 public:
  void append(const ServedAdapter* adapter, int64_t rows) {
    if (adapter && !runs_.empty() && runs_.back().adapter == adapter) {
      runs_.back().count += rows;
    } else if (adapter) {
      runs_.push_back({adapter, rows_, rows});
    }
    rows_ += rows;
  }
  bool empty() const { return runs_.empty(); }

  void add(Backend& backend, const Linear& linear, Mat y, Mat x) const override {
    groups_.clear();
    for (const Run& run : runs_) {
      const AdapterRows rows = run.adapter->rows(linear, run.begin, run.count);
      if (rows.k > 0) groups_.push_back(rows);
    }
    if (!groups_.empty()) {
      backend.add_adapters(y, x, groups_.data(), int(groups_.size()));
    }
  }

 private:
  struct Run {
    const ServedAdapter* adapter;
    int64_t begin, count;
  };
  std::vector<Run> runs_;
  int64_t rows_ = 0;
  mutable std::vector<AdapterRows> groups_;
};

}  // namespace

/// Rows of a pass as a batch, adapter by adapter.
struct Decoder::Packed {
  Batch batch;
  std::vector<int32_t> cache_rows;
  std::vector<int32_t> begin;  // of each DecodeRow, in the order given
  BatchAdapters adapters;
};

Decoder::Decoder(std::shared_ptr<Model> model, int pages, int page_rows)
    : model_(std::move(model)), pages_(pages), page_rows_(page_rows) {
  if (pages < 1 || page_rows < 16 || page_rows % 16 != 0) {
    invalid("expected at least one page of a multiple of 16 tokens, found " +
            std::to_string(pages) + " of " + std::to_string(page_rows));
  }
  if (int64_t(pages) * page_rows > INT32_MAX) invalid("expected fewer than 2^31 tokens");
  cache_ = make_kv_cache(*model_, int64_t(pages) * page_rows);
}

size_t Decoder::add_adapter(int64_t id, const AdapterDeltas& deltas) {
  if (id < 0 || adapters_.count(id)) {
    invalid("adapter " + std::to_string(id) + ": expected an id that is not in use");
  }
  if (model_->tuner)
    throw Error("BUSY", "[decode] a trainer holds the model's weights: dispose it first");
  auto adapter = std::make_unique<ServedAdapter>(*model_, deltas);
  const size_t bytes = adapter->bytes();
  adapters_.emplace(id, std::move(adapter));
  return bytes;
}

void Decoder::remove_adapter(int64_t id) {
  for (const auto& [sequence, state] : sequences_)
    if (state.options.adapter == id)
      throw Error("BUSY", "[decode] sequence " + std::to_string(sequence) +
                              " uses adapter " + std::to_string(id));
  adapters_.erase(id);
}

void Decoder::check_pages(const std::vector<int32_t>& pages,
                          const std::string& where) const {
  for (int32_t page : pages) {
    if (page >= 0 && page < pages_) continue;
    invalid(where + "expected pages in [0, " + std::to_string(pages_) + "), found " +
            std::to_string(page));
  }
}

void Decoder::open(int64_t id, SequenceOptions options) {
  const std::string where = "sequence " + std::to_string(id) + ": ";
  if (sequences_.count(id)) invalid(where + "open already");
  if (options.adapter >= 0 && !adapters_.count(options.adapter))
    invalid(where + "no adapter " + std::to_string(options.adapter) + " was added");
  check_pages(options.pages, where);
  if (options.cached.size() > options.pages.size() * size_t(page_rows_))
    invalid(where + "the pages hold fewer than " + std::to_string(options.cached.size()) +
            " cached tokens");
  Sequence sequence;
  sequence.tokens = options.cached;
  sequence.options = std::move(options);
  sequences_.emplace(id, std::move(sequence));
}

void Decoder::close(int64_t id) {
  sequences_.erase(id);
}

void Decoder::check(const std::vector<DecodeRow>& rows) const {
  std::set<int64_t> named;
  for (const DecodeRow& row : rows) {
    const std::string where = "sequence " + std::to_string(row.sequence) + ": ";
    const auto at = sequences_.find(row.sequence);
    if (at == sequences_.end()) invalid(where + "not open");
    if (!named.insert(row.sequence).second) invalid(where + "named twice");
    if (row.tokens.empty()) invalid(where + "no tokens to append");
    const Sequence& s = at->second;
    if (s.options.adapter >= 0 && model_->tuner) {
      throw Error("BUSY",
                  "[decode] a trainer holds the model's weights: dispose it first");
    }
    check_pages(row.pages, where);
    const size_t length = s.tokens.size() + row.tokens.size();
    const size_t room = (s.options.pages.size() + row.pages.size()) * size_t(page_rows_);
    if (length > room) {
      invalid(where + "expected pages for " + std::to_string(length) + " tokens, found " +
              std::to_string(room));
    }
    if (!row.targets.empty() && row.targets.size() != row.tokens.size())
      invalid(where + "expected a target for each token, or none");
    for (const auto* list : {&row.tokens, &row.targets}) {
      for (int32_t token : *list) {
        if (token >= 0 && token < model_->config.vocab_size) continue;
        invalid(where + "expected tokens in [0, " +
                std::to_string(model_->config.vocab_size) + "), found " +
                std::to_string(token));
      }
    }
  }
}

Decoder::Packed Decoder::pack(const std::vector<DecodeRow>& rows) const {
  std::vector<size_t> order(rows.size());
  std::iota(order.begin(), order.end(), 0);
  auto adapter_of = [&](size_t i) {
    return sequences_.at(rows[i].sequence).options.adapter;
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return adapter_of(a) < adapter_of(b); });
  Packed packed;
  Batch& b = packed.batch;
  b.page_rows = page_rows_;
  b.begins.push_back(0);
  packed.begin.resize(rows.size());
  for (size_t i : order) {
    const DecodeRow& row = rows[i];
    const Sequence& s = sequences_.at(row.sequence);
    const int32_t past = int32_t(s.tokens.size()), n = int32_t(row.tokens.size());
    const int32_t first_page = int32_t(b.pages.size());
    packed.begin[i] = int32_t(b.tokens.size());
    b.page_begin.push_back(first_page);
    b.pages.insert(b.pages.end(), s.options.pages.begin(), s.options.pages.end());
    b.pages.insert(b.pages.end(), row.pages.begin(), row.pages.end());
    b.tokens.insert(b.tokens.end(), row.tokens.begin(), row.tokens.end());
    for (int32_t at = past; at < past + n; ++at) {
      b.positions.push_back(at);
      packed.cache_rows.push_back(
          b.pages[size_t(first_page + at / page_rows_)] * page_rows_ + at % page_rows_);
    }
    b.begins.push_back(int32_t(b.tokens.size()));
    b.k_begin.push_back(0);
    b.k_len.push_back(past + n);
    b.prompts.push_back(s.options.prompt);
    const int64_t adapter = s.options.adapter;
    packed.adapters.append(adapter < 0 ? nullptr : adapters_.at(adapter).get(), n);
  }
  // Rows that belong to no sequence: computed with the others, looked at by nobody.
  for (int64_t fill = padded_tokens(b.size()) - b.size(); fill > 0; --fill) {
    b.tokens.push_back(0);
    b.positions.push_back(0);
  }
  return packed;
}

Activations Decoder::place(const ActivationRequest& request) {
  Arena count;
  lay_out(*model_, request, count);
  if (count.peak() > arena_.bytes()) {
    arena_.reset();
    arena_ = model_->backend->allocate(count.peak());
  }
  Arena arena(arena_.data());
  return lay_out(*model_, request, arena);
}

void Decoder::read_results(const Pass& pass, const Packed& packed,
                           const std::vector<DecodeRow>& rows,
                           std::vector<DecodedRow>& out) {
  std::vector<size_t> sampled;
  std::vector<int32_t> last, target_rows, targets;
  for (size_t i = 0; i < rows.size(); ++i) {
    const int32_t begin = packed.begin[i], n = int32_t(rows[i].tokens.size());
    if (rows[i].sample) {
      sampled.push_back(i);
      last.push_back(begin + n - 1);
    }
    for (size_t t = 0; t < rows[i].targets.size(); ++t) {
      target_rows.push_back(begin + int32_t(t));
      targets.push_back(rows[i].targets[t]);
    }
  }
  std::vector<float> nll(targets.size());
  losses_of_rows(pass, target_rows, targets, nll.data());
  size_t at = 0;
  for (size_t i = 0; i < rows.size(); ++i)
    for (size_t t = 0; t < rows[i].targets.size(); ++t)
      out[i].target_log_probs.push_back(-nll[at++]);

  std::vector<SampledRow> choices;
  for (size_t i : sampled) {
    const Sequence& s = sequences_.at(rows[i].sequence);
    choices.push_back(
        {&s.options.sampling, {s.tokens, size_t(s.options.prompt)}, rows[i].random});
  }
  choose_tokens(pass, last, choices);
  for (size_t j = 0; j < sampled.size(); ++j) {
    out[sampled[j]].finite = choices[j].finite;
    out[sampled[j]].sampled = std::move(choices[j].sampled);
  }
}

void Decoder::choose_tokens(const Pass& pass, const std::vector<int32_t>& last,
                            std::vector<SampledRow>& rows) {
  const int64_t vocab = model_->config.vocab_size;
  const bool ranks = std::all_of(rows.begin(), rows.end(), [](const SampledRow& row) {
    return can_rank(*row.options);
  });
  if (ranks && !model_->backend->host_memory()) {
    each_logits_chunk(pass, last, [&](int64_t i, Mat logits) {
      sample_ranked(*model_->backend, ranked_, logits, rows, i);
    });
    return;
  }
  std::vector<float> normalizers(rows.size());
  logits_.resize(std::max(logits_.size(), rows.size() * size_t(vocab)));
  logits_of_rows(pass, last, logits_.data(), normalizers.data());
  const int threads = model_->backend->threads();
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (rows.size() > 1)
  for (size_t j = 0; j < rows.size(); ++j) {
    SampledRow& row = rows[j];
    row.finite = std::isfinite(normalizers[j]);
    if (!row.finite) continue;
    row.sampled = sample(logits_.data() + j * size_t(vocab), vocab, normalizers[j],
                         *row.options, row.random, row.history);
  }
}

std::vector<DecodedRow> Decoder::pass(const std::vector<DecodeRow>& rows,
                                      const std::atomic<bool>* cancel) {
  if (rows.empty()) return {};
  check(rows);
  const Packed packed = pack(rows);
  ActivationRequest request;
  request.tokens = packed.batch.size();
  for (const DecodeRow& row : rows)
    request.trained += int64_t(row.targets.size()) + row.sample;
  request.trained = std::max<int64_t>(request.trained, 1);
  request.logits = true;
  request.samples = packed.batch.samples();
  Activations activations = place(request);
  Pass pass{*model_, packed.batch, activations, false, &cache_, packed.cache_rows.data()};
  pass.cancel = cancel;
  if (!packed.adapters.empty()) pass.added = &packed.adapters;
  // However many tokens went before.
  model_->backend->repeat(mixed(0, packed.batch.begins), [&] { forward(pass); });

  // The history that penalties look at ends with the tokens of this pass.
  for (const DecodeRow& row : rows) {
    Sequence& s = sequences_.at(row.sequence);
    s.tokens.insert(s.tokens.end(), row.tokens.begin(), row.tokens.end());
    s.options.pages.insert(s.options.pages.end(), row.pages.begin(), row.pages.end());
  }
  std::vector<DecodedRow> out(rows.size());
  read_results(pass, packed, rows, out);
  return out;
}

}  // namespace s2ft
