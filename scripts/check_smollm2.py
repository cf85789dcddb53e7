#!/usr/bin/env python3
"""Judges `reprise` on SmolLM2-135M-Instruct against PyTorch and Hugging Face transformers.

Dequantizes the weights of the GGUF file, loads them into transformers' LlamaForCausalLM in float32
and compares:
  - logits of several prompts, one of 500 tokens, with F32 activations, and greedy tokens
  - token ids of varied text with the `tokenizers` package
--write FILE also writes the expected values that tests/parity/smollm2_test.cc reads: for a few positions
of each prompt the largest logits.

Needs torch, transformers, gguf, tokenizers, numpy, safetensors (judges only; Reprise needs none).
Usage: scripts/check_smollm2.py [--reprise build/release/reprise] [--write tests/data/smollm2/expected.json]
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = ROOT / "models/downloaded/smollm2-135m-instruct.gguf"
TOP = 20  # logits kept per position in the expected values
LOGIT_TOLERANCE = 2e-3  # on logits of size 20 or so, after 30 blocks in float32

CHAT = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
PROMPTS = {
    "word": "Gravity",
    "sentence": "The capital of France is",
    "chat": CHAT.format("Why is the sky blue?"),
    "code": "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "unicode": "Größe, naïve café — 東京 🙂 is",
}
TEXTS = [
    "", " ", "  ", "\n", "\n\n\n", "\t\tx", "a", "Hello, world!", "  leading and trailing  ",
    "don't we'll I'm they've he'd it's DON'T WE'LL", "12345 1 22 333 4444 3.14159 1,000,000", "x1y22z333",
    "CamelCaseIdentifier snake_case_name kebab-case", "Größe naïve café Ünïcödé", "東京タワーは高い。", "한국어 문장입니다.",
    "Привет, мир! Как дела?", "مرحبا بالعالم", "नमस्ते दुनिया", "🙂🙃 👨‍👩‍👧‍👦 🏳️‍🌈", "e\u0301 vs \u00e9", "\u200b\u00a0\u3000\ufeff",
    "#include <vector>\nint main() {\n\treturn 0;\n}\n", "SELECT * FROM t WHERE a='b';--", "{\"a\": [1, 2, {\"b\": null}]}",
    "http://example.org/a?b=c&d=%20e#f", "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>", "<|im_start", "|im_end|>",
    "line one\r\nline two\rline three\n", "a" * 300, "!?" * 50, "     many     spaces     ", "½ ¾ Ⅷ ² ³ ₂ ٣ ৪ 十",
    "ﬁ ligature, ſ long s, İstanbul, ß", "\x00\x01\x7f", "Ǆ ǅ ǆ \U0001d400 \U0001f1e9\U0001f1ea",
]


def dequantized_model(path):
    reader = gguf.GGUFReader(path)
    field = lambda key: reader.get_field("llama." + key).contents()
    heads, kv_heads = field("attention.head_count"), field("attention.head_count_kv")
    tensors = {t.name: torch.from_numpy(gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)) for t in reader.tensors}
    config = LlamaConfig(
        vocab_size=tensors["token_embd.weight"].shape[0], hidden_size=field("embedding_length"),
        intermediate_size=field("feed_forward_length"), num_hidden_layers=field("block_count"),
        num_attention_heads=heads, num_key_value_heads=kv_heads,
        max_position_embeddings=field("context_length"), rms_norm_eps=field("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": field("rope.freq_base")},
        tie_word_embeddings=True, attention_bias=False)

    def halves(w, n):
        # GGUF rotates neighbours (2i, 2i + 1), transformers halves (i, i + m).
        return w.reshape(n, w.shape[0] // n // 2, 2, -1).swapaxes(1, 2).reshape(w.shape)

    names = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
             "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    state = {"model.embed_tokens.weight": tensors["token_embd.weight"], "lm_head.weight": tensors["token_embd.weight"],
             "model.norm.weight": tensors["output_norm.weight"]}
    for i in range(config.num_hidden_layers):
        for here, there in names.items():
            w = tensors[f"blk.{i}.{here}.weight"]
            if here == "attn_q":
                w = halves(w, heads)
            if here == "attn_k":
                w = halves(w, kv_heads)
            state[f"model.layers.{i}.{there}.weight"] = w
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict(state, strict=True)
    return model


def reference_tokenizer(path):
    """The file's vocabulary and merges under SmolLM2's official pre-tokenizer: single digits, then GPT-2's pattern.
    (transformers' own reading of GGUF files leaves the digits out.)"""
    reader = gguf.GGUFReader(path)
    field = lambda key: reader.get_field("tokenizer.ggml." + key).contents()
    tokens = field("tokens")
    merges = [tuple(m.split(" ")) for m in field("merges")]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    control = gguf.TokenType.CONTROL
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False)
                                  for t, kind in zip(tokens, field("token_type")) if kind == control])
    return tokenizer


