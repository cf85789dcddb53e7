#!/usr/bin/env python3
"""Random tiny models of every kind, run by `reprise trace` and by plain PyTorch.

The golden data and tests/data/parity hold a few models each; this script makes as many others as
wanted, with awkward sizes (head dims that are no multiple of a vector, one KV head, a vocabulary of
257, windows shorter than the prompt, rope that changes its factors while tokens are generated,
one-token prompts, sharded files, 16-bit weights), and compares every tensor of a trace, on every
instruction set of the cpu backend and on the torch backend, with an implementation in float64 that
has the official code's kind of cache and shares no line with the C++ code. It is a judge: nothing
of the product or of its tests needs it.

    python scripts/check_random_models.py --golden               # the judge on the golden data
    python scripts/check_random_models.py [--seeds 0-39] [--kinds trol,phantom] [--backends ...]

Needs torch, safetensors, numpy. Exit code 1 if anything is out of tolerance.
"""

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/data/parity"))
import make_reference as ref  # noqa: E402  (weights' names and shapes, vision tower)

# The golden READMEs' tolerances, for logits with a deviation of 2: larger ones may be off by more.
LOGITS, HIDDEN, DEVIATION = 2e-4, 5e-4, 2.0
STEPS = 6


# ---------------------------------------------------------------- a decoder with a cache, float64


