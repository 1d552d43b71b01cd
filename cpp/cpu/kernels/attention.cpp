// Attention forward: blocks of queries against blocks of keys with a running softmax, so
// that no score matrix exists (flash attention). A task is one block of queries for a few
// heads that share a key/value head; every row is summed in key order by one thread.
#include <omp.h>

#include <cmath>

#include "cpu/kernels/tile_attention.h"

namespace s2ft::S2FT_ISA {

namespace {

constexpr int kBlockQueries = 64, kBlockKeys = 256, kTaskHeads = 4;

struct Call {
  Mat o, lse, q, k, v;
  Sequences sequences;
  AttentionShape shape;
  HeadRuns runs;
  int task_heads;
};

/// One thread's scratch: packed operands, then the running state of the task's rows
/// (heads * queries of them).
struct Workspace {
  float *keys, *values, *queries, *scores, *weights, *sums, *peak, *mass;
};

size_t workspace_floats(const AttentionShape& shape) {
  size_t d = padded(shape.head_dim), rows = size_t(kTaskHeads) * kBlockQueries;
  return d * kBlockKeys * 2 + rows * d * 2 + kTileRows * kBlockKeys * 2 + rows * 2;
}

Workspace make_workspace(const AttentionShape& shape, float* at) {
  int64_t d = padded(shape.head_dim), rows = kTaskHeads * kBlockQueries;
  Workspace w;
  w.keys = at;
  w.values = w.keys + d * kBlockKeys;
  w.queries = w.values + d * kBlockKeys;
  w.sums = w.queries + rows * d;
  w.scores = w.sums + rows * d;
  w.weights = w.scores + kTileRows * kBlockKeys;
  w.peak = w.weights + kTileRows * kBlockKeys;
  w.mass = w.peak + rows;
  return w;
}

/// A block of queries of one sequence, for heads runs.order[head .. head + heads).
struct Task {
  int sequence, kv_head, head, heads;
  int64_t first, count;   // queries, within the sequence
  int64_t queries, keys;  // of the sequence
  int64_t query_row;      // where the sequence begins
};

/// The largest score a row sees, -inf where it sees none.
S2FT_INLINE float row_peak(const float* scores, Span seen) {
  const int64_t full0 = ceil_div(seen.begin, kLanes), full1 = seen.end / kLanes;
  const vf nothing = splat(-INFINITY);
  vf top = nothing;
  for (int64_t v = full0; v < full1; ++v) {
    top = max(load(scores + v * kLanes), top);
  }
  // The vectors the span covers in part: at most its first and its last.
  const int64_t first = seen.begin / kLanes, last = ceil_div(seen.end, kLanes) - 1;
  if (first < full0) {
    top = max(lanes_in(seen, first) ? load(scores + first * kLanes) : nothing, top);
  }
  if (last >= full1 && last >= full0) {
    top = max(lanes_in(seen, last) ? load(scores + last * kLanes) : nothing, top);
  }
  return largest(top);
}

template <bool kDot>
S2FT_INLINE void store_weight(void* weights, int64_t v, vf w) {
#if defined(S2FT_DOT_BF16)
  if constexpr (kDot) {
    const vh half = narrow_fast(w);
    std::memcpy(static_cast<bf16*>(weights) + v * kLanes, &half, sizeof half);
    return;
  }
#endif
  store(static_cast<float*>(weights) + v * kLanes, w);
}

/// weights = exp(scale * score - shift) in vectors [v0, v1), zero where the row does not
/// see; returns their sum.
template <bool kDot>
S2FT_INLINE float row_weights(const float* scores, void* weights, Span seen, int64_t v0,
                              int64_t v1, float scale, float shift) {
  const int64_t full0 = ceil_div(seen.begin, kLanes), full1 = seen.end / kLanes;
  const vf factor = splat(scale * kExponentUnit<kDot>);
  const vf away = splat(shift * kExponentUnit<kDot>);
  vf total{};
  for (int64_t v = v0; v < v1; ++v) {
    vf w{};
    if (v >= full0 && v < full1) {
      w = weight_of<kDot>(load(scores + v * kLanes), factor, away);
    } else if ((v + 1) * kLanes > seen.begin && v * kLanes < seen.end) {
      w = weight_of<kDot>(load(scores + v * kLanes), factor, away);
      w = lanes_in(seen, v) ? w : vf{};
    }
    total += w;
    store_weight<kDot>(weights, v, w);
  }
  return sum(total);
}

/// Turns a strip's scores into weights and moves its rows' state to the new peaks.
template <bool kDot>
S2FT_INLINE void softmax_strip(const Workspace& w, int64_t r, int64_t strip,
                               const Span* seen, int64_t v0, int64_t v1, float scale,
                               int64_t d) {
  constexpr int64_t kWeightUnits = kDot ? kBlockKeys / 2 : kBlockKeys;
  float peaks[kTileRows];
  for (int64_t i = 0; i < strip; ++i) {
    peaks[i] = row_peak(w.scores + i * kBlockKeys, seen[i]) * scale;
  }
  for (int64_t i = 0; i < strip; ++i) {
    const float before = w.peak[r + i];
    const float now = peaks[i] > before ? peaks[i] : before;
    // A row that has seen nothing yet keeps weights of zero rather than exp(inf - inf).
    const float shift = now == -INFINITY ? 0.0f : now;
    const float found =
        row_weights<kDot>(w.scores + i * kBlockKeys, w.weights + i * kWeightUnits,
                          seen[i], v0, v1, scale, shift);
    float mass = w.mass[r + i];
    if (now != before && before == -INFINITY) {
      w.peak[r + i] = now;
    } else if (now != before) {
      const float fade = exp(splat(before - shift))[0];
      mass *= fade;
      w.peak[r + i] = now;
      float* sums = w.sums + (r + i) * d;
      for (int64_t j = 0; j < d; j += kLanes) store(sums + j, load(sums + j) * fade);
    }
    w.mass[r + i] = mass + found;
  }
}

/// All the task's rows against one packed block of keys.
template <bool kDot>
void attend_block(const Call& call, const Task& task, const Workspace& w, int64_t key,
                  int64_t n) {
  const AttentionShape& shape = call.shape;
  const int64_t d = padded(shape.head_dim), row_size = row_units<kDot>(shape.head_dim);
  const int64_t rows = task.heads * task.count;
  for (int64_t r = 0; r < rows; r += kTileRows) {
    const int64_t strip = min_of(kTileRows, rows - r);
    Span seen[kTileRows], all = {n, 0};
    int64_t query = r % task.count;
    for (int64_t i = 0; i < strip; ++i) {
      seen[i] =
          visible(task.first + query, task.queries, task.keys, shape.window, key, n);
      if (++query == task.count) query = 0;
      if (seen[i].begin >= seen[i].end) continue;
      all = {min_of(all.begin, seen[i].begin), max_of(all.end, seen[i].end)};
    }
    if (all.begin >= all.end) continue;
    const int64_t v0 = all.begin / kLanes, v1 = ceil_div(all.end, kLanes);
    strip_product<kDot>(int(strip), int(v1 - v0), w.scores + v0 * kLanes, kBlockKeys,
                        false, w.queries + r * row_size, row_size, 1,
                        w.keys + v0 * kLanes, kBlockKeys, units<kDot>(shape.head_dim));
    softmax_strip<kDot>(w, r, strip, seen, v0, v1, shape.scale, d);
    constexpr int64_t kWeightUnits = kDot ? kBlockKeys / 2 : kBlockKeys;
    const int64_t from = units<kDot>(v0 * kLanes);
    strip_product<kDot>(int(strip), int(d / kLanes), w.sums + r * d, d, true,
                        w.weights + from, kWeightUnits, 1, w.values + from * d, d,
                        units<kDot>(all.end) - from);
  }
}

/// Packs keys [key, key + n) and their values, page by page where there are pages.
template <class T, bool kDot>
void pack_keys(const Call& call, const Task& task, const Workspace& w, int64_t key,
               int64_t n) {
  const int hd = call.shape.head_dim;
  const int64_t d = padded(hd), column = int64_t(task.kv_head) * hd;
  for (int64_t at = 0; at < n;) {
    const KeyRows here = key_rows(call.sequences, task.sequence, key + at, n - at);
    const T* k = call.k.as<T>() + here.row * call.k.ld + column;
    const T* v = call.v.as<T>() + here.row * call.v.ld + column;
    pack_transposed<T, kDot>(w.keys + at, kBlockKeys, k, call.k.ld, here.count, hd);
    pack_columns<T, kDot>(w.values + units<kDot>(at) * d, d, v, call.v.ld, here.count,
                          hd);
    at += here.count;
  }
}

template <class T, bool kDot>
void attend(const Call& call, const Task& task, const Workspace& w) {
  const AttentionShape& shape = call.shape;
  const int hd = shape.head_dim;
  const int64_t d = padded(hd), row_size = row_units<kDot>(hd);
  const int64_t rows = task.heads * task.count;
  const int64_t row0 = task.query_row + task.first;
  for (int h = 0; h < task.heads; ++h) {
    const int64_t column = int64_t(call.runs.order[task.head + h]) * hd;
    pack_rows<T, kDot>(w.queries + h * task.count * row_size, row_size,
                       call.q.as<T>() + row0 * call.q.ld + column, call.q.ld, task.count,
                       hd);
  }
  clear(w.sums, rows * d);
  clear(w.mass, rows);
  for (int64_t r = 0; r < rows; ++r) w.peak[r] = -INFINITY;

  const Span seen = visible_to_all(task.first, task.count, task.queries, task.keys,
                                   shape.window, 0, task.keys);
  for (int64_t key = seen.begin / kBlockKeys * kBlockKeys; key < seen.end;
       key += kBlockKeys) {
    const int64_t n = min_of(kBlockKeys, seen.end - key);
    pack_keys<T, kDot>(call, task, w, key, n);
    attend_block<kDot>(call, task, w, key, n);
  }

  for (int h = 0; h < task.heads; ++h) {
    const int64_t head = call.runs.order[task.head + h];
    for (int64_t i = 0; i < task.count; ++i) {
      const int64_t r = h * task.count + i, row = row0 + i;
      const float mass = w.mass[r];
      const int64_t ahead = row0 + min_of(i + kRowsAhead, task.count - 1);
      prefetch_row<true>(call.o.as<T>() + ahead * call.o.ld + head * hd, hd);
      write_row(call.o.as<T>() + row * call.o.ld + head * hd, w.sums + r * d, hd,
                mass == 0 ? 0.0f : 1 / mass);
      if (call.lse) {
        call.lse.as<float>()[row * call.lse.ld + head] = w.peak[r] + std::log(mass);
      }
    }
  }
}

/// Heads of one key/value head split into tasks of at most task_heads, as even as can be.
S2FT_INLINE int head_parts(const Call& call, int kv) {
  return int(ceil_div(call.runs.begin[kv + 1] - call.runs.begin[kv], call.task_heads));
}

/// Tasks of a sequence are numbered from its last queries, which see the most keys.
Task find_task(const Call& call, int sequence, int64_t number, int parts) {
  const Sequences& s = call.sequences;
  Task task{};
  task.sequence = sequence;
  task.query_row = s.q[sequence];
  task.queries = s.q[sequence + 1] - s.q[sequence];
  task.keys = s.k_len[sequence];
  const int64_t blocks = ceil_div(task.queries, kBlockQueries);
  task.first = (blocks - 1 - number / parts) * kBlockQueries;
  task.count = min_of(kBlockQueries, task.queries - task.first);
  int part = int(number % parts);
  for (int kv = 0; kv < call.shape.kv_heads; ++kv) {
    const int here = head_parts(call, kv);
    if (part < here) {
      const int begin = call.runs.begin[kv], heads = call.runs.begin[kv + 1] - begin;
      task.kv_head = kv;
      task.head = begin + heads * part / here;
      task.heads = begin + heads * (part + 1) / here - task.head;
      break;
    }
    part -= here;
  }
  return task;
}

int count_parts(const Call& call) {
  int parts = 0;
  for (int kv = 0; kv < call.shape.kv_heads; ++kv) parts += head_parts(call, kv);
  return parts;
}

// Packing a block of keys takes about as long as this many queries take with it.
constexpr int64_t kPackQueries = 3;

/// Heads that share packed keys do less work, single ones leave fewer threads idle: what
/// is done sooner. A decoder's one query a sequence is nearly all packing.
int choose_task_heads(Call& call, int64_t blocks) {
  int64_t queries = 1;
  for (int i = 0; i < call.sequences.count; ++i)
    queries = max_of(queries, call.sequences.q[i + 1] - call.sequences.q[i]);
  queries = min_of(queries, kBlockQueries);
  const auto cost = [&](int heads) {
    call.task_heads = heads;
    int64_t most = 1;
    for (int kv = 0; kv < call.shape.kv_heads; ++kv) {
      const int64_t all = call.runs.begin[kv + 1] - call.runs.begin[kv];
      if (all > 0) most = max_of(most, ceil_div(all, head_parts(call, kv)));
    }
    const int64_t turns = ceil_div(blocks * count_parts(call), omp_get_max_threads());
    return turns * (kPackQueries + most * queries);
  };
  return cost(1) < cost(kTaskHeads) ? 1 : kTaskHeads;
}

template <class T, bool kDot>
void run(Call& call, float* scratch) {
  const Sequences& s = call.sequences;
  int64_t blocks = 0;
  for (int i = 0; i < s.count; ++i)
    blocks += ceil_div(s.q[i + 1] - s.q[i], kBlockQueries);
  call.task_heads = choose_task_heads(call, blocks);
  const int parts = count_parts(call);
  const size_t stride = workspace_floats(call.shape);
#pragma omp parallel if (blocks * parts > 1)
  {
    const Workspace w =
        make_workspace(call.shape, scratch + omp_get_thread_num() * stride);
    int sequence = 0;
    int64_t base = 0;  // number of the sequence's first task
#pragma omp for schedule(dynamic)
    for (int64_t t = 0; t < blocks * parts; ++t) {
      if (t < base) sequence = 0, base = 0;
      for (;;) {
        const int64_t here =
            ceil_div(s.q[sequence + 1] - s.q[sequence], kBlockQueries) * parts;
        if (t < base + here) break;
        base += here;
        ++sequence;
      }
      attend<T, kDot>(call, find_task(call, sequence, t - base, parts), w);
    }
  }
}

}  // namespace

size_t attention_scratch(const AttentionShape& shape) {
  return (head_runs_floats(shape) + workspace_floats(shape)) * sizeof(float);
}

void attention(Mat o, Mat lse, Mat q, Mat k, Mat v, const Sequences& sequences,
               const AttentionShape& shape, void* scratch) {
  float* at = static_cast<float*>(scratch);
  Call call{o, lse, q, k, v, sequences, shape, make_head_runs(shape, at), 0};
  at += head_runs_floats(shape);
  if (q.dtype == DType::f32) return run<float, false>(call, at);
  run<bf16, kDotBf16>(call, at);
}

}  // namespace s2ft::S2FT_ISA
