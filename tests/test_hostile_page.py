"""Strangers at a page's door, by plain HTTP: no file but theirs, no address fetched, limits that hold, no script.

What they ask of the endpoints' own arguments stands in test_strangers.py.
"""

import http.client
import json
import shutil
import socket
import threading
import time
import urllib.error
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gradio as gr
import pytest
import uvicorn
from chromium import chromium, opened
from conftest import write_photo
from fastapi import FastAPI
from gradio_client import Client, handle_file
from starlette.middleware import Middleware
from test_strangers import INSIDES, PNG, asked, fetched, file, folder, sent

from hub_utils.portable.demo import build_demo, build_suite, looks
from hub_utils.portable.http_door import Door

MARK = b"THE-SECRET-OF-THIS-MACHINE"


@pytest.fixture(scope="module")
def page(tiny_resnet, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        patch.setenv("DEMO_MODEL", str(tiny_resnet))
        page = build_demo("colours")
        page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
        yield page
        page.close()


@pytest.fixture(scope="module")
def address(page) -> str:
    return page.local_url.rstrip("/")


@pytest.fixture(scope="module")
def canary():
    """An address at which nobody may ask for anything; `hits` are those who did."""

    class Canary(BaseHTTPRequestHandler):
        def do_GET(self):
            server.hits.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.end_headers()
            self.wfile.write(PNG)

        do_HEAD = do_POST = do_PUT = do_GET

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Canary)
    server.hits, server.address = [], f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def secret(tmp_path) -> Path:
    (tmp_path / "secret.png").write_bytes(PNG + MARK)
    return tmp_path / "secret.png"


def raw(address: str, method: str, path: str, body: bytes | None = None, **headers) -> tuple[int, dict, bytes]:
    """Status, headers and body, of a path that goes out to the letter."""
    line = http.client.HTTPConnection("127.0.0.1", int(address.rpartition(":")[2]), timeout=30)
    try:
        line.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = line.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        line.close()


# Files of the machine


@pytest.mark.parametrize(
    "way", ["file=", "file/", "proxy=", "stream/", "component_server/", "custom_component/", "../"]
)
def test_no_route_reads_a_file_of_the_machine(way, address, secret):
    link = Path(folder(), "link.png")
    link.unlink(missing_ok=True)
    link.symlink_to(secret)
    encoded = str(secret).replace("/", "%2f")
    places = [str(secret), encoded, encoded.replace("%", "%25"), f"file:{secret}", f"file://{secret}", f"//{secret}"]
    places += [f"{folder()}/../../{secret}", f"{folder()}/%2e%2e/%2e%2e/..{encoded}", str(link), "/proc/self/environ"]
    places += ["/etc/passwd", "C:\\Windows\\win.ini", "..\\..\\..\\etc\\passwd", "%00/etc/passwd", f"{secret}%00.png"]
    places += [f"{'../' * 12}{secret}", f"{'..%2f' * 12}etc/passwd", str(Path(__file__)), "app.py", ".env"]
    for place in places:
        for root in ("/gradio_api/", "/static/", "/assets/", "/svelte/", "/"):
            code, _, told = raw(address, "GET", root + way + place)
            assert code in (307, 403, 404, 405) or b"<!doctype html" in told[:100].lower(), (root, way, place, code)
            assert MARK not in told and b"root:" not in told and b"HOME=" not in told and b"import" not in told[:200]
    link.unlink()


def test_no_event_of_the_page_reads_or_deletes_one(address, secret, canary):
    """All of them, by their numbers, whatever they are meant to be given."""
    config = json.loads(fetched(f"{address}/config"))
    there = [str(secret), f"{folder()}/../../{secret}", f"{canary.address}/x.png", f"file://{secret}"]
    for event in config["dependencies"]:
        for path in there:
            given = file(path, url=f"{canary.address}/u.png", orig_name="x.png")
            session = f"{event['id']}{abs(hash(path))}"
            question = {"fn_index": event["id"], "session_hash": session, "trigger_id": None}
            question |= {"data": [given for _ in event["inputs"]]}
            question |= {"event_data": {**given, "files": [given], "name": path, "turn": "1"}}
            code, _, told = raw(
                address,
                "POST",
                "/gradio_api/queue/join",
                json.dumps(question).encode(),
                content_type="application/json",
            )
            assert code in (200, 400, 404, 422), told
            if code == 200:
                told = fetched(f"{address}/gradio_api/queue/data?session_hash={session}").encode()
            assert MARK not in told and b"probabilities" not in told, (event["targets"], path)
            assert not INSIDES.search(told.decode()), told
    assert secret.read_bytes() == PNG + MARK and canary.hits == []


