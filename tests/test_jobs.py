"""A job is what it says it is: this code, this command, these secrets and no others; and it really ends in a model."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT
from huggingface_hub import HfApi
from loopback_hub import LoopbackHub

from hub_utils import jobs, wheel
from hub_utils.portable.command import UserError

TOKENS = {"hf_alice_0123456789": "alice", "hf_bob_0123456789": "bob", "hf_reader_0123456789": "alice"}
ALICE = "hf_alice_0123456789"
CODE = "alice/image-folder-to-demo-code"
PLAN = {
    "recipe": "digits",
    "name": "digits",
    "flags": ("--num_train_epochs", "1"),
    "dataset": None,
    "resume": None,
    "repo_id": None,
    "public": False,
    "flavor": "cpu-basic",
    "timeout": "3h",
}
SCRIPT = """\
set -eu
cd "$(mktemp -d)"
pip install --quiet '{hub}'
hf download {code} {wheel} requirements.txt recipes/mine.py --revision {commit} --local-dir code --quiet
pip install --quiet -r code/requirements.txt code/{wheel}
accelerate launch -q -m training.train code/recipes/mine.py --learning_rate 1e-3 --dataset=alice/photos \
--output_dir runs/mine --checkpoint_repo acme/petals
python -m training.eval runs/mine
python -m hub_utils.push runs/mine --repo_id acme/petals --public"""


@pytest.fixture
def hub():
    with LoopbackHub(TOKENS, {"hf_reader_0123456789": "read"}, {"acme": ["alice"]}) as hub:
        hub.add("alice/photos", {"train.csv": b"a"}, repo_type="dataset", private=True)
        yield hub


@pytest.fixture
def as_alice(hub, monkeypatch):
    """This process asks that Hub, as far as `HfApi` goes, and never waits before it tries again."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setenv("HF_TOKEN", ALICE)


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    return wheel.build_wheel(tmp_path_factory.mktemp("wheel"))


def plan(**changes) -> jobs.Plan:
    return jobs.Plan(**PLAN | changes)


def start(hub: LoopbackHub, folder: Path, *tokens: str, **environment: str) -> subprocess.CompletedProcess:
    everything = hub.environment(folder / "home", environment.pop("token", ALICE)) | environment
    command = [sys.executable, "-m", "hub_utils.jobs", *tokens]
    everything["PYTHONPATH"] = str(ROOT)
    return subprocess.run(command, cwd=folder, env=everything, capture_output=True, text=True, timeout=120)


def test_the_wheel_holds_every_module_and_what_they_read(built):
    sources = [path for part in ("training", "hub_utils") for path in (ROOT / part).rglob("*") if path.is_file()]
    sources = {path.relative_to(ROOT).as_posix() for path in sources if "__pycache__" not in path.parts}
    with zipfile.ZipFile(built) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert inside == sources - {"training/RESULTS.md"}
    assert {"hub_utils/card_template.md", "training/results/mistakes_page.css", "training/recipes/rocks.py"} <= inside


def test_the_same_sources_make_the_same_wheel_and_leave_nothing_in_the_checkout(built, tmp_path):
    before = sorted(path.name for path in ROOT.iterdir())
    again = wheel.build_wheel(tmp_path)
    assert again.read_bytes() == built.read_bytes()
    assert sorted(path.name for path in ROOT.iterdir()) == before


def test_the_requirements_go_along_without_the_checkout_itself():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert set(lines) - set(wheel.requirements()) == {line for line in lines if line.startswith(("#", "-e"))}
    assert wheel.requirement("huggingface_hub").startswith("huggingface_hub>=")


