// The table of kernels one instruction set offers. Every .cpp in this folder defines
// functions inside `namespace s2ft::S2FT_ISA` (declared in ops.h, gathered by table.cpp);
// CMake compiles the folder once per instruction set with S2FT_ISA set to its name.
// Kernels use raw pointers and OpenMP only: no standard containers and no shared helpers
// that may stay un-inlined (the linker could pick a copy with the wrong instructions).
#pragma once

#include "backend/backend.h"
#include "cpu/kernels/online_softmax.h"

namespace s2ft {

struct Kernels {
  void (*zero)(Mat y);
  void (*copy)(Mat y, Mat x);
  void (*add)(Mat y, Mat x);
  void (*scale)(Mat y, float factor);
  void (*gather_rows)(Mat y, Mat x, const int32_t* rows);
  void (*gather_cols)(Mat y, Mat x, const int32_t* cols);
  void (*scatter_add_rows)(Mat y, Mat x, const int32_t* rows);
  void (*scatter_rows)(Mat y, Mat x, const int32_t* rows);
  void (*permute_cols)(Mat x, const int32_t* order, void* scratch);  // one row a thread
  void (*scatter_cols)(Mat y, Mat x, const int32_t* cols);
  // Old columns back, where given, and new ones in, row by row.
  void (*replace_cols)(Mat y, Mat old, const int32_t* old_cols, Mat before, Mat x,
                       const int32_t* cols);
  void (*add_bias)(Mat y, Mat bias);
  void (*sum_rows)(Mat sum, Mat x);
  void (*rms_norm)(Mat y, Mat x, Mat w, float eps);
  void (*rms_norm_backward)(Mat dx, bool accumulate, Mat dw, Mat dy, Mat x, Mat w,
                            float eps, float* scratch);  // threads * w.cols floats
  void (*rope)(Mat x, const int32_t* positions, Mat cos, Mat sin, int head_dim,
               bool inverse);
  void (*swiglu)(Mat h, Mat gate, Mat up);
  void (*swiglu_backward)(Mat gate, Mat up, Mat dh);
  size_t (*attention_scratch)(const AttentionShape& shape);  // bytes for each thread
  void (*attention)(Mat o, Mat lse, Mat q, Mat k, Mat v, const Sequences& sequences,
                    const AttentionShape& shape, void* scratch);
  size_t (*attention_backward_scratch)(const AttentionShape& shape, int longest);
  void (*attention_backward)(Mat dq, Mat dk, Mat dv, Mat d_o, Mat q, Mat k, Mat v, Mat o,
                             Mat lse, const Sequences& sequences,
                             const AttentionShape& shape, void* scratch);
  void (*cross_entropy)(float* nll, Mat dlogits, Mat logits, const int32_t* targets,
                        float gradient_scale);
  // A block of columns of a softmax, from `first_column` on: terms (n, m) = exp(logits -
  // max) with 0 at the target, where given; `total` (n, any, f32), where given, is what
  // the terms of earlier blocks were multiplied into and follows a new maximum.
  void (*online_softmax)(Mat terms, Mat logits, Mat total, const int32_t* targets,
                         int64_t first_column, OnlineSoftmax rows);
  // dx = (total / sum + (p_target - 1) w[target]) * gradient_scale, where given.
  void (*finish_softmax)(float* nll, Mat dx, Mat total, Mat w, const int32_t* targets,
                         float gradient_scale, OnlineSoftmax rows);
  void (*dropout)(Mat y, Mat x, float p, uint64_t seed);
  void (*adamw)(const AdamW& update);
  double (*sum_of_squares)(Mat x, double* partial);  // one double a thread
  void (*scale_cols)(Mat y, Mat x, Mat factors, bool accumulate);
  void (*dot_cols)(Mat sum, Mat x, Mat y);
  void (*dot_rows)(Mat dot, Mat x, Mat y);
  void (*inverse_sqrt)(Mat y, Mat x);
  void (*gather_elements)(Mat y, Mat x, const int32_t* index);
  void (*scatter_elements)(Mat y, Mat x, const int32_t* index);
  // c = op(a) op(b) + beta c, f32 or bf16 inputs, f32 sums.
  size_t (*gemm_scratch)(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b);
  void (*gemm)(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b, float beta,
               void* scratch);
  // The same with a quantized b; a is not transposed.
  size_t (*gemm_quantized_scratch)(Mat c, Mat a, QuantizedStack b, bool transpose_b);
  void (*gemm_quantized)(Mat c, Mat a, QuantizedStack b, bool transpose_b, float beta,
                         void* scratch);
  // Bytes of scratch that adapters take for each thread.
  size_t (*add_adapters_scratch)(Mat y, const AdapterRows* groups, int count);
  void (*add_adapters)(Mat y, Mat x, const AdapterRows* groups, int count, void* scratch);
  // y = the rows and columns of x from (row, col) on
  void (*dequantize)(Mat y, QuantizedStack x, int64_t row, int64_t col);
  // Multiply-adds between registers, by one thread; returns how many floating-point
  // operations they were. `dot`: pairs of bf16, where the instruction set has them.
  double (*register_products)(bool dot, int64_t rounds);
};

// One table an instruction set; the tables of sets this build lacks do not exist.
namespace plain {
const Kernels& kernels();
}
#if defined(__x86_64__)
namespace avx2 {
const Kernels& kernels();
}
namespace avx512 {
const Kernels& kernels();
}
namespace avx512bf16 {
const Kernels& kernels();
}
#endif

}  // namespace s2ft
