#include "cpu/linear_cross_entropy.h"

#include <algorithm>

#include "core/arena.h"

namespace s2ft {
namespace {

// Enough rows that packing and reading w is small beside its products; their sums stay
// within a few megabytes.
constexpr int64_t kMostRows = 1024, kLeastRows = 128;
constexpr size_t kTotalBytes = size_t(4) << 20;
// A product's panels are this wide: blocks that hold whole ones leave no thin rest.
constexpr int64_t kPanel = 48;

int64_t rows_at_once(int64_t rows, int64_t width) {
  const int64_t fit = int64_t(kTotalBytes / sizeof(float)) / std::max<int64_t>(width, 1);
  return std::min(rows, std::clamp(fit, kLeastRows, kMostRows));
}

/// Columns of a block: equal shares of the vocabulary.
int64_t block_columns(int64_t vocabulary) {
  const int64_t blocks = (vocabulary + kSoftmaxColumns - 1) / kSoftmaxColumns;
  const int64_t share = (vocabulary + blocks - 1) / blocks;
  return std::min((share + kPanel - 1) / kPanel * kPanel, kSoftmaxColumns);
}

/// What a chunk of rows works in.
struct Scratch {
  Mat logits, terms, total;
  OnlineSoftmax rows;
};

Scratch place(Arena& arena, int64_t rows, int64_t width, int64_t columns, DType dtype) {
  Scratch s;
  s.logits = arena.matrix(DType::f32, rows, columns);
  s.terms = dtype == DType::f32 ? s.logits : arena.matrix(dtype, rows, columns);
  s.total = arena.matrix(DType::f32, rows, width);
  s.rows.max = static_cast<float*>(arena.take(size_t(rows) * sizeof(float)));
  s.rows.sum = static_cast<double*>(arena.take(size_t(rows) * sizeof(double)));
  s.rows.target = static_cast<float*>(arena.take(size_t(rows) * sizeof(float)));
  return s;
}

}  // namespace

size_t linear_cross_entropy_scratch(int64_t rows, int64_t width, int64_t vocabulary) {
  Arena arena;
  // bf16 needs the more: f32 terms take the place of their logits.
  place(arena, rows_at_once(rows, width), width, block_columns(vocabulary), DType::bf16);
  return arena.peak();
}

void linear_cross_entropy(Products& products, const Kernels& kernels, float* nll, Mat dx,
                          Mat x, Mat w, const int32_t* targets, float gradient_scale,
                          void* scratch) {
  const int64_t step = rows_at_once(x.rows, x.cols), columns = block_columns(w.rows);
  Arena arena(scratch);
  const Scratch s = place(arena, step, x.cols, columns, x.dtype);
  for (int64_t i = 0; i < x.rows; i += step) {
    const int64_t n = std::min(step, x.rows - i);
    const Mat rows = x.row_range(i, n), total = s.total.row_range(0, n);
    for (int64_t v = 0; v < w.rows; v += columns) {
      const int64_t m = std::min(columns, w.rows - v);
      const Mat block = w.row_range(v, m);
      const Mat logits = s.logits.row_range(0, n).col_range(0, m);
      const Mat terms = dx ? s.terms.row_range(0, n).col_range(0, m) : Mat{};
      products.matmul(logits, rows, false, block, true, 0);
      kernels.online_softmax(terms, logits, dx ? total : Mat{}, targets + i, v, s.rows);
      if (dx) products.matmul(total, terms, false, block, false, v > 0);
    }
    kernels.finish_softmax(nll + i, dx ? dx.row_range(i, n) : Mat{}, total, w,
                           targets + i, gradient_scale, s.rows);
  }
}

}  // namespace s2ft
