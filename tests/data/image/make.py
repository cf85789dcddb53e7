#!/usr/bin/env python3
"""Makes the test data of src/image with Pillow and PyTorch as judges.

  decode/*          small pictures of every format, written byte by byte where Pillow can't write them
  decode.json       size and SHA-256 of Image.open(f).convert("RGB"), stored and upright (EXIF), and of the picture in
                    front of white where it has transparent parts
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


# ---- WebP ---------------------------------------------------------------------------------------


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def with_alpha(w, h, seed):
    """RGBA whose transparent pixels have colours too."""
    return Image.fromarray(smooth_picture(w, h, 4, seed), "RGBA")


def webp_files():
    files = {}
    rgb, rgba = Image.fromarray(smooth_picture(45, 37, 3, 11)), with_alpha(45, 37, 12)
    for name, options in (("lossy", {"quality": 60}), ("best", {"quality": 100}), ("lossless", {"lossless": True})):
        files[f"rgb_{name}.webp"] = saved(rgb, "WEBP", **options)
        files[f"rgba_{name}.webp"] = saved(rgba, "WEBP", **options)
    files["rgba_exact.webp"] = saved(rgba, "WEBP", lossless=True, exact=True)
    for w, h in ((1, 1), (2, 3), (17, 1)):
        files[f"rgb_{w}x{h}.webp"] = saved(Image.fromarray(smooth_picture(w, h, 3, 13)), "WEBP", quality=80)
    files["exif_6.webp"] = saved(rgb, "WEBP", lossless=True, exif=tiff(6))
    files["exif_8_prefix.webp"] = saved(rgb, "WEBP", lossless=True, exif=b"Exif\0\0" + tiff(8))
    files["moving.webp"] = saved(rgba, "WEBP", save_all=True, append_images=[with_alpha(45, 37, 14)], lossless=True)
    # A first frame that leaves a part of the canvas free: 17 x 9 at (4, 2) of 30 x 20.
    frame = saved(with_alpha(17, 9, 15), "WEBP", lossless=True, exact=True)[12:]
    three = lambda n: struct.pack("<I", n)[:3]
    anmf = three(2) + three(1) + three(16) + three(8) + three(100) + b"\0" + frame
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + b"\x12\0\0\0" + three(29) + three(19)
    body += b"ANIM" + struct.pack("<I", 6) + b"\x40\x80\xc0\xff\0\0"
    body += b"ANMF" + struct.pack("<I", len(anmf)) + anmf
    files["small_frame.webp"] = b"RIFF" + struct.pack("<I", len(body)) + body
    return files


# ---- GIF ----------------------------------------------------------------------------------------


def gif_codes(pixels, bits):
    """LZW without compression: a clear code before the table would grow."""
    clear, size = 1 << bits, bits + 1
    codes = []
    for i in range(0, len(pixels), 2 ** bits - 2):
        codes += [clear] + pixels[i : i + 2 ** bits - 2]
    codes.append(clear + 1)
    value = sum(code << (i * size) for i, code in enumerate(codes))
    data = value.to_bytes((len(codes) * size + 7) // 8, "little")
    out = bytes([bits])
    for i in range(0, len(data), 255):
        out += bytes([len(data[i : i + 255])]) + data[i : i + 255]
    return out + b"\0"


def gif(size, frame, pixels, bits, palette=None, local=None, transparent=None, interlace=False, background=0):
    """frame: x, y, w, h; palettes: bytes of a power of two of colours."""
    flags = lambda colours: 0x80 | (len(colours) // 3).bit_length() - 2 if colours else 0
    out = b"GIF89a" + struct.pack("<HHBBB", *size, flags(palette), background, 0) + (palette or b"")
    out += b"!\xfe\x05hello\0"
    if transparent is not None:
        out += b"!\xf9\x04" + struct.pack("<BHB", 1, 10, transparent) + b"\0"
    rows = list(range(frame[3]))
    if interlace:
        rows = [y for first, step in ((0, 8), (4, 8), (2, 4), (1, 2)) for y in range(first, frame[3], step)]
    stored = [p for y in rows for p in pixels[y * frame[2] : (y + 1) * frame[2]]]
    out += b"," + struct.pack("<HHHHB", *frame, flags(local) | (0x40 if interlace else 0)) + (local or b"")
    return out + gif_codes(stored, bits) + b";"


def gif_files(rng):
    files = {}
    colours = lambda n: bytes(rng.randrange(256) for _ in range(3 * n))
    pixels = lambda w, h, n: [rng.randrange(n) for _ in range(w * h)]
    whole = (0, 0, 13, 11)
    for bits in (2, 3, 5, 8):
        for interlace in (False, True):
            name = f"palette{bits}{'_interlaced' if interlace else ''}.gif"
            files[name] = gif((13, 11), whole, pixels(13, 11, 2**bits), bits, colours(2**bits), interlace=interlace)
    files["local.gif"] = gif((13, 11), whole, pixels(13, 11, 16), 4, colours(8), colours(16))
    files["no_palette.gif"] = gif((13, 11), whole, pixels(13, 11, 256), 8)
    files["grey_ramp.gif"] = gif((13, 11), whole, pixels(13, 11, 256), 8, bytes(i for i in range(256) for _ in range(3)))
    files["index_too_large.gif"] = gif((13, 11), whole, pixels(13, 11, 16), 4, colours(8))
    files["transparent.gif"] = gif((13, 11), whole, pixels(13, 11, 8), 3, colours(8), transparent=5)
    files["small_frame.gif"] = gif((13, 11), (3, 2, 6, 5), pixels(6, 5, 8), 3, colours(8), background=3)
    files["small_frame_transparent.gif"] = gif((13, 11), (3, 2, 6, 5), pixels(6, 5, 8), 3, colours(8), transparent=6)
    files["large_frame.gif"] = gif((5, 4), (3, 2, 6, 5), pixels(6, 5, 8), 3, colours(8))
    first, second = (Image.fromarray(smooth_picture(45, 37, 3, seed)) for seed in (21, 22))
    files["moving.gif"] = saved(first, "GIF", save_all=True, append_images=[second])
    files["pillow_1x1.gif"] = saved(Image.new("RGB", (1, 1), (9, 8, 7)), "GIF")
    files["pillow_interlaced.gif"] = saved(first, "GIF", interlace=True)
    return files


# ---- BMP ----------------------------------------------------------------------------------------


def bmp(width, height, bits, rows, palette=b"", compression=0, masks=b"", size=40, colours=0, gap=b""):
    if size == 12:
        head = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        head = struct.pack("<IiiHHIIiiII", size, width, height, 1, bits, compression, len(rows), 0, 0, colours, 0)
        head += (masks if size > 40 else b"").ljust(size - 40, b"\0")
        head += masks if size == 40 else b""
    offset = 14 + len(head) + len(palette) + len(gap)
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + head + palette + gap + rows


def bmp_files(rng):
    files = {}
    random_bytes = lambda n: bytes(rng.randrange(256) for _ in range(n))
    stride = lambda w, bits: (w * bits + 31) // 32 * 4
    entries = lambda n: b"".join(random_bytes(3) + b"\0" for _ in range(n))
    for bits in (1, 4, 8):
        rows = random_bytes(stride(13, bits) * 11)
        files[f"palette{bits}.bmp"] = bmp(13, 11, bits, rows, entries(2**bits))
        files[f"palette{bits}_from_top.bmp"] = bmp(13, -11, bits, rows, entries(2**bits))
        files[f"palette{bits}_os2.bmp"] = bmp(13, 11, bits, rows, random_bytes(3 * 2**bits), size=12)
    rows = random_bytes(stride(13, 8) * 11)
    files["palette8_few.bmp"] = bmp(13, 11, 8, bytes(b % 16 for b in rows), entries(16), colours=16)
    files["palette8_index_too_large.bmp"] = bmp(13, 11, 8, rows, entries(100), colours=100)
    grey = b"".join(bytes([i, i, i, 0]) for i in range(256))
    files["grey8.bmp"] = bmp(13, 11, 8, rows, grey, gap=b"\1\2\3\4")
    for size in (12, 40, 64, 108, 124):
        files[f"rgb24_header{size}.bmp"] = bmp(13, 11, 24, random_bytes(stride(13, 24) * 11), size=size)
    files["rgb16.bmp"] = bmp(13, 11, 16, random_bytes(stride(13, 16) * 11))
    files["rgb32.bmp"] = bmp(13, 11, 32, random_bytes(stride(13, 32) * 11))
    pack = lambda *masks: struct.pack(f"<{len(masks)}I", *masks)
    for name, bits, size, masks in (
            ("565", 16, 40, pack(0xF800, 0x7E0, 0x1F)), ("555", 16, 108, pack(0x7C00, 0x3E0, 0x1F, 0)),
            ("bgrx", 32, 40, pack(0xFF0000, 0xFF00, 0xFF)), ("xbgr", 32, 56, pack(0xFF000000, 0xFF0000, 0xFF00, 0)),
            ("bgra", 32, 124, pack(0xFF0000, 0xFF00, 0xFF, 0xFF000000)), ("rgba", 32, 108, pack(0xFF, 0xFF00, 0xFF0000, 0xFF000000)),
            ("abgr", 32, 56, pack(0xFF000000, 0xFF0000, 0xFF00, 0xFF)), ("zeros", 32, 56, pack(0, 0, 0, 0))):
        files[f"fields_{name}.bmp"] = bmp(13, 11, bits, random_bytes(stride(13, bits) * 11), compression=3, masks=masks, size=size)
    runs = b"".join(bytes([5, rng.randrange(256), 8, rng.randrange(256), 0, 0]) for _ in range(4))
    runs += bytes([0, 5, 1, 2, 3, 4, 5, 0, 8, 9, 0, 0]) + bytes([0, 2, 3, 2, 4, 77, 0, 0]) + bytes([13, 9, 0, 0] * 3 + [0, 1])
    files["rle8.bmp"] = bmp(13, 11, 8, runs, entries(256), compression=1)
    runs = b"".join(bytes([5, rng.randrange(256), 8, rng.randrange(256), 0, 0]) for _ in range(4))
    runs += bytes([0, 5, 0x12, 0x34, 0x50, 0, 8, 0x9A, 0, 0]) + bytes([13, 0x5C, 0, 0] * 6 + [0, 1])
    files["rle4.bmp"] = bmp(13, 11, 4, runs, entries(16), compression=2)
    files["pillow_rgb.bmp"] = saved(Image.fromarray(smooth_picture(45, 37, 3, 31)), "BMP")
    files["pillow_1.bmp"] = saved(Image.fromarray(smooth_picture(45, 37, 3, 31)).convert("1"), "BMP")
    return files


# ---- TIFF ---------------------------------------------------------------------------------------


def tiff_file(fields, data, order="<"):
    """One directory; `data` is one strip, or a list of them. fields: tag -> (type, values)."""
    strips = data if isinstance(data, list) else [data]
    kinds = {3: "H", 4: "I"}
    head, offsets, body = 8, [], b""
    for strip in strips:
        offsets.append(head + len(body))
        body += strip + b"\0" * (len(strip) % 2)
    fields = dict(fields)
    places, lengths = (324, 325) if 322 in fields else (273, 279)
    fields[places], fields[lengths] = (4, offsets), (4, [len(strip) for strip in strips])
    at = head + len(body)
    directory, extra = b"", b""
    start = at + 2 + 12 * len(fields) + 4
    for tag, (kind, values) in sorted(fields.items()):
        packed = struct.pack(f"{order}{len(values)}{kinds[kind]}", *values)
        if len(packed) > 4:
            value = struct.pack(order + "I", start + len(extra))
            extra += packed
        else:
            value = packed.ljust(4, b"\0")
        directory += struct.pack(order + "HHI", tag, kind, len(values)) + value
    return ((b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at) + body
            + struct.pack(order + "H", len(fields)) + directory + struct.pack(order + "I", 0) + extra)


def tiff_files(rng):
    files = {}
    random_bytes = lambda n: bytes(rng.randrange(256) for _ in range(n))
    w, h = 13, 11

    def one(bits, samples, photometric, more=None, order="<", data=None):
        row = (w * bits * samples + 7) // 8
        fields = {256: (3, [w]), 257: (3, [h]), 258: (3, [bits] * samples), 259: (3, [1]), 262: (3, [photometric]), 277: (3, [samples]),
                  278: (3, [h])}
        return tiff_file(fields | (more or {}), data or random_bytes(row * h), order)

    for bits in (1, 2, 4, 8):
        for photometric, name in ((0, "white_is_zero"), (1, "grey")):
            files[f"{name}{bits}.tif"] = one(bits, 1, photometric)
        colours = [rng.randrange(65536) for _ in range(3 * 2**bits)]
        files[f"palette{bits}.tif"] = one(bits, 1, 3, {320: (3, colours)})
    for order, name in (("<", "le"), (">", "be")):
        values = [rng.randrange(300) for _ in range(w * h)]
        files[f"grey16_{name}.tif"] = one(16, 1, 1, order=order, data=struct.pack(f"{order}{w * h}H", *values))
        files[f"rgb16_{name}.tif"] = one(16, 3, 2, order=order)
        files[f"rgba16_{name}.tif"] = one(16, 4, 2, {338: (3, [2])}, order=order)
        files[f"rgb8_{name}.tif"] = one(8, 3, 2, order=order)
    files["white_is_zero16.tif"] = one(16, 1, 0, data=struct.pack(f"<{w * h}H", *values))
    files["grey_alpha.tif"] = one(8, 2, 1, {338: (3, [2])})
    files["grey_unused.tif"] = one(8, 2, 1, {338: (3, [0])})
    files["palette_alpha.tif"] = one(8, 2, 3, {338: (3, [2]), 320: (3, [rng.randrange(65536) for _ in range(768)])})
    for extra, name in ((None, "unsaid"), (0, "unused"), (1, "premultiplied"), (2, "alpha")):
        files[f"rgba_{name}.tif"] = one(8, 4, 2, {338: (3, [extra])} if extra is not None else {})
    files["rgb_two_more.tif"] = one(8, 5, 2, {338: (3, [2, 0])})
    files["cmyk.tif"] = one(8, 4, 5)
    files["cmyk16.tif"] = one(16, 4, 5)
    files["planes.tif"] = one(8, 3, 2, {284: (3, [2])}, data=[random_bytes(w * h) for _ in range(3)])
    files["strips.tif"] = one(8, 3, 2, {278: (3, [4])}, data=[random_bytes(w * 3 * n) for n in (4, 4, 3)])
    tile = {322: (3, [16]), 323: (3, [16])}
    fields = {256: (3, [35]), 257: (3, [20]), 258: (3, [8, 8, 8]), 259: (3, [1]), 262: (3, [2]), 277: (3, [3])} | tile
    files["tiles.tif"] = tiff_file(fields, [random_bytes(16 * 16 * 3) for _ in range(6)])
    for orientation in range(1, 9):
        files[f"orientation_{orientation}.tif"] = one(8, 3, 2, {274: (3, [orientation])})
    files["bits_reversed.tif"] = one(1, 1, 1, {266: (3, [2])})
    rgb, rgba = Image.fromarray(smooth_picture(45, 37, 3, 41)), with_alpha(45, 37, 42)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        files[f"pillow_{compression}.tif"] = saved(rgb, "TIFF", compression=compression)
    files["pillow_lzw_difference.tif"] = saved(rgb, "TIFF", compression="tiff_lzw", tiffinfo={317: 2})
    files["pillow_rgba_lzw.tif"] = saved(rgba, "TIFF", compression="tiff_lzw")
    files["pillow_group4.tif"] = saved(rgb.convert("1"), "TIFF", compression="group4")
    files["pillow_grey_jpeg.tif"] = saved(rgb.convert("L"), "TIFF", compression="jpeg")
    files["pillow_palette_lzw.tif"] = saved(rgb.quantize(40), "TIFF", compression="tiff_lzw")
    files["pillow_ycbcr.tif"] = saved(rgb.convert("YCbCr"), "TIFF", compression="tiff_lzw")
    files["pillow_pages.tif"] = saved(rgb, "TIFF", save_all=True, append_images=[rgba])
    return files


def make_decode():
    os.makedirs(DECODE, exist_ok=True)
    files = png_files(random.Random(7)) | jpeg_files() | webp_files() | gif_files(random.Random(8))
    files |= bmp_files(random.Random(9)) | tiff_files(random.Random(10))
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
        if image.has_transparency_data:
            white = Image.new("RGB", rgb.size, "white")
            white.paste(rgb, mask=image.convert("RGBA").getchannel("A"))
            cases[name]["white_sha256"] = sha(white.tobytes())
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
    import torch  # its resizing is judged too
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
