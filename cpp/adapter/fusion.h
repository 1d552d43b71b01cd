// Fusion: adapters added into a model's weights, with what they replaced kept, so that
// taking any of them out again is exact to the bit. LoReFT adapters change no weights:
// they are hooked in behind their layers.
#pragma once

#include "adapter/beside.h"
#include "adapter/fused_weight.h"

namespace s2ft {

class Fusion {
 public:
  explicit Fusion(std::shared_ptr<Model> model) : model_(std::move(model)) {}
  ~Fusion();
  Fusion(const Fusion&) = delete;

  /// Throws ADAPTER_MISMATCH naming the module for an unknown module, an index out of
  /// range or given twice, or a shape that does not fit; UNSUPPORTED for what a quantized
  /// model cannot hold and for a second LoReFT behind a layer; INVALID_ARGUMENT for an id
  /// in use; BUSY while a tuner is attached; OUT_OF_MEMORY. The model is unchanged then.
  /// The weights depend on which adapters are fused, not on when each was. Modules that
  /// the adapter does not touch are not looked at.
  void fuse(const std::string& id, AdapterDeltas adapter);
  void unfuse(const std::string& id);
  /// Takes adapters out and puts one in, in one go; throws as fuse does.
  void replace(const std::vector<std::string>& out, const std::string& id,
               AdapterDeltas adapter);
  bool empty() const { return adapters_.empty(); }

 private:
  using Entry = std::pair<std::string, AdapterDeltas>;  // id, adapter without LoReFTs
  struct StreamHook {
    std::string id;
    int layer;
    std::unique_ptr<Loreft> intervention;
  };

  /// Throws BUSY while a tuner holds the weights.
  void require_free(const char* what) const;
  std::vector<bool> find(const std::vector<std::string>& ids, const char* what) const;
  /// Takes marked adapters out and puts one in, if there is one.
  void change(const std::vector<bool>& out, Entry* in);
  /// Weights of the modules that leaving or coming adapters touch.
  void change_weights(const std::vector<const AdapterDeltas*>& touching,
                      const std::vector<const AdapterDeltas*>& after);
  void check_lorefts(const std::vector<LoreftDelta>& lorefts,
                     const std::vector<bool>& out) const;
  std::vector<StreamHook> make_hooks(const std::string& id,
                                     const std::vector<LoreftDelta>& lorefts) const;
  /// Those of leaving adapters go, and the new ones come.
  void replace_hooks(const std::vector<bool>& out, std::vector<StreamHook> in);
  bool leaves(const std::string& id, const std::vector<bool>& out) const;

  std::shared_ptr<Model> model_;
  std::vector<Entry> adapters_;                 // in order of fusion
  std::map<std::string, FusedWeight> weights_;  // of modules that adapters are in
  std::vector<StreamHook> stream_hooks_;
  Beside beside_;  // quantized models
};

}  // namespace s2ft
