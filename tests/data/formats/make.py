"""Makes the files of this folder with the Python packages that are the judges of these formats.

    python make.py        (needs torch, numpy, safetensors, gguf)

Everything is seeded; the files are small and committed, so tests need no Python.
"""
import collections
import json
import os
import struct
import zipfile

import gguf
import numpy as np
import torch
from safetensors.torch import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
rng = np.random.default_rng(7)


def path(name):
    return os.path.join(HERE, name)


def quantization():
    """x: rows of 32 values with awkward blocks; beside them what gguf.quants makes of them."""
    x = rng.standard_normal((40, 64)).astype(np.float32)
    x[0] = 0
    x[1, :32] = 1.0                       # constant block: Q4_1 has no range
    x[2, :32] = -3.5
    x[3] *= 1e-6                          # scales among the f16 subnormals
    x[4] *= 1e-9                          # scales that vanish
    x[5] *= 1e4
    x[6, :32] = np.arange(32) - 16        # ties of Q4_0
    x[7, :32] = (np.arange(32) - 16) / 2
    x[8, :32] = np.linspace(-127, 127, 32).round() + 0.5
    x[8, 31] = 127                        # Q8_0 scale exactly 1: halves are ties
    x[8, 30] = 126.5
    x[9, :32] = np.arange(32) % 2 * 2 - 1  # the largest magnitude comes with both signs
    x[10] = np.abs(x[10])
    x[11] = -np.abs(x[11])
    x[12, ::2] = 0
    tensors = {"x": torch.from_numpy(x)}
    for name in ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "BF16", "F16"]:
        kind = gguf.GGMLQuantizationType[name]
        packed = gguf.quants.quantize(x, kind)
        tensors[name] = torch.from_numpy(packed.view(np.uint8).reshape(x.shape[0], -1).copy())
        tensors[name + ".values"] = torch.from_numpy(gguf.quants.dequantize(packed, kind).copy())
    save_file(tensors, path("quantization.safetensors"))


def safetensors_files():
    values = torch.arange(6).reshape(2, 3)
    types = {"f64": torch.float64, "f32": torch.float32, "f16": torch.float16,
             "bf16": torch.bfloat16, "i64": torch.int64, "i32": torch.int32, "i16": torch.int16,
             "i8": torch.int8, "u8": torch.uint8, "bool": torch.bool}
    tensors = {k: (values - 2 if k not in ("u8", "bool") else values).to(t) for k, t in types.items()}
    tensors["scalar"] = torch.tensor(1.5)
    tensors["empty"] = torch.zeros(0, 4)
    save_file(tensors, path("types.safetensors"), metadata={"format": "pt", "note": "é"})

    folder = path("sharded")
    os.makedirs(folder, exist_ok=True)
    a, b = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    save_file({"a.weight": torch.full((2, 2), 1.0), "a.bias": torch.full((2,), 2.0)},
              os.path.join(folder, a))
    save_file({"b.weight": torch.full((2, 2), 3.0)}, os.path.join(folder, b))
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {"total_size": 40},
                   "weight_map": {"a.weight": a, "a.bias": a, "b.weight": b}}, f, indent=1)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump({"model_type": "llama", "hidden_size": 2}, f)
    with open(os.path.join(folder, "generation_config.json"), "w") as f:
        json.dump({"eos_token_id": 2}, f)
    with open(os.path.join(folder, "merges.txt"), "w") as f:
        f.write("#version: 0.2\n")


