#!/usr/bin/env python3
"""What plans do to a model's perplexity: the table of docs/plans.md.

Runs `reprise eval --perplexity` for each plan on the first bytes of a text and prints Markdown: perplexity, its
difference from the plain depth, visits. Says text, tokens, model and machine above it.

Usage: bench/plan_table.py MODEL [PLAN ...] [--text FILE ...] [--bytes N] [--ctx N] [--reprise PROGRAM]
Without plans: those of docs/plans.md, which are for SmolLM2-135M's 30 blocks. Without a text: docs/architecture.md.
"""
import argparse
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

from machine import processor

ROOT = pathlib.Path(__file__).resolve().parent.parent
PLANS = (
    "0-29",
    # Ranges run again as they are: behind everything, and where they stand.
    "0-29,10-14", "0-14,10-29", "0-19,15-29", "0-4,2-29",
    # The same for a part of their update.
    "0-14,10-14@0.5,15-29", "0-14,10-14@0.3,15-29", "0-14,10-14@0.2,15-29", "0-14,10-14@0.1,15-29",
    "0-14,10-14@0.05,15-29",
    # Several visits for one update.
    "0-9,10-14*2,15-29", "0-9,10-14*3,15-29", "0-9,10-14*4,15-29",
    # The plain visits, their update made larger or smaller.
    "0-9,10-14@1.1,15-29", "0-9,10-14@0.9,15-29",
    # Early and late blocks.
    "0-2,0-2@0.1,3-29", "0-29,25-29@0.1",
)


def run(args, *command) -> dict:
    done = subprocess.run([args.reprise, *map(str, command), "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("plans", nargs="*")
    parser.add_argument("--text", type=pathlib.Path, action="append")
    parser.add_argument("--bytes", type=int, default=9000, help="of the text, from its beginning; 0: all")
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--reprise", default=str(ROOT / "build/release/reprise"))
    args = parser.parse_args()
    texts = args.text or [ROOT / "docs/architecture.md"]
    text = b"".join(path.read_bytes() for path in texts)
    text = text[: args.bytes or len(text)]
    plans = args.plans or PLANS
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        file.write(text)
        file.flush()
        rows = []
        for plan in plans:
            found = run(args, "eval", args.model, "--perplexity", file.name, "--ctx", args.ctx, "--no-kl", "--plan", plan)
            depth = run(args, "inspect", args.model, "--plan", plan)["depth"]["prefill_visits"]
            rows.append((plan, found["perplexity"], depth))
            print(f"{plan}: {found['perplexity']:.3f}", file=sys.stderr)
    print(f"{args.model.name}, {' + '.join(path.name for path in texts)}: {len(text)} bytes (sha256 "
          f"{hashlib.sha256(text).hexdigest()[:12]}), {found['windows']} windows of {args.ctx} tokens, "
          f"{found['tokens']} predictions; {found['backend']}; {processor()}\n")
    print("| plan | visits | perplexity | beside the plain depth |\n|---|---|---|---|")
    for plan, perplexity, depth in rows:
        change = 100 * (perplexity / rows[0][1] - 1)
        print(f"| `{plan}` | {depth} | {perplexity:.2f} | {'' if plan == rows[0][0] else f'{change:+.1f}%'} |")


if __name__ == "__main__":
    main()
