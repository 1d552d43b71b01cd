// Declarations of the kernels inside the instruction set's own namespace, so that
// table.cpp can take their addresses. Same names and arguments as kernels.h.
#pragma once

#include "cpu/kernels/kernels.h"

namespace s2ft::S2FT_ISA {

// elementwise.cpp
void zero(Mat y);
void copy(Mat y, Mat x);
void add(Mat y, Mat x);
void scale(Mat y, float factor);
void add_bias(Mat y, Mat bias);
void sum_rows(Mat sum, Mat x);
void dropout(Mat y, Mat x, float p, uint64_t seed);
double sum_of_squares(Mat x, double* partial);
// rows.cpp
void gather_rows(Mat y, Mat x, const int32_t* rows);
void gather_cols(Mat y, Mat x, const int32_t* cols);
void scatter_add_rows(Mat y, Mat x, const int32_t* rows);
void scatter_rows(Mat y, Mat x, const int32_t* rows);
void permute_cols(Mat x, const int32_t* order, void* scratch);
// cols.cpp
void scatter_cols(Mat y, Mat x, const int32_t* cols);
void replace_cols(Mat y, Mat old, const int32_t* old_cols, Mat before, Mat x,
                  const int32_t* cols);
// rms_norm.cpp
void rms_norm(Mat y, Mat x, Mat w, float eps);
void rms_norm_backward(Mat dx, bool accumulate, Mat dw, Mat dy, Mat x, Mat w, float eps,
                       float* scratch);
// rope.cpp
void rope(Mat x, const int32_t* positions, Mat cos, Mat sin, int head_dim, bool inverse);
// swiglu.cpp
void swiglu(Mat h, Mat gate, Mat up);
void swiglu_backward(Mat gate, Mat up, Mat dh);
// attention.cpp, attention_backward.cpp
size_t attention_scratch(const AttentionShape& shape);
void attention(Mat o, Mat lse, Mat q, Mat k, Mat v, const Sequences& sequences,
               const AttentionShape& shape, void* scratch);
size_t attention_backward_scratch(const AttentionShape& shape, int longest);
void attention_backward(Mat dq, Mat dk, Mat dv, Mat d_o, Mat q, Mat k, Mat v, Mat o,
                        Mat lse, const Sequences& sequences, const AttentionShape& shape,
                        void* scratch);
// cross_entropy.cpp
void cross_entropy(float* nll, Mat dlogits, Mat logits, const int32_t* targets,
                   float gradient_scale);
// online_softmax.cpp
void online_softmax(Mat terms, Mat logits, Mat total, const int32_t* targets,
                    int64_t first_column, OnlineSoftmax rows);
void finish_softmax(float* nll, Mat dx, Mat total, Mat w, const int32_t* targets,
                    float gradient_scale, OnlineSoftmax rows);
// adamw.cpp
void adamw(const AdamW& update);
// peak.cpp
double register_products(bool dot, int64_t rounds);
// few_rows.cpp
bool is_few_rows(Mat c, bool transpose_a, bool transpose_b);
size_t few_rows_scratch(Mat a);
void few_rows(Mat c, Mat a, Mat b, bool add, void* scratch);
size_t few_rows_quantized_scratch(Mat a);
void few_rows_quantized(Mat c, Mat a, QuantizedStack b, bool add, void* scratch);
// adapter_rows.cpp
size_t add_adapters_scratch(Mat y, const AdapterRows* groups, int count);
void add_adapters(Mat y, Mat x, const AdapterRows* groups, int count, void* scratch);
// dequantize.cpp
void dequantize(Mat y, QuantizedStack x, int64_t row, int64_t col);
// vectors.cpp
void scale_cols(Mat y, Mat x, Mat factors, bool accumulate);
void dot_cols(Mat sum, Mat x, Mat y);
void dot_rows(Mat dot, Mat x, Mat y);
void inverse_sqrt(Mat y, Mat x);
void gather_elements(Mat y, Mat x, const int32_t* index);
void scatter_elements(Mat y, Mat x, const int32_t* index);
// gemm.cpp
size_t gemm_scratch(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b);
void gemm(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b, float beta,
          void* scratch);
size_t gemm_quantized_scratch(Mat c, Mat a, QuantizedStack b, bool transpose_b);
void gemm_quantized(Mat c, Mat a, QuantizedStack b, bool transpose_b, float beta,
                    void* scratch);

}  // namespace s2ft::S2FT_ISA
