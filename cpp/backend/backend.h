// The operations a device must offer. The model is written once against this list; the
// CPU (cpp/cpu) and CUDA (cuda/) implement it op for op and share one conformance test.
//
// Conventions. T tokens are rows. Activations and weights have the model's dtype (f32 or
// bf16), sums run in f32, gradients of trainable parameters are f32. Unless an op says
// `+=`, it overwrites its output and never reads it. Outputs may not overlap inputs
// unless the op says "in place". Index arrays and offsets are host memory. Shapes are
// the caller's duty; backends check them in debug builds only.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/buffer.h"
#include "core/quantized.h"
#include "core/tensor.h"

namespace s2ft {

/// Sequences packed row after row. Sequence i has queries [q[i], q[i+1]) and keys
/// [k_begin[i], k_begin[i] + k_len[i]); its last query sits at its last key, so query j
/// of n sees keys 0 .. k_len - n + j, at most `window` of them, itself included.
struct Sequences {
  int count = 0;
  const int32_t* q = nullptr;        // [count + 1] rows of q and o
  const int32_t* k_begin = nullptr;  // [count] rows of k and v
  const int32_t* k_len = nullptr;    // [count]
  // Keys in pages, where given: key j of sequence i is row pages[page_begin[i] + j /
  // page_rows] * page_rows + j % page_rows, and k_begin is not read. Forward only;
  // page_rows is a multiple of 16.
  const int32_t* pages = nullptr;
  const int32_t* page_begin = nullptr;  // [count]
  int page_rows = 0;
};

/// Grouped-query attention. Any query head may use any key/value head, so that
/// co-permutation can bring selected heads first.
struct AttentionShape {
  int heads = 0, kv_heads = 0, head_dim = 0;
  const int32_t* kv_head_of = nullptr;  // [heads]
  int window = 0;                       // 0: unlimited
  float scale = 1;                      // positive; usually 1 / sqrt(head_dim)
};

/// What one adapter adds to a linear layer's output for some rows of a batch: k values a
/// row, then where they go. S2FT's `cols` slice gathers and multiplies, its `rows` slice
/// multiplies and scatters, LoRA multiplies twice. The index arrays are device memory:
/// they lie beside the adapter's matrices as long as it is held.
struct AdapterRows {
  int64_t begin = 0, count = 0;      // rows of x and y
  int64_t k = 0;                     // values a row; 0: nothing is added
  const int32_t* gather = nullptr;   // [k] columns of x that the values are, or
  Mat a;                             // (k, in): the values are x a^T
  const int32_t* scatter = nullptr;  // [k] distinct columns of y that they add to, or
  Mat b;                             // (k, out): y += values b
};

/// One AdamW update of one parameter (decoupled weight decay).
struct AdamW {
  Mat weight;         // model dtype, may be strided; receives the updated value
  Mat master;         // f32 contiguous; empty when weight is f32 and is itself the master
  Mat gradient;       // f32 contiguous
  Mat first, second;  // f32 contiguous moments
  // Doubles: 1 - 0.999f is off by 5e-5 of itself.
  double learning_rate, beta1, beta2, epsilon, weight_decay;
  float gradient_scale;  // multiplies the gradient first (clipping, normalisation)
  int64_t step;          // 1-based, for bias correction
};

/// What becomes of one logit before a token is chosen.
struct LogitChange {
  int32_t row = 0, token = 0;
  float bias = 0, negative = 1, positive = 1, add = 0;
  float of(float x) const {
    x += bias;
    x *= x < 0 ? negative : positive;
    return x + add;
  }
};

/// The k largest logits of each of n rows, the largest first and lower tokens first where
/// they are equal, in the backend's memory.
struct Ranking {
  static constexpr int64_t kMost = 256;
  int64_t k = 0;              // at most kMost, and the vocabulary
  float* values = nullptr;    // [n, k]
  int32_t* tokens = nullptr;  // [n, k]
  // [n] sums over all tokens of exp((x - largest) / temperature)
  double* masses = nullptr;
  float* before = nullptr;  // [changes] the logits that were changed
};

/// What holds for all updates of a step alike, from numbers in the backend's memory.
struct Clipping {
  // [2] sum_of_squares() of all gradients, and of what else has to be finite. Empty:
  // every update is made as it is. Else none is made unless both are finite, and
  // gradients are scaled by min(1, max_norm / (norm + 1e-6)), as by
  // torch.nn.utils.clip_grad_norm_.
  const double* squares = nullptr;
  double max_norm = 0;  // 0: no scaling
};

/// Memory of a device of its own; all zero where that is the host's.
struct DeviceMemory {
  size_t total = 0;
  size_t used = 0;  // by anybody
  size_t held = 0;  // by this backend
  size_t peak = 0;  // of held, since reset_peak_memory()
};

class Backend {
 public:
  virtual ~Backend() = default;

