// Matrix products: by cuBLASLt where it is found, else by a kernel of this library. Owns
// the library's handle, its workspace and the choice of algorithm for each shape.
#pragma once

#include <map>
#include <string>
#include <tuple>

#include "core/quantized.h"
#include "cuda/context.h"
#include "cuda/cublaslt.h"
#include "cuda/shared_library.h"

namespace s2ft::cuda {

/// cuBLASLt, opened once a process. Which library it is, and every place that was tried.
const SharedLibrary& cublaslt_library();

/// c = op(a) op(b) + beta c by the plain tiled kernel, in f32: the oracle of the tests
/// and what serves where the library does not.   gemm.cu
void gemm(Context&, Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b, float beta);

class Products {
 public:
  explicit Products(Context& context);
  ~Products();
  Products(const Products&) = delete;

  void matmul(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b, float beta);
  /// Dequantizes a panel of b at a time, in the context's scratch, and multiplies it.
  void matmul_quantized(Mat c, Mat a, QuantizedStack b, bool transpose_b, float beta);
  /// Who multiplies: the library with its version, or "tiled".
  std::string name() const;
  /// Bytes that products hold or take as scratch.
  static size_t workspace_bytes();

 private:
  // Shape, layout, types and alignment: what decides the algorithm.
  using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int, int>;
  struct Plan;

  bool by_library(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b, float beta);
  const Plan& plan(const Key& key, Mat c, Mat a, bool transpose_a, Mat b,
                   bool transpose_b);

  Context& context_;
  lt::Api api_{};
  lt::Handle handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace s2ft::cuda
