// What the attention kernels' two directions share: which keys a query sees, padded
// sizes, and heads ordered by the key/value head they use. Owns nothing.
#pragma once

#include "cpu/kernels/ops.h"
#include "cpu/kernels/tile_pack.h"

namespace s2ft::S2FT_ISA {

/// Keys [begin, end) of one sequence.
struct Span {
  int64_t begin, end;
};

/// The keys that query `i` of `queries` sees, relative to key `first`, cut to [0, n).
S2FT_INLINE Span visible(int64_t i, int64_t queries, int64_t keys, int window,
                         int64_t first, int64_t n) {
  int64_t last = keys - queries + i;
  int64_t begin = window > 0 ? last - window + 1 - first : 0;
  return {min_of(max_of(begin, 0), n), min_of(max_of(last + 1 - first, 0), n)};
}

/// The union of what queries [i, i + rows) see; they are consecutive.
S2FT_INLINE Span visible_to_all(int64_t i, int64_t rows, int64_t queries, int64_t keys,
                                int window, int64_t first, int64_t n) {
  return {visible(i, queries, keys, window, first, n).begin,
          visible(i + rows - 1, queries, keys, window, first, n).end};
}

/// Lanes of vector `v` that lie in the span.
S2FT_INLINE vi lanes_in(Span span, int64_t v) {
  vi lane = kIota + int32_t(v * kLanes);
  return (lane >= int32_t(span.begin)) & (lane < int32_t(span.end));
}

/// Rows of k and v that lie behind one another.
struct KeyRows {
  int64_t row, count;
};

/// Where keys [key, key + n) of a sequence begin, and how many of them follow there.
S2FT_INLINE KeyRows key_rows(const Sequences& s, int sequence, int64_t key, int64_t n) {
  if (!s.pages) return {s.k_begin[sequence] + key, n};
  const int64_t page = s.pages[s.page_begin[sequence] + key / s.page_rows];
  const int64_t inside = key % s.page_rows;
  return {page * s.page_rows + inside, min_of(n, s.page_rows - inside)};
}

/// Query heads in runs that share a key/value head.
struct HeadRuns {
  int32_t* order;  // [heads] query heads, by key/value head
  int32_t* begin;  // [kv_heads + 1] where each key/value head's run begins
};
S2FT_INLINE size_t head_runs_floats(const AttentionShape& shape) {
  return size_t(round_up(shape.heads + shape.kv_heads + 1, 16));
}
S2FT_INLINE HeadRuns make_head_runs(const AttentionShape& shape, float* scratch) {
  int32_t* order = reinterpret_cast<int32_t*>(scratch);
  int32_t* begin = order + shape.heads;
  int32_t n = 0;
  for (int kv = 0; kv < shape.kv_heads; ++kv) {
    begin[kv] = n;
    for (int h = 0; h < shape.heads; ++h) {
      if (shape.kv_head_of[h] == kv) order[n++] = h;
    }
  }
  begin[shape.kv_heads] = n;
  return {order, begin};
}

/// What exponents are counted in: with kDot, where weights are rounded to bf16, powers of
/// two, else of e.
template <bool kDot>
inline constexpr float kExponentUnit = kDot ? 1.44269504088896341f : 1.0f;

/// exp((scale * score - shift) / kExponentUnit): scale and shift hold that unit.
template <bool kDot>
S2FT_INLINE vf weight_of(vf score, vf scale, vf shift) {
  const vf x = fma(score, scale, -shift);
#if defined(S2FT_DOT_BF16)
  if constexpr (kDot) return exp2_for_bf16(x);
#endif
  return exp(x);
}

/// Head dimension in whole vectors, and the units of a packed row that is summed over it.
S2FT_INLINE int64_t padded(int head_dim) {
  return round_up(head_dim, kLanes);
}
template <bool kDot>
S2FT_INLINE int64_t row_units(int head_dim) {
  return round_up(int(units<kDot>(head_dim)), kLanes);
}

/// y = x * factor, one row of n elements; x is padded scratch, y is not.
template <class T>
S2FT_INLINE void write_row(T* y, const float* x, int64_t n, float factor) {
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) store_result(y + j, load(x + j) * factor);
  if (j < n) store_result(y + j, load(x + j) * factor, int(n - j));
}

/// Asks for a row that is about to be read or written.
template <bool kWrite, class T>
S2FT_INLINE void prefetch_row(const T* row, int64_t n) {
  for (int64_t j = 0; j < n; j += 64 / int64_t(sizeof(T))) {
    __builtin_prefetch(row + j, kWrite);
  }
}

S2FT_INLINE void clear(float* x, int64_t n) {
  std::memset(x, 0, size_t(n) * sizeof(float));
}

}  // namespace s2ft::S2FT_ISA
