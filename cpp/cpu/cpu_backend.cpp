// The CPU backend: forwards every operation to the chosen kernels with its scratch. Owns
// the scratch pool and oneDNN's primitives.
#include "cpu/cpu_backend.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/cpu_info.h"
#include "cpu/linear_cross_entropy.h"
#include "cpu/products.h"
#include "cpu/rank_logits.h"

namespace s2ft {
namespace {

// Upper bounds of what products hold: shared scratch by the number of tokens, a panel
// and a tile for each thread, and oneDNN's compiled code.
constexpr int64_t kSharedRows = 1536;
constexpr size_t kSharedRowBytes = size_t(6) << 10, kPanelBytes = size_t(416) << 10,
                 kPrimitiveBytes = size_t(8) << 20;

constexpr int64_t kSerialProduct = 1 << 20;  // multiply-adds

// OpenMP regions of this scope use the backend's thread count, whoever calls.
class ThreadScope {
 public:
  explicit ThreadScope(int threads) : before_(omp_get_max_threads()) {
    if (before_ != threads) omp_set_num_threads(threads);
  }
  ~ThreadScope() {
    if (omp_get_max_threads() != before_) omp_set_num_threads(before_);
  }
  ThreadScope(const ThreadScope&) = delete;
  ThreadScope& operator=(const ThreadScope&) = delete;

 private:
  int before_;
};

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const CpuChoice& choice)
      : threads_(choice.threads),
        native_(choice.native),
        kernels_(kernels_of(choice.isa)),
        library_(choice.onednn ? OneDnn::create() : nullptr),
        products_(kernels_, choice.native ? library_.get() : nullptr, scratch_) {}

  const char* arithmetic() const override { return native_ ? "native" : "widen"; }
  int threads() const override { return threads_; }

  Buffer allocate(size_t bytes) override { return allocate_host(bytes); }
  bool host_memory() const override { return true; }
  void upload(void* to, const void* host, size_t bytes) override {
    if (bytes) std::memcpy(to, host, bytes);
  }
  void download(void* host, const void* from, size_t bytes) override {
    if (bytes) std::memcpy(host, from, bytes);
  }
  void synchronize() override {}
  size_t workspace_bytes(int64_t tokens, const AttentionShape& shape) const override;

  void zero(Mat y) override {
    const ThreadScope scope(threads_);
    kernels_.zero(y);
  }
  void copy(Mat y, Mat x) override {
    const ThreadScope scope(threads_);
    kernels_.copy(y, x);
  }
  void add(Mat y, Mat x) override {
    const ThreadScope scope(threads_);
    kernels_.add(y, x);
  }
  void scale(Mat y, float factor) override {
    const ThreadScope scope(threads_);
    kernels_.scale(y, factor);
  }
  void gather_rows(Mat y, Mat x, const int32_t* rows) override {
    const ThreadScope scope(threads_);
    kernels_.gather_rows(y, x, rows);
  }
  void gather_cols(Mat y, Mat x, const int32_t* cols) override {
    const ThreadScope scope(threads_);
    kernels_.gather_cols(y, x, cols);
  }
  void scatter_add_rows(Mat y, Mat x, const int32_t* rows) override {
    const ThreadScope scope(threads_);
    kernels_.scatter_add_rows(y, x, rows);
  }
  void scatter_rows(Mat y, Mat x, const int32_t* rows) override {
    const ThreadScope scope(threads_);
    kernels_.scatter_rows(y, x, rows);
  }
  void scatter_cols(Mat y, Mat x, const int32_t* cols) override {
    const ThreadScope scope(threads_);
    kernels_.scatter_cols(y, x, cols);
  }
  void add_cols(Mat y, Mat before, Mat x, const int32_t* cols) override {
    const ThreadScope scope(threads_);
    kernels_.replace_cols(y, {}, nullptr, before, x, cols);
  }
  void replace_cols(Mat y, Mat old, const int32_t* old_cols, Mat before, Mat x,
                    const int32_t* cols) override {
    const ThreadScope scope(threads_);
    kernels_.replace_cols(y, old, old_cols, before, x, cols);
  }
  void permute_rows(Mat x, const int32_t* order) override;
  void permute_cols(Mat x, const int32_t* order) override {
    const ThreadScope scope(threads_);
    auto scratch = per_thread(size_t(x.cols) * dtype_size(x.dtype));
    kernels_.permute_cols(x, order, scratch.data());
  }

