// Fusion: adapters added into a model's weights, with what they replaced kept beside, so
// that taking any of them out again is exact to the bit. LoReFT adapters change no
// weights: they are hooked in behind their layers.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/model.h"
#include "tune/loreft.h"

namespace s2ft {

/// W[index, :] += delta (rows, delta [s, in]) or W[:, index] += delta (cols, [out, s]).
struct SliceDelta {
  std::string module;
  bool rows = true;
  std::vector<int32_t> index;
  std::vector<float> delta;
};

/// W += scale B A   a [r, in], b [out, r]. With magnitudes [out] (DoRA) every row of
/// V = W + scale B A takes that length instead; W is then the base's, whatever else is
/// fused, so that the order of fusion does not matter.
struct LoraDelta {
  std::string module;
  int64_t r = 0;
  std::vector<float> a, b;
  float scale = 1;
  std::vector<float> magnitudes;
};

/// W(place / in, place % in) += delta, place ascending
struct ElementDelta {
  std::string module;
  std::vector<int32_t> places;
  std::vector<float> delta;
};

/// LoReFT behind one layer.
struct LoreftDelta {
  struct Set {
    std::vector<float> rotation, source, bias;  // R [r, d], W [r, d], b [r]
  };
  int layer = 0;
  LoreftOptions options;  // no dropout
  std::vector<Set> sets;  // shared, or those of the prefix and the suffix
};

struct AdapterDeltas {
  std::vector<SliceDelta> slices;
  std::vector<ElementDelta> elements;
  std::vector<LoraDelta> loras;
  std::vector<LoreftDelta> lorefts;
};

class Fusion {
 public:
  explicit Fusion(std::shared_ptr<Model> model) : model_(std::move(model)) {}
  ~Fusion();
  Fusion(const Fusion&) = delete;

  /// Throws ADAPTER_MISMATCH naming the module for an unknown module, an index out of
  /// range or given twice, or a shape that does not fit; INVALID_ARGUMENT for an id in
  /// use; BUSY while a tuner is attached; UNSUPPORTED for a second LoReFT behind a layer.
  /// The model is unchanged then.
  void fuse(const std::string& id, AdapterDeltas adapter);
  void unfuse(const std::string& id);
  bool empty() const { return adapters_.empty(); }

 private:
  /// What a module's weight was before any adapter: the whole of it, since low-rank
  /// adapters touch every element; slices keep their rows and columns only, masks their
  /// elements.
  struct Base {
    bool whole = false;
    std::map<int32_t, std::vector<char>> rows, cols;
    std::vector<std::pair<int32_t, uint32_t>> elements;  // place, bits; ascending
    std::vector<char> all;
  };

  void check(const AdapterDeltas& adapter) const;
  void restore(const std::string& module);
  void keep(const AdapterDeltas& adapter);
  static void keep_elements(Base& base, const std::vector<int32_t>& places,
                            const std::vector<char>& bytes, size_t size);
  void add(const AdapterDeltas& adapter);
  void add_lora(const LoraDelta& lora);
  void forget_unused();
  void check_lorefts(const std::vector<LoreftDelta>& lorefts) const;
  void hook(const std::string& id, const std::vector<LoreftDelta>& lorefts);
  void unhook(const std::string& id);

  std::shared_ptr<Model> model_;
  std::vector<std::pair<std::string, AdapterDeltas>> adapters_;  // in order of fusion
  std::map<std::string, Base> bases_;
  struct StreamHook {
    std::string id;
    int layer;
    std::unique_ptr<Loreft> intervention;
  };
  std::vector<StreamHook> stream_hooks_;
};

}  // namespace s2ft
