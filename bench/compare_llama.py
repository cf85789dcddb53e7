#!/usr/bin/env python3
"""Decode and prefill speed of `reprise` beside llama.cpp's llama-bench, same file, same threads.

Both programs run in turn, `--pairs` times; each pair gives a ratio, and the median is what counts: a
shared machine moves both. llama-bench runs its defaults (its own best kernels for the file).

Usage: bench/compare_llama.py MODEL.gguf [--reprise PROGRAM] [--llama-bench PROGRAM | --llama-library LIBRARY]
           [--threads N] [--pairs N] [--isa NAME] [--random-tokens]
--llama-library measures a libllama.so, or a Python package's, by bench/llama_library.py. Without both only reprise's
figures are printed. --random-tokens: prompts of random tokens on both sides (`reprise bench`), for files without a
tokenizer (bench/make_gguf.py). --isa forces reprise's instruction set; llama.cpp has that which it was built for.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys

import machine

PROMPT_TOKENS = 512
ANSWER_TOKENS = 128
# Plain prose, repeated to about PROMPT_TOKENS tokens.
TEXT = ("The committee met on the third floor of the old library, where the windows looked out over a "
        "river that had once carried timber and grain to the coast. ")


def reprise(args, prompt: str, tokens: int) -> dict:
    out = subprocess.run(
        [args.reprise, "run", args.model, "--raw", "--prompt", prompt, "--max-tokens", str(tokens),
         "--threads", str(args.threads), "--json"] + isa(args), check=True, capture_output=True, text=True).stdout
    return json.loads(out)


def isa(args) -> list:
    return ["--isa", args.isa] if args.isa else []


def reprise_random(args) -> dict:
    """The same figures from `reprise bench`, which makes token ids up."""
    out = subprocess.run(
        [args.reprise, "bench", args.model, "--prefill", str(PROMPT_TOKENS), "--decode", "1", "--tokens",
         str(ANSWER_TOKENS), "--repeat", "3", "--threads", str(args.threads), "--json"] + isa(args),
        check=True, capture_output=True, text=True).stdout
    facts = json.loads(out)
    prefill, decode = (m["tokens"] / m["seconds"][0]["median"] for m in facts["measurements"])
    return {"prefill": prefill, "decode": decode, "backend": facts["machine"]["backend"]}


def llama(args) -> dict:
    if args.llama_library:
        out = subprocess.run(
            [sys.executable, str(pathlib.Path(__file__).with_name("llama_library.py")), args.llama_library, args.model,
             "--prompt", str(PROMPT_TOKENS), "--tokens", str(ANSWER_TOKENS), "--threads", str(args.threads)],
            check=True, capture_output=True, text=True).stdout
        return json.loads(out)
    out = subprocess.run(
        [args.llama_bench, "-m", args.model, "-p", str(PROMPT_TOKENS), "-n", str(ANSWER_TOKENS), "-t",
         str(args.threads), "-r", "1", "-o", "json"], check=True, capture_output=True, text=True).stdout
    rows = json.loads(out)
    return {"prefill": next(r["avg_ts"] for r in rows if r["n_prompt"]),
            "decode": next(r["avg_ts"] for r in rows if r["n_gen"])}


def summary(name: str, values: list) -> str:
    return f"{name:>22}: median {statistics.median(values):8.2f}   min {min(values):8.2f}   max {max(values):8.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--reprise", default="build/release/reprise")
    parser.add_argument("--llama-bench")
    parser.add_argument("--llama-library")
    parser.add_argument("--isa")
    parser.add_argument("--random-tokens", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()

    prompt = ""
    if not args.random_tokens:
        per_sentence = reprise(args, TEXT, 1)["prompt_tokens"]
        prompt = TEXT * (PROMPT_TOKENS // (per_sentence - 1))
    ours = {"prefill": [], "decode": []}
    theirs = {"prefill": [], "decode": []}
    backend = ""
    beside = args.llama_bench or args.llama_library
    for _ in range(args.pairs):
        if args.random_tokens:
            figures = reprise_random(args)
            for kind in ours:
                ours[kind].append(figures[kind])
            backend, counts = figures["backend"], (PROMPT_TOKENS, ANSWER_TOKENS)
        else:
            long = reprise(args, prompt, 1)
            short = reprise(args, "Once upon a time", ANSWER_TOKENS)
            ours["prefill"].append(long["prefill_tokens_per_second"])
            ours["decode"].append(short["decode_tokens_per_second"])
            backend, counts = long["backend"], (long["prompt_tokens"], short["generated_tokens"])
        if beside:
            figures = llama(args)
            for kind in theirs:
                theirs[kind].append(figures[kind])

    print(f"machine: {machine.processor()}, {args.threads} threads; {backend}")
    print(f"model: {pathlib.Path(args.model).name}; prompt {counts[0]} tokens, "
          f"{counts[1]} generated; {args.pairs} pairs")
    for kind in ("prefill", "decode"):
        print(summary(f"reprise {kind} tok/s", ours[kind]))
        if beside:
            print(summary(f"llama.cpp {kind} tok/s", theirs[kind]))
            ratios = [a / b for a, b in zip(ours[kind], theirs[kind])]
            print(summary(f"{kind} ratio", ratios))


if __name__ == "__main__":
    main()
