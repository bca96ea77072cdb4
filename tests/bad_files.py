"""A few hundred bad files, the same every time; `python tests/bad_files.py FOLDER` writes them, 30 MB in all."""

import sys
from itertools import chain
from pathlib import Path

import bad_pictures
import bad_zips
from bad_pictures import Files

# What a visitor's file may be called. Not all systems can store all of them; a request can hold any.
NAMES = ["x" * 300 + ".png", "é" * 200 + ".png", "a" * 3_000, "...", ".", "..", "", " ", "CON", "NUL.png", "aux.jpg"]
NAMES += ["com1.png", "a\0b.png", "\u202egnp.exe", "line\nbreak.png", "return\r.png", "tab\t.png", "<script>alert(1)"]
NAMES += ["<img src=x onerror=alert(1)>.png", 'quote".png', "quote'.png", "`ls`.png", "$(ls).png", "; ls;.png", "a%00b"]
NAMES += ["=cmd|' /C calc'!A0", "+1.png", "-rf", "--help.png", "@x.png", "../../etc/passwd", "..\\..\\x.png", "/etc/x"]
NAMES += ["C:\\x.png", "\\\\host\\x.png", "file:///etc/passwd", "🦄.png", "👩‍👩‍👧‍👦" * 40 + ".png", "\ud83d.png"]
NAMES += ["e\u0301.png", "%2e%2e%2f.png", "{{7*7}}.png", "%s%n.png", "a.png.", "a.png ", "~.png", "*.png", "?.png"]


def pictures(bombs: bool = True) -> Files:
    """Name, with the folder of its kind, and content of all but the zips; bombs take seconds to make."""
    kinds = (bad_pictures.cut, bad_pictures.strange, bad_pictures.lies, bad_pictures.mixed)
    yield from chain.from_iterable(each() for each in kinds)
    if bombs:
        yield from bad_pictures.bombs()


def corpus() -> Files:
    """All of them, one after another: together they are larger than each."""
    yield from pictures()
    yield from bad_zips.zips()


def main(folder: Path) -> None:
    count = size = 0
    for name, content in corpus():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        count, size = count + 1, size + len(content)
    print(f"{count} files, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
