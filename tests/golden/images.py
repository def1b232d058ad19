"""python tests/golden/images.py: writes tests/golden/images/: small images of every kind that a data set may hold, and
expected.safetensors with the RGB values (H, W, 3) that decoding them must give, by file name. Needs Pillow, pillow-heif and NumPy.

Where Pillow is right the values are those of Image.open(f).convert("RGB"), which is what torchvision's ImageFolder does:
alpha is dropped, the EXIF orientation is applied to TIFF alone, CMYK is converted without a profile. Where Pillow clips instead of scaling
(16-bit grey, float, signed) the values follow docs/data.md: (value - low) / (high - low) * 255, rounded, low and high of the
type or of data.range; they are computed here by NumPy. Names that end in "@range" are decoded with the range in RANGES,
names that end in "@exif" with the EXIF orientation applied, "@stored" without."""
import io
import json
import os
import struct
import zlib

import numpy as np
import pillow_heif
from PIL import Image, ImageOps

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "images")
H, W = 16, 24
expected, RANGES = {}, {}


def scene():  # (H, W, 3): smooth, no two corners alike, with one sharp block
    y, x = np.mgrid[0:H, 0:W].astype(np.float64)
    rgb = np.stack([255 * x / (W - 1), 255 * y / (H - 1), 255 * (x + y) / (H + W - 2)], -1)
    rgb[2:6, 3:9] = (230, 40, 90)
    return rgb.round().astype(np.uint8)


RGB = scene()
GREY = (RGB.astype(int).sum(-1) // 3).astype(np.uint8)
IMAGE = Image.fromarray(RGB)


def path(name):
    return os.path.join(OUT, name)


def by_pillow(name, key=None):
    with Image.open(path(name)) as im:
        expected[key or name] = np.asarray(im.convert("RGB"))


def save(name, im, **options):
    im.save(path(name), **options)
    by_pillow(name)


def write(name, data):
    with open(path(name), "wb") as f:
        f.write(data)


def tiff(name, planes, bits, sample_format, photometric, planar, extra=0):
    """A TIFF with one strip per plane. planes: (H, W) or (H, W, N), of the type that is stored."""
    a = planes if planes.ndim == 3 else planes[..., None]
    n = a.shape[2]
    strips = [a[..., i].tobytes() for i in range(n)] if planar == 2 else [a.tobytes()]
    body = b"".join(strips)
    start, offsets = 8, []
    for s in strips:
        offsets.append(start)
        start += len(s)
    tags, more = [], b""

    def tag(code, kind, values):  # kind 3: u16, 4: u32
        nonlocal more
        packed = struct.pack("<%d%s" % (len(values), "H" if kind == 3 else "I"), *values)
        if len(packed) <= 4:
            value = packed.ljust(4, b"\0")
        else:
            value = struct.pack("<I", start + len(more))
            more += packed
        tags.append(struct.pack("<HHI", code, kind, len(values)) + value)

    tag(256, 4, [a.shape[1]])
    tag(257, 4, [a.shape[0]])
    tag(258, 3, [bits] * n)
    tag(259, 3, [1])
    tag(262, 3, [photometric])
    tag(273, 4, offsets)
    tag(277, 3, [n])
    tag(278, 4, [a.shape[0]])
    tag(279, 4, [len(s) for s in strips])
    tag(284, 3, [planar])
    if extra:
        tag(338, 3, [0] * extra)
    tag(339, 3, [sample_format] * n)
    ifd = start + len(more)
    write(name, b"II*\0" + struct.pack("<I", ifd) + body + more + struct.pack("<H", len(tags)) + b"".join(tags) + b"\0" * 4)


def scaled(a, low, high):
    v = np.clip((a.astype(np.float64) - low) / (high - low), 0, 1) * 255
    v = np.floor(v + .5).astype(np.uint8)
    return np.repeat(v[..., None], 3, -1) if v.ndim == 2 else v


def bmp(name, bits, compression, rows, palette=b"", masks=b"", down=False):
    start = 54 + len(masks) + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, W, -H if down else H, 1, bits, compression, len(rows), 0, 0, 0, 0)
    write(name, b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + header + masks + palette + rows)
    by_pillow(name)


