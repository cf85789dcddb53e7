#!/usr/bin/env python3
"""Random tiny models of every kind, run by `reprise trace` and by plain PyTorch.

The golden data and tests/data/parity hold a few models each; this script makes as many others as
wanted, with awkward sizes (head dims that are no multiple of a vector, one KV head, a vocabulary of
257, windows shorter than the prompt, rope that changes its factors while tokens are generated,
one-token prompts, sharded files, 16-bit weights), and compares every tensor of a trace, on every
instruction set of the cpu backend and on the torch backend, with an implementation in float64 that
has the official code's kind of cache and shares no line with the C++ code. It is a judge: nothing
of the product or of its tests needs it.

    python scripts/check_random_models.py --golden               # the judge on the golden data
    python scripts/check_random_models.py [--seeds 0-39] [--kinds trol,phantom] [--backends ...]

Needs torch, safetensors, numpy. Exit code 1 if anything is out of tolerance.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch

from random_models.generate import KINDS, NAMES, make_model, window_keys
from random_models.reference import ROOT, loss_and_gradients, run, smallest_gap

# The golden READMEs' tolerances, for logits with a deviation of 2: larger ones may be off by more.
LOGITS, HIDDEN, DEVIATION = 2e-4, 5e-4, 2.0
LOSS, GRADIENT = 2e-6, 2e-3  # relative to the loss, to each tensor's largest value
STEPS = 6
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


# ---------------------------------------------------------------- comparison


def compare(found, expected, problems):
    """-> largest difference of logits and of everything else."""
    logits = hidden = 0.0
    scale = max(1.0, float(expected["logits"].std()) / DEVIATION)
    for name, t in expected.items():
        want = t.detach().numpy()
        got = found.get(name)
        if got is None or got.shape != want.shape:
            problems.append(f"{name}: {'missing' if got is None else got.shape}, want {want.shape}")
            continue
        if name == "decode.tokens":
            if not np.array_equal(got, want):
                problems.append(f"decode.tokens: {got.tolist()}, want {want.tolist()}")
            continue
        off = float(np.abs(got - want).max()) if np.isfinite(got).all() else math.inf
        limit = scale * (LOGITS if name.endswith("logits") else HIDDEN)
        if name.endswith("logits"):
            logits = max(logits, off)
        else:
            hidden = max(hidden, off)
        if not off <= limit:
            problems.append(f"{name}: off by {off:.1e}")
    return logits, hidden


def compare_gradients(found, expected, float32, problems):
    """expected, float32: (loss, gradients) in float64 and in float32.
    -> difference of the loss, and the gradients' largest as a share of what is allowed."""
    (loss, gradients), (_, rounded) = expected, float32
    worst, largest = 0.0, max(float(t.abs().max()) for t in gradients.values())
    for name in sorted(gradients.keys() | {k[5:] for k in found if k.startswith("grad.")}):
        want = gradients.get(name, torch.zeros(1, dtype=torch.float64)).numpy()  # not used: zeros
        got = found.get("grad." + name)
        if got is None or name in gradients and got.shape != want.shape:
            problems.append(f"grad.{name}: {'missing' if got is None else got.shape}")
            continue
        # Some are zero, or tiny beside the noise of float32: then PyTorch's own error counts.
        noise = np.abs(rounded[name].numpy() - want).max() if name in gradients else 0
        allowed = GRADIENT * np.abs(want).max() + 8 * noise + 1e-6 * largest
        off = np.abs(got - want).max() / allowed
        worst = max(worst, off)
        if not off <= 1:
            problems.append(f"grad.{name}: off by {off:.1f} times what is allowed")
    off = float(abs(found["loss"][0] - loss[0]))
    if not off <= LOSS * max(1, float(loss[0])):
        problems.append(f"loss: off by {off:.1e}")
    return off, worst


def backends(names, program):
    """[(label, arguments, environment)]"""
    known = {"torch": (["--backend", "torch"], {})}
    for isa in ("scalar", "avx2", "avx512-vnni", "avx2-simde", "avx512-vnni-simde"):
        known[isa] = ([], {"REPRISE_ISA": isa})
    known["gradients"] = (["--backend", "torch"], {})
    known["avx2+chunks"] = (["--chunk", "3"], {"REPRISE_ISA": "avx2"})
    return [(name, *known[name]) for name in names]


def trace(program, folder, arguments, environment, inputs="inputs.safetensors"):
    out = folder / "out.safetensors"
    out.unlink(missing_ok=True)
    command = [program, "trace", folder, "--inputs", folder / inputs, "--out", out,
               "--steps", str(STEPS), "--activations", "f32", "--threads", "2", *arguments]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    return (load_file(out) if done.returncode == 0 else None), done.stderr.strip()


