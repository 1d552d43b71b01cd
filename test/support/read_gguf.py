"""Prints what the gguf package reads of a LoRA adapter, and names that no LLaMA has."""
import json
import sys

import gguf

reader = gguf.GGUFReader(sys.argv[1])
names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 64).mapping.values()
known = {f"{name}.weight.{factor}" for _, name in names for factor in ("lora_a", "lora_b")}
print(json.dumps({
    "fields": {key: field.contents() for key, field in reader.fields.items()},
    "tensors": [
        {"name": t.name, "shape": [int(n) for n in reversed(t.shape)], "type": t.tensor_type.name}
        for t in reader.tensors
    ],
    "unknown": [t.name for t in reader.tensors if t.name not in known],
}, default=str))
