"""A page's model on the Hub, over a real socket: one commit for all, a Hub that breaks off, and refusals in words.

The libraries read the Hub's address when they are imported, so each test has a process of its own, with its own Hub.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

START = """
import json, os, shutil, sys, threading
from pathlib import Path
from loopback_hub import LoopbackHub

run, home = map(Path, sys.argv[1:])
hub = LoopbackHub(tokens={"hf_alicealice": "alice", "hf_bobbobbob": "bob"}).__enter__()
os.environ.update(hub.environment(home))

from PIL import Image
from hub_utils.portable.command import UserError
from hub_utils.portable.served import Served, verdict

def asked(served):
    served._again = 0.0
    try:
        return verdict(served, *served.answer([Image.new("RGB", (50, 40), "orange")]))["revision"]
    except UserError as error:
        return str(error)

told = {}
"""


def in_a_process(run, home, code: str, **environment) -> dict:
    found = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])} | environment
    script = START + code + "\nprint(json.dumps(told), flush=True)\nos._exit(0)"
    done = subprocess.run(
        [sys.executable, "-c", script, str(run), str(home)],
        env=found, capture_output=True, text=True, timeout=120, encoding="utf-8", stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]) | {"log": done.stderr}


@pytest.fixture
def run(colours, tmp_path):
    return shutil.copytree(
        colours.path, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "local", "onnx", "plots")
    )


@pytest.fixture
def quick(run, colours):
    """With its ONNX file, without the weights."""
    shutil.copytree(colours.path / "onnx", run / "onnx")
    (run / "model.safetensors").unlink()
    return run


def test_what_is_told_and_what_answers_are_of_one_commit_and_a_mended_one_is_found(quick, tmp_path):
    told = in_a_process(quick, tmp_path / "home", """
first = hub.add("alice/tiny", run)
served = Served("x", "alice/tiny")
served.ask_for_facts().join()
hub.add("alice/tiny", {"recipe.json": b'{"recipe": {"title": "Another"}}'})
told["same"] = [served.revision == first, asked(served) == first, served.title]

broken = hub.add("alice/broken", {path.name: path for path in run.iterdir() if path.is_file()})
served = Served("x", "alice/broken")
told["broken"] = asked(served)
mended = hub.add("alice/broken", {"onnx/model.onnx": run / "onnx" / "model.onnx"})
told["pinned"] = asked(Served("x", "alice/broken", broken))
told["mended"] = asked(served) == mended and served.revision == mended and served.problem is None
""")  # fmt: skip
    assert told["same"] == [True, True, "Colours"]
    assert told["broken"].startswith("alice/broken: there are no weights in safetensors")
    assert told["pinned"] == told["broken"] and told["mended"]


def test_a_hub_that_breaks_off_leaves_what_is_in_the_cache(quick, tmp_path):
    told = in_a_process(quick, tmp_path / "home", """
sha = hub.add("alice/tiny", run)
told["first"] = asked(Served("x", "alice/tiny")) == sha
for how in ("refuse", "cut", "down", 503, 429):
    hub.fail(".*", how, times=9999)
    told[str(how)] = asked(Served("x", "alice/tiny")) == sha and asked(Served("x", "alice/tiny", sha)) == sha
    told[f"{how}, never seen"] = asked(Served("x", "alice/other"))
    hub.recover()
""")  # fmt: skip
    for how in ("refuse", "cut", "down", "503", "429"):
        assert told[how] is True, (how, told)
        said = told[f"{how}, never seen"]
        assert said.startswith("'alice/other': ") and "command again" not in said and "\n" not in said


def test_reading_asks_for_the_right_name_and_for_no_right_to_write(quick, tmp_path):
    told = in_a_process(quick, tmp_path / "home", """
hub.add("alice/secret", run, private=True)
told["nobody"] = [asked(Served("x", name)) for name in ("alice/secret", "alice/nothing")]
hub.fail(".*", 403, times=9999)
told["403"] = asked(Served("x", "alice/nothing"))
hub.recover()
os.environ["HF_TOKEN"] = "hf_nobodynobody"
told["unknown token"] = asked(Served("x", "alice/secret"))
""")  # fmt: skip
    for said in told["nobody"]:
        assert "not on the Hub, or private (HTTP 401); is the name right?" in said
    assert "(HTTP 403); is the name right?" in told["403"]
    assert "the Hub does not know this token" in told["unknown token"]
    for said in (*told["nobody"], told["403"], told["unknown token"]):
        assert "write" not in said and "--repo_id" not in said and "command again" not in said


def test_two_models_of_transformers_may_be_loaded_at_once(run, tmp_path):
    told = in_a_process(run, tmp_path / "home", """
several = [Served(f"n{number}", run) for number in range(3)]
threads = [threading.Thread(target=lambda each=each: told.update({each.name: asked(each)})) for each in several]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
""")  # fmt: skip
    assert {told[name] for name in ("n0", "n1", "n2")} == {None}, told


def test_a_model_that_transformers_does_not_know_or_that_brings_code_is_said_shortly(run, tmp_path):
    told = in_a_process(run, tmp_path / "home", """
def of(**changes):
    config = json.loads((run / "config.json").read_text()) | changes
    (run / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return asked(Served("x", run))

told["unknown"] = of(model_type="foo", architectures=["FooForImageClassification"])
told["none"] = of(model_type=None, architectures=None)
code = {"AutoConfig": "theirs.Config", "AutoModelForImageClassification": "theirs.Model"}
(run / "theirs.py").write_text("raise SystemExit('their code ran')")
told["code"] = of(model_type="foo", auto_map=code)
""")  # fmt: skip
    for name, words in (("unknown", "`foo`"), ("none", "model_type"), ("code", "it needs code of its own, and none")):
        assert words in told[name] and told[name].startswith("run: transformers cannot load it: "), told
        assert "pip install" not in told[name] and "trust_remote_code=True" not in told[name]
        assert len(told[name]) < 400 and str(tmp_path) not in told[name]
    assert "[y/N]" not in told["log"]