  /// What decides the bits of results beside the inputs: how bf16 products are computed
  /// ("native" or "widen") and the number of threads.
  virtual const char* arithmetic() const = 0;
  virtual int threads() const = 0;

  // -- memory ---------------------------------------------------------------------
  /// Uninitialised, 64-byte aligned; may be let go while queued operations still use it.
  /// Throws OUT_OF_MEMORY with the size asked for.
  virtual Buffer allocate(size_t bytes) = 0;
  /// Whether that is the host's memory: operations then read the host's where it lies.
  virtual bool host_memory() const { return false; }
  virtual void upload(void* to, const void* host, size_t bytes) = 0;
  virtual void download(void* host, const void* from, size_t bytes) = 0;
  virtual void synchronize() = 0;
  virtual DeviceMemory device_memory() const { return {}; }
  virtual void reset_peak_memory() {}
  /// Upper bound of what the backend itself holds while it trains batches of so many
  /// tokens with such attention: product scratch, attention scratch, code. For the memory
  /// plan.
  virtual size_t workspace_bytes(int64_t tokens, const AttentionShape& shape) const = 0;

  // -- repeats --------------------------------------------------------------------
  /// Runs body(), which queues operations. A body that has come with this key before most
  /// likely asks for the same ones on the same memory, with other indices, and reads
  /// nothing back: a device may then start all of them at once. Therefore body may be run
  /// more than once, all but the last time without effect on the device.
  virtual void repeat(uint64_t key, const std::function<void()>& body) {
    (void)key;
    body();
  }

  // -- moving ---------------------------------------------------------------------
  virtual void zero(Mat y) = 0;
  /// y = x, converting between f32 and bf16 (round to nearest even).
  virtual void copy(Mat y, Mat x) = 0;
  /// y += x
  virtual void add(Mat y, Mat x) = 0;
  /// y *= factor
  virtual void scale(Mat y, float factor) = 0;
  /// y[i] = x[rows[i]]   y (n, d), x (any, d)
  virtual void gather_rows(Mat y, Mat x, const int32_t* rows) = 0;
  /// y[:, j] = x[:, cols[j]]   y (n, m), x (n, any)
  virtual void gather_cols(Mat y, Mat x, const int32_t* cols) = 0;
  /// y[rows[i]] += x[i]   y f32 or model dtype; rows may repeat; summed in order of i
  virtual void scatter_add_rows(Mat y, Mat x, const int32_t* rows) = 0;
  /// y[rows[i]] = x[i], distinct rows of one dtype
  virtual void scatter_rows(Mat y, Mat x, const int32_t* rows) = 0;
  /// In place: x[i] = old x[order[i]] (rows), x[:, j] = old x[:, order[j]] (cols).
  virtual void permute_rows(Mat x, const int32_t* order) = 0;
  virtual void permute_cols(Mat x, const int32_t* order) = 0;
  // A device without operations of its own for columns takes them one by one.
  /// y[:, cols[j]] = x[:, j], distinct columns of one dtype
  virtual void scatter_cols(Mat y, Mat x, const int32_t* cols) {
    if (x.rows == 0) return;
    for (int64_t j = 0; j < x.cols; ++j) copy(y.col_range(cols[j], 1), x.col_range(j, 1));
  }
  /// y[:, cols[j]] += x[:, j], distinct columns; `before`, where given, receives what
  /// they were.   y (n, any), x and before (n, m), before of y's dtype
  virtual void add_cols(Mat y, Mat before, Mat x, const int32_t* cols) {
    if (x.rows == 0) return;
    if (before) gather_cols(before, y, cols);
    for (int64_t j = 0; j < x.cols; ++j) add(y.col_range(cols[j], 1), x.col_range(j, 1));
  }
  /// scatter_cols(y, old, old_cols), then add_cols(y, before, x, cols): what a switch of
  /// adapters does. The two sets of columns may share some.
  virtual void replace_cols(Mat y, Mat old, const int32_t* old_cols, Mat before, Mat x,
                            const int32_t* cols) {
    scatter_cols(y, old, old_cols);
    add_cols(y, before, x, cols);
  }

