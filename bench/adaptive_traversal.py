#!/usr/bin/env python3
"""What adaptive traversal (--adaptive W) saves and what it costs, on TroL models.

With a question file (--qa, --images) each threshold answers all questions; it runs in turn with the exact
traversal, `--pairs` times, so that each pair gives a ratio of times whatever else the machine does. With
--inputs (a golden case) the logits are compared with the exact ones too.

Usage: bench/adaptive_traversal.py MODEL [--qa F.jsonl --images DIR [--limit N]] [--inputs CASE.safetensors]
                                   [--thresholds 0.02,0.05,...] [--pairs N] [--reprise PROGRAM]
Needs Python only; reading traces needs numpy and safetensors.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

import machine


def evaluate(args, threshold: float) -> dict:
    command = [args.reprise, "eval", args.model, "--qa", args.qa, "--images", args.images, "--json",
               "--adaptive", str(threshold)]
    if args.limit:
        command += ["--limit", str(args.limit)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def traced(args, threshold: float) -> dict:
    from safetensors.numpy import load_file

    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/out.safetensors"
        subprocess.run([args.reprise, "trace", args.model, "--inputs", args.inputs, "--out", out, "--activations",
                        "f32", "--adaptive", str(threshold)], check=True, capture_output=True)
        return load_file(out)


def deviation(exact: dict, other: dict, threshold: float) -> str:
    import numpy as np

    def log_softmax(x):
        x = x.astype(np.float64)
        x = x - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    p, q = log_softmax(exact["logits"]), log_softmax(other["logits"])
    kl = (np.exp(p) * (p - q)).sum(-1).mean()
    weights = [v for k, v in other.items() if k.endswith(".mix_w")]
    skipped = sum((w < threshold).sum() for w in weights) / sum(w.size for w in weights)
    same = (exact["logits"].argmax(-1) == other["logits"].argmax(-1)).mean()
    return (f"{threshold:9.3f}  skipped {skipped:6.1%}  KL {kl:9.2e} nats  max logit diff "
            f"{abs(exact['logits'] - other['logits']).max():8.4f}  same greedy token {same:6.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--qa")
    parser.add_argument("--images")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--inputs")
    parser.add_argument("--thresholds", default="0.01,0.05,0.1,0.2,0.3,0.5,0.7,1")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--reprise", default="build/release/reprise")
    args = parser.parse_args()
    thresholds = [float(text) for text in args.thresholds.split(",")]

    print(f"machine: {machine.processor()}\nmodel: {args.model}")
    if args.inputs:
        exact = traced(args, 0)
        for threshold in thresholds:
            print(deviation(exact, traced(args, threshold), threshold))
    if args.qa:
        exact = evaluate(args, 0)
        print(f"{exact['backend']}; {exact['questions']} questions, exact traversal: {exact['exact_match']:.2%}")
        for threshold in thresholds:
            ratios = []
            for _ in range(args.pairs):
                before, now = evaluate(args, 0), evaluate(args, threshold)
                ratios.append(now["seconds"] / before["seconds"])
            print(f"{threshold:9.3f}  exact match {now['exact_match']:7.2%}  time, of exact traversal: median "
                  f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
