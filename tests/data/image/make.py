#!/usr/bin/env python3
"""Makes the test data of src/image with Pillow and PyTorch as judges.

  decode/*          small PNG and JPEG files, written byte by byte where Pillow can't write them
  decode.json       size and SHA-256 of Image.open(f).convert("RGB"), stored and upright (EXIF)
  resample.json     SHA-256 of resized test patterns (pattern() below, repeated in C++)

Not needed to run the tests. Made with Pillow 13.0 and torch 2.13 on x86-64 with AVX2. golden/ is
a copy of the outputs of the official TroL preprocessing (Phantom's are the same bytes).
"""
import hashlib
import io
import json
import os
import random
import struct
import zlib

import numpy as np
import torch
from PIL import Image, ImageOps

HERE = os.path.dirname(os.path.abspath(__file__))
DECODE = os.path.join(HERE, "decode")
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
         (0, 1, 1, 2)]  # x0, y0, dx, dy


def sha(data):
    return hashlib.sha256(data).hexdigest()


# ---- PNG --------------------------------------------------------------------------------------


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pack_row(samples, bits):
    if bits == 16:
        return b"".join(struct.pack(">H", s) for s in samples)
    if bits == 8:
        return bytes(samples)
    text = "".join(format(s, f"0{bits}b") for s in samples)
    text += "0" * (-len(text) % 8)
    return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))


def png(samples, bits, colour, interlace=False, before=b"", after=b""):
    """samples: [h][w][channels]. Filter 0 everywhere."""
    h, w = len(samples), len(samples[0])
    raw = b""
    for x0, y0, dx, dy in ADAM7 if interlace else [(0, 0, 1, 1)]:
        for y in range(y0, h, dy):
            row = [s for x in range(x0, w, dx) for s in samples[y][x]]
            if row:
                raw += b"\0" + pack_row(row, bits)
    head = struct.pack(">IIBBBBB", w, h, bits, colour, 0, 0, int(interlace))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before
            + chunk(b"IDAT", zlib.compress(raw, 9)) + after + chunk(b"IEND", b""))


def random_samples(rng, w, h, channels, highest):
    return [[[rng.randint(0, highest) for _ in range(channels)] for _ in range(w)]
            for _ in range(h)]


def png_files(rng):
    files = {}
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
    name = {0: "grey", 2: "rgb", 3: "palette", 4: "greyalpha", 6: "rgba"}
    kinds = [(0, b) for b in (1, 2, 4, 8, 16)] + [(3, b) for b in (1, 2, 4, 8)]
    kinds += [(c, b) for c in (2, 4, 6) for b in (8, 16)]
    for colour, bits in kinds:
        before = b""
        if colour == 3:
            before = chunk(b"PLTE", bytes(rng.randrange(256) for _ in range(3 * 2**bits)))
        samples = random_samples(rng, 13, 11, channels[colour], 2**bits - 1)
        if (colour, bits) == (0, 16):  # half of the values where clipping shows
            for row in samples:
                for x in range(0, 13, 2):
                    row[x] = [rng.randint(0, 300)]
        for interlace in (False, True):
            suffix = "_interlaced" if interlace else ""
            data = png(samples, bits, colour, interlace, before)
            files[f"{name[colour]}{bits}{suffix}.png"] = data
    for w, h in ((1, 1), (1, 5), (5, 1), (2, 3), (9, 8)):
        files[f"rgb8_{w}x{h}_interlaced.png"] = png(random_samples(rng, w, h, 3, 255), 8, 2, True)
    palette = chunk(b"PLTE", bytes(range(30, 30 + 3 * 5)))
    samples = random_samples(rng, 13, 11, 1, 7)
    files["palette8_index_too_large.png"] = png(samples, 8, 3, before=palette)
    files["palette4_index_too_large.png"] = png(samples, 4, 3, before=palette)
    files["palette8_trns.png"] = png(random_samples(rng, 13, 11, 1, 4), 8, 3,
                                     before=palette + chunk(b"tRNS", bytes([0, 128, 255])))
    samples = random_samples(rng, 13, 11, 3, 255)
    colour = struct.pack(">HHH", *samples[0][0])
    files["rgb8_trns.png"] = png(samples, 8, 2, before=chunk(b"tRNS", colour))
    unused = chunk(b"gAMA", struct.pack(">I", 100000)) + chunk(b"tEXt", b"Comment\0hello")
    files["rgb8_gamma_text.png"] = png(samples, 8, 2, before=unused)
    for order, orientation in ((">", 6), ("<", 3)):
        exif = tiff(orientation, order)
        files[f"exif_{orientation}_before.png"] = png(samples, 8, 2, before=chunk(b"eXIf", exif))
        files[f"exif_{orientation}_after.png"] = png(samples, 8, 2, after=chunk(b"eXIf", exif))
    return files