def test_what_is_submitted_is_this_and_nothing_else(hub, tmp_path):
    (tmp_path / "mine.py").write_bytes((ROOT / "training" / "recipes" / "flowers.py").read_bytes())
    hub.requests.clear()
    tokens = ["mine.py", "--dataset", "alice/photos", "--flavor", "a10g-small", "--repo_id", "acme/petals", "--public"]
    tokens += ["--timeout", "90m", "--learning_rate", "1e-3", "--secret", "WANDB_API_KEY"]
    finished = start(hub, tmp_path, *tokens, WANDB_API_KEY="wandb-secret", AWS_SECRET="not asked for")
    assert finished.returncode == 0, finished.stderr

    [job] = hub.jobs
    sha, [name] = hub.commits(CODE)[-1].sha, [path for path in hub.files(CODE) if path.endswith(".whl")]
    script = SCRIPT.format(hub=wheel.requirement("huggingface_hub"), code=CODE, wheel=name, commit=sha)
    assert job.namespace == "alice"
    assert job.spec == {
        "dockerImage": "python:3.12",
        "command": ["bash", "-c", script],
        "arguments": [],
        "environment": {"PYTHONUNBUFFERED": "1"},
        "secrets": {"HF_TOKEN": ALICE, "WANDB_API_KEY": "wandb-secret"},
        "flavor": "a10g-small",
        "timeoutSeconds": 5400,
        "labels": {"name": "mine"},
    }
    assert hub.repos["models", CODE].private
    assert hub.files(CODE).keys() == {".gitattributes", name, "requirements.txt", "recipes/mine.py"}
    assert hub.files(CODE)["recipes/mine.py"] == (tmp_path / "mine.py").read_bytes()
    assert b"-e ." not in hub.files(CODE)["requirements.txt"]
    said = finished.stdout + finished.stderr
    assert f"hf jobs logs --follow {job.id}" in said and f"{hub.url}/jobs/alice/{job.id}" in said
    assert "acme/petals (public if it is new); checkpoints meanwhile: acme/petals-checkpoints (private)" in said
    for secret in (ALICE, "wandb-secret", "not asked for"):
        assert secret not in said + script
    assert not [path for method, path in hub.requests if method == "DELETE"]
    with pytest.raises(OSError, match="Repository Not Found"):
        HfApi(endpoint=hub.url, token="hf_bob_0123456789").model_info(CODE)


def test_a_rehearsal_tells_the_command_and_asks_nobody(hub, tmp_path):
    finished = start(hub, tmp_path, "digits", "--flavor", "cpu-basic", "--dry_run", token="")
    assert finished.returncode == 0, finished.stderr
    assert "accelerate launch -q -m training.train digits --output_dir runs/digits" in finished.stdout
    assert "modules and" in finished.stdout and "nothing was sent" in finished.stdout
    assert hub.requests == [] and hub.jobs == []


def test_equal_code_is_sent_once(hub, as_alice, built):
    for _ in range(2):
        jobs.submit(plan(), built, {})
    assert len(hub.jobs) == 2 and len(hub.commits(CODE)) == 2
    assert hub.jobs[0].spec["command"] == hub.jobs[1].spec["command"]


def test_a_run_goes_on_from_its_checkpoints(hub, as_alice, built, capsys):
    with pytest.raises(UserError, match="'alice/digits-checkpoints': not on the Hub"):
        jobs.submit(plan(resume="alice/digits-checkpoints"), built, {})
    hub.add("alice/digits-checkpoints", {"run.json": b"{}"}, private=True)
    with pytest.raises(UserError, match="holds no checkpoints to go on from; nothing was started"):
        jobs.submit(plan(resume="alice/digits-checkpoints"), built, {})
    hub.add("alice/digits-checkpoints", {"checkpoints/1-all/checkpoint-5/model.safetensors": b""})
    jobs.submit(plan(resume="alice/digits-checkpoints", flags=("--resume=alice/digits-checkpoints",)), built, {})
    [job] = hub.jobs
    assert "--resume=alice/digits-checkpoints --output_dir runs/digits\n" in job.spec["command"][-1]
    assert "checkpoints meanwhile: alice/digits-checkpoints" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["--flavor", "t4-small"], "RECIPE comes first"),
        (["digits", "--data_dir", "my photos", "more"], "--data_dir: .*push_dataset.py FOLDER .*--dataset YOU/NAME"),
        (["digits", "--output_dir", "x"], "--output_dir: the job's disk is gone"),
        (["digits", "--folds", "5"], "--folds: .*training/train.py"),
        (["digits", "--checkpoint_repo"], "--checkpoint_repo: .*--repo_id"),
        (["digits", "--resume"], "--resume NS/NAME-checkpoints"),
        (["digits", "--timeout", "soon"], "--timeout soon: .*as 90m"),
        (["digits", "--secret", "NO_SUCH_KEY"], "--secret NO_SUCH_KEY: there is no NO_SUCH_KEY"),
        (["digits", "--hub_token", ALICE], "a token on the command line .*--secret"),
        (["digit"], "no recipe 'digit'; did you mean 'digits'. there are breast_cancer, digits, .*your own .py"),
        (["mine.py"], "no recipe file 'mine.py'"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_sent(tokens, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words) as refused:
        jobs.main(tokens)
    assert "\n" not in str(refused.value) and ALICE not in str(refused.value)


def test_flags_are_understood_as_train_would_before_anything_is_paid_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="num_train_epoch"):
        jobs.main(["digits", "--num_train_epoch", "1"])


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["digits", "--num_train_epochs", "-1"], "num_train_epochs is -1.0; a number above 0"),
        (["digits", "--streaming"], "--streaming reads a data set of the Hub"),
        (["lone.py"], "No module named 'helper'; the recipe's file goes alone"),
        (["flowers", "--dataset", "alice/x", "--base_model", "./base"], "'./base' lies on this machine"),
        (["flowers", "--dataset", "photos"], "'photos' lies on this machine"),
        (["digits", "--deepspeed", "/tmp/x.json"], "'/tmp/x.json' lies on this machine"),
    ],
)
def test_what_lies_here_or_would_be_refused_there_is_refused_now(tokens, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "helper.py").write_text("LR = 1")
    (tmp_path / "lone.py").write_text("from helper import LR")
    with pytest.raises(UserError, match=words):
        jobs.main(tokens)


