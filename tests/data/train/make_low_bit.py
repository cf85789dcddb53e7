#!/usr/bin/env python3
"""Makes low_bit.safetensors: NF4 (with and without double quantization) and int8 of two small matrices by
bitsandbytes on a CPU. Needs torch, safetensors and bitsandbytes 0.50.2; only to make the file again.

Usage: make_low_bit.py OUT.safetensors
"""
import sys

import bitsandbytes.functional as F
import torch
from safetensors.torch import save_file

generator = torch.Generator().manual_seed(7)
out = {}
# 37 x 96: the last block of 64 is half full, and there is more than one outer block of 256 in "wide".
for name, shape, scale in (("plain", (37, 96), 0.05), ("wide", (136, 128), 1.0)):
    x = torch.randn(shape, generator=generator) * scale
    x[3] *= 40  # an outlier row
    x[5, 64:] = 0
    if name == "wide":
        x.view(-1)[64 * 7 : 64 * 8] = 0  # a block of zeros
        # Values in the middle of two levels, and the levels themselves.
        levels = F.get_4bit_type("nf4", device="cpu")
        x.view(-1)[64 * 9 : 64 * 9 + 16] = levels
        x.view(-1)[64 * 9 + 16 : 64 * 9 + 31] = (levels[1:].double() + levels[:-1].double()).div(2).float()
        x.view(-1)[64 * 9 + 31 : 64 * 10] = 0
    codes, state = F.quantize_4bit(x, blocksize=64, quant_type="nf4")
    out[f"{name}.x"] = x
    out[f"{name}.nf4.codes"] = codes.reshape(-1)
    out[f"{name}.nf4.scales"] = state.absmax
    out[f"{name}.nf4.back"] = F.dequantize_4bit(codes, state)
    codes, state = F.quantize_4bit(x, blocksize=64, quant_type="nf4", compress_statistics=True)
    out[f"{name}.double.scale_codes"] = state.absmax
    out[f"{name}.double.offset"] = state.offset.reshape(1)
    out[f"{name}.double.scales"] = state.state2.absmax
    out[f"{name}.double.back"] = F.dequantize_4bit(codes, state)
    codes, scales, _ = F.int8_vectorwise_quant(x)
    out[f"{name}.int8.codes"] = codes
    out[f"{name}.int8.scales"] = scales
out["dynamic_map"] = state.state2.code if state.state2 else F.create_dynamic_map()
save_file({k: v.contiguous() for k, v in out.items()}, sys.argv[1])
