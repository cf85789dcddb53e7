#!/usr/bin/env python3
"""Makes the data of tests/parity/routes_test.cc: models of scripts/route_models.py with what transformers computes of them.

    python make.py --llama-cpp llama_cpp_python-0.3.36/vendor/llama.cpp [NAME...]      # of PyPI's source package

Needs torch, transformers, tokenizers, sentencepiece, protobuf. Each NAME is a folder of its own:
  folder/             as transformers 5 writes it, weights in F16 or BF16 (exactly)
  config4.json        its config.json as transformers 4 wrote it
  model.gguf          by llama.cpp's converter, in the same type
  want.safetensors    "input_ids" [24], "logits" [4, vocabulary]: of the last 4, F32, by transformers
  want.json           "texts": [text, ids] by transformers; "gguf_texts": the same of the GGUF file by this program, where they are
                      others (a reason in "loses_ids"); "loses": what the GGUF file lacks, so that its logits are others;
                      "bos", "ends", "pad": ids; "generation": keys of generation_config.json
Made with transformers 5.24.0, tokenizers 0.23.3, sentencepiece 0.2.3, llama.cpp of llama-cpp-python 0.3.36.
"""
import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from route_models import MODELS, to_form_4  # noqa: E402
from tokenizer_kinds import strings  # noqa: E402

SMALL = dict(size=280, small=True)
TOKENS, ROWS, TEXTS = 24, 4, 40


def reprise(*arguments):
    return subprocess.run([ROOT / "build/release/reprise", *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def ids_of(model, texts):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as lines:
        lines.write("".join(json.dumps(t) + "\n" for t in texts))
        lines.flush()
        return [json.loads(line)["ids"] for line in reprise("tokenize", model, "--lines", lines.name).splitlines()]


def make(name, llama_cpp):
    model, out = MODELS[name], HERE / name
    shutil.rmtree(out, ignore_errors=True)
    folder = out / "folder"
    out.mkdir()
    with tempfile.TemporaryDirectory() as temp:
        form4 = pathlib.Path(temp) / "4"
        # That converter adds 1 to Gemma's norms in the type they have, but for BF16.
        dtype, outtype = (torch.bfloat16, "bf16") if name.startswith("gemma") else (torch.float16, "f16")
        model.build(form4, 4, dtype=dtype, **SMALL)
        model.to_gguf(form4, out / "model.gguf", llama_cpp, outtype)
        own = model.build(folder, 5, dtype=dtype, **SMALL)
        (out / "config4.json").write_bytes((form4 / "config.json").read_bytes())
    plain = model.internlm2 or model.other_code
    config = json.loads((folder / "config.json").read_text())
    ids = torch.randint(4, config["vocab_size"] - 20, (TOKENS,), generator=torch.Generator().manual_seed(3))
    if model.other_code:  # its code is judged elsewhere (tests/data/golden)
        with tempfile.TemporaryDirectory() as temp:
            save_file({"input_ids": ids}, f"{temp}/in.safetensors")
            reprise("trace", folder, "--inputs", f"{temp}/in.safetensors", "--out", f"{temp}/out.safetensors")
            logits = load_file(f"{temp}/out.safetensors")["logits"].reshape(TOKENS, -1)
    else:
        if not model.internlm2:
            own = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        with torch.no_grad():
            logits = own(input_ids=ids[None], use_cache=False).logits[0]
    save_file({"input_ids": ids, "logits": logits[-ROWS:].contiguous()}, out / "want.safetensors")

    added = json.loads((folder / "tokenizer_config.json").read_text()).get("added_tokens_decoder", {})
    texts = [t for t in strings(1000, [t["content"] for t in added.values()], seed=2) if len(t) < 80]
    texts = texts[:TEXTS // 2] + texts[-TEXTS // 2:]
    if plain:
        found = ids_of(folder, texts)
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        found = [tokenizer.encode(t, add_special_tokens=False) for t in texts]
    want = dict(texts=list(zip(texts, found)), bos=config["bos_token_id"], pad=config["pad_token_id"])
    ends = config["eos_token_id"]
    want["ends"] = ends if isinstance(ends, list) else [ends]
    want["generation"] = model.generation
    if model.loses:
        want["loses"] = model.loses
    if model.loses_ids:
        want["loses_ids"] = model.loses_ids
        want["gguf_texts"] = list(zip(texts, ids_of(out / "model.gguf", texts)))
    (out / "want.json").write_text(json.dumps(want, separators=(",", ":")) + "\n")
    print(name, sum(f.stat().st_size for f in out.rglob("*") if f.is_file()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-cpp", type=pathlib.Path, required=True)
    parser.add_argument("names", nargs="*", default=list(MODELS))
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in options.names:
        make(name, options.llama_cpp)
