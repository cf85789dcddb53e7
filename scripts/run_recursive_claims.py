#!/usr/bin/env python3
"""Relaxed Recursive Transformers at small scale: what a looped model starts with, and what uptraining brings back.

A dense model of 5.7M weights (recipes/small-lm: train that first) is converted in every way that `reprise convert
--recursive` knows, and trained on with the same number of tokens, over several seeds; beside it the dense model with
the same tokens, low rank without sharing of the same size, and a dense model of the same size. Everything is converted,
trained and measured by `reprise`; this script writes recipes, starts runs, collects losses, and (with --report) makes
the tables and plots of docs/claims.md. It goes on where it was stopped.

Losses are nats a token on parts of the test texts that no model was trained on: of the same kinds as the training
text (test.txt), and of another (out_of_domain.txt).

Usage: scripts/run_recursive_claims.py [--dense runs/small-lm/model.gguf] [--tokens 600000] [--seeds 3] [--jobs N]
                                       [--only PATTERN] [--report]
The plots need matplotlib.
"""
import argparse
import concurrent.futures
import fnmatch
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys

import claim_runs

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORK = ROOT / "runs/recursive-claims"
RESULTS = ROOT / "docs/recursive_claims.json"
CORPUS = ROOT / "recipes/small-lm/corpus"
CONTEXT, BATCH = 256, 4  # of this few tokens, small batches make the most
LOOPS = 2
POINTS = 10  # of the curve of validation losses
MIDDLE = ["--loops", str(LOOPS)]
CALIBRATE = ["--calibrate", str(WORK / "uptrain.txt")]
KD = "distill: {{teacher: {dense}, divergence: forward_kl}}\n"
EXITS = "early_exit: {{loss: aggressive, alpha: 0.1, distill: true}}\n"


def average(rank: int, *more: str) -> list:
    return [*MIDDLE, "--init", "average", "--rank", str(rank), *more]


def fitted(rank: int) -> list:
    return [*MIDDLE, "--init", "fitted", "--rank", str(rank), *CALIBRATE]


# name -> (options of convert, lines of the recipe). Names of three kinds are made otherwise: the dense model, low rank
# without sharing and dense models of as many weights as another variant.
CONVERTED = {
    "stepwise": ([*MIDDLE, "--init", "stepwise"], ""),
    "average": ([*MIDDLE, "--init", "average"], ""),
    "lower": ([*MIDDLE, "--init", "lower"], ""),
    "random": ([*MIDDLE, "--init", "random"], ""),
    "r64/svd": (average(64), ""),
    "r64/zero": (average(64, "--adapters", "zero"), ""),
    "r64/split": (average(64, "--adapters", "split"), ""),
    "r64/weighted": (average(64, "--adapters", "weighted", *CALIBRATE), ""),
    "r64/fitted": (fitted(64), ""),
    "r64/fitted+kl": (fitted(64), KD),
    "r64/fitted+exits": (fitted(64), EXITS),
    "r16/svd": (average(16), ""),
    "r16/weighted": (average(16, "--adapters", "weighted", *CALIBRATE), ""),
    "r16/fitted": (fitted(16), ""),
    "r16/fitted+kl": (fitted(16), KD),
}
OTHERS = {"dense": None, "r16/untied": 16, "r16/dense": 16}
VARIANTS = [*CONVERTED, *OTHERS]


def run(command: list, log: pathlib.Path) -> None:
    with open(log, "a") as out:
        subprocess.run([str(c) for c in command], check=True, stdout=out, stderr=out,
                       env={**os.environ, "OMP_NUM_THREADS": "1"})


def ask(command: list) -> dict:
    return json.loads(subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout)


def make_texts() -> None:
    """Every fourth document to train on and calibrate with, and 60 kB of each test text."""
    WORK.mkdir(parents=True, exist_ok=True)
    if not (WORK / "uptrain.txt").exists():
        documents = (CORPUS / "train.txt").read_text().split("\n\n")
        (WORK / "uptrain.txt").write_text("\n\n".join(documents[::4]))
    for name in ("test", "out_of_domain"):
        (WORK / f"{name}.txt").write_text((CORPUS / f"{name}.txt").read_text()[:60000])


def read_header(path: pathlib.Path) -> tuple:
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(size)), 8 + size


