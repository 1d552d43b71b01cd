// Launchers of the backend's operations, apart from products and attention. The meaning
// of each is backend.h's.
#pragma once

#include "core/quantized.h"
#include "cuda/context.h"

namespace s2ft {
struct AdamW;
struct AdapterRows;
struct Clipping;
struct LogitChange;
struct Ranking;
}  // namespace s2ft

namespace s2ft::cuda {

// elementwise.cu
void zero(Context&, Mat y);
void copy(Context&, Mat y, Mat x);
void add(Context&, Mat y, Mat x);
void scale(Context&, Mat y, float factor);
void add_bias(Context&, Mat y, Mat bias);
void dropout(Context&, Mat y, Mat x, float p, uint64_t seed);
// rows.cu
void gather_rows(Context&, Mat y, Mat x, const int32_t* rows);
void gather_cols(Context&, Mat y, Mat x, const int32_t* cols);
void scatter_rows(Context&, Mat y, Mat x, const int32_t* rows);
void scatter_cols(Context&, Mat y, Mat x, const int32_t* cols);
void add_cols(Context&, Mat y, Mat before, Mat x, const int32_t* cols);
void scatter_add_rows(Context&, Mat y, Mat x, const int32_t* rows);
void permute_rows(Context&, Mat x, const int32_t* order);
void permute_cols(Context&, Mat x, const int32_t* order);
// sums.cu
void sum_rows(Context&, Mat sum, Mat x);
void dot_cols(Context&, Mat sum, Mat x, Mat y);
void dot_rows(Context&, Mat dot, Mat x, Mat y);
void sum_of_squares(Context&, double* sum, const Mat* x, int count);
// vectors.cu
void scale_cols(Context&, Mat y, Mat x, Mat factors, bool accumulate);
void inverse_sqrt(Context&, Mat y, Mat x);
void gather_elements(Context&, Mat y, Mat x, const int32_t* index);
void scatter_elements(Context&, Mat y, Mat x, const int32_t* index);
// dequantize.cu
/// Rows and columns from (row, col) on, col a multiple of kQuantBlock.
void dequantize(Context&, Mat y, QuantizedStack x, int64_t row, int64_t col);
// rms_norm.cu
void rms_norm(Context&, Mat y, Mat x, Mat w, float eps);
void rms_norm_backward(Context&, Mat dx, bool accumulate, Mat dw, Mat dy, Mat x, Mat w,
                       float eps);
// rope.cu
void rope(Context&, Mat x, const int32_t* positions, Mat cos, Mat sin, int head_dim,
          bool inverse);
// swiglu.cu
void swiglu(Context&, Mat h, Mat gate, Mat up);
void swiglu_backward(Context&, Mat gate, Mat up, Mat dh);
// cross_entropy.cu
void cross_entropy(Context&, Mat nll, Mat dlogits, Mat logits, const int32_t* targets,
                   float gradient_scale);
// linear_cross_entropy.cu
size_t linear_cross_entropy_scratch(int64_t rows, int64_t width, int64_t vocabulary);
void linear_cross_entropy(Context&, Mat nll, Mat dx, Mat x, Mat w, const int32_t* targets,
                          float gradient_scale, void* scratch);
// adapters.cu
void add_adapters(Context&, Mat y, Mat x, const AdapterRows* groups, int count);
// rank_logits.cu
void rank_logits(Context&, const Ranking& to, Mat logits, const LogitChange* changes,
                 int64_t count, const float* temperatures);
// adamw.cu
void adamw(Context&, const AdamW* updates, int count, Clipping clipping);

}  // namespace s2ft::cuda