def test_what_was_uploaded_comes_back_as_pixels_or_as_a_download(address):
    page = b"<script>alert(1)</script>"
    for name in ("a.html", "a.svg", "a.xhtml", "a.js", "a", "a.png.html", "a.pdf", "../../a.html", "a.png"):
        path = sent(address, name, PNG if name == "a.png" else page)
        assert Path(path).is_relative_to(folder())
        code, headers, _ = raw(address, "GET", f"/gradio_api/file={path}")
        assert code == 200 and headers["x-content-type-options"] == "nosniff", name
        assert "sandbox" in headers["content-security-policy"]
        if name == "a.png":
            assert headers["content-type"] == "image/png"
        else:
            assert headers["content-type"] == "application/octet-stream"
            assert headers["content-disposition"].startswith("attachment")
        part = raw(address, "GET", f"/gradio_api/file={path}", Range="bytes=0-4")
        assert part[0] == 206 and part[1]["x-content-type-options"] == "nosniff"
        assert name == "a.png" or part[1]["content-type"] == "application/octet-stream"


# Addresses


def test_no_address_is_fetched(address, canary):
    port = canary.server_port
    hosts = [f"127.0.0.1:{port}", f"localhost:{port}", f"2130706433:{port}", f"[::ffff:127.0.0.1]:{port}", f"0:{port}"]
    hosts += ["169.254.169.254", f"user@127.0.0.1:{port}", f"127.0.0.1.nip.io:{port}"]
    for url in [f"http://{host}/x.png" for host in hosts] + [f"//127.0.0.1:{port}/x.png", f"HTTP://127.0.0.1:{port}/x"]:
        for given in (file(url), file("x.png", url=url), {"url": url}, {"path": url, "url": url, "is_stream": True}):
            for endpoint, data in (("predict", given), ("predict_many", [given])):
                assert "probabilities" not in asked(address, endpoint, data)[1]
        for way in ("file=", "proxy=", "file/", "stream/"):
            assert raw(address, "GET", f"/gradio_api/{way}{url}")[0] in (400, 403, 404, 405)
        shut = json.dumps({"data": [url], "fn_name": "x", "component_id": 1, "session_hash": "x"}).encode()
        for route in ("component_server", "process_recording", "vibe-edit", "run-history/connect", "deep_link"):
            assert raw(address, "POST", f"/gradio_api/{route}", shut, content_type="application/json")[0] == 404
    for headers in ({"Host": f"127.0.0.1:{port}"}, {"X_Forwarded_Host": f"127.0.0.1:{port}"}):
        assert raw(address, "GET", "/config", **headers)[0] == 200
    assert canary.hits == []


def test_nothing_that_a_page_does_not_need_is_there(address, page):
    """Of all that gradio answers, as its own list of routes has it."""
    told, open_ = page.app.openapi()["paths"], set()
    assert len(told) > 60
    for path, methods in told.items():
        path = path.replace("{path}", "x").replace("{path_or_url}", "x").replace("{url_path}", "x")
        for method in [each.upper() for each in methods]:
            if "heartbeat" in path or path.endswith(("upload_progress", "queue/data")):
                continue  # which wait for what never comes
            code, headers, _ = raw(address, method, path.replace("{", "").replace("}", ""))
            if code not in (404, 405):
                open_.add(path.rstrip("/"))
            assert code < 500 and not any(letter.isdigit() for letter in headers.get("server", "")), path
    parts = ["config", "theme.css", "robots.txt", "favicon.ico", "manifest.json", "pwa_icon", "pwa_icon/{size}"]
    api = "info openapi.json startup-events app_id user login_check theme.css upload queue/join queue/status cancel "
    api += "reset file=x call/{api_name} call/v2/{api_name} run/{api_name} call/{api_name}/{event_id} "
    api += "call/v2/{api_name}/{event_id}"
    assert open_ <= {"", *(f"/{each}" for each in parts), *(f"/gradio_api/{each}" for each in api.split())}
    assert {"", "/config", "/gradio_api/info", "/gradio_api/upload", "/gradio_api/queue/join"} <= open_


