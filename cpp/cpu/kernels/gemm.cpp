// The matrix product: every thread packs a panel of a few columns of b into its own
// scratch, where it stays in the second-level cache, and multiplies all rows of a with
// it. A quantized b becomes numbers just before it is packed, a tile at a time. a is read
// where it lies unless its type or order forbids that. Every element of c is summed in
// the order of the depth, whatever the number of threads.
#include <omp.h>

#include <type_traits>

#include "cpu/kernels/dequantize.h"
#include "cpu/kernels/gemm_tile.h"
#include "cpu/kernels/ops.h"
#include "cpu/kernels/tile_pack.h"

namespace s2ft::S2FT_ISA {

namespace {

// Limits of shared scratch: packed rows of a, and sums that wait for the next block.
constexpr int64_t kPackedRows = 1024, kWaitingSums = 1 << 20;
// Packing a panel takes about as long as this many strips of rows take with it.
constexpr int64_t kPackStrips = 1;
// Rows of a quantized b that are packed at a time where they lie along the depth.
constexpr int64_t kTileDepth = 64;

struct Product {
  Mat c, a, b;
  QuantizedStack quantized;  // b, when it has pieces
  bool transpose_a, transpose_b, add;
  int64_t depth;
};

/// How a product is cut; depends on the shapes and the thread count only.
struct Plan {
  bool pack_a, wait;            // a is packed; sums wait in scratch
  int64_t depth_units, depths;  // units of a block of the depth, number of blocks
  int64_t rows, cols;           // of a block of c
  int64_t tile_row;             // elements of a tile's row, of a quantized b
  size_t a_floats, wait_floats, panel_floats, tile_floats;
  // One thread's panel and, behind it, its tile.
  size_t thread_floats() const { return panel_floats + tile_floats; }
};

S2FT_INLINE int64_t even_share(int64_t n, int64_t most, int64_t multiple) {
  return ceil_div(ceil_div(n, ceil_div(n, most)), multiple) * multiple;
}

template <class T, bool kDot>
Plan make_plan(const Product& p) {
  constexpr int64_t kPanel = kGemmVectors * kLanes;
  Plan plan{};
  const int64_t all = units<kDot>(p.depth);
  plan.depth_units = depth_block(all);
  plan.depths = ceil_div(all, plan.depth_units);
  // Pairs lie in rows of whole, aligned units, and none reaches over the end of its row.
  const bool whole_pairs = !kDot || (p.depth % 2 == 0 && p.a.ld % 2 == 0 &&
                                     reinterpret_cast<uintptr_t>(p.a.data) % 4 == 0);
  plan.pack_a = p.transpose_a || !whole_pairs || (sizeof(T) == 2 && !kDot);
  plan.wait = plan.depths > 1 && p.c.dtype != DType::f32;
  plan.rows = p.c.rows;
  if ((plan.pack_a || plan.wait) && plan.rows > kPackedRows) {
    plan.rows = even_share(plan.rows, kPackedRows, kGemmRows);
  }
  plan.cols = p.c.cols;
  if (plan.wait) {
    const int64_t most = max_of(kWaitingSums / plan.rows / kPanel, 1) * kPanel;
    if (plan.cols > most) plan.cols = even_share(plan.cols, most, kPanel);
    plan.wait_floats = size_t(plan.rows) * ceil_div(plan.cols, kLanes) * kLanes;
  }
  if (plan.pack_a) {
    const int64_t width =
        p.transpose_a ? plan.depth_units : round_up_to_lanes(plan.depth_units);
    const int64_t rows = p.transpose_a ? round_up_to_lanes(plan.rows) : plan.rows;
    plan.a_floats = size_t(rows) * width;
  }
  plan.panel_floats = size_t(plan.depth_units) * kPanel;
  if (p.quantized.count) {
    plan.tile_row = p.transpose_b ? plan.depth_units * (kDot ? 2 : 1) : kPanel;
    const int64_t rows = p.transpose_b ? kLanes : kTileDepth;
    plan.tile_floats = size_t(round_up_to_lanes(rows * plan.tile_row));
  }
  return plan;
}

/// A block of c against a block of the depth, and how it is cut into tasks: panels of
/// columns times parts of the rows.
struct Block {
  int64_t i0, rows, j0, cols, k0, depth;  // k0 and depth in elements
  bool first, last;                       // of the blocks of the depth
  int64_t panels, vectors;
  int64_t whole, parts;  // the first panels are one task each, the others this many
  int64_t tasks() const { return whole + (panels - whole) * parts; }
};

/// Parts of the rows, so that the slowest thread is done soonest.
int64_t row_parts(int64_t strips, int64_t panels, int threads) {
  int64_t best = 1, least = INT64_MAX;
  for (int64_t parts = 1; parts <= min_of(strips, 4 * threads); ++parts) {
    const int64_t turns = ceil_div(panels * parts, threads);
    const int64_t cost = turns * (ceil_div(strips, parts) + kPackStrips);
    if (cost < least) best = parts, least = cost;
  }
  return best;
}

// Where every thread has several panels, the last ones are divided: a thread that was
// held up finds less left to do, and the others do not wait for the whole of a panel.
constexpr int64_t kLastParts = 4;

void divide_rows(Block& block, int threads) {
  const int64_t strips = ceil_div(block.rows, kGemmRows);
  block.whole = 0;
  block.parts = row_parts(strips, block.panels, threads);
  if (threads == 1 || block.parts > 1 || block.panels < 3 * threads) return;
  if (strips < 4 * kLastParts) return;
  block.whole = block.panels - threads;
  block.parts = kLastParts;
}

/// Rows of a, or parts of them, that one thread packs at a time.
constexpr int64_t kPackChunk = 64;

template <class T, bool kDot>
void pack_a_block(const Product& p, const Block& block, float* packed, int64_t row,
                  int64_t step) {
  const T* a = p.a.as<T>();
#pragma omp for schedule(static)
  for (int64_t i = 0; i < block.rows; i += kPackChunk) {
    const int64_t n = min_of(kPackChunk, block.rows - i), from = block.i0 + i;
    if (p.transpose_a) {
      pack_columns<T, kDot>(packed + i, step, a + block.k0 * p.a.ld + from, p.a.ld,
                            block.depth, n);
    } else {
      pack_rows<T, kDot>(packed + i * row, row, a + from * p.a.ld + block.k0, p.a.ld, n,
                         block.depth);
    }
  }
}

/// a as the tiles read it: unit (i, k) at data[i * row + k * step].
struct Left {
  const float* data;
  int64_t row, step;
};

/// Columns of one panel, from the block's first.
struct Panel {
  int64_t begin, cols;
  int vectors;
};

S2FT_INLINE Panel find_panel(const Block& block, int64_t number) {
  const int64_t v0 = block.vectors * number / block.panels;
  const int64_t v1 = block.vectors * (number + 1) / block.panels;
  return {v0 * kLanes, min_of(v1 * kLanes, block.cols) - v0 * kLanes, int(v1 - v0)};
}

/// The part of b that the thread's next panel will be packed from: waiting for it then
/// would take longer than packing it.
template <class T>
Ahead ahead_of(const Product& p, const Block& block, int64_t number) {
  if (number >= block.panels || p.quantized.count) return {};
  const Panel next = find_panel(block, number);
  const int64_t stride = p.b.ld * int64_t(sizeof(T)), column = block.j0 + next.begin;
  const auto at = [&](int64_t i, int64_t j) {
    return reinterpret_cast<const char*>(p.b.as<T>() + i * p.b.ld + j);
  };
  if (p.transpose_b) {
    // The processor itself foresees the long pieces that a divided depth leaves.
    if (block.depth < p.depth) return {};
    // Rows of a weight lie one behind the other.
    return {at(column, block.k0), 2 * kLine, kLine,
            ceil_div(next.cols * stride, 2 * kLine)};
  }
  return {at(block.k0, column), stride, next.cols * int64_t(sizeof(T)) - 1, block.depth};
}

template <class T, bool kDot>
void pack_quantized(const Product& p, const Plan& plan, const Block& block,
                    int64_t column, int64_t cols, int64_t width, float* panel) {
  T* tile = reinterpret_cast<T*>(panel + plan.panel_floats);
  const int64_t ld = plan.tile_row;
  if (p.transpose_b) {
    for (int64_t j = 0; j < cols; j += kLanes) {
      const int64_t n = min_of(kLanes, cols - j);
      dequantize_tile(tile, ld, p.quantized, column + j, n, block.k0, block.depth);
      pack_transposed<T, kDot>(panel + j, width, tile, ld, n, block.depth);
    }
    return;
  }
  for (int64_t k = 0; k < block.depth; k += kTileDepth) {
    const int64_t n = min_of(kTileDepth, block.depth - k);
    dequantize_tile(tile, ld, p.quantized, block.k0 + k, n, column, cols);
    pack_columns<T, kDot>(panel + units<kDot>(k) * width, width, tile, ld, n, cols);
  }
}

template <class T, bool kDot>
void run_task(const Product& p, const Plan& plan, const Block& block, const Left& left,
              int64_t task, float* panel, float* waiting) {
  const int64_t behind = task - block.whole;
  const int64_t parts = behind < 0 ? 1 : block.parts;
  const int64_t number = behind < 0 ? task : block.whole + behind / parts;
  const int64_t part = behind < 0 ? 0 : behind % parts;
  const auto [j, cols, vectors] = find_panel(block, number);
  const int64_t width = vectors * kLanes, column = block.j0 + j;
  const T* b = p.b.as<T>();
  if (p.quantized.count) {
    pack_quantized<T, kDot>(p, plan, block, column, cols, width, panel);
  } else if (p.transpose_b) {
    pack_transposed<T, kDot>(panel, width, b + column * p.b.ld + block.k0, p.b.ld, cols,
                             block.depth);
  } else {
    pack_columns<T, kDot>(panel, width, b + block.k0 * p.b.ld + column, p.b.ld,
                          block.depth, cols);
  }
  const int64_t strips = ceil_div(block.rows, kGemmRows);
  const int64_t i = strips * part / parts * kGemmRows;
  const int64_t rows = min_of(strips * (part + 1) / parts * kGemmRows, block.rows) - i;
  const int64_t ld = round_up_to_lanes(plan.cols);
  float* sums = waiting + i * ld + j;
  const Ahead ahead = ahead_of<T>(p, block, number + omp_get_num_threads());
  const int last = int(cols - (vectors - 1) * kLanes), panel_vectors = vectors;
  const auto run = [&](auto* c, int64_t ldc, const float* before, bool add) {
    using Out = std::remove_pointer_t<decltype(c)>;
    gemm_panel<kDot>(rows, panel_vectors, TileTarget<Out>{c, ldc, before, ld, add, last},
                     left.data + i * left.row, left.row, left.step, panel,
                     units<kDot>(block.depth), ahead);
  };
  if (p.c.dtype == DType::f32) {
    run(p.c.as<float>() + (block.i0 + i) * p.c.ld + column, p.c.ld, nullptr,
        p.add || !block.first);
  } else if (!block.last) {
    run(sums, ld, nullptr, !block.first);
  } else {
    run(p.c.as<bf16>() + (block.i0 + i) * p.c.ld + column, p.c.ld,
        block.first ? nullptr : sums, p.add);
  }
}

/// One thread's share; all threads of the team call it together.
template <class T, bool kDot>
void work(const Product& p, const Plan& plan, float* packed, float* waiting,
          float* panel) {
  const int threads = omp_get_num_threads();
  const int64_t depth = kDot ? 2 * plan.depth_units : plan.depth_units;
  const int64_t row = round_up_to_lanes(plan.depth_units);
  const int64_t step = round_up_to_lanes(plan.rows);
  for (int64_t i0 = 0; i0 < p.c.rows; i0 += plan.rows) {
    for (int64_t j0 = 0; j0 < p.c.cols; j0 += plan.cols) {
      for (int64_t k0 = 0; k0 < p.depth; k0 += depth) {
        Block block{};
        block.i0 = i0, block.rows = min_of(plan.rows, p.c.rows - i0);
        block.j0 = j0, block.cols = min_of(plan.cols, p.c.cols - j0);
        block.k0 = k0, block.depth = min_of(depth, p.depth - k0);
        block.first = k0 == 0;
        block.last = k0 + depth >= p.depth;
        block.vectors = ceil_div(block.cols, kLanes);
        block.panels = ceil_div(block.vectors, kGemmVectors);
        divide_rows(block, threads);
        Left left;
        if (plan.pack_a) {
          pack_a_block<T, kDot>(p, block, packed, row, step);
          left = p.transpose_a ? Left{packed, 1, step} : Left{packed, row, 1};
        } else {
          left.data = reinterpret_cast<const float*>(p.a.as<T>() + i0 * p.a.ld + k0);
          left.row = p.a.ld / (kDot ? 2 : 1);
          left.step = 1;
        }
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < block.tasks(); ++task) {
          run_task<T, kDot>(p, plan, block, left, task, panel, waiting);
        }
      }
    }
  }
}

template <class T, bool kDot>
void product(const Product& p, float* scratch) {
  const Plan plan = make_plan<T, kDot>(p);
  float* packed = scratch;
  float* waiting = packed + round_up_to_lanes(int64_t(plan.a_floats));
  float* panels = waiting + round_up_to_lanes(int64_t(plan.wait_floats));
#pragma omp parallel
  work<T, kDot>(p, plan, packed, waiting,
                panels + size_t(omp_get_thread_num()) * plan.thread_floats());
}

template <class T, bool kDot>
size_t scratch_bytes(const Product& p) {
  const Plan plan = make_plan<T, kDot>(p);
  return sizeof(float) * (size_t(round_up_to_lanes(int64_t(plan.a_floats))) +
                          size_t(round_up_to_lanes(int64_t(plan.wait_floats))) +
                          size_t(omp_get_max_threads()) * plan.thread_floats());
}

/// What remains of a product over nothing: c = 0, or c as it was.
void empty_product(const Product& p) {
  if (p.add) return;
  for (int64_t i = 0; i < p.c.rows; ++i) {
    char* row = static_cast<char*>(p.c.data) + i * p.c.ld * dtype_size(p.c.dtype);
    std::memset(row, 0, p.c.cols * dtype_size(p.c.dtype));
  }
}

bool empty(const Product& p) {
  return p.c.rows == 0 || p.c.cols == 0 || p.depth == 0;
}

size_t scratch_of(const Product& p) {
  if (empty(p)) return 0;
  return p.a.dtype == DType::f32 ? scratch_bytes<float, false>(p)
                                 : scratch_bytes<bf16, kDotBf16>(p);
}

void run(const Product& p, void* scratch) {
  if (p.c.rows == 0 || p.c.cols == 0) return;
  if (p.depth == 0) return empty_product(p);
  float* at = static_cast<float*>(scratch);
  if (p.a.dtype == DType::f32) return product<float, false>(p, at);
  product<bf16, kDotBf16>(p, at);
}

Product product_of(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b, float beta) {
  return {c,           a,           b,         {},
          transpose_a, transpose_b, beta != 0, transpose_a ? a.rows : a.cols};
}

Product product_of(Mat c, Mat a, QuantizedStack b, bool transpose_b, float beta) {
  return {c, a, {}, b, false, transpose_b, beta != 0, a.cols};
}

}  // namespace

size_t gemm_scratch(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b) {
  if (is_few_rows(c, transpose_a, transpose_b)) return few_rows_scratch(a);
  return scratch_of(product_of(c, a, transpose_a, b, transpose_b, 0));
}

void gemm(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b, float beta,
          void* scratch) {
  const Product p = product_of(c, a, transpose_a, b, transpose_b, beta);
  if (!empty(p) && is_few_rows(c, transpose_a, transpose_b)) {
    return few_rows(c, a, b, p.add, scratch);
  }
  run(p, scratch);
}

size_t gemm_quantized_scratch(Mat c, Mat a, QuantizedStack b, bool transpose_b) {
  if (is_few_rows(c, false, transpose_b)) return few_rows_quantized_scratch(a);
  return scratch_of(product_of(c, a, b, transpose_b, 0));
}

void gemm_quantized(Mat c, Mat a, QuantizedStack b, bool transpose_b, float beta,
                    void* scratch) {
  const Product p = product_of(c, a, b, transpose_b, beta);
  if (!empty(p) && is_few_rows(c, false, transpose_b)) {
    return few_rows_quantized(c, a, b, p.add, scratch);
  }
  run(p, scratch);
}

}  // namespace s2ft::S2FT_ISA