def reprise(program, *arguments):
    return subprocess.run([str(program), *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def trace(program, ids, steps, folder, activations):
    save_file({"input_ids": np.array(ids, np.int64)}, folder / "in.safetensors")
    reprise(program, "trace", MODEL, "--inputs", folder / "in.safetensors", "--out", folder / "out.safetensors",
            "--steps", steps, "--activations", activations)
    return load_file(folder / "out.safetensors")


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reprise", default=ROOT / "build/release/reprise", type=pathlib.Path)
    parser.add_argument("--write", type=pathlib.Path, help="expected values for the C++ test")
    parser.add_argument("--steps", type=int, default=16, help="greedy tokens")
    args = parser.parse_args()
    if not MODEL.exists():
        sys.exit(f"{MODEL} is missing: run scripts/get_smollm2.sh")
    failed = False

    tokenizer = reference_tokenizer(MODEL)
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as lines:
        lines.write("".join(json.dumps(t) + "\n" for t in TEXTS))
        lines.flush()
        ours = [json.loads(l)["ids"] for l in reprise(args.reprise, "tokenize", MODEL, "--lines", lines.name).splitlines()]
    for text, ids in zip(TEXTS, ours, strict=True):
        theirs = tokenizer.encode(text, add_special_tokens=False).ids
        if ids != theirs:
            failed = True
            print(f"tokens differ for {text[:60]!r}: {ids[:20]} expected {theirs[:20]}")
    print(f"tokenizer: {len(TEXTS)} texts compared")

    torch.set_num_threads(2)
    model = dequantized_model(MODEL)
    prompts = {name: tokenizer.encode(text, add_special_tokens=False).ids for name, text in PROMPTS.items()}
    prompts["licence"] = tokenizer.encode((ROOT / "LICENSE").read_text(), add_special_tokens=False).ids[:500]
    expected = []
    print(f"{'prompt':<10}{'tokens':>7}{'max |logit|':>13}{'max diff f32':>14}{'mean diff f32':>15}{'max diff int8':>15}  greedy f32")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name, ids in prompts.items():
            logits = model(torch.tensor([ids])).logits[0].numpy()
            generated = []
            for _ in range(args.steps):
                generated.append(int(model(torch.tensor([ids + generated])).logits[0, -1].argmax()))
            ours = trace(args.reprise, ids, args.steps, folder, "f32")
            int8 = trace(args.reprise, ids, 1, folder, "int8")
            diff = np.abs(ours["logits"] - logits)
            same = ours["decode.tokens"].tolist() == generated
            failed |= diff.max() > LOGIT_TOLERANCE or not same
            print(f"{name:<10}{len(ids):>7}{np.abs(logits).max():>13.2f}{diff.max():>14.2e}{diff.mean():>15.2e}"
                  f"{np.abs(int8['logits'] - logits).max():>15.2e}  {'equal' if same else 'DIFFERENT'}")
            at = sorted({0, len(ids) // 3, len(ids) - 1})
            rows = []
            for position in at:
                top = np.argsort(-logits[position], kind="stable")[:TOP]
                rows.append({"position": position, "tokens": top.tolist(),
                             "logits": [round(float(v), 5) for v in logits[position][top]]})
            expected.append({"name": name, "ids": ids, "rows": rows, "greedy": generated})
    if args.write:
        args.write.parent.mkdir(parents=True, exist_ok=True)
        args.write.write_text("[\n" + ",\n".join(json.dumps(e) for e in expected) + "\n]\n")
    print("FAILED" if failed else "all within tolerance")
    return failed


if __name__ == "__main__":
    sys.exit(main())
