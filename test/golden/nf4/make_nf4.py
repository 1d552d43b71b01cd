"""What bitsandbytes makes of a matrix in NF4 with double quantization, for
cpp/test/quantized_ops_test.cpp.

    venv/bin/pip install torch bitsandbytes safetensors
    venv/bin/python test/golden/nf4/make_nf4.py

Made with torch 2.13 and bitsandbytes 0.50. The matrix has two groups of scales, whole blocks
and a block of zeros; its values are exact in bf16.
"""

from pathlib import Path

import bitsandbytes.functional as F
import torch
from safetensors.torch import save_file

ROWS, COLS = 131, 128

index = torch.arange(ROWS * COLS, dtype=torch.int64)
# Integers below 256 times a power of two per row: bf16 holds them.
integers = (index * 7919) % 509 - 254
scale = 2.0 ** -(8 + (index // COLS) % 3)
weight = (integers * scale).to(torch.bfloat16).float().reshape(ROWS, COLS)
weight[7, 64:128] = 0

codes, state = F.quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
decoded = F.dequantize_4bit(codes, state)

save_file(
    {"weight": weight.to(torch.bfloat16).contiguous(), "decoded": decoded.contiguous()},
    Path(__file__).parent / "nf4.safetensors",
)
