"""The peer of `s2ft bench train`: PyTorch on the same weights and the same random tokens.

Reads the case that lib/bench/case.ts reads (JSON in the first argument) with `variant` beside
it, and prints the same JSON line.
"""

import json
import sys

import torch
from measure import optimizer_of, runner, time_steps
from methods import build, device_of


def random_tokens(count, vocabulary, seed):
    """The generator of lib/bench/case.ts, so that both sides see the same tokens."""
    state, tokens = seed, []
    for _ in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        tokens.append(state * vocabulary // 2**32)
    return tokens


def main():
    case = json.loads(sys.argv[1])
    model, parameters = build(case)
    data = []
    for turn in (1, 2):
        rows = [
            random_tokens(case["sequence"], case["vocabulary"], 1000 * turn + i)
            for i in range(case["batch"])
        ]
        ids = torch.tensor(rows, device=device_of(case))
        data.append({"input_ids": ids, "labels": ids})
    batches = [data[i % 2] for i in range(case["warmup"] + case["steps"])]
    result = time_steps(
        runner(model, case, dynamic=False), optimizer_of(parameters, case), batches, case
    )
    print(json.dumps({**result, "trainable": sum(p.numel() for p in parameters)}))


if __name__ == "__main__":
    main()
