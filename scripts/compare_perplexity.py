#!/usr/bin/env python3
"""Perplexity of a GGUF file beside llama.cpp's: the same text, windows and predictions, each program with its own tokenizer.

    scripts/compare_perplexity.py MODEL.gguf TEXT --llama-library LIBRARY [--ctx 512] [--within 0.5]

LIBRARY is libllama.so, or a Python extension that exports it (the wheel of PyPI's xllamacpp does). Prints the ids that differ, and
perplexities of `reprise` with F32 and with 8-bit activations and of llama.cpp (whose activations have 8 bits). Exit code 1 where ids differ
or a perplexity is further from llama.cpp's than --within percent. Needs numpy.
"""
import argparse
import ctypes
import json
import pathlib
import subprocess
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "bench"))
from llama_library import Batch, open_library  # noqa: E402


class Llama:
    def __init__(self, library, path, ctx, threads):
        self.llama, self.ctx = open_library(library), ctx
        pointer, number = ctypes.c_void_p, ctypes.c_int32
        for name, result, arguments in (
                ("llama_tokenize", number, [pointer, ctypes.c_char_p, number, pointer, number, ctypes.c_bool, ctypes.c_bool]),
                ("llama_vocab_bos", number, [pointer]), ("llama_vocab_get_add_bos", ctypes.c_bool, [pointer]),
                ("llama_batch_init", Batch, [number, number, number]),
                ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [pointer, number])):
            function = getattr(self.llama, name)
            function.restype, function.argtypes = result, arguments
        model = self.llama.llama_model_load_from_file(str(path).encode(), self.llama.llama_model_default_params())
        if not model:
            raise SystemExit(f"{path}: llama.cpp can't load it")
        self.vocab = self.llama.llama_model_get_vocab(model)
        parameters = self.llama.llama_context_default_params()
        words = ctypes.cast(ctypes.byref(parameters), ctypes.POINTER(ctypes.c_uint32))
        words[0] = words[1] = words[2] = ctx  # n_ctx, n_batch, n_ubatch
        self.context = self.llama.llama_init_from_model(model, parameters)
        self.llama.llama_set_n_threads(self.context, threads, threads)
        self.batch = self.llama.llama_batch_init(ctx, 0, 1)

    def tokens(self, text, special=False):
        data = text.encode()
        room = len(data) + 8
        ids = (ctypes.c_int32 * room)()
        count = self.llama.llama_tokenize(self.vocab, data, len(data), ctypes.cast(ids, ctypes.c_void_p), room, special, False)
        return list(ids[:count])

    def first(self):
        return self.llama.llama_vocab_bos(self.vocab) if self.llama.llama_vocab_get_add_bos(self.vocab) else None

    def logits(self, window, begin):
        """Of positions begin .. len(window) - 2."""
        self.llama.llama_memory_clear(self.llama.llama_get_memory(self.context), True)
        at = [ctypes.cast(getattr(self.batch, name), ctypes.POINTER(kind)) for name, kind in
              (("token", ctypes.c_int32), ("pos", ctypes.c_int32), ("n_seq_id", ctypes.c_int32), ("logits", ctypes.c_int8))]
        sequences = ctypes.cast(self.batch.seq_id, ctypes.POINTER(ctypes.POINTER(ctypes.c_int32)))
        for i, token in enumerate(window):
            at[0][i], at[1][i], at[2][i], at[3][i] = token, i, 1, i >= begin
            sequences[i][0] = 0
        self.batch.count = len(window)
        if self.llama.llama_decode(self.context, self.batch) != 0:
            raise SystemExit("llama.cpp can't decode")
        size = self.llama.llama_vocab_n_tokens(self.vocab)
        for i in range(begin, len(window) - 1):
            yield np.ctypeslib.as_array(self.llama.llama_get_logits_ith(self.context, i), shape=(size,))

    def perplexity(self, ids):
        """As its own tool counts it."""
        total, count = 0.0, 0
        for at in range(0, len(ids) // self.ctx * self.ctx, self.ctx):
            window = ids[at:at + self.ctx]
            if self.first() is not None:
                window = [self.first(), *window[1:]]
            begin = self.ctx // 2
            for i, row in enumerate(self.logits(window, begin)):
                row = row.astype(np.float64)
                top = row.max()
                total += np.log(np.exp(row - top).sum()) + top - row[window[begin + i + 1]]
                count += 1
        return float(np.exp(total / count)), count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--llama-library", required=True)
    parser.add_argument("--reprise", default=ROOT / "build/release/reprise")
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--within", type=float, default=0.5, help="percent")
    options = parser.parse_args()

    def reprise(*arguments):
        return subprocess.run([str(a) for a in (options.reprise, *arguments)], check=True, capture_output=True, text=True).stdout

    llama = Llama(options.llama_library, options.model, options.ctx, options.threads)
    text = options.text.read_text()
    ids = llama.tokens(text)
    own = json.loads(reprise("tokenize", options.model, "--file", options.text, "--plain"))["ids"]
    differ = sum(a != b for a, b in zip(ids, own)) + abs(len(ids) - len(own))
    print(f"{options.model.name}: {len(ids)} tokens, {differ} differ")
    theirs, count = llama.perplexity(llama.tokens(text, special=True))
    print(f"llama.cpp           {theirs:.4f} over {count} predictions")
    wrong = differ > 0
    for activations in ("f32", "int8"):
        result = json.loads(reprise("eval", options.model, "--perplexity", options.text, "--ctx", options.ctx, "--activations", activations,
                                    "--threads", options.threads, "--no-kl", "--json"))
        off = 100 * (result["perplexity"] / theirs - 1)
        wrong |= abs(off) > options.within or result["tokens"] != count
        print(f"reprise, {activations:10} {result['perplexity']:.4f} over {result['tokens']} predictions: {off:+.3f}%")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