  // -- products -------------------------------------------------------------------
  /// c = op(a) op(b) + beta c, op = transpose where asked. a and b share a dtype
  /// (f32 or bf16); c is f32 or that dtype; beta is 0 or 1; summed in f32 and rounded
  /// once. With a [M, K], transpose_b and b [N, K] this is a linear layer's forward.
  virtual void matmul(Mat c, Mat a, bool transpose_a, Mat b, bool transpose_b,
                      float beta) = 0;
  /// c = a b^T (`transpose_b`) or a b, + beta c, for a frozen b that is stored quantized:
  /// as matmul with what dequantize() gives in a's dtype. (A device may dequantize a part
  /// at a time and multiply that.)
  virtual void matmul_quantized(Mat c, Mat a, QuantizedStack b, bool transpose_b,
                                float beta) = 0;
  /// y = x, patches included: the pieces' levels times scales, rounded to y's dtype.
  virtual void dequantize(Mat y, QuantizedStack x) = 0;
  /// y += what each group's adapter makes of its rows of x; groups share no row, rows of
  /// no group stay. a, b, x and y have one dtype. Sums run in f32; the values between two
  /// products may be rounded.   y (T, out), x (T, in)
  virtual void add_adapters(Mat y, Mat x, const AdapterRows* groups, int count) = 0;
  /// y[i] += bias, for every row   y (T, n), bias (1, n)
  virtual void add_bias(Mat y, Mat bias) = 0;
  /// sum (1, n, f32) += sum over rows of x (T, n)
  virtual void sum_rows(Mat sum, Mat x) = 0;

