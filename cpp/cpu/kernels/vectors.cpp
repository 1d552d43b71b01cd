// Kernels that meet a matrix with a vector (a factor for each column, products summed by
// row or column) or pick single elements of it.
#include "cpu/kernels/loops.h"
#include "cpu/kernels/ops.h"

namespace s2ft::S2FT_ISA {

void scale_cols(Mat y, Mat x, Mat factors, bool accumulate) {
  const float* f = factors.as<float>();
  with_types(y.dtype, x.dtype, [&](auto* to, auto* from) {
    using Y = S2FT_TYPE_OF(to);
    using X = S2FT_TYPE_OF(from);
    spans(y.rows, y.cols, false, [&](int64_t i, int64_t begin, int64_t end) {
      Y* yi = row<Y>(y, i);
      const X* xi = row<X>(x, i);
      if (accumulate) {
        lanes(begin, end, [&](int64_t j, auto n) {
          give(yi + j, take(yi + j, n) + take(xi + j, n) * take(f + j, n), n);
        });
      } else {
        lanes(begin, end, [&](int64_t j, auto n) {
          give(yi + j, take(xi + j, n) * take(f + j, n), n);
        });
      }
    });
  });
}

// As sum_rows: threads own columns, rows are summed in blocks first.
void dot_cols(Mat sum, Mat x, Mat y) {
  constexpr int64_t kColumns = 128, kRows = 128;
  float* total = sum.as<float>();
  with_types(x.dtype, y.dtype, [&](auto* a, auto* b) {
    using X = S2FT_TYPE_OF(a);
    using Y = S2FT_TYPE_OF(b);
    split(x.cols, x.count(), 16, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; c += kColumns) {
        const int64_t n = end - c < kColumns ? end - c : kColumns;
        for (int64_t r = 0; r < x.rows; r += kRows) {
          float part[kColumns] = {};
          const int64_t last = r + kRows < x.rows ? r + kRows : x.rows;
          for (int64_t i = r; i < last; ++i) {
            const X* xi = row<X>(x, i) + c;
            const Y* yi = row<Y>(y, i) + c;
#pragma omp simd
            for (int64_t j = 0; j < n; ++j) part[j] += get(xi, j) * get(yi, j);
          }
          for (int64_t j = 0; j < n; ++j) total[c + j] += part[j];
        }
      }
    });
  });
}

void dot_rows(Mat dot, Mat x, Mat y) {
  float* out = dot.as<float>();
  with_types(x.dtype, y.dtype, [&](auto* a, auto* b) {
    using X = S2FT_TYPE_OF(a);
    using Y = S2FT_TYPE_OF(b);
    split(x.rows, x.count(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const X* xi = row<X>(x, i);
        const Y* yi = row<Y>(y, i);
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < x.cols; ++j) sum += double(get(xi, j)) * get(yi, j);
        out[i] = float(sum);
      }
    });
  });
}

void inverse_sqrt(Mat y, Mat x) {
  spans(y.rows, y.cols, contiguous(y) && contiguous(x),
        [&](int64_t i, int64_t begin, int64_t end) {
          float* yi = row<float>(y, i);
          const float* xi = row<float>(x, i);
          for (int64_t j = begin; j < end; ++j)
            yi[j] = xi[j] > 0 ? 1.0f / __builtin_sqrtf(xi[j]) : 0.0f;
        });
}

void gather_elements(Mat y, Mat x, const int32_t* index) {
  float* to = y.as<float>();
  with_type(x.dtype, [&](auto* from) {
    using X = S2FT_TYPE_OF(from);
    split(y.cols, y.cols, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        to[i] += get(row<X>(x, index[i] / x.cols), index[i] % x.cols);
    });
  });
}

void scatter_elements(Mat y, Mat x, const int32_t* index) {
  const float* from = x.as<float>();
  with_type(y.dtype, [&](auto* to) {
    using Y = S2FT_TYPE_OF(to);
    split(x.cols, x.cols, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        put(row<Y>(y, index[i] / y.cols), index[i] % y.cols, from[i]);
    });
  });
}

}  // namespace s2ft::S2FT_ISA
