#!/usr/bin/env python3
"""Writes a model folder of random weights in a release's exact format, for measuring speed and memory.

Usage: bench/make_model.py SHAPE FOLDER [--seed N] [--shard-bytes N]

SHAPE is one of the released models' (phantom-0.5b phantom-1.8b phantom-3.8b phantom-7b trol-1.8b trol-3.8b
trol-7b), trol-0.5b (no release has it), gemma-2b or gemma-2.6b (without vision), such a name with "-dense" behind it (the same language model as an ordinary decoder, without vision),
or "-tiny" (the same tensors in a few small layers, to try a format). The weights are BF16, TroL's gate F32 in
trol_gating.pt; files above --shard-bytes are split as releases are. There is no tokenizer.

Values come from one seeded pool of normal numbers, read from another place for every tensor and scaled by
1 / sqrt(inputs), so that activations stay in range. Needs numpy only, and memory for one tensor.
"""
import argparse
import collections
import io
import json
import math
import pathlib
import pickle
import sys
import types
import zipfile

import numpy

POOL = 1 << 24  # values


# ---- Shapes

LANGUAGE = {  # vocabularies as in the releases, of which some are rounded up and some are not
    "phantom-0.5b": dict(family="qwen2", d=896, layers=24, heads=14, kv=2, ffn=4864, vocab=151655),
    "phantom-1.8b": dict(family="internlm2", d=2048, layers=24, heads=16, kv=8, ffn=8192, vocab=92553),
    "phantom-3.8b": dict(family="phi3", d=3072, layers=32, heads=32, kv=32, ffn=8192, vocab=32020),
    "phantom-7b": dict(family="internlm2", d=4096, layers=32, heads=32, kv=8, ffn=14336, vocab=92553),
    # No release: TroL at the size of the smallest Phantom.
    "trol-0.5b": dict(family="qwen2", d=896, layers=24, heads=14, kv=2, ffn=4864, vocab=151655),
    "trol-1.8b": dict(family="internlm2", d=2048, layers=24, heads=16, kv=8, ffn=8192, vocab=92544),
    "trol-3.8b": dict(family="phi3", d=3072, layers=32, heads=32, kv=32, ffn=8192, vocab=32020),
    "trol-7b": dict(family="internlm2", d=4096, layers=32, heads=32, kv=8, ffn=14336, vocab=92544),
    # Decoders alone: Gemma 2B, whose looped form arXiv 2410.20672 measures, and Gemma 2's 2.6B in the first Gemma's form.
    "gemma-2b": dict(family="gemma", d=2048, layers=18, heads=8, kv=1, head_dim=256, ffn=16384, vocab=256000),
    "gemma-2.6b": dict(family="gemma", d=2304, layers=26, heads=8, kv=4, head_dim=256, ffn=9216, vocab=256000),
}
VISION = dict(d=1024, layers=24, heads=16, ffn=4096, patch=14)
LORA_RANK = 256  # a constant of TroL's code
TINY = dict(d=128, layers=2, heads=4, ffn=256, vocab=512)


def shape_of(name: str):
    """(scheme, language model, vision tower or None) of a SHAPE."""
    base, dense, tiny = name, False, False
    if base.endswith("-tiny"):
        base, tiny = base[:-5], True
    if base.endswith("-dense"):
        base, dense = base[:-6], True
    if base not in LANGUAGE:
        sys.exit(f"unknown shape '{name}'; known: {', '.join(LANGUAGE)}, each with -dense and -tiny")
    text, vision = dict(LANGUAGE[base]), dict(VISION)
    if tiny:
        text.update(TINY, kv=4 if text["kv"] == text["heads"] else 2)
        if "head_dim" in text:
            text["head_dim"] = 32
        vision.update(d=64, layers=2, heads=4, ffn=128)
    dense = dense or text["family"] == "gemma"
    scheme = "dense" if dense else base.split("-")[0]
    return scheme, text, None if dense else vision


# ---- Tensors: (name, shape, kind), kind "matrix", "ones", "small" or "zeros"

