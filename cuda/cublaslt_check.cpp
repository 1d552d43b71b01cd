// Where NVIDIA's own header is at hand, the compiler compares cublaslt.h with it.
#if __has_include(<cublasLt.h>)
#include <cublasLt.h>

#include "cuda/cublaslt.h"

namespace s2ft::cuda::lt {

static_assert(sizeof(Algorithm) == sizeof(cublasLtMatmulAlgo_t));
static_assert(sizeof(Heuristic) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(Heuristic, workspace_bytes) ==
              offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
static_assert(offsetof(Heuristic, state) ==
              offsetof(cublasLtMatmulHeuristicResult_t, state));
static_assert(int(kF32) == int(CUDA_R_32F) && int(kBf16) == int(CUDA_R_16BF));
static_assert(int(kCompute32F) == int(CUBLAS_COMPUTE_32F));
static_assert(int(kPlain) == int(CUBLAS_OP_N) && int(kTransposed) == int(CUBLAS_OP_T));
static_assert(int(kTransposeA) == int(CUBLASLT_MATMUL_DESC_TRANSA));
static_assert(int(kTransposeB) == int(CUBLASLT_MATMUL_DESC_TRANSB));
static_assert(int(kWorkspaceBytes) == int(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES));
static_assert(int(kReductionSchemes) == int(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK));
static_assert(int(kAlignmentA) == int(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES));
static_assert(int(kAlignmentB) == int(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES));
static_assert(int(kAlignmentC) == int(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES));
static_assert(int(kAlignmentD) == int(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES));
static_assert(int(kInComputeType) == int(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));

}  // namespace s2ft::cuda::lt
#endif
