#!/usr/bin/env python3
"""Uptraining a looped SmolLM2-135M (15 layers twice, adapters of rank R) towards the dense model, by `reprise train`
and by the same loop written in plain PyTorch: tokens per second, peak memory, and where the time goes.

Usage: bench/compare_uptraining.py [--reprise PROGRAM] [--pairs 5] [--steps 3] [--batch 4] [--context 512] [--rank 128]
                                   [--threads 2] [--precision fp32|bf16|both]

The PyTorch loop: transformers' LlamaForCausalLM as student (its layers called twice, adapters beside every matrix)
and as teacher (under no_grad), cross entropy + forward KL, AdamW(fused=True), clipping at 1, torch.autocast for bf16.
All weights are trained on both sides. Weights and tokens are random: neither changes the work.

Each pair is one new process of each, in turns; a process makes one step that isn't counted and then --steps. Prints
the ratio of tokens per second (reprise / PyTorch): median over pairs, interval that holds it with 95% (bootstrap),
range; each side's faster precision; peak resident memory. Needs torch, transformers and safetensors.
"""
import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

import machine
from pairs import interval

# SmolLM2-135M's shape.
SHAPE = dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
             num_key_value_heads=3, vocab_size=49152, max_position_embeddings=8192, rope_theta=100000.0,
             rms_norm_eps=1e-5, tie_word_embeddings=True)
LOOPS = 2


def make_inputs(folder, args):
    """The dense model and the token rows, as files."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(folder / "dense")
    rows = args.batch * (args.steps + 1)
    tokens = torch.randint(0, SHAPE["vocab_size"], (rows, args.context + 1))
    save_file({"tokens": tokens}, folder / "tokens.safetensors")


def recipe(folder, args, precision):
    return f"""model: {{from: {folder}/looped}}
data:
  train: [{{tokens: {folder}/tokens.safetensors}}]
  shuffle: false
  context: {args.context}
loss: lm
distill: {{teacher: {folder}/dense, divergence: forward_kl, weight: 1}}
optimizer: {{lr: 1.0e-4, warmup_steps: 1, clip: 1.0}}
run: {{steps: {args.steps + 1}, batch: {args.batch}, precision: {precision}, log_every: 1, checkpoint_every: 1000}}
"""


def run_child(command, env=None):
    """Output and peak resident bytes of a process."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    out, err = child.stdout.read(), child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {err.strip()[-2000:]}")
    return out, usage.ru_maxrss * 1024


def run_reprise(folder, args, precision, number):
    path = folder / "recipe.yaml"
    path.write_text(recipe(folder, args, precision))
    out = folder / f"out-{number}"
    _, peak = run_child([args.reprise, "train", path, "--out", out, "--threads", str(args.threads)])
    steps = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()][1:]
    for name in ("checkpoint.safetensors", "model.gguf"):
        (out / name).unlink(missing_ok=True)
    seconds = [s["tokens"] / s["tokens_per_second"] for s in steps]
    parts = {part: sum(s["seconds"].get(part, 0) for s in steps) / len(steps) for part in steps[0]["seconds"]}
    return {"rate": sum(s["tokens"] for s in steps) / sum(seconds), "peak": peak, "parts": parts}


def run_pytorch(folder, args, precision):
    command = [sys.executable, __file__, "--child", str(folder), "--steps", str(args.steps), "--batch", str(args.batch),
               "--context", str(args.context), "--rank", str(args.rank), "--threads", str(args.threads),
               "--precision", precision]
    out, peak = run_child(command)
    return {**json.loads(out.splitlines()[-1]), "peak": peak}


