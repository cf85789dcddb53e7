#!/usr/bin/env python3
"""Every way a model takes through this program, judged by transformers: the same ids, the same logits, the same defaults.

For each of the tiny models of route_models.py, one or more an architecture:
  folder 5, folder 4   the folder as transformers 5 and 4 write it, read by `reprise`
  gguf                 the GGUF file that llama.cpp's own converter makes of it, read by `reprise`
  gguf > folder        `reprise convert` makes a folder of that file: transformers loads it (AutoModelForCausalLM, AutoTokenizer) and
                       `reprise` does; config, generation config, chat template and special tokens are those of the first folder
  own, own > folder    `reprise convert` of the folder, and back: byte for byte
  q8_0 > folder        the same of a file of quantized weights: transformers computes with what `reprise` computes with
What llama.cpp's file loses is said in the model's `loses` and `loses_ids`, and then has to be lost; the routes from there are judged
by that file.

    scripts/check_routes.py --llama-cpp llama_cpp_python-0.3.36/vendor/llama.cpp      # of PyPI's source package
    scripts/check_routes.py --models phi3 gemma3      # without the routes over llama.cpp's files
    scripts/check_routes.py --gguf model.gguf         # any file of it: > folder alone
Needs torch, transformers,
tokenizers, sentencepiece, protobuf, safetensors. About a minute a model with the converter. Exit code 1 where something differs.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file

from route_models import MODELS
from tokenizer_kinds import ROOT, strings

TOLERANCE = 2e-4
TOKENS = 40  # beyond every window and original context here
MESSAGES = [dict(role="user", content="What is it?"), dict(role="assistant", content="A test."), dict(role="user", content="Why?")]


class Judge:
    def __init__(self, program):
        self.program, self.wrong, self.checks = str(program), 0, 0

    def expect(self, holds, what):
        self.checks += 1
        if not holds:
            self.wrong += 1
            print("  WRONG:", what)

    def run(self, *arguments):
        done = subprocess.run([self.program, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"reprise {' '.join(map(str, arguments))}: {done.stderr}")
        return done.stdout

    def logits(self, model, temp):
        self.run("trace", model, "--inputs", temp / "inputs.safetensors", "--out", temp / "out.safetensors", "--activations", "f32")
        return load_file(temp / "out.safetensors")["logits"]

    def ids(self, model, temp):
        return [json.loads(line)["ids"] for line in self.run("tokenize", model, "--lines", temp / "texts.jsonl").splitlines()]

    def close(self, a, b, what):
        a, b = a.reshape(-1), b.reshape(-1)
        off = (a - b).abs().max().item() if a.shape == b.shape else float("inf")
        self.expect(off <= TOLERANCE, f"{what}: logits differ by {off:.1e}")
        return off


def logits_of(model, ids):
    with torch.no_grad():
        return model.float()(input_ids=ids[None], use_cache=False).logits[0]


def load(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


def tokens(tokenizer, texts, special):
    return [tokenizer.encode(t, add_special_tokens=special) for t in texts]


def same_defaults(judge, name, want, got):
    """Of two (model, tokenizer)."""
    (a, at), (b, bt) = want, got
    for key in ("bos_token_id", "pad_token_id", "eos_token_id"):
        x, y = getattr(a.config, key), getattr(b.config, key)
        # A GGUF file has one end token of this role.
        if key == "eos_token_id" and isinstance(x, list):
            judge.expect((y if isinstance(y, list) else [y])[0] in x, f"{name}: config {key}: {x}, {y}")
            continue
        judge.expect(x == y, f"{name}: config {key}: {x}, {y}")
    for key in ("do_sample", "temperature", "top_p", "top_k", "repetition_penalty"):
        x, y = getattr(a.generation_config, key), getattr(b.generation_config, key)
        judge.expect(x == y or (x is not None and y is not None and abs(x - y) < 1e-6), f"{name}: generation {key}: {x}, {y}")
    for key in ("bos_token", "eos_token", "pad_token"):
        judge.expect(getattr(at, key) == getattr(bt, key), f"{name}: {key}: {getattr(at, key)}, {getattr(bt, key)}")
    judge.expect(at.chat_template == bt.chat_template, f"{name}: chat template")
    if at.chat_template:
        render = [t.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True) for t in (at, bt)]
        judge.expect(render[0] == render[1], f"{name}: rendered chat")
    keys = ("model_type", "tie_word_embeddings", "hidden_size", "head_dim", "num_key_value_heads", "sliding_window", "vocab_size",
            "max_position_embeddings", "layer_types", "rms_norm_eps", "layer_norm_eps", "attention_bias", "mlp_bias",
            "query_pre_attn_scalar", "use_parallel_residual", "num_hidden_layers")
    if type(a.config) is type(b.config):
        for key in keys:
            x, y = getattr(a.config, key, None), getattr(b.config, key, None)
            judge.expect(x == y, f"{name}: config {key}: {x}, {y}")


def check_model(judge, name, model, folder, temp, llama_cpp):
    folder5, folder4, gguf = folder / "folder5", folder / "folder4", folder / "m.gguf"
    own = model.build(folder5, 5)
    model.build(folder4, 4)
    if model.internlm2 or model.other_code:  # no class of transformers': InternLM2's judge is the Llama it was made of
        tokenizer = None
    else:
        own, tokenizer = load(folder5)
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(4, own.config.vocab_size - 20, (TOKENS,), generator=generator)
    save_file({"input_ids": ids}, temp / "inputs.safetensors")
    want = judge.logits(folder5, temp) if model.other_code else logits_of(own, ids)
    added = json.loads((folder5 / "tokenizer_config.json").read_text()).get("added_tokens_decoder", {})
    texts = strings(400, [t["content"] for t in added.values()])
    (temp / "texts.jsonl").write_text("".join(json.dumps(t) + "\n" for t in texts))
    want_ids = tokens(tokenizer, texts, False) if tokenizer else judge.ids(folder5, temp)
    largest = 0.0

    def read(route, path, logits=want):
        nonlocal largest
        largest = max(largest, judge.close(judge.logits(path, temp), logits, f"{name}: {route}"))
        found = judge.ids(path, temp)
        wrong = [t for t, a, b in zip(texts, want_ids, found, strict=True) if a != b]
        judge.expect(not wrong, f"{name}: {route}: {len(wrong)} texts have other ids: {wrong[:2]!r}")

    def load_folder(route, path, logits=want):
        """By transformers."""
        nonlocal largest
        if model.other_code:
            return read(route, path, logits)
        made, made_tokenizer = load(path)
        largest = max(largest, judge.close(logits_of(made, ids), logits, f"{name}: {route}, transformers"))
        found = tokens(made_tokenizer, texts, False)
        wrong = [t for t, a, b in zip(texts, want_ids, found, strict=True) if a != b]
        judge.expect(not wrong, f"{name}: {route}, transformers: {len(wrong)} texts have other ids: {wrong[:2]!r}")
        if tokenizer and not model.loses_ids:
            judge.expect(tokens(tokenizer, texts[:50], True) == tokens(made_tokenizer, texts[:50], True),
                         f"{name}: {route}, transformers: other ids with special tokens")
        return made, made_tokenizer

    read("folder 5", folder5)
    read("folder 4", folder4)

    judge.run("convert", folder5, temp / "own.gguf")
    read("own", temp / "own.gguf")
    judge.run("convert", temp / "own.gguf", temp / "back")
    for file in folder5.iterdir():
        if not file.name.endswith(".safetensors"):
            judge.expect(file.read_bytes() == (temp / "back" / file.name).read_bytes(), f"{name}: own > folder: {file.name}")
    first, second = (load_file(f / "model.safetensors") for f in (folder5, temp / "back"))
    judge.expect(set(first) == set(second) and all(torch.equal(first[k], second[k]) for k in first), f"{name}: own > folder: tensors")

    if llama_cpp:
        model.to_gguf(folder4, gguf, llama_cpp)
    else:
        return largest
    if model.loses:
        lost = (judge.logits(gguf, temp).reshape(-1) - want.reshape(-1)).abs().max().item()
        judge.expect(lost > TOLERANCE, f"{name}: gguf: {model.loses} isn't lost, though it is said to be")
        want = judge.logits(gguf, temp)
    if model.loses_ids:
        found = judge.ids(gguf, temp)
        other = [t for t, a, b in zip(texts, want_ids, found, strict=True) if a != b]
        judge.expect(0 < len(other) < len(texts) / 3, f"{name}: gguf: {len(other)} texts have other ids, said to be those where: "
                                                      f"{model.loses_ids}")
        want_ids = found
    read("gguf", gguf, want)
    judge.run("convert", gguf, temp / "from-gguf")
    read("gguf > folder", temp / "from-gguf", want)
    made = load_folder("gguf > folder", temp / "from-gguf", want)
    if tokenizer and not model.loses:
        same_defaults(judge, f"{name}: gguf > folder", (own, tokenizer), made)
    judge.run("convert", temp / "from-gguf", temp / "again.gguf")
    read("gguf > folder > own", temp / "again.gguf", want)

    model.to_gguf(folder4, temp / "q8.gguf", llama_cpp, "q8_0")
    judge.run("convert", temp / "q8.gguf", temp / "from-q8")
    exact = judge.logits(temp / "q8.gguf", temp)
    load_folder("q8_0 > folder", temp / "from-q8", exact)
    judge.run("convert", temp / "q8.gguf", temp / "from-q8-bf16", "--type", "bf16")
    config = json.loads((temp / "from-q8-bf16/config.json").read_text())
    judge.expect(config["torch_dtype"] == "bfloat16", f"{name}: --type bf16 says {config['torch_dtype']}")
    if model.other_code:
        return largest
    loaded = transformers.AutoModelForCausalLM.from_pretrained(temp / "from-q8-bf16")
    judge.expect(loaded.dtype == torch.bfloat16, f"{name}: --type bf16 is loaded as {loaded.dtype}")
    return largest


def check_file(judge, gguf, temp):
    """Any GGUF file: the folder made of it is to transformers what the file is to `reprise`."""
    name = gguf.name
    judge.run("convert", gguf, temp / "folder")
    model, tokenizer = load(temp / "folder")
    added = json.loads((temp / "folder/tokenizer_config.json").read_text())["added_tokens_decoder"]
    texts = strings(5000, [t["content"] for t in list(added.values())[:200]])
    (temp / "texts.jsonl").write_text("".join(json.dumps(t) + "\n" for t in texts))
    want = judge.ids(gguf, temp)
    for route, found in (("transformers", tokens(tokenizer, texts, False)), ("reprise", judge.ids(temp / "folder", temp))):
        wrong = [t for t, a, b in zip(texts, want, found, strict=True) if a != b]
        judge.expect(not wrong, f"{name}: > folder, {route}: {len(wrong)} of {len(texts)} texts have other ids: {wrong[:3]!r}")
    ids = torch.tensor(tokenizer.encode("The largest city of France is Paris, and its river is the", add_special_tokens=True))
    save_file({"input_ids": ids}, temp / "inputs.safetensors")
    off = judge.close(logits_of(model, ids), judge.logits(gguf, temp), f"{name}: > folder")
    print(f"{name}: {len(texts)} texts, logits differ by {off:.1e}; next token {tokenizer.decode(logits_of(model, ids)[-1].argmax())!r}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reprise", default=ROOT / "build/release/reprise")
    parser.add_argument("--llama-cpp", type=pathlib.Path)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--gguf", type=pathlib.Path, nargs="*", default=[], help="judge folders made of these files instead")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    judge = Judge(options.reprise)
    for gguf in options.gguf:
        with tempfile.TemporaryDirectory() as folder:
            check_file(judge, gguf, pathlib.Path(folder))
    for name in options.models if not options.gguf else []:
        with tempfile.TemporaryDirectory() as folder:
            temp = pathlib.Path(folder)
            before = judge.wrong
            try:
                largest = check_model(judge, name, MODELS[name], temp / "model", temp, options.llama_cpp)
                print(f"{name:16}{'ok' if judge.wrong == before else 'WRONG':8}largest difference of logits {largest:.1e}", flush=True)
            except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever a route ends with is a finding)
                judge.expect(False, f"{name}: {type(error).__name__}: {str(error)[:1000]}")
    print(f"{judge.checks} checks, {judge.wrong} wrong")
    return 1 if judge.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
