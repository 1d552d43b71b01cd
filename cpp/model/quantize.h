// Encodes weights in 8 or 4 bits while they are loaded, some rows at a time.
#pragma once

#include <array>
#include <functional>
#include <string>

#include "backend/backend.h"
#include "core/arena.h"

namespace s2ft {

/// What an nf4 scale's 8-bit code stands for, ascending: a sign, an exponent of ten and
/// what bits are left as a linear fraction (the dynamic type of bitsandbytes, which QLoRA
/// quantizes its scales with).
using ScaleLevels = std::array<float, 256>;
const ScaleLevels& scale_levels();

/// Takes memory for a rows x cols weight; `scale_levels` and `offset` are left to others.
QuantizedMat place_quantized(Arena& arena, Quantization kind, int64_t rows, int64_t cols);

/// Writes rows [begin, begin + n) of the weight to `to`, contiguous.
using RowReader = std::function<void(float* to, int64_t begin, int64_t n)>;

/// Fills `weight`. int8: a block's scale is its largest magnitude / 127, its codes round
/// to nearest. nf4 (QLoRA, sections 3 and appendix E): codes of the nearest level of
/// x / largest magnitude; the magnitudes less their mean are coded in 8 bits, a scale for
/// every 256 of them. Throws UNSUPPORTED_MODEL naming the tensor for a value that is not
/// finite.
void quantize(Backend& backend, QuantizedMat& weight, const std::string& name,
              const RowReader& read);

}  // namespace s2ft
