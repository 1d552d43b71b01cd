// Measures how fast products run in each arithmetic. A CPU flag does not tell: the bf16
// instruction doubles f32's rate on some processors and halves it on others.
#include <chrono>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>

#include "core/threads.h"
#include "cpu/cpu_info.h"
#include "cpu/products.h"

namespace s2ft {
namespace {

constexpr int64_t kTokens = 256, kIn = 768, kOut = 768;
constexpr int kRuns = 4;

// Best of a few runs: the machine may be busy with others' work.
double gflops(Products& products, DType type, ScratchPool& pool) {
  const size_t size = dtype_size(type);
  const size_t x_bytes = size_t(kTokens * kIn) * size,
               w_bytes = size_t(kIn * kOut) * size;
  auto memory = pool.take(x_bytes + w_bytes + size_t(kTokens * kOut) * size);
  char* data = memory.as<char>();
  // Zeros are as slow as other numbers, and no subnormals can slip in.
  std::memset(data, 0, x_bytes + w_bytes);
  const Mat x = mat(data, type, kTokens, kIn), w = mat(data + x_bytes, type, kOut, kIn),
            y = mat(data + x_bytes + w_bytes, type, kTokens, kOut);
  products.matmul(y, x, false, w, true, 0);
  double best = 1e9;
  for (int i = 0; i < kRuns; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    products.matmul(y, x, false, w, true, 0);
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin;
    best = std::min(best, spent.count());
  }
  return 2e-9 * double(kTokens * kIn * kOut) / std::max(best, 1e-9);
}

ProductSpeed measure(const std::string& isa, bool portable, int threads) {
  enter_worker_thread(threads);
  const Kernels& kernels = kernels_of(isa);
  const std::unique_ptr<OneDnn> library = portable ? nullptr : OneDnn::create();
  ScratchPool pool;
  Products native(kernels, library.get(), pool, Arithmetic::native, threads);
  ProductSpeed speed;
  speed.f32 = gflops(native, DType::f32, pool);
  if (!library) {
    // The portable kernel has one way to multiply bf16.
    speed.widened = gflops(native, DType::bf16, pool);
    return speed;
  }
  Products widen(kernels, library.get(), pool, Arithmetic::widen, threads);
  speed.widened = gflops(widen, DType::bf16, pool);
  if (has_bf16_instructions()) {
    speed.native = gflops(native, DType::bf16, pool);
    const Mat x = mat(nullptr, DType::bf16, kTokens, kIn),
              w = mat(nullptr, DType::bf16, kOut, kIn),
              y = mat(nullptr, DType::bf16, kTokens, kOut);
    speed.native_implementation = library->implementation(y, x, false, w, true, 0);
  }
  return speed;
}

}  // namespace

ProductSpeed product_speed(const std::string& isa, bool portable, int threads) {
  static std::mutex mutex;
  static std::map<std::tuple<std::string, bool, int>, ProductSpeed> known;
  std::lock_guard<std::mutex> lock(mutex);
  const auto key = std::make_tuple(isa, portable, threads);
  const auto at = known.find(key);
  if (at != known.end()) return at->second;
  ProductSpeed speed;
  std::exception_ptr failure;
  // A thread of its own: the caller may be JavaScript's, which OpenMP must not touch.
  std::thread([&] {
    try {
      speed = measure(isa, portable, threads);
    } catch (...) {
      failure = std::current_exception();
    }
  }).join();
  if (failure) std::rethrow_exception(failure);
  return known[key] = speed;
}

}  // namespace s2ft