def run_lengths(index, four):
    """Rows of palette numbers, bottom row first, as runs and as stretches that are stored as they are."""
    out = b""
    for row in index[::-1].tolist():
        x = 0
        while x < W:
            n = 1
            while not four and x + n < W and row[x + n] == row[x]:
                n += 1
            k = min(6, W - x)
            if n > 1 or k < 3:
                out += bytes([n, row[x] * 17 if four else row[x]])
                x += n
                continue
            part = row[x:x + k]
            data = bytes(part[i] << 4 | part[i + 1] for i in range(0, k, 2)) if four else bytes(part)
            out += bytes([0, k]) + data + b"\0" * (len(data) % 2)
            x += k
        out += b"\0\0"
    return out + b"\0\1"


def bitmaps(cmyk):  # more of BMP, PNM, PNG and TIFF
    save("bits.bmp", IMAGE.convert("1"))
    five = RGB.astype(np.uint16) >> 3
    bmp("bits555.bmp", 16, 0, (five[..., 0] << 10 | five[..., 1] << 5 | five[..., 2])[::-1].astype("<u2").tobytes())
    six = five[..., 0] << 11 | (RGB[..., 1].astype(np.uint16) >> 2) << 5 | five[..., 2]
    bmp("bits565.bmp", 16, 3, six[::-1].astype("<u2").tobytes(), masks=struct.pack("<III", 0xf800, 0x7e0, 0x1f))
    bgrx = np.dstack([RGB[..., ::-1], np.full((H, W), 200, np.uint8)])
    bmp("bits32.bmp", 32, 0, bgrx[::-1].tobytes())
    bmp("downward.bmp", 32, 0, bgrx.tobytes(), down=True)
    sixteen = IMAGE.quantize(16)
    index = np.asarray(sixteen)
    colours = np.zeros((16, 4), np.uint8)
    own = np.array(sixteen.getpalette()[:48], np.uint8).reshape(-1, 3)
    colours[:len(own), :3] = own[:, ::-1]
    bmp("bits4.bmp", 4, 0, (index[:, ::2] << 4 | index[:, 1::2])[::-1].tobytes(), palette=colours.tobytes())
    bmp("runs4.bmp", 4, 2, run_lengths(index, True), palette=colours.tobytes())
    bmp("runs8.bmp", 8, 1, run_lengths(index, False), palette=colours.tobytes() + bytes(240 * 4))
    for name, head, values in (("maximum100.ppm", b"P6 24 16 100\n", np.minimum(RGB // 3, 100)),
                               ("maximum1000.ppm", b"P6\n24 16\n1000\n", (RGB.astype(np.uint16) * 3).astype(">u2"))):
        write(name, head + values.tobytes())
        by_pillow(name)
    write("ascii.pbm", b"P1\n24 16\n" + b"\n".join(b"".join(b"%d" % v for v in row) for row in GREY < 128))
    by_pillow("ascii.pbm")
    write("ascii.pgm", b"P2 #c\n24 16 255\n" + b" ".join(b"%d" % v for v in GREY.ravel()))
    by_pillow("ascii.pgm")
    deep = RGB.astype(np.uint16) * 200 + 77
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", W, H, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    write("colour16.png", b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks))
    by_pillow("colour16.png")
    tiff("colour16.tif", deep, 16, 1, 2, 1)
    by_pillow("colour16.tif")
    wide = GREY.astype(np.uint32) * 16843009
    tiff("unsigned32.tif", wide, 32, 1, 1, 1)
    expected["unsigned32.tif"] = scaled(wide, 0, 2**32 - 1)
    signed = (GREY.astype(np.int16) - 128).astype(np.int8)
    tiff("signed8.tif", signed, 8, 2, 1, 1)
    expected["signed8.tif"] = scaled(signed, -128, 127)
    tiff("planar_cmyk.tif", np.asarray(cmyk), 8, 1, 5, 2)
    expected["planar_cmyk.tif"] = np.asarray(cmyk.convert("RGB"))
    tiff("planar_grey.tif", np.dstack([GREY, GREY]), 8, 1, 1, 2, extra=1)  # refused
    IMAGE.convert("YCbCr").save(path("ycbcr.tif"))  # refused
    save("jpeg.tif", IMAGE, compression="jpeg")
    save("deflate.tif", IMAGE, compression="tiff_adobe_deflate")
    frames = [IMAGE.quantize(16), Image.fromarray(GREY).quantize(16)]
    save("animation.gif", frames[0], save_all=True, append_images=frames[1:], loop=0)
    save("animation.webp", IMAGE, save_all=True, append_images=[IMAGE.rotate(180)], lossless=True)


def heif():  # HEIC without loss; AVIF nearly so, the same 4:4:4
    pillow_heif.register_heif_opener()
    lossless = dict(quality=-1, chroma=444, matrix_coefficients=0)
    save("rgb.heic", IMAGE, **lossless)
    grey = Image.fromarray(GREY)
    save("grey.heic", grey, quality=-1)
    save("rgb.avif", IMAGE, quality=100, subsampling="4:4:4")
    for name in ("rgb.heic", "rgb.avif"):
        with open(path(name), "rb") as f:
            whole = f.read()
        write("truncated_" + name, whole[:len(whole) * 6 // 10])


def main():
    os.makedirs(OUT, exist_ok=True)
    for name in os.listdir(OUT):
        os.remove(path(name))
    # plain
    save("rgb.bmp", IMAGE)
    save("grey.bmp", Image.fromarray(GREY))
    save("palette.bmp", IMAGE.quantize(32))
    save("rgb.ppm", IMAGE)
    save("grey.pgm", Image.fromarray(GREY))
    write("ascii.ppm", b"P3\n# a comment\n%d %d\n255\n" % (W, H) + b" ".join(b"%d" % v for v in RGB.ravel()) + b"\n")
    expected["ascii.ppm"] = RGB
    write("bits.pbm", b"P4\n%d %d\n" % (W, H) + np.packbits(GREY < 128, axis=1).tobytes())
    by_pillow("bits.pbm")
    save("rgb.png", IMAGE)
    save("grey.png", Image.fromarray(GREY))
    save("palette.png", IMAGE.quantize(32))
    save("rgb.webp", IMAGE, lossless=True)
    save("rgb.tif", IMAGE)
    save("lzw.tif", IMAGE, compression="tiff_lzw")
    save("rgb.gif", IMAGE.quantize(64))
    save("rgb444.jpg", IMAGE, quality=95, subsampling=0)
    save("rgb420.jpg", IMAGE, quality=90, subsampling=2)
    save("progressive.jpg", IMAGE, quality=90, progressive=True)
    save("grey.jpg", Image.fromarray(GREY), quality=95)
    # alpha: dropped
    alpha = np.full((H, W), 255, np.uint8)
    alpha[:, W // 2:] = 0
    rgba = Image.fromarray(np.dstack([RGB, alpha]))
    save("alpha.png", rgba)
    save("alpha.webp", rgba, lossless=True, exact=True)
    save("alpha.tif", rgba)
    save("grey_alpha.png", Image.fromarray(np.dstack([GREY, alpha])))
    save("transparent.gif", IMAGE.quantize(64), transparency=3)
    save("transparent.png", IMAGE.quantize(32), transparency=5)
    # CMYK: one rule for JPEG and TIFF
    cmyk = IMAGE.convert("CMYK")
    save("cmyk.tif", cmyk)
    save("cmyk.jpg", cmyk, quality=95)
    # EXIF orientation: not applied, or applied with data.orient="exif"
    for o in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = o
        for ending, options in ((".jpg", dict(quality=95, subsampling=0)), (".png", {}), (".webp", dict(lossless=True)), (".tif", {})):
            if ending != ".jpg" and o not in (3, 6):
                continue
            name = "exif%d%s" % (o, ending)
            save(name, IMAGE, exif=exif, **options)   # as Pillow decodes: TIFF turned, the others not
            with Image.open(path(name)) as im:
                im.load()
                expected[name + "@exif"] = np.asarray(ImageOps.exif_transpose(im).convert("RGB"))
            if ending == ".tif":
                expected[name + "@stored"] = RGB
    # depths: scaled, never clipped
    deep = (np.arange(H * W).reshape(H, W) * 170 + 300).astype(np.uint16)
    Image.fromarray(deep).save(path("grey16.png"))
    expected["grey16.png"] = scaled(deep, 0, 65535)
    tiff("grey16.tif", deep, 16, 1, 1, 1)
    expected["grey16.tif"] = scaled(deep, 0, 65535)
    twelve = (deep // 16).astype(np.uint16)
    Image.fromarray(twelve).save(path("grey12in16.png"))
    expected["grey12in16.png"] = scaled(twelve, 0, 65535)
    expected["grey12in16.png@range"], RANGES["grey12in16.png"] = scaled(twelve, 0, 4095), (0, 4095)
    rgb16 = RGB.astype(np.uint16) * 257
    tiff("rgb16.tif", rgb16, 16, 1, 2, 1)
    expected["rgb16.tif"] = RGB
    signed = (deep.astype(np.int32) - 32768).astype(np.int16)
    tiff("signed16.tif", signed, 16, 2, 1, 1)
    expected["signed16.tif"] = scaled(signed, -32768, 32767)
    real = (deep / 65535).astype(np.float32)
    tiff("float32.tif", real, 32, 3, 1, 1)
    expected["float32.tif"] = scaled(real, 0, 1)
    tiff("float_wide.tif", (real * 4000 - 1000).astype(np.float32), 32, 3, 1, 1)
    expected["float_wide.tif@range"], RANGES["float_wide.tif"] = scaled(real * 4000 - 1000, -1000, 3000), (-1000, 3000)
    # planes
    tiff("planar3.tif", RGB, 8, 1, 2, 2)
    expected["planar3.tif"] = RGB
    four = np.dstack([RGB, 255 - GREY])
    tiff("planar4.tif", four, 8, 1, 1, 2, extra=3)   # four bands without a meaning: right, or refused by name
    tiff("bands4.tif", four, 8, 1, 1, 1, extra=3)
    # damage that other decoders still read
    plain = io.BytesIO()
    IMAGE.resize((96, 64), Image.BICUBIC).save(plain, "JPEG", quality=90, restart_marker_blocks=4)
    data = plain.getvalue()
    write("whole.jpg", data)
    by_pillow("whole.jpg")
    write("stray_rst.jpg", data[:-2] + b"\xff\xd3" + data[-2:])
    write("early_eoi.jpg", data[:len(data) * 3 // 4] + b"\xff\xd9")
    for name in ("stray_rst.jpg", "early_eoi.jpg"):
        by_pillow(name)
    # cut off: called truncated
    for name in ("rgb.png", "rgb.tif", "rgb.bmp", "rgb.ppm", "whole.jpg", "rgb.webp", "rgb.gif"):
        with open(path(name), "rb") as f:
            whole = f.read()
        write("truncated_" + name, whole[:len(whole) * 6 // 10])
    bitmaps(cmyk)
    heif()
    # one safetensors file of all that is expected
    header, at = {"__metadata__": {"ranges": json.dumps(RANGES)}}, 0
    for key in sorted(expected):
        a = np.ascontiguousarray(expected[key])
        assert a.dtype == np.uint8 and a.ndim == 3 and a.shape[2] == 3, key
        header[key] = {"dtype": "U8", "shape": list(a.shape), "data_offsets": [at, at + a.size]}
        at += a.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    write("expected.safetensors", struct.pack("<Q", len(text)) + text + b"".join(np.ascontiguousarray(expected[k]).tobytes() for k in sorted(expected)))


main()
