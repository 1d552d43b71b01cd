// The published kernels over one feed-forward block: S2FT's and LoRA's trainable parts,
// as training uses them, over the same weights.
#include <algorithm>
#include <numeric>

#include "napi/bench_ops_builder.h"

namespace s2ft {

std::vector<int32_t> OpGroupBuilder::channel_order() {
  std::vector<int32_t> order(size_t(s.intermediate));
  std::iota(order.begin(), order.end(), 0);
  rng_.shuffle(order.data(), order.size());
  std::sort(order.begin(), order.begin() + s.channels);
  std::sort(order.begin() + s.channels, order.end());
  return order;
}

void OpGroupBuilder::method_adamw(const std::string& name,
                                  std::vector<TunedPart*> parts) {
  std::vector<AdamW> updates;
  double bytes = 0;
  for (TunedPart* part : parts) {
    for (const auto& p : part->parameters) {
      fill(p->gradient, 1e-2f);
      AdamW u;
      u.weight = p->weight, u.master = p->master, u.gradient = p->gradient;
      u.first = p->first, u.second = p->second;
      u.learning_rate = 1e-5, u.beta1 = 0.9, u.beta2 = 0.999, u.epsilon = 1e-8;
      u.weight_decay = 0, u.gradient_scale = 1, u.step = 1;
      updates.push_back(u);
      // Moments and value are read and written, the gradient read, bf16 weights written.
      bytes += 7 * bytes_of(p->gradient);
      if (p->master) bytes += bytes_of(p->weight);
    }
  }
  op(name, 0, bytes, [b = &b, updates] {
    for (const AdamW& update : updates) b->adamw(update);
  });
}

/// The feed-forward block's gate, up and down by S2FT and by LoRA over the same weights.
void OpGroupBuilder::method() {
  const int64_t t = s.tokens, d = s.hidden, k = s.intermediate, c = s.channels;
  Backend* const b = &this->b;
  const Mat gate_up = weight(2 * k, d), down = weight(d, k);
  const Linear gate = linear("gate", gate_up.row_range(0, k));
  const Linear up = linear("up", gate_up.row_range(k, k));
  const Linear last = linear("down", down);
  const Mat x = activation(d), h = activation(k), dy = activation(d);
  const Mat d_gate_up = activation(2 * k), dx = zeros(s.dtype, t, d);
  const Mat dh = zeros(s.dtype, t, k);
  const Mat y = zeros(s.dtype, t, 2 * k), stream = zeros(s.dtype, t, d);

  auto order = std::make_shared<std::vector<int32_t>>(channel_order());
  const double moved = 2 * (bytes_of(gate_up) + bytes_of(down));
  op("co_permutation", 0, moved, [b, order, gate, up, down] {
    b->permute_rows(gate.weight, order->data());
    b->permute_rows(up.weight, order->data());
    b->permute_cols(down, order->data());
  });

  auto* s_gate = part<RowsPart>(gate, int64_t(0), c);
  auto* s_up = part<RowsPart>(up, int64_t(0), c);
  auto* s_down = part<ColsPart>(last, int64_t(0), c);
  LoraOptions options;
  options.r = s.rank, options.scale = 2;
  std::vector<LoraPart*> loras;
  for (const Linear* l : {&gate, &up, &last})
    loras.push_back(part<LoraPart>(*l, options));
  auto place = [&](Arena& arena) {
    for (LoraPart* l : loras)
      l->layout_saved(arena, t, true), l->layout_scratch(arena, t);
  };
  Arena count;
  place(count);
  group_.storage.push_back(b->allocate(count.peak()));
  Arena arena(group_.storage.back().data());
  place(arena);

  auto frozen_forward = [=] {
    b->matmul(y, x, false, gate_up, true, 0);
    b->matmul(stream, h, false, down, true, 1);
  };
  auto lora_forward = [=] {
    loras[0]->forward(*b, y.col_range(0, k), x, true);
    loras[1]->forward(*b, y.col_range(k, k), x, true);
    loras[2]->forward(*b, stream, h, true);
  };
  auto frozen_backward = [=] {
    b->matmul(dh, dy, false, down, false, 0);
    b->matmul(dx, d_gate_up, false, gate_up, false, 0);
  };
  auto part_backward = [=](TunedPart* g, TunedPart* u, TunedPart* l, Mat down_input) {
    l->backward(*b, dh, dy, down_input);
    g->backward(*b, dx, d_gate_up.col_range(0, k), x);
    u->backward(*b, dx, d_gate_up.col_range(k, k), x);
  };
  const double base = 6.0 * double(t) * double(d) * double(k);
  const double thin = 6.0 * double(t) * double(s.rank) * double(d + k);
  const double slices = 6.0 * double(t) * double(d) * double(c);
  const double weights = bytes_of(gate_up) + bytes_of(down);
  const double streams = 2 * bytes_of(x) + bytes_of(h) + bytes_of(y);
  double adapter = 0, slice = 0;
  for (LoraPart* l : loras)
    for (const auto& p : l->parameters) adapter += double(p->weight.count());
  for (TunedPart* p : std::initializer_list<TunedPart*>{s_gate, s_up, s_down})
    slice += double(p->parameters[0]->weight.count());
  const double element = double(dtype_size(s.dtype));
  op("partial_forward", base, weights + streams, frozen_forward);
  op("lora_forward", base + thin, weights + streams + adapter * element,
     [=] { frozen_forward(), lora_forward(); });
  op("partial_backward", base + slices, weights + streams + 8 * slice, [=] {
    frozen_backward();
    part_backward(s_gate, s_up, s_down, h.col_range(0, c));
  });
  // The backward pass scales in place what the forward pass saved.
  op("lora_backward", base + 2 * thin, weights + streams + (element + 8) * adapter, [=] {
    frozen_backward();
    part_backward(loras[0], loras[1], loras[2], h);
  }).prepare = lora_forward;
  method_adamw("slice_adamw", {s_gate, s_up, s_down});
  method_adamw("lora_adamw", {loras[0], loras[1], loras[2]});
}

}  // namespace s2ft
