"""Makes the golden values in this folder from PyTorch and transformers. See README.md.

    python3 -m venv venv
    venv/bin/pip install torch transformers peft safetensors
    venv/bin/python test/golden/make_golden.py            # every case
    venv/bin/python test/golden/make_golden.py qwen3      # one case

Each case is a Hugging Face model directory with random weights, `expected.safetensors` and
`case.json` (inputs, training runs, measured float32 error of PyTorch itself). All values are
computed in float64 from the stored weights and then rounded to float32; samples of a batch go
through the model one by one, so padding and packing cannot leak into them.
"""

import json
import pathlib
import shutil
import sys

import peft
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.func import functional_call

ROOT = pathlib.Path(__file__).resolve().parent
HEAD_MODULES = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj"}
CHANNEL_MODULES = {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
MODULES = HEAD_MODULES | CHANNEL_MODULES
STEPS = 10

# ---------------------------------------------------------------------------------------- cases

SMALL = dict(vocab_size=31, hidden_size=16, intermediate_size=21, num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=False)
MEDIUM = dict(vocab_size=67, hidden_size=32, intermediate_size=53, num_hidden_layers=2, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False)

# Every module trains in both layers; q and o, k and v, up and down choose different units, some shared.
ALL_DIFFERENT = dict(q=[[2, 0], [3]], k=[[0], [1]], v=[[1], [0]], o=[[1, 2], [0, 3]],
                     gate=[[5, 40, 2], [7]], up=[[5, 40, 2], [7]], down=[[40, 11], [0, 52, 7, 31]])
ALL_SMALL = dict(q=[[1], [0]], k=[[0], [0]], v=[[0], []], o=[[0], [1]],
                 gate=[[3, 20], [0]], up=[[3, 20], [0]], down=[[20, 4], [0, 1, 9]])


def run(name, method, **options):
    """A training run: ten steps; the options carry the names of the TypeScript Trainer."""
    settings = dict(learningRate=1e-2, weightDecay=0.1, maxGradNorm=0.5, lrScheduler="linear", warmupSteps=2,
                    maxSteps=STEPS, gradientAccumulationSteps=1, adamBeta1=0.9, adamBeta2=0.999, adamEpsilon=1e-8)
    select, lora = options.pop("select", None), options.pop("lora", {})
    settings |= options
    record = dict(name=name, method=method, options=settings)
    if select is not None:
        record["select"] = select
    if method == "galore":
        record["galore"] = dict(r=4, updateInterval=4, scale=0.5)
    if method in ("lora", "dora"):
        record["lora"] = dict(r=4, alpha=8, dropout=0, targetModules=[m.split(".")[1] for m in MODULES.values()]) | lora
        record["init"] = "lora-init" if method == "lora" and not lora else f"{name}-init"
    return record


CASES = [
    dict(name="llama-gqa", family="Llama", about="grouped-query attention, untied head, odd channel count",
         config=MEDIUM | dict(rms_norm_eps=1e-5),
         runs=[run("s2ft-different-units", "s2ft", select=ALL_DIFFERENT),
               run("s2ft-accumulated", "s2ft", gradientAccumulationSteps=2, lrScheduler="cosine", warmupSteps=0,
                   select=dict(o=[[3], [1]], down=[[1, 50, 17], [2, 3]])),
               run("s2ft-top-layer-only", "s2ft", lrScheduler="constant", warmupSteps=3,
                   select=dict(v=[[], [1]], down=[[], [52, 0]])),
               run("lora", "lora"),
               run("lora-accumulated", "lora", gradientAccumulationSteps=2),
               run("rslora-patterns", "lora",
                   lora=dict(rslora=True, rankPattern={"down_proj": 2, "layers.1.self_attn.q_proj": 6},
                             alphaPattern={"layers.0.mlp.up_proj": 3})),
               run("dora", "dora"),
               run("galore", "galore"),
               run("full", "full")]),
    dict(name="llama-tied", family="Llama", about="tied head, 9 query heads over 3 key/value heads, head size 6",
         config=dict(vocab_size=67, hidden_size=54, intermediate_size=49, num_hidden_layers=3, num_attention_heads=9,
                     num_key_value_heads=3, max_position_embeddings=64, tie_word_embeddings=True, rms_norm_eps=1e-5),
         runs=[run("s2ft", "s2ft", select=dict(q=[[8], [0, 4], [3]], k=[[1], [2, 0], []], v=[[1], [2, 0], [2]],
                                               o=[[8], [0, 4], [5, 2]], gate=[[48], [1, 2], [9]], up=[[48], [1, 2], [9]],
                                               down=[[48], [1, 2], [9]])),
               run("full", "full", gradientAccumulationSteps=2)]),
    dict(name="llama-explicit-head-dim", family="Llama", about="head_dim 10, not hidden_size / heads = 6",
         config=MEDIUM | dict(hidden_size=24, head_dim=10),
         runs=[run("s2ft", "s2ft", select=ALL_DIFFERENT)]),
    dict(name="llama-biases", family="Llama", about="attention_bias and mlp_bias",
         config=MEDIUM | dict(hidden_size=24, intermediate_size=41, attention_bias=True, mlp_bias=True),
         runs=[run("s2ft", "s2ft", gradientAccumulationSteps=2, select=ALL_DIFFERENT | dict(down=[[40, 11], [0, 7, 31]])),
               run("galore", "galore"),
               run("dora", "dora", lora=dict(r=2, alpha=6, targetModules=["q_proj", "o_proj", "up_proj", "down_proj"]))]),
    dict(name="llama-linear-rope", family="Llama", about="linear rope scaling, written in the old style with `type`",
         config=SMALL | dict(rope_parameters=dict(rope_type="linear", rope_theta=500.0, factor=2.5)),
         old_style=dict(rope_theta=500.0, rope_scaling=dict(type="linear", factor=2.5)),
         runs=[run("s2ft", "s2ft", select=ALL_SMALL)]),
    dict(name="llama-dynamic-rope", family="Llama", about="dynamic rope scaling beyond 16 positions",
         config=SMALL | dict(max_position_embeddings=16,
                             rope_parameters=dict(rope_type="dynamic", rope_theta=500.0, factor=3.0)),
         runs=[run("s2ft", "s2ft", select=ALL_SMALL)]),
    dict(name="llama-llama3-rope", family="Llama", about="llama3 rope scaling; all three frequency bands occur",
         config=SMALL | dict(max_position_embeddings=256,
                             rope_parameters=dict(rope_type="llama3", rope_theta=100.0, factor=8.0, low_freq_factor=1.0,
                                                  high_freq_factor=4.0, original_max_position_embeddings=32)),
         lengths=[1, 7, 23, 41], runs=[run("s2ft", "s2ft", select=ALL_SMALL)]),
    dict(name="llama-sharded", family="Llama", about="three weight files with an index", shard="9KB",
         config=SMALL, runs=[run("s2ft", "s2ft", select=ALL_SMALL)]),
    dict(name="llama-bf16", family="Llama", about="BF16 checkpoint", dtype="bfloat16",
         config=MEDIUM, runs=[run("s2ft", "s2ft", select=ALL_DIFFERENT)]),
    dict(name="llama-f16", family="Llama", about="F16 checkpoint", dtype="float16",
         config=SMALL, runs=[run("s2ft", "s2ft", select=ALL_SMALL)]),
    dict(name="mistral", family="Mistral", about="sliding window of 5 positions",
         config=MEDIUM | dict(sliding_window=5, num_hidden_layers=3, hidden_size=24, intermediate_size=41),
         runs=[run("s2ft", "s2ft", select=dict(q=[[1], [0, 3], [2]], k=[[0], [], [1]], v=[[1], [0], [1]],
                                               o=[[1], [0, 3], [2]], gate=[[40], [3, 1], [9]], up=[[40], [3, 1], [9]],
                                               down=[[40], [3, 1], [9]]))]),
    dict(name="qwen2", family="Qwen2", about="q/k/v bias, tied head; sliding_window is written but not used",
         config=MEDIUM | dict(tie_word_embeddings=True, use_sliding_window=False),
         old_style=dict(rope_theta=10000.0, rope_scaling=None, sliding_window=4, use_sliding_window=False, max_window_layers=1),
         runs=[run("s2ft", "s2ft", select=ALL_DIFFERENT)]),
    dict(name="qwen2-sliding", family="Qwen2", about="layer 0 attends fully, layer 1 in a window of 5",
         config=SMALL | dict(tie_word_embeddings=True, use_sliding_window=True, sliding_window=5, max_window_layers=1),
         runs=[run("s2ft", "s2ft", select=ALL_SMALL)]),
    dict(name="qwen3", family="Qwen3", about="per-head q/k norm, head_dim 12, not hidden_size / heads = 8",
         config=MEDIUM | dict(head_dim=12),
         runs=[run("s2ft", "s2ft", select=ALL_DIFFERENT),
               run("full", "full")]),
]

# -------------------------------------------------------------------------------------- weights


def init_weights(model, seed):
    """Random values large enough that every part of the model shows in the logits and gradients."""
    generator = torch.Generator().manual_seed(seed)
    tied = model.config.tie_word_embeddings
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if name.endswith("bias"):
                value = 0.3 * noise
            elif "norm" in name:
                value = 1 + 0.2 * noise
            elif "embed_tokens" in name:
                # Small rows make rms_norm_eps visible in the first norm.
                value = (0.2 if tied else 0.05) * noise
            else:
                gain = 1.5 if "q_proj" in name or "k_proj" in name else 1.0
                value = gain * noise / parameter.shape[1] ** 0.5
            parameter.copy_(value)


def make_directory(case, directory, seed):
    """Writes config.json and the weights, and returns the directory's model in float64."""
    config = getattr(transformers, case["family"] + "Config")(
        bos_token_id=1, eos_token_id=2, pad_token_id=None, **case["config"])
    model = getattr(transformers, case["family"] + "ForCausalLM")(config)
    init_weights(model, seed)
    model = model.to(getattr(torch, case.get("dtype", "float32")))
    model.save_pretrained(directory, max_shard_size=case.get("shard", "1GB"))
    (directory / "generation_config.json").unlink(missing_ok=True)
    if "old_style" in case:
        path = directory / "config.json"
        written = json.loads(path.read_text())
        for key in ("rope_parameters", "layer_types"):
            written.pop(key, None)
        path.write_text(json.dumps(written | case["old_style"], indent=2, sort_keys=True) + "\n")
    return load(directory, torch.float64)


def load(directory, dtype):
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation="sdpa")
    model.eval()
    if dtype == torch.float64:
        # transformers computes norms in float32 whatever the model's type; here they stay in float64.
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.forward = lambda x, m=module: m.weight * (
                    x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + m.variance_epsilon))
    return model