# ---- JPEG -------------------------------------------------------------------------------------


def tiff(orientation, order="<"):
    """A directory with a text field before the orientation."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    text = struct.pack(order + "HHI4s", 0x010F, 2, 4, b"abc\0")
    value = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return head + struct.pack(order + "H", 2) + text + value + struct.pack(order + "I", 0)


def smooth_picture(w, h, channels, seed):
    """Blurred noise: content for which chroma upsampling and the DCT's rounding matter."""
    rng = np.random.RandomState(seed)
    small = rng.randint(0, 256, (max(h // 3, 1), max(w // 3, 1), channels), dtype=np.uint8)
    planes = [Image.fromarray(small[..., c]).resize((w, h), Image.BICUBIC) for c in range(channels)]
    return np.stack([np.asarray(p) for p in planes], -1)


def jpeg(array, mode, **options):
    out = io.BytesIO()
    Image.fromarray(array[..., 0] if mode == "L" else array, mode).save(out, "JPEG", **options)
    return out.getvalue()


def many_scans(count):
    """A valid progressive 8x8 grey JPEG of zeros in `count` scans (at most 63 * 14 + 1)."""
    def segment(marker, data):
        return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data

    out = b"\xff\xd8" + segment(0xDB, b"\0" + bytes([1] * 64))
    out += segment(0xC2, struct.pack(">BHHB", 8, 8, 8, 1) + b"\1\x11\0")
    one_code = bytes([1] + [0] * 15) + b"\0"  # one code of one bit, for symbol 0
    out += segment(0xC4, b"\0" + one_code) + segment(0xC4, b"\x10" + one_code)
    scans = [(0, 0, 0)]
    for low in range(13, -1, -1):
        scans += [(k, 0 if low == 13 else low + 1, low) for k in range(1, 64)]
    for k, high, low in scans[:count]:
        out += segment(0xDA, bytes([1, 1, 0, k, k, high << 4 | low])) + b"\x7f"
    return out + b"\xff\xd9"


def jpeg_files():
    files = {}
    rgb = smooth_picture(45, 37, 3, 1)
    for subsampling, name in ((0, "444"), (1, "422"), (2, "420")):
        for progressive in (False, True):
            suffix = "_progressive" if progressive else ""
            files[f"rgb_{name}{suffix}.jpg"] = jpeg(rgb, "RGB", quality=85, subsampling=subsampling,
                                                    progressive=progressive)
    files["rgb_420_low_quality.jpg"] = jpeg(rgb, "RGB", quality=12, subsampling=2)
    files["rgb_420_restart.jpg"] = jpeg(rgb, "RGB", quality=85, subsampling=2,
                                        restart_marker_blocks=2)
    files["rgb_untransformed.jpg"] = jpeg(rgb, "RGB", quality=85, keep_rgb=True)
    files["rgb_1x1.jpg"] = jpeg(smooth_picture(1, 1, 3, 2), "RGB")
    grey = smooth_picture(45, 37, 1, 3)
    files["grey.jpg"] = jpeg(grey, "L", quality=85)
    files["grey_progressive.jpg"] = jpeg(grey, "L", quality=85, progressive=True)
    cmyk = jpeg(smooth_picture(45, 37, 4, 4), "CMYK", quality=85)
    files["cmyk.jpg"] = cmyk
    adobe = cmyk.index(b"Adobe")
    assert cmyk[adobe + 11] == 0
    files["ycck.jpg"] = cmyk[: adobe + 11] + b"\2" + cmyk[adobe + 12 :]
    plain = files["rgb_444.jpg"]
    cut = plain.index(b"\xff\xdb")
    files["padded_markers.jpg"] = plain[:cut] + b"\xff" * 9 + plain[cut:]
    files["trailing_bytes.jpg"] = plain + b"more"
    small = smooth_picture(9, 6, 3, 5)
    for orientation in range(1, 9):
        exif = b"Exif\0\0" + tiff(orientation, "<>"[orientation % 2])
        files[f"exif_{orientation}.jpg"] = jpeg(small, "RGB", quality=90, exif=exif)
    return files


def make_decode():
    os.makedirs(DECODE, exist_ok=True)
    files = png_files(random.Random(7)) | jpeg_files()
    cases = {}
    for name, data in sorted(files.items()):
        with open(os.path.join(DECODE, name), "wb") as f:
            f.write(data)
        image = Image.open(io.BytesIO(data))
        image.load()
        rgb = image.convert("RGB")
        upright = ImageOps.exif_transpose(image).convert("RGB")
        cases[name] = {"size": rgb.size, "sha256": sha(rgb.tobytes()),
                       "upright_size": upright.size, "upright_sha256": sha(upright.tobytes())}
    with open(os.path.join(HERE, "decode.json"), "w") as f:
        f.write("{\n" + ",\n".join(f' "{k}": {json.dumps(v)}' for k, v in cases.items()) + "\n}\n")
    with open(os.path.join(DECODE, "190_scans.jpg"), "wb") as f:
        f.write(many_scans(190))
    with open(os.path.join(DECODE, "90_scans.jpg"), "wb") as f:
        f.write(many_scans(90))


# ---- Resizing -----------------------------------------------------------------------------------


def noise(count):
    h = np.arange(count, dtype=np.uint32) * np.uint32(2654435761)
    h ^= h >> np.uint32(15)
    h *= np.uint32(2246822519)
    return h ^ (h >> np.uint32(13))


def pattern(kind, w, h):
    """[h, w, 3]: random bytes, only 0 and 255 (overshoot, clamping), or slopes."""
    n = noise(w * h * 3)
    if kind == "noise":
        v = n >> 24
    elif kind == "binary":
        v = (n >> 31) * 255
    else:
        i = np.arange(w * h * 3, dtype=np.uint32)
        v = ((i // 3 % w) * 7 + (i // 3 // w) * 3 + i % 3 * 50) & 255
    return v.astype(np.uint8).reshape(h, w, 3)


# (from, to). The last four stand on both sides of Pillow 13's rule for the order of the passes.
SIZES = [
    ((1, 1), (1, 1)), ((1, 1), (7, 5)), ((7, 5), (1, 1)), ((1, 9), (9, 1)), ((9, 1), (1, 9)),
    ((2, 2), (3, 3)), ((3, 3), (2, 2)), ((5, 3), (448, 448)), ((5, 3), (490, 490)),
    ((100, 1), (1, 100)), ((64, 64), (64, 64)), ((64, 64), (65, 64)), ((64, 64), (64, 63)),
    ((64, 48), (32, 24)), ((64, 48), (128, 96)), ((100, 37), (448, 448)), ((100, 37), (490, 490)),
    ((333, 500), (448, 448)), ((333, 500), (490, 490)), ((640, 480), (224, 224)),
    ((640, 480), (490, 490)), ((640, 480), (896, 448)), ((700, 20), (448, 448)),
    ((20, 700), (448, 448)), ((700, 20), (2688, 448)), ((37, 41), (17, 97)), ((97, 17), (41, 37)),
    ((449, 447), (448, 448)), ((447, 449), (448, 448)), ((491, 489), (490, 490)),
    ((1000, 7), (10, 7)), ((7, 1000), (7, 10)), ((3000, 11), (13, 64)), ((11, 3000), (64, 13)),
    ((256, 256), (255, 257)), ((8, 8), (1000, 3)), ((1023, 767), (31, 33)), ((2, 1), (1, 2)),
    ((400, 300), (399, 299)), ((123, 321), (490, 490)), ((3, 200), (200, 3)),
    ((512, 512), (64, 64)), ((190, 740), (100, 340)), ((66, 54), (64, 47)),
    ((200, 300), (100, 100)), ((200, 300), (100, 99)),
]


def make_resample():
    cases = []
    for i, (source, target) in enumerate(SIZES):
        kind = ("noise", "binary", "slopes")[i % 3]
        pixels = pattern(kind, *source)
        image = Image.fromarray(pixels)
        tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
        resized = torch.nn.functional.interpolate(tensor, size=target[::-1], mode="bicubic",
                                                  align_corners=False)[0].permute(1, 2, 0)
        cases.append({
            "pattern": kind, "from": source, "to": target,
            "pillow_bicubic": sha(image.resize(target, Image.BICUBIC).tobytes()),
            "pillow_bilinear": sha(image.resize(target, Image.BILINEAR).tobytes()),
            "torch_u8": sha(resized.contiguous().numpy().tobytes())})
    with open(os.path.join(HERE, "resample.json"), "w") as f:
        f.write('{"resize": [\n' + ",\n".join(json.dumps(c) for c in cases) + "\n]}\n")


if __name__ == "__main__":
    make_decode()
    make_resample()
