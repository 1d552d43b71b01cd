"""The peer of `s2ft bench real`: PyTorch on token ids that the benchmark encoded.

Every batch is padded to its longest sample, with logits at every position, as TRL trains off a
GPU. Reads the case of lib/bench/real-case.ts (JSON in the first argument) with `variant` beside
it, and prints the same JSON line.
"""

import json
import sys

import torch
from measure import optimizer_of, runner, time_steps
from methods import build, device_of


def padded(samples, device):
    longest = max(len(sample["tokens"]) for sample in samples)

    def rows(values, filler):
        lines = [[*v, *[filler] * (longest - len(v))] for v in values]
        return torch.tensor(lines, device=device)

    tokens = [sample["tokens"] for sample in samples]
    return {
        "input_ids": rows(tokens, 0),
        "labels": rows([sample["labels"] for sample in samples], -100),
        "attention_mask": rows([[1] * len(t) for t in tokens], 0),
    }


def main():
    case = json.loads(sys.argv[1])
    with open(case["samples"]) as file:
        samples = json.load(file)
    model, parameters = build(case)
    size, first = case["batch"], case["timedFrom"]
    # As many batches to warm up as asked for, then every sample that all sides are timed on.
    groups = [samples[i * size : (i + 1) * size] for i in range(case["warmup"])]
    groups += [samples[i : i + size] for i in range(first, len(samples), size)]
    batches = [padded(group, device_of(case)) for group in groups]
    result = time_steps(
        runner(model, case, dynamic=True), optimizer_of(parameters, case), batches, case
    )
    positions = sum(batch["input_ids"].numel() for batch in batches[case["warmup"] :])
    print(
        json.dumps(
            {
                **result,
                "positions": positions,
                "trainable": sum(p.numel() for p in parameters),
            }
        )
    )


if __name__ == "__main__":
    main()
