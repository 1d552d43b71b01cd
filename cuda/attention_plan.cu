#include <algorithm>
#include <string>

#include "core/error.h"
#include "cuda/attention_plan.h"

namespace s2ft::cuda {

namespace {

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

/// What grows by a token a step is rounded up, so that most steps of a decoder are the
/// same launches over other numbers (Repeats).
int64_t rounded(int64_t n, int64_t least) {
  while (least < n) least *= 2;
  return least;
}

}  // namespace

AttentionPlan plan_attention(Context& context, const Sequences& s,
                             const AttentionShape& shape, TileRule rule) {
  AttentionPlan plan{};
  // One array, one copy: what belongs to heads, then what belongs to sequences.
  std::vector<int32_t> host;
  auto add = [&](size_t n) {
    const size_t at = host.size();
    host.resize(at + n, 0);
    return at;
  };
  const size_t heads = size_t(shape.heads), count = size_t(s.count);
  const size_t order = add(heads), group_begin = add(size_t(shape.kv_heads) + 1);
  int widest = 0, next = 0;
  for (int kv = 0; kv < shape.kv_heads; ++kv) {
    const int begin = next;
    host[group_begin + size_t(kv)] = begin;
    for (int h = 0; h < shape.heads; ++h) {
      if (shape.kv_head_of[h] == kv) host[order + size_t(next++)] = h;
    }
    widest = std::max(widest, next - begin);
  }
  host[group_begin + size_t(shape.kv_heads)] = next;

  const size_t q_begin = add(count + 1), k_begin = add(count), k_len = add(count);
  const size_t tile_begin = add(count + 1), splits = add(count), partial = add(count);
  const size_t split_rows = add(count + 1);
  int64_t tiles = 0;
  int64_t pages = 0;
  for (size_t i = 0; i < count; ++i) {
    const int64_t n = s.q[i + 1] - s.q[i], keys = s.k_len[i];
    host[q_begin + i] = s.q[i];
    host[k_begin + i] = s.pages ? 0 : s.k_begin[i];
    host[k_len + i] = int32_t(keys);
    host[tile_begin + i] = int32_t(tiles);
    host[split_rows + i] = int32_t(plan.split_rows);
    host[partial + i] = int32_t(plan.partials);
    const bool split = rule.may_split && n <= kFewQueries && keys > kSplitKeys;
    // The last parts may have no key.
    const int64_t parts = split ? rounded(ceil_div(keys, kSplitKeys), 2) : 1;
    host[splits + i] = int32_t(parts);
    tiles +=
        rule.keys ? ceil_div(keys, rule.keys) : ceil_div(n * widest, rule.rows) * parts;
    if (split) {
      plan.split_rows += n * shape.heads;
      plan.partials += n * shape.heads * parts;
    }
    if (s.pages && n) {
      pages = std::max(pages, s.page_begin[i] + ceil_div(keys, s.page_rows));
    }
  }
  host[q_begin + count] = count ? s.q[count] : 0;
  host[tile_begin + count] = int32_t(tiles);
  host[split_rows + count] = int32_t(plan.split_rows);
  plan.blocks = tiles * shape.kv_heads;
  if (plan.blocks > 0x7fffffff || plan.partials > 0x7fffffff) {
    throw Error("UNSUPPORTED", "attention: expected at most 2^31 tiles, found " +
                                   std::to_string(plan.blocks));
  }
  size_t page_begin = 0, page_list = 0;
  if (s.pages) {
    page_begin = add(count);
    page_list = add(size_t(rounded(pages, 64)));
    std::copy(s.page_begin, s.page_begin + count, host.begin() + long(page_begin));
    std::copy(s.pages, s.pages + pages, host.begin() + long(page_list));
  }
  const int32_t* device = context.to_device(host.data(), int64_t(host.size()));
  AttentionParams& p = plan.params;
  p.q_begin = device + q_begin;
  p.k_begin = device + k_begin;
  p.k_len = device + k_len;
  p.tile_begin = device + tile_begin;
  p.splits = device + splits;
  p.partial = device + partial;
  p.split_rows = device + split_rows;
  p.order = device + order;
  p.group_begin = device + group_begin;
  p.pages = s.pages ? device + page_list : nullptr;
  p.page_begin = s.pages ? device + page_begin : nullptr;
  p.count = s.count;
  p.heads = shape.heads;
  p.kv_heads = shape.kv_heads;
  p.head_dim = shape.head_dim;
  p.window = shape.window;
  p.page_rows = s.page_rows;
  p.scale = shape.scale;
  return plan;
}

bool fits_tensor_cores(const Context& context, const AttentionShape& shape,
                       const Mat* mats, int count) {
  if (shape.head_dim % 8 || shape.head_dim > 256 || context.capability() < 80)
    return false;
  for (int i = 0; i < count; ++i) {
    const Mat& m = mats[i];
    if (m.dtype != DType::bf16 || m.ld % 8 || reinterpret_cast<uintptr_t>(m.data) % 16) {
      return false;
    }
  }
  return true;
}

}  // namespace s2ft::cuda
