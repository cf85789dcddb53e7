"""What configs mean, by `transformers`: logits of tiny random models whose configs differ in one key.

    python make_architectures.py [ARCHITECTURE...]     # needs torch, transformers, safetensors, gguf
    python make_architectures.py --llama-cpp DIR ARCHITECTURE...  # GGUF by llama.cpp's own converter
    python make_architectures.py --check               # the same numbers from another transformers?

For tests/parity/architectures_test.cc. Writes into architectures/, an architecture each:
  <arch>.json            variant -> {"weights": tensors' prefix in the file below, "head": "own" (as
                         it is), "none" (left out) or "copy" (the embedding's values), "config": all
                         of config.json, "gguf": whether there is a file <variant>.gguf}
  <arch>.safetensors     "ids"; "<weights>/<tensor>" for models; "logits/<variant>" [ids, vocabulary]
  <variant>.gguf         the same model in llama.cpp's keys and names: written by its converter, of which
                         DIR is a copy (llama-cpp-python's source package has one under
                         vendor/llama.cpp), or by the package gguf as the converter does. Those of
                         CONVERTED come from the converter alone.
Every variant is loaded by from_pretrained from a folder, so that the defaults of absent keys are
those of the config class. --check exits with 1 where the installed transformers has other numbers;
variants it refuses are named. Made with transformers 5.24.0. 4.57.6 knows no rope_parameters, ties
whatever is stored, and takes Gemma's legacy "gelu" for the exact one; else it has the same numbers.
GPT-NeoX's head is lm_head to transformers 5 and embed_out in files. GGUF: llama-cpp-python 0.3.36's.
"""

import json
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent / "architectures"
TOKENS = 20
BASE = dict(hidden_size=16, num_attention_heads=4, num_key_value_heads=2, intermediate_size=12,
            vocab_size=24, num_hidden_layers=2, rms_norm_eps=1e-5, hidden_act="silu",
            max_position_embeddings=64, rope_theta=500.0, tie_word_embeddings=False, pad_token_id=0)
DEFAULTED = ("rope_theta", "hidden_act", "rms_norm_eps", "max_position_embeddings",
             "tie_word_embeddings")
NEOX = dict(hidden_size=16, num_attention_heads=2, intermediate_size=12, vocab_size=24,
            num_hidden_layers=2, layer_norm_eps=1e-3, hidden_act="gelu",
            max_position_embeddings=64, rotary_emb_base=10000, rotary_pct=0.5,
            use_parallel_residual=True, attention_bias=True, tie_word_embeddings=False)
# Buffers of old checkpoints, by the end of a layer's name.
BUFFERS = {"attention.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool).tril(),
           "attention.masked_bias": torch.tensor(-1e9),
           "attention.rotary_emb.inv_freq": torch.tensor([1.0, 0.01])}
# More heads than KV heads by default, and what a config without head_dim means.
WIDE = dict(num_attention_heads=64, num_hidden_layers=1)
FULL, SLIDING = "full_attention", "sliding_attention"
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
# Architectures whose GGUF files are only made by llama.cpp's converter.
CONVERTED = ("smollm3",)
TWO = dict(short_factor=[1.0, 1.3], long_factor=[2.0, 3.0])  # of a head of 4
ONE = dict(short_factor=[1.1], long_factor=[2.5])


