#!/usr/bin/env python3
"""SmolLM2-135M (instruct; scripts/get_smollm2.sh) as 15 blocks twice and 10 blocks three times: what each start of
`reprise convert --recursive` loses before any training.

Converted and measured by `reprise` (F32 activations), on texts of scripts/make_corpus.py: the first 30 kB of the test
text, which is of the calibration's kind, and of out_of_domain.txt, which is of another. It goes on where it was
stopped (docs/smollm2_starts.json); --report prints the table of docs/convert.md.

--check judges these losses by torch. The model's arithmetic is written down here a second time, from the GGUF file's
tensors; starts that need no text are also made here a second time, from the dense file (singular values by torch), so
that nothing but that file and the token ids comes from `reprise`. Needs torch, numpy and gguf (the judge only).

Usage: scripts/run_smollm2_starts.py [--only PATTERN] [--check] [--report] [--threads N]
"""
import argparse
import fnmatch
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import time

import claim_runs

ROOT = pathlib.Path(__file__).resolve().parent.parent
DENSE = ROOT / "models/downloaded/smollm2-135m-instruct.gguf"
CORPUS = ROOT / "recipes/small-lm/corpus"
RESULTS = ROOT / "docs/smollm2_starts.json"
LAYERS, CONTEXT = 30, 512
TEXTS = ("test", "out_of_domain")
PURE = ("stepwise", "average", "lower", "random")
ADAPTERS = ("svd", "zero", "split", "weighted", "split-weighted", "fitted")
KINDS = {"attn_q": "q", "attn_k": "k", "attn_v": "v", "attn_output": "o", "ffn_gate": "gate", "ffn_up": "up", "ffn_down": "down"}


def variants() -> dict:
    """name -> (loops, rank, init, adapters)"""
    found = {"dense": (1, 0, "", "")}
    for loops in (2, 3):
        shape = f"{LAYERS // loops}x{loops}"
        for init in (*PURE, "fitted"):
            found[f"{shape}/{init}"] = (loops, 0, init, "")
        for rank in (32, 128):
            for adapters in ADAPTERS:
                if loops != 2 and adapters.startswith("split"):
                    continue
                init = "fitted" if adapters == "fitted" else "average"
                found[f"{shape}/r{rank}/{adapters}"] = (loops, rank, init, "" if adapters == "fitted" else adapters)
    return found


def text_file(folder: pathlib.Path, name: str) -> pathlib.Path:
    path = folder / f"{name}.txt"
    path.write_text((CORPUS / f"{name}.txt").read_text()[:30000])
    return path


def convert(args, name: str, out: pathlib.Path) -> dict:
    loops, rank, init, adapters = variants()[name]
    command = [args.reprise, "convert", DENSE, out, "--recursive", "--loops", loops, "--init", init, "--fold-norms", "--seed", 1,
               "--threads", args.threads, "--json", "--force"]
    if rank:
        command += ["--rank", rank]
    if adapters:
        command += ["--adapters", adapters]
    if init == "fitted" or adapters.endswith("weighted"):
        command += ["--calibrate", CORPUS / "train.txt"]
    begin = time.time()
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{name}: {done.stderr}")
    return {"seconds": round(time.time() - begin)}


def loss(args, model: pathlib.Path, text: pathlib.Path) -> float:
    done = subprocess.run([args.reprise, "eval", model, "--perplexity", text, "--ctx", str(CONTEXT), "--activations", "f32", "--threads",
                           str(args.threads), "--json"], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)["mean_nll"]


