"""A decoder with a cache in plain PyTorch, for scripts/check_random_models.py.

Written from the papers' formulas and the golden data's READMEs, with the official code's kind of
cache: keys are kept as they were rotated, TroL's cache holds first passes only, Phantom's k* and v*
are made anew in every call. Works in the dtype of its weights, float64 to judge.

Weights have Llama's names. InternLM2's are brought to them by internlm2_weights, GPT-NeoX's by
neox_weights.
"""

import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/data/parity"))
import make_reference as ref  # noqa: E402  (norm, rope's frequencies, cross attention, InternViT)


def internlm2_weights(w, c):
    """InternLM2's tensors under Llama's names: wqkv is grouped by KV head (its query heads, k, v);
    with partial LoRA `<matrix>.ffn` is the base and lora_A, lora_B act at image tokens only."""
    H, G, hd = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    names = {"wo": "self_attn.o_proj", "w1": "mlp.gate_proj", "w2": "mlp.down_proj",
             "w3": "mlp.up_proj", "attention_norm": "input_layernorm",
             "ffn_norm": "post_attention_layernorm", "tok_embeddings": "model.embed_tokens"}
    out = {}

    def put(stem, tail, t):  # tail: what follows the matrix's own name
        lora = {".lora_A.weight": ".image.A", ".lora_B.weight": ".image.B"}
        out[stem + lora.get(tail, ".weight")] = t

    for name, t in w.items():
        name = name.replace(".attention.xattn", ".self_attn.xattn")
        name = name.replace(".attention.gating", ".self_attn.gating")
        for matrix in ("wqkv", "wo", "w1", "w2", "w3", "attention_norm", "ffn_norm"):
            layer, found, tail = name.partition(f".{matrix}.")
            if found:
                layer = layer.removesuffix(".attention").removesuffix(".feed_forward")
                break
        else:
            name = name.replace("model.tok_embeddings", "model.embed_tokens")
            out[name.replace("output.", "lm_head.") if name.endswith("output.weight") else name] = t
            continue
        tail = "." + tail
        if matrix != "wqkv":
            put(f"{layer}.{names[matrix]}", tail, t)
        elif tail == ".lora_A.weight":
            for m in "qkv":
                put(f"{layer}.self_attn.{m}_proj", tail, t)
        else:
            grouped = t.view(G, H // G + 2, hd, -1)
            parts = {"q": grouped[:, :-2], "k": grouped[:, -2], "v": grouped[:, -1]}
            for m, part in parts.items():
                put(f"{layer}.self_attn.{m}_proj", tail, part.reshape(-1, t.shape[1]))
    return out


def neox_weights(w, c):
    """GPT-NeoX's tensors under Llama's names: query_key_value is [heads, 3, head_dim, ...]."""
    names = {"gpt_neox.embed_in": "model.embed_tokens", "embed_out": "lm_head",
             "gpt_neox.final_layer_norm": "model.norm", "attention.dense": "self_attn.o_proj",
             "attention.query": "self_attn.q_proj", "attention.key": "self_attn.k_proj",
             "attention.value": "self_attn.v_proj", "mlp.dense_h_to_4h": "mlp.up_proj",
             "mlp.dense_4h_to_h": "mlp.down_proj"}
    out = {}
    for name, t in w.items():
        stem, _, kind = name.rpartition(".")
        if stem.endswith("query_key_value"):
            layer = stem.replace("gpt_neox.", "model.").removesuffix("attention.query_key_value")
            heads = t.unflatten(0, (c["num_attention_heads"], 3, -1))
            for i, m in enumerate("qkv"):
                out[f"{layer}self_attn.{m}_proj.{kind}"] = heads[:, i].flatten(0, 1)
            continue
        for of, to in names.items():
            if stem == of or stem.endswith("." + of):
                stem = stem.removesuffix(of) + to
                break
        out[f"{stem.replace('gpt_neox.layers', 'model.layers')}.{kind}"] = t
    return out


def llama_names(w, c):
    if neox(c):
        return neox_weights(w, c)
    return internlm2_weights(w, c) if "InternLM2" in c["architectures"][0] else w


def clip_features(w, v, pixels):
    """CLIP's last hidden state without CLS and without the last norm, [t, patches, d]."""
    p, heads = "vit.vision_tower.vision_model.", v["num_attention_heads"]
    x = F.conv2d(pixels, w[p + "embeddings.patch_embedding.weight"], stride=v["patch_size"])
    t, d = x.shape[:2]
    x = torch.cat([w[p + "embeddings.class_embedding"].expand(t, 1, d), x.flatten(2).mT], 1)
    x = x + w[p + "embeddings.position_embedding.weight"]
    norm = lambda x, n: F.layer_norm(x, (d,), w[n + ".weight"], w[n + ".bias"], v["layer_norm_eps"])
    x = norm(x, p + "pre_layrnorm")
    for i in range(v["num_hidden_layers"]):
        l = f"{p}encoder.layers.{i}."
        linear = lambda x, n: F.linear(x, w[l + n + ".weight"], w[l + n + ".bias"])
        h = norm(x, l + "layer_norm1")
        q, k, val = (linear(h, f"self_attn.{m}_proj").view(t, -1, heads, d // heads).transpose(1, 2)
                     for m in "qkv")
        mixed = (q @ k.mT / math.sqrt(d // heads)).softmax(-1) @ val
        x = x + linear(mixed.transpose(1, 2).reshape(t, -1, d), "self_attn.out_proj")
        h = linear(norm(x, l + "layer_norm2"), "mlp.fc1")
        x = x + linear(h * torch.sigmoid(1.702 * h), "mlp.fc2")
    return x[:, 1:]


def clip_project(w, x):
    x = F.gelu(F.linear(x, w["vision_proj.0.weight"], w["vision_proj.0.bias"]))
    return F.linear(x, w["vision_proj.2.weight"], w["vision_proj.2.bias"])


def rope(x, c, start, total):
    """x [n, heads, hd] at positions start...; factors chosen by the call's total length."""
    dim = int(c["head_dim"] * c.get("partial_rotary_factor", 1.0))
    scaling = dict(c.get("rope_scaling") or {"type": "default"})
    kind = scaling.get("type", scaling.get("rope_type"))
    phi3 = "Phi3" in c["architectures"][0]
    scaling["rope_type"] = "longrope" if kind == "su" or kind == "yarn" and phi3 else kind
    inverse, factor = ref.inverse_frequencies(c | {"head_dim": dim, "rope_scaling": scaling}, total)
    if kind == "yarn" and phi3 and c["release"]:  # to transformers it is another name of "su"
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
        hidden = hidden | (at - of >= window)
    scores = (q.transpose(0, 1) @ k.transpose(0, 1).transpose(1, 2)) * scale  # [H, n, m]
    return (scores.masked_fill(hidden, -math.inf).softmax(-1) @ v.transpose(0, 1)).transpose(0, 1)


def gemma(c):
    return "Gemma" in c["architectures"][0]


def neox(c):
    return "GPTNeoX" in c["architectures"][0]


def norm(x, w, name, c):
    weight = w[name + ".weight"]
    if neox(c):
        return F.layer_norm(x, weight.shape, weight, w[name + ".bias"], c["rms_norm_eps"])
    return ref.rms(x, weight + 1 if gemma(c) else weight, c["rms_norm_eps"])


def activate(x, c):
    if gemma(c):  # whatever it says
        return F.gelu(x, approximate="tanh")
    if c["hidden_act"] == "silu":
        return F.silu(x)
    if c["hidden_act"] == "relu":
        return F.relu(x)
    return F.gelu(x, approximate="none" if c["hidden_act"] == "gelu" else "tanh")


def visit(w, c, layer, x, cache, start, total, adapter=None, show=None, image=None):
    """One decoder layer; cache: {} or what an earlier call with it left. Returns x.
    image [n, 1]: 1 at image tokens, where InternLM2's partial LoRA is added."""
    p = f"{c.get('prefix', '')}model.layers.{layer}."
    n, H, G, hd = x.shape[0], c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    fused = c["architectures"][0] == "Phi3ForCausalLM"

    def linear(h, name, key):
        y = F.linear(h, w[p + name + ".weight"], w.get(p + name + ".bias"))
        if image is not None and f"{p}{name}.image.A" in w:
            y = y + image * F.linear(F.linear(h, w[f"{p}{name}.image.A"]), w[f"{p}{name}.image.B"])
        if adapter is None:
            return y
        return y + h @ (w[f"{p}lora.{adapter}.{key}.B"] @ w[f"{p}lora.{adapter}.{key}.A"]).T

    h = norm(x, w, p + "input_layernorm", c)
    if fused:
        q, k, v = linear(h, "self_attn.qkv_proj", "qkv").split([H * hd, G * hd, G * hd], 1)
    else:
        q, k, v = (linear(h, f"self_attn.{m}_proj", m) for m in "qkv")
    q, k = q.view(n, H, hd), k.view(n, G, hd)
    if p + "self_attn.q_norm.weight" in w:
        q, k = (norm(t, w, f"{p}self_attn.{m}_norm", c) for m, t in (("q", q), ("k", k)))
    q, k = rope(q, c, start, total), rope(k, c, start, total)
    v = v.reshape(n, G, hd)
    for name, t in (("k", k), ("v", v)):
        cache[name] = torch.cat([cache[name], t]) if name in cache else t
    repeat = lambda t: t.repeat_interleave(H // G, 1)
    K, V, scale, window = repeat(cache["k"]), repeat(cache["v"]), hd**-0.5, c["window"][layer]
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
        # What is shown: the official InternLM2 class repeats KV heads later than the others.
        heads = slice(0, None, H // G if "InternLM2" in c["architectures"][0] else 1)
        seen = {"qstar": star[0], "kstar": star[1][start:, heads], "gate_w": gate[..., 0],
                "vstar": (V + star[2])[start:, heads], "o1": o1, "o2": o2}
    attention = linear(o.reshape(n, H * hd), "self_attn.o_proj", "o")
    h = norm(x if c.get("use_parallel_residual") else x + attention, w,
             p + "post_attention_layernorm", c)
    x = x + attention
    if show is not None:
        show |= seen | {"attn": attention}
    if neox(c):
        h = activate(linear(h, "mlp.up_proj", "up"), c)
        return x + linear(h, "mlp.down_proj", "down")
    if fused:
        gate, up = linear(h, "mlp.gate_up_proj", "gate_up").chunk(2, -1)
    else:
        gate, up = linear(h, "mlp.gate_proj", "gate"), linear(h, "mlp.up_proj", "up")
    return x + linear(activate(gate, c) * up, "mlp.down_proj", "down")


def forward(w, c, x, cache, start, total, traverse, image=None):
    """One call for x [n, d] at positions start...; cache: {depth: {}}. -> dict of results."""
    out, depth = {}, 0
    p = c.get("prefix", "")
    L = c["num_hidden_layers"]
    final = lambda t: norm(t, w, p + "model.norm", c)
    head = w[p + ("model.embed_tokens" if c["tie_word_embeddings"] else "lm_head") + ".weight"]

    def step(layer, x, adapter=None):
        nonlocal depth
        show = {}
        x = visit(w, c, layer, x, cache.setdefault(depth, {}), start, total, adapter, show, image)
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
                one, two = x, visit(w, c, i, x, {}, start, total, image=image)
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


def embed(w, c, ids):
    x = w[c.get("prefix", "") + "model.embed_tokens.weight"][ids]
    return x * torch.tensor(c["hidden_size"]).sqrt().to(x.dtype) if gemma(c) else x


def prefill(w, c, ids, pixels, cache):
    """The prompt in one call -> dict of results."""
    out, image = {}, None
    x = embed(w, c, ids)
    if pixels is not None:
        clip = c["vision"]["model_type"] == "clip_vision_model"
        features, project = (clip_features, clip_project) if clip else (ref.vision_features, ref.project)
        out["vision_out"] = features(w, c["vision"], pixels)
        out["projected"] = project(w, out["vision_out"])
        at = ids == c["image_token"]
        x[at] = out["projected"].reshape(-1, x.shape[-1])
        image = at[:, None].to(x.dtype)
    out["inputs_embeds"] = x
    return out | forward(w, c, x, cache, 0, len(ids), len(ids) > 1, image)


def loss_and_gradients(w, c, ids, pixels, labels):
    """w: name -> leaf tensor, as in the file. Mean cross entropy of the counted labels, label t
    predicted at t - 1, and its gradients; every token is traversed (TroL), as officially."""
    leaves = {k: t.detach().clone().requires_grad_() for k, t in w.items()}
    logits = prefill(llama_names(leaves, c), c, ids, pixels, {})["logits"]
    loss = F.cross_entropy(logits[:-1], labels[1:], ignore_index=-100)
    loss.backward()
    return loss.detach()[None], {k: t.grad for k, t in leaves.items() if t.grad is not None}


def run(w, c, ids, pixels, steps):
    """Everything `reprise trace --steps` writes, from a file's weights w (float64 or float32)."""
    w = llama_names(w, c)
    n, cache = len(ids), {}
    out = prefill(w, c, ids, pixels, cache)
    for depth, kv in cache.items():
        out |= {f"layer.{depth}.{m}": kv[m].transpose(0, 1) for m in "kv"}  # [G, n, hd]
    rows, tokens = [out["logits"][-1]], [int(out["logits"][-1].argmax())]
    for t in range(1, steps):
        now = forward(w, c, embed(w, c, tokens[-1:]), cache, n + t - 1, n + t, traverse=False)
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
