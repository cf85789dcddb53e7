#!/usr/bin/env python3
"""Two builds of the program beside each other: did a change cost speed?

Usage: bench/compare_builds.py OLD NEW MODEL... [--prefill N] [--decode N] [--threads N] [--seconds S]
                               [--processor-time] [--isa NAME]

OLD and NEW are two `reprise` programs, MODEL files both can read. Both run `reprise bench` in turns, a new process
each time (where a process's memory happens to lie moves decode by more than most changes do), for S seconds a model.
Prints new / old for each measurement: the median over pairs, the interval that holds it with 95% (bootstrap), the
range of single pairs, and the ratio of the lower quartiles, which other work on the machine disturbs less.
"""
import argparse
import json
import random
import statistics
import subprocess
import sys
import time

from pairs import interval


def measure(program, model, options):
    command = [program, "bench", model, "--json", "--repeat", "1", *options]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(command)}: {result.stderr.strip()}")
    report = json.loads(result.stdout)
    return report["machine"], {m["name"]: m["seconds"][0]["median"] for m in report["measurements"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--prefill", type=int, default=512, help="tokens; 0: not measured")
    parser.add_argument("--decode", type=int, default=64, help="at this context; 0: not measured")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60, help="a model")
    parser.add_argument("--processor-time", action="store_true", help="with --threads 1, on a busy machine")
    parser.add_argument("--isa", help="instruction set of both")
    args = parser.parse_args()
    options = ["--threads", str(args.threads)]
    if args.prefill:
        options += ["--prefill", str(args.prefill)]
    if args.decode:
        options += ["--decode", str(args.decode)]
    if args.processor_time:
        options.append("--processor-time")
    if args.isa:
        options += ["--isa", args.isa]

    chosen = random.Random(1)
    for model in args.models:
        programs, times = (args.old, args.new), ([], [])
        machine, _ = measure(args.new, model, options)  # files into the page cache
        end = time.monotonic() + args.seconds
        while time.monotonic() < end or len(times[0]) < 3:
            order = (0, 1) if len(times[0]) % 2 == 0 else (1, 0)
            for which in order:
                times[which].append(measure(programs[which], model, options)[1])
        print(f"{model}: {machine['processor']}; {machine['backend']}; {machine['clock']}; {len(times[0])} pairs")
        for name in times[0][0]:
            old, new = ([one[name] for one in side] for side in times)
            ratios = [b / a for a, b in zip(old, new)]
            low, high = interval(ratios, chosen)
            quartiles = statistics.quantiles(new)[0] / statistics.quantiles(old)[0]
            print(f"  {name:16} old {statistics.median(old) * 1e3:9.2f} ms, new {statistics.median(new) * 1e3:9.2f} ms; "
                  f"new / old {statistics.median(ratios):.3f} (95%: {low:.3f} to {high:.3f}; pairs {min(ratios):.3f} "
                  f"to {max(ratios):.3f}), lower quartiles {quartiles:.3f}")


if __name__ == "__main__":
    main()
