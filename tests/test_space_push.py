"""A Space on the Hub, from the run to the page that answers there; the real client, over a real socket."""

import io
import json
import re
import shlex
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from gradio_client import Client, handle_file
from huggingface_hub import HfApi, constants
from loopback_hub import LoopbackHub
from loopback_spaces import Space

from hub_utils import running
from hub_utils.allowlist import contents_of
from hub_utils.bundle import contents, may_go
from hub_utils.clean_start import _deviation, start_and_ask
from hub_utils.export import save_int8
from hub_utils.portable.command import UserError
from hub_utils.portable.golden import golden_images
from hub_utils.portable.predictor import load_predictor
from hub_utils.space import MESSAGE, main
from hub_utils.wanted import of_run
from training.run_folder import RunFolder, sha256

ALICE, BOB = "hf_alicealicealicealicealice", "hf_bobbobbobbobbobbobbob"


@pytest.fixture
def hub(monkeypatch):
    with LoopbackHub(tokens={ALICE: "alice", BOB: "bob"}) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        files = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + files)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))  # retries
        monkeypatch.setattr(running, "EVERY", 0.02)
        monkeypatch.setattr(running, "GRACE", 10.0)
        monkeypatch.setenv("HF_TOKEN", ALICE)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def here(colours, tmp_path, monkeypatch) -> Path:
    """A folder to work in, with a run in runs/."""
    shutil.copytree(colours.path, tmp_path / "runs" / "colours")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put_model(hub: LoopbackHub, here: Path, private: bool = False) -> str:
    """The run's model on the Hub, as `hub_utils.push` puts it there; its commit."""
    return hub.add("alice/colours", contents_of(here / "runs" / "colours").files, private=private)


def tell(*words: str) -> str:
    """What the command prints; the bundle is not tried out unless it is asked for."""
    with redirect_stdout(io.StringIO()) as said, redirect_stderr(io.StringIO()) as beside:
        assert main([*words]) == 0
    assert ALICE not in said.getvalue() + beside.getvalue()
    return said.getvalue()


def push(*words: str) -> str:
    return tell("runs/colours", "--push", "--no_check", *words)


def refusal(*words: str) -> tuple[str, str]:
    """The one line that it is refused with, and what was printed before."""
    with pytest.raises(UserError) as refused, redirect_stdout(io.StringIO()) as said:
        main(["runs/colours", "--push", "--no_check", *words])
    assert "\n" not in str(refused.value) and ALICE not in str(refused.value) + said.getvalue()
    return str(refused.value), said.getvalue()


def runs(hub: LoopbackHub, *stages: str, **logs: list[str]) -> None:
    """Let the next Space, and those that are there, go through these stages."""
    hub.next_space = Space(stages=list(stages), **logs)
    for space in hub.spaces.values():
        space.stages = list(stages)


def test_a_space_is_made_in_one_commit_for_oneself_alone_and_waited_for(hub, here):
    sha = put_model(hub, here)
    runs(hub, "NO_APP_FILE", "BUILDING", "APP_STARTING", "RUNNING")
    said = push()
    assert f"runs       {hub.url}/spaces/alice/colours, for you alone" in said
    assert f"changed    {len(hub.files('alice/colours', 'space')) - 1} files\n" in said
    _, commit = hub.commits("alice/colours", "space")
    assert commit.title == MESSAGE
    files = hub.files("alice/colours", "space")
    assert all(map(may_go, files.keys() - {".gitattributes"}))
    assert json.loads(files["model.json"]) == {"colours": {"model": "alice/colours", "revision": sha}}
    bundled = here / "bundles" / "colours"
    assert {path: (bundled / path).read_bytes() for path in files if path != ".gitattributes"} == {
        path: content for path, content in files.items() if path != ".gitattributes"
    }
    assert hub.repos["spaces", "alice/colours"].private
    assert len([each for each in hub.requests if "/commit/" in each[1]]) == 1


def test_pushed_again_nothing_is_committed_and_what_runs_is_told(hub, here):
    put_model(hub, here)
    runs(hub, "BUILDING", "RUNNING")
    push()
    said = push()
    assert "changed    nothing" in said and "runs       " in said
    assert len(hub.commits("alice/colours", "space")) == 2


def test_a_new_model_is_a_new_commit_of_what_changed(hub, here):
    put_model(hub, here)
    runs(hub, "BUILDING", "RUNNING")
    push()
    hub.add("alice/colours", {"notes.txt": b"a new commit"})
    runs(hub, "BUILDING", "RUNNING")
    said = push()
    assert "changed    README.md, model.json\n" in said


