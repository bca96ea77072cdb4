"""What must not leave this machine, looked for in whatever is about to: secrets, paths, and what names data or people.

A finding says where and of which kind, never what: it is shown on screens and in logs.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import unicodedata
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tqdm.auto import tqdm

from hub_utils.card import TEMPLATE
from hub_utils.run_files import read_json, read_rows

# As their issuers document them, or as GitHub's and TruffleHog's scanners look for them.
SECRETS = {
    "a token of Hugging Face": r"(?:hf|api_org|hf_oauth|hf_jwt)_[A-Za-z0-9]{20,}",
    "a key of AWS": r"(?:AKIA|ASIA)[A-Z0-9]{16}|(?i:aws_secret_access_key)\W{1,5}[A-Za-z0-9/+]{40}",
    "a token of GitHub": r"gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22,}",
    "a token of GitLab": r"glpat-[A-Za-z0-9_-]{20}",
    "a key of OpenAI's kind": r"(?<![A-Za-z0-9])sk-(?=[\w-]*[0-9])(?=[\w-]*[A-Z])[A-Za-z0-9_-]{20,}",
    "a key of Anthropic": r"sk-ant-[A-Za-z0-9_-]{20,}",
    "a token of Kaggle": r'KGAT_[A-Za-z0-9]{16,}|"key":\s?"[0-9a-f]{32}"',
    "a key of Google": r"AIza[A-Za-z0-9_-]{35}",
    "a token of Slack": r"xox[abeprs]-[A-Za-z0-9-]{10,}",
    "a signed token": r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "a password in an address": r"[a-z][a-z0-9+]{1,9}://[^\s/:@\"']{1,99}:[^\s/@\"']{3,99}@",
    "a signature in an address": r"(?i:X-Amz-Signature|X-Goog-Signature)=[0-9a-f]{32,}",
    "a login of .netrc": r"machine\s{1,9}\S{1,99}\s{1,9}login\s{1,9}\S{1,99}\s{1,9}password\s",
    "a token of Jupyter": r"[?&]token=[0-9a-f]{32,}",
    "a variable with a token": r"(?:TOKEN|SECRET|PASSWORD|API_KEY)=[\"']?[A-Za-z0-9/+_.-]{12,}",
    "a key of Stripe": r"(?:sk|rk)_live_[A-Za-z0-9]{16,}",
    "a token of npm": r"npm_[A-Za-z0-9]{36}",
    "a token of PyPI": r"pypi-AgEI[A-Za-z0-9_-]{16,}",
    "a key of SendGrid": r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
    "a key of Azure": r"AccountKey=[A-Za-z0-9+/]{40,}",
    "a token in a header": r"(?i:Authorization)[\"']?\s?[:=]\s?[\"']?(?i:Bearer|Basic|token)\s[A-Za-z0-9+/=._~-]{12,}",
    "a token in JSON": r"[\"']token[\"']\s?:\s?[\"'][0-9a-f]{32,}[\"']",
    "a password": r"(?i:api_?key|secret_?key|access_?token|password|passwd)[\"']?\s?[:=]\s?[\"']?[A-Za-z0-9/+_.-]{12,}",
}
# Wherever a home folder is on Linux, macOS and Windows, whoever's; JSON doubles backslashes.
# Other places where people keep data; and drives and servers of Windows. In a binary file they may be names of nodes.
HOMES = r"(?<![\w.~-])(?:/home/[\w.-]|/Users/[\w.-]|/root/|[A-Za-z]:[\\/]{1,2}Users[\\/])|file://"
PLACES = (
    r"(?<![\w.~:/-])/(?:data|datasets|mnt|media|scratch|srv|tmp|var|opt|kaggle|content|workspace|gpfs|nfs|net|Volumes)"
    r"/[\w.-]"
    r"|(?<![\w(?.-])[A-Z]:(?:\\\\|\\(?![nrtbfu])|/)\w|(?<![\\\w])(?:\\{4}[\w.-]+\\{2}|\\\\[\w.-]+\\)[\w$]"
)
# Of serving.json: an array of numbers in base64, which by chance holds an image's short name, or looks like a key.
NUMBERS = r'(?<=")[A-Za-z0-9+/]{200,}={0,2}(?=")'
PATH = "a path of this machine"
IMAGE = "the name of an image of the data set"
PERSON = "a patient or group of the data set"
# The chunks that matplotlib's PNG files are made of, and a transparent colour's; text only if it names the software.
CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"pHYs"}
PNG = b"\x89PNG\r\n\x1a\n"
MOST = 10  # findings of a kind in a file: more tell nobody more


@dataclass(frozen=True)
class Finding:
    """Something of a `kind` that must stay here, and where it stands."""

    path: str
    where: str
    kind: str

    def __str__(self) -> str:
        return f"{self.path}, {self.where}: {self.kind}"


def scan(files: Mapping[str, bytes | Path], run: Path, token: str | None = None) -> list[Finding]:
    """What is found in `files`, by their path in the repo, that are to leave the folder `run`; `token` is the user's.

    Binary files are searched as what `strings` shows of them. An image of the data set is found by its name and by its
    bytes, and in place of a plot by what matplotlib would not have written.

    Raises:
        UserError: what the run notes of its data cannot be read.
    """
    data_set = _DataSet.of(run)
    kinds = [(kind, re.compile(pattern)) for kind, pattern in SECRETS.items()]
    kinds += [("your token for the Hub", re.compile(re.escape(token)))] if token else []
    kinds.append((PATH, re.compile("|".join([HOMES, *_own_paths(run)]))))
    size = sum(len(each) if isinstance(each, bytes) else each.stat().st_size for each in files.values())
    found: list[Finding] = []
    with tqdm(total=size, desc="Looking for secrets", unit="B", unit_scale=True, leave=False, disable=None) as bar:
        for path, content in files.items():
            data = content if isinstance(content, bytes) else content.read_bytes()
            found += _scan_file(path, data, kinds, data_set)
            bar.update(len(data))
    return found


def secrets_in(files: Mapping[str, bytes | Path], token: str | None = None) -> list[Finding]:
    """Tokens and passwords alone, where there is no run; of a wheel, in what it holds."""
    kinds = [(kind, re.compile(pattern)) for kind, pattern in SECRETS.items()]
    kinds += [("your token for the Hub", re.compile(re.escape(token)))] if token else []
    found = []
    for path, content in files.items():
        data = content if isinstance(content, bytes) else content.read_bytes()
        if path.endswith(".whl"):
            with zipfile.ZipFile(io.BytesIO(data)) as wheel:
                found += secrets_in({f"{path}/{name}": wheel.read(name) for name in wheel.namelist()}, token)
            continue
        text, place = _as_text(data)
        found += [Finding(path, place(match.start()), kind) for kind, regex in kinds for match in _first(regex, text)]
    return found


def _scan_file(path: str, data: bytes, kinds: Iterable[tuple[str, re.Pattern]], data_set: _DataSet) -> list[Finding]:
    text, place = _as_text(data)
    if path == "serving.json":
        text = re.sub(NUMBERS, lambda match: " " * len(match[0]), text)
    if path.endswith((".md", ".json", ".csv", "--message")):
        kinds = [*kinds, (PATH, re.compile(PLACES))]
    found = [Finding(path, place(match.start()), kind) for kind, regex in kinds for match in _first(regex, text)]
    words = _words(path, text)
    found += [Finding(path, place(at), kind) for kind, at in data_set.named_in(words)]
    if path.endswith(".png"):
        found += [Finding(path, "all of it", kind) for kind in _png_beside_pixels(data)]
    if hashlib.sha256(data).hexdigest() in data_set.images:
        found.append(Finding(path, "all of it", "an image of the data set"))
    return list(dict.fromkeys(found))


def _first(regex: re.Pattern, text: str) -> list[re.Match]:
    return [match for match, _ in zip(regex.finditer(text), range(MOST), strict=False)]


def _as_text(data: bytes) -> tuple[str, Callable[[int], str]]:
    """A file's text, and where in the file a place in it is; of a binary file, the printable pieces of 8 and more."""
    try:
        text = data.decode("utf-8-sig")
        if "\0" not in text:
            return text, lambda at: f"line {text.count(chr(10), 0, at) + 1}"
    except UnicodeDecodeError:
        pass
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # as PowerShell writes
        with suppress(UnicodeDecodeError):
            text = data.decode("utf-16")
            return text, lambda at: f"line {text.count(chr(10), 0, at) + 1}"
    wide = (
        data.count(0, 0, 1000) > len(data[:1000]) / 4
    )  # it may be UTF-16 that does not say so; weights begin with JSON
    pieces = list(re.finditer(rb"[\t -~]{8,}|(?:[\t -~]\0){8,}" if wide else rb"[\t -~]{8,}", data))
    text = "\n".join(piece[0].replace(b"\0", b"").decode("ascii") for piece in pieces)
    return text, lambda at: f"byte {pieces[text.count(chr(10), 0, at)].start():,}"


