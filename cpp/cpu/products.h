// Matrix products on the CPU: the built-in kernel, or oneDNN where it was chosen.
#pragma once

#include "cpu/kernels/kernels.h"
#include "cpu/onednn.h"
#include "cpu/scratch.h"

namespace s2ft {

/// Borrows everything it is given; all must outlive it. Thread-safe.
class Products {
 public:
  /// `library` may be null: the kernel then computes everything.
  Products(const Kernels& kernels, OneDnn* library, ScratchPool& scratch)
      : kernels_(kernels), library_(library), scratch_(scratch) {}

  /// As Backend::matmul.
  void matmul(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b, float beta);
  /// As Backend::matmul_quantized.
  void matmul_quantized(Mat c, Mat a, QuantizedStack b, bool transpose_b, float beta);
  /// Bytes of the part of a quantized weight that is made for the library at a time.
  size_t workspace_bytes() const;

 private:
  const Kernels& kernels_;
  OneDnn* library_;
  ScratchPool& scratch_;
};

}  // namespace s2ft