def test_a_model_that_is_not_on_the_hub_is_pushed_first(hub, here):
    told, _ = refusal()
    assert "'alice/colours' is not there: python -m hub_utils.push runs/colours puts it there" in told
    put_model(hub, here)
    hub.add("alice/colours", {"model.safetensors": b"others" * 100})
    told, _ = refusal()
    assert "holds other weights than 'runs/colours': python -m hub_utils.push" in told
    assert not hub.spaces and not (here / "bundles").exists()


def test_a_private_model_wants_a_token_which_is_never_given_by_itself(hub, here, monkeypatch):
    put_model(hub, here, private=True)
    runs(hub, "BUILDING", "RUNNING")
    told, _ = refusal()
    assert "'alice/colours' is private" in told and "--secret HF_TOKEN" in told and not hub.spaces
    said = push("--secret", "HF_TOKEN")
    assert hub.spaces["alice/colours"].secrets == {"HF_TOKEN": ALICE}
    assert "set        secret HF_TOKEN" in said and "warning    --secret HF_TOKEN gives the Space the token" in said
    assert not any(ALICE.encode() in content for content in hub.files("alice/colours", "space").values())
    runs(hub, "RUNNING")
    assert "set " not in push()  # it has one


def test_variables_are_set_once_and_hardware_as_it_is_asked_for(hub, here):
    put_model(hub, here)
    runs(hub, "BUILDING", "RUNNING")
    words = ("--variable", "DEMO_FEEDBACK=alice/said", "--hardware", "zero-a10g")
    assert "set        variable DEMO_FEEDBACK=alice/said" in push(*words)
    space = hub.spaces["alice/colours"]
    assert (space.variables, space.hardware) == ({"DEMO_FEEDBACK": "alice/said"}, "zero-a10g")
    assert "set " not in push(*words)
    runs(hub, "RUNNING", "RUNNING", "APP_STARTING", "RUNNING")
    assert "set        hardware cpu-basic" in push("--hardware", "cpu-basic")


def test_an_account_that_does_not_pay_is_told_what_it_may_have(hub, here):
    put_model(hub, here)
    hub.free_accounts = {"alice"}
    told, _ = refusal()
    assert "(HTTP 402)" in told and "--hardware zero-a10g" in told and not hub.spaces
    runs(hub, "BUILDING", "RUNNING")
    assert "runs " in push("--hardware", "zero-a10g")


@pytest.mark.parametrize(
    ("stage", "log"), [("BUILD_ERROR", "build"), ("CONFIG_ERROR", "build"), ("RUNTIME_ERROR", "run")]
)
def test_what_fails_there_shows_the_tail_of_its_log(hub, here, stage, log):
    put_model(hub, here)
    lines = [f"line {number}\n" for number in range(100)] + [f"ERROR: no gradio for {ALICE}\n"]
    runs(hub, "BUILDING", stage, **{log: lines})
    told, said = refusal()
    assert f"does not run ({stage}): see above" in told and "all files are on the Hub, as " in told
    shown = said.splitlines()
    assert shown[-1] == "  ERROR: no gradio for hf_…" and "  line 99" in shown and "  line 1" not in shown


def test_a_space_that_is_paused_is_said_to_be(hub, here):
    put_model(hub, here)
    runs(hub, "BUILDING", "PAUSED")
    assert "is PAUSED" in refusal()[0]


def test_what_the_hub_says_at_first_may_be_of_the_commit_before(hub, here):
    put_model(hub, here)
    runs(hub, "BUILDING", "RUNNING")
    push()
    hub.add("alice/colours", {"notes.txt": b"a new commit"})
    runs(hub, "RUNNING", "RUNNING", "BUILDING", "BUILD_ERROR")
    assert "does not run (BUILD_ERROR)" in refusal()[0]


def test_a_space_that_new_settings_start_anew_is_waited_for_as_well(hub, here):
    put_model(hub, here)
    runs(hub, "BUILDING", "RUNNING")
    push()
    hub.spaces["alice/colours"].sha = hub.commits("alice/colours", "space")[-1].sha
    for words in (("--variable", "A=1"), ("--secret", "HF_TOKEN"), ("--hardware", "zero-a10g")):
        runs(hub, "RUNNING", "RUNNING", "RUNNING", "APP_STARTING", "RUNTIME_ERROR")
        assert "does not run (RUNTIME_ERROR)" in refusal(*words)[0]


