// The tuner's side of unstructured sparse fine-tuning: masks chosen by gradients.
#include "tune/sparse_part.h"
#include "tune/tuner.h"

namespace s2ft {

void Tuner::build_sparse(const MethodSpec& method) {
  if (!(method.sparse.share > 0 && method.sparse.share <= 1))
    throw Error("INVALID_ARGUMENT", "[sparse] share: expected above 0 up to 1, found " +
                                        std::to_string(method.sparse.share));
  sparse_ = method.sparse;
  choice_pending_ = sparse_.by_gradient();
  for (const std::string& name : method.modules) {
    Linear& linear = untrained_linear(name);
    adopt(linear, std::make_unique<SparsePart>(*model_->backend, linear, sparse_));
  }
}

SparsePart& Tuner::sparse_part(size_t parameter) {
  return static_cast<SparsePart&>(*hooks_[parameter].part);
}

void Tuner::calibrate_masks(const std::vector<std::vector<Sample>>& micro_batches,
                            const std::atomic<bool>* stop) {
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
      attach();
      accumulate(micro_batches, stop);
      numbers_.read(backend);  // throws where a loss is not finite
    }
    end(true);
  } catch (...) {
    end(false);
    throw;
  }
}

void Tuner::score_samples(const std::vector<std::vector<Sample>>& micro_batches,
                          const std::atomic<bool>* stop) {
  cancel = false;
  for (size_t i = 0; i < micro_batches.size(); ++i) {
    for (size_t s = 0; s < micro_batches[i].size(); ++s) {
      numbers_.expect(*model_->backend,
                      {pack({micro_batches[i][s]}, model_->config.vocab_size)});
      micro_step(numbers_.batches()[0], numbers_.losses(0), int(i), {}, 1, stop);
      try {
        numbers_.read(*model_->backend);
      } catch (const NotFinite& e) {
        throw NotFinite(e.what(), int(i), int(s));
      }
    }
  }
}

}  // namespace s2ft
