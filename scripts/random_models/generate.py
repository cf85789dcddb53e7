"""Random tiny models in the releases' formats, for scripts/check_random_models.py."""

import json
import math
import random
from collections import OrderedDict

import torch
from safetensors.torch import save_file

from .reference import ref

KINDS = ("llama", "qwen2", "phi3", "qwen3", "gemma", "neox", "replay", "recursive", "trol-phi3",
         "trol-internlm2", "phantom-qwen2", "phantom-phi3", "phantom-internlm2")
NAMES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "phi3": "Phi3ForCausalLM",
         "qwen3": "Qwen3ForCausalLM", "gemma": "GemmaForCausalLM",
         "internlm2": "InternLM2ForCausalLM", "neox": "GPTNeoXForCausalLM"}
IMAGE_LORA_RANK = 256  # a constant in the official code


def random_config(kind, r):
    family = kind.split("-")[-1]
    if family not in NAMES:
        family = r.choice(("llama", "qwen2", "phi3", "qwen3", "gemma", "neox"))
    group = r.choice((1, 2, 3, 4))
    G = r.choice((1, 1, 2, 3))
    H, hd = G * group, r.choice((8, 10, 16, 24, 40, 72))
    c = dict(architectures=[NAMES[family]], num_hidden_layers=r.choice((1, 2, 3, 5)),
             num_attention_heads=H, num_key_value_heads=G, head_dim=hd, hidden_size=H * hd,
             intermediate_size=r.choice((7, 33, 100, 160)), vocab_size=r.choice((31, 257, 300)),
             rms_norm_eps=r.choice((1e-5, 1e-6)), hidden_act="silu",
             rope_theta=r.choice((500.0, 1e4, 1e6)), max_position_embeddings=r.choice((24, 128, 4096)),
             tie_word_embeddings=r.random() < 0.3, bos_token_id=1, eos_token_id=2)
    if family == "neox":
        H = c["num_attention_heads"] = c["num_key_value_heads"] = r.choice((1, 2, 3, 4))
        parts = [part for part in (0.25, 0.5, 0.75, 1.0) if int(hd * part) % 2 == 0]
        c |= {"hidden_size": H * hd, "partial_rotary_factor": r.choice(parts),
              "hidden_act": r.choice(("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh",
                                      "relu")),
              "use_parallel_residual": r.random() < 0.7, "attention_bias": r.random() < 0.8}
    elif r.random() < 0.4 and family != "internlm2":
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
    elif scaling < (0.6 if family == "internlm2" else 0.2) and \
            hd * c.get("partial_rotary_factor", 1) >= 4:  # the formula divides by dim - 2
        c["rope_scaling"] = {"type": "dynamic", "factor": r.choice((2.0, 3.5))}
        c["max_position_embeddings"] = max(2, n + r.choice((-2, 0, 2)))
    elif scaling < 0.4 and family != "internlm2":
        c["rope_scaling"] = {"type": "linear", "factor": 2.5}
    elif scaling < 0.6 and family == "llama":
        c["rope_scaling"] = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                             "high_freq_factor": 4.0, "original_max_position_embeddings": max(8, M // 8)}
    elif scaling < 0.8 and family in ("llama", "qwen2", "qwen3"):
        c["rope_scaling"] = {"rope_type": "yarn", "factor": r.choice((1.0, 2.0, 4.0)),
                             "original_max_position_embeddings": max(4, M // r.choice((2, 4)))}
        if r.random() < 0.4:
            c["rope_scaling"] |= {"beta_fast": 8, "beta_slow": 2, "truncate": False}
        if r.random() < 0.4:
            c["rope_scaling"]["attention_factor"] = 1.3
    if family in ("qwen2", "qwen3"):
        c |= {"use_sliding_window": False, "sliding_window": 3}  # off whatever its value
        if kind in ("qwen2", "qwen3") and r.random() < 0.5:
            L = c["num_hidden_layers"]
            c |= {"use_sliding_window": True, "sliding_window": r.choice((1, 4, 9, n, n + 2)),
                  "max_window_layers": r.choice((0, 0, 1, L - 1, L))}
            if r.random() < 0.3:
                c["layer_types"] = [r.choice(("full_attention", "sliding_attention"))
                                    for _ in range(L)]
    if family == "gemma":
        c["hidden_act"] = r.choice(("gelu_pytorch_tanh", "gelu"))
    if kind == "replay":
        L = c["num_hidden_layers"]
        c["plan"] = r.choice((f"0-{L - 1},0", f"0-{L - 1}*2", f"{L - 1}-0,0-{L - 1}", f"0*3,0-{L - 1}"))
    if kind == "recursive":
        c |= {"loops": r.choice((1, 2, 3)), "lora_rank": r.choice((0, 1, 5, 64, 200))}
    if family == "internlm2":
        c |= {"bias": False, "tie_word_embeddings": False}
    if kind == "trol-internlm2":
        heads = r.choice((1, 2, 3))
        c["vision"] = dict(model_type="clip_vision_model", hidden_size=heads * r.choice((8, 12, 20)),
                           num_hidden_layers=r.choice((1, 2, 3)), num_attention_heads=heads,
                           intermediate_size=r.choice((20, 33, 100)), patch_size=(patch := r.choice((2, 7))),
                           image_size=patch * r.choice((2, 3, 5)) + r.choice((0, 0, 0, 1)), layer_norm_eps=1e-5,
                           hidden_act="quick_gelu")
        c |= {"image_token": c["vocab_size"], "tiles": r.choice((0, 1, 1))}
    elif kind.startswith(("trol", "phantom")):
        c["prefix"] = "language_model."
        patch, heads = r.choice((2, 7, 14)), r.choice((1, 2, 3))
        c["vision"] = dict(model_type="intern_vit_300m", hidden_size=heads * r.choice((8, 12, 20)),
                           num_hidden_layers=r.choice((1, 2, 3)), num_attention_heads=heads,
                           intermediate_size=r.choice((20, 33, 100)), patch_size=patch,
                           image_size=patch * r.choice((2, 4, 6)) + r.choice((0, 0, 0, 1)),
                           layer_norm_eps=1e-6,
                           hidden_act="gelu", norm_type="layer_norm", qkv_bias=r.random() < 0.7,
                           qk_normalization=False)
        c |= {"image_token": 5, "tiles": r.choice((0, 1, 1, 2, 3))}
    if kind.startswith("trol"):
        c["trol"] = True
    if kind.startswith("phantom"):
        c["eta"] = r.choice((1e-4, 1e-4, 0.3))
    return c, n


def window_keys(c):
    """Keys a token sees in each layer, itself included; 0: all. The released code of TroL and
    Phantom sees one more than its sliding_window says."""
    window, L = c.get("sliding_window") or 0, c["num_hidden_layers"]
    if "Phi3" in c["architectures"][0]:
        return [window + 1 if window and c["release"] else window] * L
    if not c.get("use_sliding_window"):
        return [0] * L
    types = c.get("layer_types") or ["sliding_attention" if i >= c["max_window_layers"] else ""
                                     for i in range(L)]
    return [window if t == "sliding_attention" else 0 for t in types]


def hf_config(kind, c):
    """config.json as a release has it."""
    own = ("prefix", "vision", "image_token", "tiles", "trol", "eta", "loops", "lora_rank", "plan")
    text = {k: v for k, v in c.items() if k not in own and k not in ("window", "release")}
    if "GPTNeoX" in c["architectures"][0]:
        text |= {"layer_norm_eps": c["rms_norm_eps"], "rotary_emb_base": c["rope_theta"],
                 "rotary_pct": c["partial_rotary_factor"]}
        for key in ("rms_norm_eps", "rope_theta", "partial_rotary_factor", "num_key_value_heads"):
            del text[key]
    wide = ("Qwen3ForCausalLM", "GemmaForCausalLM")  # whose default is another
    if c["hidden_size"] == c["head_dim"] * c["num_attention_heads"] and \
            c["architectures"][0] not in wide:
        del text["head_dim"]
    if kind == "trol-internlm2":
        return text | {"model_type": "internlm", "architectures": ["TroLForCausalLM"],
                       "image_token_index": c["image_token"], "vision_config": c["vision"]}
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
        if "GPTNeoX" in c["architectures"][0]:
            text["reprise"]["qkv"] = "separate"
    return text


def neox_shapes(c):
    """One matrix by head, or three where adapters belong to each."""
    d, ffn, V = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    qkv = {m: (f"attention.{n}", d, d) for m, n in (("q", "query"), ("k", "key"), ("v", "value"))} \
        if c.get("loops") else {"qkv": ("attention.query_key_value", 3 * d, d)}
    matrices = qkv | {"o": ("attention.dense", d, d), "up": ("mlp.dense_h_to_4h", ffn, d),
                      "down": ("mlp.dense_4h_to_h", d, ffn)}
    shapes = {"gpt_neox.embed_in.weight": (V, d)}
    if not c["tie_word_embeddings"]:
        shapes["embed_out.weight"] = (V, d)
    norms = ["gpt_neox.final_layer_norm"]
    for i in range(c["num_hidden_layers"]):
        l = f"gpt_neox.layers.{i}."
        norms += [l + "input_layernorm", l + "post_attention_layernorm"]
        for key, (name, rows, cols) in matrices.items():
            shapes[f"{l}{name}.weight"] = (rows, cols)
            if c["attention_bias"] or "mlp" in name:
                shapes[f"{l}{name}.bias"] = (rows,)
            for loop in range(c.get("loops") or 0):
                if rank := min(c["lora_rank"], rows, cols):
                    shapes[f"{l}lora.{loop}.{key}.A"] = (rank, cols)
                    shapes[f"{l}lora.{loop}.{key}.B"] = (rows, rank)
    return shapes | {f"{n}.{m}": (d,) for n in norms for m in ("weight", "bias")}


def internlm2_shapes(c):
    d, H, G, hd, ffn, V = (c[k] for k in ("hidden_size", "num_attention_heads", "num_key_value_heads",
                                          "head_dim", "intermediate_size", "vocab_size"))
    p, v, trol = c.get("prefix", ""), c["vision"], c.get("trol")
    shapes = {p + "model.tok_embeddings.weight": (V + 1 if trol else V, d),
              p + "model.norm.weight": (d,), p + "output.weight": (V, d)}
    for i in range(c["num_hidden_layers"]):
        l = f"{p}model.layers.{i}."
        shapes |= {l + "attention_norm.weight": (d,), l + "ffn_norm.weight": (d,)}
        for name, rows, cols in (("attention.wqkv", (H + 2 * G) * hd, d), ("attention.wo", d, H * hd),
                                 ("feed_forward.w1", ffn, d), ("feed_forward.w2", d, ffn),
                                 ("feed_forward.w3", ffn, d)):
            if trol:
                shapes |= {f"{l}{name}.ffn.weight": (rows, cols),
                           f"{l}{name}.lora_A.weight": (IMAGE_LORA_RANK, cols),
                           f"{l}{name}.lora_B.weight": (rows, IMAGE_LORA_RANK)}
            else:
                shapes[f"{l}{name}.weight"] = (rows, cols)
    if trol:
        e, vit = v["hidden_size"], "vit.vision_tower.vision_model."
        shapes |= {"trol_gating.weight": (1, d), "trol_gating.bias": (1,),
                   vit + "embeddings.class_embedding": (e,),
                   vit + "embeddings.patch_embedding.weight": (e, 3, v["patch_size"], v["patch_size"]),
                   vit + "embeddings.position_embedding.weight":
                       (1 + (v["image_size"] // v["patch_size"]) ** 2, e)}
        norms = [vit + "pre_layrnorm", vit + "post_layernorm"]
        for i in range(v["num_hidden_layers"]):
            l = f"{vit}encoder.layers.{i}."
            norms += [l + "layer_norm1", l + "layer_norm2"]
            for name, rows, cols in ((f"self_attn.{m}_proj", e, e) for m in ("q", "k", "v", "out")):
                shapes |= {f"{l}{name}.weight": (rows, cols), f"{l}{name}.bias": (rows,)}
            for name, rows, cols in (("fc1", v["intermediate_size"], e), ("fc2", e, v["intermediate_size"])):
                shapes |= {f"{l}mlp.{name}.weight": (rows, cols), f"{l}mlp.{name}.bias": (rows,)}
        shapes |= {f"{n}.{m}": (e,) for n in norms for m in ("weight", "bias")}
        shapes |= {"vision_proj.0.weight": (d, e), "vision_proj.0.bias": (d,),
                   "vision_proj.2.weight": (d, d), "vision_proj.2.bias": (d,)}
        return shapes
    # The phantom parts and the tower are those of the other families, under other names of theirs.
    like = ref.tensor_shapes(c | {"architectures": [NAMES["llama"]]})
    keep = ("xattn", "gating_phantom", "vision_")
    return shapes | {k.replace("self_attn", "attention"): t for k, t in like.items()
                     if any(m in k for m in keep)}


def random_tensor(name, shape, g):
    x = torch.randn(shape, generator=g)
    stem, kind = name.split(".")[-2:]
    if kind == "weight" and len(shape) == 1 or kind in ("ls1", "ls2"):  # norms, layer scale
        return 1 + 0.2 * x
    if len(shape) == 1:
        return 0.3 * x
    if "embed_in" in name or "embedding" in name and "patch" not in name:
        return 0.7 * x
    scale = 2.5 if stem in ("output", "embed_out") else 0.7 if "lora" in name else 1.5
    return x * scale / math.sqrt(x[0].numel())


def make_model(folder, kind, seed):
    """Writes a model and its inputs; -> config, weights as stored (float32), ids, pixels."""
    r = random.Random(f"{kind} {seed}")
    c, n = random_config(kind, r)
    c["release"] = kind.startswith(("trol", "phantom"))
    c["window"] = window_keys(c)
    g = torch.Generator().manual_seed(seed)
    ids, pixels = torch.randint(6, c["vocab_size"], (n,), generator=g), None
    if tiles := c.get("tiles"):
        v = c["vision"]
        side = v["image_size"] // v["patch_size"]
        count = tiles * (side if kind == "trol-internlm2" else side // 2) ** 2
        at = r.choice((0, 1, 2))  # a picture may come first and last
        tail = r.choice((0, 1, 7))
        ids = torch.cat([ids[:at], torch.full((count,), c["image_token"]), ids[:tail]])
        pixels = torch.randn((tiles, 3, v["image_size"], v["image_size"]), generator=g)
    if kind.endswith("internlm2"):
        weights = {k: random_tensor(k, shape, g) for k, shape in internlm2_shapes(c).items()}
    elif "GPTNeoX" in c["architectures"][0]:
        weights = {k: random_tensor(k, shape, g) for k, shape in neox_shapes(c).items()}
    else:
        weights = ref.random_weights(c, seed)
        if "Gemma" in c["architectures"][0]:  # norms hold w of 1 + w
            weights = {k: t - 1 if k.endswith("norm.weight") else t for k, t in weights.items()}
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
    labels = torch.randint(6, c["vocab_size"], ids.shape, generator=g)
    labels[torch.rand(ids.shape, generator=g) < 0.3] = -100
    labels[-1] = 7  # one counts
    save_file(inputs | {"labels": labels}, folder / "loss-inputs.safetensors")
    return c, weights, ids, pixels, labels, f"{str(kind_of)[6:]} x{shards}"


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


