"""Hundreds of bad files, by every way in, from outside: a verdict or a plain sentence, soon, and nothing is left."""

import base64
import http.client
import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from bad_files import NAMES, corpus, pictures
from bad_pictures import Files, cut, encoded, lies, mixed, picture, strange
from bad_zips import zipped, zips
from conftest import ROOT
from PIL import Image

from hub_utils.portable.command import UserError
from hub_utils.portable.demo import build_demo
from hub_utils.portable.pictures import opened
from hub_utils.portable.upload_folder import sweep
from training.data.images import open_rgb
from training.data.intake import read_folder
from training.recipe import Data

LONGEST = 10.0  # seconds that an answer may take
GROWTH = 200  # MB that the server may grow by, once it has seen a few
# Of this machine, or of our libraries.
INSIDES = re.compile(
    r"Traceback|Errno|File \"|site-packages|/tmp/|/home/|/root/|0x[0-9a-f]{6}|PIL|Pillow|zlib|struct|BytesIO|libtiff|"
    r"numpy|gradio_api|Exception|NoneType|UserError|OSError|codec"
)
GOOD = encoded(picture(), "PNG")


class Visitor:
    """Whoever asks a page by plain HTTP, and looks at a `clock`; no answer may be an error of the server's."""

    def __init__(self, address: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.host, self.clock, self.about = urlsplit(address).netloc, clock, ""
        self.longest, self.slowest = 0.0, ""
        config = json.loads(self.asked("GET", "/config"))
        self.events = {target[1]: each["id"] for each in config["dependencies"] for target in each["targets"]}

    def asked(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> str:
        began = self.clock()
        connection = http.client.HTTPConnection(self.host, timeout=6 * LONGEST)
        try:
            connection.request(method, path, body, {"Content-Type": kind} if body is not None else {})
            answer = connection.getresponse()
            told = answer.read().decode()
        finally:
            connection.close()
        seconds = self.clock() - began
        if seconds > self.longest:
            self.longest, self.slowest = seconds, f"{self.about}: {method} {path}"
        assert answer.status < 500, (method, path, answer.status, told[:300])
        return told

    def sent(self, files: Iterable[tuple[str, bytes]]) -> list[str]:
        """Paths on the server, of files under names that can be said in a header."""
        mark, parts = uuid.uuid4().hex, []
        for name, content in files:
            quoted = name.replace("\\", "\\\\").replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
            head = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{quoted}"\r\n\r\n'
            parts += [head.encode(errors="surrogatepass"), content, b"\r\n"]
        body = b"".join([*parts, f"--{mark}--\r\n".encode()])
        return json.loads(self.asked("POST", "/gradio_api/upload", body, f"multipart/form-data; boundary={mark}"))

    def called(self, endpoint: str, *data: object) -> tuple[str, object]:
        """ "complete" or "error", and what is said."""
        body = json.dumps({"data": data}).encode()
        event = json.loads(self.asked("POST", f"/gradio_api/call/{endpoint}", body))["event_id"]
        told = self.asked("GET", f"/gradio_api/call/{endpoint}/{event}")
        kind, said = re.search(r"event: (complete|error)\ndata: (.*)", told).groups()
        return kind, json.loads(said)

    def happened(self, event: str, data: object) -> str:
        """What a page's event brings."""
        session = uuid.uuid4().hex
        asked = {"data": [], "event_data": data, "fn_index": self.events[event], "session_hash": session}
        self.asked("POST", "/gradio_api/queue/join", json.dumps(asked).encode())
        told = self.asked("GET", f"/gradio_api/queue/data?session_hash={session}")
        finished = [json.loads(line[6:]) for line in told.splitlines() if "process_completed" in line]
        assert finished and finished[0]["success"], told[-500:]
        return json.dumps(finished[0]["output"], ensure_ascii=False)


def file(path: str, name: str = "x.png") -> dict:
    return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}


def plain(sentence: str) -> None:
    assert sentence.endswith(".") and len(sentence) < 250 and "\n" not in sentence, sentence
    assert not INSIDES.search(sentence), sentence


def ask_about_each(visitor: Visitor, files: Files) -> int:
    """One after another, by upload, in the request, and as the page does it; how many."""
    count = 0
    for count, (name, content) in enumerate(files, 1):
        visitor.about = name
        (path,) = visitor.sent([(name, content)])
        kind, said = visitor.called("predict", file(path, name))
        plain(said["error"]) if kind == "error" else said[0]["label"]
        url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
        again = visitor.called("predict", {"url": url})
        assert again[0] == kind and (kind == "complete" or again[1]["error"]), name
        (path,) = visitor.sent([(name, content)])
        told = visitor.happened("picture", {"path": path, "size": len(content), "turn": "1"})
        assert not INSIDES.search(told) and "turn" in told, (name, told)
        assert not Path(path).exists()
        if count % 20 == 1:
            answers_a_good_picture(visitor)
    answers_a_good_picture(visitor)
    return count


def ask_about_many(visitor: Visitor, files: list[tuple[str, bytes]]) -> None:
    """All at once: by the endpoint, by the page, and in a zip."""
    visitor.about = "many at once"
    packed = [(f"{number} {name.rpartition('/')[2]}", content) for number, (name, content) in enumerate(files)]
    for given in (files, [("all.zip", zipped(packed))]):
        kind, said = visitor.called("predict_many", [file(path) for path in visitor.sent(given)])
        assert kind == "complete", said
        for each in said[0]:
            plain(each["error"]) if "error" in each else each["label"]
        assert len(said[0]) >= len(given)
        named = zip(visitor.sent(given), given, strict=True)
        listed = [{"name": name, "path": path, "size": len(content)} for path, (name, content) in named]
        told = visitor.happened("pictures", {"files": listed, "turn": "1", "count": len(listed)})
        assert not INSIDES.search(re.sub(r"[^\"]*/predictions\.csv", "", told)), told[:2000]
        assert not any(Path(each["path"]).exists() for each in listed)
    answers_a_good_picture(visitor)


def answers_a_good_picture(visitor: Visitor) -> None:
    kind, said = visitor.called("predict", file(*visitor.sent([("good.png", GOOD)])))
    assert kind == "complete" and said[0]["label"]


@pytest.fixture(scope="module")
def here(tiny_resnet, tmp_path_factory) -> Iterator[tuple[Visitor, Path]]:
    """A demo in this process: whoever asks, and where uploads lie."""
    uploads = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(uploads))
        patch.setenv("DEMO_MODEL", str(tiny_resnet))
        page = build_demo("colours")
        _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
        yield Visitor(url), uploads
        page.close()


