"""What verify says of models that are as they should be, and of those that are not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from loopback_hub import LoopbackHub
from safetensors.torch import load_file, save_file
from visits import ask, golden_files, question

from hub_utils import checks, visit, visitor
from hub_utils.card import write_card
from hub_utils.checks import Failed, Model, NotAsked
from hub_utils.export import save_deployable
from hub_utils.portable.command import UserError
from hub_utils.verify import verify_folder
from training.fitting.network import build_network
from training.recipe import Linear, Recipe, ReLU, Stage

CHECKS = ["files", "pipeline", "weights", "labels", "preprocessing", "card", "serving.json"]
CHECKS += ["golden answers by pipeline", "golden answers by ONNX"]


def model_of(folder: Path) -> Model:
    files = {path.relative_to(folder).as_posix(): 1 for path in folder.rglob("*") if path.is_file()}
    return Model(str(folder), None, files, fetch=lambda name: folder / name, weights=lambda: folder)


@pytest.fixture(scope="module")
def whole(colours, tmp_path_factory) -> Path:
    """A folder of what is pushed of a run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(colours.path, folder, ignore=shutil.ignore_patterns("checkpoints", "local"))
    shutil.copytree(colours.path / "local", folder / "local")  # the card reads it
    write_card(folder)
    shutil.rmtree(folder / "local")
    return folder


@pytest.fixture(scope="module")
def answer(whole, tmp_path_factory) -> dict:
    """What the visitor says of it."""
    return visit.ask(model_of(whole), tmp_path_factory.mktemp("visit"), trust_remote_code=False)


@pytest.fixture(scope="module")
def own(tiny_resnet, tmp_path_factory) -> Path:
    """A deployable of the custom class."""
    head = (Linear(8), ReLU(), Linear())
    recipe = Recipe(title="Own", base_model=str(tiny_resnet), head=head, stages=(Stage(name="all"),))
    network, processor = build_network(recipe, ["red", "green"])
    folder = tmp_path_factory.mktemp("own")
    save_deployable(network.eval(), processor, folder)
    return folder


def rows_of(lines: list[str]) -> dict[str, tuple[str, str]]:
    """Mark and what was seen, by the name of the check."""
    return {
        name: (line[2:8].strip(), line[38:].strip())
        for line in lines
        for name in CHECKS
        if line[11:39].rstrip() == name
    }


def run(environment: dict[str, str], *words: str, **more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "hub_utils.verify", *map(str, words)]
    environment = environment | {"PYTHONPATH": str(ROOT)} | more
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


# On the Hub