def test_a_recipe_that_names_no_source_is_a_recipe_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert jobs.main(["folder", "--dataset", "alice/photos", "--timeout", "0.5h", "--dry_run"]) == 0
    assert "training.train folder --dataset=alice/photos" in capsys.readouterr().out


def test_a_second_run_does_not_begin_where_another_has_its_checkpoints(hub, as_alice, built):
    hub.add("alice/digits-checkpoints", {"checkpoints/1-all/checkpoint-5/model.safetensors": b""}, private=True)
    with pytest.raises(UserError, match=r"of an earlier run; --resume alice/digits-checkpoints .*nothing was started"):
        jobs.submit(plan(), built, {})
    hub.add("alice/petals-checkpoints", {"run.json": b""})
    with pytest.raises(UserError, match=r"is public, .*nothing was started"):
        jobs.submit(plan(repo_id="petals"), built, {})
    assert hub.jobs == [] and ("models", CODE) not in hub.repos


def test_images_that_are_not_on_the_hub_are_the_next_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"--dataset REPO_ID .*push_dataset\.py flowers --repo_id flowers"):
        jobs.main(["flowers"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"flavor": "a10-small"}, "no machine 'a10-small'; did you mean 'a10g-small'. --flavor is one of cpu-basic, "),
        ({"repo_id": "bob/digits"}, "'bob/digits' belongs to bob, and this token to alice; --repo_id alice/NAME"),
        ({"repo_id": "two--dashes"}, "'alice/two--dashes' cannot be a name on the Hub"),
        ({"dataset": "alice/photo"}, "the data set 'alice/photo': not on the Hub, or not for you"),
    ],
)
def test_what_the_hub_would_refuse_later_is_refused_now(hub, as_alice, built, changes, words):
    with pytest.raises(UserError, match=words):
        jobs.submit(plan(**changes), built, {})
    assert hub.jobs == [] and ("models", CODE) not in hub.repos


def test_a_machine_is_checked_without_the_hub_too(built):
    with pytest.raises(UserError, match=r"no machine 'a10g'; --flavor is one of cpu-basic, .*a10g-small"):
        jobs.rehearse(plan(flavor="a10g"), built, {})


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("", "no token for the Hub: `hf auth login`"),
        ("hf_reader_0123456789", "alice's token may only read"),
        ("hf_nobody_0123456789", "the Hub does not know this token"),
    ],
)
def test_who_may_not_write_starts_nothing(hub, as_alice, built, monkeypatch, token, words):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match=words):
        jobs.submit(plan(), built, {})
    assert hub.jobs == [] and ("models", CODE) not in hub.repos


def test_code_is_not_put_where_everybody_sees_it(hub, as_alice, built):
    hub.add(CODE, {"README.md": b"mine"})
    with pytest.raises(UserError, match=rf"'{CODE}' is public; .*/settings makes it private; nothing was started"):
        jobs.submit(plan(), built, {})
    assert hub.jobs == [] and hub.files(CODE) == {"README.md": b"mine"}


@pytest.mark.parametrize("status", [402, 403])
def test_an_account_without_credits_is_told_where_they_come_from(hub, as_alice, built, status):
    hub.fail("POST /api/jobs/", status)
    with pytest.raises(UserError, match=rf"alice \(HTTP {status}: .*prepaid credits, https.*nothing was started"):
        jobs.submit(plan(), built, {})
    assert hub.jobs == []


