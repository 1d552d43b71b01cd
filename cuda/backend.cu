// The CUDA backend: forwards every operation to its launcher, on one stream in order.
// Nothing waits for the device but what returns numbers to the host.
#include <memory>
#include <string>

#include "core/error.h"
#include "cuda/attention.h"
#include "cuda/backend.h"
#include "cuda/cudnn_attention.h"
#include "cuda/nccl_group.h"
#include "cuda/ops.h"
#include "cuda/products.h"

namespace s2ft::cuda {

namespace {

class CudaBackend final : public Backend, public NcclGroups {
 public:
  explicit CudaBackend(std::shared_ptr<Context> context)
      : NcclGroups(*context),
        context_(std::move(context)),
        dnn_(DnnAttention::open(*context_)) {
    arithmetic_ =
        context_->products().name() + "/sm" + std::to_string(context_->capability());
    if (!dnn_->name().empty()) arithmetic_ += "/" + dnn_->name();
  }

  const char* arithmetic() const override { return arithmetic_.c_str(); }
  int threads() const override { return 1; }

  Buffer allocate(size_t bytes) override { return at().allocate(bytes); }
  void upload(void* to, const void* host, size_t bytes) override {
    at().upload(to, host, bytes);
  }
  void download(void* host, const void* from, size_t bytes) override {
    at().download(host, from, bytes);
  }
  void synchronize() override { at().synchronize(); }
  DeviceMemory device_memory() const override { return at().memory(); }
  void reset_peak_memory() override { at().reset_peak(); }
  size_t workspace_bytes(int64_t tokens, const AttentionShape& shape) const override {
    return Products::workspace_bytes() + context_->own_bytes() +
           attention_workspace(tokens, shape) + dnn_->workspace_bytes(tokens, shape);
  }

  void repeat(uint64_t key, const std::function<void()>& body) override {
    at().repeats().run(key, body);
  }

  void zero(Mat y) override { cuda::zero(at(), y); }
  void copy(Mat y, Mat x) override { cuda::copy(at(), y, x); }
  void add(Mat y, Mat x) override { cuda::add(at(), y, x); }
  void scale(Mat y, float factor) override { cuda::scale(at(), y, factor); }
  void gather_rows(Mat y, Mat x, const int32_t* rows) override {
    cuda::gather_rows(at(), y, x, rows);
  }
  void gather_cols(Mat y, Mat x, const int32_t* cols) override {
    cuda::gather_cols(at(), y, x, cols);
  }
  void scatter_add_rows(Mat y, Mat x, const int32_t* rows) override {
    cuda::scatter_add_rows(at(), y, x, rows);
  }
  void scatter_rows(Mat y, Mat x, const int32_t* rows) override {
    cuda::scatter_rows(at(), y, x, rows);
  }
  void scatter_cols(Mat y, Mat x, const int32_t* cols) override {
    cuda::scatter_cols(at(), y, x, cols);
  }
  void add_cols(Mat y, Mat before, Mat x, const int32_t* cols) override {
    cuda::add_cols(at(), y, before, x, cols);
  }
  void permute_rows(Mat x, const int32_t* order) override {
    cuda::permute_rows(at(), x, order);
  }
  void permute_cols(Mat x, const int32_t* order) override {
    cuda::permute_cols(at(), x, order);
  }

  void matmul(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b,
              float beta) override {
    at().products().matmul(c, a, transpose_a, b, transpose_b, beta);
  }
  void matmul_quantized(Mat c, Mat a, QuantizedStack b, bool transpose_b,
                        float beta) override {
    at().products().matmul_quantized(c, a, b, transpose_b, beta);
  }
  void dequantize(Mat y, QuantizedStack x) override {
    cuda::dequantize(at(), y, x, 0, 0);
  }
  void add_adapters(Mat y, Mat x, const AdapterRows* groups, int count) override {
    cuda::add_adapters(at(), y, x, groups, count);
  }
  void add_bias(Mat y, Mat bias) override { cuda::add_bias(at(), y, bias); }
  void sum_rows(Mat sum, Mat x) override { cuda::sum_rows(at(), sum, x); }

