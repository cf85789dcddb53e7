#!/usr/bin/env python3
"""The papers' questions at small scale: trains every variant of a tiny TroL and a tiny Phantom (at most 1M
parameters) with the same budget of minutes, over several seeds, and writes docs/claims.json.

Everything is trained and evaluated by `reprise` itself; this script writes recipes, starts runs, collects exact
match on easy-VQA's test split, and (with --report) makes the table and the plot of docs/claims.md. It goes on
where it was stopped: a variant and seed with a result is not run again, an unfinished run resumes from its
checkpoint. The number of steps of a variant follows from its own speed, measured once over a few steps, so that
dearer variants get fewer steps: the budget is time, as it is for whoever trains.

The budget is one core's, also where a GPU trains (--device cuda): the steps are then those that the core would have
made, and must have been measured before. The results name the device that ended a run.

Usage: scripts/run_claims.py [--minutes 20] [--seeds 3] [--jobs N] [--only PATTERN] [--device cuda] [--report]
Needs the data of recipes/tiny-trol (docs/training.md says how to get it). Plots need matplotlib.
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
WORK = ROOT / "runs/claims"
RESULTS = ROOT / "docs/claims.json"
DATA = ROOT / "recipes/tiny-trol/data"
CALIBRATION_STEPS = 100
CURVE = (0.05, 0.1, 0.25, 0.5, 1.0)  # shares of the budget at which the training loss is kept


def config(model_type: str, own: dict) -> dict:
    base = json.loads((ROOT / "recipes/tiny-trol/config.json").read_text())
    base["model_type"] = model_type
    base["architectures"] = ["TroLForCausalLM" if model_type == "trol" else "PhantomForCausalLM"]
    base["llm_config"].update(hidden_size=96, intermediate_size=288, num_hidden_layers=3)
    base["vision_config"].update(hidden_size=96, intermediate_size=384, num_hidden_layers=4)
    base["reprise"].update(own)
    return base


# What is trained: name -> (model type, keys under "reprise", loss).
TRAINED = {
    "trol/off": ("trol", {"trol": {"passes": 1}}, "sft"),
    "trol/2-passes": ("trol", {}, "sft"),
    "trol/3-passes": ("trol", {"trol": {"passes": 3}}, "sft"),
    "trol/4-passes": ("trol", {"trol": {"passes": 4}}, "sft"),
    "trol/uniform": ("trol", {"trol": {"mix": "uniform"}}, "sft"),
    "trol/random": ("trol", {"trol": {"mix": "random"}}, "sft"),
    "phantom/off": ("phantom", {"scheme": "dense"}, "sft"),
    "phantom/dimension": ("phantom", {"phantom": {"gate": False}}, "sft"),
    "phantom/gate": ("phantom", {}, "sft"),
    "phantom/gate+po": ("phantom", {}, "sft+po"),
    "phantom/gate+po-eta-1": ("phantom", {"phantom": {"eta": 1.0}}, "sft+po"),
}
# Measured on trained weights with other options: name -> (trained variant, options of eval).
INFERENCE = {
    "trol/at-inference-nothing": ("trol/2-passes", ["--passes", "1"]),
    "trol/at-inference-image": ("trol/2-passes", ["--traverse", "image"]),
    "trol/at-inference-question": ("trol/2-passes", ["--traverse", "text"]),
    "trol/at-inference-both": ("trol/2-passes", []),
}


def recipe(folder: pathlib.Path, loss: str, seed: int, steps: int) -> str:
    wrong = ", wrong_answers: easy-vqa" if loss == "sft+po" else ""
    return f"""loss: {loss}
model: {{config: {folder}/config.json, tokenizer: {ROOT}/recipes/tiny-trol/tokenizer.json, init_std: 0.05}}
data:
  train:
    - {{generator: easy-vqa, weight: 3{wrong}}}
    - {{file: {DATA}/train.jsonl, images: {DATA}/train, weight: 1, flips: true{wrong}}}
  questions_per_image: 8
