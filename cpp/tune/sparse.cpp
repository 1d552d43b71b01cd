// The tuner's side of unstructured sparse fine-tuning: masks chosen by gradients.
#include "tune/sparse_part.h"
#include "tune/tuner.h"

namespace s2ft {

void Tuner::build_sparse(const MethodSpec& method) {
  if (!(method.sparse.share > 0 && method.sparse.share <= 1))
    throw Error("INVALID_ARGUMENT", "[sparse] share: expected above 0 up to 1, found " +
                                        std::to_string(method.sparse.share));
  sparse_ = method.sparse;
  mask_pending_ = sparse_.by_gradient();
  for (const std::string& name : method.modules) {
    Linear& linear = untrained_linear(name);
    adopt(linear, std::make_unique<SparsePart>(*model_->backend, linear, sparse_));
  }
}

SparsePart& Tuner::sparse_part(size_t parameter) {
  return static_cast<SparsePart&>(*hooks_[parameter].part);
}

size_t Tuner::calibration_bytes() {
  size_t bytes = 0;
  if (mask_pending_)
    for (size_t i = 0; i < hooks_.size(); ++i) bytes += sparse_part(i).score_bytes();
  return bytes;
}

void Tuner::require_mask() const {
  if (!mask_pending_) return;
  throw Error("INVALID_ARGUMENT",
              "[sparse] the mask is chosen by gradients: calibrate before training");
}

void Tuner::calibrate(const std::vector<std::vector<Sample>>& micro_batches,
                      const std::atomic<bool>* stop) {
  if (!mask_pending_) return;
  attach();
  Backend& backend = *model_->backend;
  const bool fisher = sparse_.selection == SparseOptions::Selection::fisher;
  auto end = [&](bool select) {
    for (size_t i = 0; i < hooks_.size(); ++i)
      sparse_part(i).end_scoring(backend, select);
  };
  try {
    for (size_t i = 0; i < hooks_.size(); ++i)
      sparse_part(i).begin_scoring(backend, fisher);
    if (fisher) {
      score_samples(micro_batches, stop);
    } else {
      int64_t tokens;
      forward_backward(micro_batches, tokens, stop);
    }
    end(true);
  } catch (...) {
    end(false);
    throw;
  }
  mask_pending_ = false;
}

void Tuner::score_samples(const std::vector<std::vector<Sample>>& micro_batches,
                          const std::atomic<bool>* stop) {
  cancel = false;
  for (size_t i = 0; i < micro_batches.size(); ++i)
    for (const Sample& sample : micro_batches[i])
      micro_step(pack({sample}, model_->config.vocab_size), int(i), 1, stop);
}

void Tuner::set_masks(const std::vector<std::vector<int32_t>>& masks) {
  if (kind_ != MethodSpec::Kind::sparse || masks.size() != hooks_.size())
    throw Error("SHAPE_MISMATCH", "[sparse] expected a mask for each of " +
                                      std::to_string(hooks_.size()) + " modules");
  attach();
  for (size_t i = 0; i < masks.size(); ++i)
    sparse_part(i).select(*model_->backend, masks[i]);
  mask_pending_ = false;
}

}  // namespace s2ft
