// Fusion: adapters added into a model's weights, with what they replaced kept, so that
// taking any of them out again is exact to the bit. LoReFT adapters change no weights:
// they are hooked in behind their layers.
#pragma once

#include "adapter/beside.h"

namespace s2ft {

class Fusion {
 public:
  explicit Fusion(std::shared_ptr<Model> model) : model_(std::move(model)) {}
  ~Fusion();
  Fusion(const Fusion&) = delete;

  /// Throws ADAPTER_MISMATCH naming the module for an unknown module, an index out of
  /// range or given twice, or a shape that does not fit; UNSUPPORTED for what a quantized
  /// model cannot hold and for a second LoReFT behind a layer; INVALID_ARGUMENT for an id
  /// in use; BUSY while a tuner is attached. The model is unchanged then. The weights
  /// depend on which adapters are fused, not on when each was.
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
  /// All adapters but the one at `without`, in an order that their content decides:
  /// rounding makes a sum depend on the order of its terms.
  std::vector<const AdapterDeltas*> in_order(size_t without) const;
  void add_all();
  void add_lora(const LoraDelta& lora);
  void forget_unused();
  void check_lorefts(const std::vector<LoreftDelta>& lorefts) const;
  void hook(const std::string& id, const std::vector<LoreftDelta>& lorefts);
  void unhook(const std::string& id);
  /// Quantized models: all adapters but the one at `without`.
  void rebuild_beside(size_t without);

  std::shared_ptr<Model> model_;
  std::vector<std::pair<std::string, AdapterDeltas>> adapters_;  // in order of fusion
  std::map<std::string, Base> bases_;
  struct StreamHook {
    std::string id;
    int layer;
    std::unique_ptr<Loreft> intervention;
  };
  std::vector<StreamHook> stream_hooks_;
  Beside beside_;  // quantized models
};

}  // namespace s2ft
