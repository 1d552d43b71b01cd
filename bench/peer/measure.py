"""What every peer shares: peak memory, compilation, and the loop that times optimizer steps."""

import ctypes
import gc
import re
import time

import torch


def peak_bytes():
    """The GPU's allocated peak where one is used, else VmHWM, or None where unknown."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    try:
        with open("/proc/self/status") as status:
            return int(re.search(r"VmHWM:\s+(\d+)", status.read()).group(1)) * 1024
    except (OSError, AttributeError):
        return None


def reset_peak():
    """Lets the peak start again from what is held now; False where the system cannot."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        return True
    except OSError:
        return False


def release_setup():
    """Gives back what loading and co-permuting left behind, so that it is in no peak."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass


def finish():
    """Waits for a GPU's work: it is asked for long before it is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def compiled_graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def runner(model, case, dynamic):
    """The model as it is called in a step: as it comes, or compiled for the tuned variant."""
    return torch.compile(model, dynamic=dynamic) if case["variant"] == "tuned" else model


def optimizer_of(parameters, case):
    rate = case.get("learningRate", 1e-4)
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0, fused=True)


def time_steps(run, optimizer, batches, case):
    """Takes one optimizer step a batch and times all but the first case["warmup"].

    `batches` holds the model's arguments. The peak counts from before the first step, and in
    the tuned variant from behind the warm-up: what the compiler itself needs is not training.
    """
    tuned = case["variant"] == "tuned"
    release_setup()
    measured = not tuned and reset_peak()
    seconds, losses, graphs = [], [], 0
    for i, batch in enumerate(batches):
        if i == case["warmup"] and tuned:
            measured = reset_peak()
            graphs = compiled_graphs()
        start = time.perf_counter()
        loss = run(**batch, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        finish()
        if i >= case["warmup"]:
            seconds.append(time.perf_counter() - start)
    return {
        "seconds": seconds,
        "peakBytes": peak_bytes() if measured else None,
        "lossFirst": losses[0],
        "loss": losses[-1],
        # Graphs compiled while the clock ran; anything but 0 spoils the figures.
        "compilations": compiled_graphs() - graphs if tuned else 0,
        "device": "cuda" if torch.cuda.is_initialized() else "cpu",
        "threads": torch.get_num_threads(),
    }
