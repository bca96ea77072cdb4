"""Images come from servers as they are: over a real socket, cut in the middle, changed, lying, asking for a login."""

import base64
import dataclasses
import email.utils
import hashlib
import http.server
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT, help_of, write_photos
from test_archives import packed, small_disk  # noqa: F401

from training.data import transfer as transferring
from training.data.fetch import fetch
from training.recipe import Data, UserError, load_recipe

TAG, DATE = '"v1"', "Wed, 21 Oct 2026 07:28:00 GMT"
NO_WAIT = (0, 0, 0)


class Server:
    """Files over HTTP, with ranges as RFC 9110 has them, and a `trick` for what goes wrong on request number n.

    `log` has (path, Range, status, bytes sent) of each request. A trick writes an answer of its own and returns True,
    or changes `handler.cut` (bytes after which the line goes dead), `handler.ranges`, `handler.claim` (length said).
    """

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.headers: dict[str, str] = {"ETag": TAG, "Last-Modified": DATE}
        self.log: list[tuple[str, str | None, int, int]] = []
        self.asked: list[dict[str, str]] = []
        self.trick: Callable = lambda handler, number: False
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.answer(self)

            do_POST = do_GET

            def log_message(self, *_):
                pass

        Quiet = type("Quiet", (http.server.ThreadingHTTPServer,), {"handle_error": lambda *_: None})
        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, handler) -> None:
        length = int(handler.headers.get("Content-Length", 0))
        handler.body = handler.rfile.read(length)
        handler.cut, handler.ranges, handler.claim, handler.pause = None, True, None, 0
        self.asked.append(dict(handler.headers))
        if self.trick(handler, len(self.asked)):
            self.log.append((handler.path, handler.headers.get("Range"), 0, 0))
            return
        content = self.files.get(handler.path)
        if content is None:
            self.say(handler, 404, b"not here")
            return
        wanted, start, status = handler.headers.get("Range"), 0, 200
        fits = handler.headers.get("If-Range") in (None, self.headers.get("ETag"), self.headers.get("Last-Modified"))
        if wanted and handler.ranges and fits:
            start, status = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]), 206
        if start >= len(content) and status == 206:
            self.say(handler, 416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        headers = dict(self.headers)
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.say(handler, status, content[start:], headers)

    def say(self, handler, status: int, content: bytes, headers: dict[str, str] | None = None) -> bool:
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(handler.claim or len(content)))
        handler.end_headers()
        sent = content[: handler.cut]
        # Before it is sent: who has got it all must find it here.
        self.log.append((handler.path, handler.headers.get("Range"), status, len(sent)))
        try:
            for begin in range(0, len(sent), 20_000):
                handler.wfile.write(sent[begin : begin + 20_000])
                time.sleep(handler.pause)
            handler.wfile.flush()
        except OSError:
            pass
        if len(sent) < (handler.claim or len(content)):
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
        return True

    def sent(self) -> int:
        return sum(size for *_, size in self.log)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture(scope="session")
def archive(tmp_path_factory) -> bytes:
    """Two classes of 20 pictures and something that does not compress: some 300 kB as a zip."""
    folder = write_photos(tmp_path_factory.mktemp("published") / "photos", {"red": 20, "green": 20})
    files = {path.relative_to(folder.parent).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}
    files["photos/notes.txt"] = random.Random(0).randbytes(150_000)
    return packed(folder.parent / "photos.zip", files).read_bytes()


def recipe(source: str | None, **data):
    about = Data(source=source, classes=2, homepage="https://example.org/photos", **data)
    return dataclasses.replace(load_recipe("flowers"), data=about, name="mine")


def get(source: str, folder: Path, **data) -> Path:
    fetch(recipe(source, **data), folder, progress=False, waits=NO_WAIT)
    assert left_of(folder) == []
    return folder


def left_of(folder: Path) -> list[str]:
    return [path.name for path in folder.parent.iterdir() if path.name not in (folder.name, f".{folder.name}.lock")]


def kept(folder: Path) -> list[str]:
    """What the next try will find of the download of a folder."""
    work = folder.with_name(f"{folder.name}.part")
    return sorted(path.name for path in work.iterdir() if path.name not in ("source.txt", ".images.lock"))


def refusal(source: str, folder: Path, **data) -> str:
    with pytest.raises(UserError) as refused:
        fetch(recipe(source, **data), folder, progress=False, waits=NO_WAIT)
    assert not folder.exists()
    text = str(refused.value)
    assert "\n" not in text and "; " in text
    return text


def images(folder: Path) -> int:
    return len(list(folder.rglob("*.png")))


# An archive at an address


def test_an_archive_is_fetched_unpacked_and_removed(server, archive, tmp_path):
    server.files["/photos.zip"] = archive
    folder = get(f"{server.url}/photos.zip", tmp_path / "new" / "photos")
    assert images(folder) == 40
    assert server.log == [("/photos.zip", None, 200, len(archive))]
    assert "image-folder-to-demo" in server.asked[0]["User-Agent"]
    assert server.asked[0]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("kind", ["tar", "tgz", "tar.xz"])