optimizer: {{lr: 1.5e-3, min_lr: 1.0e-5, warmup_steps: {min(200, max(1, steps // 10))}, beta2: 0.98, weight_decay: 0.05, clip: 1.0}}
run: {{steps: {steps}, batch: 16, seed: {seed}, checkpoint_every: 200, log_every: 50, precision: fp32}}
"""


def train(args, folder: pathlib.Path, recipe_text: str, resume: bool) -> float:
    """Seconds of training, those before a resume included."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(recipe_text)
    command = [args.reprise, "train", str(folder / "recipe.yaml"), "--out", str(folder / "out"), "--threads", "1",
               "--device", args.device]
    if not resume:
        shutil.rmtree(folder / "out", ignore_errors=True)
    elif (folder / "out/checkpoint.safetensors").exists():
        command.append("--resume")
    with open(folder / "train.log", "a") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})
    with open(folder / "out/checkpoint.safetensors", "rb") as checkpoint:
        header = checkpoint.read(int.from_bytes(checkpoint.read(8), "little"))
    return float(json.loads(header)["__metadata__"]["seconds"])


def evaluate(reprise: str, model: pathlib.Path, options: list) -> float:
    out = subprocess.run([reprise, "eval", str(model), "--qa", str(DATA / "test.jsonl"), "--images", str(DATA / "test"),
                          "--json", "--threads", "1", *options], check=True, capture_output=True, text=True).stdout
    return json.loads(out)["exact_match"]


def curve(log: pathlib.Path, steps: int) -> dict:
    """Share of the budget -> mean training loss (of the answers alone) over the 4% of it before."""
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    means = {}
    for share in CURVE:
        seen = [e["loss"] - e.get("preference_loss", 0) for e in entries if (share - 0.04) * steps < e["step"] <= share * steps]
        if seen:
            means[f"{share:g}"] = round(statistics.mean(seen), 4)
    return means


def run_one(args, name: str, seed: int, steps: int) -> dict:
    model_type, own, loss = TRAINED[name]
    folder = WORK / name / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(model_type, own), indent=1))
    seconds = train(args, folder, recipe(folder, loss, seed, steps), resume=True)
    model = folder / "out/model.gguf"
    result = {"steps": steps, "seconds": round(seconds, 1), "device": args.device, "loss": curve(folder / "out/log.jsonl", steps),
              "exact_match": {name: evaluate(args.reprise, model, [])}}
    for other, (base, options) in INFERENCE.items():
        if base == name:
            result["exact_match"][other] = evaluate(args.reprise, model, options)
    return result


def calibrate(args, name: str) -> int:
    """Steps that fit into the budget, from a short run on one core beside `jobs - 1` others."""
    model_type, own, loss = TRAINED[name]
    folder = WORK / name / "calibration"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(model_type, own), indent=1))
    one = train(args, folder, recipe(folder, loss, 0, 1), resume=False)
    many = train(args, folder, recipe(folder, loss, 0, 1 + CALIBRATION_STEPS), resume=False)
    return max(1, int(args.minutes * 60 / max(1e-3, (many - one) / CALIBRATION_STEPS)))


def by_variant(results: dict) -> dict:
    values = {}
    for runs in results["runs"].values():
        for run in runs.values():
            for name, rate in run["exact_match"].items():
                values.setdefault(name, []).append(100 * rate)
    return values


