"""Makes quants/NAME.safetensors for quantized types that are read: blocks, and their values.

    python make_quants.py NAME...        (needs numpy, safetensors, gguf)

The blocks are random bytes, so that every bit of a block counts, but for those whose scales happen
to be no numbers. The values are what the Python package `gguf` (gguf.quants) makes of them.
"""
import os
import sys

import gguf
import numpy as np
from safetensors.numpy import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
BLOCKS = 12

for name in sys.argv[1:]:
    kind = gguf.GGMLQuantizationType[name]
    values, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(kind.value)
    blocks, floats = [], []
    while len(blocks) < BLOCKS:
        block = rng.integers(0, 256, (1, size), dtype=np.uint8)
        if len(blocks) < 2:
            block[0, 0] = len(blocks)  # the exponent of MXFP4: below 2 values are no normal floats
        with np.errstate(all="ignore"):
            found = gguf.quants.dequantize(block, kind)
        if np.isfinite(found).all():
            blocks.append(block)
            floats.append(found.reshape(1, values))
    save_file({"blocks": np.concatenate(blocks), "values": np.concatenate(floats)},
              os.path.join(HERE, "quants", name + ".safetensors"))
