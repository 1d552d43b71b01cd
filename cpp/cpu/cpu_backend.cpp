// The CPU backend: resolves the options to kernels and arithmetic, then forwards every
// operation with its scratch. Owns the scratch pool and oneDNN's primitives.
#include "cpu/cpu_backend.h"

#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "core/error.h"
#include "core/threads.h"
#include "cpu/cpu_info.h"
#include "cpu/products.h"

namespace s2ft {
namespace {

// What the options mean on this machine.
struct Choice {
  std::string isa;
  bool portable;
  Arithmetic arithmetic;  // native or widen
  int threads;
};

// Another arithmetic must win clearly, so that noise does not change a run's results.
constexpr double kClearWin = 1.15;

// Upper bounds of what products hold beside the portable kernel's scratch: the blocks of
// a widened product, oneDNN's packed operands for each thread, its compiled code.
constexpr size_t kWidenedBytes = size_t(24) << 20, kPackedBytes = size_t(4) << 20,
                 kPrimitiveBytes = size_t(8) << 20;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

// Tests and bug reports can force what the options leave open.
CpuOptions with_environment(CpuOptions options) {
  if (options.isa.empty()) options.isa = environment("S2FT_ISA");
  if (options.arithmetic == Arithmetic::automatic) {
    const std::string name = environment("S2FT_ARITHMETIC");
    if (name == "native") {
      options.arithmetic = Arithmetic::native;
    } else if (name == "widen") {
      options.arithmetic = Arithmetic::widen;
    } else if (!name.empty() && name != "automatic") {
      throw Error(
          "INVALID_ARGUMENT",
          "S2FT_ARITHMETIC must be native, widen or automatic, found \"" + name + "\"");
    }
  }
  const std::string gemm = environment("S2FT_GEMM");
  if (gemm == "portable") {
    options.portable_gemm = true;
  } else if (!gemm.empty() && gemm != "onednn") {
    throw Error("INVALID_ARGUMENT",
                "S2FT_GEMM must be portable or onednn, found \"" + gemm + "\"");
  }
  return options;
}

// Whether the bf16 instruction beats f32 products: by one thread, whose own time can be
// measured however busy the machine is.
bool bf16_pays(const Choice& choice) {
  if (!has_bf16_instructions()) return false;
  if (choice.portable) {
    // The portable kernel's arithmetic is its instruction set's.
    if (choice.isa != "avx512bf16") return false;
    const double wide = product_speed("avx512", true, 1).widened;
    return wide < kClearWin * product_speed(choice.isa, true, 1).widened;
  }
  const ProductSpeed speed = product_speed(choice.isa, false, 1);
  return speed.widened < kClearWin * speed.native;
}

Choice resolve(const CpuOptions& given) {
  const CpuOptions options = with_environment(given);
  if (options.threads < 0) {
    throw Error("INVALID_ARGUMENT", "threads must be 0 (all) or more, found " +
                                        std::to_string(options.threads));
  }
  Choice choice;
  choice.threads = options.threads ? options.threads : available_cpus();
  choice.portable = options.portable_gemm || !OneDnn::create();
  choice.isa = options.isa.empty() ? supported_isas().back() : options.isa;
  kernels_of(choice.isa);
  choice.arithmetic = options.arithmetic;
  if (choice.arithmetic == Arithmetic::native && !choice.portable &&
      !has_bf16_instructions()) {
    throw Error("INVALID_ARGUMENT", "native bf16 arithmetic was asked for, but " +
                                        cpu_name() + " has no bf16 instructions");
  }
  if (choice.arithmetic == Arithmetic::automatic) {
    choice.arithmetic = bf16_pays(choice) ? Arithmetic::native : Arithmetic::widen;
  }
  // Where the bf16 instruction is slow, kernels should not use it either.
  if (options.isa.empty() && choice.isa == "avx512bf16" &&
      choice.arithmetic == Arithmetic::widen) {
    choice.isa = "avx512";
  }
  return choice;
}

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
  explicit CpuBackend(const Choice& choice)
      : threads_(choice.threads),
        arithmetic_(choice.arithmetic),
        kernels_(kernels_of(choice.isa)),
        library_(choice.portable ? nullptr : OneDnn::create()),
        products_(kernels_, library_.get(), scratch_, choice.arithmetic, threads_) {}

  const char* arithmetic() const override {
    return arithmetic_ == Arithmetic::native ? "native" : "widen";
  }
  int threads() const override { return threads_; }

