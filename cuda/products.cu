#include <algorithm>

#include "core/error.h"
#include "cuda/ops.h"
#include "cuda/products.h"

namespace s2ft::cuda {

namespace {

constexpr size_t kWorkspaceBytes = size_t(32) << 20;
constexpr int64_t kPanelBytes = 32 << 20;
// Batches of many lengths bring many shapes; plans are cheap to make again.
constexpr size_t kMostPlans = 4096;

[[maybe_unused]] lt::Api load_api(const SharedLibrary& library) {
  lt::Api api{};
  bool whole = bool(library);
  const auto find = [&](auto& function, const char* name) {
    function = library.function<std::remove_reference_t<decltype(function)>>(name);
    whole = whole && function;
  };
  find(api.create, "cublasLtCreate");
  find(api.destroy, "cublasLtDestroy");
  find(api.version, "cublasLtGetVersion");
  find(api.descriptor_create, "cublasLtMatmulDescCreate");
  find(api.descriptor_destroy, "cublasLtMatmulDescDestroy");
  find(api.descriptor_set, "cublasLtMatmulDescSetAttribute");
  find(api.layout_create, "cublasLtMatrixLayoutCreate");
  find(api.layout_destroy, "cublasLtMatrixLayoutDestroy");
  find(api.preference_create, "cublasLtMatmulPreferenceCreate");
  find(api.preference_destroy, "cublasLtMatmulPreferenceDestroy");
  find(api.preference_set, "cublasLtMatmulPreferenceSetAttribute");
  find(api.heuristic, "cublasLtMatmulAlgoGetHeuristic");
  find(api.matmul, "cublasLtMatmul");
  return whole ? api : lt::Api{};
}

void require(lt::Status status, const char* where) {
  if (status == 0) return;
  throw Error("DEVICE_UNAVAILABLE", std::string("[cuda] ") + where +
                                        ": cuBLASLt answered status " +
                                        std::to_string(status));
}

int data_type(DType t) {
  return t == DType::bf16 ? lt::kBf16 : lt::kF32;
}

/// The largest power of two, at most 16, that divides where a matrix's rows begin.
int alignment(const Mat& m) {
  const uintptr_t bits = reinterpret_cast<uintptr_t>(m.data) |
                         uintptr_t(m.ld * int64_t(dtype_size(m.dtype))) | 16;
  return int(bits & (~bits + 1));
}

}  // namespace

const SharedLibrary& cublaslt_library() {
  static const SharedLibrary library =
      open_library("libcublasLt.so." + cuda_major(), "cublas");
  return library;
}

// The library's descriptions of one product and the algorithm for it.
struct Products::Plan {
  const lt::Api& api;
  lt::Descriptor descriptor = nullptr;
  lt::Layout a = nullptr, b = nullptr, c = nullptr;
  lt::Algorithm algorithm{};
  bool possible = false;

