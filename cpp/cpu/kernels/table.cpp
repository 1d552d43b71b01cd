// Gathers this instruction set's kernels into its table.
#include "cpu/kernels/ops.h"

namespace s2ft::S2FT_ISA {

const Kernels& kernels() {
  static const Kernels table = {
      zero,
      copy,
      add,
      scale,
      gather_rows,
      gather_cols,
      scatter_add_rows,
      scatter_rows,
      permute_cols,
      scatter_cols,
      replace_cols,
      add_bias,
      sum_rows,
      rms_norm,
      rms_norm_backward,
      rope,
      swiglu,
      swiglu_backward,
      attention_scratch,
      attention,
      attention_backward_scratch,
      attention_backward,
      cross_entropy,
      online_softmax,
      finish_softmax,
      dropout,
      adamw,
      sum_of_squares,
      scale_cols,
      dot_cols,
      dot_rows,
      inverse_sqrt,
      gather_elements,
      scatter_elements,
      gemm_scratch,
      gemm,
      gemm_quantized_scratch,
      gemm_quantized,
      add_adapters_scratch,
      add_adapters,
      dequantize,
      register_products,
  };
  return table;
}

}  // namespace s2ft::S2FT_ISA