  void matmul(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b,
              float beta) override {
    const ThreadScope scope(product_threads(c, transpose_a ? a.rows : a.cols));
    products_.matmul(c, a, transpose_a, b, transpose_b, beta);
  }
  void matmul_quantized(Mat c, Mat a, QuantizedStack b, bool transpose_b,
                        float beta) override {
    const ThreadScope scope(product_threads(c, a.cols));
    products_.matmul_quantized(c, a, b, transpose_b, beta);
  }
  void dequantize(Mat y, QuantizedStack x) override {
    const ThreadScope scope(threads_);
    kernels_.dequantize(y, x, 0, 0);
  }
  void add_adapters(Mat y, Mat x, const AdapterRows* groups, int count) override {
    const ThreadScope scope(threads_);
    auto scratch = per_thread(kernels_.add_adapters_scratch(y, groups, count));
    kernels_.add_adapters(y, x, groups, count, scratch.data());
  }
  void add_bias(Mat y, Mat bias) override {
    const ThreadScope scope(threads_);
    kernels_.add_bias(y, bias);
  }
  void sum_rows(Mat sum, Mat x) override {
    const ThreadScope scope(threads_);
    kernels_.sum_rows(sum, x);
  }

  void rms_norm(Mat y, Mat x, Mat w, float eps) override {
    const ThreadScope scope(threads_);
    kernels_.rms_norm(y, x, w, eps);
  }
  void rms_norm_backward(Mat dx, bool accumulate, Mat dw, Mat dy, Mat x, Mat w,
                         float eps) override {
    const ThreadScope scope(threads_);
    auto scratch = per_thread(size_t(w.cols) * sizeof(float));
    kernels_.rms_norm_backward(dx, accumulate, dw, dy, x, w, eps, scratch.as<float>());
  }
  void rope(Mat x, const int32_t* positions, Mat cos, Mat sin, int head_dim,
            bool inverse) override {
    const ThreadScope scope(threads_);
    kernels_.rope(x, positions, cos, sin, head_dim, inverse);
  }
  void swiglu(Mat h, Mat gate, Mat up) override {
    const ThreadScope scope(threads_);
    kernels_.swiglu(h, gate, up);
  }
  void swiglu_backward(Mat gate, Mat up, Mat dh) override {
    const ThreadScope scope(threads_);
    kernels_.swiglu_backward(gate, up, dh);
  }
  void attention(Mat o, Mat lse, Mat q, Mat k, Mat v, const Sequences& sequences,
                 const AttentionShape& shape) override {
    const ThreadScope scope(threads_);
    auto scratch = per_thread(kernels_.attention_scratch(shape));
    kernels_.attention(o, lse, q, k, v, sequences, shape, scratch.data());
  }
  void attention_backward(Mat dq, Mat dk, Mat dv, Mat d_o, Mat q, Mat k, Mat v, Mat o,
                          Mat lse, const Sequences& sequences,
                          const AttentionShape& shape) override {
    const ThreadScope scope(threads_);
    int longest = 0;
    for (int i = 0; i < sequences.count; ++i) {
      longest = std::max(longest, sequences.q[i + 1] - sequences.q[i]);
    }
    auto scratch = per_thread(kernels_.attention_backward_scratch(shape, longest));
    kernels_.attention_backward(dq, dk, dv, d_o, q, k, v, o, lse, sequences, shape,
                                scratch.data());
  }
  void cross_entropy(Mat nll, Mat dlogits, Mat logits, const int32_t* targets,
                     float gradient_scale) override {
    const ThreadScope scope(threads_);
    kernels_.cross_entropy(nll.as<float>(), dlogits, logits, targets, gradient_scale);
  }
  size_t linear_cross_entropy_scratch(int64_t rows, int64_t width,
                                      int64_t vocabulary) const override {
    return s2ft::linear_cross_entropy_scratch(rows, width, vocabulary);
  }
  void linear_cross_entropy(Mat nll, Mat dx, Mat x, Mat w, const int32_t* targets,
                            float gradient_scale, void* scratch) override {
    const ThreadScope scope(threads_);
    s2ft::linear_cross_entropy(products_, kernels_, nll.as<float>(), dx, x, w, targets,
                               gradient_scale, scratch);
  }
  void dropout(Mat y, Mat x, float p, uint64_t seed) override {
    const ThreadScope scope(threads_);
    kernels_.dropout(y, x, p, seed);
  }

