#!/usr/bin/env python3
"""What `--init fitted` loses at several sizes: SmolLM2-135M (instruct; scripts/get_smollm2.sh) as 15 blocks twice, beside low
rank of the same size without sharing (`--init untied`), average with the adapters of an SVD, and the dense model.

Calibrated on scripts/make_calibration_text.py's mixture and measured before any training, in F32, on 30 kB of a text of another
kind (out_of_domain.txt of scripts/make_corpus.py: essays) and of one that the mixture has a little of (test.txt: documentation).
It goes on where it was stopped (docs/fitted_sizes.json); --report prints the table and draws docs/fitted_sizes.svg.

Usage: scripts/run_fitted_sizes.py [--only PATTERN] [--report] [--threads N]
The plot needs matplotlib.
"""
import argparse
import fnmatch
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import claim_runs
import run_smollm2_starts as starts

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs/fitted_sizes.json"
TOKENS, REFIT_TOKENS = 49152, 24576
# Of the published prototype: rank 96 for attention, 141 for the feed-forward part; and scaled.
RANKS = {"quarter": (24, 35), "half": (48, 70), "three-quarters": (72, 106), "whole": (96, 141)}
LOOPS, LAYERS = 2, starts.LAYERS
KINDS = {"q": (576, 576), "k": (576, 192), "v": (576, 192), "o": (576, 576), "gate": (576, 1536), "up": (576, 1536), "down": (1536, 576)}
ATTENTION = "qkvo"


def capped(kind: str, rank: int) -> int:
    return min(rank, *KINDS[kind])


def adapters_size(rank_of) -> int:
    """Numbers in one layer's adapters."""
    return sum(capped(kind, rank_of(kind)) * sum(shape) for kind, shape in KINDS.items())


def looped_size(size: str) -> int:
    attention, feed_forward = RANKS[size]
    block = sum(a * b for a, b in KINDS.values())
    return LAYERS // LOOPS * block + LAYERS * adapters_size(lambda kind: attention if kind in ATTENTION else feed_forward)


def untied_rank(size: str) -> int:
    """The largest rank at which low rank in every layer is no larger."""
    rank = 1
    while LAYERS * adapters_size(lambda kind: rank + 1) <= looped_size(size):
        rank += 1
    return rank


def variants() -> dict:
    """name -> options of convert"""
    found = {"dense": None}
    calibrate = ["--calibrate-tokens", TOKENS]
    for size, (attention, feed_forward) in RANKS.items():
        ranks = []
        for kind in KINDS:
            ranks += ["--rank-of", f"{kind}={attention if kind in ATTENTION else feed_forward}"]
        looped = ["--loops", LOOPS, *ranks]
        found[f"{size}/fitted"] = [*looped, "--init", "fitted", *calibrate, "--refit-tokens", REFIT_TOKENS]
        found[f"{size}/untied"] = ["--loops", LAYERS, "--init", "untied", "--adapters", "weighted", "--rank", untied_rank(size), *calibrate]
        found[f"{size}/svd"] = [*looped, "--init", "average"]
    return found


def convert(args, options: list, out: pathlib.Path) -> dict:
    command = [args.reprise, "convert", starts.DENSE, out, "--recursive", *options, "--seed", 1, "--threads", args.threads, "--force"]
    if "--calibrate-tokens" in options:
        command += ["--calibrate", args.calibration]
    begin = time.time()
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: {done.stderr}")
    return {"seconds": round(time.time() - begin), "threads": args.threads}


def report(results: dict) -> None:
    runs = {name: runs["1"] for name, runs in results["runs"].items()}
    dense = runs["dense"]["loss"]
    print("| size | weights of the blocks | start | other kind: loss | above dense | documentation: loss | above dense |\n|---|---|---|---|---|---|---|")
    for name in (n for n in variants() if n in runs):
        size, _, start = name.partition("/")
        loss = runs[name]["loss"]
        weights = sum(a * b for a, b in KINDS.values()) * LAYERS if name == "dense" else looped_size(size)
        cells = [f"{loss[t]:.3f} | {loss[t] - dense[t]:.3f}" for t in ("out_of_domain", "test")]
        print(f"| {size} | {weights / 1e6:.1f}M | {start} | {' | '.join(cells)} |")
    try:
        import matplotlib
    except ImportError:
        print("(no plot: matplotlib is not installed)", file=sys.stderr)
        return
    matplotlib.use("svg")
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots(figsize=(6, 4))
    for start in ("fitted", "untied"):
        points = [(looped_size(s) / 1e6, runs[f"{s}/{start}"]["loss"]["out_of_domain"] - dense["out_of_domain"]) for s in RANKS
                  if f"{s}/{start}" in runs]
        axes.plot(*zip(*points), "o-", label=start)
    axes.set_xlabel("million weights in the blocks (dense: 106.2)")
    axes.set_ylabel("nats above dense, a text of another kind")
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(ROOT / "docs/fitted_sizes.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--calibration", default=str(starts.CORPUS / "calibration.txt"))
    parser.add_argument("--reprise", default=str(ROOT / "build/release/reprise"))
    args = parser.parse_args()
    results = claim_runs.load(RESULTS, {"runs": {}})
    if args.report:
        report(results)
        return
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        texts = {name: starts.text_file(folder, name) for name in starts.TEXTS}
        for name, _ in claim_runs.missing(results, [n for n in variants() if fnmatch.fnmatch(n, args.only)], 1):
            model = starts.DENSE if name == "dense" else folder / "start.gguf"
            result = {} if name == "dense" else convert(args, variants()[name], model)
            result["loss"] = {text: round(starts.loss(args, model, path), 5) for text, path in texts.items()}
            results["runs"].setdefault(name, {})["1"] = result
            claim_runs.save(RESULTS, results)
            print(f"{name}: {result}", flush=True)
    report(results)


if __name__ == "__main__":
    main()
