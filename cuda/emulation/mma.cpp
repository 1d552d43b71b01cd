// The warp operations of mma.h. Compiled apart from the kernels, so that watched builds
// see what an instruction touches and not how it is emulated.
#include "cuda/emulation/mma.h"

#include <cstring>

#include "cuda/emulation/block.h"
#include "cuda/emulation/pending.h"
#include "cuda/emulation/watch.h"

namespace s2ft::cuda {

namespace emulation {

namespace {

void check_aligned(const void* at, const char* what) {
  if (reinterpret_cast<uintptr_t>(at) % 16) {
    violation("%s at %p, which is no multiple of 16", what, at);
  }
}

struct Matrices {
  unsigned char row[16];
  uint32_t* result;
  bool transposed;
};

void resolve_matrices(void* const arguments[kWarp], unsigned) {
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (!arguments[lane]) violation("ldmatrix without lane %u of its warp", lane);
  }
  auto element = [&](unsigned matrix, unsigned i, unsigned j) {
    uint16_t x;
    std::memcpy(&x, static_cast<Matrices*>(arguments[matrix * 8 + i])->row + 2 * j, 2);
    return uint32_t(x);
  };
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    const unsigned g = lane / 4, t = lane % 4;
    const auto* own = static_cast<const Matrices*>(arguments[lane]);
    for (unsigned m = 0; m < 4; ++m) {
      own->result[m] = own->transposed
                           ? element(m, 2 * t, g) | element(m, 2 * t + 1, g) << 16
                           : element(m, g, 2 * t) | element(m, g, 2 * t + 1) << 16;
    }
  }
}

void matrices(uint32_t (&r)[4], const void* row, bool transposed, const void* code) {
  check_aligned(row, "ldmatrix");
  watch_read(row, 16, code);
  Matrices own{{}, r, transposed};
  std::memcpy(own.row, row, 16);
  warp_meet(0xffffffffu, resolve_matrices, transposed ? "ldmatrix.trans" : "ldmatrix",
            &own);
}

struct Product {
  float* c;
  const uint32_t* a;
  uint32_t b0, b1;
};

float low_bf16(uint32_t pair) {
  const uint32_t bits = pair << 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
float high_bf16(uint32_t pair) {
  const uint32_t bits = pair & 0xffff0000u;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

/// Rounds towards zero, as the tensor cores' adders do.
float truncate(double x) {
  float y = float(x);
  if (std::fabs(double(y)) > std::fabs(x)) y = std::nextafterf(y, 0.0f);
  return y;
}

void resolve_product(void* const arguments[kWarp], unsigned) {
  float a[16][16], b[8][16];  // b by columns
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    const unsigned g = lane / 4, t = lane % 4;
    const auto* own = static_cast<const Product*>(arguments[lane]);
    if (!own) violation("mma.sync without lane %u of its warp", lane);
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned row = g + (i & 1) * 8, column = 2 * t + (i >> 1) * 8;
      a[row][column] = low_bf16(own->a[i]);
      a[row][column + 1] = high_bf16(own->a[i]);
    }
    b[g][2 * t] = low_bf16(own->b0);
    b[g][2 * t + 1] = high_bf16(own->b0);
    b[g][2 * t + 8] = low_bf16(own->b1);
    b[g][2 * t + 9] = high_bf16(own->b1);
  }
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    const unsigned g = lane / 4, t = lane % 4;
    float* c = static_cast<Product*>(arguments[lane])->c;
    for (unsigned i = 0; i < 4; ++i) {
      const float *x = a[g + (i >> 1) * 8], *y = b[2 * t + (i & 1)];
      // Products are exact, sums of eight are rounded.
      for (unsigned half = 0; half < 16; half += 8) {
        double sum = c[i];
        for (unsigned k = half; k < half + 8; ++k) sum += double(x[k]) * y[k];
        c[i] = truncate(sum);
      }
    }
  }
}

}  // namespace

}  // namespace emulation

using namespace emulation;

void copy_async(void* to, const void* from, bool valid) {
  const void* code = __builtin_return_address(0);
  check_aligned(to, "cp.async to");
  if (valid) check_aligned(from, "cp.async from");
  watch_write(to, 16, code);
  std::memset(to, 0xff, 16);
  PendingCopies& copies = pending_copies();
  copies.list.push_back({to, from, valid ? 16u : 0u, copies.group, code});
}

void copy_commit() {
  ++pending_copies().group;
}

void deliver_copies(int left) {
  PendingCopies& copies = pending_copies();
  size_t kept = 0;
  for (const PendingCopy& copy : copies.list) {
    if (copy.group >= copies.group - left) {
      copies.list[kept++] = copy;
      continue;
    }
    watch_write(copy.to, 16, copy.code);
    std::memset(copy.to, 0, 16);
    if (!copy.read) continue;
    watch_read(copy.from, copy.read, copy.code);
    std::memcpy(copy.to, copy.from, copy.read);
  }
  copies.list.resize(kept);
}

void load_matrices(uint32_t (&r)[4], const void* row) {
  matrices(r, row, false, __builtin_return_address(0));
}
void load_transposed(uint32_t (&r)[4], const void* row) {
  matrices(r, row, true, __builtin_return_address(0));
}
void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  Product own{c, a, b0, b1};
  warp_meet(0xffffffffu, resolve_product, "mma.sync", &own);
}

}  // namespace s2ft::cuda