def gguf_file():
    w = gguf.GGUFWriter(path("small.gguf"), "llama")
    w.add_uint8("k.u8", 200)
    w.add_int8("k.i8", -100)
    w.add_uint16("k.u16", 60000)
    w.add_int16("k.i16", -30000)
    w.add_uint32("k.u32", 4000000000)
    w.add_int32("k.i32", -2000000000)
    w.add_float32("k.f32", 0.5)
    w.add_bool("k.bool", True)
    w.add_string("k.string", "grüße")
    w.add_uint64("k.u64", 2**63 + 1)
    w.add_int64("k.i64", -2**62)
    w.add_float64("k.f64", 0.1)
    w.add_array("k.strings", ["a", "", "bc"])
    w.add_array("k.ints", [1, -2, 3])
    w.add_array("k.floats", [0.25, -1.5])
    w.add_array("k.bools", [True, False])
    w.add_array("k.nested", [[1, 2], [3]])
    matrix = rng.standard_normal((3, 64)).astype(np.float32)
    w.add_tensor("f32", matrix)
    w.add_tensor("f16", matrix.astype(np.float16))
    w.add_tensor("norm", np.arange(5, dtype=np.float32))
    w.add_tensor("cube", np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    for name in ["BF16", "Q8_0", "Q4_0", "Q4_1"]:
        kind = gguf.GGMLQuantizationType[name]
        w.add_tensor(name.lower(), gguf.quants.quantize(matrix, kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


class Evil:
    def __reduce__(self):
        return (os.system, ("echo owned",))


def pt_files():
    shared = torch.nn.Linear(4, 1)
    gates = torch.nn.ModuleList([shared, shared])
    with torch.no_grad():
        shared.weight.copy_(torch.tensor([[0.5, -1.0, 2.0, 0.25]]))
        shared.bias.fill_(0.125)
    torch.save(gates.state_dict(), path("state_dict.pt"))

    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    torch.save(collections.OrderedDict([
        ("transposed", base.t()), ("column", base[:, 1]), ("block", base[1:3, 2:5]),
        ("slice", base[2]), ("scalar", torch.tensor(3.0)), ("empty", torch.zeros(0, 3)),
        ("expanded", torch.tensor([[7.0]]).expand(2, 3))]), path("strided.pt"))

    values = torch.arange(6).reshape(2, 3)
    torch.save({str(t).removeprefix("torch."): values.to(t) for t in
                [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64,
                 torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]}, path("types.pt"))

    torch.save({"w": torch.nn.Parameter(torch.tensor([1.0, 2.0]))}, path("protocol4.pt"),
               pickle_protocol=4)
    torch.save({"w": torch.tensor([1.0]), "evil": Evil()}, path("evil.pt"))
    torch.save({"w": torch.tensor([1.0]), "epoch": 3}, path("not_a_tensor.pt"))
    torch.save({"w": torch.tensor([1.0])}, path("legacy.pt"), _use_new_zipfile_serialization=False)

    # The same content as state_dict.pt, deflated, as a general zip tool would repack it.
    with zipfile.ZipFile(path("state_dict.pt")) as old, \
            zipfile.ZipFile(path("deflated.pt"), "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            entry = zipfile.ZipInfo(info.filename, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            new.writestr(entry, old.read(info.filename))
    zip64(path("state_dict.pt"), path("zip64.pt"))


def zip64(source, target):
    """Rewrites the directory as that of an archive above 4 GiB: all sizes and offsets in zip64 fields."""
    with zipfile.ZipFile(source) as z:
        infos, start = z.infolist(), z.start_dir
    with open(source, "rb") as f:
        data = f.read()[:start]
    ones, directory = 0xFFFFFFFF, b""
    for i in infos:
        extra = struct.pack("<HHQQQ", 1, 24, i.file_size, i.compress_size, i.header_offset)
        name = i.filename.encode()
        directory += struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 45, 45, i.flag_bits, 0, 0, 33, i.CRC,
                                 ones, ones, len(name), len(extra), 0, 0, 0, 0, ones) + name + extra
    end = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, len(infos), len(infos),
                      len(directory), start)
    end += struct.pack("<IIQI", 0x07064B50, 0, start + len(directory), 1)
    end += struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, ones, ones, 0)
    with open(target, "wb") as f:
        f.write(data + directory + end)
    with zipfile.ZipFile(target) as z:
        assert z.testzip() is None


torch.manual_seed(0)
quantization()
safetensors_files()
gguf_file()
pt_files()