def test_tar_files_come_as_well_and_into_an_empty_folder(kind, server, photos, tmp_path):
    files = {path.relative_to(photos).as_posix(): path.read_bytes() for path in photos.rglob("*.png")}
    server.files[f"/a.{kind}"] = packed(tmp_path / f"a.{kind}", files).read_bytes()
    (tmp_path / "x" / "photos").mkdir(parents=True)
    assert images(get(f"{server.url}/a.{kind}", tmp_path / "x" / "photos")) == 60


def test_only_the_parts_that_the_recipe_wants_are_unpacked(server, photos, tmp_path):
    files = {f"all/{part}/{p.parent.name}/{p.name}": p.read_bytes() for p in photos.rglob("*.png") for part in "AB"}
    server.files["/a.zip"] = packed(tmp_path / "a.zip", files).read_bytes()
    folder = get(f"{server.url}/a.zip", tmp_path / "x" / "photos", parts=("A",))
    assert [path.name for path in (folder / "all").iterdir()] == ["A"]
    assert "has no folder 'C', which the recipe wants" in refusal(f"{server.url}/a.zip", tmp_path / "y", parts=("C",))


def test_a_cut_connection_goes_on_where_it_stopped(server, archive, tmp_path, capsys):
    server.files["/photos.zip"] = archive

    def cut(handler, number):
        handler.cut = 50_000 if number < 5 else None

    server.trick = cut
    assert images(get(f"{server.url}/photos.zip", tmp_path / "photos")) == 40
    ranges = [wanted for _, wanted, *_ in server.log]
    assert ranges == [None] + [f"bytes={50_000 * number}-" for number in (1, 2, 3, 4)]
    assert server.sent() == len(archive)  # no byte twice
    assert [asked.get("If-Range") for asked in server.asked] == [None] + [TAG] * 4
    said = "".join(capsys.readouterr())
    assert said.count("the connection was cut; trying again in 0 s") == 4


def test_a_cut_in_every_try_ends_and_the_next_call_goes_on(server, archive, tmp_path):
    server.files["/photos.zip"] = archive
    cuts = iter([30_000, 0, 0, 0])

    def cut(handler, number):
        handler.cut = next(cuts, None)

    server.trick = cut
    told = refusal(f"{server.url}/photos.zip", tmp_path / "photos")
    assert "the connection was cut" in told and "goes on where it stopped" in told
    assert len(server.log) == 4
    part = tmp_path / "photos.part" / "photos.zip.part"
    assert part.stat().st_size == 30_000
    get(f"{server.url}/photos.zip", tmp_path / "photos")
    assert server.log[-1] == ("/photos.zip", "bytes=30000-", 206, len(archive) - 30_000)


@pytest.mark.parametrize(
    ("headers", "condition"),
    [({"Last-Modified": DATE}, DATE), ({"ETag": 'W/"1"', "Last-Modified": DATE}, DATE), ({"ETag": TAG}, TAG)],
)
def test_the_rest_is_asked_for_on_condition_that_the_file_is_the_same(headers, condition, server, archive, tmp_path):
    server.files["/a.zip"], server.headers = archive, headers
    server.trick = lambda handler, number: setattr(handler, "cut", 40_000 if number == 1 else None)
    get(f"{server.url}/a.zip", tmp_path / "photos")
    assert server.asked[1]["If-Range"] == condition
    assert server.sent() == len(archive)


def test_without_tag_and_date_it_starts_anew(server, archive, tmp_path, capfd):
    server.files["/a.zip"], server.headers = archive, {}
    server.trick = lambda handler, number: setattr(handler, "cut", 40_000 if number == 1 else None)
    get(f"{server.url}/a.zip", tmp_path / "photos")
    assert [wanted for _, wanted, *_ in server.log] == [None, None]
    assert "it cannot be told what the part that is here belongs to; starts anew" in "".join(capfd.readouterr())


def test_a_server_without_ranges_starts_anew_and_says_so(server, archive, tmp_path, capfd):
    server.files["/a.zip"] = archive

    def trick(handler, number):
        handler.ranges, handler.cut = False, 40_000 if number == 1 else None

    server.trick = trick
    assert images(get(f"{server.url}/a.zip", tmp_path / "photos")) == 40
    assert [(wanted, status) for _, wanted, status, _ in server.log] == [(None, 200), ("bytes=40000-", 200)]
    assert "the server cannot go on in the middle; starts anew" in "".join(capfd.readouterr())


def test_a_server_without_ranges_that_always_cuts_does_not_go_on_for_ever(server, archive, tmp_path):
    server.files["/a.zip"] = archive

    def trick(handler, number):
        handler.ranges, handler.cut = False, 40_000

    server.trick = trick
    assert "the connection was cut" in refusal(f"{server.url}/a.zip", tmp_path / "photos")
    assert len(server.log) == 4  # the first gained something, the three after it nothing


@pytest.mark.parametrize("honest", [True, False])
def test_a_file_that_changed_meanwhile_starts_anew(honest, server, archive, tmp_path, photos, capfd):
    files = {path.relative_to(photos).as_posix(): path.read_bytes() for path in photos.rglob("*.png")}
    changed = packed(photos / "b.zip", files).read_bytes()
    server.files["/a.zip"] = archive

    def trick(handler, number):
        handler.cut = 40_000 if number == 1 else None
        if number == 2:
            server.files["/a.zip"], server.headers = changed, {"ETag": '"v2"', "Last-Modified": DATE}
            if not honest:  # it sends the rest of another file, whatever If-Range says
                del handler.headers["If-Range"]

    server.trick = trick
    assert images(get(f"{server.url}/a.zip", tmp_path / "new" / "photos")) == 60
    assert "the file has changed; starts anew" in "".join(capfd.readouterr())


