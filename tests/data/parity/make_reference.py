"""Reference outputs for tests/parity/reference_test.cc: tiny random models, run by plain PyTorch.

Everything is written from the formulas (the papers', and those in the golden data's READMEs), in
float64, without a cache and without a line shared with the C++ code. Ordinary decoders are run by
`transformers` as well (float32, eager attention); the script stops where the two disagree.

    python make_reference.py            # needs torch, transformers, safetensors, gguf, numpy

Writes one folder a model beside this file: config.json, model.safetensors (and trol_gating.pt) and
  case-<variant>.safetensors   input_ids [1,n]; logits [1,n,V], layer.<i>.out, decode.tokens,
                               decode.logits and what else the scheme shows; transformers.logits
  loss-<variant>.safetensors   labels [n] (-100: not counted), loss [1], grad.<tensor> for all
                               weights of the model
and *.gguf, written by the package gguf, for the same outputs. variants.json says which variant of a
folder runs which plan.
"""

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

HERE = Path(__file__).resolve().parent
STEPS = 4
# d is no multiple of anything, head_dim * heads is not d: awkward sizes find wrong strides.
BASE = dict(hidden_size=36, num_attention_heads=4, num_key_value_heads=2, head_dim=10,
            intermediate_size=44, vocab_size=46, num_hidden_layers=2, rms_norm_eps=1e-5,
            hidden_act="silu", max_position_embeddings=64, rope_theta=500.0,
            tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, torch_dtype="float32")
VISION = dict(model_type="intern_vit_300m", hidden_size=16, num_hidden_layers=2,
              num_attention_heads=2, intermediate_size=20, patch_size=4, image_size=16,
              layer_norm_eps=1e-6, hidden_act="gelu", norm_type="layer_norm", qkv_bias=True,
              qk_normalization=False)
IMAGE_TOKEN = 3


# ---------------------------------------------------------------- the text model