  void rms_norm(Mat y, Mat x, Mat w, float eps) override {
    cuda::rms_norm(at(), y, x, w, eps);
  }
  void rms_norm_backward(Mat dx, bool accumulate, Mat dw, Mat dy, Mat x, Mat w,
                         float eps) override {
    cuda::rms_norm_backward(at(), dx, accumulate, dw, dy, x, w, eps);
  }
  void rope(Mat x, const int32_t* positions, Mat cos, Mat sin, int head_dim,
            bool inverse) override {
    cuda::rope(at(), x, positions, cos, sin, head_dim, inverse);
  }
  void swiglu(Mat h, Mat gate, Mat up) override { cuda::swiglu(at(), h, gate, up); }
  void swiglu_backward(Mat gate, Mat up, Mat dh) override {
    cuda::swiglu_backward(at(), gate, up, dh);
  }
  void attention(Mat o, Mat lse, Mat q, Mat k, Mat v, const Sequences& sequences,
                 const AttentionShape& shape) override {
    Context& context = at();
    if (dnn_->forward(o, lse, q, k, v, sequences, shape)) return;
    cuda::attention(context, o, lse, q, k, v, sequences, shape);
  }
  void attention_backward(Mat dq, Mat dk, Mat dv, Mat d_o, Mat q, Mat k, Mat v, Mat o,
                          Mat lse, const Sequences& sequences,
                          const AttentionShape& shape) override {
    Context& context = at();
    if (dnn_->backward(dq, dk, dv, d_o, q, k, v, o, lse, sequences, shape)) return;
    cuda::attention_backward(context, dq, dk, dv, d_o, q, k, v, o, lse, sequences, shape);
  }
  void cross_entropy(Mat nll, Mat dlogits, Mat logits, const int32_t* targets,
                     float gradient_scale) override {
    cuda::cross_entropy(at(), nll, dlogits, logits, targets, gradient_scale);
  }
  size_t linear_cross_entropy_scratch(int64_t rows, int64_t width,
                                      int64_t vocabulary) const override {
    return cuda::linear_cross_entropy_scratch(rows, width, vocabulary);
  }
  void linear_cross_entropy(Mat nll, Mat dx, Mat x, Mat w, const int32_t* targets,
                            float gradient_scale, void* scratch) override {
    cuda::linear_cross_entropy(at(), nll, dx, x, w, targets, gradient_scale, scratch);
  }
  void dropout(Mat y, Mat x, float p, uint64_t seed) override {
    cuda::dropout(at(), y, x, p, seed);
  }

  void scale_cols(Mat y, Mat x, Mat factors, bool accumulate) override {
    cuda::scale_cols(at(), y, x, factors, accumulate);
  }
  void dot_cols(Mat sum, Mat x, Mat y) override { cuda::dot_cols(at(), sum, x, y); }
  void dot_rows(Mat dot, Mat x, Mat y) override { cuda::dot_rows(at(), dot, x, y); }
  void inverse_sqrt(Mat y, Mat x) override { cuda::inverse_sqrt(at(), y, x); }
  void gather_elements(Mat y, Mat x, const int32_t* index) override {
    cuda::gather_elements(at(), y, x, index);
  }
  void scatter_elements(Mat y, Mat x, const int32_t* index) override {
    cuda::scatter_elements(at(), y, x, index);
  }

  void rank_logits(const Ranking& to, Mat logits, const LogitChange* changes,
                   int64_t count, const float* temperatures) override {
    cuda::rank_logits(at(), to, logits, changes, count, temperatures);
  }

  void adamw(const AdamW* updates, int count, Clipping clipping) override {
    cuda::adamw(at(), updates, count, clipping);
  }
  void sum_of_squares(double* sum, const Mat* x, int count) override {
    cuda::sum_of_squares(at(), sum, x, count);
  }

 private:
  /// The context, its device made the calling thread's.
  Context& at() const {
    context_->enter();
    return *context_;
  }

  std::shared_ptr<Context> context_;
  std::unique_ptr<DnnAttention> dnn_;  // goes before its context
  std::string arithmetic_;
};

}  // namespace

std::shared_ptr<Backend> make_backend(int device) {
  return std::make_shared<CudaBackend>(std::make_shared<Context>(device));
}

}  // namespace s2ft::cuda