def check_seed(kind, seed, args, folder):
    for attempt in range(50):  # a seed whose greedy choices are clear
        path = folder / f"{kind}-{seed}-{attempt}"
        c, weights, ids, pixels, labels, files = make_model(path, kind, seed * 50 + attempt)
        double = {k: t.double() for k, t in weights.items()}
        pixels64 = None if pixels is None else pixels.double()
        with torch.no_grad():
            out = run(double, c, ids, pixels64, STEPS)
        if smallest_gap(out) > 2e-3:
            break
    with torch.no_grad():  # the noise of float32
        noise = run(weights, c, ids, pixels, STEPS)["logits"].sub(out["logits"]).abs().max()
    bad, cells = [], []
    for label, arguments, environment in backends(args.backends, args.program):
        problems, gradients = [], label == "gradients"
        if gradients and len(ids) < 2:
            cells.append("-")
            continue
        found, error = trace(args.program, path, arguments, environment,
                             "loss-inputs.safetensors" if gradients else "inputs.safetensors")
        if found is None:
            problems.append(error)
            cells.append("error")
        elif gradients:
            expected = loss_and_gradients(double, c, ids, pixels64, labels)
            float32 = loss_and_gradients(weights, c, ids, pixels, labels)
            cells.append("{:.0e} {:.2f}".format(*compare_gradients(found, expected, float32,
                                                                   problems)))
        else:
            cells.append("{:.0e} {:.0e}".format(*compare(found, out, problems)))
        bad += [f"{kind} {seed}, {label}: {p}" for p in problems[:6]]
    shape = "{num_hidden_layers}L {num_attention_heads}/{num_key_value_heads}x{head_dim}".format(**c)
    print(f"| {kind} {seed} | {shape} d{c['hidden_size']} f{c['intermediate_size']} V{c['vocab_size']} "
          f"| {len(ids)}{' i' if pixels is not None else ''} | {files} | {out['logits'].std():.1f} "
          f"{noise:.0e} | " + " | ".join(cells) + " |" + (" <-- " if bad else ""), flush=True)
    return bad


# ---------------------------------------------------------------- the judge judged


def check_golden(folder):
    """The reference on the official code's outputs; -> problems."""
    bad = []
    for path in sorted(Path(folder).glob("*/*/case-*.safetensors")):
        config = json.loads((path.parent / "model/config.json").read_text())
        flat = config["architectures"] == ["TroLForCausalLM"] and "llm_config" not in config
        llm = config | {"architectures": [NAMES["internlm2"]]} if flat else config.get("llm_config")
        if not llm or llm["architectures"][0] not in NAMES.values():
            continue
        c = {k: llm.get(k) for k in llm}
        c |= {"prefix": "" if flat else "language_model.", "vision": config["vision_config"],
              "image_token": config["image_token_index"],
              "head_dim": llm["hidden_size"] // llm["num_attention_heads"],
              "release": True,
              "eta": 1e-4 if config["model_type"] == "phantom" else None,
              "trol": config["model_type"] in ("trol", "internlm")}
        c["window"] = window_keys(c)
        w = load_torch(path.parent / "model/model.safetensors")
        if c["trol"]:
            gate = torch.load(path.parent / "model/trol_gating.pt", weights_only=True,
                              map_location="cpu")
            w |= {f"trol_gating.{m}": gate[f"0.{m}"] for m in ("weight", "bias")}
        w = {k: t.double() for k, t in w.items()}
        case = load_torch(path)
        B, tiles = case["input_ids"].shape[0], 0
        for b in range(B):
            mask = case.get("attention_mask", torch.ones_like(case["input_ids"]))[b].bool()
            ids, pixels = case["input_ids"][b][mask], None
            if count := int((ids == c["image_token"]).sum()):
                v = c["vision"]
                side = v["image_size"] // v["patch_size"]
                mine = count // (side if flat else side // 2) ** 2
                if "pixel_u8" in case:
                    mean, std = (torch.tensor(t, dtype=torch.float64)[:, None, None] for t in
                                 (CLIP if flat else IMAGENET))
                    pixels = (case["pixel_u8"].double() / 255 - mean) / std
                else:
                    pixels = case["pixel_values"].double()
                pixels, tiles = pixels[tiles : tiles + mine], tiles + mine
            with torch.no_grad():
                out = run(w, c, ids, pixels, 6)
            prefix, problems = (f"alone.{b}." if B > 1 else ""), []
            rows = case.get("rows")
            at = lambda k, t: t if rows is None or k.startswith("decode") or t.dim() < 2 or \
                k in ("projected", "vision_out") or t.shape[0] != len(ids) else t[rows]
            expected = {k[len(prefix):]: t for k, t in case.items() if k.startswith(prefix)}
            common = {k: t for k, t in out.items() if k in expected and "vision_rows" not in case
                      or k in expected and k not in ("vision_out", "projected")}
            got = {k: at(k, t).numpy() for k, t in common.items()}
            want = {k: expected[k] if k in ("projected", "vision_out") else expected[k][0]
                    for k in common}
            off = compare(got, want, problems)
            name = f"{path.parent.parent.name}/{path.parent.name}/{path.stem} {prefix}"
            print(f"{name}: {len(common)} tensors, logits {off[0]:.1e}, others {off[1]:.1e}")
            bad += [f"{name}: {p}" for p in problems]
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--golden", nargs="?", const=ROOT / "tests/data/golden",
                        help="only judge the judge, by the golden data in this folder")
    parser.add_argument("--seeds", default="0-3", help="one or first-last, of each kind")
    parser.add_argument("--kinds", default=",".join(KINDS), help="beginnings of names")
    parser.add_argument("--backends", default="scalar,avx2,avx512-vnni,torch")
    parser.add_argument("--program", default=str(ROOT / "build/release/reprise"))
    parser.add_argument("--keep", help="folder for the models, kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.golden:
        bad = check_golden(args.golden)
    else:
        args.backends = args.backends.split(",")
        wanted = [k for k in KINDS if any(k.startswith(b) for b in args.kinds.split(","))]
        first, _, last = args.seeds.partition("-")
        print("model: layers, heads/kv x head_dim, d, ffn, vocabulary. Logits: their deviation, and "
              "the noise of float32 PyTorch.\nCells: largest difference of logits and of all else.\n"
              "| model | shape | prompt | weights | logits | " + " | ".join(args.backends) + " |")
        print("|---" * (5 + len(args.backends)) + "|")
        bad = []
        with tempfile.TemporaryDirectory() as temporary:
            for seed in range(int(first), int(last or first) + 1):
                for kind in wanted:
                    bad += check_seed(kind, seed, args, Path(args.keep or temporary))
    print("\n".join(bad) if bad else "no deviation")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