def test_a_space_that_sleeps_is_woken_by_a_visit_and_one_that_is_deleted_is_said_to_be(hub, here):
    put_model(hub, here)
    runs(hub, "BUILDING", "SLEEPING")
    assert f"is SLEEPING: a visit to {hub.url}/spaces/alice/colours wakes it" in refusal()[0]
    assert f"sleeps     {hub.url}/spaces/alice/colours, for you alone: a visit wakes it" in push()
    runs(hub, "DELETING")
    told, _ = refusal()
    assert "is being deleted on the Hub" in told and "all files" not in told


def test_a_hub_that_fails_once_is_asked_again_and_one_that_is_gone_is_said_to_be(hub, here):
    put_model(hub, here)
    runs(hub, "BUILDING", "BUILDING", "RUNNING")
    hub.fail("GET .*/runtime", 503, times=2)
    assert "runs " in push()
    hub.fail("GET .*/runtime", 503, times=1000)
    told, _ = refusal()
    assert "HTTP 503" in told and "all files are on the Hub, as " in told


def test_whoever_waits_no_longer_is_told_that_the_space_goes_on(hub, here, monkeypatch):
    put_model(hub, here)
    runs(hub, "BUILDING")

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("hub_utils.running.sleep", interrupted)
    told, _ = refusal()
    assert "interrupted; all files are on the Hub" in told and f"{hub.url}/spaces/alice/colours" in told


def test_a_space_that_is_never_ready_is_not_waited_for_for_ever(hub, here, monkeypatch):
    put_model(hub, here)
    runs(hub, "BUILDING")
    monkeypatch.setattr(running, "PATIENCE", 0.1)
    assert re.search(r"is BUILDING since \d+ s", refusal()[0])


def test_an_answer_to_the_commit_that_is_lost_is_no_error(hub, here):
    put_model(hub, here)
    runs(hub, "BUILDING", "RUNNING")
    hub.fail("POST .*/commit/", "lose")
    assert "runs " in push()
    assert len(hub.commits("alice/colours", "space")) == 2


def test_a_space_that_was_not_made_here_is_left_alone(hub, here):
    put_model(hub, here)
    hub.add("alice/colours", {"app.py": b"mine", "README.md": b"mine"}, "space", private=True)
    told, _ = refusal()
    assert "is a Space that was not made here (app.py); --repo_id" in told
    assert hub.files("alice/colours", "space")["app.py"] == b"mine"
    hub.add("alice/new", {"README.md": b"---\nsdk: gradio\n---\n"}, "space", private=True)  # as its page makes one
    runs(hub, "BUILDING", "RUNNING")
    assert "runs " in push("--repo_id", "new")


def test_what_somebody_changed_there_is_replaced_only_if_it_may_be(hub, here):
    put_model(hub, here)
    runs(hub, "BUILDING", "RUNNING")
    push()
    hub.add("alice/colours", {"README.md": b"---\ntitle: Mine\n---\n"}, "space")
    told, _ = refusal()
    assert (
        "somebody changed README.md of 'alice/colours' on the Hub since ('Added'" in told
        and "--replace_changes" in told
    )
    assert b"Mine" in hub.files("alice/colours", "space")["README.md"]
    runs(hub, "BUILDING", "RUNNING")
    assert "changed    README.md" in push("--replace_changes")


def test_another_page_is_replaced_only_if_it_may_be(hub, here):
    put_model(hub, here)
    runs(hub, "BUILDING", "RUNNING")
    push()
    words = ["digits", "--model", "alice/colours", "--push", "--no_check", "--repo_id", "colours"]
    with pytest.raises(UserError, match=r"'alice/colours' shows another page, 'colours'.*'digits'.*--replace_changes"):
        tell(*words)
    runs(hub, "BUILDING", "RUNNING")
    assert "runs " in tell(*words, "--replace_changes")


def test_files_that_others_put_beside_ours_stay_and_examples_of_an_earlier_bundle_are_not_shown(hub, here):
    put_model(hub, here)
    runs(hub, "BUILDING", "RUNNING")
    push()
    hub.add("alice/colours", {"packages.txt": b"ffmpeg"}, "space")
    push()
    assert hub.files("alice/colours", "space")["packages.txt"] == b"ffmpeg"
    hub.add("alice/colours", {"examples/01-red.png": b"png"}, "space")
    told, _ = refusal("--replace_changes")
    assert "has examples/01-red.png, which this bundle has not" in told and "--examples N as before" in told
    assert "hf repos delete-files alice/colours 'examples/*' --type space" in told
    HfApi(endpoint=hub.url, token=ALICE).delete_files("alice/colours", ["examples/*"], repo_type="space")
    hub.add("alice/colours", {"notes.txt": b"a new commit of the model"})
    runs(hub, "BUILDING", "RUNNING")
    assert "changed    README.md, model.json\n" in push()  # what they deleted and added is none of what is replaced
    assert not [each for each in hub.requests if each[0] == "DELETE"]


