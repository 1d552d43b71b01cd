#include "serve/ranked_sampling.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "core/arena.h"

namespace s2ft {

namespace {

/// What a device tells of n rows, in one piece of memory that reads the same on both
/// sides.
struct Told {
  Mat normalizers;  // (1, n) -log p of the first token, whose logits are
  Mat first;        // (n, 1)
  Ranking top, choice;
};

Told place(Arena& arena, int64_t n, int64_t top, int64_t choice, int64_t changes) {
  Told told;
  const auto ranking = [&](Ranking& r, int64_t k, int64_t changed) {
    r.k = k;
    r.masses = static_cast<double*>(arena.take(size_t(n) * sizeof(double)));
    r.values = static_cast<float*>(arena.take(size_t(n * k) * sizeof(float)));
    r.tokens = static_cast<int32_t*>(arena.take(size_t(n * k) * sizeof(int32_t)));
    r.before = static_cast<float*>(arena.take(size_t(changed) * sizeof(float)));
  };
  told.normalizers = arena.matrix(DType::f32, 1, n);
  told.first = arena.matrix(DType::f32, n, 1);
  ranking(told.choice, choice, changes);
  if (top > 0) ranking(told.top, top, 0);
  return told;
}

RankedLogits row_of(const Ranking& r, int64_t row) {
  return {r.values + row * r.k, r.tokens + row * r.k, size_t(r.k), r.masses[row], {}};
}

}  // namespace

bool can_rank(const Sampling& options) {
  return options.top <= Ranking::kMost;
}

void sample_ranked(Backend& backend, Buffer& scratch, Mat logits,
                   std::vector<SampledRow>& rows, int64_t begin) {
  const int64_t n = logits.rows, vocab = logits.cols;
  int64_t top = 0, choice = 1;
  std::vector<LogitChange> changes;
  std::vector<float> temperatures, none(size_t(n), 0.0f);
  for (int64_t i = 0; i < n; ++i) {
    const SampledRow& row = rows[size_t(begin + i)];
    const Sampling& o = *row.options;
    top = std::max(top, std::min<int64_t>(o.top, vocab));
    choice = std::max(choice, ranks_needed(o, vocab));
    temperatures.push_back(needs_mass(o, vocab) ? o.temperature : 0);
    add_changes(changes, int32_t(i), vocab, o, row.history);
  }
  const auto laid_out = [&](Arena& arena) {
    return place(arena, n, top, choice, int64_t(changes.size()));
  };
  Arena count;
  laid_out(count);
  if (scratch.bytes() < count.peak()) {
    scratch.reset();
    scratch = backend.allocate(count.peak());
  }
  Arena there(scratch.data());
  const Told device = laid_out(there);
  const std::vector<int32_t> first(size_t(n), 0);
  backend.copy(device.first, logits.col_range(0, 1));
  backend.cross_entropy(device.normalizers, Mat{}, logits, first.data(), 0);
  if (top > 0) backend.rank_logits(device.top, logits, nullptr, 0, none.data());
  backend.rank_logits(device.choice, logits, changes.data(), int64_t(changes.size()),
                      temperatures.data());
  std::vector<double> host(count.peak() / sizeof(double) + 1);
  backend.download(host.data(), scratch.data(), count.peak());
  Arena here(host.data());
  const Told told = laid_out(here);

  std::vector<float> whole;
  size_t next_change = 0;
  for (int64_t i = 0; i < n; ++i) {
    SampledRow& row = rows[size_t(begin + i)];
    std::unordered_map<int32_t, float> before;
    for (; next_change < changes.size() && changes[next_change].row == i; ++next_change)
      before.emplace(changes[next_change].token, told.choice.before[next_change]);
    const float normalizer = told.normalizers.as<float>()[i] + told.first.as<float>()[i];
    row.finite = std::isfinite(normalizer);
    if (!row.finite) continue;
    for (int64_t t = 0; t < std::min<int64_t>(row.options->top, vocab); ++t)
      row.sampled.top.push_back(
          {told.top.tokens[i * top + t], told.top.values[i * top + t] - normalizer});
    RankedLogits ranked = row_of(told.choice, i);
    ranked.whole = [&, i] {
      whole.resize(size_t(vocab));
      backend.download(whole.data(), logits.row_range(i, 1).data,
                       whole.size() * sizeof(float));
      return whole.data();
    };
    const int32_t token = choose(ranked, vocab, *row.options, row.random);
    row.sampled.token = token;
    const auto changed = before.find(token);
    float own;
    if (changed != before.end()) {
      own = changed->second;
    } else {
      const int32_t* found =
          std::find(ranked.tokens, ranked.tokens + ranked.count, token);
      own = found == ranked.tokens + ranked.count ? whole[size_t(token)]
                                                  : ranked.values[found - ranked.tokens];
    }
    row.sampled.log_prob = own - normalizer;
  }
}

}  // namespace s2ft
