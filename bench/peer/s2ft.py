"""S²FT of LLaMA's feed-forward blocks in PyTorch, written after the paper (section 3).

The channels of a block are reordered so that those that train come first; gate and up give them
as rows, down takes them as columns. Forward is one dense product with the whole weight. Backward
takes the input gradient from the whole weight, and a weight gradient of the trained part alone.
That part is a parameter in the whole weight's own memory, so the optimizer writes in place.
"""

import torch
from torch import nn
from torch.nn import functional


def _flat(x):
    return x.reshape(-1, x.shape[-1])


class _Rows(torch.autograd.Function):
    """y = x Wᵀ with W (out, in), of which the first rows train."""

    @staticmethod
    def forward(ctx, x, part, weight):
        ctx.save_for_backward(x, weight)
        ctx.count = part.shape[0]
        return functional.linear(x, weight)

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        dx = dy @ weight if ctx.needs_input_grad[0] else None
        return dx, _flat(dy)[:, : ctx.count].t() @ _flat(x), None


class _Columns(torch.autograd.Function):
    """y = x V with V (in, out), the transposed weight, of which the first rows train."""

    @staticmethod
    def forward(ctx, x, part, transposed):
        # Only the trained channels are needed again; a copy lets the rest of x go.
        ctx.save_for_backward(_flat(x)[:, : part.shape[0]].contiguous(), transposed)
        return x @ transposed

    @staticmethod
    def backward(ctx, dy):
        x_part, transposed = ctx.saved_tensors
        dx = dy @ transposed.t() if ctx.needs_input_grad[0] else None
        return dx, x_part.t() @ _flat(dy), None


class SliceLinear(nn.Module):
    """A linear layer without bias whose first `count` rows of `weight` train."""

    def __init__(self, function, weight, count):
        super().__init__()
        self.function = function
        self.weight = weight  # a plain tensor: not a parameter, no gradient
        self.part = nn.Parameter(weight[:count])

    def forward(self, x):
        return self.function.apply(x, self.part, self.weight)


@torch.no_grad()
def apply_s2ft(model, channels, seed=0):
    """Freezes `model` and lets `channels` random channels of every feed-forward block train.

    Its function stays the same. Returns the parameters that train: of every block those of
    gate (channels, hidden), up (the same) and down (channels, hidden), which is transposed.
    """
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    parameters = []
    for layer in model.model.layers:
        mlp = layer.mlp
        order = torch.randperm(mlp.up_proj.weight.shape[0], generator=generator)
        mlp.gate_proj = SliceLinear(_Rows, mlp.gate_proj.weight[order], channels)
        mlp.up_proj = SliceLinear(_Rows, mlp.up_proj.weight[order], channels)
        mlp.down_proj = SliceLinear(_Columns, mlp.down_proj.weight.t()[order], channels)
        mlp.s2ft_order = order
        parameters += [mlp.gate_proj.part, mlp.up_proj.part, mlp.down_proj.part]
    return parameters