# Limits


def test_limits_hold_from_outside(address):
    for path, length in (
        ("upload", 510_000_000),
        ("queue/join", 80_000_000),
        ("call/predict", 80_000_000),
        ("reset", 30_000),
    ):
        line = http.client.HTTPConnection("127.0.0.1", int(address.rpartition(":")[2]), timeout=30)
        line.putrequest("POST", f"/gradio_api/{path}")
        line.putheader("Content-Length", str(length))
        line.endheaders()
        answer = line.getresponse()
        assert answer.status == 413 and "are the limit" in json.loads(answer.read())["detail"]
        line.close()
    many = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nx\r\n' for _ in range(1001)
    )
    code, _, told = raw(
        address, "POST", "/gradio_api/upload", many + b"--x--", content_type="multipart/form-data; boundary=x"
    )
    assert (
        code == 400 and b"Too many files" in told and not [each for each in Path(folder()).iterdir() if each.is_file()]
    )
    assert raw(address, "GET", "/", Cookie="x" * 40_000)[0] == 431
    for nonsense in (b"{", b"[]", b"\xff", b'{"data": 5}', b"null", b'{"data": [' + b"[" * 5000, b""):
        for path in ("queue/join", "call/predict", "call/v2/predict", "run/predict", "cancel", "reset", "upload"):
            code, _, told = raw(address, "POST", f"/gradio_api/{path}", nonsense, content_type="application/json")
            assert (code < 500 or b"That cannot be answered" in told) and not INSIDES.search(told.decode()), (
                path,
                told,
            )


def test_an_event_that_there_is_not_ends_in_words_and_fills_no_log(address, caplog, capfd):
    for path in ("queue/data?session_hash=nobody", "call/predict/nobody", "call/v2/predict/nobody", "call/x/nobody"):
        code, _, told = raw(address, "GET", f"/gradio_api/{path}")
        assert code == 200 and b"error" in told and not INSIDES.search(told.decode()), told
    assert "Traceback" not in caplog.text + "".join(capfd.readouterr())


def test_nobody_passes_by_those_who_wait(address):
    question = json.dumps({"data": [file(sent(address))]}).encode()
    assert raw(address, "POST", "/gradio_api/run/predict", question, content_type="application/json")[0] == 404


@contextmanager
def mounted(**limits):
    """A page in an app of somebody's own, at /sub; its address."""
    app = FastAPI()
    how = looks() | {"app_kwargs": {"middleware": [Middleware(Door, **limits)]}} if limits else looks()
    gr.mount_gradio_app(app, build_demo("colours"), "/sub", **how)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def test_a_page_in_an_app_of_somebody_s_own_has_the_door_as_well(page, monkeypatch):
    with mounted(most=4, silence=0.5) as address:
        assert Client(f"{address}/sub/", verbose=False).predict(
            handle_file(sent(f"{address}/sub")), api_name="/predict"
        )["label"]
        assert raw(address, "GET", "/sub/monitoring")[0] == raw(address, "GET", "/sub/gradio_api/deep_link")[0] == 404
        code, headers, _ = raw(address, "GET", "/sub/")
        assert code == 200 and "object-src 'none'" in headers["content-security-policy"]
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=20) as line:
            line.sendall(
                b"POST /sub/gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
            )
            told = line.makefile("rb").read()  # until it is closed
        assert told.startswith(b"HTTP/1.1 408") and b"too slowly" in told
        monkeypatch.setenv("SPACE_ID", "you/page")
        codes = [
            raw(address, "POST", "/sub/gradio_api/queue/join", b"{}", X_Forwarded_For=f"6.6.{number}.6, {whose}")[0]
            for whose in ("9.9.9.9", "8.8.8.8")
            for number in range(5)
        ]
        assert codes == [422, 422, 422, 422, 429] * 2


# What a model says


