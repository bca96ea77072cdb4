"""The folder of uploads: of one process alone, and in the end empty, whatever came and however it broke off."""

import errno
import os
import socket
import subprocess
import sys
import time
import urllib.error
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT
from gradio.utils import get_upload_folder
from test_strangers import PNG, asked, file, happened, sent

from hub_utils.portable import upload_folder
from hub_utils.portable.demo import Page, build_demo
from hub_utils.portable.upload_folder import answered, has_room, received, sweep, uploading


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """What GRADIO_TEMP_DIR says; there is somebody else's file in it."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    (tmp_path / "gradio").mkdir()
    (tmp_path / "gradio" / "somebody else's").touch()
    return tmp_path / "gradio"


def old(path: Path, seconds: float = 3600) -> Path:
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def test_a_page_has_a_folder_of_its_own_process_and_all_pages_the_same(own):
    first, second = Page("a"), Page("b")
    assert Path(get_upload_folder()).parent == own and first.GRADIO_CACHE == second.GRADIO_CACHE == get_upload_folder()


def test_what_is_old_is_deleted_and_what_is_new_or_somebody_elses_stays(own):
    page = Page("a")
    folder = Path(get_upload_folder())
    for name in ("a/old.png", "a/new.png", "b/old.png", "tmp0123", "c/d/e/old"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "empty").mkdir()
    (folder / "recent").mkdir()
    page.upload_file_set |= {str(folder / "a/old.png"), str(folder / "a/new.png"), str(folder)}
    gone = ["a/old.png", "b/old.png", "tmp0123", "c/d/e/old", "c/d/e", "c/d", "c", "b", "empty"]
    for name in gone:
        old(folder / name)
    outside = own.parent / "outside"
    outside.mkdir()
    old(outside.parent / "outside")
    (outside / "kept").touch()
    old(outside / "kept")
    if hasattr(os, "symlink"):
        (folder / "link").symlink_to(outside)
    sweep(folder)
    for _ in range(4):  # deleting a file is a use of its folder
        for name in gone:
            if (folder / name).is_dir():
                old(folder / name)
        sweep(folder)
    assert sorted(each.name for each in folder.iterdir() if each.name != "link") == ["a", "recent"]
    assert [each.name for each in (folder / "a").iterdir()] == ["new.png"]
    assert page.upload_file_set == {str(folder / "a/new.png"), str(folder)}
    assert (outside / "kept").exists() and (own / "somebody else's").exists()


def test_after_every_way_of_asking_it_is_empty_in_the_end(own, tiny_resnet, monkeypatch):
    """Even of an upload that breaks off, and once the folder itself was named to gradio as a file."""
    monkeypatch.setattr(upload_folder, "EVERY", 0.2)
    monkeypatch.setenv("DEMO_MODEL", str(tiny_resnet))
    page = build_demo("colours")
    page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        address, folder = page.local_url.rstrip("/"), Path(get_upload_folder())
        asked(address, "predict_many", [file(str(folder))])
        assert asked(address, "predict", file(sent(address)))[0] == "complete"
        given = sent(address, "refused.png", b"no picture")
        assert asked(address, "predict", file(given))[0] == "error"
        assert time.time() - os.path.getmtime(given) > upload_folder.AGE - 2 * upload_folder.YOUNG
        given = sent(address, "many.png")
        assert asked(address, "predict_many", [file(given)])[0] == "complete"
        assert time.time() - os.path.getmtime(given) > upload_folder.AGE - 2 * upload_folder.YOUNG
        assert asked(address, "predict", {"url": "data:;base64," + "A" * 1000})[0] == "error"
        assert asked(address, "predict_many", [file(sent(address, "b.png"))])[0] == "complete"
        assert "data-turn" in happened(address, "picture", {"turn": "1", "path": sent(address, "c.png")})
        assert "data-turn" in happened(address, "pictures", {"files": [{"path": sent(address, "d.png")}]})
        _break_off(address)
        with monkeypatch.context() as full, pytest.raises(urllib.error.HTTPError) as refused:
            full.setattr("gradio.route_utils.GradioUploadFile.write", _no_space)
            sent(address, "f.png")
        assert refused.value.code == 503 and "no room for uploads" in refused.value.read().decode()
        assert _waited(lambda: not list(folder.glob("tmp*")))  # at once, as a whole page takes none of it
        assert [each.name for each in folder.rglob("*.*") if each.suffix == ".bin"] == []
        monkeypatch.setattr(upload_folder.sweep, "__defaults__", (0.1,))
        assert _waited(lambda: not list(folder.iterdir()))
        assert not page.upload_file_set and not any(page.temp_file_sets)
    finally:
        page.close()


async def _no_space(file, data):
    raise OSError(errno.ENOSPC, "No space left on device")


def _break_off(address: str) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="e.png"\r\n\r\n'
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as line:
        line.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9000000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + head + PNG
        )
        time.sleep(0.5)


def _waited(for_what) -> bool:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if for_what():
            return True
        time.sleep(0.1)
    return False


def test_what_a_killed_process_left_goes_at_the_next_start_and_nothing_else(own):
    """Not what lives, nor what looks like ours and is somebody else's or leads elsewhere."""
    code = "import os, sys, time; from hub_utils.portable.demo import Page; Page('x'); "
    code += "print(os.environ['GRADIO_TEMP_DIR'], flush=True); time.sleep(60)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        dead, alive = (Path(each.stdout.readline().strip()) for each in started)
        for folder in (dead, alive):
            (folder / "x").mkdir()
            (folder / "x" / "holiday.png").write_bytes(PNG)
        (own / "uploads-unknown").mkdir()
        if hasattr(os, "symlink"):
            (own / "uploads-link").symlink_to(own.parent)
        (own.parent / "lock").touch()
        started[0].kill()
        started[0].wait(60)
        assert (dead / "x" / "holiday.png").exists()
        Page("a")
        assert not dead.exists() and (alive / "x" / "holiday.png").exists()
        assert (
            (own / "uploads-unknown").exists() and (own / "somebody else's").exists() and (own.parent / "lock").exists()
        )
    finally:
        for each in started:
            each.kill()
            each.wait(60)