def weights_of(folder: pathlib.Path) -> int:
    """Numbers stored, without the zeros that `untied` shares."""
    header, _ = read_header(folder / "model.safetensors")
    untied = json.loads((folder / "config.json").read_text()).get("reprise", {}).get("recursive", {}).get("loops", 0) > LOOPS
    total = 0
    for name, tensor in header.items():
        if name == "__metadata__" or (untied and name.startswith("model.layers.0.") and ".lora." not in name):
            continue
        count = 1
        for extent in tensor["shape"]:
            count *= extent
        total += count
    return total


def dense_folder(args) -> pathlib.Path:
    folder = WORK / "dense"
    if not folder.exists():
        run([args.reprise, "convert", args.dense, folder], WORK / "convert.log")
    return folder


def keep_layers(source: pathlib.Path, target: pathlib.Path, layers: list) -> None:
    """The dense model with these layers alone."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((source / "config.json").read_text())
    config["num_hidden_layers"] = len(layers)
    (target / "config.json").write_text(json.dumps(config, indent=1))
    header, begin = read_header(source / "model.safetensors")
    kept, data, at = {}, [], 0
    with open(source / "model.safetensors", "rb") as file:
        for name, tensor in header.items():
            if name == "__metadata__":
                kept[name] = tensor
                continue
            parts = name.split(".")
            if parts[:2] == ["model", "layers"]:
                if int(parts[2]) not in layers:
                    continue
                parts[2] = str(layers.index(int(parts[2])))
            first, last = tensor["data_offsets"]
            file.seek(begin + first)
            data.append(file.read(last - first))
            kept[".".join(parts)] = {**tensor, "data_offsets": [at, at + last - first]}
            at += last - first
    text = json.dumps(kept).encode()
    text += b" " * (-len(text) % 8)
    (target / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data))


def make_start(args, name: str, seed: int, folder: pathlib.Path) -> tuple:
    """The model that training begins with, and lines of its recipe."""
    dense = dense_folder(args)
    if name == "dense":
        return dense, "", ""
    start = folder / "start"
    config = json.loads((dense / "config.json").read_text())
    d, ffn, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    q, kv = (config[key] * config["head_dim"] for key in ("num_attention_heads", "num_key_value_heads"))
    layer = d * (2 * q + 2 * kv + 3 * ffn)
    of_rank = 2 * (d + q) + 2 * (d + kv) + 3 * (d + ffn)  # weights of a layer's adapters for every rank
    size = layers // LOOPS * layer + layers * of_rank * (OTHERS.get(name) or 0)  # of the looped model, without embedding
    extra, freeze = "", ""
    if name.endswith("/dense"):
        count = round(size / layer)
        keep_layers(dense, start, [round(i * (layers - 1) / (count - 1)) for i in range(count)])
        return start, extra, freeze
    if name.endswith("/untied"):
        options = ["--loops", str(layers), "--init", "untied", "--rank", str(round(size / layers / of_rank)), "--adapters",
                   "weighted", *CALIBRATE]
        freeze = ', freeze: ["model.layers.0.self_attn.*", "model.layers.0.mlp.*"]'
    else:
        options, extra = CONVERTED[name]
        extra = extra.format(dense=dense)
    if not start.exists():
        run([args.reprise, "convert", dense, start, "--recursive", *options, "--seed", str(seed), "--threads", "1"],
            folder / "convert.log")
    return start, extra, freeze


def recipe(start: pathlib.Path, extra: str, freeze: str, seed: int, steps: int) -> str:
    return f"""loss: lm
