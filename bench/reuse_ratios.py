#!/usr/bin/env python3
"""What reusing layers costs: TroL and Phantom beside the same language model without them, at Q8_0.

Makes random models of the releases' shapes (make_model.py), quantizes them with `reprise quantize`, and lets
`reprise bench` measure each pair, alternating between the two in one process. Prints every ratio beside what it
is held against; --json FILE keeps all figures.

Usage: bench/reuse_ratios.py --work FOLDER [--reprise PROGRAM] [--threads N] [--repeat N] [SHAPE ...]
Shapes: phantom-0.5b trol-0.5b phantom-1.8b trol-1.8b (the default) and the others of make_model.py. FOLDER needs
room for one model in BF16 and its Q8_0 form; both are made if they aren't there and stay unless --clean is given.
"""
import argparse
import json
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
CONTEXTS = (512, 2000)
PROMPT = 512


def model(args, shape: str) -> pathlib.Path:
    """The Q8_0 file of a shape, made where it isn't there."""
    target = args.work / f"{shape}-q8_0.gguf"
    if not target.exists():
        folder = args.work / shape
        subprocess.run([sys.executable, HERE / "make_model.py", shape, folder], check=True)
        subprocess.run([args.reprise, "quantize", folder, target, "--type", "q8_0"], check=True)
        shutil.rmtree(folder)
    return target


def bench(args, *options) -> dict:
    command = [args.reprise, "bench", *map(str, options), "--repeat", str(args.repeat), "--json"]
    if args.threads:
        command += ["--threads", str(args.threads)]
    if args.processor_time:
        command += ["--processor-time"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def phantom(args, shape: str) -> dict:
    contexts = [part for n in CONTEXTS for part in ("--decode", n)]
    facts = bench(args, model(args, shape), "--beside", model(args, shape + "-dense"), "--prefill", PROMPT, *contexts)
    with_phantom, dense = facts["subjects"]

    def by_bytes(context: int) -> float:  # what one step reads, against what the dense model reads
        def read(s):
            return s["decode_weight_bytes"] + context * s["kv_bytes_per_token"]
        return read(with_phantom) / read(dense)

    facts["limits"] = {f"decode at {CONTEXTS[0]}": (1.10, "1.10"),
                       f"decode at {CONTEXTS[1]}": (1.05 * by_bytes(CONTEXTS[1]),
                                                    f"1.05 x {by_bytes(CONTEXTS[1]):.3f}, the bytes read")}
    return facts


def trol(args, shape: str) -> dict:
    facts = bench(args, model(args, shape), "--beside-passes", 1, "--prefill", PROMPT, "--decode", CONTEXTS[0],
                  "--question", args.tiles, "--answer", 32)
    facts["limits"] = {f"prefill {PROMPT}": (2.05, "2.05"), f"decode at {CONTEXTS[0]}": (1.02, "1.02"),
                       "question: prefill": (2.05, "2.05"), "question: all": (1.95, "1.95")}
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=["phantom-0.5b", "trol-0.5b", "phantom-1.8b", "trol-1.8b"])
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--reprise", default="build/release/reprise")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--tiles", type=int, default=1, help="of the picture in a question (default: 1)")
    parser.add_argument("--processor-time", action="store_true", help="see reprise bench --help")
    parser.add_argument("--clean", action="store_true", help="delete the models at the end")
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)

    all_facts, missed = {}, []
    for shape in args.shapes:
        facts = all_facts[shape] = (trol if shape.startswith("trol") else phantom)(args, shape)
        if len(all_facts) == 1:
            machine = facts["machine"]
            print(f"machine: {machine['processor']}; {machine['backend']}; {machine['clock']}")
        print(f"\n{shape}: {facts['subjects'][0]['name']} beside {facts['subjects'][1]['name']}")
        for entry in facts["measurements"]:
            name, ratio = entry["name"], entry["ratio"]
            first, second = (1e3 * s["median"] for s in entry["seconds"])
            line = (f"  {name:<20} {first:10.2f} ms  {second:10.2f} ms   ratio {ratio['median']:.3f} "
                    f"({ratio['min']:.3f} to {ratio['max']:.3f})")
            if name in facts["limits"]:
                limit, said = facts["limits"][name]
                holds = ratio["median"] <= limit
                line += f"   at most {limit:.3f} ({said}): {'holds' if holds else 'MISSED'}"
                if not holds:
                    missed.append(f"{shape} {name}")
            print(line, flush=True)
        if args.clean:
            for path in args.work.glob(f"{shape}*-q8_0.gguf"):
                path.unlink()
    if args.json:
        args.json.write_text(json.dumps(all_facts, indent=1) + "\n")
    print(f"\n{'missed: ' + ', '.join(missed) if missed else 'all limits hold'}")


if __name__ == "__main__":
    main()
