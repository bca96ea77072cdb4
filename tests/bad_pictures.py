"""Pictures that are cut, lie, explode or are merely strange: real formats first, then what is put together by hand."""

import io
import random
import struct
import zlib
from collections.abc import Iterator
from functools import cache

import numpy as np
from PIL import Image, ImageOps

Files = Iterator[tuple[str, bytes]]
SIZE = (96, 64)


def picture(mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    """Soft shades and some noise, so that every coder has something to do."""
    draw = np.random.default_rng(5)
    across, down = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    shades = np.stack([across, down, 255 - across], axis=-1) + draw.normal(0, 12, (size[1], size[0], 3))
    return Image.fromarray(shades.clip(0, 255).astype("uint8")).convert(mode)


def encoded(image: Image.Image, format: str, **how) -> bytes:
    content = io.BytesIO()
    image.save(content, format, **how)
    return content.getvalue()


def frames(count: int = 3) -> dict:
    return {"save_all": True, "append_images": [ImageOps.invert(picture())] * (count - 1), "duration": 50}


def chunk(kind: bytes, content: bytes = b"", crc: int | None = None, length: int | None = None) -> bytes:
    checked = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content) if length is None else length) + kind + content + struct.pack(">I", checked)


def png(header: bytes, *chunks: bytes, pixels: bytes = b"") -> bytes:
    body = chunk(b"IDAT", pixels) if pixels else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + body + chunk(b"IEND")


def ihdr(width: int, height: int, depth: int = 8, colour: int = 2, interlaced: int = 0) -> bytes:
    return struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)


@cache
def zeros(count: int) -> bytes:
    """So many of them, deflated."""
    made, block, parts = zlib.compressobj(9), bytes(1 << 20), []
    for _ in range(count >> 20):
        parts.append(made.compress(block))
    return b"".join([*parts, made.compress(bytes(count & 0xFFFFF)), made.flush()])


def tags(entries: list[tuple[int, int, int, int | bytes]], after: int = 0, start: int = 8) -> bytes:
    """A little-endian TIFF's beginning and first list of tags; bytes come behind it, numbers stand as they are."""
    rest, at = b"", start + 2 + 12 * len(entries) + 4
    listed = struct.pack("<H", len(entries))
    for tag, kind, count, value in entries:
        if isinstance(value, bytes):
            value, rest = at + len(rest), rest + value
        listed += struct.pack("<HHLL", tag, kind, count, value)
    return b"II*\0" + struct.pack("<L", start) + listed + struct.pack("<L", after) + rest


def tiff(width: int, height: int, *more: tuple[int, int, int, int | bytes], data: bytes = b"\x7f" * 6144) -> bytes:
    """One grey strip, unless `more` says otherwise."""
    entries = {each[0]: each for each in ((256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1))}
    entries |= {262: (262, 3, 1, 1), 273: (273, 4, 1, 0), 277: (277, 3, 1, 1), 278: (278, 4, 1, height)}
    entries |= {279: (279, 4, 1, len(data))} | {each[0]: each for each in more}
    listed = [entries[tag] for tag in sorted(entries)]
    behind = len(tags(listed))
    listed = [(273, 4, 1, behind) if each == (273, 4, 1, 0) else each for each in listed]
    return tags(listed) + data


