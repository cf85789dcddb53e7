#!/usr/bin/env python3
"""Makes pre_tokenizers.json: how the patterns of published tokenizer.json files cut texts, by the `tokenizers` package, under the
names that llama.cpp's converter gives them (tokenizer.ggml.pre). Needs tokenizers; run it again only to change them."""
import json

from tokenizers import Regex, pre_tokenizers

from make import HERE, TEXTS

CASE = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s|%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
KINDS = {
    "gpt-4o": [CASE % (ENDINGS, ENDINGS, r"\p{N}{1,3}")],
    "tekken": [CASE % ("", "", r"\p{N}")],
    "starcoder": [r"\p{N}", GPT2],
    "dbrx": [r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
}
MORE = ["camelCaseWords HTTPServer iPhone ABCdef XMLHttpRequest", "don't DON'T Don'T it's/it/\n\n", "path/to/file//x\n/y", "ǅunǄ ǆ ŉ", "x123456y 12 1234"]

if __name__ == "__main__":
    texts = TEXTS + MORE
    found = {}
    for name, patterns in KINDS.items():
        split = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(p), "isolated") for p in patterns])
        found[name] = [[piece for piece, _ in split.pre_tokenize_str(text)] for text in texts]
    (HERE / "pre_tokenizers.json").write_text(json.dumps({"texts": texts, "pieces": found}, separators=(",", ":")) + "\n")
