// Attention backward: probabilities are recomputed block by block from the log-sum-exp,
// so that no score matrix exists. One item is a block of queries of one head; its d q is
// complete, its d k and d v go into sums in the scratch of the thread that runs it. Which
// thread runs an item, and the order of every sum, depend on the shapes and the thread
// count only.
#include <omp.h>

#include "cpu/kernels/tile_attention.h"

namespace s2ft::S2FT_ISA {

namespace {

constexpr int kBlockQueries = 128, kBlockKeys = 64;
// Larger teams would leave too few items for each member.
constexpr int kLargestTeam = 64;

struct Call {
  Mat dq, dk, dv, d_o, q, k, v, o, lse;
  Sequences sequences;
  AttentionShape shape;
  HeadRuns runs;
};

/// One thread's scratch: sums of d k and d v for a whole sequence, the query block's
/// operands and sums, the key block's operands, and weights P and gradients dS.
struct Workspace {
  float *dk, *dv;
  float *query_rows, *query_columns, *out_rows, *out_columns, *dq, *delta;
  float *keys, *values, *key_columns;
  float *scores, *gradients;         // one strip
  float *weights, *score_gradients;  // the block, P and dS, summed over queries
  float* gradient_rows;              // one strip of dS, summed over keys (kDot)
};

constexpr int64_t kTile = kBlockQueries * kBlockKeys;

size_t workspace_floats(const AttentionShape& shape, int longest) {
  size_t d = padded(shape.head_dim);
  return d * longest * 2 + d * kBlockQueries * 5 + kBlockQueries + d * kBlockKeys * 3 +
         kTileRows * kBlockKeys * 3 + kTile * 2;
}

Workspace make_workspace(const AttentionShape& shape, int longest, float* at) {
  const int64_t d = padded(shape.head_dim);
  auto take = [&](int64_t n) {
    float* here = at;
    at += n;
    return here;
  };
  Workspace w;
  w.dk = take(d * longest);
  w.dv = take(d * longest);
  w.query_rows = take(d * kBlockQueries);
  w.query_columns = take(d * kBlockQueries);
  w.out_rows = take(d * kBlockQueries);
  w.out_columns = take(d * kBlockQueries);
  w.dq = take(d * kBlockQueries);
  w.delta = take(kBlockQueries);
  w.keys = take(d * kBlockKeys);
  w.values = take(d * kBlockKeys);
  w.key_columns = take(d * kBlockKeys);
  w.scores = take(kTileRows * kBlockKeys);
  w.gradients = take(kTileRows * kBlockKeys);
  w.gradient_rows = take(kTileRows * kBlockKeys);
  w.weights = take(kTile);
  w.score_gradients = take(kTile);
  return w;
}

/// A block of queries of one head of one sequence.
struct Item {
  int64_t row, length;   // the sequence
  int64_t first, count;  // the queries, within the sequence
  int64_t head, kv_head;
};

S2FT_INLINE Span seen_by(const Call& call, const Item& item, int64_t i, int64_t key,
                         int64_t n) {
  return visible(item.first + i, item.length, item.length, call.shape.window, key, n);
}

/// P = exp(scale S - lse) and dS = P (dP - delta), without the factor `scale`, for one
/// vector; zero in lanes the row does not see. scale and lse in kExponentUnit.
template <bool kDot>
S2FT_INLINE void gradient_vector(const float* scores, const float* gradients, bool whole,
                                 Span seen, int64_t v, float scale, float lse,
                                 float delta, vf* weight, vf* gradient) {
  vf p = weight_of<kDot>(load(scores + v * kLanes), splat(scale), splat(lse));
  vf ds = p * (load(gradients + v * kLanes) - delta);
  if (!whole) {
    const vi mask = lanes_in(seen, v);
    p = mask ? p : vf{};
    ds = mask ? ds : vf{};
  }
  *weight = p;
  *gradient = ds;
}

/// Fills rows [r, r + strip) of the block's P and dS from the strip's S and dP, which
/// hold vectors [v0, v1); other vectors become zero.
template <bool kDot>
S2FT_INLINE void strip_gradients(const Call& call, const Item& item, const Workspace& w,
                                 int64_t r, int64_t strip, int64_t key, int64_t n,
                                 int64_t v0, int64_t v1) {
  constexpr int64_t kVectors = kBlockKeys / kLanes;
  const float scale = call.shape.scale * kExponentUnit<kDot>;
  Span seen[kTileRows];
  float lse[kTileRows];
  bool whole[kTileRows];
  for (int64_t i = 0; i < strip; ++i) {
    seen[i] = seen_by(call, item, r + i, key, n);
    whole[i] = seen[i].begin <= v0 * kLanes && seen[i].end >= v1 * kLanes;
    const int64_t row = item.row + item.first + r + i;
    lse[i] = call.lse.as<float>()[row * call.lse.ld + item.head] * kExponentUnit<kDot>;
  }
  for (int64_t i = 0; i < strip; i += kDot ? 2 : 1) {
    float* p_row = w.weights + units<kDot>(r + i) * kBlockKeys;
    float* ds_row = w.score_gradients + units<kDot>(r + i) * kBlockKeys;
    for (int64_t v = 0; v < kVectors; ++v) {
      vf p{}, ds{};
      if (v >= v0 && v < v1) {
        gradient_vector<kDot>(w.scores + i * kBlockKeys, w.gradients + i * kBlockKeys,
                              whole[i], seen[i], v, scale, lse[i], w.delta[r + i], &p,
                              &ds);
      }
#if defined(S2FT_DOT_BF16)
      if constexpr (kDot) {
        // Pairs of queries for d k and d v, pairs of keys for d q.
        vf p1{}, ds1{};
        const int64_t j = i + 1;
        if (v >= v0 && v < v1 && j < strip) {
          gradient_vector<kDot>(w.scores + j * kBlockKeys, w.gradients + j * kBlockKeys,
                                whole[j], seen[j], v, scale, lse[j], w.delta[r + j], &p1,
                                &ds1);
        }
        const __m512i ds_halves = narrow_both(ds, ds1);
        store(p_row + v * kLanes, interleave_halves(narrow_both(p, p1)));
        store(ds_row + v * kLanes, interleave_halves(ds_halves));
        bf16* at = reinterpret_cast<bf16*>(w.gradient_rows) + i * kBlockKeys + v * kLanes;
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(at),
                            _mm512_maskz_extracti64x4_epi64(0xf, ds_halves, 0));
        if (j < strip) {
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(at + kBlockKeys),
                              _mm512_maskz_extracti64x4_epi64(0xf, ds_halves, 1));
        }
        continue;
      }
#endif
      store(p_row + v * kLanes, p);
      store(ds_row + v * kLanes, ds);
    }
  }
}