def originals() -> dict[str, bytes]:
    """Sound files of every kind that is read here, and of some that are not; small."""
    grey16 = Image.fromarray(np.arange(96 * 64, dtype="uint16").reshape(64, 96) * 10)
    pages = {"save_all": True, "append_images": [picture(), picture()]}
    return {
        "baseline.jpg": encoded(picture(), "JPEG"),
        "progressive.jpg": encoded(picture(), "JPEG", progressive=True),
        "plain.png": encoded(picture(), "PNG"),
        "interlaced.png": png(ihdr(8, 8, 8, 0, 1), pixels=zlib.compress(bytes(200))),
        "16 bit.png": encoded(grey16, "PNG"),
        "palette.png": encoded(picture("P"), "PNG"),
        "animated.png": encoded(picture(), "PNG", **frames()),
        "lossy.webp": encoded(picture(), "WEBP"),
        "lossless.webp": encoded(picture(), "WEBP", lossless=True),
        "animated.webp": encoded(picture(), "WEBP", **frames()),
        "animated.gif": encoded(picture(), "GIF", **frames()),
        "plain.bmp": encoded(picture(), "BMP"),
        "strips.tif": encoded(picture(), "TIFF"),
        "lzw.tif": encoded(picture(), "TIFF", compression="tiff_lzw"),
        "deflate.tif": encoded(picture(), "TIFF", compression="tiff_adobe_deflate"),
        "jpeg.tif": encoded(picture(), "TIFF", compression="jpeg"),
        "tiles.tif": tiff(96, 64, (322, 4, 1, 96), (323, 4, 1, 64), (324, 4, 1, bytes(6144)), (325, 4, 1, 6144)),
        "big.tif": encoded(picture(), "TIFF", big_tiff=True),
        "pages.tif": encoded(picture(), "TIFF", **pages),
        "plain.avif": encoded(picture(), "AVIF"),
        "plain.ico": encoded(picture(), "ICO", sizes=[(32, 32)]),
        "iphone.heic": b"\0\0\0\x24ftypheic\0\0\0\0mif1MiHEmiaf" + bytes(400),
    }


