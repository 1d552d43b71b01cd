// Sums over the rows of each column, in two steps and always in the same order: parts of
// the rows into scratch, then the parts into the result.
#pragma once

#include "cuda/spans.cuh"

namespace s2ft::cuda {

constexpr int kColumnLanes = 32, kColumnRows = 8;
constexpr int64_t kRowsOfAPart = 128;

/// Parts of a sum over so many rows. By the rows alone, so that results do not depend on
/// the device.
inline int64_t column_parts(int64_t rows) {
  const int64_t parts = (rows + kRowsOfAPart - 1) / kRowsOfAPart;
  return std::min<int64_t>(parts, 256);
}

/// Floats of scratch that add_columns takes.
inline int64_t column_scratch(int64_t rows, int64_t cols) {
  return column_parts(rows) * cols;
}

/// partial (parts, cols): block (x, y) sums rows of part y in 32 columns of f.
template <class F>
__global__ void column_parts_kernel(float* partial, int64_t rows, int64_t cols, F f) {
  __shared__ float sums[kColumnRows][kColumnLanes];
  const int64_t j = int64_t(blockIdx.x) * kColumnLanes + threadIdx.x;
  const int64_t parts = gridDim.y, part = blockIdx.y;
  const int64_t begin = rows * part / parts, end = rows * (part + 1) / parts;
  float sum = 0;
  if (j < cols)
    for (int64_t i = begin + threadIdx.y; i < end; i += kColumnRows) sum += f.value(i, j);
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && j < cols) {
    float total = 0;
    for (int y = 0; y < kColumnRows; ++y) total += sums[y][threadIdx.x];
    partial[part * cols + j] = total;
  }
}

struct AddParts {
  float* total;
  const float* partial;
  int64_t parts, cols;
  template <int V>
  __device__ void apply(int64_t, int64_t j) const {
    for (int k = 0; k < V; ++k) {
      double sum = total[j + k];
      for (int64_t part = 0; part < parts; ++part) sum += partial[part * cols + j + k];
      total[j + k] = float(sum);
    }
  }
};

/// total[j] += sum over i of f.value(i, j). partial: column_scratch() floats.
template <class F>
void add_columns(Context& context, float* total, int64_t rows, int64_t cols,
                 float* partial, const F& f) {
  if (rows == 0 || cols == 0) return;
  const int64_t parts = column_parts(rows);
  const dim3 grid(unsigned((cols + kColumnLanes - 1) / kColumnLanes), unsigned(parts));
  launch(context, column_parts_kernel<F>, grid, dim3(kColumnLanes, kColumnRows), 0,
         partial, rows, cols, f);
  spans(context, 1, cols, false, AddParts{total, partial, parts, cols});
}

}  // namespace s2ft::cuda