# ---------------------------------------------------------------------------------- evaluation


def reset_rope(model):
    """Dynamic scaling keeps state between calls; a sample's frequencies depend on its own length only."""
    for module in model.modules():
        if type(module).__name__.endswith("RotaryEmbedding"):
            module.max_seq_len_cached = module.original_max_seq_len
            module.inv_freq = module.original_inv_freq.clone()


def logits_of(model, tokens, overrides=None):
    """[tokens, vocab]; `overrides` replaces parameters by name, differentiably."""
    reset_rope(model)
    ids = torch.tensor([tokens])
    if overrides is None:
        return model(ids, use_cache=False).logits[0]
    return functional_call(model, overrides, (ids,), dict(use_cache=False)).logits[0]


def trained_tokens(batch):
    return sum(sum(label != -100 for label in sample["labels"][1:]) for sample in batch)


def loss_sum(model, batch, overrides=None):
    """Sum of the token losses of a batch; position i predicts labels[i + 1]."""
    total = 0
    for sample in batch:
        logits = logits_of(model, sample["tokens"], overrides)
        total = total + torch.nn.functional.cross_entropy(
            logits[:-1], torch.tensor(sample["labels"][1:]), ignore_index=-100, reduction="sum")
    return total


def key_of(parameter_name):
    """The name used by Trainer.gradients: the module, with `.bias` kept and `.weight` dropped."""
    return parameter_name.removesuffix(".weight")


