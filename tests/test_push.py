"""What a push puts on the Hub, what it refuses to, and what it says; the real client, over a real socket."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError
from loopback_hub import LoopbackHub

from hub_utils.export import save_serving
from hub_utils.portable.command import UserError
from hub_utils.portable.patience import Patience
from hub_utils.push import main
from training.run_folder import RunFolder, sha256

ALICE, BOB, READER = "hf_alicealicealicealicealice", "hf_bobbobbobbobbobbobbob", "hf_readerreaderreaderreader"
MODEL = {"config.json", "model.safetensors", "preprocessor_config.json", "serving.json", "onnx/model.onnx"}
TOLD = {"recipe.json", "log_history.csv", "all_results.json", "README.md", "plots/curves.png"}
MEASURED = {"test_results.json", *(f"plots/{n}.png" for n in ("confusion", "discrimination", "recall", "reliability"))}


@pytest.fixture(scope="module")
def measured(colours, tmp_path_factory) -> Path:
    """A run as training and eval.py leave it, with what a person may have put there as well."""
    from training.results.measure import measure

    run = RunFolder(tmp_path_factory.mktemp("measured") / "colours")
    shutil.copytree(colours.path, run.path)
    with redirect_stdout(io.StringIO()):
        measure(run)
    save_serving(run.path)
    for name in ("notes.txt", "plots/photo.png", "onnx/other.onnx", "optimizer.pt", ".env", "local/secret.txt"):
        (run.path / name).write_text(f"HF_TOKEN={ALICE}")
    return run.path


@pytest.fixture
def run(measured, tmp_path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(measured, tmp_path / "colours")


@pytest.fixture
def hub(monkeypatch):
    with LoopbackHub(
        tokens={ALICE: "alice", BOB: "bob", READER: "alice"}, roles={READER: "read"}, organisations={"acme": ["alice"]}
    ) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        files = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + files)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between retries
        monkeypatch.setenv("HF_TOKEN", ALICE)
        yield hub


def tell(run: Path, *words: str) -> str:
    """What the command prints of a run that it pushes; it is not tried out."""
    with redirect_stdout(io.StringIO()) as said, redirect_stderr(io.StringIO()) as beside:
        assert main([str(run), "--no_verify", *words]) == 0
    for token in (ALICE, BOB, READER):
        assert token not in said.getvalue() + beside.getvalue()
    return said.getvalue()


def refusal(run: Path, *words: str) -> str:
    """The one line that it is refused with."""
    with pytest.raises(UserError) as refused, redirect_stdout(io.StringIO()):
        main([str(run), "--no_verify", *words])
    assert "\n" not in str(refused.value)
    for token in (ALICE, BOB, READER):
        assert token not in str(refused.value)
    return str(refused.value)


def stamps(run: Path) -> dict[Path, tuple[str, int]]:
    """All that is in a run folder, as it is now."""
    return {path: (sha256(path), path.stat().st_mtime_ns) for path in run.rglob("*") if path.is_file()}


def asked(hub: LoopbackHub, method: str) -> list[str]:
    return [path for each, path in hub.requests if each == method]


# What goes


def test_the_repo_holds_the_allowlist_and_nothing_else_and_is_private(hub, run):
    before = stamps(run)
    said = tell(run)
    assert hub.files("alice/colours").keys() - {".gitattributes"} == MODEL | TOLD | MEASURED
    for path, content in hub.files("alice/colours").items():
        if path not in ("README.md", ".gitattributes"):
            assert content == (run / path).read_bytes()
    assert hub.repos["models", "alice/colours"].private
    assert stamps(run) == before
    sha = hub.commits("alice/colours")[-1].sha
    assert f"{hub.url}/alice/colours, for you alone" in said and f"revision   {sha}" in said
    assert f'pipeline("image-classification", model="alice/colours", revision="{sha}")("photo.jpg")' in said


def test_one_commit_holds_everything_and_its_message_is_the_one_asked_for(hub, run):
    before = len(hub.commits("alice/colours")) if ("models", "alice/colours") in hub.repos else 0
    tell(run, "--message", "First one")
    made = hub.commits("alice/colours")[before:]
    assert [commit.title for commit in made][-1] == "First one"
    assert len([path for path in asked(hub, "POST") if "/commit/" in path]) == 1


def test_no_token_is_in_any_request_body_file_or_commit_of_the_hub(hub, run):
    tell(run, "--tag", "v1")
    files = [path for path in hub.storage.folder.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not [path for path in files if ALICE.encode() in path.read_bytes()]
    commits = repr(hub.commits("alice/colours"))
    assert ALICE not in commits and ALICE not in repr(hub.requests)
    kept = ("notes.txt", "plots/photo.png", "onnx/other.onnx", "optimizer.pt", ".env", "local/secret.txt")
    found = {path.relative_to(run).as_posix() for path in stamps(run) if ALICE.encode() in path.read_bytes()}
    assert found == set(kept)  # what the test put there, and nothing beside


def test_the_card_names_the_repo_and_one_changed_by_hand_goes_as_it_is(hub, run):
    tell(run)
    mine, theirs = (run / "README.md").read_bytes(), hub.files("alice/colours")["README.md"]
    assert b'model="runs/colours"' in mine and b'model="alice/colours"' in theirs and b"runs/colours" not in theirs
    changed = mine + b"\nWritten by hand.\n"
    (run / "README.md").write_bytes(changed)
    assert "README.md was changed by hand, and goes as it is" in tell(run)
    assert hub.files("alice/colours")["README.md"] == changed
    (run / "README.md").unlink()
    assert "the card of 'alice/colours' was written by hand, and this push would replace it" in refusal(run)
    assert hub.files("alice/colours")["README.md"] == changed
    tell(run, "--repo_id", "other")
    assert b'model="alice/other"' in hub.files("alice/other")["README.md"]


def test_a_card_is_known_again_wherever_the_run_lies(hub, run, monkeypatch):
    tell(run)
    theirs = hub.files("alice/colours")["README.md"]
    moved = run.rename(run.with_name("moved"))
    assert "by hand" not in tell(moved, "--repo_id", "colours")
    assert hub.files("alice/colours")["README.md"] == theirs
    monkeypatch.chdir(moved)
    assert "by hand" not in tell(Path("."), "--repo_id", "colours")
    assert hub.files("alice/colours")["README.md"] == theirs


def test_a_card_that_was_changed_on_the_hub_or_is_somebodys_page_is_not_replaced(hub, run):
    tell(run)
    edited = hub.files("alice/colours")["README.md"].replace(b"# Colours", b"# My colours")
    hub.add("alice/colours", {"README.md": edited})
    (run / "log_history.csv").write_text((run / "log_history.csv").read_text() + "\n")
    assert "was written by hand" in refusal(run)
    hub.add("alice/page", {"README.md": b"# My page", "recipe.json": b"{}"}, private=True)
    assert "was written by hand" in refusal(run, "--repo_id", "page")
    assert hub.files("alice/colours")["README.md"] == edited and hub.files("alice/page")["README.md"] == b"# My page"
    (run / "README.md").write_bytes(edited)
    assert "changed    log_history.csv (" in tell(run)


def test_a_card_in_another_encoding_is_one_line(hub, run):
    (run / "README.md").write_bytes("Löwe".encode("utf-16"))
    assert "README.md' is no UTF-8: save it as such, or python training/eval.py" in refusal(run)


def test_an_onnx_file_is_made_where_it_is_missing(hub, run):
    (run / "onnx" / "model.onnx").unlink()
    assert f"wrote      {Path('onnx') / 'model.onnx'}".replace("wrote      ", "") in tell(run)
    assert "onnx/model.onnx" in hub.files("alice/colours")
    results = json.loads((run / "all_results.json").read_text())
    (run / "all_results.json").write_text(json.dumps(results | {"onnx_difference": None}))
    (run / "onnx" / "model.onnx").unlink()
    tell(run, "--repo_id", "without")
    assert "onnx/model.onnx" not in hub.files("alice/without")


def test_files_by_which_another_model_would_be_loaded_are_named(hub, run):
    tell(run)
    hub.add("alice/colours", {"adapter_config.json": b"{}", "pytorch_model.bin": b""})
    assert "holds adapter_config.json, pytorch_model.bin, by which it may answer as another model" in refusal(run)


def test_a_token_that_can_be_none_is_one_line(hub, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_ümlaut")
    assert "the token holds what no token has ('ü')" in refusal(run)


def test_an_organisation_may_be_written_in_any_case(hub, run):
    tell(run, "--repo_id", "ACME/cased")
    assert ("models", "acme/cased") in hub.repos


def test_pushed_again_only_what_changed_is_sent(hub, run):
    tell(run)
    first = hub.commits("alice/colours")[-1].sha
    hub.requests.clear()
    assert "nothing: the Hub has all of this already" in tell(run)
    assert hub.commits("alice/colours")[-1].sha == first and asked(hub, "POST") == [] == asked(hub, "PUT")
    (run / "log_history.csv").write_text((run / "log_history.csv").read_text() + "\n")
    said = tell(run)
    assert "pushing    1 file, " in said and "changed    log_history.csv (" in said and "safetensors" not in said
    assert asked(hub, "PUT") == [] and not [path for path in asked(hub, "POST") if "lfs" in path]
    changed = hub.commits("alice/colours")[-1]
    assert changed.files.keys() == hub.repos["models", "alice/colours"].commits[first].files.keys()


def test_a_network_in_8_bits_that_was_not_measured_stays_here_and_that_is_said(hub, run):
    (run / "onnx" / "model_int8.onnx").write_bytes((run / "onnx" / "model.onnx").read_bytes())
    said = tell(run)
    assert "warning    onnx/model_int8.onnx stays here: serving.json does not say that it was measured; python" in said
    assert "onnx/model_int8.onnx" not in hub.files("alice/colours") and "onnx/model.onnx" in hub.files("alice/colours")


def test_serving_json_is_made_where_it_is_missing_or_of_other_weights(hub, run):
    content = json.loads((run / "serving.json").read_text())
    content = {name: content[name] for name in ("weights_sha256", "golden")}  # the rest needs images: eval.py adds it
    for spoiled in (None, json.dumps({**content, "weights_sha256": "0" * 64})):
        (run / "serving.json").unlink()
        if spoiled:
            (run / "serving.json").write_text(spoiled)
        assert "serving.json, which was missing or of other weights" in tell(run)
        assert json.loads((run / "serving.json").read_text()) == content
        assert json.loads(hub.files("alice/colours")["serving.json"]) == content


def test_a_repo_of_an_organisation_or_for_all_to_see(hub, run):
    assert "for all to see" in tell(run, "--repo_id", "acme/reds", "--public")
    assert not hub.repos["models", "acme/reds"].private
    assert "for you alone" in tell(run, "--repo_id", "greens")
    assert hub.repos["models", "alice/greens"].private


def test_a_custom_head_goes_with_its_one_file_of_code(hub, run, tiny_resnet, colours, tmp_path):
    from training.data.source import Folder
    from training.fitting.fit import fit
    from training.recipe import Linear, Recipe, ReLU, Stage

    hidden = RunFolder(tmp_path / "hidden")
    stage = Stage(name="all", batch_size=8, arguments={"num_train_epochs": 1})
    recipe = Recipe(title="Hidden", base_model=str(tiny_resnet), head=(Linear(4), ReLU(), Linear()), stages=(stage,))
    fit(replace(recipe, name="hidden"), Folder(colours.path.parent / "photos"), hidden, flags=["--bf16", "false"])
    said = tell(hidden.path, "--without_results")
    assert "trust_remote_code=True" in said
    assert "modeling_backbone_with_head.py" in hub.files("alice/hidden")
    module = hidden.path / "modeling_backbone_with_head.py"
    module.write_text(module.read_text() + "# mine\n")
    said = refusal(hidden.path, "--without_results")
    assert "it was changed, or is of another version" in said and "cp " in said
    module.rename(module.with_name("modeling_mine.py"))
    assert "is no code of this project" in refusal(hidden.path, "--without_results")


# Tags


def test_a_tag_is_put_on_the_commit_and_never_moved(hub, run):
    assert ", tagged v1" in tell(run, "--tag", "v1")
    repo = hub.repos["models", "alice/colours"]
    first = repo.tags["v1"]
    assert first == hub.commits("alice/colours")[-1].sha
    assert ", tagged v1" in tell(run, "--tag", "v1")  # it is there already, on the very same
    assert ", tagged v1.0" in tell(run, "--tag", "v1.0")
    (run / "log_history.csv").write_text((run / "log_history.csv").read_text() + "\n")
    hub.requests.clear()
    assert "has a tag v1 already, and no tag is ever moved" in refusal(run, "--tag", "v1")
    assert asked(hub, "POST") == [] and repo.tags == {"v1": first, "v1.0": first}


@pytest.mark.parametrize("tag", ["", "a b", "../x", "v1.lock", "v1.", "a..b", "main", "0" * 40, "x\n"])
def test_a_name_that_can_be_no_tag_is_refused_before_anything_is_asked(hub, run, tag):
    assert "tag" in refusal(run, "--tag", tag)
    assert hub.requests == []


# What is refused, before anything is sent


def lose(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).unlink()


def write(name: str, content: str) -> Callable[[Path], None]:
    return lambda run: (run / name).write_text(content)


def append(name: str, content: str) -> Callable[[Path], None]:
    return lambda run: (run / name).write_text((run / name).read_text() + content)


def cut(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[:-100])


def link(name: str) -> Callable[[Path], None]:
    def do(run: Path) -> None:
        (run / name).rename(run / "moved")
        (run / name).symlink_to(run / "moved")

    return do


def say_in_recipe(text: str) -> Callable[[Path], None]:
    def do(run: Path) -> None:
        content = json.loads((run / "recipe.json").read_text())
        content["recipe"]["card"]["limits"] = text
        (run / "recipe.json").write_text(json.dumps(content, indent=2))

    return do


def of_other_weights(name: str) -> Callable[[Path], None]:
    return write(name, json.dumps({"model_sha256": "0" * 64}))


SPOILED = {
    "no folder": (shutil.rmtree, "no run '"),
    "no run": (lose("recipe.json"), "is no run that train.py wrote"),
    "somebody else's recipe": (write("recipe.json", '{"flour": 500}'), "is no run that train.py wrote"),
    "no weights": (lose("model.safetensors"), "has no model.safetensors; the command that began it, with --resume"),
    "no end": (lose("all_results.json"), "has no all_results.json"),
    "half the weights": (cut("model.safetensors"), "is damaged"),
    "half a config": (write("config.json", '{"mod'), "cannot be read"),
    "a list": (write("test_results.json", "[]"), "cannot be read"),
    "a cross-validation": (write("folds.json", '{"folds": 3, "seed": 42}'), "holds a cross-validation"),
    "no results": (lose("test_results.json"), "python training/eval.py"),
    "results of other weights": (of_other_weights("test_results.json"), "is of other weights than these"),
    "a link": (link("config.json"), "is a link"),
    "a folder that is a link": (link("plots"), "is a link"),
    "a token": (append("README.md", f"\n\nMy token: {ALICE}"), ": your token for the Hub"),
    "a path": (say_in_recipe(f"as in {Path.home()}/x"), ": a path of this machine"),
    "an image": (append("README.md", "\n\n![](photos/red/000.jpg)\n\nred/003.png"), "the name of an image"),
    "no card": (write("all_results.json", "{}"), "no card can be written"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_run_that_is_not_whole_or_tells_too_much_is_refused_in_one_line(hub, run, case):
    spoil, expected = SPOILED[case]
    spoil(run)
    assert expected in refusal(run)
    assert hub.repos == {} and not [path for path in asked(hub, "POST")]


def test_without_results_the_card_has_trainings_figures_and_no_plot_of_other_weights_goes(hub, run):
    of_other_weights("test_results.json")(run)
    assert "README.md' tells of other weights; python training/eval.py" in spoil_card(run)
    (run / "README.md").unlink()
    tell(run, "--without_results")
    there = hub.files("alice/colours")
    assert there.keys() - {".gitattributes"} == MODEL | TOLD
    assert b"Its evaluation is missing" in there["README.md"]


def spoil_card(run: Path) -> str:
    """What is said of a card of other weights."""
    card = (run / "README.md").read_text(encoding="utf-8")
    (run / "README.md").write_text(card.replace(sha256(run / "model.safetensors"), "0" * 64), encoding="utf-8")
    return refusal(run, "--without_results")


def test_a_finding_never_repeats_the_secret_and_says_where_it_stands(hub, run):
    assert ": your token for the Hub" in refusal(run, "--message", f"with {ALICE}")
    say_in_recipe(BOB)(run)
    line = next(n for n, text in enumerate((run / "recipe.json").read_text().splitlines(), 1) if BOB in text)
    said = refusal(run)
    assert f"recipe.json, line {line}: a token of Hugging Face" in said and "the same command again" in said


@pytest.mark.parametrize("name", ["a b", "a/b/c", "-x", "x..y", "ö"])
def test_an_illegal_name_is_refused_before_anything_is_asked(hub, run, name):
    assert "--repo_id takes one" in refusal(run, f"--repo_id={name}")
    assert "--repo_id takes one" in refusal(run.rename(run.with_name("my colours")))
    assert hub.requests == []


@pytest.mark.parametrize(
    ("token", "expected"),
    [("", "no token for the Hub"), ("hf_nobodynobodynobody", "does not know this token"), (READER, "may only read")],
)
def test_whoever_may_not_write_is_told_how_to(hub, run, monkeypatch, token, expected):
    monkeypatch.setenv("HF_TOKEN", token)
    said = refusal(run)
    assert expected in said and "hf auth login" in said and "hf_nobody" not in said
    assert hub.repos == {}


def test_another_ones_name_is_refused(hub, run):
    hub.add("bob/colours", {"README.md": b"mine"})
    said = refusal(run, "--repo_id", "bob/colours")
    assert "belongs to bob" in said and "--repo_id alice/" in said
    assert hub.files("bob/colours") == {"README.md": b"mine"}


def test_a_hub_that_is_down(hub, run):
    hub.fail(".", "down")
    assert "the Hub cannot be reached" in refusal(run)


def test_a_hub_that_says_nothing_is_not_waited_for_for_ever(hub, run, monkeypatch):
    monkeypatch.setattr("hub_utils.portable.patience._now", Patience(silence=0.3))
    hub.fail("GET /api/models", "hang", seconds=60)
    assert "the Hub cannot be reached" in refusal(run)


# What is on the Hub already


def test_the_visibility_has_to_be_what_is_meant(hub, run):
    hub.add("alice/open", {"README.md": b""})
    assert "'alice/open' is public; --public says that you mean it" in refusal(run, "--repo_id", "open")
    hub.add("alice/closed", {"README.md": b""}, private=True)
    assert "/alice/closed/settings makes it public" in refusal(run, "--repo_id", "closed", "--public")
    assert hub.files("alice/open") == hub.files("alice/closed") == {"README.md": b""}
    tell(run, "--repo_id", "open", "--public")


@pytest.mark.parametrize("there", ["pytorch_model.bin", "config.json", "model.safetensors", "weights/a.ckpt"])
def test_somebody_elses_model_is_not_overwritten(hub, run, there):
    hub.add("alice/colours", {there: b"x", "README.md": b"y"}, private=True)
    assert "holds a model that was not pushed from a run" in refusal(run)
    assert hub.files("alice/colours") == {there: b"x", "README.md": b"y"}


def test_what_an_earlier_push_left_and_this_run_has_not_is_named_and_not_deleted(hub, run):
    tell(run)
    hub.add("alice/colours", {"my notes.md": b"stay"}, private=True)
    (run / "preprocessor_config.json").unlink()
    shutil.rmtree(run / "onnx")
    before = hub.files("alice/colours")
    said = refusal(run)
    assert "holds preprocessor_config.json of an earlier push" in said and "/tree/main" in said
    assert hub.files("alice/colours") == before
    tell(run, "--repo_id", "colours2")


def test_what_somebody_put_beside_a_push_stays(hub, run):
    tell(run)
    hub.add("alice/colours", {"examples/one.png": b"mine"}, private=True)
    append("log_history.csv", "\n")(run)
    tell(run)
    assert hub.files("alice/colours")["examples/one.png"] == b"mine"


def test_a_public_card_that_names_a_data_set_nobody_sees_is_worth_a_line(hub, run):
    hub.add("alice/photos", {"a.txt": b""}, repo_type="dataset", private=True)
    hub.add("bob/photos", {"a.txt": b""}, repo_type="dataset")
    for number, (dataset, warned) in enumerate({"alice/photos": True, "no/such": True, "bob/photos": False}.items()):
        (run / "local" / "data.json").write_text(json.dumps({"dataset": dataset, "revision": "0" * 40}))
        said = tell(run, "--repo_id", f"open{number}", "--public")
        assert (f"warning    the card will name the data set '{dataset}'" in said) == warned
    assert "warning" not in tell(run, "--repo_id", "closed")


# Who may see it


def test_nobody_else_sees_a_private_push(hub, run, tmp_path):
    tell(run)
    for token in (False, BOB):
        api = HfApi(endpoint=hub.url, token=token)
        with pytest.raises(HfHubHTTPError):
            api.model_info("alice/colours")
        with pytest.raises(HfHubHTTPError):
            api.hf_hub_download("alice/colours", "config.json", cache_dir=tmp_path / str(token))
    mine = HfApi(endpoint=hub.url, token=ALICE).hf_hub_download(
        "alice/colours", "config.json", cache_dir=tmp_path / "a"
    )
    assert Path(mine).read_bytes() == (run / "config.json").read_bytes()


# The command


def test_a_dry_run_asks_nobody_and_says_what_would_go_what_stays_and_why(hub, run, monkeypatch):
    (run / "serving.json").unlink()
    monkeypatch.setenv("HF_TOKEN", "")
    before = stamps(run)
    said = tell(run, "--dry_run", "--public", "--tag", "v1")
    goes = {line.split()[1] for line in said.splitlines() if line.startswith("goes ")}
    assert goes == MODEL | TOLD | MEASURED
    assert "serving.json (made when it is pushed)" in said
    for name in ("checkpoints/", "local/", "notes.txt", "optimizer.pt", ".env", "plots/photo.png", "onnx/other.onnx"):
        assert f"stays      {name}: " in said
    assert "/<you>/colours, for all to see, tagged v1" in said and "--dry_run" in said.splitlines()[-1]
    assert hub.requests == [] and stamps(run) == before
    assert "/acme/x, for you alone" in tell(run, "--dry_run", "--repo_id", "acme/x")
    append("README.md", f"\n{BOB}")(run)
    assert "a token of Hugging Face" in refusal(run, "--dry_run")


def test_help_is_quick_and_says_how_it_goes():
    said = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "hub_utils.push", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert said.returncode == 0 and "--dry_run" in said.stdout
    assert not [name for name in ("torch", "transformers", "huggingface_hub") if f" {name}\n" in said.stderr]


@pytest.mark.slow
def test_large_files_go_through_xet_where_the_hub_has_it(run, tmp_path):
    with LoopbackHub(tokens={ALICE: "alice"}) as hub:
        environment = hub.environment(tmp_path / "home", ALICE, xet=True) | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "hub_utils.push", str(run), "--no_verify"]
        for changed in ("README.md (", "nothing: the Hub has all of this already"):
            finished = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert finished.returncode == 0 and f"changed    {changed}" in finished.stdout, finished.stderr
        assert [path for path in asked(hub, "GET") if "xet-write-token" in path] and asked(hub, "PUT") == []
        assert hub.files("alice/colours")["model.safetensors"] == (run / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_the_command_pushes_and_tries_out_what_came_out_in_an_empty_cache(run, tmp_path):
    with LoopbackHub(tokens={ALICE: "alice"}) as hub:
        environment = hub.environment(tmp_path / "home", ALICE) | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "hub_utils.push", str(run)]
        finished = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        assert "verified" in finished.stdout and ALICE not in finished.stdout + finished.stderr
        # The same answers are asked of what is there now: a golden answer that is none of the model's is found.
        serving = json.loads((run / "serving.json").read_text())
        serving["golden"]["images"][0]["probabilities"] = [1.0, 0.0, 0.0]
        (run / "serving.json").write_text(json.dumps(serving))
        finished = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert finished.returncode == 1
        (said,) = finished.stderr.splitlines()[-1:]
        assert "all files are on the Hub" in said and "python -m hub_utils.verify alice/colours" in said
