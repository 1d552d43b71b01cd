// Attention on the device: on the tensor cores where element type, alignment and head
// size allow (bf16, multiples of 8 up to 256), else by ordinary arithmetic.
#pragma once

#include "backend/backend.h"
#include "cuda/context.h"

namespace s2ft::cuda {

void attention(Context& context, Mat o, Mat lse, Mat q, Mat k, Mat v,
               const Sequences& sequences, const AttentionShape& shape);
void attention_backward(Context& context, Mat dq, Mat dk, Mat dv, Mat d_o, Mat q, Mat k,
                        Mat v, Mat o, Mat lse, const Sequences& sequences,
                        const AttentionShape& shape);
/// Upper bound of the scratch that both take for batches of so many tokens.
size_t attention_workspace(int64_t tokens, const AttentionShape& shape);

}  // namespace s2ft::cuda
