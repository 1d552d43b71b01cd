// Shared by the op conformance tests: matrices of doubles on the host, framed matrices in
// a backend's memory, comparison, and numerical gradients. Written against Backend alone,
// so that the same tests run on every device.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "core/rng.h"
#include "test/check.h"

namespace s2ft::test {

struct NamedBackend {
  std::string name;
  std::shared_ptr<Backend> backend;
};

/// Every backend of this executable's device; defined by the file that includes the
/// tests.
const std::vector<NamedBackend>& backends_under_test();

/// Fresh inputs each run; S2FT_TEST_SEED repeats one.
inline uint64_t test_seed() {
  static const uint64_t seed = [] {
    const char* given = std::getenv("S2FT_TEST_SEED");
    const uint64_t value =
        given ? std::strtoull(given, nullptr, 10) : uint64_t(std::random_device{}());
    std::printf("S2FT_TEST_SEED=%llu\n", static_cast<unsigned long long>(value));
    return value;
  }();
  return seed;
}

inline Rng& rng() {
  static Rng generator(test_seed());
  return generator;
}

inline double round_to(DType t, double x) {
  return t == DType::f32 ? double(float(x)) : double(to_float(to_bf16(float(x))));
}

/// rows x cols doubles on the host.
struct Host {
  int64_t rows = 0, cols = 0;
  std::vector<double> v;

  Host() = default;
  Host(int64_t r, int64_t c, double x = 0) : rows(r), cols(c), v(size_t(r * c), x) {}
  double& operator()(int64_t i, int64_t j) { return v[size_t(i * cols + j)]; }
  double operator()(int64_t i, int64_t j) const { return v[size_t(i * cols + j)]; }
};

/// Normal numbers already rounded to `t`, so that reference and backend start equal.
inline Host random(int64_t rows, int64_t cols, DType t, double scale = 1) {
  Host h(rows, cols);
  for (double& x : h.v) x = round_to(t, scale * rng().normal());
  return h;
}

inline std::vector<int32_t> random_order(int64_t n) {
  std::vector<int32_t> order(static_cast<size_t>(n));
  for (size_t i = 0; i < order.size(); ++i) order[i] = int32_t(i);
  rng().shuffle(order.data(), order.size());
  return order;
}

/// A matrix in backend memory inside a frame of NaN: rows before and after it, and
/// columns to its right when `gap` is given. What is not written to it stays NaN as well,
/// so that reading uninitialised or foreign elements shows in the results.
class Device {
 public:
  Device(Backend& backend, DType t, int64_t rows, int64_t cols, int64_t gap = 0)
      : backend_(backend), size_(dtype_size(t)), ld_(cols + gap) {
    bytes_.assign(size_t((rows + 2) * ld_ + 32) * size_, 0xff);
    buffer_ = backend.allocate(bytes_.size());
    backend.upload(buffer_.data(), bytes_.data(), bytes_.size());
    view_ = {static_cast<char*>(buffer_.data()) + offset(), t, rows, cols, ld_};
  }
  Device(Backend& backend, DType t, const Host& values, int64_t gap = 0)
      : Device(backend, t, values.rows, values.cols, gap) {
    write(values);
  }

  operator Mat() const { return view_; }
  const Mat& view() const { return view_; }

  void write(const Host& values) {
    for (int64_t i = 0; i < view_.rows; ++i) {
      for (int64_t j = 0; j < view_.cols; ++j) {
        const float x = float(values(i, j));
        const bf16 half = to_bf16(x);
        std::memcpy(at(i, j),
                    view_.dtype == DType::f32 ? static_cast<const void*>(&x) : &half,
                    size_);
      }
    }
    backend_.upload(buffer_.data(), bytes_.data(), bytes_.size());
  }

  /// Downloads the matrix; fails the test when anything around it was written.
  Host read(const std::string& what) {
    std::vector<unsigned char> before = bytes_;
    backend_.synchronize();
    backend_.download(bytes_.data(), buffer_.data(), bytes_.size());
    Host out(view_.rows, view_.cols);
    for (int64_t i = 0; i < view_.rows; ++i) {
      for (int64_t j = 0; j < view_.cols; ++j) {
        float x;
        bf16 half;
        std::memcpy(view_.dtype == DType::f32 ? static_cast<void*>(&x) : &half, at(i, j),
                    size_);
        out(i, j) = view_.dtype == DType::f32 ? x : to_float(half);
      }
      std::memcpy(&before[offset() + size_t(i * ld_) * size_], at(i, 0),
                  size_t(view_.cols) * size_);
    }
    if (before != bytes_) fail(__FILE__, __LINE__, what + ": wrote outside its output");
    return out;
  }

 private:
  size_t offset() const { return size_t(ld_) * size_; }
  unsigned char* at(int64_t i, int64_t j) {
    return &bytes_[offset() + size_t(i * ld_ + j) * size_];
  }

