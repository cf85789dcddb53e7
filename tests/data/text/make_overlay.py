#!/usr/bin/env python3
"""Makes overlay.json: what tokenizer_config.json (and special_tokens_map.json, added_tokens.json) change of a
tokenizer.json, by `transformers`' AutoTokenizer. Needs transformers; run once with version 4 and once with version 5:

  python make_overlay.py ids FILE.json     the ids this version gives
  python make_overlay.py join V4.json V5.json    writes overlay.json

Cases in which the versions differ are kept with both answers; docs/tokenizers.md says which one counts.
"""
import copy
import json
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
TEXTS = ["<|im_end|> \n hello", "hello<|im_end|>\nworld", " the quick <new> fox", "a<|endoftext|> b <tool>  x", "<s>the dog</s> <rs>  y", "word mask<mask>sword",
         "the <pad> brown", "over\n<|eot_id|>\n\nthe"]


def token(content, **flags):
    return {"content": content, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True} | flags


def role(content, **flags):
    return {"__type": "AddedToken"} | token(content, **flags)


def base(name):
    found = json.loads((HERE / name).read_text())
    return found if isinstance(found, dict) else found[0]


def entries(tokenizer, **changes):
    """added_tokens_decoder as saved beside this tokenizer, with changes by content."""
    decoder = {}
    for entry in tokenizer["added_tokens"]:
        entry = {key: value for key, value in entry.items() if key != "id"} | changes.get(entry["content"], {})
        decoder[str(next(t["id"] for t in tokenizer["added_tokens"] if t["content"] == entry["content"]))] = entry
    return decoder