/// All the item's queries against one packed block of keys.
template <bool kDot>
void block_gradients(const Call& call, const Item& item, const Workspace& w, int64_t key,
                     int64_t n) {
  const int hd = call.shape.head_dim;
  const int64_t d = padded(hd), row_size = row_units<kDot>(hd);
  const int vectors = int(d / kLanes);
  for (int64_t r = 0; r < item.count; r += kTileRows) {
    const int64_t strip = min_of(kTileRows, item.count - r);
    const Span all = visible_to_all(item.first + r, strip, item.length, item.length,
                                    call.shape.window, key, n);
    const int64_t v0 = all.begin / kLanes;
    const int64_t v1 = all.begin < all.end ? ceil_div(all.end, kLanes) : v0;
    if (v0 < v1) {
      strip_product<kDot>(int(strip), int(v1 - v0), w.scores + v0 * kLanes, kBlockKeys,
                          false, w.query_rows + r * row_size, row_size, 1,
                          w.keys + v0 * kLanes, kBlockKeys, units<kDot>(hd));
      strip_product<kDot>(int(strip), int(v1 - v0), w.gradients + v0 * kLanes, kBlockKeys,
                          false, w.out_rows + r * row_size, row_size, 1,
                          w.values + v0 * kLanes, kBlockKeys, units<kDot>(hd));
    }
    strip_gradients<kDot>(call, item, w, r, strip, key, n, v0, v1);
    if (v0 == v1) continue;
    const int64_t from = units<kDot>(v0 * kLanes);
    constexpr int64_t kRow = kDot ? kBlockKeys / 2 : kBlockKeys;
    const float* ds = kDot ? w.gradient_rows : w.score_gradients + r * kBlockKeys;
    strip_product<kDot>(int(strip), vectors, w.dq + r * d, d, true, ds + from, kRow, 1,
                        w.key_columns + from * d, d, units<kDot>(all.end) - from);
  }
  for (int64_t j = 0; j < n; j += kTileRows) {
    const int64_t strip = min_of(kTileRows, n - j);
    // Queries from the first key itself to the last key's window.
    const int64_t first_query = key + j - item.first;
    const int64_t past =
        call.shape.window > 0 ? first_query + strip - 1 + call.shape.window : item.count;
    const int64_t from = max_of(first_query, 0) / (kDot ? 2 : 1);
    const int64_t depth = units<kDot>(min_of(past, item.count)) - from;
    if (depth <= 0) continue;
    strip_product<kDot>(int(strip), vectors, w.dv + (key + j) * d, d, true,
                        w.weights + from * kBlockKeys + j, 1, kBlockKeys,
                        w.out_columns + from * d, d, depth);
    strip_product<kDot>(int(strip), vectors, w.dk + (key + j) * d, d, true,
                        w.score_gradients + from * kBlockKeys + j, 1, kBlockKeys,
                        w.query_columns + from * d, d, depth);
  }
}

