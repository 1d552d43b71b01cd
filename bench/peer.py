"""Times training steps of PyTorch + transformers + PEFT on a model directory.

The peer of `s2ft bench train`: reads the same case description as lib/bench/case.ts (JSON in
the first argument), runs the same step on the same weights, and prints the same JSON line.
"""

import gc
import json
import random
import re
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

FFN = ["gate_proj", "up_proj", "down_proj"]
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def peak_bytes():
    """VmHWM of this process, or None where the system does not tell."""
    try:
        with open("/proc/self/status") as status:
            return int(re.search(r"VmHWM:\s+(\d+)", status.read()).group(1)) * 1024
    except (OSError, AttributeError):
        return None


def reset_peak():
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        return True
    except OSError:
        return False


def build(case):
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[case["dtype"]]
    model = AutoModelForCausalLM.from_pretrained(case["model"], dtype=dtype)
    model.config.use_cache = False
    if case["method"] != "full":
        targets = FFN + (ATTENTION if case["method"] == "lora7" else [])
        config = LoraConfig(
            r=case["rank"],
            lora_alpha=2 * case["rank"],
            lora_dropout=0.0,
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
        # Adapters in the model's own type: PEFT's default of f32 factors is slower.
        model = get_peft_model(model, config, autocast_adapter_dtype=False)
    return model.train()


def main():
    case = json.loads(sys.argv[1])
    torch.set_num_threads(case["threads"])
    torch.manual_seed(0)
    model = build(case)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, fused=True)
    run = torch.compile(model) if case.get("compile") else model

    draw = random.Random(3)
    shape = (case["batch"], case["sequence"])
    data = [
        torch.tensor([[draw.randrange(case["vocabulary"]) for _ in range(shape[1])] for _ in range(shape[0])])
        for _ in range(2)
    ]
    gc.collect()
    measured = reset_peak()
    seconds = []
    loss = None
    for i in range(case["warmup"] + case["steps"]):
        ids = data[i % 2]
        start = time.perf_counter()
        loss = run(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value = loss.item()
        if i >= case["warmup"]:
            seconds.append(time.perf_counter() - start)
    print(
        json.dumps(
            {
                "seconds": seconds,
                "trainable": sum(p.numel() for p in parameters),
                "peakBytes": peak_bytes() if measured else None,
                "device": "cpu",
                "threads": torch.get_num_threads(),
                "loss": value,
            }
        )
    )


if __name__ == "__main__":
    main()
