// The output head runs only on rows that predict a trained token, and the logits of a
// whole batch never exist.
#include <cmath>
#include <string>

#include "core/error.h"
#include "model/passes.h"

namespace s2ft {

namespace {

Mat normed_chunk(const Pass& pass, Mat rows) {
  Model& model = pass.model;
  const Mat normed = rows_of(pass.activations.head_normed, rows.rows);
  model.backend->rms_norm(normed, rows, model.final_norm.value,
                          model.config.norm_epsilon);
  return normed;
}

/// Rows that a chunk's products run over: a few shapes serve every length. What the rows
/// behind the chunk hold is never looked at; a row's product knows nothing of its
/// neighbours.
int64_t product_rows(const Activations& a, int64_t rows) {
  return std::min(a.head_chunk, padded_tokens(rows));
}

/// The bf16 gradient of logits lies over the start of the f32 row it comes from.
Mat gradient_view(Mat logits, DType dtype) {
  if (dtype == DType::f32) return logits;
  return {logits.data, dtype, logits.rows, logits.cols, 2 * logits.ld};
}

/// Losses of rows [i, i + n) by way of their logits, which a head that trains needs.
void losses_and_logits(const Pass& pass, Mat rows, Mat normed, int64_t i,
                       float gradient_scale) {
  Model& model = pass.model;
  Backend& backend = *model.backend;
  const Activations& a = pass.activations;
  const Mat logits = rows_of(a.logits, rows.rows);
  const int64_t padded = product_rows(a, rows.rows);
  const Mat padded_normed = rows_of(a.head_normed, padded);
  const Mat padded_logits = rows_of(a.logits, padded);
  backend.matmul(padded_logits, padded_normed, false, model.head.value, true, 0);
  const Mat d_logits = gradient_scale != 0 ? gradient_view(logits, model.dtype) : Mat{};
  backend.cross_entropy(a.nll.col_range(i, rows.rows), d_logits, logits,
                        pass.batch.targets.data() + i, gradient_scale);
  if (!d_logits) return;
  if (Parameter* head = model.head.parameter) {
    backend.matmul(head->gradient, d_logits, true, normed, false, 1);
  }
  backend.matmul(padded_normed, gradient_view(padded_logits, model.dtype), false,
                 model.head.value, false, 0);
}

}  // namespace

void loss_head(const Pass& pass, float gradient_scale) {
  Model& model = pass.model;
  Backend& backend = *model.backend;
  Activations& a = pass.activations;
  const Batch& b = pass.batch;
  const int64_t n = int64_t(b.targets.size());
  const bool with_gradient = gradient_scale != 0;
  backend.gather_rows(rows_of(a.head_rows, n), rows_of(a.output, b.size()),
                      b.target_rows.data());
  for (int64_t i = 0; i < n; i += a.head_chunk) {
    check_cancel(pass);
    const int64_t m = std::min(a.head_chunk, n - i);
    const Mat rows = a.head_rows.row_range(i, m);
    const Mat normed = normed_chunk(pass, rows);
    if (a.logits) {
      losses_and_logits(pass, rows, normed, i, gradient_scale);
    } else {
      backend.linear_cross_entropy(a.nll.col_range(i, m), with_gradient ? normed : Mat{},
                                   normed, model.head.value, b.targets.data() + i,
                                   gradient_scale, a.head_scratch);
    }
    if (!with_gradient) continue;
    Parameter* norm = model.final_norm.parameter;
    backend.rms_norm_backward(normed, false, norm ? norm->gradient : Mat{}, normed, rows,
                              model.final_norm.value, model.config.norm_epsilon);
    backend.copy(rows, normed);
  }
  if (with_gradient) {
    const Mat d_stream = rows_of(a.d_stream, b.size());
    backend.zero(d_stream);
    backend.scatter_add_rows(d_stream, rows_of(a.d_head_rows, n), b.target_rows.data());
  }
}

void require_finite(const Batch& batch, const float* nll) {
  for (size_t i = 0; i < batch.targets.size(); ++i) {
    if (std::isfinite(nll[i])) continue;
    const int sample = batch.sample_of(batch.target_rows[i]);
    throw NonFiniteRow("loss is " + std::to_string(nll[i]) + " in sample " +
                           std::to_string(sample) + " of the micro-batch",
                       sample);
  }
}

void each_logits_chunk(const Pass& pass, const std::vector<int32_t>& rows,
                       const std::function<void(int64_t i, Mat logits)>& body) {
  Model& model = pass.model;
  Backend& backend = *model.backend;
  Activations& a = pass.activations;
  for (int64_t i = 0, n = int64_t(rows.size()); i < n; i += a.head_chunk) {
    check_cancel(pass);
    const int64_t m = std::min(a.head_chunk, n - i);
    const Mat chunk = a.head_rows.row_range(0, m);
    backend.gather_rows(chunk, rows_of(a.output, pass.batch.size()), rows.data() + i);
    normed_chunk(pass, chunk);
    const int64_t padded = product_rows(a, m);
    backend.matmul(rows_of(a.logits, padded), rows_of(a.head_normed, padded), false,
                   model.head.value, true, 0);
    body(i, rows_of(a.logits, m));
  }
}

void logits_of_rows(const Pass& pass, const std::vector<int32_t>& rows, float* out,
                    float* normalizers) {
  Backend& backend = *pass.model.backend;
  const int64_t vocab = pass.model.config.vocab_size;
  const std::vector<int32_t> first(rows.size(), 0);
  each_logits_chunk(pass, rows, [&](int64_t i, Mat logits) {
    backend.download(out + i * vocab, logits.data,
                     size_t(logits.count()) * sizeof(float));
    if (!normalizers) return;
    const Mat nll = pass.activations.nll.col_range(i, logits.rows);
    backend.cross_entropy(nll, Mat{}, logits, first.data() + i, 0);
  });
  if (!normalizers) return;
  // log sum exp = -log p(any token) + its logit
  backend.download(normalizers, pass.activations.nll.data, rows.size() * sizeof(float));
  for (size_t r = 0; r < rows.size(); ++r) normalizers[r] += out[int64_t(r) * vocab];
}

void losses_of_rows(const Pass& pass, const std::vector<int32_t>& rows,
                    const std::vector<int32_t>& targets, float* out) {
  Backend& backend = *pass.model.backend;
  const Mat nll = pass.activations.nll;
  each_logits_chunk(pass, rows, [&](int64_t i, Mat logits) {
    backend.cross_entropy(nll.col_range(i, logits.rows), Mat{}, logits,
                          targets.data() + i, 0);
  });
  backend.download(out, nll.data, rows.size() * sizeof(float));
}

}  // namespace s2ft