template <class T>
S2FT_INLINE float dot_rows(const T* a, const T* b, int64_t n) {
  vf total{};
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) total = fma(load(a + j), load(b + j), total);
  if (j < n) total = fma(load(a + j, int(n - j)), load(b + j, int(n - j)), total);
  return sum(total);
}

template <class T, bool kDot>
void item_gradients(const Call& call, const Item& item, const Workspace& w) {
  const int hd = call.shape.head_dim;
  const int64_t d = padded(hd), row_size = row_units<kDot>(hd);
  const int64_t row0 = item.row + item.first, column = item.head * hd;
  const T* q = call.q.as<T>() + row0 * call.q.ld + column;
  const T* d_o = call.d_o.as<T>() + row0 * call.d_o.ld + column;
  const T* o = call.o.as<T>() + row0 * call.o.ld + column;
  for (int64_t i = 0; i < item.count; ++i) prefetch_row<false>(o + i * call.o.ld, hd);
  pack_rows<T, kDot>(w.query_rows, row_size, q, call.q.ld, item.count, hd);
  pack_rows<T, kDot>(w.out_rows, row_size, d_o, call.d_o.ld, item.count, hd);
  Workspace mine = w;
  if (kDot) {
    pack_columns<T, kDot>(w.query_columns, d, q, call.q.ld, item.count, hd);
    pack_columns<T, kDot>(w.out_columns, d, d_o, call.d_o.ld, item.count, hd);
  } else {
    mine.query_columns = w.query_rows;
    mine.out_columns = w.out_rows;
  }
  for (int64_t i = 0; i < item.count; ++i) {
    w.delta[i] = dot_rows(d_o + i * call.d_o.ld, o + i * call.o.ld, hd);
  }
  clear(w.dq, item.count * d);
  const Span seen = visible_to_all(item.first, item.count, item.length, item.length,
                                   call.shape.window, 0, item.length);
  for (int64_t key = seen.begin / kBlockKeys * kBlockKeys; key < seen.end;
       key += kBlockKeys) {
    const int64_t n = min_of(kBlockKeys, seen.end - key);
    const int64_t kv_column = item.kv_head * hd;
    const T* k = call.k.as<T>() + (item.row + key) * call.k.ld + kv_column;
    const T* v = call.v.as<T>() + (item.row + key) * call.v.ld + kv_column;
    pack_transposed<T, kDot>(w.keys, kBlockKeys, k, call.k.ld, n, hd);
    pack_transposed<T, kDot>(w.values, kBlockKeys, v, call.v.ld, n, hd);
    pack_columns<T, kDot>(w.key_columns, d, k, call.k.ld, n, hd);
    block_gradients<kDot>(call, item, mine, key, n);
  }
  for (int64_t i = 0; i < item.count; ++i) {
    write_row(call.dq.as<T>() + (row0 + i) * call.dq.ld + column, w.dq + i * d, hd,
              call.shape.scale);
  }
}

/// The items of one (sequence, key/value head), from the costliest.
struct Group {
  int64_t row, length;
  int kv_head, head, heads;  // runs.order[head .. head + heads)
};

Group find_group(const Call& call, int64_t number) {
  const int kv_heads = call.shape.kv_heads;
  const int sequence = int(number / kv_heads), kv = int(number % kv_heads);
  const int32_t* q = call.sequences.q + sequence;
  return {q[0], q[1] - q[0], kv, call.runs.begin[kv],
          call.runs.begin[kv + 1] - call.runs.begin[kv]};
}

