#include "model/inference.h"

#include <numeric>
#include <string>

#include "core/error.h"

namespace s2ft {

namespace {

struct Session {
  Buffer buffer;
  Activations activations;

  Session(Model& model, const Batch& batch, int64_t rows, bool logits) {
    ActivationRequest request;
    request.tokens = batch.size();
    request.trained = rows;
    request.logits = logits;
    request.samples = batch.samples();
    Arena count;
    lay_out(model, request, count);
    buffer = model.backend->allocate(count.peak());
    Arena place(buffer.data());
    activations = lay_out(model, request, place);
  }
};

}  // namespace

std::vector<float> all_logits(Model& model, const int32_t* tokens, int32_t length,
                              const std::atomic<bool>* cancel) {
  const Batch batch = pack({{tokens, nullptr, length}}, model.config.vocab_size);
  Session session(model, batch, length, true);
  const Pass pass{model,  batch,  session.activations, false, nullptr, nullptr,
                  cancel, nullptr};
  forward(pass);
  std::vector<int32_t> rows(length);
  std::iota(rows.begin(), rows.end(), 0);
  std::vector<float> out(size_t(length) * size_t(model.config.vocab_size));
  logits_of_rows(pass, rows, out.data());
  return out;
}

std::vector<std::vector<float>> score(Model& model, const std::vector<Sample>& samples,
                                      const std::vector<std::vector<int32_t>>& candidates,
                                      const std::atomic<bool>* cancel) {
  if (!candidates.empty() && candidates.size() != samples.size()) {
    throw Error("INVALID_ARGUMENT", "[score] expected candidates for each of " +
                                        std::to_string(samples.size()) +
                                        " samples, found " +
                                        std::to_string(candidates.size()) + " lists");
  }
  std::vector<Sample> labelled = samples;
  for (Sample& s : labelled)
    if (!s.labels) s.labels = s.tokens;
  Batch batch = pack(labelled, model.config.vocab_size);
  const size_t labels = batch.targets.size();
  std::vector<std::vector<float>> out;
  for (size_t s = 0; s < samples.size(); ++s) {
    const size_t more = candidates.empty() ? 0 : candidates[s].size();
    out.emplace_back(size_t(samples[s].length - 1) + more, 0.0f);
    for (size_t c = 0; c < more; ++c) {
      const int32_t token = candidates[s][c];
      if (token < 0 || token >= model.config.vocab_size) {
        throw Error("INVALID_ARGUMENT", "[score] candidate " + std::to_string(c) +
                                            " of sample " + std::to_string(s) +
                                            ": expected a token in [0, " +
                                            std::to_string(model.config.vocab_size) +
                                            "), found " + std::to_string(token));
      }
      batch.target_rows.push_back(batch.begins[s + 1] - 1);
      batch.targets.push_back(token);
    }
  }
  if (batch.targets.empty()) return out;
  Session session(model, batch, int64_t(batch.targets.size()), false);
  const Pass pass{model,  batch,  session.activations, false, nullptr, nullptr,
                  cancel, nullptr};
  forward(pass);
  loss_head(pass, 0);
  std::vector<float> nll(batch.targets.size());
  model.backend->download(nll.data(), session.activations.nll.data,
                          nll.size() * sizeof(float));
  require_finite(batch, nll.data());
  for (size_t i = 0; i < labels; ++i) {
    const int32_t row = batch.target_rows[i];
    const int sample = batch.sample_of(row);
    out[sample][size_t(row - batch.begins[sample])] = -nll[i];
  }
  size_t next = labels;
  for (size_t s = 0; s < candidates.size(); ++s)
    for (size_t c = 0; c < candidates[s].size(); ++c)
      out[s][size_t(samples[s].length - 1) + c] = -nll[next++];
  return out;
}

}  // namespace s2ft