def test_a_part_of_another_source_is_not_gone_on_with(server, archive, tmp_path):
    server.files["/one/a.zip"] = server.files["/two/a.zip"] = archive
    server.trick = lambda handler, number: setattr(handler, "cut", 40_000 if number == 1 else 0 if number < 5 else None)
    refusal(f"{server.url}/one/a.zip", tmp_path / "photos")
    get(f"{server.url}/two/a.zip", tmp_path / "photos")
    assert server.log[-1] == ("/two/a.zip", None, 200, len(archive))


def test_a_length_that_is_too_long_is_found_out(server, archive, tmp_path):
    server.files["/a.zip"] = archive
    server.trick = lambda handler, number: setattr(handler, "claim", None if handler.headers["Range"] else 10**6)
    told = refusal(f"{server.url}/a.zip", tmp_path / "photos")
    assert "goes on where it stopped" in told
    assert len(server.log) < 12


def test_a_length_that_is_too_short_is_found_out_and_nothing_of_it_stays(server, archive, tmp_path):
    server.files["/a.zip"] = archive
    server.trick = lambda handler, number: setattr(handler, "claim", 100_000)
    told = refusal(f"{server.url}/a.zip", tmp_path / "photos")
    assert "is cut off or corrupt" in told and f"it came from {server.url}/a.zip and is removed" in told
    assert kept(tmp_path / "photos") == []


def test_a_whole_file_that_was_not_yet_given_its_name_is_not_fetched_again(server, archive, tmp_path):
    server.files["/a.zip"] = archive
    server.trick = lambda handler, number: setattr(handler, "cut", 0)
    refusal(f"{server.url}/a.zip", tmp_path / "photos")
    (tmp_path / "photos.part" / "a.zip.part").write_bytes(archive)
    before = len(server.log)
    get(f"{server.url}/a.zip", tmp_path / "photos")
    assert len(server.log) == before


def test_what_was_fetched_but_could_not_be_unpacked_for_space_is_kept(server, archive, tmp_path, monkeypatch):
    server.files["/a.zip"] = archive
    free = iter([10**9, 10])  # another process takes the space after the archive has come
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, next(free)))
    told = refusal(f"{server.url}/a.zip", tmp_path / "photos")
    assert "0.0 GB are free; free some" in told and "removed" not in told
    monkeypatch.undo()
    get(f"{server.url}/a.zip", tmp_path / "photos")
    assert len(server.log) == 1


def test_a_slow_server_is_waited_for(server, archive, tmp_path):
    server.files["/a.zip"] = archive
    server.trick = lambda handler, number: setattr(handler, "pause", 0.05)
    assert images(get(f"{server.url}/a.zip", tmp_path / "photos")) == 40


def test_a_server_that_falls_silent_is_asked_again(server, archive, tmp_path, monkeypatch):
    monkeypatch.setattr(transferring, "TIMEOUT", (5, 0.3))
    server.files["/a.zip"] = archive
    server.trick = lambda handler, number: setattr(handler, "pause", 1 if number == 1 else 0)
    assert images(get(f"{server.url}/a.zip", tmp_path / "photos")) == 40
    assert [wanted for _, wanted, *_ in server.log] == [None, "bytes=20000-"]


def test_a_body_of_no_stated_length_comes_in_chunks_and_a_cut_one_is_noticed(server, archive, tmp_path):
    def chunked(handler, number):
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for begin in range(0, len(archive), 50_000):
            piece = archive[begin : begin + 50_000]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if number == 1 and begin:
                handler.close_connection = True
                return True
        handler.wfile.write(b"0\r\n\r\n")
        return True

    server.trick = chunked
    assert images(get(f"{server.url}/a.zip", tmp_path / "photos")) == 40
    assert len(server.asked) == 2


def test_bytes_are_kept_as_sent_whatever_the_encoding_says(server, photos, tmp_path):
    """Some servers call a .tgz a page that is compressed on its way."""
    files = {path.relative_to(photos).as_posix(): path.read_bytes() for path in photos.rglob("*.png")}
    server.files["/a.tgz"] = packed(tmp_path / "a.tgz", files).read_bytes()
    server.headers["Content-Encoding"] = "gzip"
    assert images(get(f"{server.url}/a.tgz", tmp_path / "x" / "photos")) == 60


# Sums


def sums(content: bytes) -> dict[str, dict[str, str]]:
    md5, sha = (base64.b64encode(hashlib.new(kind, content).digest()).decode() for kind in ("md5", "sha256"))
    return {
        "google": {"x-goog-hash": f"crc32c=n03x6A==, md5={md5}"},
        "md5": {"Content-MD5": md5},
        "digest": {"Digest": f"SHA-256={sha}"},
        "repr": {"Repr-Digest": f"sha-256=:{sha}:"},
    }


