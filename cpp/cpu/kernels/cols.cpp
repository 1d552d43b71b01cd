// Kernels that write single columns. Each element is a cache line of its own in memory
// that nobody read before, so a row asks for those of a later one while it is at work.
#include "cpu/kernels/loops.h"
#include "cpu/kernels/ops.h"

namespace s2ft::S2FT_ISA {

/// Rows between the one at work and the one whose elements are asked for.
constexpr int64_t kAhead = 2;

void scatter_cols(Mat y, Mat x, const int32_t* cols) {
  const auto run = [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    split(y.rows, x.count(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        T* yi = row<T>(y, i);
        const T* xi = row<T>(x, i);
        for (int64_t j = 0; j < x.cols; ++j) yi[cols[j]] = xi[j];
      }
    });
  };
  if (dtype_size(y.dtype) == 4) {
    run(static_cast<uint32_t*>(nullptr));
  } else {
    run(static_cast<uint16_t*>(nullptr));
  }
}

namespace {

/// Asks for the elements of a row that are about to be written.
template <class T>
S2FT_INLINE void ask_for(const T* y, const int32_t* cols, int64_t n) {
  for (int64_t j = 0; j < n; ++j) __builtin_prefetch(y + cols[j], 1);
}

}  // namespace

void replace_cols(Mat y, Mat old, const int32_t* old_cols, Mat before, Mat x,
                  const int32_t* cols) {
  with_types(y.dtype, x.dtype, [&](auto* to, auto* from) {
    using Y = S2FT_TYPE_OF(to);
    using X = S2FT_TYPE_OF(from);
    split(y.rows, x.count() + old.count(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        Y* yi = row<Y>(y, i);
        if (i + kAhead < end) {
          const Y* next = row<Y>(y, i + kAhead);
          ask_for(next, old_cols, old.cols);
          ask_for(next, cols, x.cols);
        }
        if (old) {
          const Y* oi = row<Y>(old, i);
          for (int64_t j = 0; j < old.cols; ++j) yi[old_cols[j]] = oi[j];
        }
        if (before) {
          Y* kept = row<Y>(before, i);
          for (int64_t j = 0; j < x.cols; ++j) kept[j] = yi[cols[j]];
        }
        const X* xi = row<X>(x, i);
        for (int64_t j = 0; j < x.cols; ++j)
          put(yi, cols[j], get(yi, cols[j]) + get(xi, j));
      }
    });
  });
}

}  // namespace s2ft::S2FT_ISA