def variants(arch):
    """[(name, keys to leave out, keys to set, where the head is from, whether as GGUF too)]"""
    window = dict(use_sliding_window=True, sliding_window=5)
    # Wide heads are the default of the two last; few of them keep the files small.
    few = dict(num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1) \
        if arch in ("qwen3", "gemma") else {}
    yarn = [
        ("yarn", (), dict(rope_scaling=YARN), "own", True),
        ("yarn-parts", (), dict(rope_scaling=YARN | dict(
            mscale=0.7, mscale_all_dim=0.4, beta_fast=8, beta_slow=2, truncate=False)), "own",
         False),
        ("yarn-attention", (), dict(rope_scaling=YARN | dict(
            attention_factor=1.5, beta_fast=6.0, beta_slow=2.0)), "own", True),
        ("yarn-no-original", (), dict(rope_scaling=dict(type="yarn", factor=4.0)), "own", False),
    ]
    if arch == "llama":
        return yarn + [
            ("plain", (), {}, "own", True),
            ("defaults", DEFAULTED, {}, "own", False),
            ("nulls", (), dict(head_dim=None, rope_scaling=None, num_key_value_heads=None), "own",
             False),
            ("biases", (), dict(attention_bias=True, mlp_bias=True), "own", True),
            ("window-of-no-meaning", (), dict(sliding_window=4), "own", False),
            ("tied", (), dict(tie_word_embeddings=True), "none", True),
            ("tied-stored", (), dict(tie_word_embeddings=True), "own", False),
            ("tied-copy", (), dict(tie_word_embeddings=True), "copy", False),
            ("linear", (), dict(rope_scaling=dict(type="linear", factor=2.0)), "own", True),
            ("parameters", ("rope_theta",),
             dict(rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=700.0)), "own",
             False),
            ("parameters-theta-absent", ("rope_theta",),
             dict(rope_parameters=dict(rope_type="default")), "own", False),
            ("parameters-theta-outside", (),
             dict(rope_parameters=dict(rope_type="linear", factor=2.0)), "own", False),
        ]
    if arch == "mistral":  # whose GGUF files say llama
        return [(*variant[:4], False) for variant in yarn[:2]] + [
            ("plain", (), dict(head_dim=6), "own", False),
            ("defaults", DEFAULTED, {}, "own", False),
            ("kv-heads-absent", ("num_key_value_heads",), WIDE | dict(head_dim=2), "own", False),
            ("head-dim-null", (), dict(head_dim=None), "own", False),
            ("window", (), dict(sliding_window=5), "own", False),
            ("window-one", (), dict(sliding_window=1), "own", False),
            ("window-null", (), dict(sliding_window=None), "own", False),
            ("tied", (), dict(tie_word_embeddings=True), "none", False),
        ]
    if arch in ("qwen2", "qwen3"):
        return yarn[:3] + [
            ("plain", (), dict(head_dim=6), "own", True),
            ("defaults", (*DEFAULTED, "head_dim"), few, "own", False),
            ("kv-heads-absent", ("num_key_value_heads",), WIDE | dict(head_dim=2), "own", False),
            ("kv-heads-null", (), dict(num_key_value_heads=None), "own", False),
            ("window-off", (), dict(use_sliding_window=False, sliding_window=3,
                                    max_window_layers=0), "own", False),
            ("window", (), window | dict(max_window_layers=0), "own", True),
            ("window-one", (), dict(use_sliding_window=True, sliding_window=1,
                                    max_window_layers=0), "own", False),
            ("window-upper", (), window | dict(max_window_layers=1), "own", False),
            ("window-defaults", (), window, "own", False),
            ("window-types", (), window | dict(max_window_layers=2, layer_types=[SLIDING, FULL]),
             "own", False),
        ] + ([("biases", (), dict(attention_bias=True), "own", False)] if arch == "qwen3" else [])
    if arch == "phi3":
        original = dict(original_max_position_embeddings=16)
        return [
            ("plain", (), {}, "own", True),
            ("defaults", DEFAULTED, {}, "own", False),
            ("window", (), dict(sliding_window=4), "own", True),
            ("window-one", (), dict(sliding_window=1), "own", False),
            ("longrope", (), original | dict(rope_scaling=dict(type="longrope") | TWO), "own",
             True),
            ("yarn", (), original | dict(rope_scaling=dict(type="yarn") | TWO), "own", False),
            ("original-absent", (), dict(max_position_embeddings=8192,
                                         rope_scaling=dict(type="longrope") | TWO), "own", False),
            ("partial", (), dict(partial_rotary_factor=0.5), "own", True),
            ("partial-longrope", (), original | dict(
                partial_rotary_factor=0.5, rope_scaling=dict(type="longrope") | ONE), "own", True),
            ("partial-inside", ("rope_theta",), dict(rope_parameters=dict(
                rope_type="default", rope_theta=500.0, partial_rotary_factor=0.5)), "own", False),
            ("partial-outside", (), dict(partial_rotary_factor=0.5, rope_parameters=dict(
                rope_type="default", rope_theta=500.0)), "own", False),
        ]
    if arch == "gpt_neox":
        inside = ("rotary_emb_base", "rotary_pct")
        return [
            ("plain", (), {}, "own", True),
            ("defaults", ("layer_norm_eps", "hidden_act", "max_position_embeddings",
                          "rotary_emb_base", "rotary_pct", "use_parallel_residual",
                          "attention_bias", "tie_word_embeddings"), {}, "own", False),
            ("sequential", (), dict(use_parallel_residual=False, rotary_pct=0.25), "own", True),
            ("whole-heads", (), dict(rotary_pct=1.0), "own", True),
            ("base", (), dict(rotary_emb_base=500), "own", False),
            ("parameters", inside, dict(rope_parameters=dict(
                rope_type="linear", factor=2.0, rope_theta=700.0, partial_rotary_factor=0.75)),
             "own", False),
            ("parameters-outside", (), dict(rotary_emb_base=500, rope_parameters=dict(
                rope_type="default")), "own", False),
            ("linear", (), dict(rope_scaling=dict(type="linear", factor=2.0)), "own", False),
            ("dynamic", (), dict(rope_scaling=dict(type="dynamic", factor=2.0),
                                 max_position_embeddings=16), "own", False),
            ("both-names", (), dict(rotary_emb_base=500, rope_theta=500, partial_rotary_factor=0.5),
             "own", False),
            ("no-attention-bias", (), dict(attention_bias=False), "own", True),
            ("tied", (), dict(tie_word_embeddings=True), "none", True),
            ("tied-copy", (), dict(tie_word_embeddings=True), "copy", False),
            ("gelu-new", (), dict(hidden_act="gelu_new"), "own", False),
            ("gelu-fast", (), dict(hidden_act="gelu_fast"), "own", False),
            ("gelu-tanh", (), dict(hidden_act="gelu_pytorch_tanh"), "own", False),
            ("relu", (), dict(hidden_act="relu"), "own", False),
            ("buffers", (), {}, "own", False),
        ]
    if arch == "smollm3":
        five = dict(num_hidden_layers=5)
        window = five | dict(use_sliding_window=True, sliding_window=5)
        return yarn[:3] + [
            ("plain", ("tie_word_embeddings",), five, "none", True),
            ("defaults", DEFAULTED, five, "none", False),
            ("untied", (), five, "own", True),
            ("kv-heads-absent", ("num_key_value_heads",), WIDE | dict(head_dim=2), "own", False),
            ("layers", (), dict(no_rope_layers=[0, 1], no_rope_layer_interval=1), "own", False),
            ("more-layers", (), dict(no_rope_layers=[1, 0, 0, 1]), "own", False),
            ("looped", (), five | dict(no_rope_layers=None, no_rope_layer_interval=2), "own", False),
            ("interval-one", (), dict(no_rope_layer_interval=1), "own", False),
            ("window", (), window, "own", False),
            ("window-null", (), window | dict(sliding_window=None), "own", False),
            ("window-off", (), five | dict(sliding_window=5), "own", False),
            ("window-types", (), window | dict(layer_types=[SLIDING, FULL, FULL, FULL, FULL]),
             "own", False),
            ("biases", (), five | dict(attention_bias=True, mlp_bias=True), "own", True),
            ("linear", (), five | dict(rope_scaling=dict(type="linear", factor=2.0)), "own", True),
        ]
    if arch == "gemma3":
        own = dict(head_dim=6, query_pre_attn_scalar=6, sliding_window=5)
        six = own | dict(num_hidden_layers=6)
        kinds = dict(layer_types=[FULL, SLIDING])
        return [
            ("plain", ("tie_word_embeddings",), six, "none", True),
            ("defaults", (*DEFAULTED, "head_dim"), dict(num_attention_heads=1, num_key_value_heads=1), "none", False),
            ("kv-heads-absent", ("num_key_value_heads",), own | dict(num_hidden_layers=1), "own", False),
            ("linear", ("tie_word_embeddings",), six | dict(rope_scaling=dict(rope_type="linear", factor=8.0)), "none", True),
            ("pattern", (), own | dict(sliding_window_pattern=2, rope_local_base_freq=100.0), "own", False),
            ("types", (), own | kinds | dict(query_pre_attn_scalar=9), "own", False),
            ("parameters", ("rope_theta",), own | kinds | dict(rope_parameters=dict(
                full_attention=dict(rope_type="linear", factor=2.0, rope_theta=700.0),
                sliding_attention=dict(rope_type="default", rope_theta=30.0))), "own", False),
            ("parameters-theta-absent", ("rope_theta",), own | kinds | dict(rope_parameters=dict(
                full_attention=dict(rope_type="default"), sliding_attention=dict(rope_type="default"))), "own", False),
            ("activation", (), own | dict(hidden_activation="silu"), "own", False),
            ("biases", (), own | dict(attention_bias=True), "own", False),
            ("looped", (), own | dict(num_hidden_layers=4, sliding_window_pattern=2), "own", False),
        ]
    tanh = dict(hidden_act="gelu_pytorch_tanh", head_dim=6)
    return [  # gemma
        ("plain", ("tie_word_embeddings",), tanh, "none", True),
        ("defaults", DEFAULTED, few, "none", False),
        ("gelu", (), tanh | dict(hidden_act="gelu", tie_word_embeddings=True), "none", False),
        ("activation-null", (), tanh | dict(hidden_act="gelu", hidden_activation=None,
                                            tie_word_embeddings=True), "none", False),
        ("untied", (), tanh, "own", False),
        ("biases", (), tanh | dict(attention_bias=True), "own", False),
        ("yarn", ("tie_word_embeddings",), tanh | dict(rope_scaling=YARN), "none", True),
    ]