def report(results: dict) -> None:
    values = by_variant(results)
    order = [*TRAINED, *INFERENCE]
    print(f"exact match in %, easy-VQA test split, {results['budget_minutes']} minutes a run\n")
    shares = " | ".join(f"loss at {share:.0%}" for share in CURVE)
    print(f"| variant | seeds | mean | spread (min to max) | steps | {shares} |\n|---|---|---|---|---|{'---|' * len(CURVE)}")
    for name in sorted(values, key=order.index):
        v = values[name]
        steps = results["steps"].get(INFERENCE.get(name, (name,))[0], "")
        losses = [run["loss"] for run in results["runs"].get(name, {}).values()]
        means = " | ".join(f"{statistics.mean(run_loss[f'{share:g}'] for run_loss in losses):.3f}" if losses else "" for share in CURVE)
        print(f"| {name} | {len(v)} | {statistics.mean(v):.1f} | {min(v):.1f} to {max(v):.1f} | {steps} | {means} |")
    try:
        import matplotlib
    except ImportError:
        print("(no plot: matplotlib is not installed)", file=sys.stderr)
        return
    matplotlib.use("svg")
    draw(results, values, sorted(values, key=order.index))


def draw(results: dict, values: dict, names: list) -> None:
    """docs/claims.svg: exact match of every variant, and how the training loss fell along the budget."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(9, 0.28 * len(names) + 4.5))
    grid = figure.add_gridspec(2, 2, height_ratios=(0.28 * len(names) + 0.5, 3.2))
    axis = figure.add_subplot(grid[0, :])
    for row, name in enumerate(names):
        axis.plot(values[name], [row] * len(values[name]), "o", color="#999999", markersize=4)
        axis.plot(statistics.mean(values[name]), row, "|", color="#0072b2", markersize=14, markeredgewidth=3)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.grid(axis="x", color="#dddddd", linewidth=0.6)
    axis.set_xlabel("exact match, %: every seed and the mean (best answer without looking: 67.0%)")
    for column, family in enumerate(("trol", "phantom")):
        axis = figure.add_subplot(grid[1, column])
        for name in (n for n in TRAINED if n.startswith(family) and results["runs"].get(n)):
            losses = [run["loss"] for run in results["runs"][name].values()]
            axis.plot([100 * share for share in CURVE],
                      [statistics.mean(loss[f"{share:g}"] for loss in losses) for share in CURVE],
                      marker=".", linewidth=1.2, label=name.removeprefix(family + "/"))
        axis.set_yscale("log")
        axis.set_xlabel("% of the budget")
        axis.set_title(f"{family}: training loss", fontsize=10)
        if axis.lines:
            axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(ROOT / "docs/claims.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, help="runs at a time; default: the number of cores, 1 on a GPU")
    parser.add_argument("--only", default="*")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--reprise", default=str(ROOT / "build/release/reprise"))
    args = parser.parse_args()
    args.jobs = args.jobs or (1 if args.device == "cuda" else os.cpu_count())
    results = claim_runs.load(RESULTS, {"budget_minutes": None, "steps": {}, "runs": {}})
    if args.report:
        report(results)
        return
    if not (DATA / "train.jsonl").exists():
        sys.exit(f"{DATA}: no data; docs/training.md says how to get it")
    if results["runs"] and results["budget_minutes"] != args.minutes:
        sys.exit(f"{RESULTS}: holds runs of {results['budget_minutes']} minutes, asked for are {args.minutes}")
    results["budget_minutes"] = args.minutes
    names = [name for name in TRAINED if fnmatch.fnmatch(name, args.only)]
    todo = claim_runs.missing(results, names, args.seeds)
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        missing = [name for name in names if name not in results["steps"]]
        if missing and args.device != "cpu":
            sys.exit(f"{RESULTS}: no steps of {', '.join(missing)}; they are measured without --device")
        for name, steps in zip(missing, pool.map(lambda name: calibrate(args, name), missing)):
            results["steps"][name] = steps
            print(f"{name}: {steps} steps in {args.minutes:g} minutes", flush=True)
        claim_runs.save(RESULTS, results)
        claim_runs.run_all(pool, todo, lambda name, seed: run_one(args, name, seed, results["steps"][name]),
                           lambda result: result["exact_match"], RESULTS, results)
    report(results)


if __name__ == "__main__":
    main()