@pytest.fixture(scope="module")
def started(tiny_resnet, tmp_path_factory) -> Iterator[tuple[Visitor, psutil.Process, Path]]:
    """A demo in a process of its own: whoever asks, it, and where uploads lie."""
    uploads = tmp_path_factory.mktemp("uploads")
    code = (
        "from hub_utils.portable.demo import build_demo\n"
        "page = build_demo('colours')\n"
        "_, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name='127.0.0.1')\n"
        "print(url, flush=True)\n"
        "page.block_thread()"
    )
    environment = os.environ | {"GRADIO_TEMP_DIR": str(uploads), "DEMO_MODEL": str(tiny_resnet)}
    how = {"cwd": ROOT, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **how) as process:
        try:
            server = psutil.Process(process.pid)
            # By its own clock: others may be at work on this machine.
            visitor = Visitor(process.stdout.readline().strip(), lambda: sum(server.cpu_times()[:2]))
            answers_a_good_picture(visitor)
            yield visitor, server, uploads
        finally:
            process.kill()


def some(files: Files, every: int) -> Files:
    """One in so many."""
    return ((name, content) for number, (name, content) in enumerate(files) if not number % every)


def test_a_few_of_each_kind_get_a_verdict_or_a_sentence(here):
    visitor, _ = here
    files = [*some(cut(), 60), *some(strange(), 25), *some(lies(), 40), *some(mixed(), 10)]
    assert ask_about_each(visitor, iter(files)) >= 20
    ask_about_many(visitor, files)
    for name, content in some(zips(), 9):
        told_of_zip(visitor, name, content)
    assert visitor.longest < LONGEST, visitor.slowest


