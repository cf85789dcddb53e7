#!/usr/bin/env python3
"""Makes lora.safetensors: a linear with a low-rank adapter and its gradients by PyTorch's autograd, in float64, on
an F32 base and on a base in NF4 and int8 (quantized and dequantized by bitsandbytes). Needs torch, safetensors and
bitsandbytes 0.50.2; only to make the file again.

Usage: make_lora.py OUT.safetensors
"""
import sys

import bitsandbytes.functional as F
import torch
from safetensors.torch import save_file

generator = torch.Generator().manual_seed(11)


def random(*shape):
    return torch.randn(shape, generator=generator)


n, d_in, d_out, rank, scale = 13, 70, 42, 5, 1.6
x, w, bias, a, b, c = random(n, d_in), random(d_out, d_in), random(d_out), random(rank, d_in), random(d_out, rank), random(n, d_out)
out = {"x": x, "w": w, "bias": bias, "a": a, "b": b, "c": c, "scale": torch.tensor([scale])}
codes, state = F.quantize_4bit(w, blocksize=64, quant_type="nf4")
codes8, scales8, _ = F.int8_vectorwise_quant(w)
bases = {"f32": w, "nf4": F.dequantize_4bit(codes, state), "int8": codes8.float() * scales8.unsqueeze(1) * (1 / 127)}
for name, base in bases.items():
    leaves = [t.double().requires_grad_() for t in (x, a, b)]
    y = leaves[0] @ base.double().T + bias.double() + scale * (leaves[0] @ leaves[1].T @ leaves[2].T)
    (y * c.double()).sum().backward()
    out[f"{name}.y"] = y.detach().float()
    for key, leaf in zip(("x", "a", "b"), leaves):
        out[f"{name}.grad.{key}"] = leaf.grad.float()
save_file({k: v.contiguous() for k, v in out.items()}, sys.argv[1])
