// Adapters beside a linear layer. A task is a few rows of one group; the adapter's values
// are read where they lie, one matrix row behind the other, once a task. What a row
// becomes depends on no other row, and its sums on no thread. Many adapters fit no cache,
// and their matrices are too short for the processor to foresee: while some rows are at
// work, those that come next are asked for.
#include "cpu/kernels/loops.h"
#include "cpu/kernels/ops.h"
#include "cpu/kernels/tile_pack.h"

namespace s2ft::S2FT_ISA {

namespace {

// Rows of a task, whose sums stay in the first-level cache.
constexpr int64_t kTaskRows = 4;
// Rows of an adapter's matrix that share a pass over an activation.
constexpr int kDots = 8, kAdded = 8;

/// Memory that is needed next, a number because it may lie behind the end of anything.
using Ahead = uintptr_t;

template <class T>
S2FT_INLINE Ahead ahead_at(const T* p) {
  return reinterpret_cast<Ahead>(p);
}
template <int64_t kBytes>
S2FT_INLINE void ask(Ahead at) {
#pragma GCC unroll 8
  for (int64_t i = 0; i < kBytes; i += 64) {
    __builtin_prefetch(reinterpret_cast<const void*>(at + Ahead(i)));
  }
}

/// kLanes units from p on, which all exist.
template <class T, bool kDot>
S2FT_INLINE vf whole_units(const T* p) {
  if constexpr (kDot) {
    return load_all_units<T, kDot>(p, 0);
  } else {
    return take(p, AllLanes{});
  }
}

/// values[j] = x . a[j] for kCount rows of a; asks for as many bytes from `ahead` on.
template <class T, bool kDot, int kCount>
S2FT_INLINE void dots(float* values, const T* x, const T* a, int64_t lda, int64_t n,
                      Ahead ahead) {
  constexpr int64_t kElements = kDot ? 2 : 1;  // of a unit
  constexpr int64_t kStep = kLanes * kCount * kElements * int64_t(sizeof(T));
  vf sums[kCount];
#pragma GCC unroll 8
  for (int j = 0; j < kCount; ++j) sums[j] = vf{};
  const int64_t whole = (kDot ? n / 2 : n) / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    ask<kStep>(ahead);
    ahead += Ahead(kStep);
    const vf left = whole_units<T, kDot>(x + i * kElements);
#pragma GCC unroll 8
    for (int j = 0; j < kCount; ++j) {
      const vf right = whole_units<T, kDot>(a + j * lda + i * kElements);
      sums[j] = multiply_add<kDot>(left, right, sums[j]);
    }
  }
  if (whole < units<kDot>(n)) {
    const vf left = load_units<T, kDot>(x, whole, n);
#pragma GCC unroll 8
    for (int j = 0; j < kCount; ++j) {
      const vf right = load_units<T, kDot>(a + j * lda, whole, n);
      sums[j] = multiply_add<kDot>(left, right, sums[j]);
    }
  }
#pragma GCC unroll 8
  for (int j = 0; j < kCount; ++j) values[j] = sum(sums[j]);
}

/// total += values[0 .. kCount) times as many rows of b; total has whole vectors. Asks
/// for as many bytes from `ahead` on.
template <class T, int kCount>
S2FT_INLINE void add_rows(float* total, const float* values, const T* b, int64_t ldb,
                          int64_t n, Ahead ahead) {
  constexpr int64_t kStep = kLanes * kCount * int64_t(sizeof(T));
  vf factors[kCount];
#pragma GCC unroll 8
  for (int j = 0; j < kCount; ++j) factors[j] = splat(values[j]);
  lanes(0, n, [&](int64_t i, auto width) {
    ask<kStep>(ahead);
    ahead += Ahead(kStep);
    vf to = load(total + i);
#pragma GCC unroll 8
    for (int j = 0; j < kCount; ++j) {
      to = fma(factors[j], take(b + j * ldb + i, width), to);
    }
    store(total + i, to);
  });
}

/// One thread's scratch: of every row of a task its values and its sums.
struct Sums {
  float *values, *total;
  int64_t ld_values, ld_total;
};

/// f(count, j, ahead) over all k rows of a matrix, kMost at a time while there are as
/// many: count is a constant, ahead where the rows behind them lie, and at last `after`.
template <int kMost, class T, class F>
S2FT_INLINE void each_rows(const Mat& m, int64_t k, Ahead after, F&& f) {
  const auto behind = [&](int64_t j) {
    return j < k ? ahead_at(m.as<T>() + j * m.ld) : after;
  };
  int64_t j = 0;
  for (; j + kMost <= k; j += kMost) {
    f(std::integral_constant<int, kMost>{}, j, behind(j + kMost));
  }
  for (; j < k; ++j) f(std::integral_constant<int, 1>{}, j, behind(j + 1));
}

template <class T, bool kDot>
void multiply_in(const Sums& s, const Mat& x, int64_t begin, int64_t rows,
                 const AdapterRows& g, Ahead after) {
  const T* a = g.a.as<T>();
  each_rows<kDots, T>(g.a, g.k, after, [&](auto n, int64_t j, Ahead ahead) {
    for (int64_t r = 0; r < rows; ++r) {
      dots<T, kDot, decltype(n)::value>(s.values + r * s.ld_values + j,
                                        row<T>(x, begin + r), a + j * g.a.ld, g.a.ld,
                                        g.a.cols, ahead);
    }
  });
}

template <class T>
void multiply_out(const Sums& s, const Mat& y, int64_t begin, int64_t rows,
                  const AdapterRows& g, Ahead after) {
  for (int64_t r = 0; r < rows; ++r) {
    std::memset(s.total + r * s.ld_total, 0, size_t(s.ld_total) * sizeof(float));
  }
  const T* b = g.b.as<T>();
  each_rows<kAdded, T>(g.b, g.k, after, [&](auto n, int64_t j, Ahead ahead) {
    for (int64_t r = 0; r < rows; ++r) {
      add_rows<T, decltype(n)::value>(s.total + r * s.ld_total,
                                      s.values + r * s.ld_values + j, b + j * g.b.ld,
                                      g.b.ld, y.cols, ahead);
    }
  });
  for (int64_t r = 0; r < rows; ++r) {
    T* to = row<T>(y, begin + r);
    const float* total = s.total + r * s.ld_total;
    lanes(0, y.cols, [&](int64_t i, auto width) {
      give(to + i, take(to + i, width) + load(total + i), width);
    });
  }
}

template <class T, bool kDot>
void add_group(const Sums& s, const Mat& y, const Mat& x, int64_t begin, int64_t rows,
               const AdapterRows& g, Ahead after) {
  if (g.gather) {
    for (int64_t r = 0; r < rows; ++r) {
      const T* from = row<T>(x, begin + r);
      float* values = s.values + r * s.ld_values;
      for (int64_t j = 0; j < g.k; ++j) values[j] = get(from, g.gather[j]);
    }
  } else {
    multiply_in<T, kDot>(s, x, begin, rows, g, g.scatter ? after : ahead_at(g.b.as<T>()));
  }
  if (!g.scatter) return multiply_out<T>(s, y, begin, rows, g, after);
  for (int64_t r = 0; r < rows; ++r) {
    T* to = row<T>(y, begin + r);
    const float* values = s.values + r * s.ld_values;
    for (int64_t j = 0; j < g.k; ++j) {
      put(to, g.scatter[j], get(to, g.scatter[j]) + values[j]);
    }
  }
}

/// What a group's adapter reads first.
template <class T>
S2FT_INLINE Ahead first_values(const AdapterRows& g) {
  return ahead_at(g.gather ? g.b.as<T>() : g.a.as<T>());
}

/// `most`: the largest k of the groups.
template <class T, bool kDot>
void run(const Mat& y, const Mat& x, const AdapterRows* groups, int count, int64_t most,
         float* scratch) {
  int64_t tasks = 0, work = 0;
  for (int g = 0; g < count; ++g) {
    tasks += ceil_div(groups[g].count, kTaskRows);
    work += groups[g].count * groups[g].k * (x.cols + y.cols) / 2;
  }
#pragma omp parallel if (work > kSerialElements && tasks > 1)
  {
    Sums s{};
    s.ld_values = round_up_to_lanes(most);
    s.ld_total = round_up_to_lanes(y.cols);
    s.values = scratch + omp_get_thread_num() * kTaskRows * (s.ld_values + s.ld_total);
    s.total = s.values + kTaskRows * s.ld_values;
    int g = 0;
    int64_t base = 0;  // number of the group's first task
#pragma omp for schedule(dynamic)
    for (int64_t t = 0; t < tasks; ++t) {
      if (t < base) g = 0, base = 0;
      for (;;) {
        const int64_t here = ceil_div(groups[g].count, kTaskRows);
        if (t < base + here) break;
        base += here;
        ++g;
      }
      const int64_t first = (t - base) * kTaskRows;
      // The group that this thread will probably have next.
      const int64_t next = min_of(g + omp_get_num_threads(), count - 1);
      add_group<T, kDot>(s, y, x, groups[g].begin + first,
                         min_of(kTaskRows, groups[g].count - first), groups[g],
                         first_values<T>(groups[next]));
    }
  }
}

int64_t most_values(const AdapterRows* groups, int count) {
  int64_t most = 0;
  for (int g = 0; g < count; ++g) most = max_of(most, groups[g].k);
  return most;
}

}  // namespace

size_t add_adapters_scratch(Mat y, const AdapterRows* groups, int count) {
  const int64_t row =
      round_up_to_lanes(y.cols) + round_up_to_lanes(most_values(groups, count));
  return size_t(kTaskRows * row) * sizeof(float);
}

void add_adapters(Mat y, Mat x, const AdapterRows* groups, int count, void* scratch) {
  const int64_t most = most_values(groups, count);
  if (most == 0) return;
  float* at = static_cast<float*>(scratch);
  if (y.dtype == DType::f32) return run<float, false>(y, x, groups, count, most, at);
  run<bf16, kDotBf16>(y, x, groups, count, most, at);
}

}  // namespace s2ft::S2FT_ISA
