#!/usr/bin/env python3
"""Judges `reprise convert` and `reprise quantize` by torch, safetensors and gguf, over model folders.

For each folder (by default all of shared/golden's and tests/data/golden's):
  - folder -> GGUF: the `gguf` package reads it; every tensor has the folder's type, shape and bits;
    config.json and the tokenizer files are inside, byte for byte
  - GGUF -> folder, in one file and in shards: `safetensors` reads it, every tensor equal in name,
    dtype, shape and bits; every other file byte for byte; trol_gating.pt is read by torch.load
    (weights_only) with the same keys, dtypes and values
  - --type f16, bf16: equal to torch's own conversion, to the bit
  - quantized files: `gguf.quants` reads every tensor; each equals gguf.quants.quantize of the
    source, to the bit; the reported errors are those computed from the dequantized values
Needs torch, safetensors, gguf, numpy (judges only).

Usage: scripts/check_convert.py [--reprise build/release/reprise] [FOLDER...]
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
GATES = ("trol_gating.weight", "trol_gating.bias")
TORCH_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Judge:
    def __init__(self, program):
        self.program = str(program)
        self.problems = []
        self.checks = 0

    def expect(self, condition, message):
        self.checks += 1
        if not condition:
            self.problems.append(message)
            print("  WRONG:", message)

    def run(self, *arguments):
        done = subprocess.run([self.program, *map(str, arguments)], capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"reprise {' '.join(map(str, arguments))}: {done.stderr}")
        return done.stdout


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def weights(folder):
    single = folder / "model.safetensors"
    if single.exists():
        return load_file(single)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    tensors = {}
    for shard in sorted(set(index["weight_map"].values())):
        part = load_file(folder / shard)
        for name in part:
            assert index["weight_map"][name] == shard, f"{name} is not where the index says"
        tensors.update(part)
    assert set(tensors) == set(index["weight_map"])
    return tensors


def gates(folder):
    path = folder / "trol_gating.pt"
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else {}


def gguf_tensors(path):
    """name -> (type name, shape, raw bytes) by the gguf package."""
    reader = gguf.GGUFReader(path)
    tensors = {}
    for t in reader.tensors:
        shape = [int(d) for d in reversed(t.shape)]
        tensors[t.name] = (t.tensor_type.name, shape, np.ascontiguousarray(t.data))
    return reader, tensors


def check_gguf(judge, name, folder, path):
    reader, stored = gguf_tensors(path)
    source = weights(folder)
    gate = gates(folder)
    if gate:
        source = source | {"trol_gating.weight": gate["0.weight"], "trol_gating.bias": gate["0.bias"]}
    judge.expect(set(stored) == set(source), f"{name}: GGUF has other tensors: {set(stored) ^ set(source)}")
    for key, tensor in source.items():
        kind, shape, data = stored[key]
        judge.expect(TORCH_TYPES.get(kind) == tensor.dtype, f"{name}: {key} is {kind}")
        judge.expect(shape == list(tensor.shape), f"{name}: {key} has shape {shape}")
        judge.expect(data.tobytes() == bits(tensor), f"{name}: {key} has other bits")
    config = reader.get_field("reprise.config").contents()
    judge.expect(config.encode() == (folder / "config.json").read_bytes(), f"{name}: config differs")
    for file in small_files(folder):
        value = reader.get_field(f"reprise.files.{file.name}").contents()
        value = value.encode() if isinstance(value, str) else bytes(value)
        judge.expect(value == file.read_bytes(), f"{name}: stored {file.name} differs")


def small_files(folder):
    return [f for f in folder.iterdir() if f.name not in ("config.json", "trol_gating.pt")
            and ".safetensors" not in f.name]


def check_folder(judge, name, folder, back, shards):
    a, b = weights(folder), weights(back)
    judge.expect(set(a) == set(b), f"{name}: other tensors: {set(a) ^ set(b)}")
    for key in a:
        judge.expect(a[key].dtype == b[key].dtype and a[key].shape == b[key].shape
                     and bits(a[key]) == bits(b[key]), f"{name}: {key} differs")
    judge.expect((back / "model.safetensors").exists() != shards, f"{name}: shards: {shards}")
    first = next(back.glob("*.safetensors"))
    with safe_open(first, "pt") as file:
        judge.expect((file.metadata() or {}).get("format") == "pt", f"{name}: no format 'pt'")
    for file in [folder / "config.json", *small_files(folder)]:
        judge.expect(file.read_bytes() == (back / file.name).read_bytes(), f"{name}: {file.name} differs")
    extra = {f.name for f in small_files(back)} - {f.name for f in small_files(folder)}
    judge.expect(not extra, f"{name}: extra files {extra}")
    before, after = gates(folder), gates(back)
    judge.expect(set(before) == set(after), f"{name}: gate keys {set(after)}")
    for key in before:
        judge.expect(before[key].dtype == after[key].dtype and torch.equal(before[key], after[key]),
                     f"{name}: gate {key} differs")


def check_types(judge, name, folder, temp):
    source = weights(folder)
    for kind in ("f16", "bf16"):
        gguf_path, back = temp / f"{kind}.gguf", temp / f"{kind}-folder"
        judge.run("convert", folder, gguf_path, "--type", kind)
        judge.run("convert", folder, back, "--to", "folder", "--type", kind)
        made, stored = weights(back), gguf_tensors(gguf_path)[1]
        changed = 0
        for key, tensor in source.items():
            wanted = tensor.to(TORCH_TYPES[kind.upper()])
            judge.expect(made[key].dtype in (wanted.dtype, tensor.dtype), f"{name}: {key} as {kind}")
            if made[key].dtype == wanted.dtype:
                changed += 1
                judge.expect(bits(made[key]) == bits(wanted), f"{name}: {key} as {kind} rounds otherwise")
            judge.expect(stored[key][2].tobytes() == bits(made[key]), f"{name}: {key}: GGUF and folder differ")
            judge.expect(tensor.dim() < 2 or made[key].dtype == wanted.dtype or "phantom" in key.lower()
                         or "gate" in key or "cross" in key or "_attn" in key or "_embedding" in key, f"{name}: {key} stays {tensor.dtype}")
        judge.expect(changed > 0, f"{name}: nothing became {kind}")


def check_quantized(judge, name, folder, temp):
    source = weights(folder)
    for kind in ("q8_0", "q4_0", "q4_1"):
        path, report_path = temp / f"{kind}.gguf", temp / f"{kind}.json"
        judge.run("quantize", folder, path, "--type", kind, "--report", report_path, "--json")
        report = json.loads(report_path.read_text())
        entries = {t["name"]: t for t in report["tensors"]}
        stored, quantized = gguf_tensors(path)[1], 0
        for key, tensor in source.items():
            stored_type, _, data = stored[key]
            entry = entries[key]
            judge.expect(entry["type"] == stored_type, f"{name}: {key}: report says {entry['type']}")
            qtype = gguf.GGMLQuantizationType[stored_type]
            values = tensor.float().numpy()
            if stored_type.startswith("Q"):
                quantized += 1
                expected = gguf.quants.quantize(values, qtype)
                judge.expect(expected.tobytes() == data.tobytes(), f"{name}: {key} {stored_type}: other bits")
            if stored_type in ("F32",):
                continue
            raw = data if stored_type.startswith("Q") else np.frombuffer(data.tobytes(), np.uint8)
            back = (gguf.quants.dequantize(raw, qtype) if stored_type.startswith("Q") else
                    torch.frombuffer(bytearray(data.tobytes()), dtype=TORCH_TYPES[stored_type]).float().numpy())
            difference = back.reshape(-1).astype(np.float64) - values.reshape(-1).astype(np.float64)
            rms = np.sqrt((difference ** 2).sum() / max(1e-300, (values.astype(np.float64) ** 2).sum()))
            judge.expect(abs(rms - entry["relative_rms"]) <= 1e-9 + 1e-6 * rms,
                         f"{name}: {key}: error {entry['relative_rms']}, computed {rms}")
            judge.expect(abs(np.abs(difference).max() - entry["max_error"]) <= 1e-12,
                         f"{name}: {key}: largest error {entry['max_error']}")
        judge.expect(quantized > 0, f"{name}: nothing is quantized as {kind}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--reprise", default=ROOT / "build/release/reprise")
    parser.add_argument("folders", nargs="*", type=pathlib.Path)
    options = parser.parse_args()
    folders = options.folders
    if not folders:
        for root in (ROOT / "tests/data/golden", pathlib.Path("/work/shared/golden")):
            folders += sorted(p.parent for p in root.glob("*/*/model/config.json"))
    judge = Judge(options.reprise)
    for folder in folders:
        name = "/".join(folder.parts[-3:-1]) or str(folder)
        print(name)
        with tempfile.TemporaryDirectory() as temp_name:
            temp = pathlib.Path(temp_name)
            judge.run("convert", folder, temp / "m.gguf")
            check_gguf(judge, name, folder, temp / "m.gguf")
            judge.run("convert", temp / "m.gguf", temp / "one")
            check_folder(judge, name, folder, temp / "one", shards=False)
            judge.run("convert", temp / "m.gguf", temp / "many", "--shard-size", "200KB")
            check_folder(judge, name, folder, temp / "many", shards=True)
            check_types(judge, name, folder, temp)
            check_quantized(judge, name, folder, temp)
    print(f"{len(folders)} models, {judge.checks} checks, {len(judge.problems)} wrong")
    return 1 if judge.problems else 0


if __name__ == "__main__":
    sys.exit(main())