def inverse_frequencies(c, length):
    """Rope's inverse frequencies and the factor on cos and sin."""
    dim = c["head_dim"]
    i = torch.arange(0, dim, 2, dtype=torch.float64)
    scaling = c.get("rope_scaling") or {}
    kind = scaling.get("rope_type", "default")
    theta = c["rope_theta"]
    if kind == "dynamic" and length > c["max_position_embeddings"]:
        f, limit = scaling["factor"], c["max_position_embeddings"]
        theta *= (f * length / limit - (f - 1)) ** (dim / (dim - 2))
    inv = theta ** (-i / dim)
    if kind == "linear":
        inv = inv / scaling["factor"]
    if kind == "llama3":
        # Wavelengths in units of the original context: below 1/high kept, above 1/low divided.
        turns = scaling["original_max_position_embeddings"] * inv / (2 * math.pi)
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        keep = ((turns - low) / (high - low)).clamp(0, 1)
        inv = inv * (keep + (1 - keep) / scaling["factor"])
    factor = 1.0
    if kind == "yarn":  # arXiv 2309.00071: by how often a frequency turns in the original context
        f, original = scaling["factor"], scaling["original_max_position_embeddings"]
        at = lambda turns: dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))
        low, high = at(scaling.get("beta_fast", 32)), at(scaling.get("beta_slow", 1))
        if scaling.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        ramp = (torch.arange(dim // 2) - low) / ((high - low) or 0.001)
        inv = inv * (1 - ramp.clamp(0, 1) * (1 - 1 / f))
        factor = scaling.get("attention_factor", 0.1 * math.log(f) + 1)
    if kind == "longrope":
        original, limit = c["original_max_position_embeddings"], c["max_position_embeddings"]
        chosen = scaling["long_factor" if length > original else "short_factor"]
        inv = inv / torch.tensor(chosen, dtype=torch.float64)
        factor = math.sqrt(1 + math.log(limit / original) / math.log(original))
    return inv, factor


def rotate(x, c, length):  # [n, heads, head_dim], positions 0..n-1
    inv, factor = inverse_frequencies(c, length)
    angle = torch.arange(x.shape[0], dtype=torch.float64)[:, None, None] * inv
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    cos, sin = angle.cos() * factor, angle.sin() * factor
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def rms(x, w, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * w


def window_keys(c):
    """Keys a token sees, itself included; 0: all. The released code of TroL and Phantom sees one
    more than its sliding_window says."""
    window = c.get("sliding_window") or 0
    released = c.get("trol") or c.get("eta") is not None
    return window + 1 if window and released else window


def causal(q, k, v, scale, window):  # [n, H, a], [n, H, a], [n, H, b]
    n = q.shape[0]
    back = torch.arange(n)[:, None] - torch.arange(n)[None, :]
    hidden = back < 0
    if window:
        hidden = hidden | (back >= window)
    scores = torch.einsum("ihd,jhd->hij", q, k) * scale
    return torch.einsum("hij,jhd->ihd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)


def phantom_cross(x, sos, w, prefix, eta):  # x [n, H, hd], sos [H, hd]
    lin = lambda name, t: F.gelu(t @ w[f"{prefix}.linear_{name}.weight"].T)
    q, k, v = lin("q", x), lin("k", sos), lin("v", sos)
    mixed = torch.softmax(q @ k.T / math.sqrt(x.shape[-1]), -1) @ v
    return eta * lin("o", mixed)


def visit(w, prefix, x, c, adapter=None):
    """One decoder layer. adapter: prefix of the low-rank matrices, or None."""
    n = x.shape[0]
    H, G, hd = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]

    def linear(h, name, key):
        y = h @ w[f"{prefix}{name}.weight"].T
        if f"{prefix}{name}.bias" in w:
            y = y + w[f"{prefix}{name}.bias"]
        if adapter is not None:
            y = y + (h @ w[f"{adapter}{key}.A"].T) @ w[f"{adapter}{key}.B"].T
        return y

    h = rms(x, w[prefix + "input_layernorm.weight"], c["rms_norm_eps"])
    if c["architectures"][0] == "Phi3ForCausalLM":
        q, k, v = linear(h, "self_attn.qkv_proj", "qkv").split([H * hd, G * hd, G * hd], -1)
    else:
        q, k, v = (linear(h, f"self_attn.{m}_proj", m) for m in "qkv")
    q = rotate(q.reshape(n, H, hd), c, c["total_length"])
    k = rotate(k.reshape(n, G, hd), c, c["total_length"])
    v = v.reshape(n, G, hd)
    k, v = (t.repeat_interleave(H // G, 1) for t in (k, v))
    window, scale = window_keys(c), 1 / math.sqrt(hd)
    eta = c.get("eta")
    if eta is None:
        o = causal(q, k, v, scale, window)
    else:
        p = prefix + "self_attn."
        q2 = phantom_cross(q, q[0], w, p + "xattn_query_phantom", eta)
        k2 = phantom_cross(k, k[0], w, p + "xattn_key_phantom", eta)
        v2 = v + phantom_cross(v, v[0], w, p + "xattn_value_phantom", eta)
        both = causal(torch.cat([q, q2], -1), torch.cat([k, k2], -1), torch.cat([v, v2], -1), scale,
                      window)
        o1, o2 = both[..., :hd], both[..., hd:]
        gate = lambda o, i: o @ w[f"{p}gating_phantom_{i}.weight"].T + w[f"{p}gating_phantom_{i}.bias"]
        f, g = gate(o1, 1).exp(), gate(o2, 2).exp()
        o = (f * o1 + g * o2) / (f + g)
    x = x + linear(o.reshape(n, H * hd), "self_attn.o_proj", "o")
    h = rms(x, w[prefix + "post_attention_layernorm.weight"], c["rms_norm_eps"])
    if c["architectures"][0] == "Phi3ForCausalLM":
        gate, up = linear(h, "mlp.gate_up_proj", "gate_up").chunk(2, -1)
    else:
        gate, up = linear(h, "mlp.gate_proj", "gate"), linear(h, "mlp.up_proj", "up")
    return x + linear(F.silu(gate) * up, "mlp.down_proj", "down")


def parse_plan(text):
    """'0-2,1*3' -> [([0, 1, 2], 1), ([1], 3)]"""
    groups = []
    for piece in text.split(","):
        blocks, _, times = piece.partition("*")
        ends = [int(t) for t in blocks.split("-")]
        first, last = ends[0], ends[-1]
        step = 1 if last >= first else -1
        groups.append((list(range(first, last + step, step)), int(times or 1)))
    return groups


def forward(w, c, x, plan=None, traversal=True):
    """x [n, d] -> dict of everything a case holds."""
    p = c.get("prefix", "")
    name = lambda i: f"{p}model.layers.{i}."
    out = {"inputs_embeds": x}
    head = w[p + ("model.embed_tokens.weight" if c["tie_word_embeddings"] else "lm_head.weight")]
    final = lambda t: rms(t, w[p + "model.norm.weight"], c["rms_norm_eps"])
    loops = c.get("loops")
    if loops:
        depth = 0
        for loop in range(loops):
            for i in range(c["num_hidden_layers"]):
                adapter = f"{name(i)}lora.{loop}." if c["lora_rank"] else None
                x = visit(w, name(i), x, c, adapter)
                out[f"layer.{depth}.out"] = x
                depth += 1
            out[f"exit.{loop}.hidden"] = x
            out[f"exit.{loop}.logits"] = final(x) @ head.T
    elif c.get("trol"):
        for i in range(c["num_hidden_layers"]):
            one = visit(w, name(i), x, c)
            if x.shape[0] > 1 and traversal:
                two = visit(w, name(i), one, c)
                mix = 0.5 * torch.tanh(one @ w["trol_gating.weight"].T + w["trol_gating.bias"]) + 0.5
                x = (1 - mix) * one + mix * two
                out |= {f"layer.{i}.pass1": one, f"layer.{i}.pass2": two, f"layer.{i}.mix_w": mix}
            else:
                x = one
            out[f"layer.{i}.out"] = x
    else:
        depth = 0
        for blocks, times in parse_plan(plan or f"0-{c['num_hidden_layers'] - 1}"):
            for _ in range(times):
                before = x
                for i in blocks:
                    x = visit(w, name(i), x, c)
                    out[f"layer.{depth}.out"] = x
                    depth += 1
                x = before + (x - before) / times
    out["final_norm"] = final(x)
    out["logits"] = out["final_norm"] @ head.T
    return out


# ---------------------------------------------------------------- vision


def vision_features(w, v, pixels):  # [t, 3, s, s] -> [t, tokens, 4 d]
    p = "vision_model."
    x = F.conv2d(pixels, w[p + "embeddings.patch_embedding.weight"],
                 w[p + "embeddings.patch_embedding.bias"], stride=v["patch_size"])
    t, d, side, _ = x.shape
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([w[p + "embeddings.class_embedding"].expand(t, 1, d), x], 1)
    x = x + w[p + "embeddings.position_embedding"]
    heads, hd = v["num_attention_heads"], d // v["num_attention_heads"]
    for i in range(v["num_hidden_layers"]):
        l = f"{p}encoder.layers.{i}."
        norm = lambda t_, n_: F.layer_norm(t_, (d,), w[l + n_ + ".weight"], w[l + n_ + ".bias"],
                                           v["layer_norm_eps"])
        linear = lambda t_, n_: F.linear(t_, w[l + n_ + ".weight"], w.get(l + n_ + ".bias"))
        qkv = linear(norm(x, "norm1"), "attn.qkv").reshape(t, -1, 3, heads, hd)
        q, k, val = qkv.permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-1, -2) / math.sqrt(hd)).softmax(-1) @ val
        x = x + w[l + "ls1"] * linear(attention.transpose(1, 2).reshape(t, -1, d), "attn.proj")
        x = x + w[l + "ls2"] * linear(F.gelu(linear(norm(x, "norm2"), "mlp.fc1")), "mlp.fc2")
    x = x[:, 1:].reshape(t, side // 2, 2, side // 2, 2, d)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(t, (side // 2) ** 2, 4 * d)


def project(w, x):
    x = F.layer_norm(x, x.shape[-1:], w["vision_proj.0.weight"], w["vision_proj.0.bias"], 1e-5)
    x = F.gelu(F.linear(x, w["vision_proj.1.weight"], w["vision_proj.1.bias"]))
    return F.linear(x, w["vision_proj.3.weight"], w["vision_proj.3.bias"])


# ---------------------------------------------------------------- weights


def tensor_shapes(c):
    d, H, G, hd = (c[k] for k in ("hidden_size", "num_attention_heads", "num_key_value_heads",
                                  "head_dim"))
    ffn, p = c["intermediate_size"], c.get("prefix", "")
    shapes = {p + "model.embed_tokens.weight": (c["vocab_size"], d), p + "model.norm.weight": (d,)}
    if not c["tie_word_embeddings"]:
        shapes[p + "lm_head.weight"] = (c["vocab_size"], d)
    fused = c["architectures"][0] == "Phi3ForCausalLM"
    if fused:
        matrices = {"qkv": ("self_attn.qkv_proj", (H + 2 * G) * hd, d),
                    "o": ("self_attn.o_proj", d, H * hd),
                    "gate_up": ("mlp.gate_up_proj", 2 * ffn, d), "down": ("mlp.down_proj", d, ffn)}
    else:
        matrices = {"q": ("self_attn.q_proj", H * hd, d), "k": ("self_attn.k_proj", G * hd, d),
                    "v": ("self_attn.v_proj", G * hd, d), "o": ("self_attn.o_proj", d, H * hd),
                    "gate": ("mlp.gate_proj", ffn, d), "up": ("mlp.up_proj", ffn, d),
                    "down": ("mlp.down_proj", d, ffn)}
    for i in range(c["num_hidden_layers"]):
        l = f"{p}model.layers.{i}."
        shapes[l + "input_layernorm.weight"] = shapes[l + "post_attention_layernorm.weight"] = (d,)
        for key, (name, rows, cols) in matrices.items():
            shapes[f"{l}{name}.weight"] = (rows, cols)
            if c["architectures"][0] == "Qwen2ForCausalLM" and key in "qkv":
                shapes[f"{l}{name}.bias"] = (rows,)
            if c["architectures"][0] == "Qwen3ForCausalLM" and key in "qk":
                shapes[f"{l}self_attn.{key}_norm.weight"] = (hd,)
            for loop in range(c.get("loops") or 0):
                if rank := min(c["lora_rank"], rows, cols):
                    shapes[f"{l}lora.{loop}.{key}.A"] = (rank, cols)
                    shapes[f"{l}lora.{loop}.{key}.B"] = (rows, rank)
        if c.get("eta") is not None:
            for x in ("query", "key", "value"):
                for m in "qkvo":
                    shapes[f"{l}self_attn.xattn_{x}_phantom.linear_{m}.weight"] = (hd, hd)
            for i_ in (1, 2):
                shapes[f"{l}self_attn.gating_phantom_{i_}.weight"] = (1, hd)
                shapes[f"{l}self_attn.gating_phantom_{i_}.bias"] = (1,)
    if c.get("trol"):
        shapes |= {"trol_gating.weight": (1, d), "trol_gating.bias": (1,)}
    if v := c.get("vision"):
        e, patches = v["hidden_size"], (v["image_size"] // v["patch_size"]) ** 2
        m = "vision_model."
        shapes |= {m + "embeddings.patch_embedding.weight": (e, 3, v["patch_size"], v["patch_size"]),
                   m + "embeddings.patch_embedding.bias": (e,),
                   m + "embeddings.class_embedding": (1, 1, e),
                   m + "embeddings.position_embedding": (1, 1 + patches, e)}
        for i in range(v["num_hidden_layers"]):
            l = f"{m}encoder.layers.{i}."
            for n in ("norm1", "norm2"):
                shapes |= {f"{l}{n}.weight": (e,), f"{l}{n}.bias": (e,)}
            shapes |= {l + "attn.qkv.weight": (3 * e, e), l + "attn.proj.weight": (e, e),
                       l + "attn.proj.bias": (e,), l + "ls1": (e,), l + "ls2": (e,),
                       l + "mlp.fc1.weight": (v["intermediate_size"], e),
                       l + "mlp.fc1.bias": (v["intermediate_size"],),
                       l + "mlp.fc2.weight": (e, v["intermediate_size"]), l + "mlp.fc2.bias": (e,)}
            if v["qkv_bias"]:
                shapes[l + "attn.qkv.bias"] = (3 * e,)
        shapes |= {"vision_proj.0.weight": (4 * e,), "vision_proj.0.bias": (4 * e,),
                   "vision_proj.1.weight": (d, 4 * e), "vision_proj.1.bias": (d,),
                   "vision_proj.3.weight": (d, d), "vision_proj.3.bias": (d,)}
    return shapes


def random_weights(c, seed):
    g = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in tensor_shapes(c).items():
        x = torch.randn(shape, generator=g)
        is_norm = "norm" in name or "ls" in name.split(".")[-1] or name == "vision_proj.0.weight"
        if name.endswith("norm.weight") or (is_norm and not name.endswith("bias")):
            x = 1 + 0.2 * x
        elif name.endswith("bias") or len(shape) == 1:
            x = 0.3 * x
        elif "embed_tokens" in name or "_embedding" in name and "patch" not in name:
            x = 0.7 * x
        else:
            x = x * (1.5 if "lm_head" not in name else 2.5) / math.sqrt(x[0].numel())
            if ".lora." in name:
                x = 0.6 * x
        weights[name] = x.float()
    return weights


# ---------------------------------------------------------------- files


def numpy32(t):
    return np.ascontiguousarray(t.detach().to(torch.float32).numpy())


def embeds(w, c, ids, pixels):
    x = w[c.get("prefix", "") + "model.embed_tokens.weight"][ids]
    out = {}
    if pixels is not None:
        out["vision_out"] = vision_features(w, c["vision"], pixels)
        out["projected"] = project(w, out["vision_out"])
        at = (ids == IMAGE_TOKEN).nonzero()[:, 0]
        x = x.index_put((at,), out["projected"].reshape(-1, x.shape[-1]))
    return x, out


def greedy(w, c, ids, pixels, plan):
    """Without a cache: every step runs the whole sequence."""
    rows, tokens = [], []
    for _ in range(STEPS):
        now = torch.cat([ids, torch.tensor(tokens, dtype=torch.long)])
        c["total_length"] = len(now)
        x, _ = embeds(w, c, now, pixels)
        row = forward(w, c, x, plan)["logits"][-1]
        best = row.topk(2)
        if (gap := (best.values[0] - best.values[1]).item()) < 5e-3:
            sys.exit(f"greedy gap of {gap}: choose another seed")
        rows.append(row)
        tokens.append(int(best.indices[0]))
    return torch.tensor(tokens), torch.stack(rows)


def write_case(folder, variant, w32, c, n, seed, plan=None, pixels=None, steps=True):
    w = {k: t.double().requires_grad_() for k, t in w32.items()}
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, c["vocab_size"], (n,), generator=g)
    if pixels is not None:
        tokens = (c["vision"]["image_size"] // c["vision"]["patch_size"] // 2) ** 2
        ids[2 : 2 + tokens * pixels.shape[0]] = IMAGE_TOKEN
        pixels = pixels.double()
    c["total_length"] = n
    x, seen = embeds(w, c, ids, pixels)
    out = seen | forward(w, c, x, plan)
    labels = torch.randint(4, c["vocab_size"], (n,), generator=g)
    labels[: n // 3] = -100
    labels[n // 2] = -100
    loss = F.cross_entropy(out["logits"][:-1], labels[1:], ignore_index=-100)
    loss.backward()
    case = {"input_ids": ids[None].numpy()}
    if pixels is not None:
        case["pixel_values"] = numpy32(pixels)
    keep = lambda k: k.endswith("logits") or k in ("vision_out", "projected") or k.endswith(".out") \
        or k.endswith("mix_w") or k.endswith("hidden")
    for k, t in out.items():
        if keep(k):
            case[k] = numpy32(t if k in ("vision_out", "projected") else t[None])
    if steps:
        with torch.no_grad():
            tokens, logits = greedy(w, c, ids, pixels, plan)
        case["decode.tokens"], case["decode.logits"] = tokens[None].numpy(), numpy32(logits[None])
    print(f"{folder.name}/{variant}: loss {loss.item():.4f}, "
          f"logits' deviation {out['logits'].std().item():.2f}")
    losses = {"labels": labels.numpy(), "loss": numpy32(loss[None])}
    losses |= {f"grad.{k}": numpy32(t.grad) for k, t in w.items() if t.grad is not None}
    missing = [k for k, t in w.items() if t.grad is None]
    assert not missing or plan, missing
    if n > 12:  # the short prompt differs in rope only
        save_file(losses, folder / f"loss-{variant}.safetensors")
    return case


def transformers_logits(c, w32, ids):
    import transformers

    config = dict(c)
    config.pop("total_length", None)
    name = config["architectures"][0]
    rope = dict(config.pop("rope_scaling", None) or {"rope_type": "default"})
    rope["rope_theta"] = config.pop("rope_theta")
    if "original_max_position_embeddings" in config and rope["rope_type"] == "longrope":
        rope["original_max_position_embeddings"] = config["original_max_position_embeddings"]
    cls = getattr(transformers, name.replace("ForCausalLM", "Config"))
    hf = cls(**config, rope_parameters=rope, attn_implementation="eager", pad_token_id=None)
    model = getattr(transformers, name)(hf).eval()
    missing, unexpected = model.load_state_dict(w32, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def write_model(name, c, seed, json_config=None):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    weights = random_weights(c, seed)
    stored = {k: t for k, t in weights.items() if not k.startswith("trol_gating")}
    save_file({k: t.numpy() for k, t in stored.items()}, folder / "model.safetensors")
    if c.get("trol"):  # the official loader's form: one Linear, listed once a layer
        torch.save({f"{i}.{k}": weights[f"trol_gating.{k}"] for i in range(c["num_hidden_layers"])
                    for k in ("weight", "bias")}, folder / "trol_gating.pt")
    config = json_config or {k: v for k, v in c.items() if k != "total_length"}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    return folder, weights


VARIANTS = {}


def dense(name, seed, n=20, steps=True, plans=(), **changes):
    c = BASE | changes
    folder, weights = write_model(name, c, seed)
    VARIANTS[name] = {}
    for variant, plan in {"dense": None, **dict(plans)}.items():
        case = write_case(folder, variant, weights, c, n, seed + 1, plan, steps=steps)
        if plan is None:
            c["total_length"] = n
            hf = transformers_logits(c, weights, torch.from_numpy(case["input_ids"]))
            off = np.abs(hf.numpy() - case["logits"]).max()
            print(f"  transformers: {off:.1e}")
            assert off < 5e-5, "transformers disagrees"
            case["transformers.logits"] = numpy32(hf)
        save_file(case, folder / f"case-{variant}.safetensors")
        VARIANTS[name][variant] = plan or ""
    return c, weights


def scheme(name, seed, n, json_config, **changes):
    c = BASE | changes
    if json_config is not None and "llm_config" in json_config:
        llm = {k: v for k, v in c.items() if k not in ("prefix", "vision", "eta", "trol")}
        json_config |= {"llm_config": llm, "vision_config": c["vision"]}
    elif json_config is not None:
        json_config = {k: v for k, v in c.items() if k not in ("loops", "lora_rank")} | json_config
    folder, weights = write_model(name, c, seed, json_config)
    pixels = None
    if v := c.get("vision"):
        g = torch.Generator().manual_seed(seed + 2)
        pixels = torch.randn((2, 3, v["image_size"], v["image_size"]), generator=g)
    # TroL decodes without traversal on a cache; the official code's golden data judge that.
    case = write_case(folder, "dense", weights, c, n, seed + 1, None, pixels, not c.get("trol"))
    save_file(case, folder / "case-dense.safetensors")
    VARIANTS[name] = {"dense": ""}


# ---------------------------------------------------------------- GGUF, by the package gguf


def permute(w, heads):
    """Rows of q and k from rope pairs (i, i + hd/2) to (2i, 2i + 1), as llama.cpp's files have."""
    rows = w.shape[0] // heads
    return w.reshape(heads, 2, rows // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def write_gguf(name, arch, c, weights):
    import gguf

    writer = gguf.GGUFWriter(str(HERE / f"{name}.gguf"), arch)
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_head_count_kv(c["num_key_value_heads"])
    writer.add_key_length(c["head_dim"])
    writer.add_value_length(c["head_dim"])
    writer.add_rope_freq_base(c["rope_theta"])
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_eos_token_id(c["eos_token_id"])
    if c.get("sliding_window"):
        writer.add_sliding_window(c["sliding_window"])
    scaling = c.get("rope_scaling") or {}
    kind = scaling.get("rope_type")
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    if kind == "llama3":  # one divisor a frequency
        plain = inverse_frequencies(c | {"rope_scaling": None}, 0)[0]
        writer.add_tensor("rope_freqs.weight", numpy32(plain / inverse_frequencies(c, 0)[0]))
    if kind == "longrope":
        original = c["original_max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(inverse_frequencies(c, 0)[1])
        for which in ("long", "short"):
            writer.add_tensor(f"rope_factors_{which}.weight",
                              np.array(scaling[f"{which}_factor"], np.float32))
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
             "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
             "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
             "self_attn.v_proj": "attn_v", "self_attn.qkv_proj": "attn_qkv",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
             "mlp.up_proj": "ffn_up", "mlp.gate_up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    for key, tensor in weights.items():
        stem, suffix = key.rsplit(".", 1)
        layer = ""
        if stem.startswith("model.layers."):
            _, _, i, stem = stem.split(".", 3)
            layer = f"blk.{i}."
        value = tensor.numpy()
        if arch == "llama" and stem.endswith(("q_proj", "k_proj")):
            heads = "num_attention_heads" if "q_proj" in stem else "num_key_value_heads"
            value = permute(value, c[heads])
        writer.add_tensor(f"{layer}{names[stem]}.{suffix}", np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    llama = dict(model_type="llama", architectures=["LlamaForCausalLM"])
    qwen2 = dict(model_type="qwen2", architectures=["Qwen2ForCausalLM"], use_sliding_window=False)
    phi3 = dict(model_type="phi3", architectures=["Phi3ForCausalLM"])

    c, w = dense("llama", 101, plans={"replay": "0-1,1,1-0", "damped": "0,0-1*3,1-0*2"}, **llama)
    write_gguf("llama", "llama", c, w)
    rope = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                original_max_position_embeddings=32)
    c, w = dense("llama-llama3", 111, n=40, tie_word_embeddings=True,
                 rope_scaling=rope, **llama)
    write_gguf("llama-llama3", "llama", c, w)
    c, w = dense("llama-linear", 121, num_hidden_layers=1,
                 rope_scaling=dict(rope_type="linear", factor=2.5), **llama)
    write_gguf("llama-linear", "llama", c, w)
    # Cached keys keep their angles, so decoding differs from running it all again: prompts only.
    dense("llama-dynamic", 131, n=24, steps=False, num_hidden_layers=1, max_position_embeddings=16,
          rope_scaling=dict(rope_type="dynamic", factor=2.0), **llama)
    c, w = dense("qwen2", 141, **qwen2)
    write_gguf("qwen2", "qwen2", c, w)
    c, w = dense("phi3-window", 151, sliding_window=6, **phi3)
    write_gguf("phi3-window", "phi3", c, w)
    rope = dict(rope_type="longrope", short_factor=[1.0, 1.1, 1.2, 1.3],
                long_factor=[1.2, 2.0, 3.1, 4.5])
    for name, n in (("phi3-longrope", 20), ("phi3-shortrope", 11)):
        # transformers checks the factors against d / heads, whatever head_dim says.
        c, w = dense(name, 161, n=n, num_hidden_layers=1, original_max_position_embeddings=16,
                     hidden_size=32, head_dim=8, rope_scaling=rope, **phi3)
        if n > 16:
            write_gguf(name, "phi3", c, w)

    lora = dict(loops=2, num_key_value_heads=1, lora_rank=11)
    own = lambda kind: {"reprise": {"scheme": "recursive", "recursive": kind}}
    scheme("recursive", 171, 14, own({"loops": 2, "lora_rank": 11}), **(llama | lora))
    lora = dict(loops=2, num_hidden_layers=1, lora_rank=3)
    scheme("recursive-phi3", 181, 14, own({"loops": 2, "lora_rank": 3}), **(phi3 | lora))
    vlm = {"llm_config": None, "downsample_ratio": 0.5, "image_token_index": IMAGE_TOKEN,
           "eos_token_id": 2}
    scheme("trol", 191, 18, {"model_type": "trol"} | vlm, prefix="language_model.", trol=True,
           vision=VISION, **qwen2)
    # The release's eta of 1e-4 would hide mistakes: a large one makes every part count.
    scheme("phantom", 201, 18, {"model_type": "phantom", "reprise": {"phantom": {"eta": 0.5}}} | vlm,
           prefix="language_model.", eta=0.5, sliding_window=7,
           vision=VISION | {"qkv_bias": False}, **phi3)
    (HERE / "variants.json").write_text(json.dumps(VARIANTS, indent=1) + "\n")


if __name__ == "__main__":
    main()
