#!/usr/bin/env python3
"""Makes the data of tests/unit/text/tokenizer_kinds_test.cc: tokenizers of published kinds (scripts/tokenizer_kinds.py), trained small, and
what the packages `tokenizers` and `sentencepiece` make of 5,000 strings.

    python make.py

Needs tokenizers and sentencepiece. texts.jsonl: a JSON string on each line, special tokens of every kind among them. Each kind is a folder:
its files, and
  ids.u32         for each text the 32-bit FNV-1a hash of its ids, each as four bytes: little-endian, as all numbers here
Without `unigram-model`: where two ways to write a text have the same score its package's choice changed between versions.
scripts/check_tokenizers.py judges the same kinds, larger ones, with as many strings as asked for.
Made with tokenizers 0.23.3, sentencepiece 0.2.3.
"""
import json
import pathlib
import shutil
import struct
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent.parent.parent / "scripts"))
from check_tokenizers import expected  # noqa: E402
from tokenizer_kinds import KINDS, strings  # noqa: E402

COUNT = 5000


def fnv(ids):
    value = 0x811C9DC5
    for byte in struct.pack(f"<{len(ids)}I", *ids):
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


def main():
    kinds, special = [k for k in KINDS if k != "unigram-model"], []
    for kind in kinds:
        folder = HERE / kind
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        KINDS[kind].build(folder, 1000)
        added = json.loads((folder / "tokenizer_config.json").read_text())["added_tokens_decoder"]
        special += [t["content"] for t in added.values()]
    texts = strings(COUNT, list(dict.fromkeys(special)), seed=4)
    (HERE / "texts.jsonl").write_text("".join(json.dumps(t, ensure_ascii=False) + "\n" for t in texts))
    for kind in kinds:
        folder = HERE / kind
        ids = expected(folder, texts)
        (folder / "ids.u32").write_bytes(b"".join(struct.pack("<I", fnv(i)) for i in ids))
        if (folder / "tokenizer.json").exists():
            (folder / "tokenizer.model").unlink(missing_ok=True)
            data = json.loads((folder / "tokenizer.json").read_text())
            (folder / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")))
        print(kind, sum(map(len, ids)))


if __name__ == "__main__":
    main()
