#!/usr/bin/env python3
"""Error of `reprise convert`'s quantized types beside llama.cpp's quantizer, on random values.

    python scripts/compare_quantizers.py [--reprise PROGRAM] [--ggml LIBRARY]

LIBRARY is a shared library with ggml_quantize_chunk (libggml-base.so, or the extension module of a Python package of
llama.cpp that exports it); without it only reprise's figures are printed. Needs numpy, safetensors, gguf. Prints a
Markdown table: root mean square error relative to that of the values, for normal ones and for Student's t with 5
degrees of freedom (heavier tails).
"""
import argparse
import ctypes
import json
import os
import subprocess
import tempfile

import gguf
import numpy as np
from safetensors.numpy import save_file

TYPES = ["Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "Q3_K", "Q2_K"]
ROWS, WIDTH = 512, 2048


def error(found: np.ndarray, values: np.ndarray) -> float:
    return float(np.sqrt(np.square(found - values, dtype=np.float64).sum() / np.square(values, dtype=np.float64).sum()))


def of_reprise(program: str, folder: str, name: str) -> dict:
    target = os.path.join(folder, name + ".gguf")
    subprocess.run([program, "convert", folder, target, "--keep", "*=" + name.lower()], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type).reshape(-1)
            for t in gguf.GGUFReader(target).tensors}


def of_ggml(library: ctypes.CDLL, values: np.ndarray, name: str) -> np.ndarray:
    kind = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = np.zeros(values.size // block * size, np.uint8)
    library.ggml_quantize_chunk(ctypes.c_int(kind.value), values.ctypes.data_as(ctypes.c_void_p),
                                out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(0),
                                ctypes.c_int64(values.size // WIDTH), ctypes.c_int64(WIDTH), None)
    return gguf.quants.dequantize(out, kind)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reprise", default="build/release/reprise")
    parser.add_argument("--ggml")
    args = parser.parse_args()
    library = ctypes.CDLL(args.ggml) if args.ggml else None
    random = np.random.default_rng(1)
    sets = {"normal": random.standard_normal((ROWS, WIDTH)) * 0.03,
            "t5": random.standard_t(5, (ROWS, WIDTH)) * 0.02}
    sets = {name: values.astype(np.float32) for name, values in sets.items()}
    with tempfile.TemporaryDirectory() as folder:
        save_file(sets, os.path.join(folder, "model.safetensors"))
        with open(os.path.join(folder, "config.json"), "w") as out:
            json.dump({"architectures": ["NoneThatComputes"], "model_type": "none"}, out)
        print("| type | normal: reprise | llama.cpp | Student's t: reprise | llama.cpp |\n|---|---|---|---|---|")
        for name in TYPES:
            found = of_reprise(args.reprise, folder, name)
            cells = []
            for key, values in sets.items():
                cells.append(f"{error(found[key], values.reshape(-1)):.5f}")
                cells.append(f"{error(of_ggml(library, values.reshape(-1), name), values.reshape(-1)):.5f}"
                             if library else "")
            print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
