// Matrix products on the CPU: which library, and which arithmetic for bf16 storage.
#pragma once

#include "cpu/cpu_backend.h"
#include "cpu/kernels/kernels.h"
#include "cpu/onednn.h"
#include "cpu/scratch.h"

namespace s2ft {

/// Borrows everything it is given; all must outlive it. Thread-safe.
class Products {
 public:
  /// `library` may be null: the portable kernel then computes everything. `arithmetic` is
  /// native or widen.
  Products(const Kernels& kernels, OneDnn* library, ScratchPool& scratch,
           Arithmetic arithmetic, int threads)
      : kernels_(kernels),
        library_(library),
        scratch_(scratch),
        arithmetic_(arithmetic),
        threads_(threads) {}

  /// As Backend::matmul.
  void matmul(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b, float beta);

 private:
  void widened(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b, float beta);
  void direct(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b, float beta);
  void portable(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b, float beta);

  const Kernels& kernels_;
  OneDnn* library_;
  ScratchPool& scratch_;
  Arithmetic arithmetic_;
  int threads_;
};

/// How fast this machine multiplies, in GFLOP/s.
struct ProductSpeed {
  double f32 = 0, native = 0, widened = 0;  // native is 0 where it was not measured
  std::string native_implementation;        // oneDNN's name for it
};

/// With one thread, by that thread's CPU time; with more, by the clock on the wall.
/// Measures for some tens of milliseconds on a thread of its own; later calls with the
/// same arguments return the first one's result. Thread-safe.
ProductSpeed product_speed(const std::string& isa, bool portable, int threads);

}  // namespace s2ft