# ------------------------------------------------------------------------------------ training


def schedule(options):
    """transformers' linear, cosine and constant_with_warmup: the first step has index 0."""
    warmup, total = options["warmupSteps"], options["maxSteps"]
    kind = dict(linear="linear", cosine="cosine", constant="constant_with_warmup")[options["lrScheduler"]]
    return lambda optimizer: transformers.get_scheduler(
        kind, optimizer, num_warmup_steps=warmup, num_training_steps=total)


def train(record, batches, groups, batch_loss_sum, before_step=lambda step: None, after_step=lambda rate: None):
    """Ten AdamW steps. `groups` are optimizer groups; returns per step the loss, the gradient norm before clipping, the rate."""
    options = record["options"]
    optimizer = torch.optim.AdamW(groups, lr=options["learningRate"], weight_decay=options["weightDecay"],
                                  betas=(options["adamBeta1"], options["adamBeta2"]), eps=options["adamEpsilon"])
    scheduler = schedule(options)(optimizer)
    parameters = [p for group in groups for p in group["params"]]
    curves = dict(losses=[], gradNorms=[], learningRates=[])
    for number, step in enumerate(record["steps"]):
        count = sum(trained_tokens(batches[index]) for index in step)
        optimizer.zero_grad()
        loss = 0.0
        for index in step:
            part = batch_loss_sum(batches[index]) / count
            part.backward()
            loss += part.item()
        before_step(number)
        curves["losses"].append(loss)
        curves["gradNorms"].append(torch.nn.utils.clip_grad_norm_(parameters, options["maxGradNorm"]).item())
        curves["learningRates"].append(scheduler.get_last_lr()[0])
        optimizer.step()
        after_step(curves["learningRates"][-1])
        scheduler.step()
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in curves.items()}