@pytest.mark.parametrize("kind", ["google", "md5", "digest", "repr"])
def test_sums_of_the_answers_headers_are_checked(kind, server, archive, tmp_path):
    server.files["/a.zip"] = archive
    server.headers |= sums(archive)[kind]
    get(f"{server.url}/a.zip", tmp_path / "right")
    server.headers |= sums(b"something else")[kind]
    server.trick = lambda handler, number: setattr(handler, "cut", 40_000 if number == 2 else None)
    told = refusal(f"{server.url}/a.zip", tmp_path / "wrong")
    algorithm = "md5" if kind in ("google", "md5") else "sha256"
    for content in (archive, b"something else"):
        assert hashlib.new(algorithm, content).hexdigest() in told
    assert "it is removed" in told
    assert kept(tmp_path / "wrong") == []


def test_a_sum_of_a_part_is_not_taken_for_one_of_the_whole():
    about_part = {"Content-MD5": sums(b"part")["md5"]["Content-MD5"], "Digest": "sha-256=nonsense, unixsum=30637"}
    assert transferring.header_sums(about_part, whole=False) == {}
    assert set(transferring.header_sums(about_part, whole=True)) == {"md5"}


# Servers that say no


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (401, "asks for a login (HTTP 401)"),
        (403, "asks for a login (HTTP 403)"),
        (404, "is not there any more (HTTP 404)"),
        (410, "is not there any more (HTTP 410)"),
        (400, "the server answers HTTP 400"),
    ],
)
def test_a_refusal_says_what_else_to_do_and_is_not_repeated(status, told, server, tmp_path):
    server.trick = lambda handler, number: server.say(handler, status, b"<html>no</html>")
    text = refusal(f"{server.url}/a.zip", tmp_path / "photos")
    assert told in text
    assert "download it by hand (https://example.org/photos), unpack it and say --data_dir FOLDER" in text
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(status, server, archive, tmp_path):
    server.files["/a.zip"] = archive
    server.trick = lambda handler, number: number < 3 and server.say(handler, status, b"later")
    assert images(get(f"{server.url}/a.zip", tmp_path / "photos")) == 40


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_heeded(form, server, archive, tmp_path):
    server.files["/a.zip"] = archive
    said = "1" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
    server.trick = lambda handler, number: number == 1 and server.say(handler, 503, b"", {"Retry-After": said})
    began = time.monotonic()
    get(f"{server.url}/a.zip", tmp_path / "photos")
    assert 0.9 < time.monotonic() - began < 10


def test_a_wait_that_is_too_long_is_left_to_the_user(server, tmp_path):
    server.trick = lambda handler, number: server.say(handler, 429, b"", {"Retry-After": "3600"})
    told = refusal(f"{server.url}/a.zip", tmp_path / "photos")
    assert "(HTTP 429), and to come back in 3,600 s" in told
    assert len(server.asked) == 1


def test_a_web_page_in_place_of_a_file_is_refused(server, tmp_path):
    page = b"<!doctype html><title>Great photos!</title>"
    for number, headers in enumerate(({"Content-Type": "text/html; charset=utf-8"}, {})):
        server.trick = lambda handler, _, headers=headers: server.say(handler, 200, page, headers)
        told = refusal(f"{server.url}/a.zip", tmp_path / str(number))
        assert "a web page" in told and "by hand" in told
        assert kept(tmp_path / str(number)) == []


def test_a_way_that_ends_at_a_login_page_is_called_that(server, tmp_path):
    def trick(handler, number):
        if handler.path == "/a.zip":
            return server.say(handler, 302, b"", {"Location": "/accounts/login?next=/a.zip"})
        return server.say(handler, 200, b"<html>", {"Content-Type": "text/html"})

    server.trick = trick
    assert "asks for a login" in refusal(f"{server.url}/a.zip", tmp_path / "photos")


def test_a_redirect_is_followed_and_endless_ones_are_not(server, archive, tmp_path):
    server.files["/b.zip"] = archive
    server.trick = lambda handler, number: (
        handler.path == "/a.zip" and server.say(handler, 302, b"", {"Location": "/b.zip"})
    )
    assert images(get(f"{server.url}/a.zip", tmp_path / "photos")) == 40
    server.trick = lambda handler, number: server.say(handler, 302, b"", {"Location": "/a.zip"})
    assert "Exceeded 30 redirects" in refusal(f"{server.url}/a.zip", tmp_path / "other")


