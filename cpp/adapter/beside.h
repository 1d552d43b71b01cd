// Adapters fused into a quantized model lie beside its weights, whose codes never change:
// slices as patches that products read, low-rank factors as products of their own.
#pragma once

#include "adapter/deltas.h"

namespace s2ft {

class Beside {
 public:
  /// Throws UNSUPPORTED for what a quantized model cannot hold: masked elements, and
  /// slices along the other axis than an S2FT adapter's.
  static void check(const AdapterDeltas& adapter);

  /// Puts the sum of these adapters, in order of fusion, in the place of what was there.
  /// The model is as before when it throws.
  void replace(Model& model, const std::vector<const AdapterDeltas*>& adapters);

 private:
  struct Slice {
    std::vector<int32_t> index, place;
    bool rows = true;
    Buffer values;
    Mat view;
  };
  struct Made {
    std::map<std::string, Slice> slices;
    std::map<std::string, std::unique_ptr<TrainablePart>> factors;
  };
  static Slice make_slice(Model& model, const std::string& module,
                          const std::vector<const SliceDelta*>& deltas);

  Made made_;
};

}  // namespace s2ft
