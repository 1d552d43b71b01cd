"""Checks s2ft.py against PyTorch's own autograd on a small random model in double precision."""

import copy

import torch
from s2ft import apply_s2ft
from transformers import LlamaConfig, LlamaForCausalLM

CHANNELS = 7


def expect(condition, message):
    if not condition:
        raise SystemExit(f"check_s2ft: {message}")


def close(found, wanted):
    return torch.allclose(found, wanted, rtol=1e-9, atol=1e-12)


def slices_of(mlp, order, values):
    """What `values` of gate, up and down hold for the first channels of `order`."""
    gate, up, down = (values(getattr(mlp, f"{name}_proj").weight) for name in ("gate", "up", "down"))
    chosen = order[:CHANNELS]
    return gate[chosen], up[chosen], down.t()[chosen]


def main():
    torch.manual_seed(1)
    torch.set_default_dtype(torch.float64)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    dense = LlamaForCausalLM(config).train()
    sliced = copy.deepcopy(dense)
    parameters = apply_s2ft(sliced, CHANNELS)
    ids = torch.randint(0, 61, (2, 9))
    labels = ids.clone()
    labels[:, :3] = -100

    wanted = dense(input_ids=ids, labels=labels)
    found = sliced(input_ids=ids, labels=labels)
    expect(close(found.logits, wanted.logits), "reordering channels changed the function")
    wanted.loss.backward()
    found.loss.backward()
    trained = [n for n, p in sliced.named_parameters() if p.requires_grad]
    expect(len(trained) == len(parameters), f"only slices should train, found {trained}")
    for i, layer in enumerate(dense.model.layers):
        order = sliced.model.layers[i].mlp.s2ft_order
        gradients = slices_of(layer.mlp, order, lambda weight: weight.grad)
        for name, part, gradient in zip(("gate", "up", "down"), parameters[3 * i :], gradients):
            expect(close(part.grad, gradient), f"layer {i}, {name}: another gradient than autograd's")

    frozen = [m.weight[CHANNELS:].clone() for m in sliced.modules() if hasattr(m, "part")]
    torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.0, fused=True).step()
    torch.optim.AdamW(dense.parameters(), lr=0.01, weight_decay=0.0, fused=True).step()
    with torch.no_grad():
        for i, layer in enumerate(dense.model.layers):
            order = sliced.model.layers[i].mlp.s2ft_order
            for part, value in zip(parameters[3 * i :], slices_of(layer.mlp, order, lambda w: w)):
                expect(close(part, value), f"layer {i}: the optimizer's step differs")
    modules = [m for m in sliced.modules() if hasattr(m, "part")]
    for module, before in zip(modules, frozen):
        expect(torch.equal(module.weight[CHANNELS:], before), "frozen channels changed")
        expect(torch.equal(module.weight[:CHANNELS], module.part), "the part left its weight")
    print("s2ft.py: function, gradients and step agree with autograd")


if __name__ == "__main__":
    main()