@pytest.mark.parametrize("token", ["", BOB])
def test_who_may_not_write_there_is_told_so(hub, here, monkeypatch, token):
    put_model(hub, here)
    monkeypatch.setenv("HF_TOKEN", token)
    told, _ = refusal("--repo_id", "alice/colours")
    assert ("no token for the Hub" if not token else "belongs to alice") in told


def test_a_model_of_the_hub_is_shown_at_the_commit_that_a_revision_is_now(hub, here):
    sha = put_model(hub, here)
    HfApi(endpoint=hub.url, token=ALICE).create_tag("alice/colours", tag="v1")
    hub.add("alice/colours", {"notes.txt": b"later"})
    said = tell("digits", "--model", "alice/colours", "--revision", "v1", "--no_check")
    assert f"alice/colours at {sha}" in said and "DEMO_MODEL" not in said
    assert json.loads((here / "bundles" / "digits" / "model.json").read_text())["digits"]["revision"] == sha
    for model, revision, why in (("alice/none", "main", "not on the Hub"), ("alice/colours", "v9", "no such revision")):
        with pytest.raises(UserError, match=why):
            main(["digits", "--model", model, "--revision", revision, "--no_check"])


def test_examples_are_of_the_model_that_is_shown(hub, here):
    put_model(hub, here)
    run = here / "runs" / "colours"
    hub.add("alice/other", contents_of(run).files | {"model.safetensors": b"others" * 100})
    config = json.loads((run / "config.json").read_text()) | {"id2label": {"0": "cat", "1": "dog"}}
    hub.add("alice/other", {"config.json": json.dumps(config).encode()})
    words = ["runs/colours", "--no_check", "--model"]
    with pytest.raises(
        UserError, match=r"--examples are pictures of 'runs/colours'.*'alice/other' holds other weights"
    ):
        tell(*words, "alice/other", "--examples", "3", "--i_have_the_right")
    said = tell(*words, "alice/other")
    assert "look       cd bundles/colours && python app.py" in said
    assert "Classes: cat, dog." in (here / "bundles" / "colours" / "README.md").read_text()
    tell(*words, "alice/colours", "--examples", "3", "--i_have_the_right")
    assert len(list((here / "bundles" / "colours" / "examples").iterdir())) == 3


def test_a_model_that_is_not_there_is_said_to_be_no_folder_either(hub, here):
    with pytest.raises(UserError, match=r"'alice/none', which is no folder here: not on the Hub") as refused:
        tell("alice/none", "--no_check")
    assert "nothing has changed" not in str(refused.value)


def test_a_bundle_with_a_secret_in_it_is_not_written(hub, here, monkeypatch):
    recipe = here / "runs" / "colours" / "recipe.json"
    known = json.loads(recipe.read_text())
    known["recipe"]["title"] = f"Colours {ALICE}"
    recipe.write_text(json.dumps(known))
    with pytest.raises(UserError, match=r"nothing was written.*a token of Hugging Face"):
        tell("runs/colours", "--no_check")
    assert not (here / "bundles").exists()


@pytest.mark.parametrize(
    ("value", "medical", "why"),
    [
        ("few", False, r"DEMO_PRECISION is 'few'; auto, float32, int8 are allowed"),
        ("int8", False, r"--variable DEMO_PRECISION=int8: runs.colours: it has no onnx/model_int8\.onnx, which python"),
        ("int8", True, r"--variable DEMO_PRECISION=int8: runs.colours: .*medical"),
    ],
)
def test_a_precision_that_the_model_has_not_is_refused_before_anything_is_pushed(hub, here, value, medical, why):
    path = here / "runs" / "colours" / "recipe.json"
    known = json.loads(path.read_text())
    known["recipe"]["card"]["medical"] = medical
    path.write_text(json.dumps(known))
    told, said = refusal("--variable", f"DEMO_PRECISION={value}")
    assert re.match(why, told) and said == "" and not (here / "bundles").exists()
    assert not [each for each in hub.requests if each[0] != "GET"]


# Started


def test_a_bundle_that_is_started_alone_answers_as_the_predictor_does_here(here):
    said = tell("runs/colours")
    assert "without torch" in said and "checked    started alone, first answer after " in said
    assert "7 answers, within " in said and "next       python -m hub_utils.space runs/colours --push" in said
    run = here.resolve() / "runs" / "colours"
    assert f"look       DEMO_MODEL={shlex.quote(str(run))} python bundles/colours/app.py" in said


