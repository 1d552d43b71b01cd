#include "serve/sampling.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <unordered_map>

namespace s2ft {

namespace {

/// The most probable candidates in order, sorted as far as they are asked for.
class Order {
 public:
  Order(const float* logits, int64_t vocab) : logits_(logits), order_(size_t(vocab)) {
    std::iota(order_.begin(), order_.end(), 0);
  }
  size_t size() const { return order_.size(); }
  int32_t operator[](size_t i) {
    while (i >= sorted_) sort_more();
    return order_[i];
  }

 private:
  void sort_more() {
    auto before = [this](int32_t a, int32_t b) {
      return logits_[a] != logits_[b] ? logits_[a] > logits_[b] : a < b;
    };
    const size_t end = std::min(order_.size(), std::max<size_t>(256, 8 * sorted_));
    const auto first = order_.begin() + int64_t(sorted_);
    if (end < order_.size())
      std::nth_element(first, order_.begin() + int64_t(end), order_.end(), before);
    std::sort(first, order_.begin() + int64_t(end), before);
    sorted_ = end;
  }

  const float* logits_;
  std::vector<int32_t> order_;
  size_t sorted_ = 0;
};

/// The same from what is ranked already, and from the whole row where that ends.
class Candidates {
 public:
  Candidates(const RankedLogits& ranked, int64_t vocab)
      : ranked_(ranked), vocab_(vocab) {}
  size_t size() const { return size_t(vocab_); }
  std::pair<int32_t, float> operator[](size_t i) {
    if (i < ranked_.count) return {ranked_.tokens[i], ranked_.values[i]};
    if (!rest_) {
      whole_ = ranked_.whole();
      rest_ = std::make_unique<Order>(whole_, vocab_);
    }
    const int32_t token = (*rest_)[i];
    return {token, whole_[token]};
  }

 private:
  const RankedLogits& ranked_;
  int64_t vocab_;
  const float* whole_ = nullptr;
  std::unique_ptr<Order> rest_;
};

double mass_of(const float* logits, int64_t vocab, double top, float temperature) {
  double mass = 0;
  for (int64_t t = 0; t < vocab; ++t)
    mass += std::exp((double(logits[t]) - top) / temperature);
  return mass;
}

bool cut_by_k(const Sampling& o, int64_t vocab) {
  return o.top_k > 0 && o.top_k < vocab;
}

}  // namespace

void add_changes(std::vector<LogitChange>& changes, int32_t row, int64_t vocab,
                 const Sampling& o, const History& history) {
  std::unordered_map<int32_t, LogitChange> by_token;
  const auto at = [&](int32_t token) -> LogitChange& {
    LogitChange& change = by_token[token];
    change.row = row;
    change.token = token;
    return change;
  };
  for (const auto& [token, bias] : o.bias)
    if (token >= 0 && token < vocab) at(token).bias += bias;
  const bool counted = o.frequency_penalty != 0 || o.presence_penalty != 0;
  if (o.repetition_penalty != 1 || counted) {
    // How often each token was generated; 0 for those of the prompt alone.
    std::unordered_map<int32_t, int> seen;
    for (size_t i = 0; i < history.tokens.size(); ++i)
      seen[history.tokens[i]] += i >= history.generated;
    for (const auto& [token, times] : seen) {
      if (token < 0 || token >= vocab) continue;
      LogitChange& change = at(token);
      change.negative = o.repetition_penalty;
      change.positive = 1 / o.repetition_penalty;
      if (times > 0)
        change.add = -(float(times) * o.frequency_penalty + o.presence_penalty);
    }
  }
  for (const auto& [token, change] : by_token) changes.push_back(change);
}

int64_t ranks_needed(const Sampling& o, int64_t vocab) {
  const int64_t most = std::min(vocab, Ranking::kMost);
  if (o.temperature <= 0) return 1;
  return cut_by_k(o, vocab) ? std::min<int64_t>(o.top_k, most) : most;
}

bool needs_mass(const Sampling& o, int64_t vocab) {
  return o.temperature > 0 && !cut_by_k(o, vocab);
}

int32_t choose(const RankedLogits& logits, int64_t vocab, const Sampling& o,
               double random) {
  Candidates candidates(logits, vocab);
  if (o.temperature <= 0) return candidates[0].first;
  const double top = candidates[0].second;
  auto weight = [&](size_t i) {
    return std::exp((double(candidates[i].second) - top) / o.temperature);
  };
  const size_t most = cut_by_k(o, vocab) ? size_t(o.top_k) : candidates.size();
  double sum = 0;
  if (most == candidates.size()) {
    sum = logits.mass;
  } else {
    for (size_t i = 0; i < most; ++i) sum += weight(i);
  }
  // How many of the most probable stay, and their weight.
  size_t keep = most;
  double kept = sum;
  if (o.top_p < 1 || o.min_p > 0) {
    kept = 0;
    for (keep = 0; keep < most;) {
      const double w = weight(keep);
      if (keep > 0 && w < double(o.min_p)) break;
      kept += w;
      ++keep;
      if (o.top_p < 1 && kept >= double(o.top_p) * sum) break;
    }
  }
  double left = random * kept;
  for (size_t i = 0;; ++i) {
    const double w = weight(i);
    if (i + 1 >= keep || left < w) return candidates[i].first;
    left -= w;
  }
}

SampledToken sample(float* logits, int64_t vocab, float normalizer,
                    const Sampling& options, double random, const History& history) {
  SampledToken out{};
  if (options.top > 0) {
    Order order(logits, vocab);
    const size_t n = std::min(order.size(), size_t(options.top));
    for (size_t i = 0; i < n; ++i)
      out.top.push_back({order[i], logits[order[i]] - normalizer});
  }
  std::vector<LogitChange> changes;
  add_changes(changes, 0, vocab, options, history);
  std::unordered_map<int32_t, float> before;
  for (const LogitChange& c : changes) {
    float& x = logits[c.token];
    before.emplace(c.token, x);
    x = c.of(x);
  }
  const int32_t best = int32_t(std::max_element(logits, logits + vocab) - logits);
  RankedLogits ranked{&logits[best], &best, 1, 0, [&] { return logits; }};
  if (needs_mass(options, vocab))
    ranked.mass = mass_of(logits, vocab, logits[best], options.temperature);
  out.token = choose(ranked, vocab, options, random);
  const auto changed = before.find(out.token);
  out.log_prob =
      (changed == before.end() ? logits[out.token] : changed->second) - normalizer;
  return out;
}

}  // namespace s2ft
