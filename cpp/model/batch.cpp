#include "model/batch.h"

#include <algorithm>
#include <string>

#include "core/error.h"
#include "core/rng.h"

namespace s2ft {

int Batch::sample_of(int32_t row) const {
  return int(std::upper_bound(begins.begin(), begins.end(), row) - begins.begin()) - 1;
}

uint64_t mixed(uint64_t key, const std::vector<int32_t>& lengths) {
  for (int32_t length : lengths) {
    uint64_t state = key ^ uint64_t(uint32_t(length));
    key = splitmix64(state);
  }
  return key;
}

uint64_t shape_key(const Batch& batch) {
  uint64_t key = batch.targets.size();
  for (const auto* lengths : {&batch.begins, &batch.k_len, &batch.prompts})
    key = mixed(key, *lengths);
  return key;
}

int64_t padded_tokens(int64_t tokens) {
  int64_t unit = 1;
  while (unit < 64 && 32 * unit <= tokens) unit *= 2;
  return (tokens + unit - 1) / unit * unit;
}

Batch pack(const std::vector<Sample>& samples, int64_t vocab_size) {
  auto fail = [&](size_t sample, int32_t i, const char* what, int32_t found) {
    throw Error("INVALID_ARGUMENT",
                "[pack] sample " + std::to_string(sample) + ", position " +
                    std::to_string(i) + ": expected a " + what + " in [0, " +
                    std::to_string(vocab_size) + "), found " + std::to_string(found));
  };
  Batch b;
  b.begins.push_back(0);
  for (size_t s = 0; s < samples.size(); ++s) {
    const Sample& sample = samples[s];
    if (sample.length < 1) {
      throw Error("INVALID_ARGUMENT",
                  "[pack] sample " + std::to_string(s) + " has no tokens");
    }
    const int32_t begin = int32_t(b.tokens.size());
    int32_t prompt = sample.length;
    for (int32_t i = 0; i < sample.length; ++i) {
      const int32_t token = sample.tokens[i];
      if (token < 0 || token >= vocab_size) fail(s, i, "token", token);
      b.tokens.push_back(token);
      b.positions.push_back(i);
      if (!sample.labels) continue;
      const int32_t label = sample.labels[i];
      if (label == -100) continue;
      prompt = std::min(prompt, i);
      if (label < 0 || label >= vocab_size) fail(s, i, "label (or -100)", label);
      if (i == 0) continue;  // nothing predicts the first token
      b.target_rows.push_back(begin + i - 1);
      b.targets.push_back(label);
    }
    b.begins.push_back(int32_t(b.tokens.size()));
    b.k_begin.push_back(begin);
    b.k_len.push_back(sample.length);
    b.prompts.push_back(prompt);
    b.longest = std::max<int64_t>(b.longest, sample.length);
  }
  const int64_t fill = padded_tokens(b.size()) - b.size();
  if (fill > 0) {
    b.k_begin.push_back(int32_t(b.size()));
    b.k_len.push_back(int32_t(fill));
    b.prompts.push_back(0);
    for (int64_t i = 0; i < fill; ++i) {
      b.tokens.push_back(0);
      b.positions.push_back(int32_t(i));
    }
    b.begins.push_back(int32_t(b.size()));
  }
  return b;
}

}  // namespace s2ft