  // -- transformer ----------------------------------------------------------------
  /// y = x / sqrt(mean(x^2) + eps) * w over groups of w.cols columns (a whole row, or a
  /// head). y may be x.   y, x (T, n * group), w (1, group)
  virtual void rms_norm(Mat y, Mat x, Mat w, float eps) = 0;
  /// dx = or += the gradient (`accumulate`); dw (1, group, f32) += where given. dx may
  /// be dy when not accumulating.
  virtual void rms_norm_backward(Mat dx, bool accumulate, Mat dw, Mat dy, Mat x, Mat w,
                                 float eps) = 0;
  /// In place: rotates the pairs (i, i + head_dim/2) of every head by the angle of the
  /// row's position; `inverse` rotates back (the gradient).
  /// x (T, heads * head_dim), cos and sin (positions, head_dim / 2) f32
  virtual void rope(Mat x, const int32_t* positions, Mat cos, Mat sin, int head_dim,
                    bool inverse) = 0;
  /// h = silu(gate) * up
  virtual void swiglu(Mat h, Mat gate, Mat up) = 0;
  /// In place: gate becomes d gate, up becomes d up.   dh, gate, up (T, k)
  virtual void swiglu_backward(Mat gate, Mat up, Mat dh) = 0;
  /// o = softmax(scale q k^T + causal mask) v; lse (T, heads, f32), when given, receives
  /// the log-sum-exp of the scaled scores.  q, o (T, heads*head_dim), k, v (.,
  /// kv*head_dim)
  virtual void attention(Mat o, Mat lse, Mat q, Mat k, Mat v, const Sequences& sequences,
                         const AttentionShape& shape) = 0;
  /// dq, dk, dv overwritten. Every sequence has as many keys as queries, at the same
  /// rows. `o` is only read together with d_o (row sums of their product).
  virtual void attention_backward(Mat dq, Mat dk, Mat dv, Mat d_o, Mat q, Mat k, Mat v,
                                  Mat o, Mat lse, const Sequences& sequences,
                                  const AttentionShape& shape) = 0;
  /// nll[i] = -log softmax(logits[i])[target[i]]. When dlogits is given, dlogits =
  /// (softmax - onehot) * gradient_scale; it may be `logits` itself, or a bf16 view that
  /// starts at the same address with twice the ld (in place).
  /// nll (1, n, f32), logits (n, vocabulary, f32)
  virtual void cross_entropy(Mat nll, Mat dlogits, Mat logits, const int32_t* targets,
                             float gradient_scale) = 0;
  /// Bytes of scratch that linear_cross_entropy takes for inputs of such a shape.
  virtual size_t linear_cross_entropy_scratch(int64_t rows, int64_t width,
                                              int64_t vocabulary) const = 0;
  /// The same loss of the logits x w^T, which exist a block of the vocabulary at a time
  /// only, and dx = its gradient by x, for a w that does not train:
  ///   dx = (softmax(x w^T) - onehot) w * gradient_scale
  /// dx, where given, may be x; scratch is the backend's memory.
  /// nll (1, n, f32), x, dx (n, d), w (vocabulary, d)
  virtual void linear_cross_entropy(Mat nll, Mat dx, Mat x, Mat w, const int32_t* targets,
                                    float gradient_scale, void* scratch) = 0;
  /// y = x * keep / (1 - p); keep is a pure function of (seed, element index), so the
  /// backward pass repeats it. y may be x.
  virtual void dropout(Mat y, Mat x, float p, uint64_t seed) = 0;

  // -- vectors and single elements ------------------------------------------------
  /// y = x * factors in every row, or += (`accumulate`); y may be x.
  /// y, x (T, n), factors (1, n, f32)
  virtual void scale_cols(Mat y, Mat x, Mat factors, bool accumulate) = 0;
  /// sum (1, n, f32) += sum over rows of x * y   x, y (T, n)
  virtual void dot_cols(Mat sum, Mat x, Mat y) = 0;
  /// dot (1, n, f32) = sum over columns of x * y   x, y (n, d)
  virtual void dot_rows(Mat dot, Mat x, Mat y) = 0;
  /// y = 1 / sqrt(x), 0 where x is not positive; y may be x.   y, x f32
  virtual void inverse_sqrt(Mat y, Mat x) = 0;
  /// y[i] += x(index[i] / cols, index[i] % cols)   y (1, n, f32), x (rows, cols)
  virtual void gather_elements(Mat y, Mat x, const int32_t* index) = 0;
  /// y(index[i] / cols, index[i] % cols) = x[i], distinct indices   y (rows, cols),
  /// x (1, n, f32)
  virtual void scatter_elements(Mat y, Mat x, const int32_t* index) = 0;

  // -- choice of tokens -----------------------------------------------------------
  /// Makes the changes in place, (row, token) pairs that are distinct, then ranks every
  /// row. temperatures [n], 0 where no mass is asked for.   logits (n, vocabulary, f32)
  virtual void rank_logits(const Ranking& to, Mat logits, const LogitChange* changes,
                           int64_t count, const float* temperatures) = 0;

  // -- optimizer ------------------------------------------------------------------
  virtual void adamw(const AdamW* updates, int count, Clipping clipping) = 0;
  void adamw(const AdamW& update) { adamw(&update, 1, {}); }
  /// *sum, in the backend's memory, = the sum of squares over all of them, in double, the
  /// same for the same input and thread count.
  virtual void sum_of_squares(double* sum, const Mat* x, int count) = 0;
};

}  // namespace s2ft