  void scale_cols(Mat y, Mat x, Mat factors, bool accumulate) override {
    const ThreadScope scope(threads_);
    kernels_.scale_cols(y, x, factors, accumulate);
  }
  void dot_cols(Mat sum, Mat x, Mat y) override {
    const ThreadScope scope(threads_);
    kernels_.dot_cols(sum, x, y);
  }
  void dot_rows(Mat dot, Mat x, Mat y) override {
    const ThreadScope scope(threads_);
    kernels_.dot_rows(dot, x, y);
  }
  void inverse_sqrt(Mat y, Mat x) override {
    const ThreadScope scope(threads_);
    kernels_.inverse_sqrt(y, x);
  }
  void gather_elements(Mat y, Mat x, const int32_t* index) override {
    const ThreadScope scope(threads_);
    kernels_.gather_elements(y, x, index);
  }
  void scatter_elements(Mat y, Mat x, const int32_t* index) override {
    const ThreadScope scope(threads_);
    kernels_.scatter_elements(y, x, index);
  }

  void rank_logits(const Ranking& to, Mat logits, const LogitChange* changes,
                   int64_t count, const float* temperatures) override {
    const ThreadScope scope(threads_);
    s2ft::rank_logits(to, logits, changes, count, temperatures);
  }

  void adamw(const AdamW* updates, int count, Clipping clipping) override {
    const ThreadScope scope(threads_);
    float factor = 1;
    if (clipping.squares) {
      const double norm = std::sqrt(clipping.squares[0]);
      if (!std::isfinite(norm) || !std::isfinite(clipping.squares[1])) return;
      if (clipping.max_norm > 0)
        factor = float(std::min(1.0, clipping.max_norm / (norm + 1e-6)));
    }
    for (int i = 0; i < count; ++i) {
      AdamW update = updates[i];
      update.gradient_scale *= factor;
      kernels_.adamw(update);
    }
  }
  void sum_of_squares(double* sum, const Mat* x, int count) override {
    const ThreadScope scope(threads_);
    auto scratch = per_thread(sizeof(double));
    *sum = 0;
    for (int i = 0; i < count; ++i)
      *sum += kernels_.sum_of_squares(x[i], scratch.as<double>());
  }

 private:
  /// A product of some microseconds is over before a second thread has begun.
  int product_threads(const Mat& c, int64_t depth) const {
    return c.rows * c.cols * depth < kSerialProduct ? 1 : threads_;
  }

  ScratchPool::Lease per_thread(size_t bytes) {
    return scratch_.take(bytes * size_t(threads_));
  }

  int threads_;
  bool native_;
  const Kernels& kernels_;
  ScratchPool scratch_;
  std::unique_ptr<OneDnn> library_;
  Products products_;
};

// The scratch pool keeps at most its largest block and those leased beside it: a
// product's, or one attention's.
size_t CpuBackend::workspace_bytes(int64_t tokens, const AttentionShape& shape) const {
  const int longest = int(std::min<int64_t>(tokens, 1 << 30));
  const size_t attention = std::max(kernels_.attention_scratch(shape),
                                    kernels_.attention_backward_scratch(shape, longest));
  // A weight's gradient packs a block of its inputs, as deep as there are tokens; a deep
  // product lets as many rows of sums wait.
  const size_t shared = size_t(std::min<int64_t>(tokens, kSharedRows)) * kSharedRowBytes;
  return shared + (library_ ? kPrimitiveBytes : 0) + products_.workspace_bytes() +
         size_t(threads_) * (attention + kPanelBytes);
}

// Follows each cycle of the permutation with one row held aside: no second matrix.
void CpuBackend::permute_rows(Mat x, const int32_t* order) {
  const size_t bytes = size_t(x.cols) * dtype_size(x.dtype);
  std::vector<bool> placed(size_t(x.rows), false);
  auto held = scratch_.take(bytes);
  const auto row = [&](int64_t i) { return x.row_range(i, 1).data; };
  for (int64_t start = 0; start < x.rows; ++start) {
    if (placed[size_t(start)] || order[start] == start) continue;
    std::memcpy(held.data(), row(start), bytes);
    int64_t at = start;
    for (; order[at] != start; at = order[at]) {
      std::memcpy(row(at), row(order[at]), bytes);
      placed[size_t(at)] = true;
    }
    std::memcpy(row(at), held.data(), bytes);
    placed[size_t(at)] = true;
  }
}

}  // namespace

std::shared_ptr<Backend> make_cpu_backend(const CpuOptions& options) {
  return std::make_shared<CpuBackend>(resolve_cpu(options));
}

}  // namespace s2ft
