#!/usr/bin/env python3
"""Decode and prefill speed of `reprise` beside llama.cpp's llama-bench, same file, same threads.

Both programs run in turn, `--pairs` times; each pair gives a ratio, and the median is what counts: a
shared machine moves both. llama-bench runs its defaults (its own best kernels for the file).

Usage: bench/compare_llama.py MODEL.gguf [--reprise PROGRAM] [--llama-bench PROGRAM] [--threads N] [--pairs N]
Without --llama-bench only reprise's figures are printed.
"""
import argparse
import json
import pathlib
import statistics
import subprocess

import machine

PROMPT_TOKENS = 512
ANSWER_TOKENS = 128
# Plain prose, repeated to about PROMPT_TOKENS tokens.
TEXT = ("The committee met on the third floor of the old library, where the windows looked out over a "
        "river that had once carried timber and grain to the coast. ")


def reprise(args, prompt: str, tokens: int) -> dict:
    out = subprocess.run(
        [args.reprise, "run", args.model, "--raw", "--prompt", prompt, "--max-tokens", str(tokens),
         "--threads", str(args.threads), "--json"], check=True, capture_output=True, text=True).stdout
    return json.loads(out)


def llama(args) -> dict:
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
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()

    per_sentence = reprise(args, TEXT, 1)["prompt_tokens"]
    prompt = TEXT * (PROMPT_TOKENS // (per_sentence - 1))
    ours = {"prefill": [], "decode": []}
    theirs = {"prefill": [], "decode": []}
    backend = ""
    for _ in range(args.pairs):
        long = reprise(args, prompt, 1)
        short = reprise(args, "Once upon a time", ANSWER_TOKENS)
        ours["prefill"].append(long["prefill_tokens_per_second"])
        ours["decode"].append(short["decode_tokens_per_second"])
        backend = long["backend"]
        if args.llama_bench:
            figures = llama(args)
            for kind in theirs:
                theirs[kind].append(figures[kind])

    print(f"machine: {machine.processor()}, {args.threads} threads; {backend}")
    print(f"model: {pathlib.Path(args.model).name}; prompt {long['prompt_tokens']} tokens, "
          f"{short['generated_tokens']} generated; {args.pairs} pairs")
    for kind in ("prefill", "decode"):
        print(summary(f"reprise {kind} tok/s", ours[kind]))
        if args.llama_bench:
            print(summary(f"llama.cpp {kind} tok/s", theirs[kind]))
            ratios = [a / b for a, b in zip(ours[kind], theirs[kind])]
            print(summary(f"{kind} ratio", ratios))


if __name__ == "__main__":
    main()
