"""The methods that the peers train: what is adapted, and with which options."""

import torch
from transformers import AutoModelForCausalLM

FFN = ["gate_proj", "up_proj", "down_proj"]
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


def adapt(model, case):
    """Returns the model to call and the parameters that train."""
    method = case["method"]
    if method == "full":
        return model, list(model.parameters())
    if method == "s2ft":
        from s2ft import apply_s2ft

        return model, apply_s2ft(model, case["channels"])

    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=case["rank"],
        lora_alpha=2 * case["rank"],
        lora_dropout=0.0,
        target_modules=FFN + ATTENTION if method == "lora7" else FFN,
        use_dora=method == "dora3",
        task_type="CAUSAL_LM",
    )
    # Adapters in the model's own type: PEFT's default of f32 factors is slower.
    model = get_peft_model(model, config, autocast_adapter_dtype=False)
    return model, [p for p in model.parameters() if p.requires_grad]


def device_of(case):
    """Where the case runs: a case of any device takes the GPU where there is one."""
    if case["device"] == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return case["device"]


def build(case):
    """Loads the case's model directory and adapts it."""
    torch.set_num_threads(case["threads"])
    torch.manual_seed(0)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[case["dtype"]]
    device = device_of(case)
    # PyTorch's fastest attention; on a GPU the weights go there as they are read.
    model = AutoModelForCausalLM.from_pretrained(
        case["model"], dtype=dtype, attn_implementation="sdpa"
    ).to(device)
    model.config.use_cache = False
    model, parameters = adapt(model, case)
    return model.train(), parameters