  Backend& backend_;
  size_t size_;
  int64_t ld_;
  std::vector<unsigned char> bytes_;
  Buffer buffer_;
  Mat view_;
};

/// Losses in backend memory.
class DeviceLosses {
 public:
  DeviceLosses(Backend& backend, int64_t n) : values_(backend, DType::f32, 1, n) {}
  operator Mat() const { return values_; }
  std::vector<float> read() {
    const Host host = values_.read("losses");
    return {host.v.begin(), host.v.end()};
  }

 private:
  Device values_;
};

inline double sum_of_squares(Backend& backend, const std::vector<Mat>& x) {
  const Buffer place = backend.allocate(sizeof(double));
  backend.sum_of_squares(static_cast<double*>(place.data()), x.data(), int(x.size()));
  double sum = 0;
  backend.download(&sum, place.data(), sizeof sum);
  return sum;
}

/// Rounding a result once to its storage type: half a unit in the last place, relative.
inline double storage_error(DType t) {
  return t == DType::f32 ? 0x1p-24 : 0x1p-8;
}

using Tolerance = std::function<double(int64_t i, int64_t j)>;

/// Fails once, with the worst element, when |got - want| exceeds the storage rounding of
/// `want` plus `arithmetic(i, j)`, the error allowed to the f32 arithmetic before it.
inline void expect_near(const Host& got, const Host& want, DType t,
                        const Tolerance& arithmetic, const std::string& what) {
  if (got.rows != want.rows || got.cols != want.cols) {
    fail(__FILE__, __LINE__, what + ": shapes differ");
    return;
  }
  int64_t bad = 0, worst_i = 0, worst_j = 0;
  double worst = 0;
  for (int64_t i = 0; i < want.rows; ++i) {
    for (int64_t j = 0; j < want.cols; ++j) {
      const double allowed =
          1.001 * storage_error(t) * std::fabs(want(i, j)) + arithmetic(i, j);
      const double error = std::fabs(got(i, j) - want(i, j));
      if (error <= allowed) continue;
      ++bad;
      const double excess = std::isnan(error) ? HUGE_VAL : error / (allowed + 1e-300);
      if (excess >= worst) worst = excess, worst_i = i, worst_j = j;
    }
  }
  if (!bad) return;
  std::ostringstream out;
  out.precision(9);
  out << what << ": " << bad << " of " << want.v.size() << " elements off, worst at ("
      << worst_i << ", " << worst_j << "): got " << got(worst_i, worst_j) << ", expected "
      << want(worst_i, worst_j) << " +- "
      << storage_error(t) * std::fabs(want(worst_i, worst_j)) +
             arithmetic(worst_i, worst_j);
  fail(__FILE__, __LINE__, out.str());
}

inline void expect_near(const Host& got, const Host& want, DType t, double arithmetic,
                        const std::string& what) {
  expect_near(
      got, want, t, [&](int64_t, int64_t) { return arithmetic; }, what);
}

inline void expect_equal(const Host& got, const Host& want, const std::string& what) {
  const bool same =
      got.rows == want.rows && got.cols == want.cols &&
      std::memcmp(got.v.data(), want.v.data(), got.v.size() * sizeof(double)) == 0;
  if (!same) fail(__FILE__, __LINE__, what + ": not bitwise equal");
}

/// Central differences of f at x, in double.
inline Host numerical_gradient(const std::function<double(const Host&)>& f, Host x) {
  constexpr double h = 1e-5;
  Host gradient(x.rows, x.cols);
  for (size_t i = 0; i < x.v.size(); ++i) {
    const double at = x.v[i];
    x.v[i] = at + h;
    const double up = f(x);
    x.v[i] = at - h;
    gradient.v[i] = (up - f(x)) / (2 * h);
    x.v[i] = at;
  }
  return gradient;
}

struct Shape {
  int64_t rows, cols;
};

/// Serial and parallel sizes, one, primes, and off every vector and tile length.
inline const std::vector<Shape>& odd_shapes() {
  static const std::vector<Shape> shapes = {{1, 1},     {1, 7},     {2, 64},
                                            {5, 17},    {3, 129},   {67, 33},
                                            {2, 10007}, {131, 257}, {1009, 31}};
  return shapes;
}

inline const std::vector<DType>& storage_types() {
  static const std::vector<DType> types = {DType::f32, DType::bf16};
  return types;
}

inline std::string label(const NamedBackend& b, const char* op, DType t, const Shape& s,
                         int64_t gap) {
  return b.name + " " + op + " " + dtype_name(t) + " " + std::to_string(s.rows) + "x" +
         std::to_string(s.cols) + (gap ? " strided" : "");
}

/// body(backend, type, shape, gap, label) over everything above, contiguous and strided.
template <class F>
void for_each_case(const char* op, const std::vector<Shape>& shapes, F&& body) {
  for (const NamedBackend& b : backends_under_test()) {
    for (DType t : storage_types()) {
      for (const Shape& s : shapes) {
        for (int64_t gap : {0, 5}) body(*b.backend, t, s, gap, label(b, op, t, s, gap));
      }
    }
  }
}

}  // namespace s2ft::test