def told_of_zip(visitor: Visitor, name: str, content: bytes) -> None:
    """Each of its members, or itself, has a verdict or a sentence."""
    visitor.about = name
    (path,) = visitor.sent([(name, content)])
    kind, said = visitor.called("predict_many", [file(path, name)])
    if kind == "error":
        plain(said["error"])
    else:
        assert said[0]
        for each in said[0]:
            plain(each["error"]) if "error" in each else each["label"]


def test_hostile_names_are_only_names(here):
    visitor, uploads = here
    for name in NAMES:
        if not name.strip():
            continue  # which says that there is no file
        paths = visitor.sent([(name, GOOD)])
        assert isinstance(paths, list) or (name == ".." and "Invalid file name" in paths["detail"])
        for path in paths if name != ".." else ():
            assert uploads in Path(path).resolve().parents
            assert visitor.called("predict", file(path, name))[0] == "complete"
    paths = visitor.sent([("x.png", GOOD)] * len(NAMES))
    listed = [{"name": name, "path": path} for path, name in zip(paths, NAMES, strict=True)]
    told = visitor.happened("pictures", {"files": listed, "turn": "1"})
    assert "<script>" not in told and "<img src=x" not in told
    assert f"{len(NAMES)} of {len(NAMES)} pictures answered" in told


def test_each_is_opened_or_refused_and_training_says_the_same(tmp_path):
    """In this process, with no page: all but the bombs."""
    for number, (name, content) in enumerate(pictures(bombs=False)):
        began = time.monotonic()
        try:
            with opened(content, name) as image:
                size = image.size
        except UserError as error:
            plain(str(error))
            size = None
        assert time.monotonic() - began < LONGEST, name
        if size and number % 5 == 0:
            assert open_rgb(content).size == size


def test_a_folder_of_bad_files_is_read_and_each_is_used_or_listed(tmp_path):
    _intake(tmp_path, some(pictures(bombs=False), 12))


def _intake(folder: Path, files: Files) -> None:
    """Each file twice, in two classes."""
    names = set()
    for number, (name, content) in enumerate(files):
        for label in ("cat", "dog"):
            path = folder / label / f"{number}{Path(name).suffix}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            names.add(f"{label}/{path.name}")
    for label, colour in (("cat", "red"), ("dog", "green")):
        Image.new("RGB", (40, 40), colour).save(folder / label / "good.png")
        names.add(f"{label}/good.png")
    began = time.monotonic()
    examples, skipped = read_folder(folder, Data(), progress=False)
    assert {each.path for each in examples} | {each.path for each in skipped} >= names
    assert all(each.reason and "\n" not in each.reason for each in skipped)
    assert {"cat/good.png", "dog/good.png"} <= {each.path for each in examples}
    assert time.monotonic() - began < LONGEST * max(1, len(names) / 100)


@pytest.mark.slow
def test_the_whole_corpus_by_every_way_in(started, capsys):
    visitor, process, uploads = started
    for name, content in strange():
        visitor.called("predict", file(*visitor.sent([(name, content)])))
    before = process.memory_info().rss
    asked = ask_about_each(visitor, pictures())
    batch: list[tuple[str, bytes]] = []
    for each in pictures():
        batch.append(each)
        if len(batch) == 50:
            ask_about_many(visitor, batch)
            batch = []
    ask_about_many(visitor, batch)
    for name, content in zips():
        told_of_zip(visitor, name, content)
        asked += 1
    answers_a_good_picture(visitor)
    sweep(uploads, age=0)
    left = [path for path in uploads.rglob("*") if path.is_file()]
    grown = (process.memory_info().rss - before) / 1e6
    with capsys.disabled():
        print(
            f"\n{asked} bad files, slowest answer {visitor.longest:.1f} s ({visitor.slowest}), grown by {grown:.0f} MB"
        )
    assert not left and grown < GROWTH
    assert visitor.longest < LONGEST, visitor.slowest


@pytest.mark.slow
def test_the_whole_corpus_as_a_folder_to_train_on(tmp_path):
    _intake(tmp_path, corpus())