def test_a_private_model_passes_and_nothing_stays_of_the_download_or_shows_the_token(whole, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with LoopbackHub(tokens={"hf_alice_secret": "alice"}) as hub:
        commit = hub.add("alice/colours", whole, private=True)
        owner = hub.environment(tmp_path / "home", "hf_alice_secret")
        done = run(owner, "alice/colours", TMPDIR=str(temporary), AWS_SECRET_ACCESS_KEY="s3cret")
        asked = [path for _, path in hub.requests]
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"verifying  alice/colours at {commit}, from an empty cache"
    rows = rows_of(lines)
    assert list(rows) == CHECKS
    assert {mark for mark, _ in rows.values()} == {"passed"}
    for name in CHECKS[-2:]:
        assert float(rows[name][1].rpartition(" ")[2]) <= 1e-5
    assert lines[-2:] == [
        "verified   all 9 checks passed",
        "next       python training/predict.py alice/colours photo.jpg",
    ]
    assert "secret" not in done.stdout + done.stderr
    assert list(temporary.iterdir()) == []
    assert not list((tmp_path / "home").rglob("*.safetensors"))
    # The visitor loads what is checked: the commit, whatever main is meanwhile.
    assert all("/main/" not in path for path in asked if "resolve" in path or "safetensors" in path)


REFUSED = """
import json, sys, time
from hub_utils.portable.command import UserError
from hub_utils.verify import main
for words in json.loads(sys.argv[1]):
    began = time.monotonic()
    try:
        print("passed" if main(words) == 0 else "failed")
    except UserError as error:
        print(error)
    assert time.monotonic() - began < 20
"""


def refusals(environment: dict[str, str], *commands: list) -> list[str]:
    """The one line that each command ends with."""
    words = json.dumps([[str(word) for word in command] for command in commands])
    environment = environment | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(commands), done.stdout
    return done.stdout.splitlines()


def test_what_cannot_be_looked_at_is_refused_in_one_line(whole, tmp_path):
    with LoopbackHub(tokens={"hf_alice": "alice"}) as hub:
        hub.add("alice/colours", whole, private=True)
        owner, stranger = hub.environment(tmp_path / "a", "hf_alice"), hub.environment(tmp_path / "b")
        unknown, absent, shape, code, short = refusals(
            owner,
            ["alice/colours", "--revision", "v9"],
            ["alice/nothing"],
            ["a/b/c"],
            ["alice/colours", "--trust_remote_code"],
            ["alice/colours", "--trust_remote_code", "--revision", "0123abc"],
        )
        [private] = refusals(stranger, ["alice/colours"])
        [offline] = refusals(owner | {"HF_HUB_OFFLINE": "1"}, ["alice/colours"])
    [away] = refusals(owner, ["alice/colours"])
    assert unknown == (
        "'alice/colours': it is on the Hub, and has no such revision: its page lists commits, tags and branches"
    )
    assert "'alice/nothing': not on the Hub, or not for you" in absent
    assert "hf auth login" in private and "token" in private
    assert "'a/b/c': no name on the Hub" in shape
    assert "a full commit of 40" in code and code == short
    assert "HF_HUB_OFFLINE forbids to ask the Hub" in offline
    assert "the Hub cannot be reached" in away and "HF_ENDPOINT" in away
    blank, revision, page, tree, home = refusals(
        stranger,
        [""],
        ["alice/colours", "--revision", ""],
        ["https://huggingface.co/alice/colours"],
        ["huggingface.co/alice/colours/tree/main"],
        ["https://huggingface.co"],
    )
    assert blank == "'' names no model; a run folder or a repo id NS/NAME is wanted"
    assert revision.startswith("--revision '' names none; a commit, tag or branch")
    assert page.endswith("/alice/colours' is an address; the repo id in it is wanted: alice/colours")
    assert tree.endswith("is wanted: alice/colours") and home.endswith("is an address; a repo id NS/NAME is wanted")
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    (tmp_path / "file").write_text("")
    folder, empty, file, path = refusals(
        stranger, [whole, "--revision", "main"], [nothing], [tmp_path / "file"], ["./nowhere"]
    )
    assert "--revision is for a repo of the Hub" in folder
    assert "it has no config.json" in empty
    assert "is no folder" in file and "is no folder" in path


@pytest.mark.slow
def test_a_hub_that_goes_away_meanwhile_is_told_as_such(whole, tmp_path):
    with LoopbackHub() as hub:
        hub.add("alice/colours", whole)
        hub.fail("HEAD .*config.json", "down")
        done = run(hub.environment(tmp_path), "alice/colours")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: 'alice/colours': the Hub cannot be reached")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow  # the client tries again for half a minute
@pytest.mark.parametrize("path", ["README.md", "onnx/model.onnx"])
def test_a_hub_that_fails_is_not_told_as_a_bad_model(path, whole, tmp_path):
    with LoopbackHub() as hub:
        hub.add("alice/colours", whole)
        hub.fail(f"(HEAD|GET) .*/resolve/.*{path}", 503, times=float("inf"))
        done = run(hub.environment(tmp_path), "alice/colours")
    assert done.returncode == 1 and "FAILED" not in done.stdout
    assert done.stderr == "error: 'alice/colours': the Hub answers HTTP 503; the same command again later\n"


@pytest.mark.slow
def test_a_hub_that_hangs_is_waited_for_no_longer_than_the_limit(whole, tmp_path):
    code = "from hub_utils import verify, visit; visit.LIMIT = 20; "
    code += "from hub_utils.portable import patience as p; p._now = p.Patience(silence=3); "
    code += "import sys; sys.exit(verify.run_command(verify.main, ''))"
    with LoopbackHub() as hub:
        hub.add("alice/colours", whole)
        hub.fail("GET /storage", "hang", times=float("inf"), seconds=200)
        environment = hub.environment(tmp_path) | {"PYTHONPATH": str(ROOT), "HF_HUB_DOWNLOAD_TIMEOUT": "200"}
        command = [sys.executable, "-c", code, "alice/colours"]
        visited = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
        hub.recover()
        hub.fail("GET /api/models", "hang", times=float("inf"), seconds=200)
        asked = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
        hub.recover()
    assert visited.stderr == (
        "error: 'alice/colours': nothing more came of the Hub, and no answer, for 20 s; the same command again, or "
        "later\n"
    )
    assert asked.stderr.startswith("error: 'alice/colours': the Hub cannot be reached")
    assert len(asked.stderr.splitlines()) == 1


def test_a_model_of_others_is_checked_as_far_as_it_goes_with_the_next_step(whole, tmp_path):
    """As most on the Hub are: pickles beside the weights, a name twice, a card with less, no golden answers."""
    other = {
        "config.json": (whole / "config.json").read_bytes().replace(b'"green"', b'"red"'),
        "model.safetensors": whole / "model.safetensors",
        "preprocessor_config.json": whole / "preprocessor_config.json",
        "pytorch_model.bin": b"a pickle",
        "README.md": b"---\nlicense: mit\n---\n# Other",
    }
    with LoopbackHub() as hub:
        hub.add("bob/other", other)
        done = run(hub.environment(tmp_path), "bob/other")
    assert done.returncode == 1 and done.stderr == ""
    rows = rows_of(done.stdout.splitlines())
    assert [name for name in CHECKS if rows[name][0] == "passed"] == ["pipeline", "weights", "preprocessing"]
    assert "pytorch_model.bin: such files may run code" in rows["files"][1]
    assert rows["labels"][1] == "two classes have one name: red"
    assert rows["card"][1] == "README.md's front matter does not say library_name, pipeline_tag, tags"
    assert "no serving.json" in rows["serving.json"][1] and "training writes it" in rows["serving.json"][1]
    assert rows["golden answers by pipeline"] == ("–", "not asked: see serving.json")
    assert "no onnx/model.onnx" in rows["golden answers by ONNX"][1] and "--resume" in rows["golden answers by ONNX"][1]
    assert done.stdout.splitlines()[-1] == "failed     5 of 9 checks, 1 not asked"


SPY = """

import json as _json, os as _os, pathlib as _pathlib
_found = {"environment": sorted(_os.environ), "token": _os.environ.get("HF_TOKEN"), "here": _os.listdir()}
try:
    import hub_utils
    _found["ours"] = True
except ImportError:
    _found["ours"] = False
_pathlib.Path(r"SPIED").write_text(_json.dumps(_found))
"""


@pytest.mark.slow
def test_code_of_others_runs_only_if_it_is_trusted_at_a_commit_and_finds_no_secret(own, tmp_path):
    ours = {path.relative_to(own).as_posix(): path.read_bytes() for path in own.rglob("*") if path.is_file()}
    spied, name = tmp_path / "spied.json", "modeling_backbone_with_head.py"
    spy = ours | {name: ours[name] + SPY.replace("SPIED", str(spied)).encode()}
    with LoopbackHub(tokens={"hf_alice": "alice"}) as hub:
        commit = hub.add("alice/spy", spy)
        environment = hub.environment(tmp_path / "home", "hf_alice") | {"AWS_SECRET_ACCESS_KEY": "s3cret"}

        def pipeline_row(*words: str) -> tuple[str, str]:
            return rows_of(run(environment, *words).stdout.splitlines())["pipeline"]

        mark, seen = pipeline_row("alice/spy")
        assert mark == "FAILED" and seen.endswith(f"--trust_remote_code --revision {commit}")
        assert not spied.exists()
        assert pipeline_row("alice/spy", "--trust_remote_code", "--revision", commit)[0] == "passed"
    found = json.loads(spied.read_text())
    assert found["token"] == "hf_alice" and found["here"] == [] and found["ours"] is False
    assert "HF_ENDPOINT" in found["environment"] and "AWS_SECRET_ACCESS_KEY" not in found["environment"]
    assert not [name for name in found["environment"] if name.startswith("PYTHONPATH")]


def test_code_of_another_repo_is_pinned_by_nothing_and_never_run(own, tmp_path):
    config = json.loads((own / "config.json").read_text(encoding="utf-8"))
    why_not = visit.why_not_run
    assert why_not(model_of(own), trust_remote_code=False) is None
    elsewhere = {kind: f"eve/code--{each}" for kind, each in config["auto_map"].items()}
    tasks = {"image-classification": {"impl": "eve/code--evil.Pipeline"}}
    processor = {"auto_map": {"AutoImageProcessor": ["eve/code--evil.Processor", None]}}
    cases = {
        "config": {"config__json": config | {"auto_map": elsewhere}},
        "task": {"config__json": config | {"custom_pipelines": tasks}},
        "processor": {"preprocessor_config__json": processor},
        "base model": {"adapter_config__json": {"base_model_name_or_path": "eve/code"}},
    }
    for name, files in cases.items():
        for trusted in (False, True):
            said = why_not(broken(own, tmp_path / f"{name} {trusted}", **files), trusted)
            assert said.startswith("it asks for code of another repo (")
    second = broken(own, tmp_path / "second", evil__py=b"import os", config__json=config | {"custom_pipelines": {}})
    assert why_not(second, False).startswith("it brings code of others")
    assert why_not(second, True) is None
    absent = broken(own, tmp_path / "absent", modeling_backbone_with_head__py=None)
    for trusted in (False, True):
        assert why_not(absent, trusted).startswith("modeling_backbone_with_head.py is missing")
    windows = (own / "modeling_backbone_with_head.py").read_bytes().replace(b"\n", b"\r\n")
    assert why_not(broken(own, tmp_path / "windows", modeling_backbone_with_head__py=windows), False) is None


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal for one process")
def test_ctrl_c_leaves_nothing_of_the_download_and_no_process(whole, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with LoopbackHub() as hub:
        hub.add("alice/colours", whole)
        hub.fail("GET /storage", "hang", seconds=120)
        command = [sys.executable, "-m", "hub_utils.verify", "alice/colours"]
        environment = hub.environment(tmp_path / "home") | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        began = time.monotonic()
        while not [path for method, path in hub.requests if method == "GET" and "/storage" in path]:
            assert process.poll() is None and time.monotonic() - began < 100
            time.sleep(0.05)
        assert list(temporary.iterdir())
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and "Traceback" not in said
    assert said.splitlines()[-1] == "error: interrupted; nothing is left of the download"
    assert list(temporary.iterdir()) == []


# In a folder, check by check


def test_a_folder_is_read_as_it_lies(whole, tmp_path, monkeypatch):
    run_folder = tmp_path / "run"
    shutil.copytree(whole, run_folder)
    (run_folder / "checkpoints").mkdir()
    (run_folder / "checkpoints" / "optimizer.pt").write_bytes(b"never uploaded")
    before = sorted(path for path in run_folder.rglob("*"))
    said: list[str] = []
    monkeypatch.chdir(tmp_path)
    assert verify_folder(Path("run"), said.append)
    assert rows_of(said)["files"] == ("passed", f"{len(model_of(whole).files)}, the weights model.safetensors")
    assert sorted(path for path in run_folder.rglob("*")) == before


def reason(check, *values) -> str:
    with pytest.raises(Failed) as failed:
        check(*values)
    assert "\n" not in str(failed.value)
    return str(failed.value)


def broken(whole: Path, folder: Path, **files) -> Model:
    """A copy of the model in which some files say otherwise, or with None are not there."""
    shutil.copytree(whole, folder)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.unlink() if content is None else path.write_bytes(
            content if isinstance(content, bytes) else json.dumps(content).encode()
        )
    return model_of(folder)


def test_labels_are_counted_and_told_apart(whole, answer, tmp_path):
    assert checks.labels(model_of(whole), answer) == "3: blue, green, red"
    assert "no names, but LABEL_0, LABEL_1" in reason(
        checks.labels, model_of(whole), answer | {"labels": ["LABEL_0", "LABEL_1", "x"]}
    )
    assert reason(checks.labels, model_of(whole), answer | {"logits": 4}) == "3 names for 4 answers"
    serving = json.loads((whole / "serving.json").read_text())
    for image in serving["golden"]["images"]:
        image["probabilities"].append(0.0)
    other = broken(whole, tmp_path / "other", serving__json=serving)
    assert reason(checks.labels, other, answer) == "3 names, and serving.json has 4 probabilities"
    for empty in ("", " ", None):
        assert "class 1 has no name" in reason(checks.labels, model_of(whole), answer | {"labels": ["a", empty, "c"]})


def test_swapped_labels_are_told_by_those_of_the_golden_answers(whole, answer, tmp_path):
    swapped = answer | {"labels": ["blue", "red", "green"]}
    config = json.loads((whole / "config.json").read_text(encoding="utf-8"))
    both = {"id2label": {"0": "blue", "1": "red", "2": "green"}, "label2id": {"blue": 0, "red": 1, "green": 2}}
    renamed = broken(whole, tmp_path / "renamed", config__json=config | both)
    said = "class 1 is called 'red', and was 'green' when the golden answers were stored"
    assert reason(checks.labels, renamed, swapped) == said
    one = broken(whole, tmp_path / "one", config__json=config | {"id2label": both["id2label"]})
    said = "config.json contradicts itself: 'red' is 1 in id2label, and 2 in label2id"
    assert reason(checks.labels, one, swapped) == said
    less = broken(whole, tmp_path / "less", config__json=config | {"label2id": {"blue": 0}})
    assert "'green' is 1 in id2label, and nothing in label2id" in reason(checks.labels, less, answer)
    serving = json.loads((whole / "serving.json").read_text(encoding="utf-8"))
    fewer = serving | {"golden": serving["golden"] | {"labels": ["blue"]}}
    fewer = broken(whole, tmp_path / "fewer", serving__json=fewer)
    assert "3 names, and serving.json has 1" in reason(checks.labels, fewer, answer)
    del serving["golden"]["labels"]
    older = reason(checks.labels, broken(whole, tmp_path / "older", serving__json=serving), answer)
    assert "no `labels`" in older and "python -m hub_utils.push RUN" in older


def test_preprocessing_is_of_one_size_and_the_networks_and_says_how(answer):
    assert checks.preprocessing(answer) == "32 × 32 pixels, mean 0.5 0.5 0.5, deviation 0.5 0.5 0.5"
    other = answer | {"shapes": [[3, 32, 32], [3, 32, 48]]}
    assert "pictures of several shapes" in reason(checks.preprocessing, other)
    assert "does not say its mean" in reason(checks.preprocessing, answer | {"mean": None})
    larger = answer | {"shapes": [[3, 40, 48]] * 7}
    assert reason(checks.preprocessing, larger) == "pictures become 48 × 40 pixels, and the ONNX file wants 32 × 32"
    config = {name: value for name, value in answer.items() if name != "onnx_shape"} | {"image_size": 64}
    assert reason(checks.preprocessing, config) == "pictures become 32 × 32 pixels, and config.json wants 64 × 64"


def test_cards_that_the_hub_cannot_read_are_told(whole, tmp_path, caplog):
    assert checks.card(model_of(whole)).startswith("unknown, transformers")
    cases = {
        "none": (None, "no README.md"),
        "plain": (b"# Model", "does not say license"),
        "cut": (b"---\na: [1\n---\n", "cannot be read"),
        "no text": (b"\xff\xfe", "cannot be read"),
        "no mapping": (b"---\n- a\n---\n", "cannot be read"),
    }
    for name, (content, words) in cases.items():
        assert words in reason(checks.card, broken(whole, tmp_path / name, README__md=content))
    assert not caplog.records


def test_golden_answers_are_of_these_weights_and_of_this_formula(whole, answer, tmp_path):
    good, serving = model_of(whole), json.loads((whole / "serving.json").read_text())
    found = answer["probabilities"]
    assert "7 images, largest difference" in checks.golden(good, found)
    off = deepcopy(found)
    off[3][1] += 2e-4
    assert "they differ by 2.0e-04 ('panorama'), more than 0.0001" in reason(checks.golden, good, off)
    off[0][0] = float("nan")
    assert "they differ by nan ('landscape')" in reason(checks.golden, good, off)
    assert "2 probabilities, stored are 3" in reason(checks.golden, good, [each[:2] for each in found])
    wrong = {
        "NaN": (float("nan"), "NaN for a probability of 'landscape'"),
        "text": ("0.5", "\"0.5\" for a probability of 'landscape'"),
        "large": (1.5, "1.5 for a probability of 'landscape'"),
        "list": ([1], "[1] for a probability of 'landscape'"),
    }
    for name, (value, words) in wrong.items():
        other = deepcopy(serving)
        other["golden"]["images"][0]["probabilities"][1] = value
        assert words in reason(checks.serving, broken(whole, tmp_path / f"value {name}", serving__json=other))
    for number, answers in enumerate(({"blue": 0.1, "green": 0.2, "red": 0.7}, "0.5", None, [])):
        other = deepcopy(serving)
        other["golden"]["images"][0]["probabilities"] = answers
        said = reason(checks.serving, broken(whole, tmp_path / f"answers {number}", serving__json=other))
        assert "no name and list of probabilities" in said
    others = broken(whole, tmp_path / "weights", serving__json=serving | {"weights_sha256": "0" * 64})
    assert "it is of other weights (00000000…" in reason(checks.serving, others)
    cases = {
        "old": serving | {"golden": serving["golden"] | {"formula": "discs-0"}},
        "fewer": serving | {"golden": serving["golden"] | {"images": serving["golden"]["images"][:6]}},
        "none": {"weights_sha256": serving["weights_sha256"]},
        "list": serving | {"golden": []},
        "text": serving | {"golden": {"formula": "discs-1", "images": [{"name": "a", "probabilities": ["x"]}]}},
        "cut": b'{"weights',
        "no object": [],
        "missing": None,
    }
    for name, content in cases.items():
        other = broken(whole, tmp_path / name, serving__json=content)
        assert reason(checks.serving, other)
        with pytest.raises(NotAsked, match=r"not asked: see serving\.json"):
            checks.golden(other, found)
    assert "no onnx/model.onnx" in reason(
        checks.of_onnx, broken(whole, tmp_path / "onnx", **{"onnx/model__onnx": None}), answer
    )


def test_a_network_that_training_could_not_write_as_onnx_is_not_asked_for_it(whole, tmp_path):
    results = json.loads((whole / "all_results.json").read_text())
    without = {"onnx/model__onnx": None}
    given_up = broken(whole, tmp_path / "given up", all_results__json=results | {"onnx_difference": None}, **without)
    assert checks.has_no_onnx(given_up)
    assert not checks.has_no_onnx(broken(whole, tmp_path / "lost", **without))
    assert not checks.has_no_onnx(broken(whole, tmp_path / "cut", all_results__json=b"{", **without))


def test_pickles_anywhere_are_told(whole, tmp_path):
    for name in ("pytorch_model__bin", "training_args__bin", "plots/x__PKL", "a__h5"):
        other = broken(whole, tmp_path / name.replace("/", "-"), **{name: b"x"})
        assert f"{name.replace('__', '.')}: such files may run code" in reason(checks.files, other)
    assert reason(checks.files, broken(whole, tmp_path / "none", model__safetensors=None)) == "no model.safetensors"


def test_what_a_visitor_finds_wrong_with_models_that_load_and_answer(whole, tmp_path):
    """Transformers is silent about all of these."""
    weights = load_file(whole / "model.safetensors")
    processor = json.loads((whole / "preprocessor_config.json").read_text())
    fewer = {name: each for name, each in weights.items() if not name.startswith("classifier")}
    more = weights | {"classifier.2.weight": torch.zeros(3)}
    changed = {name: each + 0.1 if name == "classifier.1.bias" else each for name, each in weights.items()}
    changed["classifier.1.bias"][0] += 0.1
    for name, content in {"fewer": fewer, "more": more, "changed": changed}.items():
        broken(whole, tmp_path / name)
        save_file(content, tmp_path / name / "model.safetensors", {"format": "pt"})
    broken(whole, tmp_path / "resampled", preprocessor_config__json=processor | {"resample": 3})
    broken(whole, tmp_path / "cut off", model__safetensors=b"half")
    names = ["fewer", "more", "changed", "resampled", "cut off"]
    images = golden_files(tmp_path / "images")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    found = ask(sys.executable, [question(tmp_path / name, images) for name in names], tmp_path, environment)
    fewer, more, changed, resampled, cut = found
    assert reason(checks.weights, fewer).startswith("2 missing: classifier.1.bias, classifier.1.weight")
    assert reason(checks.weights, more).startswith("1 left over: classifier.2.weight")
    assert "they differ by" in reason(checks.golden, model_of(tmp_path / "changed"), changed["probabilities"])
    assert "it is of other weights" in reason(checks.serving, model_of(tmp_path / "changed"))
    # The ONNX file is the old one still, and answers so.
    assert "largest difference" in checks.golden(model_of(tmp_path / "changed"), changed["onnx_probabilities"])
    for kind in ("probabilities", "onnx_probabilities"):
        assert "they differ by" in reason(checks.golden, model_of(tmp_path / "resampled"), resampled[kind])
    assert "SafetensorError" in reason(checks.pipeline, cut)
    with pytest.raises(NotAsked, match="not asked: it does not load"):
        checks.loaded(cut)


def test_of_an_error_the_telling_lines_are_told_in_one_and_in_300_characters():
    shapes = RuntimeError("Error(s) in loading:\n\tsize mismatch for a: (2, 3)\n\n\tsize mismatch for b: (3, 4)")
    assert visitor.in_one_line(shapes) == (
        "RuntimeError: Error(s) in loading: size mismatch for a: (2, 3) size mismatch for b: (3, 4)"
    )
    trace = 'Traceback (most recent call last):\n  File "x.py", line 1, in f\n    raise\n'
    several = ValueError(f"Could not load. See the original errors:\n\nwhile:\n{trace}OSError: no\nfile\n\n\n")
    assert visitor.in_one_line(several) == "OSError: no file"
    assert visitor.in_one_line(KeyError()) == "KeyError"
    long = visitor.in_one_line(ValueError("x" * 1000))
    assert len(long) == 300 and long.endswith("x…")


def test_a_model_that_does_not_load_fails_once_and_the_rest_is_not_asked(whole, tmp_path):
    folder = tmp_path / "run"
    broken(whole, folder, model__safetensors=b"half", serving__json=None)
    said: list[str] = []
    assert not verify_folder(folder, said.append)
    rows = rows_of(said)
    assert {name for name in CHECKS if rows[name][0] == "FAILED"} == {"pipeline", "serving.json"}
    assert "SafetensorError" in rows["pipeline"][1]
    for name in ("weights", "labels", "preprocessing", *CHECKS[-2:]):
        assert rows[name] == ("–", "not asked: it does not load")
    assert said[-1] == "failed     2 of 9 checks, 5 not asked"


def test_a_model_that_never_answers_is_waited_for_no_longer_than_the_limit(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(visit, "LIMIT", 0.3)  # less than its libraries take to load
    with pytest.raises(UserError, match=r"there was no answer, for 0\.3 s; the same command again, or later$"):
        verify_folder(whole, str)


def test_help_comes_at_once():
    code = "import sys; from hub_utils.verify import parser; parser().format_help(); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "numpy", "PIL", "huggingface_hub", "tqdm"} & set(eval(done.stdout))
