// What is fused into one weight, and what it replaced. Owns, in the backend's memory, the
// originals of the rows, columns and elements that slices and masks touch; a copy of the
// whole weight only while a low-rank adapter, which touches all of it, is in.
#pragma once

#include <variant>

#include "adapter/deltas.h"

namespace s2ft {

class FusedWeight {
 public:
  /// What one adapter does to the weight; not owned.
  using Part = std::variant<const SliceDelta*, const ElementDelta*, const LoraDelta*>;

  /// A change with all the memory that it takes.
  class Plan;

  /// Throws OUT_OF_MEMORY; nothing is changed yet. The parts must fit the weight
  /// (check_deltas) and live until the plan is applied. `weight` is contiguous.
  Plan plan(Backend& backend, Mat weight, const std::vector<Part>& parts) const;

  /// The weight becomes the base, as it was before the first plan, with the parts added
  /// up in their order and rounded after each.
  void apply(Backend& backend, Mat weight, Plan plan);

  /// Bytes of what is kept of the base.
  size_t kept_bytes() const;

 private:
  enum class Kind { rows, cols, elements };
  struct Kept {
    Kind kind = Kind::rows;
    std::vector<int32_t> index;
    Buffer storage;
    Mat values;  // of the weight's dtype
  };
  struct Step {
    Kept original;  // of a slice or mask
    Mat delta;      // likewise, f32
    const LoraDelta* lora = nullptr;
    Mat a, b;  // of a low-rank adapter, f32, b times the scale
    Buffer storage[2];
  };
  bool switches_cols(const Plan& plan) const;
  static Mat view(Mat weight, Kind kind);
  static void put(Backend& backend, Mat weight, const Kept& kept);
  static void take(Backend& backend, Mat weight, const Kept& kept);
  static void add(Backend& backend, Mat weight, const Step& step, Mat before);
  void add_low_rank(Backend& backend, Mat weight, const Step& step, Mat product, Mat to,
                    Mat from) const;

  std::vector<Kept> kept_;
  Buffer whole_;  // empty, or the base
};

class FusedWeight::Plan {
  friend class FusedWeight;
  std::vector<Step> steps;
  Buffer whole;    // to keep the base in, where that begins
  Buffer product;  // blocks of low-rank products
  bool low_rank = false;
};

}  // namespace s2ft