class Judge:
    """The model by torch, from GGUF tensors as llama.cpp lays them out (rows of q and k in pairs for rope)."""

    def __init__(self, path: pathlib.Path):
        import gguf
        import torch
        reader = gguf.GGUFReader(path)
        self.tensors = {t.name: torch.from_numpy(gguf.quants.dequantize(t.data, t.tensor_type).reshape(
            [int(n) for n in reversed(t.shape)]).copy()).float() for t in reader.tensors}
        value = {name: field.contents() for name, field in reader.fields.items() if name.startswith(("llama.", "reprise."))}
        self.heads, self.kv_heads = value["llama.attention.head_count"], value["llama.attention.head_count_kv"]
        self.base, self.eps = value["llama.rope.freq_base"], value["llama.attention.layer_norm_rms_epsilon"]
        recursive = json.loads(value.get("reprise.keys", "{}")).get("recursive", {"loops": 1})
        blocks = value["llama.block_count"]
        self.visits = [(loop, block) for loop in range(recursive["loops"]) for block in range(blocks)]

    def matrix(self, block: int, loop: int, name: str):
        weight = self.tensors[f"blk.{block}.{name}.weight"]
        adapter = f"blk.{block}.lora.{loop}.{KINDS[name]}"
        if adapter + ".A" in self.tensors:
            weight = weight + self.tensors[adapter + ".B"] @ self.tensors[adapter + ".A"]
        return weight

    def mean_loss(self, ids: list, bos: int) -> float:
        """Over the second halves of windows, as perplexities are measured."""
        import torch
        import torch.nn.functional as F
        half, head_dim = CONTEXT // 2, self.tensors["blk.0.attn_q.weight"].shape[0] // self.heads
        angles = torch.outer(torch.arange(CONTEXT), self.base ** (-torch.arange(0, head_dim, 2) / head_dim))
        cos, sin = angles.cos(), angles.sin()

        def norm(x, weight):
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.tensors[weight]

        def rope(x):  # [heads, n, head_dim], pairs (2i, 2i + 1)
            even, odd = x[..., 0::2], x[..., 1::2]
            return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)

        def split(x, heads):
            return x.view(CONTEXT, heads, head_dim).transpose(0, 1)

        windows = len(ids) // CONTEXT
        total = 0.0
        with torch.no_grad():
            states = []
            rows = torch.tensor(ids[: windows * CONTEXT]).view(windows, CONTEXT)
            if bos >= 0:
                rows[:, 0] = bos
            states = [self.tensors["token_embd.weight"][row] for row in rows]
            for loop, block in self.visits:
                get = lambda name: self.matrix(block, loop, name)
                q, k, v, o, gate, up, down = map(get, KINDS)
                for w, x in enumerate(states):
                    h = norm(x, f"blk.{block}.attn_norm.weight")
                    keys, values = (split(h @ m.T, self.kv_heads).repeat_interleave(self.heads // self.kv_heads, 0) for m in (k, v))
                    out = F.scaled_dot_product_attention(rope(split(h @ q.T, self.heads)), rope(keys), values, is_causal=True)
                    x = x + out.transpose(0, 1).reshape(CONTEXT, -1) @ o.T
                    h = norm(x, f"blk.{block}.ffn_norm.weight")
                    states[w] = x + (F.silu(h @ gate.T) * (h @ up.T)) @ down.T
            head = self.tensors.get("output.weight", self.tensors["token_embd.weight"])
            for row, x in zip(rows, states):
                logits = norm(x, "output_norm.weight")[half:-1] @ head.T
                total += F.cross_entropy(logits, row[half + 1:], reduction="sum").item()
        return total / (windows * (CONTEXT - half - 1))


def make_start(judge: Judge, loops: int, rank: int, init: str, adapters: str) -> None:
    """Turns the dense model into a start, in place: norms folded, then blocks, then adapters."""
    import torch
    dense = {name: tensor.double() for name, tensor in judge.tensors.items()}
    for layer in range(LAYERS):
        for norm, names in (("attn_norm", ("attn_q", "attn_k", "attn_v")), ("ffn_norm", ("ffn_gate", "ffn_up"))):
            weight = dense[f"blk.{layer}.{norm}.weight"]
            for name in names:
                dense[f"blk.{layer}.{name}.weight"] = dense[f"blk.{layer}.{name}.weight"] * weight
            dense[f"blk.{layer}.{norm}.weight"] = torch.ones_like(weight)
    blocks = LAYERS // loops
    kept = {name: tensor for name, tensor in dense.items() if not name.startswith("blk.")}
    for block in range(blocks):
        tied = [block + loop * blocks for loop in range(loops)]
        one = {"stepwise": block * (LAYERS - 1) // (blocks - 1), "lower": block}.get(init)
        for name in (*KINDS, "attn_norm", "ffn_norm"):
            layers = [dense[f"blk.{layer}.{name}.weight"] for layer in tied]
            shared = sum(layers) / loops if one is None else dense[f"blk.{one}.{name}.weight"]
            if adapters == "split" and name in KINDS:
                u, s, vt = torch.linalg.svd(layers[0] - layers[1], full_matrices=False)
                part = lambda first: (u[:, first:2 * rank:2] * s[first:2 * rank:2]) @ vt[first:2 * rank:2]
                moved = part(1) / 2 - part(0) / 2  # the first loop gets the odd directions back, the second one loses the even ones
                shared = shared + moved
                products = [part(0), -part(1)]
            for loop in range(loops if name in KINDS and rank else 0):
                if adapters == "split":
                    product = products[loop]
                else:
                    u, s, vt = torch.linalg.svd(layers[loop] - shared, full_matrices=False)
                    product = (u[:, :rank] * s[:rank]) @ vt[:rank]
                kept[f"blk.{block}.lora.{loop}.{KINDS[name]}.A"] = torch.eye(product.shape[1])
                kept[f"blk.{block}.lora.{loop}.{KINDS[name]}.B"] = product
            kept[f"blk.{block}.{name}.weight"] = shared
    judge.tensors = {name: tensor.float() for name, tensor in kept.items()}
    judge.visits = [(loop, block) for loop in range(loops) for block in range(blocks)]


def check(args, name: str, model: pathlib.Path, texts: dict) -> dict:
    """Losses by torch: of the converted file, and of the start made here a second time where it needs no text."""
    loops, rank, init, adapters = variants()[name]
    judges = {"file": Judge(model)}
    if init in ("stepwise", "average", "lower") and adapters in ("", "svd", "split"):
        judges["remade"] = Judge(DENSE)
        make_start(judges["remade"], loops, rank, init, adapters)
    found = {}
    for text, path in texts.items():
        done = subprocess.run([args.reprise, "tokenize", DENSE, "--file", path], check=True, capture_output=True, text=True)
        ids = json.loads(done.stdout)["ids"]
        for how, judge in judges.items():
            found.setdefault(how, {})[text] = round(judge.mean_loss(ids, args.bos), 5)
    return found


def report(results: dict) -> None:
    runs = {name: runs["1"] for name, runs in results["runs"].items()}
    dense = runs["dense"]["loss"]
    print(f"| start | rank | {' | '.join(f'loss: {text} | above dense' for text in TEXTS)} | largest difference from torch |")
    print("|---|---|---|---|---|---|---|")
    for name in (n for n in variants() if n in runs):
        shape, *rest = name.split("/")
        cells = [f"{runs[name]['loss'][t]:.3f} | {runs[name]['loss'][t] - dense[t]:.3f}" for t in TEXTS]
        judged = runs[name].get("torch", {})
        apart = max((abs(runs[name]["loss"][t] - losses[t]) for losses in judged.values() for t in TEXTS), default=math.nan)
        print(f"| {shape} {rest[-1] if rest else ''} | {variants()[name][1] or ''} | {' | '.join(cells)} | "
              f"{'' if math.isnan(apart) else f'{apart:.0e}'}{' (made anew too)' if 'remade' in judged else ''} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--bos", type=int, default=-1, help="token in front of each window (default: none)")
    parser.add_argument("--reprise", default=str(ROOT / "build/release/reprise"))
    args = parser.parse_args()
    results = claim_runs.load(RESULTS, {"runs": {}})
    if args.report:
        report(results)
        return
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        texts = {name: text_file(folder, name) for name in TEXTS}
        for name, _ in claim_runs.missing(results, [n for n in variants() if fnmatch.fnmatch(n, args.only)], 1):
            model = DENSE if name == "dense" else folder / "start.gguf"
            result = {} if name == "dense" else convert(args, name, model)
            result["loss"] = {text: round(loss(args, model, path), 5) for text, path in texts.items()}
            if args.check:
                result["torch"] = check(args, name, model, texts)
            results["runs"].setdefault(name, {})["1"] = result
            claim_runs.save(RESULTS, results)
            print(f"{name}: {result}", flush=True)
    report(results)


if __name__ == "__main__":
    main()