def _words(path: str, text: str) -> str:
    """The text with blanks in place of what can name nothing: the figures of JSON and CSV files."""
    if path.endswith(".json"):
        return re.sub(r'("(?:[^"\\]|\\.)*")|[^"\n]', lambda match: match[1] or " ", text)
    if path.endswith(".csv"):
        return re.sub(r"(?m)(^|(?<=,))[\d.eE+-]+(?=,|$)", lambda match: " " * len(match[0]), text)
    return text


def _own_paths(run: Path) -> Iterator[str]:
    """Patterns of where this run, its data, this project and this person are, in all the ways they are written."""
    data = run / "local" / "data.json"
    folders = (run.absolute(), run.resolve(), Path.home(), Path.cwd(), Path(__file__).resolve().parents[1])
    places = {str(folder) for folder in folders if folder != Path(folder.anchor)}
    places |= set(_absolute(read_json(data))) if data.is_file() else set()
    forms = {form for place in places for form in (place, place.replace("\\", "/"))}
    forms |= {json.dumps(form, ensure_ascii=ascii)[1:-1] for form in forms for ascii in (True, False)}
    forms |= {quote(form) for form in forms if form.startswith("/")}
    for form in sorted(forms):
        yield rf"(?<![\w.~-])(?i:{re.escape(form)})(?![\w-])"