def test_no_network_a_wrong_address_and_a_wrong_source_are_told_at_once(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/a.zip"
    began = time.monotonic()
    told = refusal(nobody, tmp_path / "photos")
    assert "cannot be reached (Connection refused)" in told and "HTTPS_PROXY" in told
    assert "cannot be reached" in refusal("http://no.such.host.invalid/a.zip", tmp_path / "photos")
    assert "cannot be asked for" in refusal("http://", tmp_path / "photos")
    for source in ("ftp://example.org/a.zip", "photos.zip", "sklearn:faces"):
        assert f"source '{source}' is of no kind that is known; there are https://" in refusal(source, tmp_path / "p")
    assert time.monotonic() - began < 10


def test_a_proxy_is_used_and_a_broken_one_is_named(server, archive, tmp_path, monkeypatch):
    server.files["http://photos.invalid/a.zip"] = archive
    monkeypatch.setenv("http_proxy", server.url)
    assert images(get("http://photos.invalid/a.zip", tmp_path / "photos")) == 40
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    told = refusal("http://photos.invalid/a.zip", tmp_path / "other")
    assert "the proxy cannot be used, see HTTPS_PROXY" in told


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes no certificate without openssl")
def test_a_certificate_that_nobody_trusts_is_told(server, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    told = refusal(server.url.replace("http:", "https:") + "/a.zip", tmp_path / "photos")
    assert "has no certificate that is trusted here" in told and "REQUESTS_CA_BUNDLE" in told


# The disk


def test_what_cannot_fit_is_refused_before_it_comes(server, archive, tmp_path, monkeypatch):
    server.files["/a.zip"] = archive
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 0, int(1.5 * len(archive))))
    told = refusal(f"{server.url}/a.zip", tmp_path / "photos")  # enough for the archive, not for the images beside it
    assert "needs 0.0 GB in" in told and "choose another --data_dir" in told
    assert "a.zip.part" not in kept(tmp_path / "photos")


def test_a_disk_that_fills_up_keeps_the_part(server, small_disk, tmp_path, monkeypatch):  # noqa: F811
    server.files["/a.zip"] = random.Random(0).randbytes(3_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, 10**9))
    told = refusal(f"{server.url}/a.zip", small_disk / "photos")
    assert re.search(r"no space left in .*; free some, then the same command goes on", told)
    assert (small_disk / "photos.part" / "a.zip.part").stat().st_size > 500_000
    assert len(server.log) == 1


def test_a_place_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file.* cannot be written \(.*\); choose another --data_dir"):
        fetch(recipe(f"{server.url}/a.zip"), tmp_path / "file" / "photos", progress=False)


def test_a_file_in_the_place_of_the_folder_is_noticed_before_anything_comes(server, archive, tmp_path):
    server.files["/a.zip"] = archive
    (tmp_path / "photos").write_text("mine")
    with pytest.raises(UserError, match=r"--data_dir: '.*photos' is there and is no folder; name another place"):
        fetch(recipe(f"{server.url}/a.zip"), tmp_path / "photos", progress=False)
    assert server.log == [] and (tmp_path / "photos").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="has no such folder")
def test_a_place_where_nothing_can_be_made_is_not_taken_for_one_at_work(server):
    with pytest.raises(UserError, match=r"'/proc/.*' cannot be written \(.*\); choose another --data_dir"):
        fetch(recipe(f"{server.url}/a.zip"), Path("/proc/photos"), progress=False)
    assert server.log == []


def test_a_disk_that_is_read_only_is_named(server, small_disk):  # noqa: F811
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(UserError, match=r"cannot be written \(Read-only file system\); choose another --data_dir"):
        fetch(recipe(f"{server.url}/a.zip"), small_disk / "photos", progress=False)
    assert server.log == []