model: {{from: {start}}}
data:
  train: [{{text: {WORK}/uptrain.txt}}]
  validation: [{{text: {CORPUS}/validation.txt}}]
  validation_every: {max(1, steps // POINTS)}
  validation_limit: 64
  context: {CONTEXT}
{extra}optimizer: {{lr: 1.0e-3, min_lr: 1.0e-4, warmup_steps: 20, clip: 1.0}}
run: {{steps: {steps}, batch: {BATCH}, seed: {seed}, checkpoint_every: 150, log_every: 25{freeze}}}
"""


def losses(args, model: pathlib.Path) -> dict:
    return {name: round(ask([args.reprise, "eval", model, "--perplexity", WORK / f"{name}.txt", "--ctx", CONTEXT, "--activations",
                             "f32", "--threads", "1", "--json"])["mean_nll"], 4) for name in ("test", "out_of_domain")}


def run_one(args, name: str, seed: int, steps: int) -> dict:
    folder = WORK / name.replace("/", "-") / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    start, extra, freeze = make_start(args, name, seed, folder)
    result = {"weights": weights_of(start), "tokens": steps * BATCH * CONTEXT, "start": losses(args, start)}
    (folder / "recipe.yaml").write_text(recipe(start, extra, freeze, seed, steps))
    command = [args.reprise, "train", folder / "recipe.yaml", "--out", folder / "out", "--threads", "1"]
    if (folder / "out/checkpoint.safetensors").exists():
        command.append("--resume")
    else:
        shutil.rmtree(folder / "out", ignore_errors=True)
    run(command, folder / "train.log")
    log = [json.loads(line) for line in (folder / "out/log.jsonl").read_text().splitlines()]
    result["curve"] = {str(e["step"] * BATCH * CONTEXT): round(e["validation_loss"], 4) for e in log if "validation_loss" in e}
    result["tokens_per_second"] = round(statistics.median(e["tokens_per_second"] for e in log), 1)
    result["end"] = losses(args, folder / "out/model.gguf")
    for big in ("checkpoint.safetensors", "tokens-train-0.bin", "tokens-validation-0.bin"):
        (folder / "out" / big).unlink(missing_ok=True)
    return result


def spread(values: list) -> str:
    mean = statistics.mean(values)
    return f"{mean:.3f}" if len(values) == 1 else f"{mean:.3f} ({min(values):.3f} to {max(values):.3f})"


def report(results: dict) -> None:
    print("| variant | seeds | weights | start: test | other kind | end: test | other kind | tokens/s |\n|---|---|---|---|---|---|---|---|")
    for name in (n for n in VARIANTS if results["runs"].get(n)):
        runs = list(results["runs"][name].values())
        cells = [spread([r[when][text] for r in runs]) for when in ("start", "end") for text in ("test", "out_of_domain")]
        print(f"| {name} | {len(runs)} | {runs[0]['weights'] / 1e6:.2f}M | {' | '.join(cells)} | "
              f"{statistics.median(r['tokens_per_second'] for r in runs):.0f} |")
    try:
        import matplotlib
    except ImportError:
        print("(no plot: matplotlib is not installed)", file=sys.stderr)
        return
    matplotlib.use("svg")
    draw(results)


def draw(results: dict) -> None:
    """docs/recursive_claims.svg: loss against size, and how it fell with the tokens."""
    import matplotlib.pyplot as plt
    figure, (sizes, curves) = plt.subplots(1, 2, figsize=(11, 4.5))
    for name in (n for n in VARIANTS if results["runs"].get(n)):
        runs = list(results["runs"][name].values())
        end = statistics.mean(r["end"]["test"] for r in runs)
        line, = curves.plot([int(t) / 1e6 for t in runs[0]["curve"]],
                            [statistics.mean(r["curve"][t] for r in runs) for t in runs[0]["curve"]], linewidth=1.2, label=name)
        sizes.plot(4 * runs[0]["weights"] / 1e6, end, "o", color=line.get_color())
        sizes.annotate(name, (4 * runs[0]["weights"] / 1e6, end), fontsize=7, xytext=(4, 3), textcoords="offset points")
    sizes.set_xlabel("MB in F32")
    sizes.set_ylabel("loss on the test text, nats a token")
    curves.set_xlabel("million tokens")
    curves.set_ylabel("validation loss")
    curves.legend(frameon=False, fontsize=7, ncol=2)
    figure.tight_layout()
    figure.savefig(ROOT / "docs/recursive_claims.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dense", default=str(ROOT / "runs/small-lm/model.gguf"))
    parser.add_argument("--tokens", type=int, default=600_000, help="of training, a run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at a time, a core each")
    parser.add_argument("--only", default="*")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--reprise", default=str(ROOT / "build/release/reprise"))
    args = parser.parse_args()
    results = claim_runs.load(RESULTS, {"tokens": None, "runs": {}})
    if args.report:
        report(results)
        return
    if not pathlib.Path(args.dense).exists():
        sys.exit(f"{args.dense}: no dense model; recipes/small-lm/recipe.yaml says how to train it")
    steps = max(1, args.tokens // (BATCH * CONTEXT))
    if results["runs"] and results["tokens"] != steps * BATCH * CONTEXT:
        sys.exit(f"{RESULTS}: holds runs of {results['tokens']} tokens, asked for are {steps * BATCH * CONTEXT}")
    results["tokens"] = steps * BATCH * CONTEXT
    make_texts()
    dense_folder(args)
    todo = claim_runs.missing(results, [name for name in VARIANTS if fnmatch.fnmatch(name, args.only)], args.seeds)
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        claim_runs.run_all(pool, todo, lambda name, seed: run_one(args, name, seed, steps),
                           lambda result: f"{result['start']} -> {result['end']}", RESULTS, results)
    report(results)


if __name__ == "__main__":
    main()
