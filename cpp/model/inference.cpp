#include "model/inference.h"

#include <numeric>

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
                                      const std::atomic<bool>* cancel) {
  std::vector<Sample> labelled = samples;
  for (Sample& s : labelled)
    if (!s.labels) s.labels = s.tokens;
  const Batch batch = pack(labelled, model.config.vocab_size);
  std::vector<std::vector<float>> out;
  for (const Sample& s : samples) out.emplace_back(size_t(s.length - 1), 0.0f);
  if (batch.targets.empty()) return out;
  Session session(model, batch, int64_t(batch.targets.size()), false);
  const Pass pass{model,  batch,  session.activations, false, nullptr, nullptr,
                  cancel, nullptr};
  forward(pass);
  const HeadResult head = loss_head(pass, 0);
  for (size_t i = 0; i < head.nll.size(); ++i) {
    const int32_t row = batch.target_rows[i];
    const int sample = batch.sample_of(row);
    out[sample][size_t(row - batch.begins[sample])] = -head.nll[i];
  }
  return out;
}

}  // namespace s2ft