def encrypted(path: Path) -> bytes:
    content = bytearray(packed(path, {"cat/1.png": b"1"}).read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def test_an_archive_that_another_program_can_unpack_is_kept_for_that_until_it_is_removed(server, archive, tmp_path):
    server.files["/a.zip"] = encrypted(tmp_path / "a.zip")
    told = refusal(f"{server.url}/a.zip", tmp_path / "x" / "photos")
    stays = tmp_path / "x" / "photos.part" / "a.zip"
    assert f"archive '{stays}'" in told and "unpack it yourself and give the folder" in told
    assert "it is kept; remove it, and the same command fetches it anew" in told
    assert stays.read_bytes() == server.files["/a.zip"]
    server.files["/a.zip"] = archive
    assert "is encrypted" in refusal(f"{server.url}/a.zip", tmp_path / "x" / "photos")
    stays.unlink()
    assert images(get(f"{server.url}/a.zip", tmp_path / "x" / "photos")) == 40


@pytest.mark.parametrize("files", [{"../1.png": b"1"}, {"a/" * 60 + "1.png": b"1"}, {}], ids=["out", "deep", "empty"])
def test_an_archive_that_is_no_good_does_not_stay_so_that_a_better_one_is_fetched(files, server, archive, tmp_path):
    server.files["/a.zip"] = packed(tmp_path / "a.zip", files).read_bytes()
    told = refusal(f"{server.url}/a.zip", tmp_path / "x" / "photos")
    assert f"it came from {server.url}/a.zip and is removed" in told
    assert kept(tmp_path / "x" / "photos") == []
    server.files["/a.zip"] = archive
    assert images(get(f"{server.url}/a.zip", tmp_path / "x" / "photos")) == 40


def test_two_at_once_do_not_write_into_each_others_files(server, archive, tmp_path):
    server.files["/a.zip"] = archive
    server.trick = lambda handler, number: setattr(handler, "pause", 0.1)
    first = threading.Thread(target=get, args=(f"{server.url}/a.zip", tmp_path / "photos"))
    first.start()
    while not server.asked:
        time.sleep(0.01)
    with pytest.raises(UserError, match=r"another process downloads into .*photos' at this moment; wait"):
        fetch(recipe(f"{server.url}/a.zip"), tmp_path / "photos", progress=False)
    first.join()
    assert images(tmp_path / "photos") == 40


# OSF

STONES = {"360 Rocks": ["I_Andesite_01.png", "M_Marble_01.png"], "120 Rocks": ["I_Andesite_1_120.png"], "Code": ["a.m"]}


@pytest.fixture
def osf(server, monkeypatch, tmp_path) -> Server:
    """OSF's interface, two entries a page; downloads are redirected to the storage, as there."""
    monkeypatch.setenv("OSF_API_ENDPOINT", f"{server.url}/v2/")
    monkeypatch.delenv("OSF_TOKEN", raising=False)

    def listing(path: str, entries: list[dict]) -> None:
        pages = [entries[i : i + 2] for i in range(0, len(entries), 2)] or [[]]
        for number, page in enumerate(pages):
            url = f"/v2/nodes/d6b9y/files/osfstorage/{path}?page[size]=100" + (f"&page={number + 1}" if number else "")
            following = f"{server.url}{url.split('&')[0]}&page={number + 2}" if number + 1 < len(pages) else None
            server.files[url] = json.dumps({"data": page, "links": {"next": following}}).encode()

    def file(name: str, path: str, content: bytes) -> dict:
        server.files[f"/storage/{path}"] = content
        hashes = {kind: hashlib.new(kind, content).hexdigest() for kind in ("md5", "sha256")}
        about = {"name": name, "kind": "file", "size": len(content), "extra": {"hashes": hashes}}
        return {"attributes": about, "links": {"download": f"{server.url}/download/{path}"}}

    def folder(name: str, path: str) -> dict:
        href = f"{server.url}/v2/nodes/d6b9y/files/osfstorage/{path}?page[size]=100"
        related = {"files": {"links": {"related": {"href": href}}}}
        return {"attributes": {"name": name, "kind": "folder"}, "relationships": related, "links": {}}

    listing("", [file("readme.txt", "0", b"hello"), *(folder(name, f"{i}/") for i, name in enumerate(STONES))])
    draw = random.Random(5)
    for i, names in enumerate(STONES.values()):
        listing(f"{i}/", [file(each, f"{i}-{each}", draw.randbytes(60_000)) for each in names])
    server.file, server.listing = file, listing

    def redirect(handler, number):
        handler.path = handler.path.replace("%5B", "[").replace("%5D", "]")
        return handler.path.startswith("/download/") and server.say(
            handler, 302, b"", {"Location": f"http://localhost:{server.http.server_port}/storage/{handler.path[10:]}"}
        )

    server.trick = redirect
    return server


WANTED = {"parts": ("360 Rocks", "120 Rocks")}


def stones(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def test_osf_is_read_page_by_page_and_only_the_wanted_folders_come(osf, tmp_path):
    folder = get("osf:d6b9y", tmp_path / "one" / "rocks", **WANTED)
    assert stones(folder) == [
        "120 Rocks/I_Andesite_1_120.png",
        "360 Rocks/I_Andesite_01.png",
        "360 Rocks/M_Marble_01.png",
    ]
    assert sum("page=2" in path for path, *_ in osf.log) == 1
    everything = get("osf:d6b9y", tmp_path / "two" / "rocks")
    assert len(stones(everything)) == 5


def test_the_recipe_of_the_rocks_wants_its_two_folders():
    assert (load_recipe("rocks").data.source, load_recipe("rocks").data.parts) == ("osf:d6b9y", WANTED["parts"])
    assert load_recipe("leukemia").data.parts == ("Original",)


def test_osf_goes_on_with_files_that_are_missing_or_cut(osf, tmp_path):
    usual = osf.trick
    done = threading.Event()

    def trick(handler, number):
        answered = usual(handler, number)
        if not answered and "1_120" in handler.path and not done.is_set():
            handler.cut = 25_000 if not handler.headers["Range"] else 0
        return answered

    osf.trick = trick
    assert "'120 Rocks/I_Andesite_1_120.png'" in refusal("osf:d6b9y", tmp_path / "rocks", **WANTED)
    done.set()
    before = len(osf.log)
    get("osf:d6b9y", tmp_path / "rocks", **WANTED)
    fetched = [(path, wanted, size) for path, wanted, _, size in osf.log[before:] if path.startswith("/storage/")]
    assert ("/storage/1-I_Andesite_1_120.png", "bytes=25000-", 35_000) in fetched


def test_osf_sums_are_checked(osf, tmp_path):
    osf.files["/storage/0-M_Marble_01.png"] = random.Random(6).randbytes(60_000)
    told = refusal("osf:d6b9y", tmp_path / "rocks", **WANTED)
    assert "osf:d6b9y, '360 Rocks/M_Marble_01.png' came with the sha256 sum" in told
    assert not (tmp_path / "rocks.part" / "files" / "360 Rocks" / "M_Marble_01.png").exists()


def test_osf_wants_a_token_for_what_is_private_and_hands_it_to_nobody_else(osf, tmp_path, monkeypatch):
    usual = osf.trick

    def trick(handler, number):
        private = not handler.path.startswith("/storage/") and handler.headers["Authorization"] != "Bearer secret-token"
        return server_says_no(osf, handler) if private else usual(handler, number)

    osf.trick = trick
    assert "asks for a login (HTTP 401); its owner can make it public; or set OSF_TOKEN" in refusal(
        "osf:d6b9y", tmp_path / "rocks", **WANTED
    )
    monkeypatch.setenv("OSF_TOKEN", "wrong-token")
    told = refusal("osf:d6b9y", tmp_path / "rocks", **WANTED)
    assert "the token in OSF_TOKEN does not let you in" in told and "wrong-token" not in told
    monkeypatch.setenv("OSF_TOKEN", "secret-token")
    osf.asked.clear()
    get("osf:d6b9y", tmp_path / "rocks", **WANTED)
    storage = [asked for asked in osf.asked if asked["Host"].startswith("localhost")]
    assert len(storage) == 3 and not any("Authorization" in asked for asked in storage)


def server_says_no(server: Server, handler) -> bool:
    return server.say(handler, 401, b'{"errors": []}', {"Content-Type": "application/json"})


def test_what_else_may_be_wrong_with_a_project_of_osf(osf, tmp_path):
    assert "osf:nosuch is not there any more (HTTP 404)" in refusal("osf:nosuch", tmp_path / "rocks")
    assert "holds no folder '240 Rocks', which the recipe wants" in refusal(
        "osf:d6b9y", tmp_path / "rocks", parts=("240 Rocks",)
    )
    assert "names no project" in refusal("osf:../x", tmp_path / "rocks")
    osf.listing("", [osf.file("../../evil.png", "x", b"evil")])
    assert "the file '../../evil.png' leads out of the folder" in refusal("osf:d6b9y", tmp_path / "rocks")
    osf.listing("", [])
    assert "holds no files" in refusal("osf:d6b9y", tmp_path / "rocks")
    for answer in (b"[]", b'{"data": [{}]}', b"<html>"):
        osf.files["/v2/nodes/d6b9y/files/osfstorage/?page[size]=100"] = answer
        assert "answers with something else than" in refusal("osf:d6b9y", tmp_path / "rocks")


# Kaggle


@pytest.fixture
def kaggle(server, archive, monkeypatch, tmp_path) -> Server:
    """kagglehub's own client, which finds this server as a proxy on its way to `localhost`."""
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "home"))
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    service = "http://localhost/api/v1/datasets.DatasetApiService"

    def trick(handler, number):
        if handler.path.startswith(service):
            asked = json.loads(handler.body)
            if (asked["ownerSlug"], asked["datasetSlug"]) != ("ann", "photos"):
                return server.say(handler, 404, b'{"code": 404, "message": "no"}', {"Content-Type": "application/json"})
            if handler.path == f"{service}/GetDataset":
                about = json.dumps({"currentVersionNumber": 3}).encode()
                return server.say(handler, 200, about, {"Content-Type": "application/json"})
            assert asked["datasetVersionNumber"] == 3
            return server.say(handler, 302, b"", {"Location": f"{server.url}/storage.zip?signature={number}"})
        handler.path = handler.path.removeprefix(server.url).split("?")[0]  # as a proxy it is told the whole address
        handler.cut = server.cut
        return False

    server.trick, server.cut, server.files["/storage.zip"] = trick, None, archive
    return server


