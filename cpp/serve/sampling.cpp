#include "serve/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_map>

namespace s2ft {

namespace {

/// The logits' own values where `sample` changes them.
class Changes {
 public:
  explicit Changes(float* logits) : logits_(logits) {}
  /// Remembers a logit once and gives it to be changed.
  float& at(int32_t token) {
    before_.try_emplace(token, logits_[token]);
    return logits_[token];
  }
  float before(int32_t token) const {
    const auto found = before_.find(token);
    return found == before_.end() ? logits_[token] : found->second;
  }

 private:
  float* logits_;
  std::unordered_map<int32_t, float> before_;
};

void penalize(Changes& logits, int64_t vocab, const Sampling& o, const History& history) {
  for (const auto& [token, bias] : o.bias)
    if (token >= 0 && token < vocab) logits.at(token) += bias;
  const bool counted = o.frequency_penalty != 0 || o.presence_penalty != 0;
  if (o.repetition_penalty == 1 && !counted) return;
  // How often each token was generated; 0 for those of the prompt alone.
  std::unordered_map<int32_t, int> seen;
  for (size_t i = 0; i < history.tokens.size(); ++i)
    seen[history.tokens[i]] += i >= history.generated;
  for (const auto& [token, times] : seen) {
    if (token < 0 || token >= vocab) continue;
    float& logit = logits.at(token);
    logit *= logit < 0 ? o.repetition_penalty : 1 / o.repetition_penalty;
    if (times > 0) logit -= float(times) * o.frequency_penalty + o.presence_penalty;
  }
}

/// The most probable candidates in order, sorted as far as they are asked for.
class Ranking {
 public:
  Ranking(const float* logits, int64_t vocab) : logits_(logits), order_(size_t(vocab)) {
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

int32_t draw(const float* logits, int64_t vocab, const Sampling& o, double random) {
  Ranking ranking(logits, vocab);
  const double top = logits[ranking[0]];
  auto weight = [&](int32_t t) {
    return std::exp((double(logits[t]) - top) / o.temperature);
  };
  const size_t most =
      o.top_k > 0 ? std::min(ranking.size(), size_t(o.top_k)) : ranking.size();
  double sum = 0;
  if (most == ranking.size()) {
    for (int64_t t = 0; t < vocab; ++t) sum += weight(int32_t(t));
  } else {
    for (size_t i = 0; i < most; ++i) sum += weight(ranking[i]);
  }
  // How many of the most probable stay, and their weight.
  size_t keep = most;
  double kept = sum;
  if (o.top_p < 1 || o.min_p > 0) {
    kept = 0;
    for (keep = 0; keep < most;) {
      const double w = weight(ranking[keep]);
      if (keep > 0 && w < double(o.min_p)) break;
      kept += w;
      ++keep;
      if (o.top_p < 1 && kept >= double(o.top_p) * sum) break;
    }
  }
  double left = random * kept;
  for (size_t i = 0;; ++i) {
    const double w = weight(ranking[i]);
    if (i + 1 >= keep || left < w) return ranking[i];
    left -= w;
  }
}

}  // namespace

SampledToken sample(float* logits, int64_t vocab, float normalizer,
                    const Sampling& options, double random, const History& history) {
  SampledToken out{};
  if (options.top > 0) {
    Ranking ranking(logits, vocab);
    const size_t n = std::min(ranking.size(), size_t(options.top));
    for (size_t i = 0; i < n; ++i)
      out.top.push_back({ranking[i], logits[ranking[i]] - normalizer});
  }
  Changes changes(logits);
  penalize(changes, vocab, options, history);
  out.token = options.temperature <= 0
                  ? int32_t(std::max_element(logits, logits + vocab) - logits)
                  : draw(logits, vocab, options, random);
  out.log_prob = changes.before(out.token) - normalizer;
  return out;
}

}  // namespace s2ft