def cut() -> Files:
    for name, content in originals().items():
        for share in range(0, 100, 5):
            stem, _, ending = name.rpartition(".")
            yield f"cut/{stem} at {share}.{ending}", content[: len(content) * share // 100]


def strange() -> Files:
    """Whole, but rarely seen."""
    for mode in ("1", "L", "LA", "PA", "P", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I", "F", "RGBA", "RGBX"):
        image = picture("L" if mode in ("LAB", "HSV") else "RGB")
        image = Image.merge(mode, [image] * 3) if mode in ("LAB", "HSV") else _in_mode(image, mode)
        for format, ending in (("PNG", "png"), ("TIFF", "tif"), ("JPEG", "jpg"), ("GIF", "gif"), ("WEBP", "webp")):
            try:
                content = encoded(image, format)
            except (OSError, ValueError, KeyError):
                continue
            yield f"strange/{mode.replace(';', '')}.{ending}", content
    yield "strange/transparency.png", encoded(picture("P"), "PNG", transparency=bytes(range(256)))
    inverted = encoded(picture("CMYK"), "JPEG")
    yield "strange/YCCK of Adobe.jpg", inverted.replace(b"Adobe\0\x64\0\0\0\0\0", b"Adobe\0\x64\0\0\0\0\x02")
    for way in range(10):
        info = Image.Exif()
        info[0x0112] = way
        yield f"strange/turned {way}.jpg", encoded(picture(), "JPEG", exif=info)
    jpeg = encoded(picture(), "JPEG")
    for what, block in (
        ("is a word", tags([(0x0112, 2, 8, b"upright\0")])),
        ("is a float", tags([(0x0112, 11, 1, 0x7FC00000)])),
        ("is many", tags([(0x0112, 3, 9, bytes(range(18)))])),
        ("loops", tags([(0x0112, 3, 1, 6), (0x8769, 4, 1, 8), (0x8825, 4, 1, 8)], after=8)),
        ("leads nowhere", tags([(0x0112, 3, 1, 6), (0x8769, 4, 1, 0xFFFFFFF0)], after=0xFFFFFFFF)),
        ("names the same again and again", tags([(n, 7, 60_000, 8) for n in range(4000)]) + bytes(12_000)),
        ("has a count without end", tags([(0x0112, 5, 0xFFFFFFFF, 8), (0x013B, 2, 0xFFFFFFFF, 8)])),
        ("is empty", b""),
        ("has no tags", b"II*\0\x08\0\0\0\xff\xff"),
    ):
        yield f"strange/EXIF {what}.jpg", jpeg[:2] + segment(0xE1, b"Exif\0\0" + block) + jpeg[2:]
        yield f"strange/EXIF {what}.png", after_header(encoded(picture(), "PNG"), chunk(b"eXIf", block))
        yield f"strange/EXIF {what}.webp", encoded(picture(), "WEBP", exif=block)
        yield f"strange/EXIF {what}.avif", avif_with(block)
    colours = random.Random(1).randbytes(300_000)
    yield "strange/ICC of noise.jpg", encoded(picture(), "JPEG", icc_profile=colours)
    yield "strange/ICC of noise.png", encoded(picture(), "PNG", icc_profile=colours)
    yield "strange/long and narrow.png", encoded(Image.new("RGB", (50_000, 2)), "PNG")
    yield "strange/tall and narrow.png", encoded(Image.new("RGB", (2, 50_000)), "PNG")


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L"), "uint16") * 256)
    if mode == "PA":
        return image.convert("P").convert("PA")
    return image.convert(mode)


def segment(marker: int, content: bytes) -> bytes:
    """A JPEG's, or several if it is too long for one."""
    head = content[:6] if content.startswith(b"Exif") else b""
    parts = [content[at : at + 65_000] for at in range(0, len(content), 65_000)] or [b""]
    parts = [parts[0], *(head + part for part in parts[1:])]
    return b"".join(b"\xff" + bytes([marker]) + struct.pack(">H", len(part) + 2) + part for part in parts)


def avif_with(exif: bytes) -> bytes:
    """Pillow looks at what it writes: so it is given something harmless, which is then replaced."""
    harmless = tags([(270, 2, 4, 0x41414141)]).ljust(max(len(exif), 30), b"\xa5")
    content = encoded(picture(), "AVIF", exif=harmless)
    assert harmless in content
    return content.replace(harmless, exif.ljust(30, b"\xa5"))


def after_header(content: bytes, chunks: bytes) -> bytes:
    return content[:33] + chunks + content[33:]


def lies() -> Files:
    """What is said in a header is not so."""
    sound = originals()
    rows = zlib.compress(bytes(1 + 96 * 3) * 64)
    for what in (0, 1, 2, 65_535, 2**31 - 1, 2**32 - 1):
        yield f"lies/{what} wide.png", png(ihdr(what, 64), pixels=rows)
        yield f"lies/{what} high.png", png(ihdr(96, what), pixels=rows)
        yield f"lies/{what} wide.tif", tiff(what, 64)
        yield f"lies/{what} high.tif", tiff(96, what)
        yield f"lies/{what} strips.tif", tiff(96, 64, (273, 4, what, 8), (278, 4, 1, 1))
        yield f"lies/{what} samples.tif", tiff(96, 64, (277, 3, 1, what & 0xFFFF))
        yield f"lies/{what} bits.tif", tiff(96, 64, (258, 3, 1, what & 0xFFFF))
        yield f"lies/{what} rows a strip.tif", tiff(96, 64, (278, 4, 1, what), (259, 3, 1, 5))
        bmp = sound["plain.bmp"]
        for field, place in (("wide", 18), ("high", 22), ("colours", 46), ("header", 14), ("start", 10)):
            lie = struct.pack("<I", what)
            yield f"lies/{what} {field}.bmp", bmp[:place] + lie + bmp[place + 4 :]
    for side in (0, 1, 65_535):
        for name in ("baseline.jpg", "progressive.jpg"):
            jpeg = sound[name]
            at = (jpeg.find(b"\xff\xc0") if name == "baseline.jpg" else jpeg.find(b"\xff\xc2")) + 5
            yield f"lies/{side} square {name}", jpeg[:at] + struct.pack(">HH", side, side) + jpeg[at + 4 :]
        gif = sound["animated.gif"]
        yield f"lies/{side} square.gif", gif[:6] + struct.pack("<HH", side, side) + gif[10:]
        at = gif.index(b"\x2c\0\0\0\0") + 5
        yield f"lies/{side} square picture.gif", gif[:at] + struct.pack("<HH", side, side) + gif[at + 4 :]
    for depth in (0, 3, 16, 32, 255):
        for colour in (0, 1, 2, 3, 6, 7):
            yield f"lies/depth {depth} colour {colour}.png", png(ihdr(8, 8, depth, colour), pixels=rows)
    plain = sound["plain.png"]
    yield "lies/wrong CRC.png", after_header(plain, chunk(b"gAMA", bytes(4), crc=7))
    yield "lies/endless chunk.png", after_header(plain, chunk(b"tEXt", b"x", length=2**31 - 1))
    yield "lies/negative chunk.png", after_header(plain, chunk(b"tEXt", b"x", length=2**32 - 1))
    yield "lies/short header.png", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(5)) + chunk(b"IEND")
    yield "lies/two headers.png", after_header(plain, chunk(b"IHDR", ihdr(9999, 9999)))
    yield "lies/header last.png", plain[:8] + plain[33:] + plain[8:33]
    yield "lies/no pixels.png", png(ihdr(96, 64))
    yield "lies/no palette.png", png(ihdr(96, 64, 8, 3), pixels=rows)
    yield "lies/palette of one byte.png", png(ihdr(96, 64, 8, 3), chunk(b"PLTE", b"x"), pixels=rows)
    for kind in (b"acTL", b"fcTL", b"fdAT", b"tRNS", b"cHRM", b"sRGB", b"pHYs", b"iCCP", b"zTXt", b"iTXt", b"tEXt"):
        for content in (b"", bytes(3), b"\xff" * 40):
            yield f"lies/{kind.decode()} of {len(content)}.png", after_header(plain, chunk(kind, content))
    jpeg = sound["baseline.jpg"]
    for marker in (0xDB, 0xC4, 0xC0, 0xDA, 0xDD, 0xEE, 0xE0, 0xE1, 0xE2, 0xED):
        at = jpeg.find(bytes([0xFF, marker]))
        for length in (0, 1, 2, 3, 0xFFFF):
            lie = b"\xff" + bytes([marker]) + struct.pack(">H", length)
            lying = jpeg[:at] + lie + jpeg[at + 4 :] if at > 0 else jpeg[:2] + lie + jpeg[2:]
            yield f"lies/{marker:X} of {length}.jpg", lying
    noise = random.Random(2)
    for number in range(8):
        at = jpeg.index(b"\xff\xda") + 40 + number * 9
        yield f"lies/restarts {number}.jpg", jpeg[:at] + bytes([0xFF, 0xD0 + noise.randrange(8)]) * 3 + jpeg[at:]
    multi = jpeg[:20] + segment(0xE2, b"MPF\0" + tags([(0xB000, 7, 4, 0x30303130), (0xB001, 4, 1, 9999)])) + jpeg[20:]
    yield "lies/pictures without end.jpg", multi
    webp = sound["animated.webp"]
    for what in (0, 1, 0xFFFFFF):
        lie = what.to_bytes(3, "little") * 2
        yield f"lies/{what} square.webp", webp[:24] + lie + webp[30:]
    yield "lies/length.webp", webp[:4] + b"\xff\xff\xff\xff" + webp[8:]
    avif = sound["plain.avif"]
    for box in (b"meta", b"iloc", b"iinf", b"iprp", b"ispe", b"av1C", b"mdat"):
        at = avif.index(box)
        for lie in (0, 1, 9, 2**31, 2**32 - 1):
            yield f"lies/{box.decode()} of {lie}.avif", avif[: at - 4] + struct.pack(">I", lie) + avif[at:]
    at = avif.index(b"ispe") + 8
    for side in (0, 16_384, 2**31 - 1):
        yield f"lies/{side} square.avif", avif[:at] + struct.pack(">II", side, side) + avif[at + 8 :]
    yield "lies/pages that loop.tif", struct.pack("<4sLH", b"II*\0", 8, 0) + struct.pack("<L", 8)
    yield "lies/tags that loop.tif", tags([(330, 4, 1, 8), (34665, 4, 1, 8), (256, 4, 1, 96)], after=8)
    for packing in (0, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34661, 34676, 34887, 34925, 50000, 50001, 65535):
        yield f"lies/packing {packing}.tif", tiff(96, 64, (259, 3, 1, packing), data=noise.randbytes(6144))
    for place in (50706, 254):
        yield f"lies/tag {place}.tif", tiff(96, 64, (place, 4, 1, 1))


def bombs() -> Files:
    """Small files that want all the memory, or all the time, of whoever opens them."""
    yield "bombs/50000 square.png", png(ihdr(50_000, 50_000, 1, 0), pixels=zeros(50_000 * 6_251))
    yield "bombs/9000 square.png", png(ihdr(9_000, 9_000, 8, 0), pixels=zeros(9_000 * 9_001))
    yield "bombs/50000000 wide.png", png(ihdr(50_000_000, 2, 8, 0), pixels=zeros(100_000_002))
    yield "bombs/50000000 high.png", png(ihdr(2, 50_000_000, 8, 0), pixels=zeros(150_000_000))
    plain, text = encoded(picture(), "PNG"), zeros(300_000_000)
    yield "bombs/iCCP.png", after_header(plain, chunk(b"iCCP", b"x\0\0" + text))
    yield "bombs/zTXt.png", after_header(plain, chunk(b"zTXt", b"x\0\0" + text))
    yield "bombs/iTXt.png", after_header(plain, chunk(b"iTXt", b"XML:com.adobe.xmp\0\x01\0\0\0" + text))
    yield "bombs/many zTXt.png", after_header(plain, chunk(b"zTXt", b"x\0\0" + zeros(1_000_000)) * 500)
    yield "bombs/chunks.png", after_header(plain, chunk(b"abCd") * 110_000)
    yield "bombs/pixels in crumbs.png", after_header(plain, chunk(b"IDAT") * 110_000)
    again = tags([(1000 + n, 7, 400_000, 8) for n in range(20_000)]) + bytes(200_000)
    yield "bombs/EXIF.png", after_header(plain, chunk(b"eXIf", again))
    raw = f"\nexif\n{len(again)}\n{again.hex()}"[:900_000].encode()
    yield "bombs/raw EXIF.png", after_header(plain, chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw)))
    yield "bombs/EXIF.webp", encoded(picture(), "WEBP", exif=again)
    yield "bombs/EXIF.avif", avif_with(again)
    yield "bombs/tags.tif", again
    yield "bombs/crumbs.tif", tiff(96, 260_000, (273, 4, 260_000, b"\x08\0\0\0" * 260_000), (278, 4, 1, 1))
    yield "bombs/rationals.tif", tiff(96, 64, (274, 3, 1, 6), (65000, 5, 130_000, b"\x01\0\0\0" * 260_000))
    data = zeros(300_000_000)
    sides = (322, 4, 1, 20_000), (323, 4, 1, 15_000)
    yield "bombs/tile.tif", tiff(10, 10, *sides, (259, 3, 1, 8), (324, 4, 1, data), (325, 4, 1, len(data)))
    yield "bombs/deflate.tif", tiff(20_000, 15_000, (259, 3, 1, 8), data=data)
    gif = encoded(picture(), "GIF")
    at = gif.index(b"\x2c\0\0\0\0")
    yield "bombs/comments.gif", gif[:at] + b"\x21\xfe\x01x\0" * 100_000 + gif[at:]
    yield "bombs/one comment.gif", gif[:at] + b"\x21\xfe" + (b"\xff" + b"x" * 255) * 4_200 + b"\0" + gif[at:]
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\0"
    yield "bombs/frames.gif", gif[:-1] + frame * 60_000 + b";"
    yield "bombs/65535 square.gif", gif[:6] + b"\xff\xff\xff\xff" + gif[10:]
    jpeg = encoded(picture(), "JPEG")
    yield "bombs/padding.jpg", jpeg[:2] + b"\xff" * 1_100_000 + jpeg[2:]
    yield "bombs/junk.jpg", jpeg[:20] + b"x" * 1_100_000 + jpeg[20:]
    yield "bombs/restarts.jpg", jpeg[:2] + b"\xff\xd0" * 200_000 + jpeg[2:]
    yield "bombs/segments.jpg", jpeg[:2] + b"\xff\xe5\0\2" * 100_000 + jpeg[2:]
    scan = b"\xff\xda\0\x08\x01\x01\0\x01\x3f\x10"
    yield "bombs/passes.jpg", encoded(picture(), "JPEG", progressive=True)[:-2] + scan * 10_000 + b"\xff\xd9"
    numbers = tags([(n, 3, 10_000, 8) for n in range(2700)]) + bytes(20_000)
    yield "bombs/pictures.jpg", jpeg[:20] + segment(0xE2, b"MPF\0" + numbers) + jpeg[20:]
    photoshop = segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0\0\0\0\0" * 5_000)
    yield "bombs/Photoshop.jpg", jpeg[:20] + photoshop * 25 + jpeg[20:]
    webp = encoded(picture(), "WEBP", **frames())
    last = webp[webp.rindex(b"ANMF") :]
    body = webp[8:] + last * (400_000 // len(last))
    yield "bombs/frames.webp", b"RIFF" + struct.pack("<I", len(body)) + body
    webp = encoded(picture(), "WEBP", lossless=True)
    yield "bombs/16383 square.webp", webp[:21] + struct.pack("<L", 16_382 << 14 | 16_382) + webp[25:]
    yield "bombs/4000 square.webp", encoded(Image.new("L", (4_000, 4_000)), "WEBP", method=0, lossless=True)
    yield "bombs/4000 square.avif", encoded(Image.new("L", (4_000, 4_000)), "AVIF", speed=10, quality=1)
    for what, width, height, runs in (
        ("skips", 20_000_000, 2, b"\0\2\0\x20" * 4),
        ("empty runs", 2_000, 2_000, b"\1\7" * 500_000),
        ("rows", 3_000, 3_000, b"\0\0" * 3_000),
    ):
        yield f"bombs/{what}.bmp", bmp_in_runs(width, height, runs)


def bmp_in_runs(width: int, height: int, runs: bytes) -> bytes:
    """As few programs write it, of 256 colours."""
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 256)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 1078) + head + bytes(range(256)) * 4 + runs