@pytest.mark.slow
def test_kaggle_comes_through_kagglehub_and_goes_on_after_a_cut(kaggle, archive, tmp_path):
    kaggle.cut = 60_000
    assert images(get("kaggle:ann/photos", tmp_path / "photos")) == 40
    ranges = [wanted for path, wanted, *_ in kaggle.log if path == "/storage.zip" and wanted]
    assert ranges[:1] == ["bytes=60000-"] and len(ranges) == -(-len(archive) // 60_000) - 1
    assert any("kagglehub" in asked.get("User-Agent", "") for asked in kaggle.asked)


@pytest.mark.slow
def test_what_may_be_wrong_with_kaggle(kaggle, tmp_path, monkeypatch):
    assert "kaggle:ann/nothing is not there any more (HTTP 404)" in refusal("kaggle:ann/nothing", tmp_path / "photos")
    assert "one is called OWNER/NAME" in refusal("kaggle:photos", tmp_path / "photos")
    usual = kaggle.trick

    def trick(handler, number):
        if handler.headers["Authorization"] != "Bearer KGAT_secret" and "localhost" in handler.path:
            return server_says_no(kaggle, handler)
        return usual(handler, number)

    kaggle.trick = trick
    told = refusal("kaggle:ann/photos", tmp_path / "photos")
    assert "asks for a login (HTTP 401); set KAGGLE_API_TOKEN" in told and "KAGGLE_USERNAME and KAGGLE_KEY" in told
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_secret")
    kaggle.asked.clear()
    assert images(get("kaggle:ann/photos", tmp_path / "photos")) == 40
    assert sum("Authorization" in asked for asked in kaggle.asked) == 2  # the storage is not told
    kaggle.trick = lambda handler, number: kaggle.say(handler, 503, b"later")
    assert "busy or broken (HTTP 503)" in refusal("kaggle:ann/photos", tmp_path / "other")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert "the proxy cannot be used" in refusal("kaggle:ann/photos", tmp_path / "other")


# The command

OWN = """
from training.recipe import *
recipe = Recipe(
    title="Two colours", base_model="microsoft/resnet-50", head=(Linear(),), stages=(Stage(name="all"),),
    data=Data(source={source!r}, homepage="https://example.org", classes=2),
    card=Card(data_license="CC BY 4.0", citation="Ann (2026). Photos."),
)
"""


def start(*words, **kwargs) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "training" / "download.py"), *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    return subprocess.Popen(command, env=environment, **pipes, **kwargs)


