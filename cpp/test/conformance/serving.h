// Conformance of what serving adds: adapters beside a product, rows put where they
// belong, attention over keys in pages.
#pragma once

#include "test/attention_reference.h"
#include "test/conformance/support.h"

namespace s2ft::test {

/// An index array in a backend's memory.
class DeviceIndex {
 public:
  DeviceIndex(Backend& backend, const std::vector<int32_t>& values) {
    const size_t bytes = values.size() * sizeof(int32_t);
    buffer_ = backend.allocate(bytes + 64);
    backend.upload(buffer_.data(), values.data(), bytes);
    backend.synchronize();
  }
  const int32_t* data() const { return static_cast<const int32_t*>(buffer_.data()); }

 private:
  Buffer buffer_;
};

inline std::vector<int32_t> some_of(int64_t n, int64_t count) {
  std::vector<int32_t> order = random_order(n);
  order.resize(size_t(count));
  return order;
}

TEST(scatter_rows_overwrites_the_named_rows) {
  for_each_case("scatter_rows", odd_shapes(),
                [](Backend& b, DType t, Shape s, int64_t gap, const std::string& what) {
                  const Host x = random(s.rows, s.cols, t);
                  Host y = random(s.rows + 3, s.cols, t);
                  const std::vector<int32_t> rows = some_of(y.rows, s.rows);
                  Device dx(b, t, x, gap), dy(b, t, y, gap ? 2 : 0);
                  b.scatter_rows(dy, dx, rows.data());
                  for (int64_t i = 0; i < s.rows; ++i)
                    for (int64_t j = 0; j < s.cols; ++j) y(rows[size_t(i)], j) = x(i, j);
                  expect_equal(dy.read(what), y, what);
                });
}

enum class Form { cols, rows, lora };

/// One group's adapter: host values, their copies on the device.
struct TestAdapter {
  Form form;
  int64_t begin, count, k;
  Host a, b;  // (k, in), (k, out)
  std::vector<int32_t> index;
  std::unique_ptr<Device> da, db;
  std::unique_ptr<DeviceIndex> dindex;

