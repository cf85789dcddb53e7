#!/usr/bin/env python3
"""Tokens a second of a looped model whose tokens may leave early, beside those at full depth, in pairs.

Prompts are the first words of paragraphs of a text. Every pair continues all of them greedily, once by the rule and
once at full depth, in turn; a run's figure is its decode steps over their seconds. A rule's answers are other texts than
the full depth's, so the depths shown are those of the answers, not of the text.

Usage: bench/early_exit.py MODEL --text F [--exit RULE] [--exit-kv P ...] [--prompts N] [--tokens N] [--pairs N]
                           [--reprise PROGRAM]
Without --exit the rule stored in the model. Needs Python only.
"""
import argparse
import json
import pathlib
import random
import statistics
import subprocess

import machine
import pairs

WORDS = 40  # of a prompt


def prompts_of(text: str, count: int) -> list:
    paragraphs = [p.split() for p in text.split("\n") if len(p.split()) > WORDS]
    step = max(1, len(paragraphs) // count)
    return [" ".join(p[:WORDS]) for p in paragraphs[::step][:count]]


def measure(args, prompts: list, options: list) -> tuple:
    """Tokens a second, and loops run a token (None: all)."""
    tokens, seconds, depths = 0, 0.0, []
    for prompt in prompts:
        command = [args.reprise, "run", args.model, "--raw", "--prompt", prompt, "--max-tokens", str(args.tokens), "--json", *options]
        answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        tokens += answer["generated_tokens"] - 1  # the first is the prompt's
        seconds += answer["seconds"]["decode"]
        depths.append(answer.get("mean_depth"))
    return tokens / seconds, None if None in depths else statistics.mean(depths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", required=True)
    parser.add_argument("--exit")
    parser.add_argument("--exit-kv", nargs="+", default=["exact"])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--reprise", default="build/release/reprise")
    args = parser.parse_args()
    prompts = prompts_of(pathlib.Path(args.text).read_text(), args.prompts)
    rule = ["--exit", args.exit] if args.exit else []
    print(f"{args.model} on {machine.processor()}: {len(prompts)} prompts, {args.tokens} tokens each, {args.pairs} pairs")
    ways = {kv: [*rule, "--exit-kv", kv] if rule else [] for kv in args.exit_kv}
    ratios, speeds, full, depth = {kv: [] for kv in ways}, {kv: [] for kv in ways}, [], {}
    for _ in range(args.pairs):
        whole, _ = measure(args, prompts, ["--exit", "none"])
        full.append(whole)
        for kv, options in ways.items():
            speed, depth[kv] = measure(args, prompts, options)
            speeds[kv].append(speed)
            ratios[kv].append(speed / whole)
    print(f"  full depth: {statistics.median(full):.0f} tokens/s ({min(full):.0f} to {max(full):.0f})")
    for kv in ways:
        low, high = pairs.interval(ratios[kv], random.Random(0))
        print(f"  {kv}: {statistics.median(speeds[kv]):.0f} tokens/s, {statistics.median(ratios[kv]):.2f}x "
              f"({low:.2f} to {high:.2f}), {depth[kv]:.2f} loops a token")


if __name__ == "__main__":
    main()