def run(*words, status: int = 0, **kwargs) -> list[str]:
    """The lines that the command says: on success the whole of its output, else its one line."""
    process = start(*words, **kwargs)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert "Traceback" not in err
    return out.splitlines() if status == 0 else [line for line in err.splitlines() if line.startswith("error: ")]


def test_the_command_shows_the_licence_first_and_the_next_command_last(server, archive, tmp_path):
    server.files["/photos.zip"] = archive
    (tmp_path / "mine.py").write_text(OWN.format(source=f"{server.url}/photos.zip"))
    lines = run("mine.py", cwd=tmp_path)
    assert lines == [
        "title      Two colours",
        f"source     {server.url}/photos.zip (https://example.org)",
        "licence    CC BY 4.0",
        "citation   Ann (2026). Photos.",
        "found      40 images of 2 classes: green 20, red 20",
        "skipped    1 × not an image by its name: .txt (photos/notes.txt)",
        f"wrote      {Path('data') / 'mine'}",
        "next       accelerate launch -q training/train.py mine.py",
    ]
    again = run("mine.py", cwd=tmp_path)
    assert f"'{Path('data') / 'mine'}' is there already and is left as it is" in again
    assert again[-1] == lines[-1] and lines[4] in again
    assert len(server.log) == 1
    elsewhere = run(
        "flowers", "--source", f"{server.url}/photos.zip", "--data_dir", "two words", status=1, cwd=tmp_path
    )
    assert "'two words' holds 40 images of 2 classes, and flowers has 5" in elsewhere[0]


def test_a_folder_of_ones_own_is_left_alone(server, photos, tmp_path):
    (tmp_path / "mine.py").write_text(OWN.format(source=f"{server.url}/photos.zip"))
    before = sorted(photos.rglob("*"))
    told = run("mine.py", "--data_dir", photos, status=1, cwd=tmp_path)
    assert "holds 60 images of 3 classes, and mine has 2; remove it to download it anew, or say --data_dir" in told[0]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").touch()
    assert "no images in 'other'" in run("mine.py", "--data_dir", "other", status=1, cwd=tmp_path)[0]
    assert sorted(photos.rglob("*")) == before and server.log == []


@pytest.mark.parametrize("status", [401, 404, 410])
def test_a_source_that_was_typed_wrong_is_not_to_be_fetched_by_hand_from_the_same_address(status, server, tmp_path):
    server.trick = lambda handler, number: server.say(handler, status, b"no")
    told = run("flowers", "--source", f"{server.url}/a.zip", status=1, cwd=tmp_path)[0]
    assert f"(HTTP {status}); check the address, or " in told and told.count(server.url) == 1


def test_mistakes_on_the_command_line_are_one_line(tmp_path):
    assert "did you mean 'flowers'?" in run("flower", status=1, cwd=tmp_path)[0]
    assert "names no source of images" in run("folder", status=1, cwd=tmp_path)[0]
    assert "required: RECIPE; --help" in run(status=1, cwd=tmp_path)[0]
    assert "unrecognized arguments: --data; --help" in run("flowers", "--data", status=1, cwd=tmp_path)[0]
    assert list(tmp_path.iterdir()) == []


def test_digits_need_no_network(tmp_path):
    assert "found      1797 images of 10 classes" in "\n".join(run("digits", cwd=tmp_path))
    assert images(tmp_path / "data" / "digits") == 1797


def test_help_is_quick_and_imports_no_library():
    help_of("download.py", "torch", "transformers", "numpy", "PIL", "requests", "tqdm", "kagglehub")


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_command_that_was_killed_goes_on_and_fetches_nothing_twice(how, server, archive, tmp_path):
    server.files["/photos.zip"] = archive
    server.trick = lambda handler, number: setattr(handler, "pause", 0.1 if number == 1 else 0)
    (tmp_path / "mine.py").write_text(OWN.format(source=f"{server.url}/photos.zip"))
    process = start("mine.py", cwd=tmp_path)
    part = tmp_path / "data" / "mine.part" / "photos.zip.part"
    deadline = time.monotonic() + 30
    while (not part.exists() or part.stat().st_size < 60_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(how)
    _, err = process.communicate(timeout=30)
    assert not (tmp_path / "data" / "mine").exists()
    if how == signal.SIGINT:
        assert process.returncode == 130 and "error: interrupted; the same command goes on" in err
        assert "Traceback" not in err
    have = part.stat().st_size
    assert 60_000 <= have < len(archive)
    lines = run("mine.py", cwd=tmp_path)
    assert "found      40 images of 2 classes: green 20, red 20" in lines
    assert server.log[-1] == ("/photos.zip", f"bytes={have}-", 206, len(archive) - have)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [".mine.lock", "mine"]
