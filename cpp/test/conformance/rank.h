// Conformance of what sampling asks of a device, and of sampling by it.
#pragma once

#include <algorithm>
#include <map>
#include <numeric>

#include "serve/ranked_sampling.h"
#include "test/conformance/support.h"

namespace s2ft::test {

/// The operation's results on the host, and the logits afterwards.
struct RankedOnHost {
  std::vector<float> values, before;
  std::vector<int32_t> tokens;
  std::vector<double> masses;
  Host logits;
};

inline RankedOnHost rank(Backend& b, const Host& x, int64_t k, int64_t gap,
                         const std::vector<LogitChange>& changes,
                         const std::vector<float>& temperatures) {
  Device logits(b, DType::f32, x, gap);
  RankedOnHost out;
  const size_t n = size_t(x.rows), ranks = n * size_t(k);
  const auto host = [&](auto& to, size_t count) {
    to.resize(count);
    return b.allocate(count * sizeof(to[0]));
  };
  const Buffer values = host(out.values, ranks), tokens = host(out.tokens, ranks),
               masses = host(out.masses, n), before = host(out.before, changes.size());
  const Ranking to{
      k, static_cast<float*>(values.data()), static_cast<int32_t*>(tokens.data()),
      static_cast<double*>(masses.data()), static_cast<float*>(before.data())};
  b.rank_logits(to, logits, changes.data(), int64_t(changes.size()), temperatures.data());
  const auto read = [&](auto& to_host, const Buffer& from) {
    b.download(to_host.data(), from.data(), to_host.size() * sizeof(to_host[0]));
  };
  read(out.values, values), read(out.tokens, tokens);
  read(out.masses, masses), read(out.before, before);
  out.logits = logits.read("rank_logits");
  return out;
}

inline void check_ranking(const NamedBackend& b, const Host& x, int64_t k, int64_t gap,
                          const std::vector<LogitChange>& changes) {
  std::vector<float> temperatures;
  for (int64_t i = 0; i < x.rows; ++i)
    temperatures.push_back(i % 3 ? 0.5f * float(i) : 0);
  const RankedOnHost got = rank(*b.backend, x, k, gap, changes, temperatures);
  Host want = x;
  for (size_t i = 0; i < changes.size(); ++i) {
    const LogitChange& c = changes[i];
    CHECK(got.before[i] == float(want(c.row, c.token)));
    float moved = float(want(c.row, c.token)) + c.bias;
    moved *= moved < 0 ? c.negative : c.positive;
    want(c.row, c.token) = double(moved + c.add);
  }
  expect_equal(got.logits, want, b.name + " changed logits");
  for (int64_t i = 0; i < x.rows; ++i) {
    std::vector<int32_t> order(static_cast<size_t>(x.cols));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t c) { return want(i, a) > want(i, c); });
    for (int64_t r = 0; r < k; ++r) {
      CHECK(got.tokens[size_t(i * k + r)] == order[size_t(r)]);
      CHECK(got.values[size_t(i * k + r)] == float(want(i, order[size_t(r)])));
    }
    if (temperatures[size_t(i)] == 0) continue;
    double mass = 0;
    for (int64_t j = 0; j < x.cols; ++j)
      mass +=
          std::exp((want(i, j) - want(i, order[0])) / double(temperatures[size_t(i)]));
    CHECK_NEAR(got.masses[size_t(i)], mass, 1e-11 * mass);
  }
}

TEST(logits_are_changed_and_ranked) {
  for (const NamedBackend& b : backends_under_test()) {
    for (const auto& [rows, cols, k] :
         {std::tuple(1, 1, 1), std::tuple(2, 7, 7), std::tuple(3, 511, 256),
          std::tuple(4, 513, 1), std::tuple(5, 2311, 64), std::tuple(2, 5003, 255)}) {
      const Host x = random(rows, cols, DType::f32, 4);
      for (int64_t gap : {0, 3}) check_ranking(b, x, k, gap, {});
      std::vector<LogitChange> changes;
      for (int32_t row = 0; row < rows; ++row) {
        const std::vector<int32_t> tokens = random_order(cols);
        for (int64_t t = 0; t < std::min<int64_t>(cols, 40); ++t)
          changes.push_back({row, tokens[size_t(t)], t % 2 ? 0.7f : 0.0f, 1.3f, 1 / 1.3f,
                             t % 3 ? -0.3f * float(t) : 0.0f});
      }
      check_ranking(b, x, k, 3, changes);
    }
  }
}

