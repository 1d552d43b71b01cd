// The one idea that carries the comparison of methods: a linear layer has a weight and an
// optional trainable part. The part says which input columns its backward pass needs,
// adds what it adds to the forward product, and takes its gradient. What changes no
// linear layer but the residual stream is an intervention.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "core/arena.h"

namespace s2ft {

/// What the optimizer updates. All matrices have the parameter's shape; gradient and
/// moments are f32 and contiguous, so they exist at slice shape only.
struct Parameter {
  std::string name;    // unique, e.g. model.layers.0.mlp.down_proj
  std::string module;  // checkpoint module it belongs to
  std::string kind;    // rows, cols, all, bias, lora_A, lora_B, lora_magnitude_vector
  std::vector<int32_t> index;  // slices: original rows or columns, in order
  Mat weight;                  // view into the model, or the part's own compute copy
  Mat master;                  // f32; empty when weight is f32
  Mat gradient, first, second;
  bool decays = true;  // weight decay applies
  int64_t born = 0;    // steps done before the first of its own
};

/// Columns [begin, begin + count) of the layer's input.
struct Columns {
  int64_t begin = 0, count = 0;
};

class TrainablePart {
 public:
  virtual ~TrainablePart() = default;
  /// Columns of x (T, in) that backward needs; count 0 means none.
  virtual Columns input_needed() const = 0;
  /// Takes what must live from forward to backward, for T tokens; without `training`
  /// there will be no backward. Called before a pass.
  virtual void layout_saved(Arena& arena, int64_t tokens, bool training) {
    (void)arena, (void)tokens, (void)training;
  }
  /// Takes scratch for one call of forward or backward; parts share it.
  virtual void layout_scratch(Arena& arena, int64_t tokens) { (void)arena, (void)tokens; }
  /// For a part that changes the whole product instead of adding to it: scratch (T, out)
  /// where the product is formed apart from the residual stream. Empty for the others.
  virtual Mat product_apart(int64_t tokens) { return (void)tokens, Mat{}; }
  /// y, the product x W^T, += what the part adds.   y (T, out), x (T, in)
  virtual void forward(Backend& backend, Mat y, Mat x, bool training) {
    (void)backend, (void)y, (void)x, (void)training;
  }
  /// Whether through() wants y. The model has it for layers whose output it keeps anyway:
  /// all but o and down, which add to the residual stream.
  virtual bool output_needed() const { return false; }
  /// Called once before backward, and before the product's own dx: turns the gradient of
  /// the output into that of the product, in place or, where dy must stay, in scratch.
  /// y (T, out) is the output, or empty.
  virtual Mat through(Backend& backend, Mat dy, Mat y, bool in_place) {
    return (void)backend, (void)y, (void)in_place, dy;
  }
  /// gradient += ...; dx += what flows through the part (dx may be empty).
  /// dx (T, in), dy (T, out), x (T, input_needed().count)
  virtual void backward(Backend& backend, Mat dx, Mat dy, Mat x) = 0;
  /// The parameters' values have changed: a step was taken or a state loaded.
  virtual void refresh(Backend& backend) { (void)backend; }
  /// Dropout masks derive from this; set before every micro-batch.
  virtual void set_seed(uint64_t seed) { (void)seed; }
};

struct Batch;

/// A change of the residual stream after a layer, in rows of its own choosing.
class Intervention {
 public:
  virtual ~Intervention() = default;
  /// Takes what must live from forward to backward, for T tokens of at most so many
  /// samples. Called before a pass.
  virtual void layout_saved(Arena& arena, int64_t tokens, int64_t samples) = 0;
  /// Takes scratch for one call; interventions and parts share it.
  virtual void layout_scratch(Arena& arena, int64_t tokens, int64_t samples) = 0;
  /// Changes h (T, d) in place.
  virtual void forward(Backend& backend, Mat h, const Batch& batch, bool training) = 0;
  /// gradient += ...; dh (T, d), in place: from that of the changed stream to that of the
  /// stream before.
  virtual void backward(Backend& backend, Mat dh, const Batch& batch) = 0;
};

}  // namespace s2ft
