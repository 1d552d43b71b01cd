// Measures how fast this machine multiplies. A CPU flag does not tell: the bf16
// instruction doubles f32's rate on some processors and halves it on others.
#include "cpu/probe.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <ctime>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <tuple>

#include "core/threads.h"
#include "cpu/cpu_info.h"
#include "cpu/products.h"

namespace s2ft {
namespace {

constexpr int64_t kLoop = 200000;
constexpr int64_t kTokens = 512, kIn = 1024, kOut = 1024;
// Rounds go on until some in a row bring no better time: others may be using the machine.
constexpr int kMostRounds = 32, kQuietRounds = 6;
constexpr double kBetter = 1.01;

double wall_seconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

// One thread's own time leaves out what other processes took.
double thread_seconds() {
#ifdef CLOCK_THREAD_CPUTIME_ID
  timespec t;
  if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t) == 0) {
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
  }
#endif
  return wall_seconds();
}

/// The best rate of `work`, which returns how many operations it did, in GFLOP/s.
double best_rate(int threads, const std::function<double()>& work) {
  double (*const clock)() = threads == 1 ? thread_seconds : wall_seconds;
  double best = 0;
  for (int round = 0, quiet = 0; round < kMostRounds && quiet < kQuietRounds; ++round) {
    const double begin = clock();
    const double operations = work();
    const double rate = 1e-9 * operations / std::max(clock() - begin, 1e-9);
    quiet = rate > kBetter * best ? 0 : quiet + 1;
    best = std::max(best, rate);
  }
  return best;
}

double register_rate(const Kernels& kernels, bool dot, int threads) {
  return best_rate(threads, [&] {
    double operations = 0;
#pragma omp parallel reduction(+ : operations)
    operations += kernels.register_products(dot, kLoop);
    return operations;
  });
}

/// f(work), where `work` is one product by oneDNN and returns its operations.
double with_library(const Kernels& kernels,
                    const std::function<double(const std::function<double()>&)>& f) {
  const std::unique_ptr<OneDnn> library = OneDnn::create();
  ScratchPool pool;
  Products products(kernels, library.get(), pool);
  const size_t bytes = size_t(kTokens * kIn + kIn * kOut + kTokens * kOut) * sizeof(bf16);
  const ScratchPool::Lease memory = pool.take(bytes);
  // Zeros take as long as other numbers, and no subnormals can slip in.
  std::memset(memory.data(), 0, bytes);
  const Mat x = mat(memory.data(), DType::bf16, kTokens, kIn);
  const Mat w = mat(x.row_range(kTokens, 0).data, DType::bf16, kOut, kIn);
  const Mat y = mat(w.row_range(kOut, 0).data, DType::bf16, kTokens, kOut);
  return f([&] {
    products.matmul(y, x, false, w, true, 0);
    return 2.0 * kTokens * kIn * kOut;
  });
}

/// The mean rate of `work` over some time, by the clock on the wall.
double rate_over(double seconds, const std::function<double()>& work) {
  const double begin = wall_seconds();
  double operations = 0, now = begin;
  do {
    operations += work();
    now = wall_seconds();
  } while (now < begin + seconds);
  return 1e-9 * operations / (now - begin);
}

/// f in a thread of its own with `threads` OpenMP threads: the caller may be
/// JavaScript's, which OpenMP must not touch.
double on_worker(int threads, const std::function<double()>& f) {
  double result = 0;
  std::exception_ptr failure;
  std::thread([&] {
    try {
      enter_worker_thread(threads);
      result = f();
    } catch (...) {
      failure = std::current_exception();
    }
  }).join();
  if (failure) std::rethrow_exception(failure);
  return result;
}

}  // namespace

double peak_gflops(const std::string& isa, Unit unit, int threads) {
  static std::mutex mutex;
  static std::map<std::tuple<std::string, Unit, int>, double> known;
  std::lock_guard<std::mutex> lock(mutex);
  const auto key = std::make_tuple(isa, unit, threads);
  const auto at = known.find(key);
  if (at != known.end()) return at->second;
  const Kernels& kernels = kernels_of(isa);
  return known[key] = on_worker(threads, [&] {
           if (unit != Unit::library)
             return register_rate(kernels, unit == Unit::bf16_pairs, threads);
           return with_library(kernels, [&](const std::function<double()>& work) {
             return best_rate(threads, work);
           });
         });
}

double current_gflops(const std::string& isa, Unit unit, int threads, double seconds) {
  const Kernels& kernels = kernels_of(isa);
  return on_worker(threads, [&] {
    if (unit == Unit::library) {
      return with_library(kernels, [&](const std::function<double()>& work) {
        return rate_over(seconds, work);
      });
    }
    double total = 0;
#pragma omp parallel reduction(+ : total)
    total += rate_over(seconds, [&] {
      return kernels.register_products(unit == Unit::bf16_pairs, kLoop);
    });
    return total;
  });
}

}  // namespace s2ft
