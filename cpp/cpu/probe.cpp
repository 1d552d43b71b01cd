// Measures how fast products run in each arithmetic. A CPU flag does not tell: the bf16
// instruction doubles f32's rate on some processors and halves it on others.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <ctime>
#include <deque>
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
// Rounds go on until some in a row bring no better time: others may be using the machine.
constexpr int kMostRounds = 16, kQuietRounds = 4;
constexpr double kBetter = 1.02;

double wall_seconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

double thread_seconds() {
#ifdef CLOCK_THREAD_CPUTIME_ID
  timespec t;
  if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0) {
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
  }
#endif
  return wall_seconds();
}

// One forward product of a linear layer, timed again and again.
class Contestant {
 public:
  Contestant(Products& products, DType type, ScratchPool& pool, double (*seconds)())
      : products_(products),
        seconds_(seconds),
        memory_(pool.take(size_t(kTokens * kIn + kIn * kOut + kTokens * kOut) *
                          dtype_size(type))) {
    // Zeros take as long as other numbers, and no subnormals can slip in.
    x_ = mat(memory_.data(), type, kTokens, kIn);
    w_ = mat(x_.row_range(kTokens, 0).data, type, kOut, kIn);
    y_ = mat(w_.row_range(kOut, 0).data, type, kTokens, kOut);
    std::memset(memory_.data(), 0, size_t(kTokens * kIn + kIn * kOut) * dtype_size(type));
    products_.matmul(y_, x_, false, w_, true, 0);
  }

  /// Runs once; returns whether it was clearly the fastest run so far.
  bool run() {
    const double begin = seconds_();
    products_.matmul(y_, x_, false, w_, true, 0);
    const double spent = seconds_() - begin;
    const double rate = 2e-9 * double(kTokens * kIn * kOut) / std::max(spent, 1e-9);
    const bool better = rate > kBetter * gflops_;
    gflops_ = std::max(gflops_, rate);
    return better;
  }
  double gflops() const { return gflops_; }
  const Mat& x() const { return x_; }
  const Mat& w() const { return w_; }
  const Mat& y() const { return y_; }

 private:
  Products& products_;
  double (*seconds_)();
  ScratchPool::Lease memory_;
  Mat x_, w_, y_;
  double gflops_ = 0;
};

ProductSpeed measure(const std::string& isa, bool portable, int threads) {
  enter_worker_thread(threads);
  const Kernels& kernels = kernels_of(isa);
  const std::unique_ptr<OneDnn> library = portable ? nullptr : OneDnn::create();
  ScratchPool pool;
  Products native(kernels, library.get(), pool, Arithmetic::native, threads);
  Products widen(kernels, library.get(), pool, Arithmetic::widen, threads);
  // One thread's own time leaves out what other processes took.
  double (*const clock)() = threads == 1 ? thread_seconds : wall_seconds;
  std::deque<Contestant> contestants;
  contestants.emplace_back(native, DType::f32, pool, clock);
  // Without a library both arithmetics are the portable kernel's one.
  contestants.emplace_back(widen, DType::bf16, pool, clock);
  if (library && has_bf16_instructions()) {
    contestants.emplace_back(native, DType::bf16, pool, clock);
  }
  for (int round = 0, quiet = 0; round < kMostRounds && quiet < kQuietRounds; ++round) {
    bool better = false;
    for (Contestant& contestant : contestants) better |= contestant.run();
    quiet = better ? 0 : quiet + 1;
  }
  ProductSpeed speed;
  speed.f32 = contestants[0].gflops();
  speed.widened = contestants[1].gflops();
  if (contestants.size() > 2) {
    const Contestant& c = contestants[2];
    speed.native = c.gflops();
    speed.native_implementation =
        library->implementation(c.y(), c.x(), false, c.w(), true, 0);
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