NAMES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "phi3": "Phi3ForCausalLM",
         "qwen3": "Qwen3ForCausalLM", "gemma": "GemmaForCausalLM",
         "gpt_neox": "GPTNeoXForCausalLM", "mistral": "MistralForCausalLM", "gemma3": "Gemma3ForCausalLM",
         "smollm3": "SmolLM3ForCausalLM"}
HEADS = {arch: ("embed_out.weight", "gpt_neox.embed_in.weight") if arch == "gpt_neox" else
         ("lm_head.weight", "model.embed_tokens.weight") for arch in NAMES}


def random_weights(model, arch, seed):
    g = torch.Generator().manual_seed(seed)
    weights = {}
    for name, t in model.state_dict().items():
        x = torch.randn(t.shape, generator=g)
        if name.endswith("norm.weight"):
            x = 0.3 * x if arch.startswith("gemma") else 1 + 0.3 * x
        elif t.dim() == 1:
            x = 0.3 * x
        elif "embed" not in name:
            x = x * 1.7 / t.shape[1] ** 0.5
        weights[name.replace("lm_head.weight", HEADS[arch][0])] = x.contiguous()
    return weights


def with_head(weights, arch, head):
    weights = dict(weights)
    name, embedding = HEADS[arch]
    if head == "none":
        weights.pop(name, None)
    if head == "copy":
        weights[name] = weights[embedding].clone()
    return weights