def language_tensors(scheme: str, t: dict):
    prefix = "" if scheme == "dense" or (scheme == "trol" and t["family"] == "internlm2") else "language_model."
    d, ffn, hd = t["d"], t["ffn"], t.get("head_dim", t["d"] // t["heads"])
    q, kv = t["heads"] * hd, t["kv"] * hd
    internlm = t["family"] == "internlm2"
    lora = scheme == "trol" and internlm
    gemma = t["family"] == "gemma"
    norm = "small" if gemma else "ones"  # Gemma's weights are what is added to 1
    rows = t["vocab"] + (1 if lora else 0)  # <image> behind the vocabulary

    def matrix(name, out, inputs):
        if not lora:
            yield f"{name}.weight", (out, inputs), "matrix"
            return
        yield f"{name}.ffn.weight", (out, inputs), "matrix"
        yield f"{name}.lora_A.weight", (LORA_RANK, inputs), "matrix"
        yield f"{name}.lora_B.weight", (out, LORA_RANK), "matrix"

    yield f"{prefix}model.{'tok_embeddings' if internlm else 'embed_tokens'}.weight", (rows, d), "matrix"
    for i in range(t["layers"]):
        layer = f"{prefix}model.layers.{i}."
        attention = layer + ("attention." if internlm else "self_attn.")
        yield layer + ("attention_norm.weight" if internlm else "input_layernorm.weight"), (d,), norm
        yield layer + ("ffn_norm.weight" if internlm else "post_attention_layernorm.weight"), (d,), norm
        if internlm:
            yield from matrix(attention + "wqkv", q + 2 * kv, d)
            yield from matrix(attention + "wo", d, q)
            yield from matrix(layer + "feed_forward.w1", ffn, d)
            yield from matrix(layer + "feed_forward.w2", d, ffn)
            yield from matrix(layer + "feed_forward.w3", ffn, d)
        elif t["family"] == "phi3":
            yield attention + "qkv_proj.weight", (q + 2 * kv, d), "matrix"
            yield attention + "o_proj.weight", (d, q), "matrix"
            yield layer + "mlp.gate_up_proj.weight", (2 * ffn, d), "matrix"
            yield layer + "mlp.down_proj.weight", (d, ffn), "matrix"
        else:
            for name, out in (("q", q), ("k", kv), ("v", kv)):
                yield f"{attention}{name}_proj.weight", (out, d), "matrix"
                if not gemma:
                    yield f"{attention}{name}_proj.bias", (out,), "small"
            yield attention + "o_proj.weight", (d, q), "matrix"
            yield layer + "mlp.gate_proj.weight", (ffn, d), "matrix"
            yield layer + "mlp.up_proj.weight", (ffn, d), "matrix"
            yield layer + "mlp.down_proj.weight", (d, ffn), "matrix"
        if scheme == "phantom":
            for cross in ("query", "key", "value"):
                for part in "qkvo":
                    yield f"{attention}xattn_{cross}_phantom.linear_{part}.weight", (hd, hd), "matrix"
            for half in (1, 2):
                yield f"{attention}gating_phantom_{half}.weight", (1, hd), "matrix"
                yield f"{attention}gating_phantom_{half}.bias", (1,), "zeros"
    yield prefix + "model.norm.weight", (d,), norm
    if not gemma:  # it has no head of its own
        yield prefix + ("output.weight" if internlm else "lm_head.weight"), (t["vocab"], d), "matrix"


def clip_tensors(v: dict, text_width: int):
    d, ffn, root = v["d"], v["ffn"], "vit.vision_tower.vision_model."
    side = 490 // v["patch"]
    yield root + "embeddings.class_embedding", (d,), "small"
    yield root + "embeddings.patch_embedding.weight", (d, 3, v["patch"], v["patch"]), "matrix"
    yield root + "embeddings.position_embedding.weight", (1 + side * side, d), "small"
    for norm in ("pre_layrnorm", "post_layernorm"):
        yield f"{root}{norm}.weight", (d,), "ones"
        yield f"{root}{norm}.bias", (d,), "zeros"
    for i in range(v["layers"]):
        layer = f"{root}encoder.layers.{i}."
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield f"{layer}self_attn.{name}.weight", (d, d), "matrix"
            yield f"{layer}self_attn.{name}.bias", (d,), "small"
        yield from mlp_and_norms(layer, d, ffn, ("layer_norm1", "layer_norm2"))
    yield from linear("vision_proj.0", text_width, d)
    yield from linear("vision_proj.2", text_width, text_width)


def intern_vit_tensors(v: dict, text_width: int):
    d, ffn, root = v["d"], v["ffn"], "vision_model."
    side = 448 // v["patch"]
    yield root + "embeddings.class_embedding", (1, 1, d), "small"
    yield root + "embeddings.patch_embedding.weight", (d, 3, v["patch"], v["patch"]), "matrix"
    yield root + "embeddings.patch_embedding.bias", (d,), "small"
    yield root + "embeddings.position_embedding", (1, 1 + side * side, d), "small"
    for i in range(v["layers"]):
        layer = f"{root}encoder.layers.{i}."
        yield from linear(layer + "attn.qkv", 3 * d, d)
        yield from linear(layer + "attn.proj", d, d)
        yield layer + "ls1", (d,), "small"
        yield layer + "ls2", (d,), "small"
        yield from mlp_and_norms(layer, d, ffn, ("norm1", "norm2"))
    yield "vision_proj.0.weight", (4 * d,), "ones"
    yield "vision_proj.0.bias", (4 * d,), "zeros"
    yield from linear("vision_proj.1", text_width, 4 * d)
    yield from linear("vision_proj.3", text_width, text_width)


def linear(name, out, inputs):
    yield name + ".weight", (out, inputs), "matrix"
    yield name + ".bias", (out,), "small"


def mlp_and_norms(layer, d, ffn, norms):
    yield from linear(layer + "mlp.fc1", ffn, d)
    yield from linear(layer + "mlp.fc2", d, ffn)
    for norm in norms:
        yield f"{layer}{norm}.weight", (d,), "ones"
        yield f"{layer}{norm}.bias", (d,), "zeros"


# ---- Values

class Values:
    """BF16 values of a tensor, the same for the same seed and order."""

    def __init__(self, seed: int):
        self.random = numpy.random.default_rng(seed)
        self.pool = self.random.standard_normal(POOL, dtype=numpy.float32)
        self.scaled = {}  # scale -> the pool times it, as BF16

    def chunks(self, shape, kind):
        count = math.prod(shape)
        if kind in ("ones", "zeros"):
            yield numpy.full(count, 0x3F80 if kind == "ones" else 0, numpy.uint16)
            return
        scale = 0.02 if kind == "small" else 1 / math.sqrt(math.prod(shape[1:]))
        if scale not in self.scaled:
            self.scaled[scale] = ((self.pool * numpy.float32(scale)).view(numpy.uint32) >> 16).astype(numpy.uint16)
        pool = self.scaled[scale]
        while count > 0:
            start = int(self.random.integers(0, POOL // 2))
            part = pool[start:start + min(count, POOL // 2)]
            count -= len(part)
            yield part


# ---- Files

def write_safetensors(path: pathlib.Path, tensors, values: Values):
    header, offset = {}, 0
    for name, shape, _ in tensors:
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for _, shape, kind in tensors:
            for part in values.chunks(shape, kind):
                part.tofile(out)


def write_weights(folder: pathlib.Path, tensors, values: Values, shard_bytes: int):
    shards, size = [[]], 0
    for tensor in tensors:
        nbytes = 2 * math.prod(tensor[1])
        if shards[-1] and size + nbytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += nbytes
    if len(shards) == 1:
        write_safetensors(folder / "model.safetensors", shards[0], values)
        return
    where = {}
    for i, shard in enumerate(shards):
        name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / name, shard, values)
        where.update({tensor[0]: name for tensor in shard})
    total = sum(2 * math.prod(tensor[1]) for tensor in tensors)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=2))


def write_gate(path: pathlib.Path, layers: int, d: int, values: Values):
    """trol_gating.pt as torch.save writes the state dict of a list that holds one Linear `layers` times."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")  # names in the pickle, no more

    class FloatStorage:
        pass

    def _rebuild_tensor_v2(*_):
        raise NotImplementedError

    for thing, module in ((FloatStorage, torch), (_rebuild_tensor_v2, utils)):
        thing.__module__ = module.__name__
        thing.__qualname__ = thing.__name__
        setattr(module, thing.__name__, thing)
    kept = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules.update({"torch": torch, "torch._utils": utils})

    class Storage:
        def __init__(self, key, data):
            self.key, self.data = key, data

    class Pickled:  # a tensor
        def __init__(self, storage, shape, stride):
            self.arguments = (storage, 0, shape, stride, False, collections.OrderedDict())

        def __reduce__(self):
            return _rebuild_tensor_v2, self.arguments

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            if isinstance(thing, Storage):
                return "storage", FloatStorage, thing.key, "cpu", len(thing.data)
            return None

    weight = Storage("0", (values.pool[:d] / math.sqrt(d)).astype("<f4"))
    bias = Storage("1", numpy.zeros(1, "<f4"))
    state = collections.OrderedDict()
    for i in range(layers):
        state[f"{i}.weight"] = Pickled(weight, (1, d), (d, 1))
        state[f"{i}.bias"] = Pickled(bias, (1,), (1,))
    pickled = io.BytesIO()
    try:
        Pickler(pickled, protocol=2).dump(state)
    finally:
        for name, module in kept.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as out:
        out.writestr("trol_gating/data.pkl", pickled.getvalue())
        out.writestr("trol_gating/byteorder", "little")
        for storage in (weight, bias):
            out.writestr(f"trol_gating/data/{storage.key}", storage.data.tobytes())
        out.writestr("trol_gating/version", "3\n")


# ---- Configs, with the keys that matter

def language_config(t: dict) -> dict:
    names = {"qwen2": "Qwen2ForCausalLM", "internlm2": "InternLM2ForCausalLM", "phi3": "Phi3ForCausalLM",
             "gemma": "GemmaForCausalLM"}
    config = {"architectures": [names[t["family"]]], "model_type": t["family"], "hidden_act": "silu",
              "hidden_size": t["d"], "intermediate_size": t["ffn"], "num_attention_heads": t["heads"],
              "num_hidden_layers": t["layers"], "num_key_value_heads": t["kv"], "rms_norm_eps": 1e-05,
              "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": t["vocab"],
              "bos_token_id": 1, "eos_token_id": 2}
    if t["family"] == "qwen2":
        config |= {"rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "max_position_embeddings": 32768,
                   "use_sliding_window": False, "sliding_window": 32768}
    elif t["family"] == "gemma":
        config |= {"rms_norm_eps": 1e-06, "rope_theta": 10000.0, "max_position_embeddings": 8192, "head_dim": t["head_dim"],
                   "hidden_act": "gelu_pytorch_tanh", "tie_word_embeddings": True}
    elif t["family"] == "internlm2":
        config |= {"bias": False, "rope_theta": 1000000, "max_position_embeddings": 32768,
                   "rope_scaling": {"factor": 2.0, "type": "dynamic"}}
    else:
        half = t["d"] // t["heads"] // 2
        config |= {"rope_theta": 10000.0, "max_position_embeddings": 131072,
                   "original_max_position_embeddings": 4096, "sliding_window": 262144,
                   "rope_scaling": {"type": "su", "short_factor": [1 + 0.01 * i for i in range(half)],
                                    "long_factor": [1 + 1.3 * i for i in range(half)]}}
    return config


def model_config(scheme: str, t: dict, v) -> dict:
    if scheme == "dense":
        return language_config(t)
    if scheme == "trol" and t["family"] == "internlm2":
        config = language_config(t) | {"architectures": ["TroLForCausalLM"], "model_type": "internlm",
                                       "image_token_index": t["vocab"]}
        if v != VISION:  # the release says nothing: constants of its code
            config["vision_config"] = vision_config(v) | {"model_type": "clip_vision_model", "image_size": 490,
                                                          "hidden_act": "quick_gelu", "layer_norm_eps": 1e-05}
        return config
    return {"architectures": ["TroLForCausalLM" if scheme == "trol" else "PhantomForCausalLM"], "model_type": scheme,
            "downsample_ratio": 0.5, "dynamic_image_size": True, "force_image_size": 448, "max_dynamic_patch": 6,
            "min_dynamic_patch": 1, "use_thumbnail": True, "ps_version": "v2", "select_layer": -1,
            "image_token_index": t["vocab"] - 9, "eos_token_id": 2, "torch_dtype": "bfloat16",
            "llm_config": language_config(t), "vision_config": vision_config(v) | {
                "model_type": "intern_vit_6b", "image_size": 448, "hidden_act": "gelu", "layer_norm_eps": 1e-06,
                "norm_type": "layer_norm", "qkv_bias": True, "qk_normalization": False}}


def vision_config(v: dict) -> dict:
    return {"hidden_size": v["d"], "intermediate_size": v["ffn"], "num_attention_heads": v["heads"],
            "num_hidden_layers": v["layers"], "patch_size": v["patch"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shard-bytes", type=int, default=5_000_000_000)
    args = parser.parse_args()

    scheme, text, vision = shape_of(args.shape)
    tensors = list(language_tensors(scheme, text))
    if vision:
        clip = scheme == "trol" and text["family"] == "internlm2"
        tensors += (clip_tensors if clip else intern_vit_tensors)(vision, text["d"])
    values = Values(args.seed)
    args.folder.mkdir(parents=True, exist_ok=True)
    write_weights(args.folder, tensors, values, args.shard_bytes)
    if scheme == "trol":
        write_gate(args.folder / "trol_gating.pt", text["layers"], text["d"], values)
    (args.folder / "generation_config.json").write_text('{"bos_token_id": 1, "eos_token_id": 2}\n')
    (args.folder / "config.json").write_text(json.dumps(model_config(scheme, text, vision), indent=1) + "\n")
    total = sum(math.prod(shape) for _, shape, _ in tensors)
    print(f"{args.folder}: {args.shape}, {total / 1e9:.3f}B parameters, {2 * total / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
