// What the attention kernels share: which rows and keys a block works on, and tiles of
// them in shared memory.
//
// The query heads of one key/value head are packed: row r of a sequence is query
// r / group for the head order[first_head + r % group], so that a tile of rows reads each
// key once for all heads that use it, in decoding as well as in training.
#pragma once

#include "backend/backend.h"
#include "cuda/mma.cuh"
#include "cuda/spans.cuh"

namespace s2ft::cuda {

/// Sequences and heads on the device. Tiles are numbered sequence after sequence.
struct AttentionParams {
  const int32_t* q_begin;      // [count + 1]
  const int32_t* k_begin;      // [count]
  const int32_t* k_len;        // [count]
  const int32_t* tile_begin;   // [count + 1]
  const int32_t* splits;       // [count] parts that a sequence's keys are split into
  const int32_t* partial;      // [count] the sequence's first partial result
  const int32_t* split_rows;   // [count + 1] (query, head) pairs with partial results
  const int32_t* order;        // [heads] query heads, by key/value head
  const int32_t* group_begin;  // [kv_heads + 1] where each one's begin
  const int32_t* pages;        // null: keys lie in one piece
  const int32_t* page_begin;
  int32_t count, heads, kv_heads, head_dim, window, page_rows;
  float scale;
};

constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

/// The entry of ascending `begin` [count + 1] that holds `at`.
__device__ inline int find_span(const int32_t* begin, int count, int at) {
  int low = 0, high = count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (begin[middle] <= at) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

/// A block's sequence and key/value head.
struct AttentionWork {
  int sequence, kv_head, tile;  // the tile's number within the sequence
  int queries, keys, group, first_head;
  int64_t query_row;

  /// Block `number` of tiles * kv_heads.
  __device__ AttentionWork(const AttentionParams& p, int number) {
    kv_head = number % p.kv_heads;
    const int at = number / p.kv_heads;
    sequence = find_span(p.tile_begin, p.count, at);
    tile = at - p.tile_begin[sequence];
    query_row = p.q_begin[sequence];
    queries = p.q_begin[sequence + 1] - p.q_begin[sequence];
    keys = p.k_len[sequence];
    first_head = p.group_begin[kv_head];
    group = p.group_begin[kv_head + 1] - first_head;
  }
  /// The last key that a query sees.
  __device__ int last_key(int query) const { return keys - queries + query; }
  __device__ int head(const AttentionParams& p, int row) const {
    return p.order[first_head + row % group];
  }
  /// Where a packed row's head begins in a matrix of (T, heads * head_dim).
  template <class T>
  __device__ T* row(const AttentionParams& p, const View<T>& x, int r) const {
    const int query = r / group;
    const int h = p.order[first_head + r - query * group];
    return x.data + (query_row + query) * x.ld + int64_t(h) * p.head_dim;
  }
  /// Where a key's head begins in a matrix of (., kv_heads * head_dim).
  template <class T>
  __device__ T* key(const AttentionParams& p, const View<T>& x, int j) const {
    int64_t at;
    if (p.pages) {
      const int page = j / p.page_rows;
      at = int64_t(p.pages[p.page_begin[sequence] + page]) * p.page_rows + j -
           page * p.page_rows;
    } else {
      at = int64_t(p.k_begin[sequence]) + j;
    }
    return x.data + at * x.ld + int64_t(kv_head) * p.head_dim;
  }
};

/// Keys [begin, end).
struct KeySpan {
  int begin, end;
};

/// The keys that some of the queries [first, last] see.
__device__ inline KeySpan keys_of_queries(const AttentionWork& w, int window, int first,
                                          int last) {
  const int begin = window ? max(0, w.last_key(first) - window + 1) : 0;
  return {begin, w.last_key(last) + 1};
}

/// Packed rows [begin, end).
struct RowSpan {
  int begin, end;
};

/// The rows that see some of the keys [first, last].
__device__ inline RowSpan rows_of_keys(const AttentionWork& w, int window, int first,
                                       int last) {
  const int cached = w.keys - w.queries;
  const int begin = max(0, first - cached);
  // In 64 bits: "unlimited" may be written as a very large window.
  const int end =
      window ? int(min(int64_t(w.queries), int64_t(last) - cached + window)) : w.queries;
  return {begin * w.group, max(begin, end) * w.group};
}

/// Whether a key is seen by a query whose last key is `last`.
__device__ inline bool sees(int last, int key, int window) {
  return key <= last && (window == 0 || key > last - window);
}

// -- tiles of bf16 --------------------------------------------------------------------

constexpr int kTile = 64, kWarps = 4, kThreads = kWarps * 32;

/// Elements between a tile's rows: 16 bytes more than a row, so that the eight rows that
/// ldmatrix reads at a time lie in different banks.
template <int D>
constexpr int kStride = D + 8;

/// Starts copies of `kRows` rows of head_dim elements, padded with zeros to D columns.
/// address(row) is where a row begins, null where it is to be zero.
template <int D, int kRows, class Address>
__device__ __forceinline__ void load_tile(bf16_t* tile, int head_dim, Address address) {
  constexpr int kChunks = D / 8;
  for (int i = threadIdx.x; i < kRows * kChunks; i += kThreads) {
    const int row = i / kChunks, column = i % kChunks * 8;
    const bf16_t* from = address(row);
    const bool valid = from != nullptr && column < head_dim;
    copy_async(tile + row * kStride<D> + column, valid ? from + column : from, valid);
  }
}

/// Rows [row, row + 16), columns [column, column + 16) of a tile as an A operand.
template <int D>
__device__ __forceinline__ void load_a(uint32_t (&a)[4], const bf16_t* tile, int row,
                                       int column) {
  const int lane = threadIdx.x % 32, m = lane / 8;
  load_matrices(
      a, tile + (row + (m & 1) * 8 + lane % 8) * kStride<D> + column + (m >> 1) * 8);
}
/// The transpose of rows [row, row + 16), columns [column, column + 16) as two B operands
/// (b[0], b[1] and b[2], b[3]): the sum runs along the tile's rows.
template <int D>
__device__ __forceinline__ void load_rows_b(uint32_t (&b)[4], const bf16_t* tile, int row,
                                            int column) {
  const int lane = threadIdx.x % 32, m = lane / 8;
  load_matrices(
      b, tile + (row + (m >> 1) * 8 + lane % 8) * kStride<D> + column + (m & 1) * 8);
}
/// Rows [row, row + 16), columns [column, column + 16) as two B operands: the sum runs
/// over the tile's rows.
template <int D>
__device__ __forceinline__ void load_columns_b(uint32_t (&b)[4], const bf16_t* tile,
                                               int row, int column) {
  const int lane = threadIdx.x % 32, m = lane / 8;
  load_transposed(
      b, tile + (row + (m & 1) * 8 + lane % 8) * kStride<D> + column + (m >> 1) * 8);
}

template <int kTiles>
__device__ __forceinline__ void clear(float (&c)[kTiles][4]) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) c[n][i] = 0;
  }
}

