// Conformance of quantized weights: what their codes stand for, and products with them
// against the same product with the dequantized weight.
#pragma once

#include "core/arena.h"
#include "model/quantize.h"
#include "test/conformance/support.h"

namespace s2ft::test {

inline const char* kind_name(Quantization kind) {
  return kind == Quantization::nf4 ? "nf4" : "int8";
}

inline const std::vector<Quantization>& quantizations() {
  static const std::vector<Quantization> kinds = {Quantization::int8, Quantization::nf4};
  return kinds;
}

/// A quantized weight that owns its memory and, where asked for, a patch.
class QuantizedDevice {
 public:
  QuantizedDevice(Backend& backend, Quantization kind, const Host& values)
      : backend_(backend) {
    Arena count;
    place_quantized(count, kind, values.rows, values.cols);
    storage_ = backend.allocate(count.peak() + sizeof(ScaleLevels));
    backend.upload(storage_.data(), scale_levels().data(), sizeof(ScaleLevels));
    Arena arena(static_cast<char*>(storage_.data()) + sizeof(ScaleLevels));
    weight = place_quantized(arena, kind, values.rows, values.cols);
    weight.scale_levels = static_cast<const float*>(storage_.data());
    quantize(backend, weight, "w", [&](float* to, int64_t begin, int64_t n) {
      for (int64_t i = 0; i < n * values.cols; ++i)
        to[i] = float(values.v[size_t(begin * values.cols + i)]);
    });
  }

  /// Every third row or column, the last one included, from full precision, whose values
  /// lie in the opposite order.
  void patch(bool rows, DType dtype) {
    const int64_t n = rows ? weight.rows : weight.cols;
    index_.clear();
    for (int64_t i = (n - 1) % 3; i < n; i += 3) index_.push_back(int32_t(i));
    const int64_t count = int64_t(index_.size());
    full = random(rows ? count : weight.rows, rows ? weight.cols : count, dtype);
    values_ = std::make_unique<Device>(backend_, dtype, full, 3);
    place_.resize(index_.size());
    for (int64_t i = 0; i < count; ++i) place_[size_t(i)] = int32_t(count - 1 - i);
    weight.patch = {*values_, index_.data(), place_.data(), count, rows};
  }

  /// What the codes stand for, read off the bytes by the definition, in double.
  Host decoded(DType dtype) const {
    const QuantizedMat& w = weight;
    const std::vector<uint8_t> codes = bytes(w.codes, w.blocks() * w.block_bytes());
    std::vector<double> scales;
    for (int64_t b = 0; b < w.blocks(); ++b) {
      if (w.kind == Quantization::int8) {
        scales.push_back(floats(w.scales, w.blocks())[size_t(b)]);
        continue;
      }
      const uint8_t code = bytes(w.scale_codes, w.blocks())[size_t(b)];
      const double group = floats(w.group_scales, w.groups())[size_t(b / 256)];
      scales.push_back(float(scale_levels()[code] * group + w.offset));
    }
    Host out(w.rows, w.cols);
    for (int64_t i = 0; i < w.rows; ++i) {
      for (int64_t j = 0; j < w.cols; ++j) {
        const int64_t b = i * w.row_blocks() + j / 64, e = j % 64;
        const uint8_t* block = codes.data() + b * w.block_bytes();
        const double level = w.kind == Quantization::int8 ? double(int8_t(block[e]))
                             : e < 32                     ? kNf4Levels[block[e] & 15]
                                      : kNf4Levels[block[e - 32] >> 4];
        out(i, j) = round_to(dtype, float(level * scales[size_t(b)]));
      }
    }
    for (size_t k = 0; k < index_.size(); ++k) {
      for (int64_t i = 0; i < (w.patch.rows ? w.cols : w.rows); ++i) {
        if (w.patch.rows) {
          out(index_[k], i) = full(place_[k], i);
        } else {
          out(i, index_[k]) = full(i, place_[k]);
        }
      }
    }
    return out;
  }

  std::vector<uint8_t> bytes(const void* from, int64_t n) const {
    std::vector<uint8_t> host(static_cast<size_t>(n));
    backend_.synchronize();
    backend_.download(host.data(), from, host.size());
    return host;
  }
  std::vector<float> floats(const float* from, int64_t n) const {
    std::vector<float> host(static_cast<size_t>(n));
    backend_.download(host.data(), from, host.size() * sizeof(float));
    return host;
  }

  QuantizedMat weight;
  Host full;

