"""What a run may be written over, what its recipe.json says, and when one goes on."""

import csv
import dataclasses
import json
from pathlib import Path

import pytest

from training.data.intake import Skipped
from training.fitting.network import base_model_facts
from training.recipe import FromConfig, Linear, Recipe, Stage, UserError, load_recipe, recipe_names
from training.run_folder import RunFolder, check_same, recipe_facts, write_json, write_skipped

FACTS = {"recipe": {"name": "t"}, "flags": [{}], "git_commit": None, "versions": {}}
RECIPE = Recipe(title="t", base_model="b", head=(Linear(),), stages=(Stage(name="head"), Stage(name="all")))


def begun(path: Path) -> RunFolder:
    """A run that has begun: what is written before the first step."""
    run = RunFolder(path)
    run.begin(FACTS)
    write_json({"data_dir": "data"}, run.data)
    return run


def there(path: Path, what: str) -> RunFolder:
    if what == "file":
        path.write_text("mine")
    elif what == "empty folder":
        path.mkdir()
    elif what == "hidden files":
        path.mkdir()
        (path / ".DS_Store").write_text("")
    elif what == "foreign folder":
        path.mkdir()
        (path / "thesis.tex").write_text("mine")
    elif what == "cookbook":
        path.mkdir()
        (path / "recipe.json").write_text('{"flour": "500 g"}')
    elif what == "run":
        begun(path)
    elif what == "run that died at once":
        RunFolder(path).begin(FACTS)
    return RunFolder(path)


GOES_ON, FRESH = True, False
IS_FILE, FOREIGN, HOLDS = (
    "is a file",
    "not empty and no run of ours",
    "holds a run already; --resume goes on, --overwrite",
)


# What is there, and what becomes of it: without a flag, with --resume, with --overwrite, with both.
@pytest.mark.parametrize(
    ("what", "outcomes"),
    [
        ("nothing", (FRESH, FRESH, FRESH, FRESH)),
        ("empty folder", (FRESH, FRESH, FRESH, FRESH)),
        ("hidden files", (FRESH, FRESH, FRESH, FRESH)),
        ("file", (IS_FILE, IS_FILE, IS_FILE, IS_FILE)),
        ("foreign folder", (FOREIGN, FOREIGN, FOREIGN, FOREIGN)),
        ("cookbook", (FOREIGN, FOREIGN, FOREIGN, FOREIGN)),
        ("run", (HOLDS, GOES_ON, FRESH, FRESH)),
        ("run that died at once", (HOLDS, FRESH, FRESH, FRESH)),
    ],
)
def test_nothing_of_somebody_else_is_written_over(tmp_path, what, outcomes):
    run = there(tmp_path / "run", what)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for (resume, overwrite), outcome in zip([(0, 0), (1, 0), (0, 1), (1, 1)], outcomes, strict=True):
        if isinstance(outcome, bool):
            assert run.check_free(bool(resume), bool(overwrite)) is outcome
        else:
            with pytest.raises(UserError) as caught:
                run.check_free(bool(resume), bool(overwrite))
            assert outcome in str(caught.value) and str(run.path) in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_overwriting_removes_what_a_run_writes_and_nothing_else(tmp_path):
    run = begun(tmp_path / "run")
    for name in ("model.safetensors", "modeling_backbone_with_head.py", "log_history.csv"):
        (run.path / name).write_bytes(b"old")
    (run.path / "checkpoints" / "1-all").mkdir(parents=True)
    precious = tmp_path / "photos"
    precious.mkdir()
    (precious / "one.png").write_bytes(b"1")
    (run.path / "plots").symlink_to(precious, target_is_directory=True)
    (run.path / "notes.txt").write_text("mine")
    run.begin({**FACTS, "git_commit": "new"})
    assert {path.name for path in run.path.iterdir()} == {"recipe.json", "local", "notes.txt"}
    assert json.loads(run.recipe.read_text())["git_commit"] == "new"
    assert (precious / "one.png").read_bytes() == b"1"


def test_a_run_stays_recognisable_until_everything_else_of_it_is_gone(tmp_path, monkeypatch):
    run = begun(tmp_path / "run")
    removed = []
    monkeypatch.setattr("shutil.rmtree", lambda path: removed.append((path.name, run.exists())))
    run.begin(FACTS)
    assert removed == [("local", True)]


