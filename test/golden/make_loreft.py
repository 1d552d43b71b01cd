"""Makes the golden values of LoReFT in `loreft/` from PyTorch and transformers. See README.md.

    venv/bin/python test/golden/make_loreft.py

Interventions are forward hooks on the layers of a golden model, in float64. Training follows what
`loreft()` documents: R's gradient is projected to the tangent space of matrices with orthonormal
rows, AdamW moves it, and the polar factor of what results, here by SVD, is the next R.
"""

import json

import torch
from make_golden import ROOT, load
from safetensors.torch import save_file

STEPS = 10
CASES = [
    dict(name="tied", base="mistral", layers=[0, 2], r=3, first=2, last=3, share=True,
         samples=[(17, 9), (11, 4), (6, 0), (5, 1), (8, 3)]),
    dict(name="separate", base="llama-gqa", layers=[0, 1], r=5, first=1, last=2, share=False,
         samples=[(13, 6), (9, 2), (4, 1)]),
]
OPTIONS = dict(learningRate=2e-2, weightDecay=0.1, maxGradNorm=0.5, lrScheduler="constant")


def places(prompt, first, last):
    """Rows of the prefix and of the suffix; a short prompt is halved."""
    if prompt < first + last:
        first, last = min(first, prompt // 2), min(last, prompt - prompt // 2)
    return list(range(first)), list(range(prompt - last, prompt))


class Interventions:
    """h + R^T (W h + b - R h) behind layers, at rows that `prompt` decides."""

    def __init__(self, model, case, generator):
        self.case, self.prompt, self.sets = case, 0, {}
        hidden = model.config.hidden_size
        for layer in case["layers"]:
            names = [""] if case["share"] else [".prefix", ".suffix"]
            for name in names:
                draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)
                rotation = torch.linalg.qr(draw(hidden, case["r"])).Q.T.contiguous()
                values = dict(R=rotation, W=draw(case["r"], hidden) / hidden**0.5, b=0.3 * draw(case["r"]))
                # The adapter's file holds F32: the reference starts from exactly that.
                self.sets[f"model.layers.{layer}{name}"] = {
                    kind: torch.nn.Parameter(value.float().double()) for kind, value in values.items()}
            model.model.layers[layer].register_forward_hook(lambda m, args, h, layer=layer: self.edit(h, layer))

    def edit(self, h, layer):
        prefix, suffix = places(self.prompt, self.case["first"], self.case["last"])
        base = f"model.layers.{layer}"
        parts = [(base, prefix + suffix)] if self.case["share"] else [(base + ".prefix", prefix), (base + ".suffix", suffix)]
        h = h.clone()
        for name, rows in parts:
            if not rows:
                continue
            p, x = self.sets[name], h[:, rows]
            h[:, rows] = x + (x @ p["W"].T + p["b"] - x @ p["R"].T) @ p["R"]
        return h

    def tensors(self, of=lambda p: p.detach()):
        return {f"{name}.loreft_{kind}": of(p).float().contiguous()
                for name, kinds in self.sets.items() for kind, p in kinds.items()}

    def parameters(self):
        return [p for kinds in self.sets.values() for p in kinds.values()]

    def project(self):
        for kinds in self.sets.values():
            r = kinds["R"]
            overlap = r.grad @ r.detach().T
            r.grad -= (overlap + overlap.T) / 2 @ r.detach()

    def retract(self):
        for kinds in self.sets.values():
            u, _, v = torch.linalg.svd(kinds["R"].detach(), full_matrices=False)
            kinds["R"].data.copy_(u @ v)


def loss_of(model, interventions, samples):
    total, count = 0, 0
    for tokens, labels, prompt in samples:
        interventions.prompt = prompt
        logits = model(torch.tensor([tokens])).logits[0]
        targets = torch.tensor(labels[1:])
        total = total + torch.nn.functional.cross_entropy(logits[:-1], targets, ignore_index=-100, reduction="sum")
        count += int((targets != -100).sum())
    return total / count


def main():
    for seed, case in enumerate(CASES):
        model = load(ROOT / case["base"], torch.float64)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        generator = torch.Generator().manual_seed(100 + seed)
        interventions = Interventions(model, case, generator)
        vocab = model.config.vocab_size
        samples = []
        for length, prompt in case["samples"]:
            tokens = torch.randint(vocab, (length,), generator=generator).tolist()
            samples.append((tokens, [-100] * prompt + tokens[prompt:], prompt))

        directory = ROOT / "loreft" / case["name"]
        directory.mkdir(parents=True, exist_ok=True)
        save_file(interventions.tensors(), directory / "adapter_model.safetensors")
        config = dict(peft_type="LOREFT", format_version=1, task_type="CAUSAL_LM", base_model_name_or_path=case["base"],
                      base_fingerprint="0", r=case["r"], layers=case["layers"],
                      positions=f"f{case['first']}+l{case['last']}", share_weights=case["share"], dropout=0, seed=0)
        (directory / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")

        expected = {}
        prompt = samples[0][0][:samples[0][2]]
        with torch.no_grad():
            interventions.prompt = len(prompt)
            tokens = list(prompt)
            for _ in range(8):
                tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
            expected["generated"] = torch.tensor(tokens[len(prompt):], dtype=torch.int32)
            expected["logits"] = model(torch.tensor([prompt])).logits[0].float().contiguous()
            logprobs = torch.log_softmax(model(torch.tensor([tokens])).logits[0], -1)
            at = torch.arange(len(prompt) - 1, len(tokens) - 1)
            expected["logprobs"] = logprobs[at, torch.tensor(tokens)[at + 1]].float()

        loss = loss_of(model, interventions, samples)
        loss.backward()
        interventions.project()
        expected["loss"] = loss.detach().float().reshape(1)
        expected |= {f"gradient.{name}": g for name, g in interventions.tensors(lambda p: p.grad).items()}

        decays = [p for kinds in interventions.sets.values() for kind, p in kinds.items() if kind == "W"]
        others = [p for p in interventions.parameters() if not any(p is d for d in decays)]
        optimizer = torch.optim.AdamW(
            [dict(params=decays, weight_decay=OPTIONS["weightDecay"]), dict(params=others, weight_decay=0)],
            lr=OPTIONS["learningRate"])
        losses = []
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = loss_of(model, interventions, samples)
            loss.backward()
            interventions.project()
            torch.nn.utils.clip_grad_norm_(interventions.parameters(), OPTIONS["maxGradNorm"])
            optimizer.step()
            interventions.retract()
            losses.append(loss.detach().float())
        expected["losses"] = torch.stack(losses)
        expected |= {f"trained.{name}": value for name, value in interventions.tensors().items()}
        save_file(expected, directory / "expected.safetensors")
        facts = dict(base=case["base"], steps=STEPS, options=OPTIONS, prompt=prompt,
                     samples=[dict(tokens=tokens, labels=labels) for tokens, labels, _ in samples])
        (directory / "case.json").write_text(json.dumps(facts) + "\n")
        print(case["name"], [round(float(x), 4) for x in losses])


main()
