// Turns parts of quantized weights into numbers. An element is its code's level times its
// block's scale, rounded to the output's type; patches then take their places.
#include <algorithm>

#include "cuda/ops.h"
#include "cuda/spans.cuh"

namespace s2ft::cuda {

namespace {

constexpr int kThreads = 256;
// Threads of a block of codes; each makes eight elements.
constexpr int kBlockThreads = 8;

/// NF4's level of a code.
__device__ inline float nf4_level(int code) {
  constexpr float levels[16] = {
      kNf4Levels[0],  kNf4Levels[1],  kNf4Levels[2],  kNf4Levels[3],
      kNf4Levels[4],  kNf4Levels[5],  kNf4Levels[6],  kNf4Levels[7],
      kNf4Levels[8],  kNf4Levels[9],  kNf4Levels[10], kNf4Levels[11],
      kNf4Levels[12], kNf4Levels[13], kNf4Levels[14], kNf4Levels[15]};
  return levels[code];
}

/// What a kernel needs of one piece: rows and columns [first, first + n).
struct Piece {
  const uint8_t* codes;
  const float* scales;
  const uint8_t* scale_codes;
  const float *group_scales, *scale_levels;
  float offset;
  int64_t row_blocks, row, col, rows, cols;
};

template <bool kNf4>
__device__ inline float block_scale(const Piece& w, int64_t block) {
  if (!kNf4) return w.scales[block];
  // In double, where the product is exact, so that every device agrees.
  const double level = w.scale_levels[w.scale_codes[block]];
  return float(level * double(w.group_scales[block / kScaleGroup]) + double(w.offset));
}

/// Writes x[0, 4) to columns [j, j + 4) below `cols`.
template <class T>
__device__ inline void put4(T* row, int64_t j, int64_t cols, bool aligned,
                            const Floats<4>& x) {
  if (aligned && j + 4 <= cols) {
    store<4>(row + j, x);
    return;
  }
  for (int k = 0; k < 4 && j + k < cols; ++k) row[j + k] = from_f32<T>(x.v[k]);
}

template <bool kNf4, class T>
__global__ void dequantize_kernel(View<T> y, Piece w, int64_t blocks, bool aligned) {
  __shared__ float levels[16];
  if (kNf4) {
    if (threadIdx.x < 16) levels[threadIdx.x] = nf4_level(threadIdx.x);
    __syncthreads();
  }
  const int64_t groups = w.rows * blocks;
  const int64_t step = int64_t(gridDim.x) * (kThreads / kBlockThreads);
  const int lane = threadIdx.x % kBlockThreads;
  for (int64_t g =
           int64_t(blockIdx.x) * (kThreads / kBlockThreads) + threadIdx.x / kBlockThreads;
       g < groups; g += step) {
    const int64_t i = g / blocks, b = g % blocks;
    const int64_t block = (w.row + i) * w.row_blocks + w.col / kQuantBlock + b;
    const float scale = block_scale<kNf4>(w, block);
    T* row = y.at(i, 0);
    const int64_t first = b * kQuantBlock;
    Floats<4> low, high;
    if (kNf4) {
      const uint8_t* codes = w.codes + block * (kQuantBlock / 2) + lane * 4;
      const Pack<uint8_t, 4> bytes = *reinterpret_cast<const Pack<uint8_t, 4>*>(codes);
      for (int k = 0; k < 4; ++k) {
        low.v[k] = levels[bytes.v[k] & 15] * scale;
        high.v[k] = levels[bytes.v[k] >> 4] * scale;
      }
      put4(row, first + lane * 4, w.cols, aligned, low);
      put4(row, first + kQuantBlock / 2 + lane * 4, w.cols, aligned, high);
    } else {
      const uint8_t* codes = w.codes + block * kQuantBlock + lane * 8;
      const Pack<uint8_t, 8> bytes = *reinterpret_cast<const Pack<uint8_t, 8>*>(codes);
      for (int k = 0; k < 4; ++k) {
        low.v[k] = float(int8_t(bytes.v[k])) * scale;
        high.v[k] = float(int8_t(bytes.v[k + 4])) * scale;
      }
      put4(row, first + lane * 8, w.cols, aligned, low);
      put4(row, first + lane * 8 + 4, w.cols, aligned, high);
    }
  }
}

/// y[index[i] - row, :] = values[place[i], col + :]
template <class T>
struct PatchRows {
  View<T> y, values;
  const int32_t *index, *place;
  int64_t row, col;
  template <int V>
  __device__ void apply(int64_t i, int64_t j) const {
    *y.at(index[i] - row, j) = *values.at(place[i], col + j);
  }
};

/// y[:, index[j] - col] = values[row + :, place[j]]
template <class T>
struct PatchCols {
  View<T> y, values;
  const int32_t *index, *place;
  int64_t row, col;
  template <int V>
  __device__ void apply(int64_t i, int64_t j) const {
    *y.at(i, index[j] - col) = *values.at(row + i, place[j]);
  }
};

/// y (n, cols) = rows [row, row + n) and columns [col, col + cols) of one weight.
template <class T>
void dequantize_piece(Context& context, Mat y, const QuantizedMat& w, int64_t row,
                      int64_t col) {
  const Piece piece{
      w.codes,        w.scales, w.scale_codes, w.group_scales, w.scale_levels, w.offset,
      w.row_blocks(), row,      col,           y.rows,         y.cols};
  const int64_t blocks = (y.cols + kQuantBlock - 1) / kQuantBlock;
  const int64_t wanted = (y.rows * blocks * kBlockThreads + kThreads - 1) / kThreads;
  const dim3 grid(
      unsigned(std::min<int64_t>(wanted, int64_t(context.multiprocessors()) * 32)));
  if (w.kind == Quantization::nf4) {
    launch(context, dequantize_kernel<true, T>, grid, dim3(kThreads), 0, View<T>(y),
           piece, blocks, vectors(y));
  } else {
    launch(context, dequantize_kernel<false, T>, grid, dim3(kThreads), 0, View<T>(y),
           piece, blocks, vectors(y));
  }
  const Patch& patch = w.patch;
  if (patch.count == 0) return;
  const int64_t from = patch.rows ? row : col;
  const int64_t to = patch.rows ? row + y.rows : col + y.cols;
  const int32_t* end = patch.index + patch.count;
  const int64_t begin = std::lower_bound(patch.index, end, from) - patch.index;
  const int64_t n = std::lower_bound(patch.index, end, to) - patch.index - begin;
  if (n == 0) return;
  const int32_t* index = context.to_device(patch.index + begin, n);
  const int32_t* place = context.to_device(patch.place + begin, n);
  if (patch.rows) {
    spans(context, n, y.cols, false,
          PatchRows<T>{y, patch.values, index, place, row, col});
  } else {
    spans(context, y.rows, n, false,
          PatchCols<T>{y, patch.values, index, place, row, col});
  }
}

}  // namespace

void dequantize(Context& context, Mat y, QuantizedStack x, int64_t row, int64_t col) {
  if (y.count() == 0) return;
  with_type(y.dtype, [&](auto* type) {
    for (int p = 0; p < x.count && y.rows > 0; row -= x.pieces[p++].rows) {
      const int64_t here = std::min(y.rows, x.pieces[p].rows - row);
      if (here <= 0) continue;
      dequantize_piece<Pointed<decltype(type)>>(context, y.row_range(0, here),
                                                x.pieces[p], row, col);
      row += here;
      y = y.row_range(here, y.rows - here);
    }
  });
}

}  // namespace s2ft::cuda
