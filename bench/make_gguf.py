#!/usr/bin/env python3
"""Writes a GGUF file of random F16 weights as llama.cpp's converter names them, to measure both programs on one file.

Usage: bench/make_gguf.py SHAPE FILE.gguf [--seed N]       then: reprise quantize FILE.gguf Q.gguf --type q4_k_m

SHAPE: 0.5b (Qwen2-0.5B) or 1.8b (InternLM2-1.8B, which is Llama's form), each with -tiny behind it (few small layers, to try).
There is no tokenizer (bench/compare_llama.py --random-tokens). Needs numpy and gguf, and memory for one tensor.
"""
import argparse
import math

import gguf
import numpy

SHAPES = {
    "0.5b": dict(arch="qwen2", d=896, layers=24, heads=14, kv=2, ffn=4864, vocab=151936, theta=1e6, tied=True),
    "1.8b": dict(arch="llama", d=2048, layers=24, heads=16, kv=8, ffn=8192, vocab=92544, theta=1e6, tied=False),
}
POOL = 1 << 24  # values


def tensors_of(s: dict):
    d, ffn, q, kv = s["d"], s["ffn"], s["d"], s["d"] // s["heads"] * s["kv"]
    yield "token_embd.weight", (s["vocab"], d)
    for i in range(s["layers"]):
        at = f"blk.{i}."
        yield at + "attn_norm.weight", (d,)
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            yield f"{at}attn_{name}.weight", (rows, d)
            if s["arch"] == "qwen2":
                yield f"{at}attn_{name}.bias", (rows,)
        yield at + "attn_output.weight", (d, q)
        yield at + "ffn_norm.weight", (d,)
        yield at + "ffn_gate.weight", (ffn, d)
        yield at + "ffn_up.weight", (ffn, d)
        yield at + "ffn_down.weight", (d, ffn)
    yield "output_norm.weight", (d,)
    if not s["tied"]:
        yield "output.weight", (s["vocab"], d)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=[name + tiny for name in SHAPES for tiny in ("", "-tiny")])
    parser.add_argument("file")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    shape = dict(SHAPES[args.shape.removesuffix("-tiny")])
    if args.shape.endswith("-tiny"):
        shape.update(d=256, layers=3, heads=4, kv=2, ffn=512, vocab=512)
    out = gguf.GGUFWriter(args.file, shape["arch"], use_temp_file=False)
    out.add_name(f"random weights, {args.shape}")
    out.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    out.add_context_length(4096)
    out.add_embedding_length(shape["d"])
    out.add_block_count(shape["layers"])
    out.add_feed_forward_length(shape["ffn"])
    out.add_head_count(shape["heads"])
    out.add_head_count_kv(shape["kv"])
    out.add_layer_norm_rms_eps(1e-6)
    out.add_rope_freq_base(shape["theta"])
    out.add_rope_dimension_count(shape["d"] // shape["heads"])
    out.add_vocab_size(shape["vocab"])
    out.add_tokenizer_model("none")

    random = numpy.random.default_rng(args.seed)
    pool = random.standard_normal(POOL, dtype=numpy.float32)

    def values(size):
        if len(size) == 1:
            return numpy.ones(size, numpy.float32)
        count = math.prod(size)
        parts = []
        while count > 0:
            start = int(random.integers(0, POOL // 2))
            parts.append(pool[start:start + min(count, POOL // 2)])
            count -= len(parts[-1])
        return (numpy.concatenate(parts) / math.sqrt(size[1])).astype(numpy.float16).reshape(size)

    tensors = list(tensors_of(shape))
    for name, size in tensors:
        kind = numpy.dtype(numpy.float32 if len(size) == 1 else numpy.float16)
        out.add_tensor_info(name, size, kind, math.prod(size) * kind.itemsize)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_ti_data_to_file()
    for name, size in tensors:
        out.write_tensor_data(values(size))
    out.close()
    print(f"{args.file}: {sum(math.prod(size) for _, size in tensors) / 1e9:.3f}B weights")


if __name__ == "__main__":
    main()
