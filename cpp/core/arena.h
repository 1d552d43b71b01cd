// Arena: hands out aligned pieces of one allocation, or, without one, only counts. A
// layout function run twice - first counting, then placing - is the memory plan.
#pragma once

#include <algorithm>

#include "core/tensor.h"

namespace s2ft {

class Arena {
 public:
  /// Counts when `base` is null.
  explicit Arena(void* base = nullptr) : base_(static_cast<char*>(base)) {}

  /// 64-byte aligned; the pointer is null while counting.
  void* take(size_t bytes) {
    char* p = base_ ? base_ + used_ : nullptr;
    used_ += (bytes + 63) / 64 * 64;
    peak_ = std::max(peak_, used_);
    return p;
  }
  Mat matrix(DType t, int64_t rows, int64_t cols) {
    return mat(take(size_t(rows) * size_t(cols) * dtype_size(t)), t, rows, cols);
  }
  /// Pieces taken after mark() may be taken again after release().
  size_t mark() const { return used_; }
  void release(size_t mark) { used_ = mark; }
  size_t peak() const { return peak_; }

 private:
  char* base_;
  size_t used_ = 0, peak_ = 0;
};

}  // namespace s2ft