 private:
  Backend& backend_;
  Buffer storage_;
  std::vector<int32_t> index_, place_;
  std::unique_ptr<Device> values_;
};

enum class Patched { no, rows, cols };

inline std::string quantized_label(const NamedBackend& b, Quantization kind, DType t,
                                   int64_t rows, int64_t cols, Patched patched) {
  return b.name + " " + kind_name(kind) + " " + dtype_name(t) + " " +
         std::to_string(rows) + "x" + std::to_string(cols) +
         (patched == Patched::no ? ""
                                 : (patched == Patched::rows ? " rows" : " columns"));
}

TEST(dequantizing_follows_the_definition) {
  const std::vector<Shape> shapes = {{1, 1},   {3, 5},   {2, 64},   {5, 65},
                                     {7, 127}, {70, 33}, {40, 577}, {3, 1536}};
  for (const NamedBackend& b : backends_under_test()) {
    for (Quantization kind : quantizations()) {
      for (DType t : storage_types()) {
        for (const Shape& s : shapes) {
          for (Patched patched : {Patched::no, Patched::rows, Patched::cols}) {
            QuantizedDevice w(*b.backend, kind, random(s.rows, s.cols, DType::f32));
            if (patched != Patched::no) w.patch(patched == Patched::rows, t);
            const std::string what = quantized_label(b, kind, t, s.rows, s.cols, patched);
            Device y(*b.backend, t, s.rows, s.cols, 3);
            b.backend->dequantize(y, {&w.weight, 1});
            expect_equal(y.read(what), w.decoded(t), what);
          }
        }
      }
    }
  }
}

/// The product with a stack of weights, bit for bit the product with what they stand for:
/// a library cuts it into parts and may sum in another order, so it gets a tolerance.
inline void check_quantized_product(const NamedBackend& named, Quantization kind, DType t,
                                    DType out, int64_t m, std::vector<int64_t> heights,
                                    int64_t width, bool transpose, float beta,
                                    Patched patched) {
  Backend& b = *named.backend;
  std::vector<std::unique_ptr<QuantizedDevice>> weights;
  std::vector<QuantizedMat> pieces;
  int64_t rows = 0;
  for (size_t i = 0; i < heights.size(); ++i) {
    weights.push_back(std::make_unique<QuantizedDevice>(
        b, kind, random(heights[i], width, DType::f32)));
    // Neighbours without one: a patch must not reach over its piece.
    if (patched != Patched::no && i % 2 == 0)
      weights.back()->patch(patched == Patched::rows, t);
    pieces.push_back(weights.back()->weight);
    rows += heights[i];
  }
  const QuantizedStack stack{pieces.data(), int(pieces.size())};
  const int64_t n = transpose ? rows : width, k = transpose ? width : rows;
  const std::string what = quantized_label(named, kind, t, rows, width, patched) +
                           (transpose ? " W^T" : " W") + " of " + std::to_string(m);
  const Host a = random(m, k, t), old = random(m, n, out);
  Device da(b, t, a, 5), dense(b, t, rows, width), got(b, out, m, n, 7),
      want(b, out, m, n, 7);
  if (beta != 0) got.write(old), want.write(old);
  b.matmul_quantized(got, da, stack, transpose, beta);
  b.dequantize(dense, stack);
  b.matmul(want, da, false, dense, transpose, beta);
  const Host x = got.read(what), y = want.read(what);
  const bool library = named.name.find("oneDNN") != std::string::npos ||
                       named.name.find("cublasLt") != std::string::npos;
  if (!library) return expect_equal(x, y, what);
  expect_near(x, y, out, 1e-4 * std::sqrt(double(k)), what);
}

TEST(products_of_quantized_weights) {
  struct Case {
    int64_t m;
    std::vector<int64_t> heights;
    int64_t width;
  };
  // One row and few (decoding), odd ends everywhere, q|k|v, and more than one block of
  // every direction.
  const std::vector<Case> cases = {
      {1, {1}, 1},          {1, {37}, 129},   {5, {64, 33, 31}, 192}, {3, {2}, 4000},
      {17, {5, 3, 4}, 70},  {67, {131}, 65},  {130, {192, 64}, 320},  {40, {50}, 3333},
      {35, {3100, 7}, 100}, {1030, {70}, 130}};
  constexpr Patched patches[] = {Patched::no, Patched::rows, Patched::cols};
  constexpr DType types[][2] = {
      {DType::f32, DType::f32}, {DType::bf16, DType::bf16}, {DType::bf16, DType::f32}};
  for (const NamedBackend& b : backends_under_test()) {
    for (Quantization kind : quantizations()) {
      for (size_t i = 0; i < cases.size(); ++i) {
        for (int patched = 0; patched < 3; ++patched) {
          // Every pair of patch and type comes up over the cases.
          const auto& [in, out] = types[(size_t(patched) + i) % 3];
          const Case& c = cases[i];
          check_quantized_product(b, kind, in, out, c.m, c.heights, c.width, true,
                                  float(i % 2), patches[patched]);
          check_quantized_product(b, kind, in, out, c.m, c.heights, c.width, false,
                                  float(1 - i % 2), patches[patched]);
        }
      }
    }
  }
}

TEST(products_of_nothing_by_quantized_weights) {
  for (const NamedBackend& named : backends_under_test()) {
    Backend& b = *named.backend;
    const QuantizedDevice w(b, Quantization::nf4, random(3, 70, DType::f32));
    Device none(b, DType::f32, 0, 70), empty(b, DType::f32, 0, 3);
    b.matmul_quantized(empty, none, {&w.weight, 1}, true, 0);
    empty.read(named.name);
  }
}

TEST(gathering_columns) {
  for_each_case(
      "gather_cols", odd_shapes(),
      [](Backend& b, DType t, const Shape& s, int64_t gap, const std::string& what) {
        const Host x = random(s.rows, s.cols, t);
        const std::vector<int32_t> order = random_order(s.cols);
        const int64_t n = (s.cols + 1) / 2;
        Device dx(b, t, x, gap), dy(b, t, s.rows, n, gap);
        b.gather_cols(dy, dx, order.data());
        Host want(s.rows, n);
        for (int64_t i = 0; i < s.rows; ++i)
          for (int64_t j = 0; j < n; ++j) want(i, j) = x(i, order[size_t(j)]);
        expect_equal(dy.read(what), want, what);
      });
}

}  // namespace s2ft::test