def test_an_onnx_file_that_is_cut_off_is_found_out_and_the_bundle_before_stays(here):
    tell("runs/colours", "--no_check")
    (here / "bundles" / "colours" / "README.md").write_text("before")
    onnx = here / "runs" / "colours" / "onnx" / "model.onnx"
    onnx.write_bytes(onnx.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"onnx/model\.onnx cannot be used.*--resume, writes onnx/model\.onnx again"):
        tell("runs/colours")
    assert (here / "bundles" / "colours" / "README.md").read_text() == "before"


def test_a_bundle_that_needs_what_a_space_has_not_is_found_out(here):
    model = of_run("colours", Path("runs/colours"))
    files = contents("colours", [model], {})
    files["app.py"] = b"import torch\n" + files["app.py"]
    said: list[str] = []
    with pytest.raises(UserError, match=r"does not start: its app\.py ended with status 1"):
        start_and_ask(files, [model], say=said.append)
    assert "import of torch halted" in said[-1]


@pytest.mark.slow
def test_a_bundle_is_tried_out_with_the_variables_that_the_space_will_have(here):
    run = RunFolder(here / "runs" / "colours")
    save_int8(run.path, (np.random.default_rng(seed).normal(size=(3, 32, 32)).astype("float32") for seed in range(4)))
    facts = json.loads((run.path / "serving.json").read_text()) | {"int8": {"sha256": sha256(run.int8)}}
    (run.path / "serving.json").write_text(json.dumps(facts))
    model = of_run("colours", Path("runs/colours"))
    files = contents("colours", [model], {})
    wanted = b"os.environ.get('DEMO_PRECISION') == 'int8' and os.environ['PYTHONUTF8'] == '1'"
    files["app.py"] = b"import os\nassert " + wanted + b"\n" + files["app.py"]
    variables = {"DEMO_PRECISION": "int8", "PYTHONUTF8": "0"}  # what the trial itself needs is as it needs it
    assert start_and_ask(files, [model], variables=variables).deviation < 1e-4
    (run.path / "onnx" / "model.onnx").unlink()  # what answers is the other file
    assert start_and_ask(files, [model], variables=variables).deviation < 1e-4


def test_a_push_tries_the_bundle_out_with_its_variables(hub, here):
    put_model(hub, here)
    with pytest.raises(UserError, match="the bundle answers no"), redirect_stdout(io.StringIO()) as said:
        main(["runs/colours", "--push", "--variable", "DEMO_MODEL=alice/none"])
    assert ALICE not in said.getvalue() and "alice/colours" not in hub.spaces


def test_an_answer_may_differ_by_little_from_the_one_that_is_given_here():
    here = {"blue": 0.7, "red": 0.3}
    assert _deviation("colours", {"probabilities": {"blue": 0.705, "red": 0.295}}, here) == pytest.approx(0.005)
    for told, said in (({"blue": 0.6, "red": 0.4}, "differs by 0.100"), ({"blue": 0.7}, "lacks 'red'")):
        with pytest.raises(UserError, match=said):
            _deviation("colours", {"probabilities": told}, here)
    with pytest.raises(UserError, match="answers no picture"):
        _deviation("colours", "no picture", here)


@pytest.mark.slow
def test_a_bundle_that_answers_as_another_model_would_is_found_out(here):
    model = of_run("colours", Path("runs/colours"))
    files = contents("colours", [model], {})
    path = "hub_utils/portable/network.py"
    files[path] = files[path].replace(b"logits.max(", b"1e-3 * logits.max(").replace(b"np.exp(", b"0.5 + np.exp(")
    with pytest.raises(UserError, match="'colours' in the bundle answers otherwise than here"):
        start_and_ask(files, [model])


@pytest.mark.slow
def test_the_space_runs_what_was_committed_and_answers(hub, here):
    put_model(hub, here, private=True)
    hub.runs_spaces = True
    said = push("--secret", "HF_TOKEN")
    assert f"runs       {hub.url}/spaces/alice/colours" in said
    image = golden_images()["portrait"]
    image.save(here / "portrait.png")
    client = Client(hub.spaces["alice/colours"].url, verbose=False)
    answer = client.predict(handle_file(here / "portrait.png"), api_name="/predict")
    predictor = load_predictor("runs/colours")
    expected = dict(zip(predictor.labels, predictor([image])[0].probabilities, strict=True))
    assert answer["probabilities"] == pytest.approx(expected, abs=0.01)
    assert answer["revision"] == hub.commits("alice/colours")[-1].sha


@pytest.mark.slow
def test_a_bundle_answers_in_an_environment_that_pip_makes_from_its_requirements(here):
    assert "installed  " in tell("runs/colours", "--clean")
