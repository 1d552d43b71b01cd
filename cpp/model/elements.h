// Elements of checkpoint files, one by one and in rows, between the three float types.
#pragma once

#include <cstring>

#include "core/dtype.h"

namespace s2ft {

/// Element i of file data of any of the three float types.
inline float read_element(const char* data, DType t, int64_t i) {
  if (t == DType::f32) {
    float f;
    std::memcpy(&f, data + 4 * i, 4);
    return f;
  }
  uint16_t bits;
  std::memcpy(&bits, data + 2 * i, 2);
  return t == DType::bf16 ? to_float(bf16{bits}) : half_to_float(bits);
}

inline void write_element(char* data, DType t, int64_t i, float f) {
  if (t == DType::f32) {
    std::memcpy(data + 4 * i, &f, 4);
    return;
  }
  const uint16_t bits = t == DType::bf16 ? to_bf16(f).bits : float_to_half(f);
  std::memcpy(data + 2 * i, &bits, 2);
}

inline void convert(char* to, DType to_type, const char* from, DType from_type,
                    int64_t n) {
  if (to_type == from_type) {
    std::memcpy(to, from, size_t(n) * dtype_size(to_type));
    return;
  }
#pragma omp parallel for schedule(static) if (n > 65536)
  for (int64_t i = 0; i < n; ++i)
    write_element(to, to_type, i, read_element(from, from_type, i));
}

}  // namespace s2ft