def rope(x, c, start, total):
    """x [n, heads, hd] at positions start...; factors chosen by the call's total length."""
    dim = int(c["head_dim"] * c.get("partial_rotary_factor", 1.0))
    scaling = dict(c.get("rope_scaling") or {"type": "default"})
    kind = scaling.get("type", scaling.get("rope_type"))
    scaling["rope_type"] = "longrope" if kind in ("su", "yarn") else kind
    inverse, factor = ref.inverse_frequencies(c | {"head_dim": dim, "rope_scaling": scaling}, total)
    if kind == "yarn":  # Phi-3's
        factor = 0.1 * math.log(c["max_position_embeddings"] / c["original_max_position_embeddings"]) + 1
    # Angles are rounded as the official float32 code rounds them: at position 45 an exact angle moves
    # the logits of some models by 4e-4.
    angle = torch.arange(start, start + x.shape[0]).float()[:, None] * inverse.float()
    cos, sin = (t(angle.double())[:, None].to(x.dtype) * factor for t in (torch.cos, torch.sin))
    a, b, rest = x[..., : dim // 2], x[..., dim // 2 : dim], x[..., dim:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


def attend(q, k, v, start, scale, window):
    """q [n, H, a] at positions start...; k, v [m, H, .] at positions 0...m-1."""
    at = torch.arange(start, start + q.shape[0])[:, None]
    of = torch.arange(k.shape[0])[None]
    hidden = of > at
    if window:
        hidden = hidden | (at - of > window)  # a token and `window` before it
    scores = (q.transpose(0, 1) @ k.transpose(0, 1).transpose(1, 2)) * scale  # [H, n, m]
    return (scores.masked_fill(hidden, -math.inf).softmax(-1) @ v.transpose(0, 1)).transpose(0, 1)


def visit(w, c, layer, x, cache, start, total, adapter=None, show=None):
    """One decoder layer; cache: {} or what an earlier call with it left. Returns x."""
    p = f"{c.get('prefix', '')}model.layers.{layer}."
    n, H, G, hd = x.shape[0], c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    fused = c["architectures"][0] == "Phi3ForCausalLM"

    def linear(h, name, key):
        y = F.linear(h, w[p + name + ".weight"], w.get(p + name + ".bias"))
        if adapter is None:
            return y
        return y + h @ (w[f"{p}lora.{adapter}.{key}.B"] @ w[f"{p}lora.{adapter}.{key}.A"]).T

    h = ref.rms(x, w[p + "input_layernorm.weight"], c["rms_norm_eps"])
    if fused:
        q, k, v = linear(h, "self_attn.qkv_proj", "qkv").split([H * hd, G * hd, G * hd], 1)
    else:
        q, k, v = (linear(h, f"self_attn.{m}_proj", m) for m in "qkv")
    q = rope(q.view(n, H, hd), c, start, total)
    k = rope(k.view(n, G, hd), c, start, total)
    v = v.reshape(n, G, hd)
    for name, t in (("k", k), ("v", v)):
        cache[name] = torch.cat([cache[name], t]) if name in cache else t
    repeat = lambda t: t.repeat_interleave(H // G, 1)
    K, V, scale, window = repeat(cache["k"]), repeat(cache["v"]), hd**-0.5, c.get("window", 0)
    seen = {}
    if (eta := c.get("eta")) is None:
        o = attend(q, K, V, start, scale, window)
    else:
        # As the official decode: the sos token's q, k, v are state, k* and v* of the whole context
        # are made anew in every call.
        cache.setdefault("sos", (q[0], K[0], V[0]))
        sos, a = cache["sos"], p + "self_attn."
        star = [ref.phantom_cross(t, s, w, f"{a}xattn_{m}_phantom", eta)
                for t, s, m in zip((q, K, V), sos, ("query", "key", "value"))]
        both = attend(torch.cat([q, star[0]], -1), torch.cat([K, star[1]], -1),
                      torch.cat([V, V + star[2]], -1), start, scale, window)
        o1, o2 = both.split(hd, -1)
        f, g = (F.linear(t, w[f"{a}gating_phantom_{i}.weight"], w[f"{a}gating_phantom_{i}.bias"])
                for i, t in ((1, o1), (2, o2)))
        gate = torch.sigmoid(f - g)
        o = gate * o1 + (1 - gate) * o2
        seen = {"qstar": star[0], "kstar": star[1][start:], "vstar": (V + star[2])[start:],
                "o1": o1, "o2": o2, "gate_w": gate[..., 0]}
    attention = linear(o.reshape(n, H * hd), "self_attn.o_proj", "o")
    x = x + attention
    h = ref.rms(x, w[p + "post_attention_layernorm.weight"], c["rms_norm_eps"])
    if fused:
        gate, up = linear(h, "mlp.gate_up_proj", "gate_up").chunk(2, -1)
    else:
        gate, up = linear(h, "mlp.gate_proj", "gate"), linear(h, "mlp.up_proj", "up")
    if show is not None:
        show |= seen | {"attn": attention}
    return x + linear(F.silu(gate) * up, "mlp.down_proj", "down")


def forward(w, c, x, cache, start, total, traverse):
    """One call for x [n, d] at positions start...; cache: {depth: {}}. -> dict of results."""
    out, depth = {}, 0
    p = c.get("prefix", "")
    L = c["num_hidden_layers"]
    final = lambda t: ref.rms(t, w[p + "model.norm.weight"], c["rms_norm_eps"])
    head = w[p + ("model.embed_tokens" if c["tie_word_embeddings"] else "lm_head") + ".weight"]

    def step(layer, x, adapter=None):
        nonlocal depth
        show = {}
        x = visit(w, c, layer, x, cache.setdefault(depth, {}), start, total, adapter, show)
        out.update({f"layer.{depth}.{k}": t for k, t in show.items()})
        depth += 1
        return x

    if c.get("loops"):
        for loop in range(c["loops"]):
            for i in range(L):
                x = step(i, x, loop if c["lora_rank"] else None)
                out[f"layer.{depth - 1}.out"] = x
            out |= {f"exit.{loop}.hidden": x, f"exit.{loop}.logits": final(x) @ head.T}
    elif c.get("trol"):
        for i in range(L):
            x = step(i, x)
            if traverse:
                one, two = x, visit(w, c, i, x, {}, start, total)
                mix = 0.5 * torch.tanh(F.linear(one, w["trol_gating.weight"], w["trol_gating.bias"])) + 0.5
                x = (1 - mix) * one + mix * two
                out |= {f"layer.{i}.pass1": one, f"layer.{i}.pass2": two, f"layer.{i}.mix_w": mix}
            out[f"layer.{i}.out"] = x
    else:
        for blocks, times in ref.parse_plan(c.get("plan") or (f"0-{L - 1}")):
            for _ in range(times):
                was = x
                for i in blocks:
                    x = step(i, x)
                    out[f"layer.{depth - 1}.out"] = x
                x = was + (x - was) / times
    out["final_norm"] = final(x)
    out["logits"] = out["final_norm"] @ head.T
    return out


def run(w, c, ids, pixels, steps):
    """Everything `reprise trace --steps` writes, from weights w (float64 or float32)."""
    table, out = w[c.get("prefix", "") + "model.embed_tokens.weight"], {}
    x = table[ids]
    if pixels is not None:
        out["vision_out"] = ref.vision_features(w, c["vision"], pixels)
        out["projected"] = ref.project(w, out["vision_out"])
        x[ids == c["image_token"]] = out["projected"].reshape(-1, x.shape[-1])
    out["inputs_embeds"] = x
    n, cache = len(ids), {}
    out |= forward(w, c, x, cache, 0, n, traverse=n > 1)
    for depth, kv in cache.items():
        out |= {f"layer.{depth}.{m}": kv[m].transpose(0, 1) for m in "kv"}  # [G, n, hd]
    rows, tokens = [out["logits"][-1]], [int(out["logits"][-1].argmax())]
    for t in range(1, steps):
        now = forward(w, c, table[tokens[-1:]], cache, n + t - 1, n + t, traverse=False)
        if t == 1:
            out |= {f"decode.1.{k}": v for k, v in now.items()
                    if k.endswith(".out") or k.endswith("gate_w")}
        rows.append(now["logits"][0])
        tokens.append(int(rows[-1].argmax()))
    out["decode.tokens"], out["decode.logits"] = torch.tensor(tokens), torch.stack(rows)
    return out


def smallest_gap(out):
    best = out["decode.logits"].topk(2, -1).values
    return float((best[:, 0] - best[:, 1]).min())


# ---------------------------------------------------------------- random models


KINDS = ("llama", "qwen2", "phi3", "replay", "recursive", "trol", "phantom-qwen2", "phantom-phi3")
NAMES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "phi3": "Phi3ForCausalLM"}


def random_config(kind, r):
    family = {"trol": "phi3", "phantom-qwen2": "qwen2", "phantom-phi3": "phi3"}.get(kind)
    family = family or (kind if kind in NAMES else r.choice(list(NAMES)))
    group = r.choice((1, 2, 3, 4))
    G = r.choice((1, 1, 2, 3))
    H, hd = G * group, r.choice((8, 10, 16, 24, 40, 72))
    c = dict(architectures=[NAMES[family]], num_hidden_layers=r.choice((1, 2, 3, 5)),
             num_attention_heads=H, num_key_value_heads=G, head_dim=hd, hidden_size=H * hd,
             intermediate_size=r.choice((7, 33, 100, 160)), vocab_size=r.choice((31, 257, 300)),
             rms_norm_eps=r.choice((1e-5, 1e-6)), hidden_act="silu",
             rope_theta=r.choice((500.0, 1e4, 1e6)), max_position_embeddings=r.choice((24, 128, 4096)),
             tie_word_embeddings=r.random() < 0.3, bos_token_id=1, eos_token_id=2)
    if r.random() < 0.4:
        c["hidden_size"] = r.choice((20, 36, 72, 100))  # heads * head_dim is something else
    n = r.choice((1, 2, 5, 17, 33, 40))
    scaling, M = r.random(), c["max_position_embeddings"]
    dim = hd
    if family == "phi3" and hd % 8 == 0 and r.random() < 0.2:
        c["partial_rotary_factor"] = 0.75
        dim = hd * 3 // 4
    numbers = lambda low, high: [round(r.uniform(low, high), 3) for _ in range(dim // 2)]
    if family == "phi3":
        c["rope_scaling"] = None
        if scaling < 0.6:
            # short factors for the prompt and for some tokens, long ones behind; or long from the start
            original = max(2, n + r.choice((-3, -1, 0, 1, 2, 3)))
            c["original_max_position_embeddings"] = original
            c["max_position_embeddings"] = original * r.choice((1, 4, 32))
            c["rope_scaling"] = {"type": r.choice(("su", "longrope", "yarn")), "short_factor": numbers(1, 1.4),
                                 "long_factor": numbers(1, 8)}
        c["sliding_window"] = r.choice((None, 262144, 1, 4, 9, n, n + 2))
    elif scaling < 0.2:
        c["rope_scaling"] = {"rope_type": "dynamic", "factor": r.choice((2.0, 3.5))}
        c["max_position_embeddings"] = max(2, n + r.choice((-2, 0, 2)))
    elif scaling < 0.4:
        c["rope_scaling"] = {"rope_type": "linear", "factor": 2.5}
    elif scaling < 0.6 and family == "llama":
        c["rope_scaling"] = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                             "high_freq_factor": 4.0, "original_max_position_embeddings": max(8, M // 8)}
    if family == "qwen2":
        c |= {"use_sliding_window": False, "sliding_window": 3}  # off whatever its value
    if kind == "replay":
        L = c["num_hidden_layers"]
        c["plan"] = r.choice((f"0-{L - 1},0", f"0-{L - 1}*2", f"{L - 1}-0,0-{L - 1}", f"0*3,0-{L - 1}"))
    if kind == "recursive":
        c |= {"loops": r.choice((1, 2, 3)), "lora_rank": r.choice((0, 1, 5, 64, 200))}
    if kind.startswith(("trol", "phantom")):
        c["prefix"] = "language_model."
        patch = r.choice((2, 7, 14))
        heads = r.choice((1, 2, 3))
        c["vision"] = dict(model_type="intern_vit_300m", hidden_size=heads * r.choice((8, 12, 20)),
                           num_hidden_layers=r.choice((1, 2, 3)), num_attention_heads=heads,
                           intermediate_size=r.choice((20, 33, 100)), patch_size=patch,
                           image_size=patch * r.choice((2, 4, 6)), layer_norm_eps=1e-6,
                           hidden_act="gelu", norm_type="layer_norm", qkv_bias=r.random() < 0.7,
                           qk_normalization=False)
        c["image_token"] = 5
        c["tiles"] = r.choice((0, 1, 1, 2, 3))
    if kind == "trol":
        c["trol"] = True
    if kind.startswith("phantom"):
        c["eta"] = r.choice((1e-4, 1e-4, 0.3))
    return c, n


def hf_config(kind, c):
    """config.json as a release has it."""
    own = ("prefix", "vision", "image_token", "tiles", "trol", "eta", "loops", "lora_rank", "plan")
    text = {k: v for k, v in c.items() if k not in own and k != "window"}
    if c["hidden_size"] == c["head_dim"] * c["num_attention_heads"]:
        del text["head_dim"]
    if kind.startswith(("trol", "phantom")):
        config = {"model_type": kind.split("-")[0], "architectures": ["VLForCausalLM"],
                  "llm_config": text, "vision_config": c["vision"], "downsample_ratio": 0.5,
                  "image_token_index": c["image_token"], "eos_token_id": 2}
        if c.get("eta") not in (None, 1e-4):
            config["reprise"] = {"scheme": "phantom", "phantom": {"eta": c["eta"]}}
        return config
    if kind == "replay":
        text["reprise"] = {"scheme": "replay", "replay": {"plan": c["plan"]}}
    if kind == "recursive":
        text["reprise"] = {"scheme": "recursive",
                           "recursive": {"loops": c["loops"], "lora_rank": c["lora_rank"]}}
    return text


def make_model(folder, kind, seed):
    """Writes a model and its inputs; -> config, weights as stored (float32), ids, pixels."""
    r = random.Random(f"{kind} {seed}")
    c, n = random_config(kind, r)
    c["window"] = c.get("sliding_window") or 0 if "Phi3" in c["architectures"][0] else 0
    g = torch.Generator().manual_seed(seed)
    ids, pixels = torch.randint(6, c["vocab_size"], (n,), generator=g), None
    if tiles := c.get("tiles"):
        v = c["vision"]
        count = tiles * (v["image_size"] // v["patch_size"] // 2) ** 2
        at = r.choice((0, 1, 2))  # a picture may come first and last
        tail = r.choice((0, 1, 7))
        ids = torch.cat([ids[:at], torch.full((count,), c["image_token"]), ids[:tail]])
        pixels = torch.randn((tiles, 3, v["image_size"], v["image_size"]), generator=g)
    weights = ref.random_weights(c, seed)
    kind_of = r.choice((torch.float32, torch.float32, torch.bfloat16, torch.float16))
    stored = {k: t.to(kind_of) if t.dim() > 1 else t for k, t in weights.items()}
    folder.mkdir(parents=True)
    if c.get("trol"):
        write_gate(folder, stored, c["num_hidden_layers"], r)
    weights = {k: t.float() for k, t in stored.items()}
    files = {k: t for k, t in stored.items() if not k.startswith("trol_gating")}
    shards = r.choice((1, 1, 2, 3))
    if shards == 1:
        save_file(files, folder / "model.safetensors")
    else:
        index = {}
        for i in range(shards):
            name = f"model-{i + 1:05}-of-{shards:05}.safetensors"
            part = {k: t for j, (k, t) in enumerate(files.items()) if j % shards == i}
            index |= {k: name for k in part}
            save_file(part, folder / name)
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "config.json").write_text(json.dumps(hf_config(kind, c)))
    inputs = {"input_ids": ids} | ({"pixel_values": pixels} if pixels is not None else {})
    save_file(inputs, folder / "inputs.safetensors")
    return c, weights, ids, pixels, f"{str(kind_of)[6:]} x{shards}"


def write_gate(folder, stored, layers, r):
    """The official form (an OrderedDict, storages shared) and the others a release may have."""
    gate = {m: stored[f"trol_gating.{m}"] for m in ("weight", "bias")}
    if r.random() < 0.5:
        gate = {m: t.half() for m, t in gate.items()}
    for m, t in gate.items():
        stored[f"trol_gating.{m}"] = t
    alike = r.random() < 0.5
    state = OrderedDict((f"{i}.{m}", t if alike else t.clone())
                        for i in range(layers) for m, t in gate.items())
    torch.save(state if r.random() < 0.5 else dict(state), folder / "trol_gating.pt")


# ---------------------------------------------------------------- comparison


def compare(found, expected, problems):
    """-> largest difference of logits and of everything else."""
    logits = hidden = 0.0
    scale = max(1.0, float(expected["logits"].std()) / DEVIATION)
    for name, t in expected.items():
        want = t.detach().numpy()
        got = found.get(name)
        if got is None or got.shape != want.shape:
            problems.append(f"{name}: {'missing' if got is None else got.shape}, want {want.shape}")
            continue
        if name == "decode.tokens":
            if not np.array_equal(got, want):
                problems.append(f"decode.tokens: {got.tolist()}, want {want.tolist()}")
            continue
        off = float(np.abs(got - want).max()) if np.isfinite(got).all() else math.inf
        limit = scale * (LOGITS if name.endswith("logits") else HIDDEN)
        if name.endswith("logits"):
            logits = max(logits, off)
        else:
            hidden = max(hidden, off)
        if not off <= limit:
            problems.append(f"{name}: off by {off:.1e}")
    return logits, hidden


def backends(names, program):
    """[(label, arguments, environment)]"""
    known = {"torch": (["--backend", "torch"], {})}
    for isa in ("scalar", "avx2", "avx512-vnni", "avx2-simde", "avx512-vnni-simde"):
        known[isa] = ([], {"REPRISE_ISA": isa})
    known["avx2+chunks"] = (["--chunk", "3"], {"REPRISE_ISA": "avx2"})
    return [(name, *known[name]) for name in names]


def trace(program, folder, arguments, environment):
    out = folder / "out.safetensors"
    out.unlink(missing_ok=True)
    command = [program, "trace", folder, "--inputs", folder / "inputs.safetensors", "--out", out,
               "--steps", str(STEPS), "--activations", "f32", "--threads", "2", *arguments]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    return (load_file(out) if done.returncode == 0 else None), done.stderr.strip()


def check_seed(kind, seed, args, folder):
    for attempt in range(50):  # a seed whose greedy choices are clear
        path = folder / f"{kind}-{seed}-{attempt}"
        c, weights, ids, pixels, files = make_model(path, kind, seed * 50 + attempt)
        with torch.no_grad():
            double = {k: t.double() for k, t in weights.items()}
            out = run(double, c, ids, None if pixels is None else pixels.double(), STEPS)
        if smallest_gap(out) > 2e-3:
            break
    with torch.no_grad():
        noise = run(weights, c, ids, pixels, STEPS)["logits"].sub(out["logits"]).abs().max()
    bad, cells = [], []
    for label, arguments, environment in backends(args.backends, args.program):
        found, error = trace(args.program, path, arguments, environment)
        problems = []
        if found is None:
            problems.append(error)
            cells.append("error")
        else:
            cells.append("{:.0e} {:.0e}".format(*compare(found, out, problems)))
        bad += [f"{kind} {seed}, {label}: {p}" for p in problems[:6]]
    shape = "{num_hidden_layers}L {num_attention_heads}/{num_key_value_heads}x{head_dim}".format(**c)
    print(f"| {kind} {seed} | {shape} d{c['hidden_size']} f{c['intermediate_size']} V{c['vocab_size']} "
          f"| {len(ids)}{' i' if pixels is not None else ''} | {files} | {out['logits'].std():.1f} "
          f"{noise:.0e} | " + " | ".join(cells) + " |" + (" <-- " if bad else ""), flush=True)
    return bad


# ---------------------------------------------------------------- the judge judged


def check_golden():
    """The implementation above on the official code's outputs; -> problems."""
    bad = []
    for path in sorted((ROOT / "tests/data/golden").glob("*/*/case-*.safetensors")):
        config = json.loads((path.parent / "model/config.json").read_text())
        llm = config.get("llm_config")
        if not llm or llm["architectures"][0] not in NAMES.values():
            continue
        c = {k: llm.get(k) for k in llm}
        c |= {"prefix": "language_model.", "vision": config["vision_config"],
              "image_token": config["image_token_index"],
              "head_dim": llm["hidden_size"] // llm["num_attention_heads"],
              "window": (llm.get("sliding_window") or 0) if "Phi3" in llm["architectures"][0] else 0,
              "eta": 1e-4 if config["model_type"] == "phantom" else None,
              "trol": config["model_type"] == "trol"}
        w = load_torch(path.parent / "model/model.safetensors")
        if c["trol"]:
            gate = torch.load(path.parent / "model/trol_gating.pt", weights_only=True,
                              map_location="cpu")
            w |= {f"trol_gating.{m}": gate[f"0.{m}"] for m in ("weight", "bias")}
        w = {k: t.double() for k, t in w.items()}
        case = load_torch(path)
        B, tiles = case["input_ids"].shape[0], 0
        for b in range(B):
            mask = case.get("attention_mask", torch.ones_like(case["input_ids"]))[b].bool()
            ids, pixels = case["input_ids"][b][mask], None
            if count := int((ids == c["image_token"]).sum()):
                v = c["vision"]
                mine = count // (v["image_size"] // v["patch_size"] // 2) ** 2
                if "pixel_u8" in case:
                    mean, std = (torch.tensor(t, dtype=torch.float64)[:, None, None] for t in
                                 ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
                    pixels = (case["pixel_u8"].double() / 255 - mean) / std
                else:
                    pixels = case["pixel_values"].double()
                pixels, tiles = pixels[tiles : tiles + mine], tiles + mine
            with torch.no_grad():
                out = run(w, c, ids, pixels, 6)
            prefix, problems = (f"alone.{b}." if B > 1 else ""), []
            rows = case.get("rows")
            at = lambda k, t: t if rows is None or k.startswith("decode") or t.dim() < 2 or \
                k in ("projected", "vision_out") or t.shape[0] != len(ids) else t[rows]
            expected = {k[len(prefix):]: t for k, t in case.items() if k.startswith(prefix)}
            common = {k: t for k, t in out.items() if k in expected and "vision_rows" not in case
                      or k in expected and k not in ("vision_out", "projected")}
            got = {k: at(k, t).numpy() for k, t in common.items()}
            want = {k: expected[k] if k in ("projected", "vision_out") else expected[k][0]
                    for k in common}
            off = compare(got, want, problems)
            name = f"{path.parent.parent.name}/{path.parent.name}/{path.stem} {prefix}"
            print(f"{name}: {len(common)} tensors, logits {off[0]:.1e}, others {off[1]:.1e}")
            bad += [f"{name}: {p}" for p in problems]
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--golden", action="store_true", help="only judge the judge")
    parser.add_argument("--seeds", default="0-3", help="one or first-last, of each kind")
    parser.add_argument("--kinds", default=",".join(KINDS), help="beginnings of names")
    parser.add_argument("--backends", default="scalar,avx2,avx512-vnni,torch")
    parser.add_argument("--program", default=str(ROOT / "build/release/reprise"))
    parser.add_argument("--keep", help="folder for the models, kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.golden:
        bad = check_golden()
    else:
        args.backends = args.backends.split(",")
        wanted = [k for k in KINDS if any(k.startswith(b) for b in args.kinds.split(","))]
        first, _, last = args.seeds.partition("-")
        print("model: layers, heads/kv x head_dim, d, ffn, vocabulary. Logits: their deviation, and "
              "the noise of float32 PyTorch.\nCells: largest difference of logits and of all else.\n"
              "| model | shape | prompt | weights | logits | " + " | ".join(args.backends) + " |")
        print("|---" * (5 + len(args.backends)) + "|")
        bad = []
        with tempfile.TemporaryDirectory() as temporary:
            for seed in range(int(first), int(last or first) + 1):
                for kind in wanted:
                    bad += check_seed(kind, seed, args, Path(args.keep or temporary))
    print("\n".join(bad) if bad else "no deviation")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