def mixed() -> Files:
    """Two things at once, or another thing than its name says."""
    jpeg, gif, script = encoded(picture(), "JPEG"), encoded(picture(), "GIF"), b"<script>alert(1)</script>"
    yield "mixed/GIF and zip.gif", gif + b"PK\x05\x06" + bytes(18)
    yield "mixed/JPEG and page.jpg", jpeg[:2] + segment(0xFE, b"<html>" + script) + jpeg[2:] + script
    yield "mixed/PDF and JPEG.jpg", b"%PDF-1.7\n" + jpeg
    yield "mixed/JPEG and PDF.pdf", jpeg + b"%PDF-1.7\n%%EOF"
    yield "mixed/SVG with a script.png", b'<svg xmlns="http://www.w3.org/2000/svg">' + script + b"</svg>"
    yield "mixed/XML that grows.png", b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "&b;&b;">]><svg>&a;</svg>'
    yield "mixed/BMP and script.bmp", b"BM=1;/*" + encoded(picture(), "BMP")[7:] + b"*/alert(1)"
    yield "mixed/PostScript.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%stdout) run\n"
    yield "mixed/PHP.jpg", b"GIF89a<?php system($_GET['x']); ?>"
    yield "mixed/page.png", b"<!DOCTYPE html><html>" + script
    yield "mixed/program.jpg", b"MZ" + bytes(600)
    yield "mixed/shell.png", b"#!/bin/sh\nrm -rf /\n"
    yield "mixed/playlist.avif", b"#EXTM3U\nhttp://127.0.0.1:9/x\n"
    yield "mixed/pickle.png", b"\x80\x04\x95\x0b\0\0\0\0\0\0\0\x8c\x02os\x94."
    for number, size in enumerate((1, 2, 3, 7, 26, 4096)):
        yield f"mixed/noise {number}.jpg", random.Random(number).randbytes(size)
    for number, (name, content) in enumerate(originals().items()):
        draw = random.Random(number)
        spliced = bytearray(content)
        for _ in range(3):
            at = draw.randrange(len(spliced))
            spliced[at : at + 20] = draw.randbytes(20)
        yield f"mixed/spliced {name}", bytes(spliced)
