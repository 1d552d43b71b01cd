// The largest logits of rows over a vocabulary, in order: what sampling looks at, so that
// whole rows never leave the device. A block a row.
#include "cuda/ops.h"
#include "cuda/spans.cuh"

namespace s2ft::cuda {

namespace {

constexpr int kThreads = 512, kCandidates = 1024;
static_assert(Ranking::kMost <= kThreads);

// A logit and its token as one number, greater for what comes first: larger logits, then
// lower tokens. None is 0, which stands for nothing.
__device__ uint64_t ranked(float x, int64_t token) {
  if (x == 0) x = 0;  // of either sign
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return uint64_t(bits) << 32 | (0xffffffffu - uint32_t(token));
}

__device__ float value_of(uint64_t rank) {
  uint32_t bits = uint32_t(rank >> 32);
  bits = bits & 0x80000000u ? bits & 0x7fffffffu : ~bits;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/// Descending, in place (bitonic); n is a power of two and at most 2 * kThreads.
__device__ void sort_descending(uint64_t* items, int n) {
  for (int size = 2; size <= n; size *= 2) {
    for (int distance = size / 2; distance > 0; distance /= 2) {
      __syncthreads();
      const int pair = int(threadIdx.x);
      if (pair < n / 2) {
        const int i = 2 * distance * (pair / distance) + pair % distance;
        const uint64_t a = items[i], b = items[i + distance];
        const bool descending = (i & size) == 0;
        if ((a < b) == descending) {
          items[i] = b;
          items[i + distance] = a;
        }
      }
    }
  }
  __syncthreads();
}

/// How many of the row's ranks are `least` or more, in every thread.
__device__ int count_from(const float* x, int64_t cols, uint64_t least, double* partial) {
  double count = 0;
  for (int64_t j = threadIdx.x; j < cols; j += kThreads)
    count += ranked(x[j], j) >= least;
  count = block_sum(count, partial);
  __syncthreads();
  return int(count);
}

__global__ void rank_kernel(Ranking to, View<float> logits, int64_t cols,
                            const float* temperatures) {
  __shared__ uint64_t items[kCandidates];
  __shared__ double partial[32];
  __shared__ int taken;
  const int64_t row = blockIdx.x;
  const float* x = logits.at(row, 0);
  const int k = int(to.k);

  // At least k ranks are as great as the k-th of the threads' greatest, and few more.
  uint64_t greatest = 0;
  for (int64_t j = threadIdx.x; j < cols; j += kThreads) {
    const uint64_t rank = ranked(x[j], j);
    if (rank > greatest) greatest = rank;
  }
  items[threadIdx.x] = greatest;
  sort_descending(items, kThreads);
  uint64_t least = items[k - 1];
  const uint64_t first = items[0];
  if (count_from(x, cols, least, partial) > kCandidates) {
    // Unless they lie in few threads' columns: the k-th itself, bit by bit.
    uint64_t low = least, high = first;
    while (low < high) {
      const uint64_t middle = low + (high - low + 1) / 2;
      if (count_from(x, cols, middle, partial) >= k) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    least = low;
  }

  for (int i = threadIdx.x; i < kCandidates; i += kThreads) items[i] = 0;
  if (threadIdx.x == 0) taken = 0;
  __syncthreads();
  for (int64_t j = threadIdx.x; j < cols; j += kThreads) {
    const uint64_t rank = ranked(x[j], j);
    if (rank >= least) items[atomicAdd(&taken, 1)] = rank;
  }
  sort_descending(items, kCandidates);
  for (int i = threadIdx.x; i < k; i += kThreads) {
    to.values[row * k + i] = value_of(items[i]);
    to.tokens[row * k + i] = int32_t(0xffffffffu - uint32_t(items[i]));
  }

  double mass = 0;
  const double top = double(value_of(items[0])), temperature = double(temperatures[row]);
  if (temperature > 0)
    for (int64_t j = threadIdx.x; j < cols; j += kThreads)
      mass += exp((double(x[j]) - top) / temperature);
  mass = block_sum(mass, partial);
  if (threadIdx.x == 0) to.masses[row] = mass;
}

__global__ void change_kernel(View<float> logits, float* before,
                              const LogitChange* changes, int64_t count) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const LogitChange c = changes[i];
  float* x = logits.at(c.row, c.token);
  before[i] = *x;
  // Rounded after every operation, as on the host.
  const float moved = __fadd_rn(*x, c.bias);
  *x = __fadd_rn(__fmul_rn(moved, moved < 0 ? c.negative : c.positive), c.add);
}

}  // namespace

void rank_logits(Context& context, const Ranking& to, Mat logits,
                 const LogitChange* changes, int64_t count, const float* temperatures) {
  if (logits.rows == 0) return;
  if (count > 0) {
    constexpr int64_t threads = 256;
    launch(context, change_kernel, dim3(unsigned((count + threads - 1) / threads)),
           dim3(unsigned(threads)), 0, View<float>(logits), to.before,
           context.to_device(changes, count), count);
  }
  launch(context, rank_kernel, dim3(unsigned(logits.rows)), dim3(kThreads), 0, to,
         View<float>(logits), logits.cols, context.to_device(temperatures, logits.rows));
}

}  // namespace s2ft::cuda
