// The two graphs of attention: forward as softmax(scale Q K^T, causal) V with the
// log-sum- exp of each row, backward from that (Dao et al., FlashAttention, sections 3
// and B.4). The library fuses each into one kernel, for which the operations have to come
// in this form.
#include <tuple>

#include "cuda/cudnn_attention.h"
#include "cuda/cudnn_ids.h"

namespace s2ft::cuda {

using namespace dnn;

namespace {

/// Names of what graphs have in common.
struct Common {
  Graph& graph;
  const DnnShape& s;

  Layout rows(int64_t heads, int which) const {
    const int64_t ld = s.distances[size_t(which)];
    return {{s.batch, heads, s.tokens, s.head_dim}, {s.tokens * ld, s.head_dim, ld, 1}};
  }
  Layout square() const { return Layout::packed(s.batch, s.heads, s.tokens, s.tokens); }
  Layout column() const { return Layout::packed(s.batch, s.heads, s.tokens, 1); }
  Layout sums() const {
    const int64_t ld = s.distances[kLse];
    return {{s.batch, s.heads, s.tokens, 1}, {s.tokens * ld, 1, ld, 1}};
  }
  Graph::Tensor matrix(int which, int64_t heads) {
    return graph.bound(which, kBfloat16, rows(heads, which));
  }
  Graph::Tensor scores() { return graph.between(kFloat, square()); }

  Graph::Tensor pointwise(Pointwise mode, Graph::Tensor x, Graph::Tensor b = nullptr) {
    const Graph::Tensor y = scores();
    graph.pointwise(mode, y, x, b);
    return y;
  }

  /// scale Q K^T
  Graph::Tensor scaled_scores(Graph::Tensor q, Graph::Tensor k_transposed,
                              Graph::Tensor scale) {
    const Graph::Tensor product = scores();
    graph.matmul(product, q, k_transposed);
    return pointwise(kMul, product, scale);
  }

  /// Scores of keys behind the query become `lowest`.
  Graph::Tensor causal(Graph::Tensor x) {
    const Graph::Tensor row = graph.between(kInt32, square());
    const Graph::Tensor col = graph.between(kInt32, square());
    graph.index(row, x, 2);
    graph.index(col, x, 3);
    const Graph::Tensor seen = graph.between(kBoolean, square());
    graph.pointwise(kGreaterOrEqual, seen, row, col, nullptr, kBoolean);
    const Graph::Tensor y = scores();
    graph.pointwise(kSelect, y, x, graph.number(kLowest), seen);
    return y;
  }

  /// A bf16 copy with the last two dimensions in each other's place.
  Graph::Tensor transposed(Graph::Tensor x) {
    const Graph::Tensor y = graph.between(kBfloat16, square().transposed());
    graph.reshape(y, x);
    return y;
  }

  /// For a key/value head the sum over its query heads of a^T b.
  void key_gradient(int which, Graph::Tensor a, Graph::Tensor b) {
    const Graph::Tensor y = matrix(which, s.kv_heads);
    if (s.heads == s.kv_heads) {
      graph.matmul(y, transposed(a), b);
      return;
    }
    const Graph::Tensor each =
        graph.between(kBfloat16, Layout::packed(s.batch, s.heads, s.tokens, s.head_dim));
    graph.matmul(each, transposed(a), b);
    graph.reduce(kSum, y, each);
  }
};

}  // namespace

bool DnnShape::operator<(const DnnShape& other) const {
  const auto all = [](const DnnShape& s) {
    return std::tie(s.batch, s.tokens, s.heads, s.kv_heads, s.head_dim, s.distances);
  };
  return all(*this) < all(other);
}

std::unique_ptr<ExecutionPlan> dnn_forward_plan(const Api& api, const Device& device,
                                                const DnnShape& s) {
  Graph graph(api);
  Common c{graph, s};
  const Graph::Tensor k = graph.bound(kK, kBfloat16, c.rows(s.kv_heads, kK).transposed());
  const Graph::Tensor scores =
      c.causal(c.scaled_scores(c.matrix(kQ, s.heads), k, graph.number(kScale)));
  const Graph::Tensor top = graph.between(kFloat, c.column());
  graph.reduce(kMax, top, scores);
  const Graph::Tensor weights = c.pointwise(kExp, c.pointwise(kSub, scores, top));
  const Graph::Tensor mass = graph.between(kFloat, c.column());
  graph.reduce(kSum, mass, weights);
  const Graph::Tensor log_mass = graph.between(kFloat, c.column());
  graph.pointwise(kLog, log_mass, mass);
  graph.pointwise(kAdd, graph.bound(kLse, kFloat, c.sums()), top, log_mass);
  const Graph::Tensor shares = graph.between(kBfloat16, c.square());
  graph.pointwise(kDiv, shares, weights, mass);
  graph.matmul(c.matrix(kO, s.heads), shares, c.matrix(kV, s.kv_heads));
  return graph.plan(device);
}

std::unique_ptr<ExecutionPlan> dnn_backward_plan(const Api& api, const Device& device,
                                                 const DnnShape& s) {
  Graph graph(api);
  Common c{graph, s};
  const Graph::Tensor q = c.matrix(kQ, s.heads), d_o = c.matrix(kDo, s.heads);
  const Layout k_rows = c.rows(s.kv_heads, kK);
  const Graph::Tensor k = graph.bound(kK, kBfloat16, k_rows.transposed());
  const Graph::Tensor v = graph.bound(kV, kBfloat16, c.rows(s.kv_heads, kV).transposed());
  const Graph::Tensor scale = graph.number(kScale);

  // delta: of each row the sum of o * d_o. The factor, where dropout has its own, is part
  // of the form that the library knows.
  const Graph::Tensor products =
      graph.between(kFloat, Layout::packed(s.batch, s.heads, s.tokens, s.head_dim));
  graph.pointwise(kMul, products, d_o, c.matrix(kO, s.heads));
  const Graph::Tensor sums = graph.between(kFloat, c.column());
  graph.reduce(kSum, sums, products);
  const Graph::Tensor delta = graph.bound(kDelta, kFloat, c.column());
  graph.pointwise(kMul, delta, sums, graph.number(kOne));

  // The weights again, from the log-sum-exp; dv = weights^T d_o
  const Graph::Tensor lse = graph.bound(kLse, kFloat, c.sums());
  const Graph::Tensor weights =
      c.pointwise(kExp, c.causal(c.pointwise(kSub, c.scaled_scores(q, k, scale), lse)));
  c.key_gradient(kDv, weights, d_o);

  // ds = scale weights (d_o v^T - delta); dk = ds^T q, dq = ds k
  const Graph::Tensor d_weights = c.scores();
  graph.matmul(d_weights, d_o, v);
  const Graph::Tensor d_scores = c.pointwise(
      kMul, c.pointwise(kMul, c.pointwise(kSub, d_weights, delta), weights), scale);
  c.key_gradient(kDk, d_scores, q);
  const Graph::Tensor keys = graph.between(kBfloat16, k_rows);
  graph.reshape(keys, k);
  graph.matmul(c.matrix(kDq, s.heads), d_scores, keys);
  return graph.plan(device);
}

}  // namespace s2ft::cuda
