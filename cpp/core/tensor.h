// Mat: a view of a row-major matrix that owns nothing. Every activation, weight and
// gradient crosses the backend border as one.
#pragma once

#include "core/dtype.h"

namespace s2ft {

/// rows x cols elements; element (i, j) lies at i * ld + j. An empty view has no data.
struct Mat {
  void* data = nullptr;
  DType dtype = DType::f32;
  int64_t rows = 0, cols = 0, ld = 0;

  S2FT_INLINE explicit operator bool() const { return data != nullptr; }
  template <class T>
  S2FT_INLINE T* as() const {
    return static_cast<T*>(data);
  }
  S2FT_INLINE int64_t count() const { return rows * cols; }
  S2FT_INLINE Mat row_range(int64_t begin, int64_t n) const {
    return {static_cast<char*>(data) + begin * ld * int64_t(dtype_size(dtype)), dtype, n,
            cols, ld};
  }
  S2FT_INLINE Mat col_range(int64_t begin, int64_t n) const {
    return {static_cast<char*>(data) + begin * int64_t(dtype_size(dtype)), dtype, rows, n,
            ld};
  }
};

/// A contiguous rows x cols view over `data`.
S2FT_INLINE Mat mat(void* data, DType t, int64_t rows, int64_t cols) {
  return {data, t, rows, cols, cols};
}

}  // namespace s2ft
