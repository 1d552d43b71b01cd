#include "serve/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <unordered_set>

#include "core/error.h"

namespace s2ft {

namespace {

double log_sum_exp(const float* x, int64_t n) {
  const double top = *std::max_element(x, x + n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(double(x[i]) - top);
  return top + std::log(sum);
}

void penalize(float* logits, int64_t vocab, float penalty,
              const std::vector<int32_t>& history) {
  std::unordered_set<int32_t> seen(history.begin(), history.end());
  for (int32_t t : seen)
    if (t >= 0 && t < vocab) logits[t] *= logits[t] < 0 ? penalty : 1 / penalty;
}

/// Candidates, most probable first, with their probabilities after every filter.
struct Candidates {
  std::vector<int32_t> tokens;
  std::vector<double> probabilities;
};

Candidates filter(const float* logits, int64_t vocab, const Sampling& o) {
  Candidates c;
  c.tokens.resize(size_t(vocab));
  std::iota(c.tokens.begin(), c.tokens.end(), 0);
  auto before = [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  if (o.top_k > 0 && o.top_k < vocab) {
    std::nth_element(c.tokens.begin(), c.tokens.begin() + o.top_k, c.tokens.end(),
                     before);
    c.tokens.resize(size_t(o.top_k));
  }
  std::sort(c.tokens.begin(), c.tokens.end(), before);
  const double top = logits[c.tokens[0]];
  double sum = 0;
  for (int32_t t : c.tokens) {
    c.probabilities.push_back(std::exp((double(logits[t]) - top) / o.temperature));
    sum += c.probabilities.back();
  }
  size_t keep = c.tokens.size();
  if (o.top_p < 1) {
    double cumulative = 0;
    for (size_t i = 0; i < keep; ++i) {
      cumulative += c.probabilities[i] / sum;
      if (cumulative >= o.top_p) keep = i + 1;
    }
  }
  if (o.min_p > 0) {
    const double least = o.min_p * c.probabilities[0];
    while (keep > 1 && c.probabilities[keep - 1] < least) --keep;
  }
  c.tokens.resize(keep);
  c.probabilities.resize(keep);
  return c;
}

}  // namespace

SampledToken sample(float* logits, int64_t vocab, const Sampling& options,
                    const std::vector<int32_t>& history) {
  for (int64_t i = 0; i < vocab; ++i)
    if (std::isnan(logits[i]))
      throw Error("NOT_FINITE",
                  "[sample] logit " + std::to_string(i) + " is not a number");
  const double normalizer = log_sum_exp(logits, vocab);
  // The penalty changes logits of seen tokens; their own log-probabilities come first.
  std::vector<float> raw;
  const bool penalized = options.repetition_penalty != 1;
  if (penalized) {
    raw.assign(logits, logits + vocab);
    penalize(logits, vocab, options.repetition_penalty, history);
  }
  int32_t token;
  if (options.temperature <= 0) {
    token = int32_t(std::max_element(logits, logits + vocab) - logits);
  } else {
    const Candidates c = filter(logits, vocab, options);
    double left = options.random *
                  std::accumulate(c.probabilities.begin(), c.probabilities.end(), 0.0);
    size_t i = 0;
    while (i + 1 < c.tokens.size() && left >= c.probabilities[i])
      left -= c.probabilities[i++];
    token = c.tokens[i];
  }
  const float logit = penalized ? raw[token] : logits[token];
  return {token, float(logit - normalizer)};
}

}  // namespace s2ft