// Rows that ranking by parts finds hard: all the same, few values, all of the largest in
// the columns of one thread, ascending, infinities and both zeros.
TEST(unusual_logits_are_ranked) {
  const int64_t cols = 4096 + 17;
  Host x(6, cols);
  for (int64_t j = 0; j < cols; ++j) {
    x(0, j) = 1.5;
    x(1, j) = double(j % 3);
    x(2, j) = j % 512 == 5 ? 100 + double(j) : -double(j % 7);
    x(3, j) = double(j);
    x(4, j) = j % 2 ? -HUGE_VAL : double(j % 5) - 3;
    x(5, j) = j % 2 ? 0.0 : -0.0;
  }
  for (const NamedBackend& b : backends_under_test())
    for (int64_t k : {1, 2, 100, 256}) check_ranking(b, x, k, 0, {});
  // More candidates than there is room for.
  Host wide(1, 512 * 40);
  for (int64_t j = 0; j < wide.cols; ++j)
    wide(0, j) = j % 512 < 30 ? round_to(DType::f32, 50 + double(rng().normal()))
                              : -double(j % 512);
  for (const NamedBackend& b : backends_under_test())
    for (int64_t k : {29, 31, 200}) check_ranking(b, wide, k, 0, {});
}

// By ranks as by whole rows, whatever cuts the choice and wherever it falls.
TEST(choices_by_ranks_are_those_of_whole_rows) {
  for (const NamedBackend& b : backends_under_test()) {
    const int64_t vocab = 1201;
    std::vector<Sampling> options(9);
    for (size_t i = 0; i < options.size(); ++i) {
      Sampling& o = options[i];
      o.temperature = i == 0 ? 0 : 0.4f * float(i);
      if (i == 2) o.top_k = 5;
      if (i == 3) o.top_k = 400;  // more than are ranked
      if (i == 4) o.top_p = 0.6f;
      if (i == 5) o.min_p = 0.05f;
      if (i % 2) o.repetition_penalty = 1.4f;
      if (i % 3 == 0) o.frequency_penalty = 0.5f, o.presence_penalty = 0.2f;
      if (i % 4 == 0) o.bias = {{3, 2.5f}, {7, -4}, {3, 1}, {int32_t(vocab), 9}};
      o.top = i % 3 == 1 ? int(i) : 0;
    }
    std::vector<std::vector<int32_t>> histories;
    for (size_t i = 0; i < options.size(); ++i) {
      histories.emplace_back();
      for (int t = 0; t < 30; ++t)
        histories.back().push_back(int32_t(rng().below(uint64_t(vocab))));
    }
    Buffer scratch;
    for (int round = 0; round < 8; ++round) {
      Host x = random(int64_t(options.size()), vocab, DType::f32, 2);
      if (round == 3) x(6, 100) = std::nan("");
      Device logits(*b.backend, DType::f32, x);
      std::vector<SampledRow> rows;
      for (size_t i = 0; i < options.size(); ++i) {
        const double draw = round == 1 ? 0.9999999 : rng().uniform_double();
        rows.push_back({&options[i], {histories[i], 10}, draw});
      }
      sample_ranked(*b.backend, scratch, logits, rows, 0);
      for (size_t i = 0; i < options.size(); ++i) {
        CHECK(rows[i].finite == (round != 3 || i != 6));
        if (!rows[i].finite) continue;
        std::vector<float> row(static_cast<size_t>(vocab));
        double sum = 0;
        for (int64_t j = 0; j < vocab; ++j) {
          row[size_t(j)] = float(x(int64_t(i), j));
          sum += std::exp(x(int64_t(i), j));
        }
        const SampledToken want = sample(row.data(), vocab, float(std::log(sum)),
                                         options[i], rows[i].random, rows[i].history);
        const SampledToken& got = rows[i].sampled;
        CHECK(got.token == want.token);
        CHECK_NEAR(got.log_prob, want.log_prob, 1e-5);
        CHECK(got.top.size() == want.top.size());
        for (size_t t = 0; t < want.top.size(); ++t) {
          CHECK(got.top[t].token == want.top[t].token);
          CHECK_NEAR(got.top[t].log_prob, want.top[t].log_prob, 1e-5);
        }
      }
    }
  }
}

}  // namespace s2ft::test
