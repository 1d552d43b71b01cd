"""Prints the logits of a model with a LoRA adapter as PEFT loads it: model, adapter, tokens."""
import json
import sys

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

base, adapter, tokens = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
model = PeftModel.from_pretrained(model, adapter).eval()
ids = torch.tensor([[int(token) for token in tokens.split(",")]])
with torch.no_grad():
    print(json.dumps(model(ids).logits.flatten().tolist()))
