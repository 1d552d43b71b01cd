// Scores of heads and channels: norms of their weights, of their activations and of their
// gradients. Probes are trainable parts that train nothing and watch a pass; each owns
// the sums that it gathers.
#pragma once

#include "model/model.h"
#include "tune/choice.h"

namespace s2ft {

/// Adds, for every unit of a module, the sum of squares over its rows (columns for o and
/// down) of `m` [out, in] to the scores of the module's group.
void add_squares(Backend& backend, const ModelConfig& config, Module module, Mat m,
                 UnitScores& scores);
/// Sums of squares to norms.
void take_roots(UnitScores& scores);

/// L2 norms of a layer's units over the modules that train (count above 0), in the order
/// that the weights are in: one score for q and o, k and v, gate, up and down together is
/// the root of their sum of squares.
UnitScores weight_scores(Backend& backend, const ModelConfig& config, const Layer& layer,
                         const LayerCounts& counts);

/// Watches the input of a layer in forward: sums over tokens the L2 norm of each unit.
class ActivationProbe : public TrainablePart {
 public:
  /// Widths are columns a unit: a head, or the heads of a key/value head.
  ActivationProbe(Backend& backend, int64_t columns, std::vector<int64_t> widths);
  Columns input_needed() const override { return {}; }
  void layout_scratch(Arena& arena, int64_t tokens) override;
  void forward(Backend& backend, Mat y, Mat x, bool training) override;
  void backward(Backend&, Mat, Mat, Mat) override {}
  /// Sums over tokens, by width: a value a unit.
  std::vector<double> sums(Backend& backend, size_t width) const;

  int64_t rows = 0;  // of the next input that count: the others fill the batch

 private:
  int64_t columns_;
  std::vector<int64_t> widths_;
  std::vector<Buffer> sums_;
  Mat values_, norms_;
};

/// Gathers a weight's whole gradient [out, in] in f32 while it lives.
class GradientProbe : public TrainablePart {
 public:
  GradientProbe(Backend& backend, const Linear& linear);
  Columns input_needed() const override { return {0, gradient_.cols}; }
  void backward(Backend& backend, Mat dx, Mat dy, Mat x) override;
  Mat gradient() const { return gradient_; }

 private:
  Buffer storage_;
  Mat gradient_;
};

}  // namespace s2ft
