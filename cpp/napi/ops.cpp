// Inputs are copied when a call is made, so JavaScript may reuse its arrays at once;
// results are fresh arrays that take the native memory over.
#include "napi/ops.h"

#include "cpu/cpu_backend.h"
#include "napi/async.h"
#include "napi/convert.h"

namespace s2ft {

namespace {

struct HostMatrix {
  std::vector<float> values;
  int64_t rows = 0, cols = 0;
  Mat view() { return mat(values.data(), DType::f32, rows, cols); }
};

HostMatrix empty_matrix(int64_t rows, int64_t cols) {
  return {std::vector<float>(size_t(rows * cols)), rows, cols};
}

HostMatrix read_matrix(const Napi::Value& value, const char* what) {
  if (!value.IsObject())
    throw Error("INVALID_ARGUMENT",
                std::string("[ops] ") + what + ": expected { data, rows, cols }");
  const auto o = value.As<Napi::Object>();
  HostMatrix m;
  m.rows = get_int(o, "rows");
  m.cols = get_int(o, "cols");
  m.values = get_floats(get(o, "data"), what);
  const bool sane =
      m.rows >= 0 && m.cols >= 0 && m.rows <= (1 << 30) && m.cols <= (1 << 30);
  if (sane && size_t(m.rows) * size_t(m.cols) == m.values.size()) return m;
  throw Error("SHAPE_MISMATCH", std::string("[ops] ") + what + ": expected " +
                                    std::to_string(m.rows) + " x " +
                                    std::to_string(m.cols) + " values, found " +
                                    std::to_string(m.values.size()));
}

void expect_equal(const char* what, int64_t expected, int64_t found) {
  if (expected == found) return;
  throw Error("SHAPE_MISMATCH", std::string("[ops] ") + what + ": expected " +
                                    std::to_string(expected) + ", found " +
                                    std::to_string(found));
}

Napi::Object matrix_to_js(Napi::Env env, HostMatrix& m) {
  Napi::Object o = Napi::Object::New(env);
  o.Set("data", to_js(env, std::move(m.values)));
  o.Set("rows", double(m.rows));
  o.Set("cols", double(m.cols));
  return o;
}

/// Runs on the environment's own worker with the environment's own backend.
template <class Work, class Convert>
Napi::Value on_backend(Napi::Env env, Work work, Convert convert) {
  Instance& instance = Instance::of(env);
  return run_async(
      env, instance.io_worker(),
      [&instance, work]() mutable {
        if (!instance.backend) instance.backend = make_cpu_backend(CpuOptions());
        return work(*instance.backend);
      },
      convert);
}

}  // namespace

Napi::Value permute_js(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    HostMatrix m = read_matrix(info[0], "matrix");
    const std::vector<int32_t> order = get_ints(info[1], "order");
    const bool rows = info[2].ToString().Utf8Value() == "rows";
    const int64_t n = rows ? m.rows : m.cols;
    expect_equal("entries of order", n, int64_t(order.size()));
    std::vector<bool> seen(order.size(), false);
    for (int32_t i : order) {
      if (i >= 0 && i < n && !seen[size_t(i)]) {
        seen[size_t(i)] = true;
        continue;
      }
      throw Error("INVALID_ARGUMENT",
                  "[ops] order: expected a permutation of 0 to " + std::to_string(n - 1) +
                      ", found " + std::to_string(i) + (i >= 0 && i < n ? " twice" : ""));
    }
    return on_backend(
        info.Env(),
        [m, order, rows](Backend& backend) mutable {
          if (rows)
            backend.permute_rows(m.view(), order.data());
          else
            backend.permute_cols(m.view(), order.data());
          return std::move(m);
        },
        [](Napi::Env env, HostMatrix& m) -> Napi::Value { return matrix_to_js(env, m); });
  });
}

Napi::Value linear_forward_js(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&]() -> Napi::Value {
    HostMatrix x = read_matrix(info[0], "x"), w = read_matrix(info[1], "weight");
    expect_equal("columns of x", w.cols, x.cols);
    return on_backend(
        info.Env(),
        [x, w](Backend& backend) mutable {
          HostMatrix y = empty_matrix(x.rows, w.rows);
          backend.matmul(y.view(), x.view(), false, w.view(), true, 0);
          return y;
        },
        [](Napi::Env env, HostMatrix& y) -> Napi::Value { return matrix_to_js(env, y); });
  });
}