def _absolute(content: Any) -> Iterator[str]:
    """The absolute paths in what a JSON file says, of whatever system."""
    if isinstance(content, Mapping):
        content = list(content.values())
    if isinstance(content, list):
        for each in content:
            yield from _absolute(each)
    elif isinstance(content, str) and re.match(r"/.|[A-Za-z]:[\\/].|\\\\.", content):
        yield content.rstrip("\\/")


@dataclass(frozen=True)
class _DataSet:
    """What names the images and the people of a data set: kinds by name, and the names' lengths by how they begin."""

    kinds: Mapping[str, str]
    lengths: Mapping[str, set[int]]
    images: frozenset[str]  # SHA-256 of each

    @classmethod
    def of(cls, run: Path) -> _DataSet:
        """As `local/splits.csv` and `local/skipped.csv` have them."""
        rows = [row for path in _tables(run) if path.is_file() for row in read_rows(path, ["path"])]
        own = _own_words() | {row.get("label") or "" for row in rows}
        kinds = {}
        for row in rows:
            path, group = row["path"], row.get("group") or ""
            name = path.rpartition("/")[2]
            stem, _, suffix = name.rpartition(".")
            kinds |= {path: IMAGE} if "/" in path and _is_identifier(path) else {}
            kinds |= {name: IMAGE} if stem and not suffix.isdigit() else {}
            kinds |= {stem or name: IMAGE} if _is_identifier(stem or name) else {}
            kinds |= {group: PERSON} if _is_identifier(group) and not group.startswith("sha256:") else {}
        kinds = {_plain(name): kind for name, kind in kinds.items() if name not in own}
        kinds |= {_plain(json.dumps(name)[1:-1]): kind for name, kind in kinds.items() if not name.isascii()}
        lengths = defaultdict(set)
        for name in kinds:
            lengths[name[:3]].add(len(name))
        return cls(kinds, dict(lengths), frozenset(row["sha256"] for row in rows if row.get("sha256")))

    def named_in(self, text: str) -> Iterator[tuple[str, int]]:
        """Kind and place of each whole word, or several, that is such a name."""
        text, count = unicodedata.normalize("NFC", text), 0
        for match in re.finditer(r"(?<![\w.])\w", text):
            at = match.start()
            for length in self.lengths.get(text[at : at + 3], ()):
                kind, following = self.kinds.get(text[at : at + length]), text[at + length : at + length + 1]
                if kind and not (following.isalnum() or following == "_") and count < MOST:
                    count += 1
                    yield kind, at


def _is_identifier(name: str) -> bool:
    """Whether it can hardly be a word, a figure or a date: letters with digits, six digits, or several words."""
    if len(name) < 3 or re.fullmatch(r"\d{4}-\d\d-\d\d", name):
        return False
    digits = sum(letter.isdigit() for letter in name)
    return digits >= 6 or (digits and any(letter.isalpha() for letter in name)) or len(name.split()) > 1


def _plain(name: str) -> str:
    """As `named_in` finds it: from its first letter or digit on, composed."""
    return unicodedata.normalize("NFC", re.sub(r"^\W+", "", name))


def _own_words() -> set[str]:
    """What the card says by itself, whatever the data set."""
    return set(re.findall(r"[\w.-]*\w", TEMPLATE.read_text(encoding="utf-8")))


def _png_beside_pixels(data: bytes) -> Iterator[str]:
    """What is in a PNG file beside its pixels and what matplotlib says; see the PNG specification, chapter 5."""
    if not data.startswith(PNG):
        yield "no PNG file"
        return
    at = len(PNG)
    while at + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        software = data[at + 8 : at + 8 + length].startswith(b"Software\0Matplotlib version")
        if kind not in CHUNKS and not (software and data[at + 8 : at + 8 + length].count(b"\0") == 1):
            yield f"metadata ({kind.decode('ascii', 'replace')}) that matplotlib does not write"
        at += 12 + length
        if kind == b"IEND":
            break
    if at != len(data):
        yield "something after the picture"


def _tables(run: Path) -> list[Path]:
    return [run / "local" / name for name in ("splits.csv", "skipped.csv")]