def with_prefix_space(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer["pre_tokenizer"]["add_prefix_space"] = True
    return tokenizer


def next_id(tokenizer):
    return max([*tokenizer["model"]["vocab"].values(), *(t["id"] for t in tokenizer["added_tokens"])]) + 1


def cases():
    """name -> (tokenizer.json, other files)"""
    qwen, gpt2, llama, neox = (base(f"{n}.json") for n in ("qwen2", "gpt2", "llama3", "neox"))
    fast = {"tokenizer_class": "PreTrainedTokenizerFast"}
    found = {}

    def add(name, tokenizer, config, **files):
        found[name] = (tokenizer, {"tokenizer_config.json": config} | {key + ".json": value for key, value in files.items()})

    add("plain", qwen, fast)
    for flag in ("lstrip", "rstrip", "single_word", "normalized", "special"):
        value = flag != "special"
        add(f"decoder-{flag}", qwen, fast | {"added_tokens_decoder": entries(qwen, **{"<|im_end|>": {flag: value}, "<tool>": {flag: value}})})
    add("decoder-same", qwen, fast | {"added_tokens_decoder": entries(qwen)})
    add("decoder-new", qwen, fast | {"added_tokens_decoder": entries(qwen) | {str(next_id(qwen)): token("<new>")}})
    add("decoder-new-plain", qwen, fast | {"added_tokens_decoder": entries(qwen) | {str(next_id(qwen)): token("<new>", special=False, lstrip=True)}})
    add("decoder-new-normalized", qwen, fast | {"added_tokens_decoder": {str(next_id(qwen)): token("<new>", special=False, normalized=True, rstrip=True)}})
    add("decoder-two-new", gpt2, fast | {"added_tokens_decoder": {str(next_id(gpt2)): token("<new>"), str(next_id(gpt2) + 1): token("<pad>")}})
    add("decoder-of-vocabulary", gpt2, fast | {"added_tokens_decoder": {str(gpt2["model"]["vocab"]["he"]): token("he", special=False)}})
    add("role-known", qwen, fast | {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})
    add("role-object", qwen, fast | {"eos_token": role("<|im_end|>", rstrip=True)})
    add("role-new", qwen, fast | {"pad_token": "<pad>"})
    add("role-new-object", qwen, fast | {"pad_token": role("<pad>", lstrip=True)})
    add("role-of-vocabulary", gpt2, fast | {"unk_token": "he"})
    add("roles-new", gpt2, fast | {"mask_token": "<new>", "bos_token": "<s>", "eos_token": "</s>"})
    add("additional", qwen, fast | {"additional_special_tokens": ["<|im_end|>", "<new>", "<pad>"]})
    add("decoder-and-role", qwen, fast | {"added_tokens_decoder": entries(qwen, **{"<tool>": {"special": False}}), "eos_token": "<tool>", "pad_token": "<pad>"})
    add("map", qwen, fast, special_tokens_map={"eos_token": token("<|im_end|>", rstrip=True), "pad_token": "<pad>"})
    add("map-and-decoder", qwen, fast | {"added_tokens_decoder": entries(qwen)}, special_tokens_map={"eos_token": token("<|im_end|>", rstrip=True)})
    add("added-file", qwen, fast, added_tokens={"<new>": next_id(qwen)})
    add("added-file-and-decoder", qwen, fast | {"added_tokens_decoder": entries(qwen)}, added_tokens={"<new>": next_id(qwen)})
    for bos, eos in ((True, None), (True, True), (False, None), (None, True), (False, False)):
        config = {key: value for key, value in (("add_bos_token", bos), ("add_eos_token", eos)) if value is not None}
        names = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
        for kind in ("PreTrainedTokenizerFast", "LlamaTokenizerFast"):
            add(f"switch-{bos}-{eos}-{kind}".lower(), llama, {"tokenizer_class": kind} | names | config)
    add("switch-without-token", qwen, fast | {"add_bos_token": True, "bos_token": None})
    add("switch-gpt2", gpt2, {"tokenizer_class": "GPT2TokenizerFast", "add_bos_token": True, "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>",
                              "unk_token": "<|endoftext|>"})
    for bos, eos in ((True, False), (False, True)):
        add(f"switch-{bos}-{eos}-neox".lower(), neox, {"tokenizer_class": "GPTNeoXTokenizerFast", "add_bos_token": bos, "add_eos_token": eos})
    for kind in ("PreTrainedTokenizerFast", "GPT2TokenizerFast"):
        names = {} if kind.startswith("Pre") else {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
        for said in (None, True, False):
            config = {"tokenizer_class": kind} | names | ({} if said is None else {"add_prefix_space": said})
            add(f"prefix-space-{said}-{kind}".lower(), gpt2, config)
            add(f"prefix-space-{said}-json-true-{kind}".lower(), with_prefix_space(gpt2), config)
    add("prefix-space-sequence", base("smollm2.json"), fast | {"add_prefix_space": True})
    add("split-special", qwen, fast | {"split_special_tokens": True})
    return found


def run(out):
    import transformers
    answers = {}
    for name, (tokenizer, files) in cases().items():
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            for file, content in {"tokenizer.json": tokenizer, **files}.items():
                (folder / file).write_text(json.dumps(content))
            try:
                made = transformers.AutoTokenizer.from_pretrained(folder)
                answers[name] = [{"ids": made(text, add_special_tokens=False)["input_ids"], "whole": made(text)["input_ids"],
                                  "skipped": made.decode(made(text)["input_ids"], skip_special_tokens=True, clean_up_tokenization_spaces=False)} for text in TEXTS]
            except Exception as error:
                answers[name] = f"{type(error).__name__}: {error}"
    pathlib.Path(out).write_text(json.dumps({"version": transformers.__version__, "answers": answers}))


def join(old, new):
    old, new = (json.loads(pathlib.Path(p).read_text()) for p in (old, new))
    texts, out = TEXTS, {}
    bases = {}
    for name, (tokenizer, files) in cases().items():
        a, b = old["answers"][name], new["answers"][name]
        known = next((n for n in ("qwen2", "gpt2", "llama3", "smollm2", "neox") if base(n + ".json") == tokenizer), None)
        out[name] = {"tokenizer": known or "gpt2+prefix_space", "files": files, "want": a} | ({} if a == b else {"want_5": b})
        if a != b:
            print(name, "differs")
    (HERE / "overlay.json").write_text(json.dumps({"texts": texts, "versions": [old["version"], new["version"]], "cases": out}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    run(sys.argv[2]) if sys.argv[1] == "ids" else join(sys.argv[2], sys.argv[3])