def pytorch_loop(folder, args):
    """The child: trains, and prints its tokens per second and the seconds of each part."""
    import time
    import torch
    import torch.nn.functional as F
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.set_num_threads(args.threads)

    class LoopedLinear(torch.nn.Module):
        """A matrix that all loops share and an adapter for each."""
        loop = 0

        def __init__(self, shared, rank):
            super().__init__()
            self.weight = shared.weight
            rank = min(rank, *shared.weight.shape)
            self.a = torch.nn.ParameterList(torch.randn(rank, shared.in_features) / 24 for _ in range(LOOPS))
            self.b = torch.nn.ParameterList(torch.zeros(shared.out_features, rank) for _ in range(LOOPS))

        def forward(self, x):
            loop = LoopedLinear.loop
            return F.linear(x, self.weight) + F.linear(F.linear(x, self.a[loop]), self.b[loop])

    teacher = LlamaForCausalLM.from_pretrained(folder / "dense", dtype=torch.float32).eval()
    student = LlamaForCausalLM(LlamaConfig(**{**SHAPE, "num_hidden_layers": SHAPE["num_hidden_layers"] // LOOPS}))
    for layer in student.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, module in list(part.named_children()):
                if isinstance(module, torch.nn.Linear):
                    setattr(part, name, LoopedLinear(module, args.rank))
    student.train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)
    rows = load_file(folder / "tokens.safetensors")["tokens"]

    def student_states(ids):
        core = student.model
        x = core.embed_tokens(ids)
        positions = torch.arange(ids.shape[1])[None]
        rope = core.rotary_emb(x, positions)
        for LoopedLinear.loop in range(LOOPS):
            for layer in core.layers:
                x = layer(x, position_embeddings=rope, position_ids=positions, attention_mask=None)
                x = x[0] if isinstance(x, tuple) else x
        return core.norm(x)

    parts = {}

    def lap(name, start):
        now = time.perf_counter()
        parts[name] = parts.get(name, 0) + now - start
        return now

    for step in range(args.steps + 1):
        if step == 1:
            parts.clear()
            begin = time.perf_counter()
        batch = rows[step * args.batch:(step + 1) * args.batch]
        ids, labels = batch[:, :-1], batch[:, 1:].reshape(-1)
        now = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.precision == "bf16"):
            states = student_states(ids)
            now = lap("forward", now)
            with torch.no_grad():
                told = teacher(input_ids=ids, use_cache=False).logits
            now = lap("teacher", now)
            logits = student.lm_head(states)
        log_q = F.log_softmax(logits.float().flatten(0, 1), -1)
        log_p = F.log_softmax(told.float().flatten(0, 1), -1)
        loss = F.nll_loss(log_q, labels) + F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
        loss.item()
        now = lap("loss", now)
        loss.backward()
        now = lap("backward", now)
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        lap("optimizer", now)
    total = time.perf_counter() - begin
    print(json.dumps({"rate": args.steps * args.batch * args.context / total,
                      "parts": {name: seconds / args.steps for name, seconds in parts.items()}}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reprise", default=str(pathlib.Path(__file__).resolve().parent.parent / "build/release/reprise"))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=["fp32", "bf16", "both"], default="both")
    parser.add_argument("--child", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return pytorch_loop(args.child, args)

    precisions = ["fp32", "bf16"] if args.precision == "both" else [args.precision]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        make_inputs(folder, args)
        subprocess.run([args.reprise, "convert", folder / "dense", folder / "looped", "--recursive", "--loops", str(LOOPS),
                        "--init", "stepwise", "--adapters", "zero", "--rank", str(args.rank)], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        runs = {(side, p): [] for side in ("reprise", "pytorch") for p in precisions}
        for pair in range(args.pairs):
            for precision in precisions:
                order = ("reprise", "pytorch") if pair % 2 == 0 else ("pytorch", "reprise")
                for side in order:
                    runs[side, precision].append(run_reprise(folder, args, precision, f"{precision}-{pair}")
                                                 if side == "reprise" else run_pytorch(folder, args, precision))

    print(f"{machine.processor()}, {args.threads} threads; {args.pairs} pairs of {args.steps} steps of "
          f"{args.batch} x {args.context} tokens, rank {args.rank}")
    median = {}
    for (side, precision), found in runs.items():
        rates = [run["rate"] for run in found]
        median[side, precision] = statistics.median(rates)
        parts = {part: statistics.median(run["parts"][part] for run in found) for part in found[0]["parts"]}
        whole = sum(parts.values())
        print(f"  {side:8} {precision}: {median[side, precision]:7.1f} tokens/s ({min(rates):.1f} to {max(rates):.1f}), peak "
              f"{statistics.median(run['peak'] for run in found) / 1e9:.2f} GB; " +
              ", ".join(f"{part} {seconds:.2f} s ({seconds / whole:.0%})" for part, seconds in parts.items()))
    best = {side: max(precisions, key=lambda p: median[side, p]) for side in ("reprise", "pytorch")}
    ours, theirs = runs["reprise", best["reprise"]], runs["pytorch", best["pytorch"]]
    for title, key in (("tokens/s", "rate"), ("peak memory", "peak")):
        ratios = [a[key] / b[key] for a, b in zip(ours, theirs)]
        low, high = interval(ratios, random.Random(1))
        print(f"{title}, reprise {best['reprise']} / PyTorch {best['pytorch']}: {statistics.median(ratios):.3f} "
              f"(95%: {low:.3f} to {high:.3f}; pairs {min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