def slice_indices(config, module, units):
    """Units (heads or channels) to rows of q, k, v, gate, up or columns of o, down, in ascending order."""
    if module in CHANNEL_MODULES:
        return sorted(units)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return [head * size + i for head in sorted(units) for i in range(size)]


def run_s2ft(model, record, batches):
    base = {name: p.detach().clone() for name, p in model.named_parameters()}
    slices = {}  # name -> (axis, index, trainable slice)
    for module, layers in record["select"].items():
        axis = 1 if module in ("o", "down") else 0
        for layer, units in enumerate(layers):
            if units:
                name = f"model.layers.{layer}.{MODULES[module]}.weight"
                index = torch.tensor(slice_indices(model.config, module, units))
                part = base[name].index_select(axis, index)
                # A bf16 model trains an fp32 master, which is rounded into the weight for every step.
                slices[name] = (axis, index, part.to(torch.promote_types(part.dtype, torch.float32)).requires_grad_())
    params = [{"params": [part for _, _, part in slices.values()]}]
    curves = train(record, batches, params, lambda batch: loss_sum(model, batch, {
        name: base[name].index_copy(axis, index, part.to(base[name].dtype)) for name, (axis, index, part) in slices.items()}))
    final = {}
    for name, (axis, index, part) in slices.items():
        final[f"{key_of(name)}.s2ft_delta"] = (part - base[name].index_select(axis, index)).detach()
        final[f"{key_of(name)}.s2ft_index"] = index.to(torch.int32)
    return curves | final