  TestAdapter(Backend& backend, Form f, int64_t begin_, int64_t count_, int64_t k_,
              int64_t in, int64_t out, DType t, int64_t gap)
      : form(f), begin(begin_), count(count_), k(k_) {
    if (f == Form::cols) {
      k = std::min(k, in);
      index = some_of(in, k);
    } else {
      if (f == Form::rows) k = std::min(k, out);
      a = random(k, in, t);
      da = std::make_unique<Device>(backend, t, a, gap);
    }
    if (f == Form::rows) {
      index = some_of(out, k);
    } else {
      b = random(k, out, t);
      db = std::make_unique<Device>(backend, t, b, gap);
    }
    dindex = std::make_unique<DeviceIndex>(backend, index);
  }
  AdapterRows rows() const {
    AdapterRows g;
    g.begin = begin, g.count = count, g.k = k;
    if (form == Form::cols) g.gather = dindex->data();
    if (form == Form::rows) g.scatter = dindex->data();
    if (da) g.a = *da;
    if (db) g.b = *db;
    return g;
  }
  /// want += what it adds; size += the sizes of all terms.
  void add(const Host& x, Host& want, Host& size) const {
    for (int64_t i = begin; i < begin + count; ++i) {
      for (int64_t v = 0; v < k; ++v) {
        double value = 0, magnitude = 0;
        if (form == Form::cols) {
          value = x(i, index[size_t(v)]);
          magnitude = std::fabs(value);
        } else {
          for (int64_t j = 0; j < x.cols; ++j) {
            value += x(i, j) * a(v, j);
            magnitude += std::fabs(x(i, j) * a(v, j));
          }
        }
        if (form == Form::rows) {
          want(i, index[size_t(v)]) += value;
          size(i, index[size_t(v)]) += magnitude;
          continue;
        }
        for (int64_t j = 0; j < want.cols; ++j) {
          want(i, j) += value * b(v, j);
          size(i, j) += magnitude * std::fabs(b(v, j));
        }
      }
    }
  }
};

inline void check_adapters(const NamedBackend& named, DType t, int64_t in, int64_t out,
                           const std::vector<int64_t>& counts, int64_t most_k,
                           int64_t gap) {
  Backend& b = *named.backend;
  int64_t rows = 1;  // the first and some others belong to no group
  std::vector<TestAdapter> adapters;
  for (size_t g = 0; g < counts.size(); ++g) {
    const Form form = Form((g + size_t(rng().below(3))) % 3);
    const int64_t k = 1 + int64_t(rng().below(uint64_t(most_k)));
    adapters.emplace_back(b, form, rows, counts[g], k, in, out, t, gap);
    rows += counts[g] + int64_t(rng().below(2));
  }
  const std::string what = named.name + " add_adapters " + dtype_name(t) + " " +
                           std::to_string(in) + "->" + std::to_string(out) + " of " +
                           std::to_string(counts.size()) + " groups";
  const Host x = random(rows, in, t), y = random(rows, out, t);
  Device dx(b, t, x, gap), dy(b, t, y, gap ? 4 : 0);
  std::vector<AdapterRows> groups;
  for (const TestAdapter& a : adapters) groups.push_back(a.rows());
  b.add_adapters(dy, dx, groups.data(), int(groups.size()));
  Host want = y, size(rows, out);
  for (const TestAdapter& a : adapters) a.add(x, want, size);
  // Sums walk randomly in f32; values between two products may be rounded to bf16 once.
  const double unit = 0x1p-24 * (8 + 2 * std::sqrt(double(in + most_k))) +
                      (t == DType::bf16 ? 0x1p-9 : 0);
  expect_near(
      dy.read(what), want, t,
      [&](int64_t i, int64_t j) {
        return unit * (size(i, j) + (size(i, j) > 0 ? std::fabs(want(i, j)) : 0));
      },
      what);
}

TEST(adapters_add_to_the_rows_of_their_groups) {
  for (const NamedBackend& b : backends_under_test()) {
    for (DType t : storage_types()) {
      for (int64_t gap : {0, 5}) {
        check_adapters(b, t, 1, 1, {1}, 1, gap);
        check_adapters(b, t, 7, 5, {1, 2, 3}, 9, gap);
        check_adapters(b, t, 20, 33, {1, 1, 1, 1, 1, 1, 1}, 19, gap);
        check_adapters(b, t, 131, 257, {5, 1, 37, 4, 9}, 40, gap);
        check_adapters(b, t, 577, 193, {1, 70, 1, 2}, 65, gap);
      }
    }
  }
}

TEST(adapters_of_nothing_change_nothing) {
  for (const NamedBackend& named : backends_under_test()) {
    Backend& b = *named.backend;
    for (DType t : storage_types()) {
      const Host x = random(3, 17, t), y = random(3, 9, t);
      Device dx(b, t, x), dy(b, t, y);
      b.add_adapters(dy, dx, nullptr, 0);
      AdapterRows none;
      none.count = 3;
      b.add_adapters(dy, dx, &none, 1);
      expect_equal(dy.read(named.name), y, named.name + " add_adapters of nothing");
    }
  }
}

TEST(a_row_with_an_adapter_depends_on_no_other_row) {
  for (const NamedBackend& named : backends_under_test()) {
    Backend& b = *named.backend;
    for (DType t : storage_types()) {
      const int64_t in = 131, out = 67, n = 21;
      const Host x = random(n, in, t), y = random(n, out, t);
      for (Form form : {Form::cols, Form::rows, Form::lora}) {
        const TestAdapter adapter(b, form, 0, n, 13, in, out, t, 0);
        Device dx(b, t, x), all(b, t, y), one(b, t, y);
        AdapterRows g = adapter.rows();
        b.add_adapters(all, dx, &g, 1);
        g.count = 1;
        for (g.begin = 0; g.begin < n; ++g.begin) b.add_adapters(one, dx, &g, 1);
        expect_equal(one.read(named.name), all.read(named.name),
                     named.name + " add_adapters row by row");
      }
    }
  }
}

/// Sequences whose keys lie in pages that are dealt out at random.
inline void check_paged_attention(const NamedBackend& named, DType t, int page_rows,
                                  int window, int head_dim,
                                  const std::vector<std::pair<int, int>>& lengths) {
  Backend& b = *named.backend;
  const int heads = 5, kv_heads = 2;
  std::vector<int32_t> kv_head_of;
  for (int h = 0; h < heads; ++h) kv_head_of.push_back(int32_t(rng().below(kv_heads)));
  std::vector<int32_t> q = {0}, k_begin, k_len, page_begin;
  int64_t pages_needed = 0;
  for (const auto& [queries, keys] : lengths) {
    q.push_back(q.back() + queries);
    k_begin.push_back(int32_t(pages_needed) * page_rows);
    k_len.push_back(keys);
    page_begin.push_back(int32_t(pages_needed));
    pages_needed += (keys + page_rows - 1) / page_rows;
  }
  const std::vector<int32_t> pages = some_of(pages_needed + 2, pages_needed);
  const int64_t rows = q.back(), key_rows = (pages_needed + 2) * page_rows;
  const Host hq = random(rows, heads * head_dim, t);
  // Keys and values as one behind the other; what no sequence holds stays NaN in memory.
  const Host k = random(pages_needed * page_rows, kv_heads * head_dim, t);
  const Host v = random(pages_needed * page_rows, kv_heads * head_dim, t);
  Host pk(key_rows, k.cols, std::nan("")), pv = pk;
  for (size_t s = 0; s < k_len.size(); ++s) {
    for (int32_t j = 0; j < k_len[s]; ++j) {
      const int64_t page = pages[size_t(page_begin[s] + j / page_rows)];
      for (int64_t c = 0; c < k.cols; ++c) {
        pk(page * page_rows + j % page_rows, c) = k(k_begin[s] + j, c);
        pv(page * page_rows + j % page_rows, c) = v(k_begin[s] + j, c);
      }
    }
  }
  Device dq(b, t, hq, 3), dk(b, t, pk, 5), dv(b, t, pv, 1), out(b, t, rows, hq.cols, 2),
      lse(b, DType::f32, rows, heads);
  AttentionShape shape{heads,    kv_heads,
                       head_dim, kv_head_of.data(),
                       window,   1 / std::sqrt(float(head_dim))};
  Sequences s{int(k_len.size()), q.data(), nullptr, k_len.data()};
  s.pages = pages.data(), s.page_begin = page_begin.data(), s.page_rows = page_rows;
  b.attention(out, lse, dq, dk, dv, s, shape);
  const auto table = [](const Host& h) {
    Table x(h.rows, h.cols);
    x.x = h.v;
    return x;
  };
  const Sequences flat{s.count, q.data(), k_begin.data(), k_len.data()};
  const ReferenceForward want =
      reference_forward(table(hq), table(k), table(v), flat, shape, rows);
  Host o(rows, hq.cols);
  o.v = want.o.x;
  const std::string what = named.name + " paged attention " + dtype_name(t) +
                           ", pages of " + std::to_string(page_rows) + ", window " +
                           std::to_string(window);
  // As for attention over contiguous keys: an f32 sum in blocks and exp; bf16 rounds
  // weights as well. Values are of order one, some above three.
  const double allowed = 4 * (64 * 0x1p-24 + (t == DType::bf16 ? 0x1p-8 : 0));
  expect_near(out.read(what), o, t, allowed, what);
}

TEST(attention_finds_keys_in_their_pages) {
  for (const NamedBackend& b : backends_under_test()) {
    for (DType t : storage_types()) {
      for (int page_rows : {16, 48}) {
        for (int window : {0, 5, 100}) {
          check_paged_attention(b, t, page_rows, window, 20,
                                {{1, 1}, {3, 17}, {1, 300}, {40, 40}, {7, 129}});
          check_paged_attention(b, t, page_rows, window, 64,
                                {{1, 33}, {1, 16}, {70, 401}});
        }
      }
    }
  }
}

}  // namespace s2ft::test
