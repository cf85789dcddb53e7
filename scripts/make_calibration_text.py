#!/usr/bin/env python3
"""Makes a calibration text of many kinds for `reprise convert --recursive --calibrate`: sayings, songs and jokes
(fortunes), two dictionaries (jargon, gcide), and a part of the corpus's training text (scripts/make_corpus.py).

Second moments of one kind of text tell little of another; a start that is fitted on this mixture loses less on texts of
kinds that aren't in it. The packages are fetched by `apt-get download` and unpacked; nothing is installed.

Usage: scripts/make_calibration_text.py OUT.txt [--corpus recipes/small-lm/corpus] [--cache .cache/corpus] [--seed 1]
"""
import argparse
import gzip
import pathlib
import random
import re
import sys

import make_corpus

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = {"fortunes": "BSD-3-clause", "fortunes-min": "BSD-3-clause", "dict-jargon": "public-domain", "dict-gcide": "GPL-1.0-or-later"}
# Characters of each kind, and the least and most of a paragraph.
SHARES = {"sayings": 1_000_000, "jargon": 250_000, "dictionary": 250_000, "documentation": 400_000}
LEAST, MOST = 60, 2000


def sayings(folders: dict) -> list:
    found = []
    for package in ("fortunes", "fortunes-min"):
        for path in sorted((folders[package] / "usr/share/games/fortunes").iterdir()):
            if path.is_file() and not path.is_symlink() and path.suffix not in (".dat", ".u8"):
                found += path.read_text(errors="replace").split("\n%\n")
    return [text.replace("\t", " ") for text in found]


def entries(folder: pathlib.Path, name: str) -> list:
    """Definitions of a dictionary: a word at the margin, what follows is indented or empty."""
    with gzip.open(folder / f"usr/share/dictd/{name}.dict.dz", "rt", errors="replace") as file:
        text = file.read()
    return [" ".join(entry.split()) for entry in re.split(r"\n\n(?=\S)", text)]


def draw(texts: list, size: int, seed: int) -> list:
    texts = sorted({text.strip() for text in texts if LEAST <= len(text.strip()) <= MOST})
    random.Random(seed).shuffle(texts)
    drawn, total = [], 0
    for text in texts:
        if total >= size:
            break
        drawn.append(text)
        total += len(text)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--corpus", type=pathlib.Path, default=ROOT / "recipes/small-lm/corpus")
    parser.add_argument("--cache", type=pathlib.Path, default=ROOT / ".cache/corpus")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    train = args.corpus / "train.txt"
    if not train.exists():
        sys.exit(f"{train}: not there; scripts/make_corpus.py makes it")
    args.cache.mkdir(parents=True, exist_ok=True)
    folders = {}
    for name, licence in PACKAGES.items():
        package = make_corpus.Package(name, licence, licence, ())
        folders[name] = make_corpus.unpacked(make_corpus.fetched(package, args.cache))
    kinds = {"sayings": sayings(folders), "jargon": entries(folders["dict-jargon"], "jargon"),
             "dictionary": entries(folders["dict-gcide"], "gcide"), "documentation": train.read_text().split("\n\n")}
    texts = [text for kind, found in kinds.items() for text in draw(found, SHARES[kind], args.seed)]
    random.Random(args.seed).shuffle(texts)
    args.out.write_text("\n\n".join(texts) + "\n")
    print(f"{args.out}: {len(texts)} texts, {args.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    try:
        main()
    except make_corpus.Failure as failure:
        sys.exit(f"error: {failure}")
