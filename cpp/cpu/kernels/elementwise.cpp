// Moving and element-wise kernels: zero, copy, add, scale, bias, dropout, and two sums.
#include "core/rng.h"
#include "cpu/kernels/loops.h"
#include "cpu/kernels/ops.h"

namespace s2ft::S2FT_ISA {

void zero(Mat y) {
  const int64_t size = int64_t(dtype_size(y.dtype));
  char* data = y.as<char>();
  spans(y.rows, y.cols, contiguous(y), [&](int64_t i, int64_t begin, int64_t end) {
    std::memset(data + (i * y.ld + begin) * size, 0, size_t((end - begin) * size));
  });
}

void copy(Mat y, Mat x) {
  const bool flat = contiguous(y) && contiguous(x);
  if (y.dtype == x.dtype) {
    const int64_t size = int64_t(dtype_size(y.dtype));
    spans(y.rows, y.cols, flat, [&](int64_t i, int64_t begin, int64_t end) {
      std::memcpy(y.as<char>() + (i * y.ld + begin) * size,
                  x.as<char>() + (i * x.ld + begin) * size, size_t((end - begin) * size));
    });
    return;
  }
  with_types(y.dtype, x.dtype, [&](auto* to, auto* from) {
    using Y = S2FT_TYPE_OF(to);
    using X = S2FT_TYPE_OF(from);
    spans(y.rows, y.cols, flat, [&](int64_t i, int64_t begin, int64_t end) {
      Y* yi = row<Y>(y, i);
      const X* xi = row<X>(x, i);
#pragma omp simd
      for (int64_t j = begin; j < end; ++j) put(yi, j, get(xi, j));
    });
  });
}

void add(Mat y, Mat x) {
  with_types(y.dtype, x.dtype, [&](auto* to, auto* from) {
    using Y = S2FT_TYPE_OF(to);
    using X = S2FT_TYPE_OF(from);
    spans(y.rows, y.cols, contiguous(y) && contiguous(x),
          [&](int64_t i, int64_t begin, int64_t end) {
            Y* yi = row<Y>(y, i);
            const X* xi = row<X>(x, i);
            lanes(begin, end, [&](int64_t j, auto n) {
              give(yi + j, take(yi + j, n) + take(xi + j, n), n);
            });
          });
  });
}

void scale(Mat y, float factor) {
  with_type(y.dtype, [&](auto* to) {
    using Y = S2FT_TYPE_OF(to);
    spans(y.rows, y.cols, contiguous(y), [&](int64_t i, int64_t begin, int64_t end) {
      Y* yi = row<Y>(y, i);
      lanes(begin, end,
            [&](int64_t j, auto n) { give(yi + j, take(yi + j, n) * factor, n); });
    });
  });
}

void add_bias(Mat y, Mat bias) {
  with_types(y.dtype, bias.dtype, [&](auto* to, auto* from) {
    using Y = S2FT_TYPE_OF(to);
    const auto* b = bias.as<S2FT_TYPE_OF(from)>();
    spans(y.rows, y.cols, false, [&](int64_t i, int64_t begin, int64_t end) {
      Y* yi = row<Y>(y, i);
      lanes(begin, end, [&](int64_t j, auto n) {
        give(yi + j, take(yi + j, n) + take(b + j, n), n);
      });
    });
  });
}

// Threads own columns, so the order of additions does not depend on their number. Rows
// are summed in blocks first: long columns lose less to rounding.
void sum_rows(Mat sum, Mat x) {
  constexpr int64_t kColumns = 128, kRows = 128;
  float* total = sum.as<float>();
  with_type(x.dtype, [&](auto* from) {
    using X = S2FT_TYPE_OF(from);
    split(x.cols, x.count(), 16, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; c += kColumns) {
        const int64_t n = end - c < kColumns ? end - c : kColumns;
        for (int64_t r = 0; r < x.rows; r += kRows) {
          float part[kColumns] = {};
          const int64_t last = r + kRows < x.rows ? r + kRows : x.rows;
          for (int64_t i = r; i < last; ++i) {
            const X* xi = row<X>(x, i) + c;
#pragma omp simd
            for (int64_t j = 0; j < n; ++j) part[j] += get(xi, j);
          }
          for (int64_t j = 0; j < n; ++j) total[c + j] += part[j];
        }
      }
    });
  });
}

void dropout(Mat y, Mat x, float p, uint64_t seed) {
  const CounterHash hash(seed);
  // Kept when the hash is at least p * 2^32; p is below 1.
  const uint32_t threshold = uint32_t(double(p) * 4294967296.0);
  const float factor = 1.0f / (1.0f - p);
  with_types(y.dtype, x.dtype, [&](auto* to, auto* from) {
    using Y = S2FT_TYPE_OF(to);
    using X = S2FT_TYPE_OF(from);
    spans(y.rows, y.cols, contiguous(y) && contiguous(x),
          [&](int64_t i, int64_t begin, int64_t end) {
            Y* yi = row<Y>(y, i);
            const X* xi = row<X>(x, i);
            const uint64_t first = uint64_t(i * y.cols);
#pragma omp simd
            for (int64_t j = begin; j < end; ++j) {
              const float kept = get(xi, j) * factor;
              put(yi, j, hash(first + uint64_t(j)) >= threshold ? kept : 0.0f);
            }
          });
  });
}

double sum_of_squares(Mat x, double* partial) {
  int used = 1;
  const bool serial = x.count() < kSerialElements;
#pragma omp parallel if (!serial)
  {
    const int threads = omp_get_num_threads(), me = omp_get_thread_num();
    const bool flat = contiguous(x);
    const int64_t rows = flat ? 1 : x.rows, cols = flat ? x.count() : x.cols;
    const bool by_row = rows > 1;
    const int64_t n = by_row ? rows : cols;
    const int64_t begin = n * me / threads, end = n * (me + 1) / threads;
    double sum = 0;
    with_type(x.dtype, [&](auto* from) {
      using X = S2FT_TYPE_OF(from);
      for (int64_t i = by_row ? begin : 0; i < (by_row ? end : 1); ++i) {
        const X* xi = row<X>(x, i);
        const int64_t first = by_row ? 0 : begin, last = by_row ? cols : end;
        double part = 0;
#pragma omp simd reduction(+ : part)
        for (int64_t j = first; j < last; ++j) {
          const double value = double(get(xi, j));
          part += value * value;
        }
        sum += part;
      }
    });
    partial[me] = sum;
    if (me == 0) used = threads;
  }
  double total = 0;
  for (int t = 0; t < used; ++t) total += partial[t];
  return total;
}

}  // namespace s2ft::S2FT_ISA
