"""Makes selection.json: the mean norms of activations that selection ranks units by.

    venv/bin/python test/golden/make_selection.py

For each case, layer and group: the mean over all tokens of batch 0 of the L2 norm of what goes
into o_proj (of a head; of all heads of a key/value head) and into down_proj (of a channel).
Computed by transformers in float64 from the stored weights, a sample at a time.
"""

import json
import pathlib

import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parent


def means(name):
    model = transformers.AutoModelForCausalLM.from_pretrained(ROOT / name, dtype=torch.float64)
    config = model.config
    batch = json.loads((ROOT / name / "case.json").read_text())["batches"][0]
    inputs = {}

    def keep(key):
        def hook(module, args):
            inputs.setdefault(key, []).append(args[0].detach()[0])
        return hook

    for i, layer in enumerate(model.model.layers):
        layer.self_attn.o_proj.register_forward_pre_hook(keep((i, "o")))
        layer.mlp.down_proj.register_forward_pre_hook(keep((i, "down")))
    with torch.no_grad():
        for sample in batch:
            model(torch.tensor([sample["tokens"]]))

    def mean(key, units):
        x = torch.cat(inputs[key])
        norms = x.reshape(len(x), units, -1).norm(dim=-1)
        return [float(f"{value:.8g}") for value in norms.mean(dim=0)]

    return [dict(heads=mean((i, "o"), config.num_attention_heads),
                 kvHeads=mean((i, "o"), config.num_key_value_heads),
                 channels=mean((i, "down"), config.intermediate_size))
            for i in range(config.num_hidden_layers)]


cases = []
for name in ["llama-gqa", "llama-tied", "qwen3"]:
    layers = ",\n  ".join(json.dumps(layer) for layer in means(name))
    cases.append(f' "{name}": [\n  {layers}\n ]')
(ROOT / "selection.json").write_text("{\n" + ",\n".join(cases) + "\n}\n")