def run_full(model, record, batches):
    """Trains every parameter. As in transformers' Trainer, norms and biases are not decayed."""
    base = {name: p.detach().clone() for name, p in model.named_parameters()}
    params = list(model.parameters())
    groups = [dict(params=[p for p in params if p.ndim > 1]),
              dict(params=[p for p in params if p.ndim == 1], weight_decay=0.0)]
    curves = train(record, batches, groups, lambda batch: loss_sum(model, batch))
    final = {f"{key_of(name)}.delta": (p - base[name]).detach() for name, p in model.named_parameters()}
    return curves | final


def run_galore(model, record, batches):
    """As run_full, but Adam sees the linear layers' gradients in the basis of their first singular vectors."""
    base = {name: p.detach().clone() for name, p in model.named_parameters()}
    galore, decay = record["galore"], record["options"]["weightDecay"]
    linears = {name: p for name, p in model.named_parameters() if "_proj.weight" in name}
    updates = {}
    for name, weight in linears.items():
        out, inputs = weight.shape
        shape = (galore["r"], inputs) if out < inputs else (out, galore["r"])
        updates[name] = torch.zeros(shape, dtype=weight.dtype, requires_grad=True)
    bases = {}

    def project(step):
        for name, weight in linears.items():
            left = weight.shape[0] < weight.shape[1]
            if step % galore["updateInterval"] == 0:
                u, _, vh = torch.linalg.svd(weight.grad, full_matrices=False)
                found = u[:, :galore["r"]] if left else vh[:galore["r"]].T
                # Moments outlive a basis, so its signs matter: the largest component is positive.
                largest = found.gather(0, found.abs().argmax(0, keepdim=True))
                bases[name] = found * largest.sign()
            updates[name].grad = bases[name].T @ weight.grad if left else weight.grad @ bases[name]
            weight.grad = None

    def move(rate):
        with torch.no_grad():
            for name, weight in linears.items():
                left = weight.shape[0] < weight.shape[1]
                step = bases[name] @ updates[name] if left else updates[name] @ bases[name].T
                weight.mul_(1 - rate * decay).add_(step, alpha=galore["scale"])
                updates[name].zero_()

    rest = [p for name, p in model.named_parameters() if name not in linears]
    groups = [dict(params=[p for p in rest if p.ndim > 1]),
              dict(params=[p for p in rest if p.ndim == 1] + list(updates.values()), weight_decay=0.0)]
    curves = train(record, batches, groups, lambda batch: loss_sum(model, batch), project, move)
    final = {f"{key_of(name)}.delta": (p - base[name]).detach() for name, p in model.named_parameters()}
    return curves | final


def lora_name(parameter_name):
    return parameter_name.removeprefix("base_model.model.").removesuffix(".default.weight")


