// Tuner: one training run over a model. Owns the trainable parts, the optimizer state and
// the arena of activations; keeps the model alive. Not thread-safe: one thread at a time.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend/device_group.h"
#include "core/error.h"
#include "distributed/communicator.h"
#include "model/transformer.h"
#include "tune/choice.h"
#include "tune/galore_part.h"
#include "tune/lisa.h"
#include "tune/loreft.h"
#include "tune/parts.h"
#include "tune/sparse_part.h"
#include "tune/step_numbers.h"

namespace s2ft {

struct LoraModule {
  std::string name;
  LoraOptions options;
};

struct MethodSpec {
  enum class Kind {
    s2ft,
    lora,
    dora,
    sparse,
    lisa,
    galore,
    loreft,
    full
  } kind = Kind::s2ft;
  std::vector<LayerSelection> selection;  // s2ft: named units, one a layer, or none
  UnitChoice choice;                      // s2ft: how units are chosen otherwise
  std::vector<LoraModule> lora;           // lora, dora
  SparseOptions sparse;
  std::vector<std::string> modules;  // sparse
  LisaOptions lisa;
  GaloreOptions galore;
  LoreftOptions loreft;
  std::vector<int> layers;  // loreft
};

struct OptimizerSpec {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0;
  double max_grad_norm = 0;  // 0: no clipping
};

struct StepResult {
  double loss = 0, grad_norm = 0;
  int64_t tokens = 0;       // trained ones, of all ranks
  int64_t inputs = 0;       // all tokens, of all ranks
  bool stop_asked = false;  // by any rank: all of them learn it in the same step
};

struct MemoryPlan {
  size_t weights = 0, trainable = 0, optimizer = 0, activations = 0, workspace = 0;
  size_t process = 0;  // what the process, or the device, holds beside all of these
  size_t limit = 0;    // bytes of the device; 0: it computes in the host's memory
  size_t total() const {
    return weights + trainable + optimizer + activations + workspace + process;
  }
};

/// The group of the ranks' devices, or none where a backend has none. All ranks call it.
std::unique_ptr<DeviceGroup> join_devices(Backend& backend, Communicator& ranks);

class Tuner {
 public:
  /// Throws INVALID_ARGUMENT for a bad selection or unknown module, BUSY when the model
  /// already has a tuner attached.
  Tuner(std::shared_ptr<Model> model, const MethodSpec& method,
        const OptimizerSpec& optimizer, Recompute recompute);
  ~Tuner();
  Tuner(const Tuner&) = delete;

  /// From now on this is one of several ranks with the same model and method: steps and
  /// gradients are of the samples of all of them together (a rank may have none), places
  /// that data choose are rank 0's. What fails here, fails on all ranks with RANK_FAILED;
  /// weights and moments are then as before the step.
  /// Gradients travel by `devices`, where given, else through host memory.
  void join(std::shared_ptr<Communicator> ranks,
            std::unique_ptr<DeviceGroup> devices = nullptr);
  /// Of all parameters that train now: what ranks exchange in a step.
  int64_t gradient_values() const;
  /// Asks all ranks to stop after the step in flight; they find it in its result.
  std::atomic<bool> stop_asked{false};

  /// LISA: those that train now; a step may exchange them.
  const std::vector<Parameter*>& parameters() const { return parameters_; }
  /// For one micro-batch of this many tokens of so many samples, `trained` of them with a
  /// label.
  MemoryPlan plan(int64_t tokens, int64_t trained, int64_t samples);
  /// Of what trains, its moments and what restores the base; without activations.
  size_t held_bytes() const;