@pytest.mark.parametrize(
    ("pattern", "how", "words"),
    [
        ("whoami", "down", "your account on the Hub: the Hub cannot be reached"),
        ("jobs/hardware", 503, "HTTP 503; .*; nothing was started"),
        ("repos/create", "refuse", "cannot be reached .*; nothing was started"),
        ("POST .*/commit/", "down", "cannot be reached .*; nothing was started"),
        ("POST /api/jobs/", "refuse", "whether it was started, `hf jobs ps` tells"),
        ("POST /api/jobs/", "lose", "whether it was started, `hf jobs ps` tells"),
    ],
)
def test_a_hub_that_fails_leaves_no_doubt_where_there_need_be_none(hub, as_alice, built, pattern, how, words):
    hub.fail(pattern, how, times=float("inf"))
    with pytest.raises(UserError, match=words) as refused:
        jobs.submit(plan(), built, {})
    assert "\n" not in str(refused.value) and ALICE not in str(refused.value)
    assert len(hub.jobs) == (1 if how == "lose" else 0)
    hub.recover()
    jobs.submit(plan(), built, {})


def test_where_there_is_no_checkout_the_next_step_is_one(monkeypatch, tmp_path):
    monkeypatch.setattr(wheel, "ROOT", tmp_path)
    with pytest.raises(UserError, match="it is no checkout; git clone"):
        wheel.check_checkout()


def test_without_pip_the_next_step_is_to_get_it(monkeypatch):
    monkeypatch.setattr(wheel.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"has no pip, .*python -m ensurepip"):
        wheel.check_checkout()


def test_what_pip_cannot_build_is_one_line(monkeypatch, tmp_path):
    for name in (*wheel.SOURCES, wheel.REQUIREMENTS):
        (tmp_path / "broken" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "broken" / name).write_text("[")
    monkeypatch.setattr(wheel, "ROOT", tmp_path / "broken")
    with pytest.raises(UserError, match="pip cannot build a wheel") as refused:
        wheel.build_wheel(tmp_path)
    assert "\n" not in str(refused.value)


def clean_machine(folder: Path) -> dict[str, str]:
    """The environment of a machine that has the libraries and nothing of ours; pip needs no network for them."""
    libraries, installed = folder / "libraries" / "site-packages", Path(sysconfig.get_path("purelib"))
    libraries.mkdir(parents=True)  # a path by which dill, too, knows a library from somebody's script
    ours = ("image_folder_to_demo", "__editable__", "distutils-precedence", "pip")
    for path in installed.iterdir():
        if not path.name.startswith(ours):
            (libraries / path.name).symlink_to(path)
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    # Python 3.11 brings an old one along, in front of that of the libraries.
    subprocess.run([python, "-m", "pip", "uninstall", "-y", "-q", "setuptools"], check=True)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.check_output([python, "-c", where], text=True)
    Path(packages.strip(), "libraries.pth").write_text(f"{libraries}\n")
    scripts = importlib.metadata.entry_points(group="console_scripts")
    for script in (scripts["hf"], scripts["accelerate"]):
        path = folder / "venv" / "bin" / script.name
        path.write_text(
            f"#!{python}\nimport sys\nfrom {script.module} import {script.attr}\nsys.exit({script.attr}())\n"
        )
        path.chmod(0o755)
    path = os.pathsep.join([str(python.parent), "/usr/bin", "/bin"])
    return {"PATH": path, "HOME": str(folder), "TMPDIR": str(folder), "PIP_NO_INDEX": "1"}


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="jobs run on Linux")
def test_the_submitted_command_ends_in_a_model_on_the_hub(hub, tmp_path):
    """On a machine without this checkout, from what was sent alone."""
    finished = start(hub, tmp_path, "digits", "--flavor", "cpu-basic", "--num_train_epochs", "1")
    assert finished.returncode == 0, finished.stderr
    [job] = hub.jobs
    environment = clean_machine(tmp_path) | hub_settings(hub, tmp_path) | job.spec["environment"] | job.spec["secrets"]
    shutil.rmtree(tmp_path / "home", ignore_errors=True)
    run = subprocess.run(
        job.spec["command"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert ALICE not in run.stdout + run.stderr

    files = hub.files("alice/digits")
    assert hub.repos["models", "alice/digits"].private and hub.repos["models", "alice/digits-checkpoints"].private
    assert json.loads(files["config.json"])["architectures"] == ["ResNetForImageClassification"]
    assert files["model.safetensors"] and json.loads(files["test_results.json"])
    assert any("checkpoint-" in path for path in hub.files("alice/digits-checkpoints"))


def hub_settings(hub: LoopbackHub, folder: Path) -> dict[str, str]:
    """What makes the loopback Hub the Hub of that machine."""
    everything = hub.environment(folder / "machine")
    return {name: value for name, value in everything.items() if name.startswith("HF_") or name == "no_proxy"}