/// c[m] (16 x 64) = rows [row + 16 m, ...) of x times the transpose of the 64 rows of y.
template <int D, int kM>
__device__ __forceinline__ void multiply_rows(float (&c)[kM][8][4], const bf16_t* x,
                                              int row, const bf16_t* y) {
#pragma unroll
  for (int m = 0; m < kM; ++m) clear(c[m]);
#pragma unroll
  for (int k = 0; k < D; k += 16) {
    uint32_t a[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) load_a<D>(a[m], x, row + 16 * m, k);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      uint32_t b[4];
      load_rows_b<D>(b, y, n * 16, k);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        multiply_add(c[m][2 * n], a[m], b[0], b[1]);
        multiply_add(c[m][2 * n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

/// c (16 x 64) rounded: the A operands of a product that sums over its columns.
struct Operands {
  uint32_t a[4][4];
};
__device__ __forceinline__ Operands to_operands(const float (&c)[8][4]) {
  Operands o;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    o.a[k][0] = pack_bf16(c[2 * k][0], c[2 * k][1]);
    o.a[k][1] = pack_bf16(c[2 * k][2], c[2 * k][3]);
    o.a[k][2] = pack_bf16(c[2 * k + 1][0], c[2 * k + 1][1]);
    o.a[k][3] = pack_bf16(c[2 * k + 1][2], c[2 * k + 1][3]);
  }
  return o;
}

/// c[m] (16 x 8 kTiles) += x[m] (16 x 64) times columns [column, ...) of the 64 rows of
/// y.
template <int D, int kM, int kTiles>
__device__ __forceinline__ void multiply_columns(float (&c)[kM][kTiles][4],
                                                 const Operands (&x)[kM], const bf16_t* y,
                                                 int column) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
#pragma unroll
    for (int n = 0; n < kTiles; n += 2) {
      uint32_t b[4];
      load_columns_b<D>(b, y, k * 16, column + n * 8);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        multiply_add(c[m][n], x[m].a[k], b[0], b[1]);
        multiply_add(c[m][n + 1], x[m].a[k], b[2], b[3]);
      }
    }
  }
}

/// Writes two rows' elements (g and g + 8) of a 16 x 8 kTiles result, times a factor
/// each, to columns [column, ...) below head_dim; rows may be null.
template <int kTiles>
__device__ __forceinline__ void store_rows(const float (&c)[kTiles][4], bf16_t* low,
                                           bf16_t* high, float low_factor,
                                           float high_factor, int column, int head_dim) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    const int at = column + n * 8 + 2 * t;
    if (at >= head_dim) continue;
    if (low) {
      *reinterpret_cast<uint32_t*>(low + at) =
          pack_bf16(c[n][0] * low_factor, c[n][1] * low_factor);
    }
    if (high) {
      *reinterpret_cast<uint32_t*>(high + at) =
          pack_bf16(c[n][2] * high_factor, c[n][3] * high_factor);
    }
  }
}

}  // namespace s2ft::cuda
