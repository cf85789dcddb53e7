"""Tiny models of every architecture in the forms that people get them in: a folder as transformers 5 writes it, the same as transformers 4
wrote it, and a GGUF file by llama.cpp's own converter. Needs torch and transformers; for GGUF the folder of llama.cpp.

    import route_models
    model = route_models.MODELS["llama3"]
    model.build(folder, form=5)              # config.json, weights, tokenizer, generation_config.json
    model.to_gguf(folder, "m.gguf", llama_cpp="llama_cpp_python-0.3.36/vendor/llama.cpp")   # of form 4: GPT-NeoX's needs it
"""
import copy
import dataclasses
import json
import pathlib
import subprocess
import sys

import torch
from safetensors.torch import save_file
from tokenizer_kinds import KINDS

SIZES = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=64)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=16)
# Of small heads, so that the factors lie between the ends.
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
LONG = dict(rope_type="longrope", short_factor=[1.0, 1.1, 1.3, 1.6], long_factor=[2.0, 2.5, 3.0, 4.0])
CHATML = ("{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")

FIRST = "a space is put in front of a whole text only, and only where there is none"
META = "U+2581 written out in a text is a space to its added tokens"


@dataclasses.dataclass
class Model:
    cls: str                      # transformers' class
    tokenizer: str                # of tokenizer_kinds
    config: dict                  # in the form of transformers 5
    chat: str = None
    tokenizer_class: str = None   # where llama.cpp's converter goes by it
    generation: dict = dataclasses.field(default_factory=dict)
    ends: tuple = ()              # further texts that end an answer
    internlm2: bool = False       # a Llama under InternLM2's names, for which transformers has no class
    other_code: dict = None       # keys of a model whose weights are this one's and whose code transformers doesn't have
    loses: str = ""               # what llama.cpp's converter leaves out, so that its file is another model
    loses_ids: str = ""           # and what it can't say of the tokenizer, so that some texts have other ids

    def model(self, vocab, folder, dtype=torch.float32, small=False):
        import transformers

        tok = json.loads((folder / "tokenizer_config.json").read_text())
        added = {t["content"]: int(i) for i, t in tok.get("added_tokens_decoder", {}).items()}
        ids = {f"{role}_token_id": added.get(tok.get(f"{role}_token")) for role in ("bos", "eos", "pad")}
        if self.ends:
            ids["eos_token_id"] = [ids["eos_token_id"], *(added[t] for t in self.ends)]
        cls = getattr(transformers, self.cls)
        keys = SIZES | ids | self.config
        if small and "head_dim" in getattr(cls.config_class, "__annotations__", {}) and not self.internlm2:
            keys = dict(head_dim=8) | keys | dict(hidden_size=16, intermediate_size=24)
        if self.cls == "GPTNeoXForCausalLM":  # none of its keys
            keys.pop("num_key_value_heads")
        config = cls.config_class(vocab_size=vocab, **keys)
        torch.manual_seed(7)
        model = cls(config).eval().to(torch.float32)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if name.endswith("norm.weight") or name.endswith("norm1.weight"):
                    p.copy_(0.3 * torch.randn_like(p) + (0 if "Gemma" in self.cls else 1))
                elif p.dim() == 1:
                    p.copy_(0.3 * torch.randn_like(p))
                elif "embed" not in name:
                    p.copy_(torch.randn_like(p) * 1.7 / p.shape[1] ** 0.5)
                else:
                    p.copy_(torch.randn_like(p))
                p.copy_(p.to(dtype).float())
        model.tie_weights()
        model.generation_config = transformers.GenerationConfig(**(ids | self.generation))
        return model

    def build(self, folder, form=5, size=700, padding=16, dtype=torch.float32, small=False):
        """Returns transformers' own model of it, in F32; stored as dtype, which loses nothing."""
        folder.mkdir(parents=True, exist_ok=True)
        vocab = KINDS[self.tokenizer].build(folder, size)
        changes = {k: v for k, v in (("chat_template", self.chat), ("tokenizer_class", self.tokenizer_class)) if v}
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(config | changes, indent=2) + "\n")
        padding = 1 if self.internlm2 else padding  # whose converter knows no rows without a token
        model = self.model((vocab + padding - 1) // padding * padding, folder, dtype, small)
        copy.deepcopy(model).to(dtype).save_pretrained(folder)  # rope's frequencies would not come back from F16
        if form == 4:
            config = to_form_4(json.loads((folder / "config.json").read_text()))
            (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        if self.internlm2:
            rename_to_internlm2(folder, model)
        if self.other_code:
            config = json.loads((folder / "config.json").read_text()) | self.other_code
            (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        return model

    def to_gguf(self, folder, path, llama_cpp, outtype="f32"):
        kind = KINDS[self.tokenizer]
        done = subprocess.run([sys.executable, __file__, str(llama_cpp), kind.pre, str(folder), "--outfile", str(path),
                               "--outtype", outtype], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"llama.cpp's converter on {folder}: {done.stderr[-2000:]}")


def to_form_4(config):
    """Keys as transformers 4 has them."""
    config = dict(config, transformers_version="4.57.1")
    config["torch_dtype"] = config.pop("dtype")
    rope = config.pop("rope_parameters")
    config.pop("layer_types", None) if "sliding_attention" not in rope else None
    if "sliding_attention" in rope:  # Gemma 3
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    rope = dict(rope)
    neox = config["model_type"] == "gpt_neox"
    config["rotary_emb_base" if neox else "rope_theta"] = rope.pop("rope_theta")
    partial = rope.pop("partial_rotary_factor", None)
    if partial is not None:
        config["rotary_pct" if neox else "partial_rotary_factor"] = partial
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    if rope["rope_type"] == "longrope":
        config["original_max_position_embeddings"] = rope.pop("original_max_position_embeddings")
        config["rope_scaling"] = dict(type=rope.pop("rope_type"), **rope)
    return config


def rename_to_internlm2(folder, model):
    c = model.config
    head, group = c.head_dim, c.num_attention_heads // c.num_key_value_heads
    names = {"self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3",
             "mlp.down_proj": "feed_forward.w2", "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
             "model.embed_tokens": "model.tok_embeddings", "lm_head": "output"}
    weights, state = {}, model.state_dict()
    for name, tensor in state.items():
        if ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            parts = [state[name.replace("q_proj", f"{p}_proj")].reshape(c.num_key_value_heads, -1, head, c.hidden_size) for p in "qkv"]
            assert parts[0].shape[1] == group
            weights[name.replace("self_attn.q_proj", "attention.wqkv")] = torch.cat(parts, 1).reshape(-1, c.hidden_size).contiguous()
            continue
        for old, new in names.items():
            name = name.replace(old, new)
        weights[name] = tensor.contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters", None) or dict(rope_theta=config["rope_theta"])
    config |= dict(architectures=["InternLM2ForCausalLM"], model_type="internlm2", bias=False, rope_theta=rope["rope_theta"],
                   rope_scaling=None)
    for key in ("attention_bias", "mlp_bias"):
        config.pop(key, None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def rope(theta, **scaling):
    return dict(rope_parameters=dict(rope_type="default") | scaling | dict(rope_theta=theta))


MODELS = {
    "llama2": Model("LlamaForCausalLM", "llama2", rope(10000.0)),
    "llama3": Model("LlamaForCausalLM", "llama3", rope(500.0, **LLAMA3) | dict(head_dim=16, tie_word_embeddings=True),
                    ends=("<|end_of_text|>",), generation=dict(do_sample=True, temperature=0.6, top_p=0.9)),
    "smollm2": Model("LlamaForCausalLM", "smollm2", rope(100000.0) | dict(tie_word_embeddings=True, rms_norm_eps=1e-5), chat=CHATML),
    "llama-yarn": Model("LlamaForCausalLM", "llama2", rope(500.0, **YARN) | dict(attention_bias=True, mlp_bias=True)),
    "mistral": Model("MistralForCausalLM", "mistral", rope(1e6) | dict(sliding_window=None), loses_ids=FIRST),
    "mistral-window": Model("MistralForCausalLM", "mistral", rope(1e6) | dict(sliding_window=8), loses="attention.sliding_window",
                            loses_ids=FIRST),
    "mistral-nemo": Model("MistralForCausalLM", "tekken", rope(1e6) | dict(sliding_window=None, head_dim=6)),
    "qwen2": Model("Qwen2ForCausalLM", "qwen2", rope(1e6) | dict(tie_word_embeddings=True), chat=CHATML, ends=("<|endoftext|>",),
                   generation=dict(do_sample=True, temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05)),
    "qwen3": Model("Qwen3ForCausalLM", "qwen2", rope(1e6) | dict(head_dim=12), chat=CHATML),
    "smollm3": Model("SmolLM3ForCausalLM", "llama3", rope(5e6) | dict(num_hidden_layers=5, tie_word_embeddings=True),
                     ends=("<|end_of_text|>",)),
    "phi3": Model("Phi3ForCausalLM", "phi3", rope(10000.0, **LONG, original_max_position_embeddings=16)
                  | dict(original_max_position_embeddings=16, sliding_window=24)),
    "phi4-mini": Model("Phi3ForCausalLM", "gpt4o", rope(10000.0, partial_rotary_factor=0.75, **LONG | dict(
        short_factor=[1.0, 1.1, 1.3], long_factor=[2.0, 2.5, 3.0]), original_max_position_embeddings=16)
        | dict(original_max_position_embeddings=16, tie_word_embeddings=True), tokenizer_class="GPT2Tokenizer"),
    "gemma": Model("GemmaForCausalLM", "gemma", rope(10000.0) | dict(head_dim=12, hidden_act="gelu_pytorch_tanh"), loses_ids=META),
    "gemma2": Model("Gemma2ForCausalLM", "gemma", rope(10000.0) | dict(
        num_hidden_layers=3, head_dim=12, query_pre_attn_scalar=12, sliding_window=8, attn_logit_softcapping=2.0,
        final_logit_softcapping=5.0), loses_ids=META),
    "gemma3": Model("Gemma3ForCausalLM", "gemma", dict(rope_parameters=dict(
        full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
        sliding_attention=dict(rope_type="default", rope_theta=10000.0)),
        num_hidden_layers=7, head_dim=12, query_pre_attn_scalar=12, sliding_window=8), loses_ids=META),
    "olmo2": Model("Olmo2ForCausalLM", "dolma2", rope(5e5) | dict(rms_norm_eps=1e-6)),
    "gpt_neox": Model("GPTNeoXForCausalLM", "gpt_neox", rope(10000.0, partial_rotary_factor=0.25) | dict(rotary_pct=0.25)),
    "internlm2": Model("LlamaForCausalLM", "llama2-model", rope(1e6), internlm2=True),
    "nanbeige": Model("LlamaForCausalLM", "llama2", rope(1e6) | dict(head_dim=12), other_code=dict(
        architectures=["NanbeigeForCausalLM"], model_type="nanbeige", num_loops=2, skip_loop_final_norm=True)),
}
if __name__ == "__main__":
    # llama.cpp's converter, told the name of a pre-tokenizer: it knows the releases' by a hash of ids.
    root, pre = sys.argv[1:3]
    sys.path[:0] = [root, str(pathlib.Path(root) / "gguf-py")]
    sys.argv = ["convert_hf_to_gguf.py", *sys.argv[3:]]
    import convert_hf_to_gguf
    from conversion.base import ModelBase, TextModel

    def hparams(folder, is_mistral_format, load=ModelBase.load_hparams):
        # GPT-NeoX's keys have other names to transformers 5, which it asks.
        return json.loads((pathlib.Path(folder) / "config.json").read_text()) | load(folder, is_mistral_format)

    ModelBase.load_hparams = staticmethod(hparams)
    TextModel.get_vocab_base_pre = lambda self, tokenizer: pre
    convert_hf_to_gguf.main()