@pytest.fixture(scope="module")
def hostile(colours, canary, tmp_path_factory):
    """A model all of whose words would run a script, or fetch something; its folder is runs/hostile below."""
    home = tmp_path_factory.mktemp("home")
    run = shutil.copytree(colours.path, home / "runs" / "hostile")
    evil = [
        f'<img src="{canary.address}/1.png" onerror="window.owned=1">',
        '"><script>window.owned=2</script>\n# {{7*7}} ${window.owned=3}\u202egnp.exe',
        f"'-alert(1)-' [a](javascript:window.owned=4) ![b]({canary.address}/2.png) `{{@html x}}`</style></textarea>",
    ]
    words = " ".join(evil)

    def spoil(told, key=""):
        if isinstance(told, dict):
            return {name: spoil(each, name) for name, each in told.items()}
        if isinstance(told, list):
            return [spoil(each) for each in told]
        return words if isinstance(told, str) and key not in ("model_type", "sha256", "problem_type") else told

    recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    recipe["recipe"] |= {"title": words, "base_model": words, "data": {"homepage": words, "source": words}}
    recipe["recipe"]["card"] = {name: words for name in ("limits", "license", "data_license", "citation", "summary")}
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    config |= {"id2label": dict(enumerate(evil)), "label2id": {each: at for at, each in enumerate(evil)}}
    share = {"value": 0.9, "interval": [0.8, 0.95]}
    test = {"images": 15, "split": words, "date": words, "classes": evil, "confusion": [[3, 1, 1]] * 3}
    test |= {
        "metrics": {"accuracy": share},
        "per_class": {each: {"recall": share, "precision": share} for each in evil},
    }
    for name, content in (("recipe", recipe), ("config", config), ("test_results", test)):
        (run / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    (run / "README.md").write_text(
        f"---\ntitle: {words!r}\n---\n# {words}\n\n{words}\n\n<iframe srcdoc='{words}'>", "utf-8"
    )
    return home


def test_no_word_of_a_model_runs_or_fetches_anything(hostile, canary, tmp_path, monkeypatch):
    monkeypatch.chdir(hostile)
    monkeypatch.delenv("DEMO_MODEL", raising=False)
    name = "<img src=x onerror=window.owned=5>.png" if Path("/dev/null").exists() else "$(x).png"
    write_photo(picture := tmp_path / name, 0.1, 7)
    (bad := tmp_path / "=cmd {{7*7}} `x`.png").write_bytes(b"<script>window.owned=6</script>")
    suite = build_suite(["hostile"])
    suite.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        with chromium() as browser:
            page, complaints = opened(browser)
            page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
            page.goto(suite.local_url)
            page.locator("a[href*=hostile]").first.wait_for()
            assert page.evaluate("window.owned") is None
            page.goto(f"{suite.local_url}hostile")
            page.get_by_role("tab", name="One picture").wait_for()
            page.locator('.one-picture:not(.drawing) input[type="file"]').first.set_input_files([picture])
            page.locator(".bars").first.wait_for()
            page.locator('.one-picture:not(.drawing) input[type="file"]').first.set_input_files([bad])
            page.locator(".one-picture .answer.problem").first.wait_for()
            page.get_by_role("tab", name="Many pictures").click()
            page.locator('.many-pictures input[type="file"]').set_input_files([picture, bad])
            page.locator(".many-results tbody tr").nth(1).wait_for()
            page.get_by_role("tab", name="About").click()
            page.get_by_role("heading", name="Origin").wait_for()
            page.get_by_role("button", name="The model card").click()
            page.locator(".card-text h1").first.wait_for()
            assert page.evaluate("window.owned") is None and "49 " not in page.locator(".about").inner_text()
            assert page.locator("a[href^=javascript]").count() == 0 and page.locator("iframe").count() == 0
            # gradio says so of what was under way when its page is left.
            complaints = [
                each for each in complaints if not each.startswith("AbortError") and "errored out" not in each
            ]
            assert complaints == [] and canary.hits == []
    finally:
        suite.close(verbose=False)


def test_errors_are_fetched_with_the_same_headers(address):
    with pytest.raises(urllib.error.HTTPError) as refused:
        fetched(f"{address}/nowhere")
    assert refused.value.headers["X-Content-Type-Options"] == "nosniff"
    assert json.loads(refused.value.read()) == {"detail": "There is nothing here.", "error": "There is nothing here."}
