#include "tune/singular.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/arena.h"

namespace s2ft {

namespace {

constexpr int64_t kMore = 8;
constexpr int kIterations = 8;

/// Orthonormal columns of x [k, n], by Gram-Schmidt, twice. Columns that vanish become
/// zero.
void orthonormalise(std::vector<float>& x, int64_t k, int64_t n) {
  std::vector<double> columns(static_cast<size_t>(k * n));
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < n; ++j) columns[size_t(j * k + i)] = x[size_t(i * n + j)];
  auto dot = [&](const double* a, const double* b) {
    return std::inner_product(a, a + k, b, 0.0);
  };
  for (int64_t j = 0; j < n; ++j) {
    double* c = &columns[size_t(j * k)];
    const double before = std::sqrt(dot(c, c));
    for (int pass = 0; pass < 2; ++pass) {
      for (int64_t p = 0; p < j; ++p) {
        const double* other = &columns[size_t(p * k)];
        const double overlap = dot(c, other);
        for (int64_t i = 0; i < k; ++i) c[i] -= overlap * other[i];
      }
    }
    const double length = std::sqrt(dot(c, c));
    const double factor = length > 1e-12 * before ? 1 / length : 0;
    for (int64_t i = 0; i < k; ++i) c[i] *= factor;
  }
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < n; ++j)
      x[size_t(i * n + j)] = float(columns[size_t(j * k + i)]);
}

/// Eigenvectors of the symmetric a [n, n] as columns, largest eigenvalue first, by cyclic
/// Jacobi rotations.
std::vector<double> eigenvectors(std::vector<double> a, int64_t n) {
  auto at = [n](std::vector<double>& m, int64_t i, int64_t j) -> double& {
    return m[size_t(i * n + j)];
  };
  std::vector<double> v(size_t(n * n), 0.0);
  for (int64_t i = 0; i < n; ++i) at(v, i, i) = 1;
  for (int sweep = 0; sweep < 30; ++sweep) {
    double off = 0, all = 0;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) {
        all += at(a, i, j) * at(a, i, j);
        if (i != j) off += at(a, i, j) * at(a, i, j);
      }
    if (off <= 1e-28 * all) break;
    for (int64_t p = 0; p < n; ++p) {
      for (int64_t q = p + 1; q < n; ++q) {
        if (at(a, p, q) == 0) continue;
        const double theta = (at(a, q, q) - at(a, p, p)) / (2 * at(a, p, q));
        const double t =
            (theta >= 0 ? 1 : -1) / (std::fabs(theta) + std::sqrt(theta * theta + 1));
        const double c = 1 / std::sqrt(t * t + 1), s = t * c;
        for (int64_t i = 0; i < n; ++i) {
          const double ip = at(a, i, p), iq = at(a, i, q);
          at(a, i, p) = c * ip - s * iq, at(a, i, q) = s * ip + c * iq;
          const double vp = at(v, i, p), vq = at(v, i, q);
          at(v, i, p) = c * vp - s * vq, at(v, i, q) = s * vp + c * vq;
        }
        for (int64_t i = 0; i < n; ++i) {
          const double pi = at(a, p, i), qi = at(a, q, i);
          at(a, p, i) = c * pi - s * qi, at(a, q, i) = s * pi + c * qi;
        }
      }
    }
  }
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t i, int64_t j) { return at(a, i, i) > at(a, j, j); });
  std::vector<double> sorted(v.size());
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) at(sorted, i, j) = at(v, i, order[size_t(j)]);
  return sorted;
}

}  // namespace

std::vector<double> inverse_square_root(const std::vector<double>& a, int64_t n) {
  const std::vector<double> vectors = eigenvectors(a, n);
  std::vector<double> root(a.size(), 0.0), image(static_cast<size_t>(n));
  for (int64_t k = 0; k < n; ++k) {
    auto v = [&](int64_t i) { return vectors[size_t(i * n + k)]; };
    double value = 0;
    for (int64_t i = 0; i < n; ++i) {
      image[size_t(i)] = 0;
      for (int64_t j = 0; j < n; ++j) image[size_t(i)] += a[size_t(i * n + j)] * v(j);
      value += v(i) * image[size_t(i)];
    }
    const double factor = value > 0 ? 1 / std::sqrt(value) : 0;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) root[size_t(i * n + j)] += factor * v(i) * v(j);
  }
  return root;
}

void singular_vectors(Backend& backend, Mat vectors, Mat g, bool left, Rng rng) {
  const int64_t k = vectors.rows, r = vectors.cols, n = std::min(k, r + kMore);
  const int64_t other = left ? g.cols : g.rows;
  Mat space, image, gram;
  auto place = [&](Arena& arena) {
    space = arena.matrix(DType::f32, k, n);
    image = arena.matrix(DType::f32, other, n);
    gram = arena.matrix(DType::f32, n, n);
  };
  Arena count;
  place(count);
  const Buffer storage = backend.allocate(count.peak());
  Arena arena(storage.data());
  place(arena);

  std::vector<float> host(static_cast<size_t>(k * n));
  for (float& x : host) x = float(rng.normal());
  const size_t bytes = host.size() * sizeof(float);
  for (int i = 0;; ++i) {
    orthonormalise(host, k, n);
    backend.upload(space.data, host.data(), bytes);
    // image = g^T space (left) or g space
    backend.matmul(image, g, left, space, false, 0);
    if (i == kIterations) break;
    backend.matmul(space, g, !left, image, false, 0);
    backend.synchronize();
    backend.download(host.data(), space.data, bytes);
  }
  backend.matmul(gram, image, true, image, false, 0);
  backend.synchronize();
  std::vector<float> products(size_t(n * n));
  backend.download(products.data(), gram.data, products.size() * sizeof(float));
  const std::vector<double> turn =
      eigenvectors(std::vector<double>(products.begin(), products.end()), n);
  std::vector<float> result(static_cast<size_t>(k * r));
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < r; ++j) {
      double sum = 0;
      for (int64_t p = 0; p < n; ++p)
        sum += host[size_t(i * n + p)] * turn[size_t(p * n + j)];
      result[size_t(i * r + j)] = float(sum);
    }
  }
  for (int64_t j = 0; j < r; ++j) {
    float largest = 0;
    for (int64_t i = 0; i < k; ++i) {
      const float x = result[size_t(i * r + j)];
      if (std::fabs(x) > std::fabs(largest)) largest = x;
    }
    if (largest < 0)
      for (int64_t i = 0; i < k; ++i) result[size_t(i * r + j)] *= -1;
  }
  backend.upload(vectors.data, result.data(), result.size() * sizeof(float));
}

}  // namespace s2ft
