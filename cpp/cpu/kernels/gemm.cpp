// The portable matrix product: blocks of c, each summed by one thread over all of k in
// order, from operands packed into that thread's scratch. Serves where oneDNN is absent
// and as the tests' second opinion.
#include <omp.h>

#include "cpu/kernels/ops.h"
#include "cpu/kernels/tile_pack.h"

namespace s2ft::S2FT_ISA {

namespace {

// A block's packed operands and sums stay in a second-level cache of 1 MiB.
constexpr int kBlockRows = 192, kBlockCols = 256, kBlockDepth = 256;
constexpr size_t kScratchFloats = size_t(kBlockRows) * kBlockCols +
                                  size_t(kBlockRows) * kBlockDepth +
                                  size_t(kBlockDepth) * kBlockCols;

struct Product {
  Mat c, a, b;
  bool transpose_a, transpose_b, add;
  int64_t depth;
};

/// Block sizes no larger than the scratch allows, small enough to feed every thread.
struct Grid {
  int64_t rows, cols, row_blocks, col_blocks;
};

Grid make_grid(int64_t m, int64_t n, int threads) {
  int64_t rows = ceil_div(m, ceil_div(m, kBlockRows));
  rows = min_of(kBlockRows, ceil_div(rows, kTileRows) * kTileRows);
  constexpr int kPanel = kTileVectors * kLanes;
  int64_t cols = ceil_div(n, ceil_div(n, kBlockCols));
  cols = min_of(kBlockCols, ceil_div(cols, kPanel) * kPanel);
  while (threads > 1 && cols > kPanel &&
         ceil_div(m, rows) * ceil_div(n, cols) < 3 * threads) {
    cols = ceil_div(cols / 2, kPanel) * kPanel;
  }
  while (threads > 1 && rows > 8 * kTileRows &&
         ceil_div(m, rows) * ceil_div(n, cols) < 3 * threads) {
    rows = ceil_div(rows / 2, kTileRows) * kTileRows;
  }
  return {rows, cols, ceil_div(m, rows), ceil_div(n, cols)};
}

template <class T>
S2FT_INLINE void write_block(const Product& p, const float* sums, int64_t ld, int64_t i0,
                             int64_t j0, int64_t m, int64_t n) {
  for (int64_t i = 0; i < m; ++i) {
    T* to = p.c.as<T>() + (i0 + i) * p.c.ld + j0;
    for (int64_t j = 0; j < n; j += kLanes) {
      int lanes = int(min_of(kLanes, n - j));
      vf x = load(sums + i * ld + j);
      if (lanes == kLanes) {
        store(to + j, p.add ? x + load(to + j) : x);
      } else {
        store(to + j, p.add ? x + load(to + j, lanes) : x, lanes);
      }
    }
  }
}

template <class T, bool kDot>
void block_product(const Product& p, int64_t i0, int64_t j0, int64_t m, int64_t n,
                   float* scratch) {
  float* sums = scratch;
  float* left = sums + kBlockRows * kBlockCols;
  float* right = left + kBlockRows * kBlockDepth;
  // The block's own width, not the largest, so that thin blocks stay in the first cache.
  int64_t width = ceil_div(n, kLanes) * kLanes;
  const int64_t depth_elements = kDot ? 2 * kBlockDepth : kBlockDepth;
  const T* a = p.a.as<T>();
  const T* b = p.b.as<T>();
  for (int64_t k0 = 0; k0 < p.depth; k0 += depth_elements) {
    int64_t k = min_of(depth_elements, p.depth - k0);
    int64_t row, step;
    if (p.transpose_a) {
      row = 1, step = kBlockRows;
      pack_columns<T, kDot>(left, step, a + k0 * p.a.ld + i0, p.a.ld, k, m);
    } else {
      row = kBlockDepth, step = 1;
      pack_rows<T, kDot>(left, row, a + i0 * p.a.ld + k0, p.a.ld, m, k);
    }
    if (p.transpose_b) {
      pack_transposed<T, kDot>(right, width, b + j0 * p.b.ld + k0, p.b.ld, n, k);
    } else {
      pack_columns<T, kDot>(right, width, b + k0 * p.b.ld + j0, p.b.ld, k, n);
    }
    for (int64_t j = 0; j < width; j += kTileVectors * kLanes) {
      int vectors = int(min_of(kTileVectors, (width - j) / kLanes));
      for (int64_t i = 0; i < m; i += kTileRows) {
        strip_product<kDot>(int(min_of(kTileRows, m - i)), vectors, sums + i * width + j,
                            width, k0 > 0, left + i * row, row, step, right + j, width,
                            units<kDot>(k));
      }
    }
  }
  if (p.c.dtype == DType::f32) {
    write_block<float>(p, sums, width, i0, j0, m, n);
  } else {
    write_block<bf16>(p, sums, width, i0, j0, m, n);
  }
}

template <class T, bool kDot>
void product(const Product& p, void* scratch) {
  Grid grid = make_grid(p.c.rows, p.c.cols, omp_get_max_threads());
  int64_t blocks = grid.row_blocks * grid.col_blocks;
#pragma omp parallel for schedule(dynamic) if (blocks > 1)
  for (int64_t block = 0; block < blocks; ++block) {
    int64_t i0 = block % grid.row_blocks * grid.rows;
    int64_t j0 = block / grid.row_blocks * grid.cols;
    float* mine = static_cast<float*>(scratch) + omp_get_thread_num() * kScratchFloats;
    block_product<T, kDot>(p, i0, j0, min_of(grid.rows, p.c.rows - i0),
                           min_of(grid.cols, p.c.cols - j0), mine);
  }
}

/// What remains of a product over nothing: c = 0, or c as it was.
void empty_product(const Product& p) {
  if (p.add) return;
  for (int64_t i = 0; i < p.c.rows; ++i) {
    char* row = static_cast<char*>(p.c.data) + i * p.c.ld * dtype_size(p.c.dtype);
    std::memset(row, 0, p.c.cols * dtype_size(p.c.dtype));
  }
}

}  // namespace

size_t gemm_scratch() {
  return kScratchFloats * sizeof(float);
}

void gemm(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b, float beta,
          void* scratch) {
  Product p{c, a, b, transpose_a, transpose_b, beta != 0, transpose_a ? a.rows : a.cols};
  if (c.rows == 0 || c.cols == 0) return;
  if (p.depth == 0) return empty_product(p);
  if (a.dtype == DType::f32) return product<float, false>(p, scratch);
#if defined(S2FT_DOT_BF16)
  product<bf16, true>(p, scratch);
#else
  product<bf16, false>(p, scratch);
#endif
}

}  // namespace s2ft::S2FT_ISA
