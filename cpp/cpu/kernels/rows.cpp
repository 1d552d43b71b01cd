// Kernels that pick, add and reorder rows and columns by index.
#include "cpu/kernels/loops.h"
#include "cpu/kernels/ops.h"

namespace s2ft::S2FT_ISA {

void gather_rows(Mat y, Mat x, const int32_t* rows) {
  with_types(y.dtype, x.dtype, [&](auto* to, auto* from) {
    using Y = S2FT_TYPE_OF(to);
    using X = S2FT_TYPE_OF(from);
    split(y.rows, y.count(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        Y* yi = row<Y>(y, i);
        const X* xi = row<X>(x, rows[i]);
        if constexpr (std::is_same_v<X, Y>) {
          std::memcpy(yi, xi, size_t(y.cols) * sizeof(Y));
        } else {
#pragma omp simd
          for (int64_t j = 0; j < y.cols; ++j) put(yi, j, get(xi, j));
        }
      }
    });
  });
}

void gather_cols(Mat y, Mat x, const int32_t* cols) {
  with_types(y.dtype, x.dtype, [&](auto* to, auto* from) {
    using Y = S2FT_TYPE_OF(to);
    using X = S2FT_TYPE_OF(from);
    split(y.rows, y.count(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        Y* yi = row<Y>(y, i);
        const X* xi = row<X>(x, i);
        for (int64_t j = 0; j < y.cols; ++j) put(yi, j, get(xi, cols[j]));
      }
    });
  });
}

// Threads own columns: repeated rows meet no race and add up in the order of i.
void scatter_add_rows(Mat y, Mat x, const int32_t* rows) {
  with_types(y.dtype, x.dtype, [&](auto* to, auto* from) {
    using Y = S2FT_TYPE_OF(to);
    using X = S2FT_TYPE_OF(from);
    split(x.cols, x.count(), 32, [&](int64_t begin, int64_t end) {
      for (int64_t i = 0; i < x.rows; ++i) {
        Y* yi = row<Y>(y, rows[i]);
        const X* xi = row<X>(x, i);
#pragma omp simd
        for (int64_t j = begin; j < end; ++j) put(yi, j, get(yi, j) + get(xi, j));
      }
    });
  });
}

void scatter_rows(Mat y, Mat x, const int32_t* rows) {
  const size_t bytes = size_t(x.cols) * dtype_size(x.dtype);
  split(x.rows, x.count(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::memcpy(y.row_range(rows[i], 1).data, x.row_range(i, 1).data, bytes);
    }
  });
}

void permute_cols(Mat x, const int32_t* order, void* scratch) {
  const size_t row_bytes = size_t(x.cols) * dtype_size(x.dtype);
  auto run = [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    split(x.rows, x.count(), 1, [&](int64_t begin, int64_t end) {
      T* copy = reinterpret_cast<T*>(static_cast<char*>(scratch) +
                                     size_t(omp_get_thread_num()) * row_bytes);
      for (int64_t i = begin; i < end; ++i) {
        T* xi = row<T>(x, i);
        std::memcpy(copy, xi, row_bytes);
        for (int64_t j = 0; j < x.cols; ++j) xi[j] = copy[order[j]];
      }
    });
  };
  if (dtype_size(x.dtype) == 4) {
    run(static_cast<uint32_t*>(nullptr));
  } else {
    run(static_cast<uint16_t*>(nullptr));
  }
}

}  // namespace s2ft::S2FT_ISA