def test_beginning_without_overwrite_removes_nothing(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder(tmp_path).begin(FACTS)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_json_is_whole_or_not_there(tmp_path):
    path = tmp_path / "results.json"
    write_json({"name": "Gänseblümchen"}, path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json({"loss": float("nan")}, path)
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": "Gänseblümchen"}
    assert "Gänseblümchen" in path.read_text(encoding="utf-8")


def test_skipped_files_are_listed_whatever_their_names(tmp_path):
    rows = [Skipped("a, b/ü\n1.jpg", 'not "an" image'), Skipped("c.jpg", "empty file")]
    write_skipped(rows, tmp_path / "skipped.csv")
    with (tmp_path / "skipped.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["path", "reason"], *([each.path, each.reason] for each in rows)]


def test_stages_have_folders_that_sort_by_their_order():
    run = RunFolder(Path("runs/flowers"))
    assert [run.stage(number, stage.name).name for number, stage in enumerate(RECIPE.stages, 1)] == ["1-head", "2-all"]


# recipe.json


@pytest.mark.parametrize("name", recipe_names())
def test_the_facts_of_every_recipe_are_json_and_come_back_alike(name):
    recipe = load_recipe(name)
    facts = recipe_facts(recipe, base_model_facts(recipe), [{} for _ in recipe.stages])
    assert json.loads(json.dumps(facts)) == facts
    assert facts["recipe"].keys() == {field.name for field in dataclasses.fields(Recipe)}
    assert [layer["type"] for layer in facts["recipe"]["head"]] == [type(layer).__name__ for layer in recipe.head]
    assert facts["versions"]["torch"] and facts["versions"]["transformers"]


def test_the_facts_hold_no_path_of_this_machine(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "deepspeed.json").write_text("{}")
    file = str(tmp_path / "deepspeed.json")
    stage = Stage(name="all", arguments={"deepspeed": file, "fsdp": [file]})
    recipe = dataclasses.replace(RECIPE, base_model=str(tmp_path / "base"), stages=(stage,))
    facts = recipe_facts(recipe, base_model_facts(recipe), [{"accelerator_config": file, "learning_rate": 1e-3}])
    assert str(tmp_path) not in json.dumps(facts)
    assert facts["flags"] == [{"accelerator_config": "deepspeed.json", "learning_rate": 1e-3}]
    assert facts["recipe"]["stages"][0]["arguments"] == {"deepspeed": "deepspeed.json", "fsdp": ["deepspeed.json"]}


@pytest.mark.parametrize(
    ("changes", "flags", "told"),
    [
        ({"seed": 1}, [{}, {}], "another recipe (seed: 42 then, 1 now)"),
        ({"base_model": "c"}, [{}, {}], "another recipe (base_model: b then, c now)"),
        ({"image_size": 224}, [{}, {}], "another recipe (image_size: None then, 224 now)"),
        ({}, [{}, {"learning_rate": 1e-4}], "other flags (--stage2.learning_rate: None then, 0.0001 now)"),
        (
            {"stages": (Stage(name="head"), Stage(name="all", batch_size=8))},
            [{}, {}],
            "another recipe (stages.2.batch_size: 32 then, 8 now)",
        ),
        ({"base_model": FromConfig("resnet", {}, 32)}, [{}, {}], "another recipe (base_model: b then, "),
        (
            {"seed": 1},
            [{"bf16": True}, {}],
            "another recipe and other flags (seed: 42 then, 1 now, --stage1.bf16: None",
        ),
        ({"stages": (Stage(name="all"),)}, [{}], "another recipe (stages: [{"),
    ],
)
def test_a_run_goes_on_only_under_the_recipe_and_the_flags_it_began_with(tmp_path, changes, flags, told):
    def facts(recipe, flags):
        return recipe_facts(recipe, base_model_facts(recipe), flags)

    stored = tmp_path / "recipe.json"
    write_json(facts(RECIPE, [{}, {}]), stored)
    check_same(stored, facts(RECIPE, [{}, {}]))
    with pytest.raises(UserError) as caught:
        check_same(stored, facts(dataclasses.replace(RECIPE, **changes), flags))
    text = str(caught.value)
    assert text.startswith(f"the run in '{tmp_path}' began with {told}")
    assert text.endswith("--resume wants the command that began it, --overwrite starts anew")
    assert len(text) < 500 + len(str(tmp_path))


def test_another_commit_and_other_versions_do_not_keep_a_run_from_going_on(tmp_path):
    facts = recipe_facts(RECIPE, "b", [{}, {}])
    write_json({**facts, "git_commit": "older", "versions": {}}, tmp_path / "recipe.json")
    check_same(tmp_path / "recipe.json", facts)


def test_a_field_that_recipes_did_not_have_when_the_run_began_is_told_and_no_crash(tmp_path):
    facts = recipe_facts(RECIPE, "b", [{}, {}])
    older = {name: value for name, value in facts["recipe"].items() if name != "splits"}
    write_json({**facts, "recipe": older}, tmp_path / "recipe.json")
    with pytest.raises(UserError, match="another recipe \\(splits: None then"):
        check_same(tmp_path / "recipe.json", facts)


@pytest.mark.parametrize("flag", ["dataloader_num_workers", "report_to", "logging_steps", "per_device_eval_batch_size"])
def test_what_changes_no_result_may_change_when_a_run_goes_on(flag, tmp_path):
    stored = tmp_path / "recipe.json"
    write_json({"recipe": {"title": "Old", "seed": 1}, "flags": [{flag: 1}]}, stored)
    check_same(stored, {"recipe": {"title": "New", "seed": 1}, "flags": [{flag: 2}]})
    with pytest.raises(UserError, match="seed: 1 then, 2 now"):
        check_same(stored, {"recipe": {"title": "New", "seed": 2}, "flags": [{flag: 1}]})


def test_a_run_that_starts_afresh_takes_no_old_checkpoint_for_its_own(tmp_path):
    run = begun(tmp_path / "run")
    (run.path / "checkpoints" / "1-all" / "checkpoint-5").mkdir(parents=True)
    run.data.unlink(missing_ok=True)
    assert run.check_free(resume=True, overwrite=False) is False
    run.begin(FACTS)
    assert not (run.path / "checkpoints").exists()