def make_lora(model, record, init_directory, seed):
    """PEFT's LoRA or DoRA with fixed values, saved in PEFT's format for the tests to load."""
    lora = record["lora"]
    wrapped = peft.get_peft_model(model, peft.LoraConfig(
        r=lora["r"], lora_alpha=lora["alpha"], lora_dropout=lora["dropout"], target_modules=lora["targetModules"],
        use_rslora=lora.get("rslora", False), rank_pattern=lora.get("rankPattern", {}),
        alpha_pattern=lora.get("alphaPattern", {}), use_dora=record["method"] == "dora", task_type="CAUSAL_LM"))
    weights = dict(wrapped.named_parameters())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                value = 0.1 * noise
                if "lora_magnitude_vector" in name:
                    # Off the norms that they start from, and the same values in every dtype.
                    base = weights[name.split(".lora_")[0] + ".base_layer.weight"].double()
                    value = (base.norm(dim=1) * (1 + value.double())).float()
                parameter.data = value.to(model.dtype)
    if not init_directory.exists():
        tensors = {name: p.detach().to(torch.float32).contiguous()
                   for name, p in peft.get_peft_model_state_dict(wrapped).items()}
        init_directory.mkdir()
        save_file(tensors, init_directory / "adapter_model.safetensors", metadata={"format": "pt"})
        config = wrapped.peft_config["default"].to_dict()
        config = {k: sorted(v) if isinstance(v, set) else getattr(v, "value", v) for k, v in config.items()}
        config |= dict(inference_mode=True, base_model_name_or_path=init_directory.parent.name)
        (init_directory / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return wrapped, {lora_name(n): p for n, p in wrapped.named_parameters() if p.requires_grad}


def run_lora(model, record, batches, directory, seed):
    wrapped, trainable = make_lora(model, record, directory / record["init"], seed)
    kinds = 3 if record["method"] == "dora" else 2
    assert len(trainable) == kinds * len(record["lora"]["targetModules"]) * model.config.num_hidden_layers
    final = {}
    with torch.no_grad():
        final["logits"] = logits_of(wrapped, batches[0][0]["tokens"])
    (loss_sum(wrapped, batches[0]) / trained_tokens(batches[0])).backward()
    for name, parameter in trainable.items():
        final[f"gradient.{name}"] = parameter.grad.clone()
    curves = train(record, batches, [{"params": list(trainable.values())}],
                          lambda batch: loss_sum(wrapped, batch))
    return curves | final | {name: p.detach() for name, p in trainable.items()}


# --------------------------------------------------------------------------------- one directory


def make_inputs(case, seed):
    generator = torch.Generator().manual_seed(seed)
    vocab = case["config"]["vocab_size"]

    def tokens(length):
        return torch.randint(0, vocab, (length,), generator=generator).tolist()

    def sample(length, prompt):
        ids = tokens(length)
        return dict(tokens=ids, labels=[-100] * prompt + ids[prompt:])

    batches = [[sample(11, 4), sample(2, 1), sample(17, 0)],
               [sample(9, 8), sample(13, 3)],
               [sample(5, 0), sample(2, 0), sample(19, 6)]]
    first = batches[0][0]["labels"]
    first[7] = -100  # an untrained position amid trained ones
    first[9] = (first[9] + 1) % vocab  # a label that is not the token
    return dict(sequences=[tokens(n) for n in case.get("lengths", [1, 7, 23])], batches=batches)


def evaluate(directory, case, inputs, dtype, seed):
    """All golden values of a case, computed in `dtype`."""
    values = {}
    model = load(directory, dtype)
    with torch.no_grad():
        for tokens in inputs["sequences"]:
            logits = logits_of(model, tokens)
            values[f"logits.{len(tokens)}"] = logits
            if len(tokens) > 1:
                picked = logits.log_softmax(-1)[:-1].gather(1, torch.tensor(tokens[1:])[:, None])
                values[f"logprobs.{len(tokens)}"] = picked[:, 0]
    batch = inputs["batches"][0]
    loss = loss_sum(model, batch) / trained_tokens(batch)
    loss.backward()
    values["loss"] = loss.detach()[None]
    for name, parameter in model.named_parameters():
        values[f"gradient.{key_of(name)}"] = parameter.grad
    for record in case["runs"]:
        model = load(directory, dtype)
        if record["method"] == "s2ft":
            final = run_s2ft(model, record, inputs["batches"])
        elif record["method"] == "galore":
            final = run_galore(model, record, inputs["batches"])
        elif record["method"] == "full":
            final = run_full(model, record, inputs["batches"])
        else:
            final = run_lora(model, record, inputs["batches"], directory, seed)
        prefix = f"run.{record['name']}."
        values |= {prefix + name: value for name, value in final.items()}
    return {name: value.detach() for name, value in values.items()}


def distance(actual, expected):
    return ((actual.double() - expected).norm() / expected.norm()).item()


def error_of(actual, expected):
    """Largest norm-wise relative error of each group of values: what a type costs PyTorch itself."""
    groups = {}
    for name, value in expected.items():
        if not name.endswith("s2ft_index"):
            kind = name.split(".")[0]
            if kind == "run":
                kind = name.split(".")[2] if name.split(".")[2] in ("losses", "gradNorms", "learningRates", "gradient", "logits") else "trained"
            if value.norm() > 0:
                groups[kind] = max(groups.get(kind, 0.0), distance(actual[name], value))
    return {kind: float(f"{error:.1e}") for kind, error in groups.items()}


def make_case(case, seed):
    directory = ROOT / case["name"]
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    model = make_directory(case, directory, seed)
    inputs = make_inputs(case, seed + 1)
    for record in case["runs"]:
        k = record["options"]["gradientAccumulationSteps"]
        record["steps"] = [[(step * k + i) % 3 for i in range(k)] for step in range(STEPS)]

    values = evaluate(directory, case, inputs, torch.float64, seed + 2)
    check(case, directory, model, inputs, values)
    facts = dict(about=case["about"], trainedTokens=trained_tokens(inputs["batches"][0]), **inputs, runs=case["runs"],
                 float32Error=error_of(evaluate(directory, case, inputs, torch.float32, seed + 2), values))
    if case.get("dtype") == "bfloat16":
        facts["bfloat16Error"] = error_of(evaluate(directory, case, inputs, torch.bfloat16, seed + 2), values)
    stored = {k: v if v.dtype == torch.int32 else v.to(torch.float32) for k, v in values.items()}
    assert all(torch.isfinite(v).all() for v in stored.values())
    save_file({k: v.contiguous() for k, v in stored.items()}, directory / "expected.safetensors")
    (directory / "case.json").write_text(dump(facts) + "\n")
    print(case["name"], facts["float32Error"], facts.get("bfloat16Error", ""))


def dump(facts):
    """Indented JSON with every list of numbers on one line."""
    import re
    text = json.dumps(facts, indent=1)
    return re.sub(r"\[\s*(-?[\d.e-]+(?:,\s*-?[\d.e-]+)*)\s*\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text)


def check(case, directory, model, inputs, values):
    """What the case claims to exercise must change its logits."""
    tokens = inputs["sequences"][-1]
    expected = values[f"logits.{len(tokens)}"]
    stock = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64, attn_implementation="sdpa")
    with torch.no_grad():
        # The float64 norms are the only change to the library's own model.
        assert distance(logits_of(stock, tokens), expected) < 1e-5
        if case["config"].get("sliding_window"):
            config = transformers.AutoConfig.from_pretrained(directory)
            config.sliding_window = None
            if config.model_type == "qwen2":
                config.layer_types = ["full_attention"] * config.num_hidden_layers
            unlimited = transformers.AutoModelForCausalLM.from_pretrained(directory, config=config, dtype=torch.float64)
            assert distance(logits_of(unlimited, tokens), expected) > 1e-2
        if "rope_parameters" in case["config"]:
            config = transformers.AutoConfig.from_pretrained(directory)
            assert config.rope_parameters["rope_type"] == case["config"]["rope_parameters"]["rope_type"]
            config.rope_parameters = dict(rope_type="default", rope_theta=config.rope_parameters["rope_theta"])
            unscaled = transformers.AutoModelForCausalLM.from_pretrained(directory, config=config, dtype=torch.float64)
            assert distance(logits_of(unscaled, tokens), expected) > 1e-2
        if "rms_norm_eps" in case["config"] and not case["config"]["tie_word_embeddings"]:
            config = transformers.AutoConfig.from_pretrained(directory)
            config.rms_norm_eps = 0.0
            other = transformers.AutoModelForCausalLM.from_pretrained(directory, config=config, dtype=torch.float64)
            assert distance(logits_of(other, tokens), expected) > 3e-4


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    wanted = sys.argv[1:]
    for number, entry in enumerate(CASES):
        if not wanted or entry["name"] in wanted:
            make_case(entry, 1000 * (number + 1))