Napi::Value linear_backward_js(const Napi::CallbackInfo& info) {
  struct Result {
    HostMatrix dx, dw;
  };
  return guarded(info.Env(), [&]() -> Napi::Value {
    HostMatrix dy = read_matrix(info[0], "dy"), w = read_matrix(info[1], "weight"),
               x = read_matrix(info[2], "x");
    const auto slice = info[3].As<Napi::Object>();
    const std::string axis = get_string(slice, "axis");
    const bool rows = axis == "rows";
    if (!rows && axis != "cols")
      throw Error("INVALID_ARGUMENT",
                  "[ops] slice.axis: expected rows or cols, found " + axis);
    const int64_t begin = get_int(slice, "begin"), count = get_int(slice, "count");
    expect_equal("columns of dy", w.rows, dy.cols);
    expect_equal("rows of x", dy.rows, x.rows);
    expect_equal(rows ? "columns of x" : "columns of x (the slice's)",
                 rows ? w.cols : count, x.cols);
    const int64_t size = rows ? w.rows : w.cols;
    if (begin < 0 || count < 0 || begin + count > size)
      throw Error("INVALID_ARGUMENT", "[ops] slice: expected a range in [0, " +
                                          std::to_string(size) + "), found [" +
                                          std::to_string(begin) + ", " +
                                          std::to_string(begin + count) + ")");
    return on_backend(
        info.Env(),
        [dy, w, x, rows, begin, count](Backend& backend) mutable {
          Result r{empty_matrix(dy.rows, w.cols),
                   rows ? empty_matrix(count, w.cols) : empty_matrix(w.rows, count)};
          backend.matmul(r.dx.view(), dy.view(), false, w.view(), false, 0);
          const Mat seen = rows ? dy.view().col_range(begin, count) : dy.view();
          backend.matmul(r.dw.view(), seen, true, x.view(), false, 0);
          return r;
        },
        [](Napi::Env env, Result& r) -> Napi::Value {
          Napi::Object o = Napi::Object::New(env);
          o.Set("dx", matrix_to_js(env, r.dx));
          o.Set("dw", matrix_to_js(env, r.dw));
          return o;
        });
  });
}

Napi::Value adamw_js(const Napi::CallbackInfo& info) {
  struct State {
    std::vector<float> value, gradient, first, second;
  };
  return guarded(info.Env(), [&]() -> Napi::Value {
    const auto arrays = info[0].As<Napi::Object>();
    const auto options = info[1].As<Napi::Object>();
    State s{get_floats(get(arrays, "value"), "value"),
            get_floats(get(arrays, "gradient"), "gradient"),
            get_floats(get(arrays, "first"), "first"),
            get_floats(get(arrays, "second"), "second")};
    const int64_t n = int64_t(s.value.size());
    expect_equal("values of gradient", n, int64_t(s.gradient.size()));
    expect_equal("values of first", n, int64_t(s.first.size()));
    expect_equal("values of second", n, int64_t(s.second.size()));
    AdamW update;
    update.learning_rate = get_number(options, "learningRate");
    update.beta1 = get_number(options, "beta1");
    update.beta2 = get_number(options, "beta2");
    update.epsilon = get_number(options, "epsilon");
    update.weight_decay = get_number(options, "weightDecay");
    update.gradient_scale = 1;
    update.step = get_int(options, "step");
    if (update.step < 1)
      throw Error("INVALID_ARGUMENT",
                  "[ops] step: expected 1 or more, found " + std::to_string(update.step));
    return on_backend(
        info.Env(),
        [s, update, n](Backend& backend) mutable {
          auto row = [n](std::vector<float>& v) {
            return mat(v.data(), DType::f32, 1, n);
          };
          update.weight = row(s.value);
          update.gradient = row(s.gradient);
          update.first = row(s.first);
          update.second = row(s.second);
          if (n) backend.adamw(update);
          return std::move(s);
        },
        [](Napi::Env env, State& s) -> Napi::Value {
          Napi::Object o = Napi::Object::New(env);
          o.Set("value", to_js(env, std::move(s.value)));
          o.Set("first", to_js(env, std::move(s.first)));
          o.Set("second", to_js(env, std::move(s.second)));
          return o;
        });
  });
}

}  // namespace s2ft
