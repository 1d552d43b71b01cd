// LoReFT (Wu et al. 2024): instead of weights it changes the residual stream, in a
// low-rank subspace, at the first and last positions of every prompt.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/model.h"

namespace s2ft {

struct LoreftOptions {
  int64_t r = 8;                // at most the hidden size
  int32_t first = 7, last = 7;  // positions of the prompt
  bool shared = true;           // one set of weights for the first and the last
  float dropout = 0;            // of the changed rows
  uint64_t seed = 0;
};

/// The places of a prompt of n tokens that are changed: [0, prefix) and [n - suffix, n).
/// A short prompt is shared out, no place twice: with first + last > n the prefix has
/// half of it, or what the suffix leaves.
struct PromptPlaces {
  int32_t prefix = 0, suffix = 0;
};
PromptPlaces prompt_places(int32_t prompt, int32_t first, int32_t last);

/// h <- h + (h W^T + b - h R^T) R in chosen rows, computed in f32 whatever h is.
class Loreft : public Intervention {
 public:
  /// One set of weights, with the positions that it is for.
  struct Set {
    std::string name;  // "", or where two sets differ "prefix" and "suffix"
    bool prefix = true, suffix = true;
    Mat rotation, source, bias;  // R [r, d] with orthonormal rows, W [r, d], b (1, r)
  };

  /// Weights uninitialised. Throws INVALID_ARGUMENT for a rank outside 1 to `hidden`, or
  /// no positions.
  Loreft(Backend& backend, int64_t hidden, const LoreftOptions& options);

  const LoreftOptions& options() const { return options_; }
  std::vector<Set>& sets() { return sets_; }
  void layout_saved(Arena& arena, int64_t tokens, int64_t samples) override;
  void layout_scratch(Arena& arena, int64_t tokens, int64_t samples) override;
  void forward(Backend& backend, Mat h, const Batch& batch, bool training) override;
  /// Throws INTERNAL: these weights do not train.
  void backward(Backend& backend, Mat dh, const Batch& batch) override;

 protected:
  /// What a set holds for one pass, n rows at most.
  struct Work {
    Mat input;   // (n, d) f32 rows of h, from forward to backward
    Mat moved;   // (n, r) W h + b - R h, likewise
    Mat output;  // (n, d) scratch
    Mat apart;   // [r, d] W - R, scratch
  };
  /// Rows of the batch that a set changes, ascending.
  std::vector<int32_t> rows_of_set(const Set& set, const Batch& batch) const;
  int64_t most_rows(const Set& set, int64_t tokens, int64_t samples) const;
  uint64_t dropout_seed(size_t set) const { return seed_ + set; }
  void difference(Backend& backend, size_t set);

  LoreftOptions options_;
  int64_t hidden_;
  std::vector<Set> sets_;
  std::vector<Work> work_;
  uint64_t seed_ = 0;  // of this pass's dropout
  Buffer storage_;
};

/// The same with parameters: R starts as a uniformly random rotation, W and b as
/// U(-1/sqrt(d), 1/sqrt(d)), so that training does not start at the base model, as in the
/// published code. That code reaches R through Householder reflections; here R itself
/// trains: its gradient is projected to the tangent space of matrices with orthonormal
/// rows, and after each step R is replaced by the nearest such matrix.
class TrainedLoreft : public Loreft {
 public:
  /// `layer` names the parameters: <layer>.loreft_R, or <layer>.prefix.loreft_R.
  TrainedLoreft(Backend& backend, const std::string& layer, int64_t hidden,
                const LoreftOptions& options);
  std::vector<std::unique_ptr<Parameter>> parameters;  // R, W, b of every set

  void layout_scratch(Arena& arena, int64_t tokens, int64_t samples) override;
  void forward(Backend& backend, Mat h, const Batch& batch, bool training) override;
  void backward(Backend& backend, Mat dh, const Batch& batch) override;
  void set_seed(uint64_t seed) { seed_ = seed ^ salt_; }
  /// Of what it has allocated, gradients and moments included.
  size_t bytes() const;
  /// All micro-batches are in the gradients: G <- G - (G R^T + R G^T) R / 2 for R's.
  void finish_gradients(Backend& backend);
  /// The optimizer has moved the parameters.
  void stepped(Backend& backend);

 private:
  struct Gradients {
    Mat output;   // (n, d) of the changed rows
    Mat moved;    // (n, r)
    Mat product;  // [r, d]
  };
  uint64_t salt_;
  bool training_ = false;
  std::vector<Gradients> gradients_;
  std::vector<Buffer> state_;
};

/// The matrix with orthonormal rows nearest to x [r, d], r <= d, in its place:
/// (x x^T)^(-1/2) x, x f32 of full rank. Waits for the device.
void orthonormalise_rows(Backend& backend, Mat x);

}  // namespace s2ft
