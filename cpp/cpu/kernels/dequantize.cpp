// A whole quantized weight as numbers: for libraries that multiply plain matrices only,
// and what the tests measure products against.
#include "cpu/kernels/dequantize.h"

#include "cpu/kernels/ops.h"

namespace s2ft::S2FT_ISA {

void dequantize(Mat y, QuantizedStack x, int64_t row, int64_t col) {
  with_type(y.dtype, [&](auto* type) {
    using T = S2FT_TYPE_OF(type);
    split(y.rows, y.count(), 1, [&](int64_t begin, int64_t end) {
      dequantize_tile(s2ft::S2FT_ISA::row<T>(y, begin), y.ld, x, row + begin, end - begin,
                      col, y.cols);
    });
  });
}

}  // namespace s2ft::S2FT_ISA
