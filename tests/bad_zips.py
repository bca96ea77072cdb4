"""Zips that are deep, explode, lie, or lead elsewhere; each put together from a sound one or by hand."""

import io
import stat
import struct
import tarfile
import warnings
import zipfile
import zlib

from bad_pictures import Files, encoded, picture, zeros

PNG = encoded(picture(size=(16, 16)), "PNG")
NAMES = ["../../evil.png", "/etc/evil.png", "C:\\evil.png", "\\\\host\\evil.png", "a\0b.png", "....//x.png", "CON.png"]
NAMES += ["=cmd|' /C calc'!A0.png", "<script>alert(1)</script>.png", "x" * 5_000 + ".png", "\u202egnp.exe.png", " .png"]


def zipped(files: dict[str, bytes] | list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(content, "w", method) as file:
        for name, inside in files.items() if isinstance(files, dict) else files:
            file.writestr(name, inside)
    return content.getvalue()


def local(name: bytes, data: bytes, size: int, method: int = 8, crc: int = 0, packed: int | None = None) -> bytes:
    """A member with its own header."""
    length = len(data) if packed is None else packed
    return struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, method, 0, 0, crc, length, size, len(name), 0) + name + data


def listed(name: bytes, at: int, packed: int, size: int, method: int = 8, crc: int = 0, extra: bytes = b"") -> bytes:
    """Its line in the table of contents."""
    head = b"PK\x01\x02", 20, 20, 0, method, 0, 0, crc, packed, size, len(name), len(extra), 0, 0, 0, 0, at
    return struct.pack("<4s6H3L5H2L", *head) + name + extra


def end(count: int, table: int, at: int) -> bytes:
    return struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count & 0xFFFF, count & 0xFFFF, table, at, 0)


def overlapping(count: int, size: int) -> bytes:
    """So many names of one member of zeros."""
    data = zlib.compress(bytes(1), 9)[2:-4] if size < 2 else _raw(size)
    member = local(b"0.png", data, size)
    table = b"".join(listed(b"%d.png" % number, 0, len(data), size) for number in range(count))
    return member + table + end(count, len(table), len(member))


def _raw(size: int) -> bytes:
    return zeros(size)[2:-4]


def zips() -> Files:
    deep = zipped({"cat.png": PNG})
    for level in range(1, 41):
        deep = zipped({f"{level}.zip": deep})
    yield "zips/40 deep.zip", deep
    yield "zips/overlapping.zip", overlapping(900, 40_000_000)
    yield "zips/overlapping and within the limit.zip", overlapping(20, 40_000_000)
    yield "zips/zeros.zip", zipped({f"{number}.png": bytes(30_000_000) for number in range(2)})
    yield "zips/100000 entries.zip", overlapping(100_000, 1)
    yield "zips/names.zip", zipped(dict.fromkeys(NAMES, PNG))
    yield "zips/twice.zip", zipped([("cat.png", PNG), ("cat.png", PNG), ("CAT.PNG", PNG)])
    yield "zips/only folders.zip", zipped({"a/": b"", "a/b.png/": b""})
    yield "zips/no pictures.zip", zipped({"labels.csv": b"a,b"})
    yield "zips/empty.zip", zipped({})
    for packing in (zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        yield f"zips/packing {packing}.zip", zipped({"cat.png": PNG}, packing)
    link = zipfile.ZipInfo("link.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr(link, "/etc/passwd")
    yield "zips/link.zip", content.getvalue()
    plain = zipped({"cat.png": PNG, "dog.png": PNG})
    table = plain.index(b"PK\x01\x02")
    yield "zips/encrypted.zip", plain[:6] + b"\x01" + plain[7 : table + 8] + b"\x01" + plain[table + 9 :]
    for what, place in (("packed", 20), ("size", 24), ("name", 28), ("extra", 30), ("place", 42), ("method", 10)):
        for lie in (0, 1, 0xFFFF, 0xFFFFFFFE):
            packed = struct.pack("<L" if what in ("packed", "size", "place") else "<H", lie & 0xFFFFFFFF if what in
                                 ("packed", "size", "place") else lie & 0xFFFF)  # fmt: skip
            at = table + place
            yield f"zips/{what} is {lie}.zip", plain[:at] + packed + plain[at + len(packed) :]
    data = zlib.compress(PNG)[2:-4]
    for what, extra in (("endless", struct.pack("<HHQQ", 1, 16, 2**63, 2**63)), ("short", struct.pack("<HH", 1, 90))):
        member = local(b"cat.png", data, 0xFFFFFFFF, packed=0xFFFFFFFF)
        line = listed(b"cat.png", 0, 0xFFFFFFFF, 0xFFFFFFFF, extra=extra)
        yield f"zips/zip64 {what}.zip", member + line + end(1, len(line), len(member))
    tail = plain[plain.index(b"PK\x05\x06") :]
    yield "zips/two ends.zip", plain + tail
    yield "zips/another before it.zip", b"PK\x03\x04" + bytes(500) + plain
    yield "zips/comment.zip", plain[:-2] + b"\xff\xff" + b"x" * 65_535
    for share in range(0, 100, 5):
        yield f"zips/cut at {share}.zip", plain[: len(plain) * share // 100]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as file:
        info = tarfile.TarInfo("../evil.png")
        info.size = len(PNG)
        file.addfile(info, io.BytesIO(PNG))
    yield "zips/tar inside.zip", zipped({"a.tar.gz": packed.getvalue(), "a.png": packed.getvalue()})
    yield "zips/tar.zip", packed.getvalue()
    yield "zips/bad pictures.zip", zipped({"cut.png": PNG[:60], "text.jpg": b"404", "none.png": b"", "good.png": PNG})