def test_the_folder_goes_with_the_process(own):
    code = "import os; from hub_utils.portable.demo import Page; Page('x'); print(os.environ['GRADIO_TEMP_DIR'])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    made = Path(done.stdout.strip())
    assert made.parent == own and not made.exists(), done.stderr
    assert (own / "somebody else's").exists()


def test_what_breaks_off_goes_at_once_and_what_others_are_sending_stays(own):
    Page("a")
    folder = Path(get_upload_folder())
    (folder / "whole").mkdir()
    with uploading():
        (folder / "tmp-others").touch()
        with pytest.raises(OSError, match="gone"), uploading():
            (folder / "tmp-broken").touch()
            (folder / "tmp-older").touch()
            old(folder / "tmp-older")
            raise OSError("gone")
        assert {each.name for each in folder.iterdir()} == {"whole", "tmp-others", "tmp-broken"}
    assert [each.name for each in folder.iterdir()] == ["whole"]
    with uploading(False):
        (folder / "tmp").touch()
    assert (folder / "tmp").exists()
    os.environ["GRADIO_TEMP_DIR"] = str(own)
    with uploading():
        pass
    assert (own / "somebody else's").exists()  # and no folder but ours is touched


def test_the_oldest_uploads_make_room_and_those_of_the_last_minute_stay(own, monkeypatch):
    Page("a")
    folder = Path(get_upload_folder())
    monkeypatch.setattr(upload_folder, "MOST_TOGETHER", 100)
    monkeypatch.setattr(upload_folder, "MOST_FREE", 0)
    monkeypatch.setattr(upload_folder, "_bytes", 0)
    monkeypatch.setattr(upload_folder, "_looked", -100.0)
    for name, age in {"oldest": 900, "older": 300, "new": 10}.items():
        (folder / name).mkdir()
        (folder / name / "a.png").write_bytes(bytes(30))
        old(folder / name / "a.png", age)
        received(30)
    there = {each.parent.name for each in folder.rglob("*.png")}
    assert has_room(10) and there == {"oldest", "older", "new"}
    assert has_room(20) and {each.parent.name for each in folder.rglob("*.png")} == {"older", "new"}
    assert not has_room(80)  # it has just been looked
    monkeypatch.setattr(upload_folder, "_looked", -100.0)
    assert not has_room(80) and {each.parent.name for each in folder.rglob("*.png")} == {"new"}
    assert has_room(70)
    assert (own / "somebody else's").exists()


def test_the_disk_is_never_filled(own, monkeypatch):
    Page("a")
    disk = SimpleNamespace(total=10**12, used=0, free=1_000_000_500)
    monkeypatch.setattr(upload_folder.shutil, "disk_usage", lambda folder: disk)
    monkeypatch.setattr(upload_folder, "_bytes", 0)
    assert has_room(500) and not has_room(501)
    disk.total, disk.free = 1000, 150  # of a small one a tenth is left
    assert has_room(50) and not has_room(51)


def test_what_programs_sent_goes_a_minute_after_the_answer_unless_somebody_sends_the_same(own):
    Page("a")
    folder = Path(get_upload_folder())
    (path := folder / "a.png").touch()
    answered(path)
    sweep(folder)
    assert path.exists()  # for a minute
    sweep(folder, upload_folder.AGE - upload_folder.YOUNG - 1)
    assert not path.exists()
    answered(path)  # it is gone already: nothing happens
