#!/usr/bin/env python3
"""Judges `reprise tokenize` by the packages `tokenizers` and `sentencepiece`, over tokenizers of published kinds (tokenizer_kinds.py):
every id of thousands of strings, and text back where the package gives the same bytes.

    scripts/check_tokenizers.py                        # 13 kinds, 5,000 strings each, about a minute
    scripts/check_tokenizers.py --kinds llama3 gemma --strings 50000 --seed 7
    scripts/check_tokenizers.py --folder MODEL         # a release's own folder with a tokenizer.json, too

SentencePiece's own ids (the package's) are those of tokenizer.model alone; files with a tokenizer.json have those of `tokenizers`. Needs
tokenizers and sentencepiece. Exit code 1 where an id differs, but for ways of a unigram vocabulary to write a text that have the same
score: which of them is taken has changed between sentencepiece 0.2.1 and 0.2.3.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

from tokenizer_kinds import KINDS, ROOT, strings


def expected(folder, texts):
    """Ids by the package, nothing added around a text."""
    if (folder / "tokenizer.json").exists():
        from tokenizers import Tokenizer

        tok = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return [e.ids for e in tok.encode_batch(texts, add_special_tokens=False)]
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).encode(texts)


def found(program, folder, texts, temp):
    lines = temp / "texts.jsonl"
    lines.write_text("".join(json.dumps(t) + "\n" for t in texts))
    plain = [] if (folder / "tokenizer.json").exists() else ["--plain"]  # to sentencepiece "<unk>" is a text like any other
    done = subprocess.run([str(program), "tokenize", str(folder), "--lines", str(lines), *plain], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"reprise tokenize {folder}: {done.stderr}")
    return [json.loads(line)["ids"] for line in done.stdout.splitlines()]


def same_score(folder):
    """Whether two lists of ids are equally good to a unigram vocabulary."""
    import sentencepiece

    sp = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))

    def judge(a, b):
        scores = [sum(sp.get_score(i) for i in ids) for ids in (a, b)]
        return sp.decode(a) == sp.decode(b) and abs(scores[0] - scores[1]) <= 1e-6 * abs(scores[0])

    return judge


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reprise", default=ROOT / "build/release/reprise")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--strings", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=pathlib.Path, nargs="*", default=[])
    options = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        temp = pathlib.Path(name)
        judged = [(f.name, f) for f in options.folder]
        for kind in options.kinds if not options.folder else []:
            folder = temp / kind
            folder.mkdir()
            KINDS[kind].build(folder)
            judged.append((kind, folder))
        for kind, folder in judged:
            config = folder / "tokenizer_config.json"
            added = json.loads(config.read_text()).get("added_tokens_decoder", {}) if config.exists() else {}
            texts = strings(options.strings, [t["content"] for t in added.values()], options.seed)
            want, got = expected(folder, texts), found(options.reprise, folder, texts, temp)
            differ = [i for i, (a, b) in enumerate(zip(want, got, strict=True)) if a != b]
            judge = "tokenizers" if (folder / "tokenizer.json").exists() else "sentencepiece"
            ties = 0
            if judge == "sentencepiece":
                tie = same_score(folder)
                ties = len(differ)
                differ = [i for i in differ if not tie(want[i], got[i])]
                ties -= len(differ)
            print(f"{kind:16}{len(texts):7} strings{sum(map(len, want)):10} ids by {judge:14}{len(differ)} strings differ"
                  + (f", {ties} more with the same score" if ties else ""))
            for i in differ[:3]:
                print(f"  {texts[i]!r}\n    expected {want[i][:30]}\n    found    {got[i][:30]}")
            wrong += len(differ)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