  /// One optimizer step over the micro-batches; the loss is the mean over all their
  /// trained tokens. On any error weights and moments are as before. `expected_tokens`:
  /// of all ranks, the same on each, where that is known before: bf16 gradients are then
  /// rounded as those of one rank are. 0: not known.
  StepResult step(const std::vector<std::vector<Sample>>& micro_batches,
                  double learning_rate, const std::atomic<bool>* stop = nullptr,
                  int64_t expected_tokens = 0);
  /// Mean loss; afterwards gradient() of every parameter is that of the mean loss.
  double gradients(const std::vector<Sample>& samples,
                   const std::atomic<bool>* stop = nullptr);
  std::vector<float> gradient(const Parameter& parameter);
  /// Chooses what trains by these samples where the method leaves that to data (units by
  /// activations or gradients, sparse masks by gradients); once, before the first step.
  /// Nothing to do otherwise. Holds dense scores of sparse masks, and dense gradients of
  /// a few layers at a time for units. Of several ranks the first one chooses. Throws
  /// NOT_FINITE, CANCELLED.
  void calibrate(const std::vector<std::vector<Sample>>& micro_batches,
                 const std::atomic<bool>* stop = nullptr);
  /// S2FT that waits for data: what calibrate() ranks units by, of every layer. Takes the
  /// tuned weights out.
  std::vector<UnitScores> unit_scores(
      const std::vector<std::vector<Sample>>& micro_batches,
      const std::atomic<bool>* stop = nullptr);
  bool choice_pending() const { return choice_pending_; }
  /// S2FT, sparse: trains at these places (Parameter::index, a list a parameter, each as
  /// long as before) instead, from base values. Throws SHAPE_MISMATCH.
  void set_places(const std::vector<std::vector<int32_t>>& places);
  /// Slices and masked elements: weight minus base. Others: the weight, from its master.
  std::vector<float> values(const Parameter& parameter);
  /// The inverse of values(), for all parameters: continues from an adapter. Throws
  /// SHAPE_MISMATCH before anything is written.
  void set_values(const std::vector<std::vector<float>>& values);

  void save_state(const std::string& path, std::map<std::string, std::string> metadata);
  std::map<std::string, std::string> load_state(const std::string& path);

  /// Takes the tuned weights out: base weights in base order, parts unhooked. Full
  /// fine-tuning, LISA and GaLore have no base to return to and leave their weights in.
  void detach();
  /// Puts them in again. Throws BUSY when another tuner is attached.
  void attach();
  bool attached() const { return attached_; }
  /// Full fine-tuning, LISA and GaLore train the base itself.
  bool changes_base() const {
    return kind_ == MethodSpec::Kind::full || kind_ == MethodSpec::Kind::lisa ||
           kind_ == MethodSpec::Kind::galore;
  }

  /// Ends the step in flight; cleared when the next one begins. (`stop` arguments are
  /// flags that nobody clears.)
  std::atomic<bool> cancel{false};

