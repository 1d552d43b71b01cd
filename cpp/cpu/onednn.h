// Matrix products by oneDNN, with its compiled primitives kept for the shapes in use.
#pragma once

#include <memory>
#include <string>

#include "core/tensor.h"
#include "cpu/scratch.h"

namespace s2ft {

/// Thread-safe. Owns up to a few hundred compiled primitives, the least recently used
/// leave first.
class OneDnn {
 public:
  /// null when the library was built without oneDNN. Products must later run under the
  /// same number of OpenMP threads.
  static std::unique_ptr<OneDnn> create();
  virtual ~OneDnn() = default;

  /// c = op(a) op(b) + beta c as in Backend::matmul, no side empty. Returns false, with c
  /// untouched, when oneDNN has only a reference implementation for these views.
  virtual bool matmul(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b, float beta,
                      ScratchPool& scratch) = 0;
  /// "oneDNN 2.6.3"
  virtual std::string version() const = 0;
};

}  // namespace s2ft
