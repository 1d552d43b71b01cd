// The host's side of an attention call: heads ordered by key/value head, sequences cut
// into tiles, and all of it in device memory.
#pragma once

#include <vector>

#include "cuda/attention_tiles.cuh"

namespace s2ft::cuda {

/// How a kernel cuts sequences.
struct TileRule {
  int rows = 0;            // packed rows a tile, or
  int keys = 0;            // keys a tile
  bool may_split = false;  // keys of sequences with few queries, between blocks
};

struct AttentionPlan {
  AttentionParams params;
  int64_t blocks = 0;
  int64_t partials = 0;    // (query, head, split) triples with results of their own
  int64_t split_rows = 0;  // (query, head) pairs that are put together from them
};

/// Copies what kernels need to know to the device, for what is launched next.
AttentionPlan plan_attention(Context& context, const Sequences& sequences,
                             const AttentionShape& shape, TileRule rule);

/// Whether the kernels for tensor cores can take these matrices: bf16, 16 bytes at a
/// time.
bool fits_tensor_cores(const Context& context, const AttentionShape& shape,
                       const Mat* mats, int count);

// attention_plain.cu: any element type, head size and alignment.
void plain_attention(Context& context, Mat o, Mat lse, Mat q, Mat k, Mat v,
                     const Sequences& sequences, const AttentionShape& shape);
/// delta (T, heads) f32, contiguous: the row sums of o * d_o.
void plain_attention_backward(Context& context, Mat dq, Mat dk, Mat dv, Mat d_o, Mat q,
                              Mat k, Mat v, Mat lse, const float* delta,
                              const Sequences& sequences, const AttentionShape& shape);

/// Keys that a block reads of a sequence with few queries, in decoding.
constexpr int kSplitKeys = 512, kFewQueries = 16;

}  // namespace s2ft::cuda