 private:
  /// Named units, or those that the choice takes without data; random ones stand in for
  /// a choice that waits for data.
  std::vector<LayerSelection> first_selection(const MethodSpec& method);
  /// Checks the units of every layer; touches nothing.
  std::vector<CoPermutation> permutations_for(
      std::vector<LayerSelection> selection) const;
  void build_s2ft(std::vector<CoPermutation> permutations);
  /// S2FT over a quantized model.
  void build_patches();
  void build_lora(const MethodSpec& method);
  void build_full();
  /// As build_full, with the linear layers' gradients projected.
  void build_galore(const GaloreOptions& options);
  void build_sparse(const MethodSpec& method);
  void build_loreft(const MethodSpec& method);
  SparsePart& sparse_part(size_t parameter);
  void score_samples(const std::vector<std::vector<Sample>>& micro_batches,
                     const std::atomic<bool>* stop);
  void calibrate_masks(const std::vector<std::vector<Sample>>& micro_batches,
                       const std::atomic<bool>* stop);
  /// Of base weights in base order: the tuner is detached.
  std::vector<UnitScores> activation_scores(
      const std::vector<std::vector<Sample>>& micro_batches,
      const std::atomic<bool>* stop);
  std::vector<UnitScores> gradient_scores(
      const std::vector<std::vector<Sample>>& micro_batches,
      const std::atomic<bool>* stop);
  /// Trains these units instead, from base values.
  void set_selection(const std::vector<LayerSelection>& selection);
  std::vector<LayerSelection> selection_of(
      const std::vector<std::vector<int32_t>>& places) const;
  size_t calibration_bytes();
  void require_choice() const;
  static int64_t count_prompts(const std::vector<Batch>& batches);
  /// Throws INVALID_ARGUMENT where a step would change nothing: without trained tokens,
  /// and LoReFT without a prompt.
  void require_work(int64_t tokens, int64_t prompts) const;
  void build_lisa(const LisaOptions& options);
  /// LISA: trains this period's layers, from fresh optimizer state, instead of the
  /// last's.
  void enter_period(int64_t period);
  /// LISA: that of the last of so many steps.
  int64_t period_of(int64_t steps) const {
    return std::max<int64_t>(0, steps - 1) / lisa_.interval;
  }
  /// LISA: weights of layers that do not train now; earlier periods may have changed
  /// them.
  std::vector<const TensorPlace*> resting_weights() const;
  /// Throws UNSUPPORTED for a method that trains what the model has quantized.
  void check_base(const MethodSpec& method) const;
  /// S2FT: the slices lie in the model's weights, and change places with their bases.
  bool slices_in_place() const { return model_->quantization == Quantization::none; }
  void hook_parts();
  void unhook_parts();
  void restore_order();
  /// Exchanges the slices in the model's weights with what is kept for them.
  void swap_slices();
  /// The linear layer of this name. Throws INVALID_ARGUMENT when there is none, or when
  /// it has a part already.
  Linear& untrained_linear(const std::string& name);
  void adopt(Linear& linear, std::unique_ptr<TunedPart> part);
  /// All weights of a layer.
  void train_layer(int index);
  void train_weight(Weight& weight, const std::string& name, bool decays);
  /// The parameters' values have changed.
  void refresh_parts();
  void zero_gradients();
  /// Queues the gradients of the mean loss, with whatever parts are hooked in; returns
  /// how many tokens are trained. numbers_ will have the losses.
  int64_t accumulate(const std::vector<std::vector<Sample>>& micro_batches,
                     const std::atomic<bool>* stop);
  /// Which micro-batches of a step are worked on here: rank, rank + size, ...
  struct Share {
    int rank = 0, size = 1;
  };
  std::vector<Batch> pack_all(
      const std::vector<std::vector<Sample>>& micro_batches) const;
  /// Queues: gradients += gradient_scale times the gradient of the sum of losses.
  void run(std::vector<Batch> batches, float gradient_scale, Share share,
           const std::atomic<bool>* stop);
  /// Backend::repeat with keys of this tuner's own.
  void repeat(uint64_t key, const std::function<void()>& body);
  void micro_step(const Batch& batch, Mat losses, int micro, Share share,
                  float gradient_scale, const std::atomic<bool>* stop);
  /// Queues the gradients of the mean loss over the samples of all ranks. The result's
  /// loss is known where there are several; else finish() has it.
  StepResult queue_gradients(const std::vector<std::vector<Sample>>& micro_batches,
                             const std::atomic<bool>* stop, int64_t expected_tokens);
  /// Waits for what is queued. Throws NotFinite.
  void finish(StepResult& result);
  struct Totals;
  Totals sum_over_ranks(const std::vector<std::vector<Sample>>& micro_batches,
                        double gradient_scale, const std::atomic<bool>* stop);
  /// Replaces gradients, and totals, by their sums over ranks.
  void sum_gradients(double* totals, size_t count);
  void sum_on_devices();
  /// Others learn of an error on this rank.
  void telling_ranks(const std::function<void()>& work);
  /// GaLore: every rank gets the projections that rank 0 has made.
  void share_projections();
  bool renewing() const {
    return kind_ == MethodSpec::Kind::galore && step_ % galore_.interval == 0;
  }
  /// Places that data chose become rank 0's.
  void share_places();
  void choose_places(const std::vector<std::vector<Sample>>& micro_batches,
                     const std::atomic<bool>* stop);
  ActivationRequest training_request(int64_t tokens, int64_t trained,
                                     int64_t samples) const;
  void prepare_arena(const ActivationRequest& request);

  const uint64_t serial_;  // among all tuners of the process
  std::shared_ptr<Model> model_;
  std::shared_ptr<Communicator> ranks_;  // empty: this is all there is
  std::unique_ptr<DeviceGroup> devices_;
  Buffer summed_;  // what devices_ sums
  OptimizerSpec optimizer_;
  Recompute recompute_;
  MethodSpec::Kind kind_;
  std::vector<CoPermutation> permutations_;
  /// GaLore: what a linear layer's state holds beside its moments.
  struct Projected {
    std::string name;
    Mat projection, weight;
  };
  std::vector<Projected> projections();
  struct Hook {
    Linear* linear;
    std::unique_ptr<TunedPart> part;
  };
  std::vector<Hook> hooks_;
  struct StreamHook {
    Layer* layer;
    std::unique_ptr<TrainedLoreft> intervention;
  };
  std::vector<StreamHook> stream_hooks_;
  struct Trained {
    Weight* weight;
    std::unique_ptr<Parameter> parameter;
    Buffer state;
  };
  std::vector<Trained> trained_;
  std::vector<Parameter*> parameters_;
  std::vector<Buffer> bases_;  // S2FT: the slices as they were, contiguous, model dtype
  UnitChoice choice_;
  SparseOptions sparse_;
  bool choice_pending_ = false;
  GaloreOptions galore_;
  LisaOptions lisa_;
  int64_t period_ = -1;
  std::vector<int> live_layers_;
  size_t always_trained_ = 0;  // parameters, and as many of trained_, before the layers'
  Buffer arena_;
  Activations activations_;
  StepNumbers numbers_;
  int64_t step_ = 0;
  bool attached_ = false;
};

}  // namespace s2ft
