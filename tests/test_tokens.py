"""No token in what is shown: of every command, whatever goes wrong, against a Hub that refuses it."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, write_photos
from loopback_hub import LoopbackHub

from hub_utils.portable.tokens import keep_tokens_quiet, with_token, without_token

TOKEN = "hf_CanaryCanaryCanaryCanaryCanary01"
OTHER = "an-odd-token-of-no-known-form"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"401 for {TOKEN}!", "401 for hf_…!"),
        (f"Authorization: Bearer {OTHER}", "Authorization: Bearer …"),
        ("https://you:passw0rd@host/x", "https://…@host/x"),
        ("https://s3/x?X-Amz-Signature=0123456789abcdef0123&a=b", "https://s3/x?X-Amz-Signature=…&a=b"),
        ("KGAT_0123456789abcdef", "…"),
        ("hf_transfer and hf_xet, hf_file_system.py", "hf_transfer and hf_xet, hf_file_system.py"),
        ("nothing: https://host:80/a@b", "nothing: https://host:80/a@b"),
    ],
)
def test_what_looks_like_a_token_is_left_out(text, shown):
    assert without_token(text) == shown


def test_so_is_what_the_environment_calls_one(monkeypatch):
    monkeypatch.setenv("OSF_TOKEN", OTHER)
    monkeypatch.setenv("MY_SECRET", "short")
    assert without_token(f"{OTHER} is short") == "… is short"


def test_files_with_one_are_named(tmp_path):
    (tmp_path / "x").write_text(f"classes: {TOKEN}")
    files = {"README.md": tmp_path / "x", "a.json": b"{}", "b.json": b"with hf_transfer", "c.bin": TOKEN.encode()}
    assert with_token(files) == ["README.md"]


def test_logs_and_tracebacks_have_none(monkeypatch):
    """In a process of its own, as both are changed for good; an odd record is left to `logging`."""
    code = (
        "import logging, threading\nfrom hub_utils.portable.tokens import keep_tokens_quiet\n"
        "keep_tokens_quiet(); keep_tokens_quiet()\nlogging.basicConfig()\n"
        f"logging.warning('with %s', '{TOKEN}')\nlogging.warning('broken %d', 'x')\n"
        f"try: raise OSError('{TOKEN}')\nexcept OSError: logging.exception('so')\n"
        f"def fail(): raise OSError('{OTHER}')\n"
        "thread = threading.Thread(target=fail); thread.start(); thread.join()\nfail()"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_TOKEN": OTHER}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    shown = done.stdout + done.stderr
    assert done.returncode == 1 and TOKEN not in shown and "OSError: …" in shown and "with hf_…" in shown
    assert shown.count("OSError: …") == 2 and "OSError: hf_…" in shown and shown.count("in fail") == 2


COMMANDS = [
    ("training/eval.py", "hf_alice/none"),
    ("training/predict.py", "alice/none", "{photos}"),
    ("training/predict.py", "alice/tiny", "{photos}", "--revision", TOKEN),
    ("training/train.py", "folder", "--dataset", "alice/none"),
    ("training/push_dataset.py", "{photos}", "--repo_id", "alice/photos"),
    ("training/push_dataset.py", "{photos}", "--repo_id", f"alice/{TOKEN}"),
    ("training/download.py", "digits", "--source", f"hub:alice/{TOKEN}"),
    ("-m", "hub_utils.push", "{photos}"),
    ("-m", "hub_utils.verify", "alice/none"),
    ("-m", "hub_utils.space", "digits", "--push"),
    ("-m", "hub_utils.jobs", "digits"),
]


@pytest.mark.slow
@pytest.mark.parametrize("how", [401, "refuse", "unknown"])
def test_no_command_shows_it_whatever_the_hub_answers(how, tmp_path):
    """The Hub repeats the token in its refusals, which is worse than any does."""
    photos = write_photos(tmp_path / "photos", {"red": 12, "blue": 12})
    with LoopbackHub(tokens={} if how == "unknown" else {TOKEN: "alice"}) as hub:
        if how != "unknown":
            said = {} if how == "refuse" else {"X-Error-Message": f"no, {TOKEN} {OTHER}"}
            hub.fail(".*", how, times=float("inf"), **said)
        environment = os.environ | hub.environment(tmp_path / "home", TOKEN) | {"PYTHONPATH": str(ROOT)}
        environment |= {"OSF_TOKEN": OTHER}
        for command in COMMANDS:
            asked = [str(photos) if each == "{photos}" else each for each in command]
            if not asked[0].startswith("-"):
                asked[0] = str(ROOT / asked[0])
            done = subprocess.run(
                [sys.executable, *asked], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
            )
            shown = done.stdout + done.stderr
            assert done.returncode and TOKEN not in shown and OTHER not in shown, (command, shown)
    for path in Path(tmp_path).rglob("*.log"):
        assert TOKEN not in path.read_text(errors="replace")


def test_the_factory_is_put_in_once():
    before = logging.getLogRecordFactory()
    try:
        keep_tokens_quiet()
        first = logging.getLogRecordFactory()
        keep_tokens_quiet()
        assert logging.getLogRecordFactory() is first
    finally:
        logging.setLogRecordFactory(before)
