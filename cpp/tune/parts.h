// The trainable parts of linear layers: rows and cols (S2FT), all (full fine-tuning),
// low-rank (LoRA). A part owns its parameters' optimizer memory.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "model/model.h"

namespace s2ft {

/// Allocates gradient, moments and, over bf16 weights, the f32 master (set from the
/// weight) of a parameter whose name, kind and weight are set. All zero but the master.
Buffer allocate_optimizer_state(Backend& backend, Parameter& parameter);
/// Bytes of that allocation.
size_t optimizer_state_bytes(const Parameter& parameter);

size_t bytes_of(const std::vector<Buffer>& buffers);

/// A module's own random sequence under one seed.
uint64_t salted(uint64_t seed, const std::string& name);

/// A part that the tuner made, with its parameters in the order of their names.
class TunedPart : public TrainablePart {
 public:
  std::vector<std::unique_ptr<Parameter>> parameters;
  /// Of what the part has allocated: masters, gradients, moments, copies to compute with.
  size_t bytes() const;
  /// The optimizer has moved the parameters, with this learning rate and weight decay.
  virtual void stepped(Backend& backend, double rate, double decay) {
    (void)rate, (void)decay, refresh(backend);
  }
  /// What products read in place of a quantized weight's rows or columns.
  virtual Patch patch() const { return {}; }
  /// Gives the model's weight its base values back; refresh() undoes that.
  virtual void take_out(Backend& backend) { (void)backend; }

 protected:
  Parameter& add(Backend& backend, const Linear& linear, const std::string& suffix,
                 const std::string& kind, Mat weight);
  std::vector<Buffer> storage_;
};

/// Rows [begin, begin + count) of the output train.   gradient [count, in]
class RowsPart : public TunedPart {
 public:
  RowsPart(Backend& backend, const Linear& linear, int64_t begin, int64_t count);
  Columns input_needed() const override { return {0, in_}; }
  void backward(Backend& backend, Mat dx, Mat dy, Mat x) override;

 private:
  int64_t begin_, in_;
};

/// Columns [begin, begin + count) of the input train.   gradient [out, count]
class ColsPart : public TunedPart {
 public:
  ColsPart(Backend& backend, const Linear& linear, int64_t begin, int64_t count);
  Columns input_needed() const override { return columns_; }
  void backward(Backend& backend, Mat dx, Mat dy, Mat x) override;

 private:
  Columns columns_;
};

/// Rows or columns of a quantized weight train: in full precision beside it, read by its
/// products in place of what is quantized there. Nothing is reordered, so what backward
/// needs of them is gathered.
class PatchPart : public TunedPart {
 public:
  /// index: rows of the output or columns of the input; `base` their values in the same
  /// order, [count, in] or [out, count] in the model's dtype, on the host.
  PatchPart(Backend& backend, const Linear& linear, bool rows, std::vector<int32_t> index,
            const std::vector<char>& base);
  Columns input_needed() const override { return {0, rows_ ? in_ : 0}; }
  Patch patch() const override;
  void layout_saved(Arena& arena, int64_t tokens, bool training) override;
  void layout_scratch(Arena& arena, int64_t tokens) override;
  void forward(Backend& backend, Mat y, Mat x, bool training) override;
  void backward(Backend& backend, Mat dx, Mat dy, Mat x) override;

 private:
  bool rows_;
  int64_t in_;
  std::vector<int32_t> sorted_, place_;
  Mat gathered_;  // (T, count): x's columns since forward, or dy's in backward
};

/// The whole weight and the bias train.
class AllPart : public TunedPart {
 public:
  AllPart(Backend& backend, const Linear& linear);
  Columns input_needed() const override { return {0, in_}; }
  void backward(Backend& backend, Mat dx, Mat dy, Mat x) override;

 private:
  int64_t in_;
};

struct LoraOptions {
  int64_t r = 8;
  float scale = 1;  // alpha / r, or alpha / sqrt(r)
  float dropout = 0;
  uint64_t seed = 0;
};

/// y += scale dropout(x) A^T B^T with A [r, in] and B [out, r]; A starts Kaiming-uniform
/// and B zero, as in PEFT, so that training starts at the base model.
class LoraPart : public TunedPart {
 public:
  LoraPart(Backend& backend, const Linear& linear, const LoraOptions& options);
  Columns input_needed() const override { return {0, in_}; }
  void layout_saved(Arena& arena, int64_t tokens, bool training) override;
  void layout_scratch(Arena& arena, int64_t tokens) override;
  void forward(Backend& backend, Mat y, Mat x, bool training) override;
  void backward(Backend& backend, Mat dx, Mat dy, Mat x) override;
  void set_seed(uint64_t seed) override { step_seed_ = seed; }

 protected:
  LoraOptions options_;
  int64_t in_, out_;
  DType dtype_;

 private:
  /// x, or its masked copy in scratch.
  Mat dropped(Backend& backend, Mat x, bool training);

  uint64_t salt_, step_seed_ = 0;
  bool training_ = false;
  Mat low_;      // (T, r) scale * dropout(x) A^T, from forward to backward
  Mat d_low_;    // (T, r)
  Mat dropped_;  // (T, in), only with dropout
  Mat scaled_;   // [out, r] B's compute copy times scale
};

}  // namespace s2ft