@contextmanager
def model_folder(config, weights):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        yield folder


def run(config, weights, ids):
    import transformers

    transformers.logging.set_verbosity_error()
    with model_folder(config, weights) as folder:
        cls = getattr(transformers, config["architectures"][0])
        model = cls.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=ids[None], use_cache=False).logits[0].float().contiguous()


def convert_gguf(path, config, weights, llama_cpp):
    """By llama.cpp's converter, without a tokenizer."""
    sys.path[:0] = [str(llama_cpp / "gguf-py"), str(llama_cpp)]
    import gguf
    from conversion import ModelBase, get_model_class

    with model_folder(config, weights) as folder, torch.inference_mode():
        cls = get_model_class(config["architectures"][0])
        model = cls(Path(folder), gguf.LlamaFileType.ALL_F32, path, eager=True, model_name="tiny")
        model.set_vocab = lambda: None
        model.write()


def write_gguf(path, arch, config, weights):
    """Keys and tensors as llama.cpp's converter writes them."""
    import gguf
    from make_reference import permute

    if arch == "gpt_neox":
        return write_neox_gguf(path, config, weights)
    c = config
    heads = c["num_attention_heads"]
    head_dim = c.get("head_dim") or c["hidden_size"] // heads
    writer = gguf.GGUFWriter(str(path), arch)
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(c["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_rope_freq_base(c["rope_theta"])
    if arch in ("llama", "phi3"):
        writer.add_rope_dimension_count(int(head_dim * c.get("partial_rotary_factor", 1)))
    if c.get("sliding_window"):
        writer.add_sliding_window(c["sliding_window"])
    scaling = c.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        for key, add in (("attention_factor", writer.add_rope_scaling_yarn_attn_factor),
                         ("beta_fast", writer.add_rope_scaling_yarn_beta_fast),
                         ("beta_slow", writer.add_rope_scaling_yarn_beta_slow)):
            if key in scaling:
                add(scaling[key])
    if kind == "longrope":
        original, most = c["original_max_position_embeddings"], c["max_position_embeddings"]
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(
            float(np.sqrt(1 + np.log(most / original) / np.log(original))))
        for which in ("long", "short"):
            writer.add_tensor(f"rope_factors_{which}.weight",
                              np.array(scaling[f"{which}_factor"], np.float32))
    names = tensor_names(arch, c["num_hidden_layers"])
    for name, tensor in weights.items():
        value = tensor.numpy()
        if arch == "llama" and ".q_proj." in name:
            value = permute(value, heads)
        if arch == "llama" and ".k_proj." in name:
            value = permute(value, c["num_key_value_heads"])
        if arch.startswith("gemma") and name.endswith("norm.weight"):
            value = value + 1
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")),
                          np.ascontiguousarray(value))
    finish(writer)


def tensor_names(arch, layers):
    import gguf

    return gguf.get_tensor_name_map({v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[arch], layers)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_neox_gguf(path, c, weights):
    """That converter leaves out rope's base, KV heads and head sizes, and has a layer's fused matrix
    as all q, all k, all v."""
    import gguf

    heads = c["num_attention_heads"]
    head_dim = c["hidden_size"] // heads
    writer = gguf.GGUFWriter(str(path), "gptneox")
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_rope_dimension_count(int(c["rotary_pct"] * head_dim))
    writer.add_head_count(heads)
    writer.add_parallel_residual(c["use_parallel_residual"])
    writer.add_layer_norm_eps(c["layer_norm_eps"])
    names = tensor_names("gptneox", c["num_hidden_layers"])
    for name, tensor in weights.items():
        value = tensor.numpy()
        if ".query_key_value." in name:
            value = np.moveaxis(value.reshape(heads, 3, head_dim, -1), 1, 0).reshape(value.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")),
                          np.ascontiguousarray(value))
    finish(writer)


def make(arch, llama_cpp):
    import transformers

    if arch in CONVERTED and not llama_cpp:
        sys.exit(f"{arch}: its GGUF files need --llama-cpp DIR")

    HERE.mkdir(exist_ok=True)
    ids = torch.randint(0, 20, (TOKENS,), generator=torch.Generator().manual_seed(3))
    tensors, table, shapes = {"ids": ids}, {}, {}
    for name, absent, changes, head, as_gguf in variants(arch):
        usual = dict(head_dim=6) if arch == "qwen3" else {}
        base = NEOX if arch == "gpt_neox" else BASE
        config = dict(model_type={"gemma3": "gemma3_text"}.get(arch, arch), architectures=[NAMES[arch]]) | base | usual | changes
        config = {k: v for k, v in config.items() if k not in absent}
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps(config))
            parsed = transformers.AutoConfig.from_pretrained(folder)
        model = getattr(transformers, NAMES[arch])(parsed)
        buffers = {f"gpt_neox.layers.{i}.{end}": t.clone() for i in range(2)
                   for end, t in BUFFERS.items()} if name == "buffers" else {}
        key = str([(k, tuple(t.shape)) for k, t in model.state_dict().items()] + list(buffers))
        if key not in shapes:
            shapes[key] = f"model.{len(shapes)}"
            weights = random_weights(model, arch, 7 + len(shapes)) | buffers
            tensors |= {f"{shapes[key]}/{k}": t for k, t in weights.items()}
        prefix = shapes[key] + "/"
        weights = with_head({k[len(prefix):]: t for k, t in tensors.items()
                             if k.startswith(prefix)}, arch, head)
        logits = run(config, weights, ids)
        tensors[f"logits/{name}"] = logits
        table[name] = dict(weights=shapes[key], head=head, config=config, gguf=as_gguf)
        print(f"{arch} {name}: deviation {logits.std():.2f}")
        if as_gguf:
            path = HERE / f"{arch}-{name}.gguf"
            if llama_cpp:
                convert_gguf(path, config, weights, llama_cpp)
            else:
                write_gguf(path, arch, config, weights)
    save_file(tensors, HERE / f"{arch}.safetensors")
    (HERE / f"{arch}.json").write_text(json.dumps(table, indent=1) + "\n")


def check():
    wrong = 0
    for path in sorted(HERE.glob("*.json")):
        tensors = load_file(path.with_suffix(".safetensors"))
        for name, v in json.loads(path.read_text()).items():
            prefix = v["weights"] + "/"
            weights = with_head({k[len(prefix):]: t for k, t in tensors.items()
                                 if k.startswith(prefix)}, path.stem, v["head"])
            try:
                off = (run(v["config"], weights, tensors["ids"]) - tensors[f"logits/{name}"]).abs()
            except Exception as error:  # noqa: BLE001 (whatever it refuses a config with)
                print(f"{path.stem} {name}: refused, {type(error).__name__}")
                continue
            wrong += bool(off.max() > 2e-5)
            print(f"{path.stem} {name}: {off.max():.1e}")
    return wrong > 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "--check" in sys.argv:
        sys.exit(check())
    asked = sys.argv[1:]
    source = None
    if "--llama-cpp" in asked:
        at = asked.index("--llama-cpp")
        source = Path(asked[at + 1]).resolve()
        del asked[at:at + 2]
    for arch in asked or NAMES:
        make(arch, source)
