#!/usr/bin/env python3
"""Prefill and decode speed of llama.cpp through its C interface, for machines without llama-bench.

Usage: bench/llama_library.py LIBRARY MODEL.gguf --prompt N --tokens N --threads N

LIBRARY is libllama.so, or a Python extension that exports it (the wheel of PyPI's xllamacpp does; it is built for AVX2).
Prints JSON: tokens per second of a prompt of random tokens, and of single tokens behind it, as llama-bench measures them.
"""
import argparse
import ctypes
import json
import random
import time


# Parameters go by value, and their members differ from version to version: only the defaults are wanted, so these are
# larger than any version's. As the last argument what is beyond the true size isn't read.
class Parameters(ctypes.Structure):
    _fields_ = [("words", ctypes.c_uint64 * 128)]


class Batch(ctypes.Structure):
    _fields_ = [("count", ctypes.c_int32)] + [(name, ctypes.c_void_p) for name in
                                              ("token", "embd", "pos", "n_seq_id", "seq_id", "logits")]


LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
QUIET = LOG(lambda level, text, data: None)


def open_library(path: str):
    llama = ctypes.CDLL(path)
    pointer = ctypes.c_void_p
    for name, result, arguments in (
            ("llama_log_set", None, [LOG, pointer]), ("llama_backend_init", None, []),
            ("llama_model_default_params", Parameters, []), ("llama_context_default_params", Parameters, []),
            ("llama_model_load_from_file", pointer, [ctypes.c_char_p, Parameters]),
            ("llama_init_from_model", pointer, [pointer, Parameters]),
            ("llama_set_n_threads", None, [pointer, ctypes.c_int32, ctypes.c_int32]),
            ("llama_model_get_vocab", pointer, [pointer]), ("llama_vocab_n_tokens", ctypes.c_int32, [pointer]),
            ("llama_batch_get_one", Batch, [pointer, ctypes.c_int32]), ("llama_decode", ctypes.c_int32, [pointer, Batch]),
            ("llama_synchronize", None, [pointer]),
            ("llama_get_memory", pointer, [pointer]), ("llama_memory_clear", None, [pointer, ctypes.c_bool])):
        function = getattr(llama, name)
        function.restype, function.argtypes = result, arguments
    llama.llama_log_set(QUIET, None)
    llama.llama_backend_init()
    return llama


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("model")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    llama = open_library(args.library)
    model = llama.llama_model_load_from_file(args.model.encode(), llama.llama_model_default_params())
    if not model:
        raise SystemExit(f"{args.model}: llama.cpp can't load it")
    parameters = llama.llama_context_default_params()
    ctypes.cast(ctypes.byref(parameters), ctypes.POINTER(ctypes.c_uint32))[0] = args.prompt + args.tokens  # n_ctx
    context = llama.llama_init_from_model(model, parameters)
    llama.llama_set_n_threads(context, args.threads, args.threads)
    vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))

    def decode(ids):
        batch = llama.llama_batch_get_one(ctypes.cast((ctypes.c_int32 * len(ids))(*ids), ctypes.c_void_p), len(ids))
        if llama.llama_decode(context, batch) != 0:
            raise SystemExit(f"{args.model}: llama.cpp can't decode")
        llama.llama_synchronize(context)

    def clear():
        llama.llama_memory_clear(llama.llama_get_memory(context), True)

    chosen = random.Random(1)
    prompt = [chosen.randrange(vocab) for _ in range(args.prompt)]
    decode(prompt)  # warm: weights are read, and repacked at first use
    clear()
    begin = time.perf_counter()
    decode(prompt)
    prefill = args.prompt / (time.perf_counter() - begin)
    clear()
    decode([prompt[0]])
    begin = time.perf_counter()
    for token in range(args.tokens):
        decode([prompt[token % len(prompt)]])
    print(json.dumps({"prefill": prefill, "decode": args.tokens / (time.perf_counter() - begin)}))


if __name__ == "__main__":
    main()