/// Runs the group's items that fall to `member`: each goes, from the costliest, to the
/// member with the least work so far.
template <class T, bool kDot>
void group_gradients(const Call& call, const Group& group, int member, int members,
                     const Workspace& w) {
  const int64_t d = padded(call.shape.head_dim);
  clear(w.dk, group.length * d);
  clear(w.dv, group.length * d);
  int64_t load_of[kLargestTeam] = {};
  const int64_t blocks = ceil_div(group.length, kBlockQueries);
  for (int64_t block = blocks - 1; block >= 0; --block) {
    Item item{group.row, group.length, block * kBlockQueries, 0, 0, group.kv_head};
    item.count = min_of(kBlockQueries, group.length - item.first);
    const int64_t begin = visible(item.first, group.length, group.length,
                                  call.shape.window, 0, group.length)
                              .begin;
    const int64_t cost = item.count * (item.first - begin + item.count / 2 + 1);
    for (int h = 0; h < group.heads; ++h) {
      int least = 0;
      for (int m = 1; m < members; ++m) {
        if (load_of[m] < load_of[least]) least = m;
      }
      load_of[least] += cost;
      if (least != member) continue;
      item.head = call.runs.order[group.head + h];
      item_gradients<T, kDot>(call, item, w);
    }
  }
}

/// Adds the members' sums in their order and writes this member's share of the rows.
template <class T>
void write_group(const Call& call, const Group& group, int member, int members,
                 const Workspace& first, size_t member_stride) {
  const int hd = call.shape.head_dim;
  const int64_t d = padded(hd), column = int64_t(group.kv_head) * hd;
  const int64_t begin = group.length * member / members;
  const int64_t end = group.length * (member + 1) / members;
  for (int64_t i = begin; i < end; ++i) {
    float* dk = first.dk + i * d;
    float* dv = first.dv + i * d;
    for (int m = 1; m < members; ++m) {
      const size_t offset = member_stride * m;
      for (int64_t j = 0; j < d; j += kLanes) {
        store(dk + j, load(dk + j) + load(dk + offset + j));
        store(dv + j, load(dv + j) + load(dv + offset + j));
      }
    }
    const int64_t row = group.row + i;
    write_row(call.dk.as<T>() + row * call.dk.ld + column, dk, hd, call.shape.scale);
    write_row(call.dv.as<T>() + row * call.dv.ld + column, dv, hd, 1.0f);
  }
}

template <class T, bool kDot>
void run(const Call& call, int longest, float* scratch) {
  const int64_t groups = int64_t(call.sequences.count) * call.shape.kv_heads;
  const size_t stride = workspace_floats(call.shape, longest);
#pragma omp parallel
  {
    const int threads = omp_get_num_threads(), thread = omp_get_thread_num();
    if (threads == 1 || groups >= 4 * threads) {
      const Workspace w = make_workspace(call.shape, longest, scratch + thread * stride);
#pragma omp for schedule(dynamic)
      for (int64_t g = 0; g < groups; ++g) {
        const Group group = find_group(call, g);
        group_gradients<T, kDot>(call, group, 0, 1, w);
        write_group<T>(call, group, 0, 1, w, 0);
      }
    } else {
      // Few groups: teams of threads share one. `teams` run side by side.
      const int teams = int(max_of(1, min_of(groups, threads / 4)));
      const int members = int(min_of(threads / teams, kLargestTeam));
      const int team = thread / members, member = thread % members;
      const Workspace w = make_workspace(call.shape, longest, scratch + thread * stride);
      const Workspace first =
          make_workspace(call.shape, longest, scratch + (thread - member) * stride);
      for (int64_t round = 0; round < groups; round += teams) {
        const bool busy = team < teams && round + team < groups;
        Group group{};
        if (busy) {
          group = find_group(call, round + team);
          group_gradients<T, kDot>(call, group, member, members, w);
        }
#pragma omp barrier
        if (busy) write_group<T>(call, group, member, members, first, stride);
#pragma omp barrier
      }
    }
  }
}

}  // namespace

size_t attention_backward_scratch(const AttentionShape& shape, int longest) {
  return (head_runs_floats(shape) + workspace_floats(shape, longest)) * sizeof(float);
}

void attention_backward(Mat dq, Mat dk, Mat dv, Mat d_o, Mat q, Mat k, Mat v, Mat o,
                        Mat lse, const Sequences& sequences, const AttentionShape& shape,
                        void* scratch) {
  float* at = static_cast<float*>(scratch);
  Call call{dq, dk, dv,  d_o,       q,     k,
            v,  o,  lse, sequences, shape, make_head_runs(shape, at)};
  at += head_runs_floats(shape);
  int longest = 0;
  for (int i = 0; i < sequences.count; ++i) {
    const int length = sequences.q[i + 1] - sequences.q[i];
    if (length > longest) longest = length;
  }
  if (q.dtype == DType::f32) return run<float, false>(call, longest, at);
  run<bf16, kDotBf16>(call, longest, at);
}

}  // namespace s2ft::S2FT_ISA
