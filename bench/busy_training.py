#!/usr/bin/env python3
"""Training beside another program on the same cores: threads of libtorch's pool that wait passively (reprise's default) and actively.

Usage: bench/busy_training.py RECIPE [--steps 6] [--busy 2] [--pairs 5] [--threads N] [--reprise PROGRAM]

Runs `reprise train` on the recipe's first steps in pairs beside `--busy` processes that do nothing but compute, and prints the seconds of the
whole command, their medians and the ratio of each pair.
"""
import argparse
import json
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

from machine import processor

ROOT = pathlib.Path(__file__).resolve().parent.parent


def compute(stop):
    while not stop.is_set():
        sum(i * i for i in range(10000))


def seconds(args, policy: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        subprocess.run([args.reprise, "train", args.recipe, "--out", f"{folder}/out", "--stop-after", str(args.steps), "--threads",
                        str(args.threads)], check=True, capture_output=True, env={**os.environ, "OMP_WAIT_POLICY": policy})
        return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--busy", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--reprise", default=ROOT / "build/release/reprise")
    args = parser.parse_args()
    stop = multiprocessing.Event()
    others = [multiprocessing.Process(target=compute, args=(stop,)) for _ in range(args.busy)]
    for other in others:
        other.start()
    try:
        runs = [(seconds(args, "active"), seconds(args, "passive")) for _ in range(args.pairs)]
    finally:
        stop.set()
        for other in others:
            other.join()
    ratios = sorted(active / passive for active, passive in runs)
    print(f"{processor()}, {args.threads} threads beside {args.busy} busy processes; {args.steps} steps of {args.recipe}, whole commands")
    for name, values in (("active", [a for a, _ in runs]), ("passive", [p for _, p in runs])):
        print(f"{name:8} median {statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})")
    print(f"active / passive, {len(ratios)} pairs: median {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    print(json.dumps({"runs": [[round(a, 3), round(p, 3)] for a, p in runs]}))


if __name__ == "__main__":
    main()
