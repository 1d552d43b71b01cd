#include "model/quantize.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <vector>

#include "core/error.h"

namespace s2ft {

namespace {

constexpr int64_t kStagingElements = 1 << 18;
constexpr float kInt8Levels = 127;

/// A block as codes of the nearest levels.   x [n], the rest of the block is zero
void encode_nf4(uint8_t* to, const float* x, int64_t n, float largest) {
  uint8_t codes[kQuantBlock];
  const float inverse = largest > 0 ? 1 / largest : 0;
  for (int64_t i = 0; i < kQuantBlock; ++i) {
    const float scaled = i < n ? x[i] * inverse : 0;
    int code = 0;
    for (int level = 0; level < 15; ++level)
      code += scaled > (kNf4Levels[level] + kNf4Levels[level + 1]) / 2;
    codes[i] = uint8_t(code);
  }
  constexpr int64_t half = kQuantBlock / 2;
  for (int64_t i = 0; i < half; ++i) to[i] = uint8_t(codes[i] | codes[i + half] << 4);
}

void encode_int8(uint8_t* to, const float* x, int64_t n, float scale) {
  for (int64_t i = 0; i < kQuantBlock; ++i) {
    const float code = i < n && scale > 0 ? std::nearbyint(x[i] / scale) : 0;
    to[i] = uint8_t(int8_t(std::clamp(code, -kInt8Levels, kInt8Levels)));
  }
}

/// Encodes one row; returns false when a value is not finite.   scales [row_blocks]
bool encode_row(const QuantizedMat& w, uint8_t* codes, float* scales, const float* x) {
  bool finite = true;
  for (int64_t b = 0; b < w.row_blocks(); ++b) {
    const int64_t n = std::min(kQuantBlock, w.cols - b * kQuantBlock);
    const float* block = x + b * kQuantBlock;
    float largest = 0;
    for (int64_t i = 0; i < n; ++i) {
      finite &= std::isfinite(block[i]);
      largest = std::max(largest, std::fabs(block[i]));
    }
    // Below the smallest normal number its inverse would overflow.
    if (largest < FLT_MIN) largest = 0;
    uint8_t* to = codes + b * w.block_bytes();
    if (w.kind == Quantization::nf4) {
      scales[b] = largest;
      encode_nf4(to, block, n, largest);
    } else {
      scales[b] = largest / kInt8Levels;
      encode_int8(to, block, n, scales[b]);
    }
  }
  return finite;
}

uint8_t nearest_level(float x) {
  const ScaleLevels& levels = scale_levels();
  const auto above = std::lower_bound(levels.begin(), levels.end(), x);
  if (above == levels.begin()) return 0;
  if (above == levels.end()) return uint8_t(levels.size() - 1);
  const auto below = above - 1;
  return uint8_t((x - *below <= *above - x ? below : above) - levels.begin());
}

/// Double quantization: the second level of nf4's scales.
void encode_scales(Backend& backend, QuantizedMat& w, const std::vector<float>& scales) {
  double sum = 0;
  for (float s : scales) sum += s;
  w.offset = float(sum / double(scales.size()));
  std::vector<uint8_t> codes(scales.size());
  std::vector<float> groups(size_t(w.groups()));
  for (size_t g = 0; g < groups.size(); ++g) {
    const size_t begin = g * size_t(kScaleGroup);
    const size_t end = std::min(scales.size(), begin + size_t(kScaleGroup));
    float largest = 0;
    for (size_t i = begin; i < end; ++i)
      largest = std::max(largest, std::fabs(scales[i] - w.offset));
    groups[g] = largest;
    for (size_t i = begin; i < end; ++i)
      codes[i] = nearest_level(largest > 0 ? (scales[i] - w.offset) / largest : 0);
  }
  backend.upload(const_cast<uint8_t*>(w.scale_codes), codes.data(), codes.size());
  backend.upload(const_cast<float*>(w.group_scales), groups.data(),
                 groups.size() * sizeof(float));
}

}  // namespace

const ScaleLevels& scale_levels() {
  static const ScaleLevels levels = [] {
    ScaleLevels all{};
    size_t n = 0;
    for (int exponent = 0; exponent < 7; ++exponent) {
      const int fractions = 1 << exponent;
      for (int i = 0; i < fractions; ++i) {
        const double middle = 0.1 + 0.9 * (i + 0.5) / fractions;
        const double level = middle * std::pow(10.0, exponent - 6);
        all[n++] = float(level);
        all[n++] = float(-level);
      }
    }
    all[n++] = 0;
    all[n++] = 1;
    std::sort(all.begin(), all.end());
    return all;
  }();
  return levels;
}

QuantizedMat place_quantized(Arena& arena, Quantization kind, int64_t rows,
                             int64_t cols) {
  QuantizedMat w;
  w.kind = kind;
  w.rows = rows;
  w.cols = cols;
  const size_t blocks = size_t(w.blocks());
  w.codes = static_cast<uint8_t*>(arena.take(blocks * size_t(w.block_bytes())));
  if (kind == Quantization::int8) {
    w.scales = static_cast<float*>(arena.take(blocks * sizeof(float)));
  } else {
    w.scale_codes = static_cast<uint8_t*>(arena.take(blocks));
    w.group_scales = static_cast<float*>(arena.take(size_t(w.groups()) * sizeof(float)));
  }
  return w;
}

void quantize(Backend& backend, QuantizedMat& w, const std::string& name,
              const RowReader& read) {
  const int64_t step = std::max<int64_t>(1, kStagingElements / w.cols);
  const int64_t blocks = w.row_blocks(), row_bytes = blocks * w.block_bytes();
  std::vector<float> rows(size_t(std::min(step, w.rows) * w.cols));
  std::vector<uint8_t> codes(size_t(std::min(step, w.rows) * row_bytes));
  std::vector<float> scales(size_t(w.blocks()));
  bool finite = true;
  for (int64_t begin = 0; begin < w.rows; begin += step) {
    const int64_t n = std::min(step, w.rows - begin);
    read(rows.data(), begin, n);
#pragma omp parallel for schedule(static) reduction(& : finite)
    for (int64_t i = 0; i < n; ++i) {
      finite &=
          encode_row(w, codes.data() + i * row_bytes,
                     scales.data() + (begin + i) * blocks, &rows[size_t(i * w.cols)]);
    }
    if (!finite) {
      throw Error("UNSUPPORTED_MODEL", "[load] tensor " + name +
                                           ": expected finite values to quantize, found "
                                           "NaN or infinity");
    }
    backend.upload(const_cast<uint8_t*>(w.codes) + begin * row_bytes, codes.data(),
                   size_t(n * row_bytes));
  }
  if (w.kind == Quantization::int8) {
    backend.upload(const_cast<float*>(w.scales), scales.data(),
                   scales.size() * sizeof(float));
  } else {
    encode_scales(backend, w, scales);
  }
}

}  // namespace s2ft