  Buffer allocate(size_t bytes) override { return allocate_host(bytes); }
  void upload(void* to, const void* host, size_t bytes) override {
    if (bytes) std::memcpy(to, host, bytes);
  }
  void download(void* host, const void* from, size_t bytes) override {
    if (bytes) std::memcpy(host, from, bytes);
  }
  void synchronize() override {}
  size_t workspace_bytes(int64_t tokens, int64_t vocab_size) const override;

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
  void scatter_add_rows(Mat y, Mat x, const int32_t* rows) override {
    const ThreadScope scope(threads_);
    kernels_.scatter_add_rows(y, x, rows);
  }
  void permute_rows(Mat x, const int32_t* order) override;
  void permute_cols(Mat x, const int32_t* order) override {
    const ThreadScope scope(threads_);
    auto scratch = per_thread(size_t(x.cols) * dtype_size(x.dtype));
    kernels_.permute_cols(x, order, scratch.data());
  }

  void matmul(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b,
              float beta) override {
    // A product of some microseconds is over before a second thread has begun.
    const int64_t depth = transpose_a ? a.rows : a.cols;
    const bool small = c.rows * c.cols * depth < kSerialProduct;
    const ThreadScope scope(small ? 1 : threads_);
    products_.matmul(c, a, transpose_a, b, transpose_b, beta);
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
  void cross_entropy(float* nll, Mat dlogits, Mat logits, const int32_t* targets,
                     float gradient_scale) override {
    const ThreadScope scope(threads_);
    kernels_.cross_entropy(nll, dlogits, logits, targets, gradient_scale);
  }
  void dropout(Mat y, Mat x, float p, uint64_t seed) override {
    const ThreadScope scope(threads_);
    kernels_.dropout(y, x, p, seed);
  }

  void adamw(const AdamW& update) override {
    const ThreadScope scope(threads_);
    kernels_.adamw(update);
  }
  double sum_of_squares(Mat x) override {
    const ThreadScope scope(threads_);
    auto scratch = per_thread(sizeof(double));
    return kernels_.sum_of_squares(x, scratch.as<double>());
  }

 private:
  ScratchPool::Lease per_thread(size_t bytes) {
    return scratch_.take(bytes * size_t(threads_));
  }

  int threads_;
  Arithmetic arithmetic_;
  const Kernels& kernels_;
  ScratchPool scratch_;
  std::unique_ptr<OneDnn> library_;
  Products products_;
};

// The scratch pool keeps at most its largest block and those leased beside it: a
// product's widened operands with oneDNN's packed blocks, or one attention.
size_t CpuBackend::workspace_bytes(int64_t tokens, int64_t) const {
  // Wider heads than any LLaMA model has; a head's number matters little.
  std::vector<int32_t> identity(128);
  for (size_t i = 0; i < identity.size(); ++i) identity[i] = int32_t(i);
  AttentionShape shape;
  shape.heads = shape.kv_heads = int(identity.size());
  shape.head_dim = 256;
  shape.kv_head_of = identity.data();
  const int longest = int(std::min<int64_t>(tokens, 1 << 30));
  const size_t attention = std::max(kernels_.attention_scratch(shape),
                                    kernels_.attention_backward_scratch(shape, longest));
  const size_t products = std::max(kernels_.gemm_scratch(), kPackedBytes);
  const size_t widened = arithmetic_ == Arithmetic::widen ? kWidenedBytes : 0;
  return widened + kPrimitiveBytes + size_t(threads_) * (attention + products);
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
  return std::make_shared<CpuBackend>(resolve(options));
}

CpuDescription describe_cpu(const CpuOptions& options) {
  const Choice choice = resolve(options);
  const ProductSpeed speed = product_speed(choice.isa, choice.portable, choice.threads);
  CpuDescription description;
  description.name = cpu_name();
  description.isa = choice.isa;
  description.threads = choice.threads;
  description.peak_gflops_f32 = speed.f32;
  description.peak_gflops_bf16 =
      choice.arithmetic == Arithmetic::native ? speed.native : speed.widened;
  if (choice.portable) {
    description.gemm = "portable";
    description.arithmetic = choice.isa == "avx512bf16" ? "bf16" : "f32";
    description.peak_gflops_bf16 = speed.widened;
    return description;
  }
  description.gemm = OneDnn::create()->version();
  if (choice.arithmetic == Arithmetic::widen) {
    description.arithmetic = "f32";
  } else {
    const bool amx = speed.native_implementation.find("amx") != std::string::npos;
    description.arithmetic = amx ? "amx" : "bf16";
  }
  return description;
}

}  // namespace s2ft
