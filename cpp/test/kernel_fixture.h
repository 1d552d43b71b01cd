// What the kernel tests share: the tables this machine can run, seeded random matrices
// with guarded padding, scratch filled with garbage, threads set for a scope.
#pragma once

#include <omp.h>

#include <cstdlib>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cpu/cpu_info.h"

namespace s2ft::test {

struct NamedKernels {
  std::string name;
  const Kernels* table;
};

/// Every instruction set that was built and that this machine has.
inline std::vector<NamedKernels> runnable_kernels() {
  std::vector<NamedKernels> all;
  for (const std::string& name : supported_isas()) {
    all.push_back({name, &kernels_of(name)});
  }
  return all;
}

/// A new seed every run, printed; S2FT_TEST_SEED repeats one.
inline std::mt19937_64& random_source() {
  static std::mt19937_64 source = [] {
    const char* given = std::getenv("S2FT_TEST_SEED");
    uint64_t seed = given ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    std::printf("seed %llu (S2FT_TEST_SEED repeats it)\n", (unsigned long long)seed);
    return std::mt19937_64(seed);
  }();
  return source;
}
inline int random_int(int low, int high) {
  return std::uniform_int_distribution<int>(low, high)(random_source());
}

/// A matrix whose rows are `gap` elements apart; the gaps hold NaN and the memory ends
/// with the last element, so that stray reads and writes show.
class TestMat {
 public:
  TestMat(DType t, int64_t rows, int64_t cols, int64_t gap = 0)
      : dtype_(t), rows_(rows), cols_(cols), ld_(cols + gap) {
    const int64_t n = rows > 0 ? (rows - 1) * ld_ + cols : 0;
    memory_.resize(size_t(n) * dtype_size(t));
    for (int64_t i = 0; i < n; ++i) set_at(i, std::numeric_limits<float>::quiet_NaN());
  }
  Mat mat() {
    static char none;
    return {memory_.empty() ? &none : memory_.data(), dtype_, rows_, cols_, ld_};
  }
  float operator()(int64_t i, int64_t j) const { return at(i * ld_ + j); }
  void set(int64_t i, int64_t j, float x) { set_at(i * ld_ + j, x); }
  TestMat& randomize() {
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (int64_t i = 0; i < rows_; ++i) {
      for (int64_t j = 0; j < cols_; ++j) set(i, j, uniform(random_source()));
    }
    return *this;
  }
  /// The gaps between the rows still hold what the constructor wrote.
  bool gaps_intact() const {
    for (int64_t i = 0; i + 1 < rows_; ++i) {
      for (int64_t j = cols_; j < ld_; ++j) {
        if (!std::isnan(at(i * ld_ + j))) return false;
      }
    }
    return true;
  }
  const std::vector<char>& bytes() const { return memory_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }

 private:
  float at(int64_t k) const {
    const char* p = memory_.data() + k * int64_t(dtype_size(dtype_));
    if (dtype_ == DType::f32) {
      float x;
      std::memcpy(&x, p, 4);
      return x;
    }
    bf16 x;
    std::memcpy(&x, p, 2);
    return to_float(x);
  }
  void set_at(int64_t k, float x) {
    char* p = memory_.data() + k * int64_t(dtype_size(dtype_));
    if (dtype_ == DType::f32) {
      std::memcpy(p, &x, 4);
    } else {
      bf16 half = to_bf16(x);
      std::memcpy(p, &half, 2);
    }
  }

  DType dtype_;
  int64_t rows_, cols_, ld_;
  std::vector<char> memory_;
};

/// Scratch that all threads share, filled with NaN so that reads before writes show.
class SharedScratch {
 public:
  explicit SharedScratch(size_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    data_ = std::aligned_alloc(64, bytes ? bytes : 64);
    std::memset(data_, 0xff, bytes);
  }
  ~SharedScratch() { std::free(data_); }
  SharedScratch(const SharedScratch&) = delete;
  SharedScratch& operator=(const SharedScratch&) = delete;
  void* data() const { return data_; }

 private:
  void* data_;
};

/// The same with so many bytes for each thread.
class Scratch : public SharedScratch {
 public:
  explicit Scratch(size_t bytes_a_thread)
      : SharedScratch(bytes_a_thread * size_t(omp_get_max_threads())) {}
};

class Threads {
 public:
  explicit Threads(int n) : before_(omp_get_max_threads()) { omp_set_num_threads(n); }
  ~Threads() { omp_set_num_threads(before_); }

 private:
  int before_;
};

}  // namespace s2ft::test