  explicit Plan(const lt::Api& functions) : api(functions) {}
  Plan(const Plan&) = delete;
  ~Plan() {
    if (descriptor) api.descriptor_destroy(descriptor);
    for (lt::Layout layout : {a, b, c})
      if (layout) api.layout_destroy(layout);
  }
};

Products::Products(Context& context) : context_(context) {
#ifndef S2FT_CUDA_EMULATION
  api_ = load_api(cublaslt_library());
#endif
  if (!api_.create) return;
  require(api_.create(&handle_), "cublasLtCreate");
}

Products::~Products() {
  plans_.clear();
  if (handle_) api_.destroy(handle_);
  context_.give_back(workspace_, kWorkspaceBytes);
}

std::string Products::name() const {
  return handle_ ? "cublasLt-" + std::to_string(api_.version()) : "tiled";
}

size_t Products::workspace_bytes() {
  return kWorkspaceBytes + size_t(kPanelBytes);
}

void Products::matmul(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b,
                      float beta) {
  if (c.rows == 0 || c.cols == 0) return;
  if ((transpose_a ? a.rows : a.cols) == 0) {
    if (beta == 0) zero(context_, c);
    return;
  }
  if (handle_ && by_library(c, a, transpose_a, b, transpose_b, beta)) return;
  gemm(context_, c, a, transpose_a, b, transpose_b, beta);
}

// The library counts columns first: row-major c = op(a) op(b) is its
// c^T = op(b)^T op(a)^T, and each operand, read that way, is transposed already.
const Products::Plan& Products::plan(const Key& key, Mat c, Mat a, bool transpose_a,
                                     Mat b, bool transpose_b) {
  const auto known = plans_.find(key);
  if (known != plans_.end()) return *known->second;
  if (plans_.size() >= kMostPlans) plans_.clear();
  auto made = std::make_unique<Plan>(api_);
  Plan& p = *made;
  require(api_.descriptor_create(&p.descriptor, lt::kCompute32F, lt::kF32),
          "cublasLtMatmulDescCreate");
  const int32_t first = transpose_b ? lt::kTransposed : lt::kPlain;
  const int32_t second = transpose_a ? lt::kTransposed : lt::kPlain;
  require(api_.descriptor_set(p.descriptor, lt::kTransposeA, &first, sizeof first),
          "cublasLtMatmulDescSetAttribute");
  require(api_.descriptor_set(p.descriptor, lt::kTransposeB, &second, sizeof second),
          "cublasLtMatmulDescSetAttribute");
  const auto layout = [&](lt::Layout& to, const Mat& m) {
    require(api_.layout_create(&to, data_type(m.dtype), uint64_t(m.cols),
                               uint64_t(m.rows), std::max(m.ld, m.cols)),
            "cublasLtMatrixLayoutCreate");
  };
  layout(p.a, b);
  layout(p.b, a);
  layout(p.c, c);
  lt::Preference preference = nullptr;
  require(api_.preference_create(&preference), "cublasLtMatmulPreferenceCreate");
  const uint32_t schemes = lt::kInComputeType;
  const uint32_t a_bytes = uint32_t(alignment(a)), b_bytes = uint32_t(alignment(b)),
                 c_bytes = uint32_t(alignment(c));
  const auto set = [&](int attribute, const auto& value) {
    return api_.preference_set(preference, attribute, &value, sizeof value);
  };
  lt::Heuristic best{};
  int found = 0;
  lt::Status status = set(lt::kWorkspaceBytes, kWorkspaceBytes);
  if (!status) status = set(lt::kReductionSchemes, schemes);
  if (!status) status = set(lt::kAlignmentA, b_bytes);
  if (!status) status = set(lt::kAlignmentB, a_bytes);
  if (!status) status = set(lt::kAlignmentC, c_bytes);
  if (!status) status = set(lt::kAlignmentD, c_bytes);
  if (!status)
    status = api_.heuristic(handle_, p.descriptor, p.a, p.b, p.c, p.c, preference, 1,
                            &best, &found);
  api_.preference_destroy(preference);
  // Some layouts have no algorithm; the kernel serves those.
  p.possible = status == 0 && found > 0 && best.state == 0;
  p.algorithm = best.algorithm;
  return *plans_.emplace(key, std::move(made)).first->second;
}

bool Products::by_library(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b,
                          float beta) {
  const int types =
      int(a.dtype) | int(c.dtype) << 4 | int(transpose_a) << 8 | int(transpose_b) << 9;
  const int alignments = alignment(a) | alignment(b) << 8 | alignment(c) << 16;
  const Key key{c.rows, c.cols,    transpose_a ? a.rows : a.cols, a.ld, b.ld, c.ld,
                types,  alignments};
  const Plan& p = plan(key, c, a, transpose_a, b, transpose_b);
  if (!p.possible) return false;
  if (!workspace_) workspace_ = context_.take(kWorkspaceBytes);
  if (!context_.repeats().proceed(Repeats::Tag::product, &p, c, a, transpose_a, b,
                                  transpose_b, beta, workspace_))
    return true;
  const float alpha = 1;
  require(api_.matmul(handle_, p.descriptor, &alpha, b.data, p.a, a.data, p.b, &beta,
                      c.data, p.c, c.data, p.c, &p.algorithm, workspace_, kWorkspaceBytes,
                      context_.stream()),
          "cublasLtMatmul");
  return true;
}

void Products::matmul_quantized(Mat c, Mat a, QuantizedStack b, bool transpose_b,
                                float beta) {
  if (c.rows == 0 || c.cols == 0) return;
  // Parts of c's columns, so that every sum is one product's.
  const int64_t depth = a.cols, size = int64_t(dtype_size(a.dtype));
  const int64_t most =
      std::max<int64_t>(kPanelBytes / (depth * size) / kQuantBlock, 1) * kQuantBlock;
  for (int64_t j = 0; j < c.cols; j += most) {
    const int64_t n = std::min(most, c.cols - j);
    // Rows of whole vectors; a narrow last panel keeps its alignment too.
    void* data = context_.scratch(size_t(std::min(most, c.cols) * depth * size));
    const Mat part =
        transpose_b ? mat(data, a.dtype, n, depth) : mat(data, a.dtype, depth, n);
    dequantize(context_, part, b, transpose_b ? j : 0, transpose_b ? 0 : j);
    matmul(c.col_range(j, n), a, false, part, transpose_b, beta);
  }
}

}  // namespace s2ft::cuda
