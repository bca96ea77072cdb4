"""A run goes on with the images that it began with, or says which are others."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import write_photo
from test_train import ONE_STAGE

from training.data import intake
from training.data.changed import as_given, go_on_with, look_again
from training.data.duplicates import find_duplicates
from training.data.intake import Skipped
from training.data.source import Folder, HubDataset, open_local
from training.data.splits import make_splits, read_splits
from training.fitting import fit as module
from training.fitting.fit import Options, fit
from training.fitting.folds import fit_folds
from training.recipe import UserError
from training.run_folder import FoldsFolder, RunFolder, read_json, stored_skipped
from training.train import main


def begun(source, recipe=ONE_STAGE):
    """Rows as a run begins with them."""
    examples, _ = source.read(recipe.data)
    return make_splits(examples, recipe.splits, find_duplicates(examples, source.reader()))[0]


def of(rows, split, label=None):
    return [row for row in rows if row.split == split and label in (None, row.label)]


@pytest.fixture
def source(photos):
    return Folder(photos)


def look(source, rows, skipped=(), given=None):
    looked, whole = as_given(source, source.given() if given is None else given)
    return look_again(looked, whole, rows, skipped, ONE_STAGE)


def test_nothing_has_changed_and_no_file_is_read_again(source, monkeypatch):
    rows = begun(source)
    monkeypatch.setattr(intake, "_see", lambda path: pytest.fail(f"{path} is read again"))
    now, changes = look(source, rows)
    assert [each.path for each in now] == [row.path for row in rows]
    assert (changes.of_the_run(), changes.of_others()) == ("", "")


def test_each_kind_of_change_is_counted_and_named(source, photos):
    rows = begun(source)
    (photos / "red" / "000.png").unlink()
    (photos / "red" / "001.png").write_bytes(b"no image any more")
    write_photo(photos / "green" / "000.png", 0.3, 77_777)
    shutil.copyfile(photos / "green" / "002.png", photos / "green" / "001.png")
    (photos / "blue" / "000.png").rename(photos / "red" / "from_blue.png")
    (photos / "blue" / "001.png").rename(photos / "blue" / "renamed.png")
    for number in range(4):
        write_photo(photos / "blue" / f"new{number}.png", 0.6, 88_000 + number)
    now, changes = look(source, rows, [Skipped("blue/new3.png", "a copy")])
    assert changes.of_the_run() == (
        "2 are gone or cannot be used (red/000.png, red/001.png), "
        "2 have another content (green/000.png, green/001.png), "
        "1 is of another class (blue/000.png), 1 lies elsewhere (blue/001.png)"
    )
    assert changes.of_others() == "3 are new (blue/new0.png, blue/new1.png, blue/new2.png)"
    write_photo(photos / "violet" / "0.png", 0.8, 99_000)
    assert look(source, rows)[1].of_others().endswith("and 2 more), and so is the class 'violet'")
    found = {row.path: example for row, example in zip(rows, now, strict=True)}
    assert found["red/000.png"] is None and found["red/001.png"] is None
    assert (found["blue/000.png"].path, found["blue/000.png"].label) == ("red/from_blue.png", "red")
    assert found["blue/001.png"].path == "blue/renamed.png"


def test_what_is_accepted_keeps_its_split_and_a_new_copy_does_not_leak(source, photos):
    rows = begun(source)
    gone, altered, copy = of(rows, "train", "red")[:3]
    tested = of(rows, "test", "red")[0]
    (photos / gone.path).unlink()
    write_photo(photos / altered.path, 0.0, 77_777)
    shutil.copyfile(photos / tested.path, photos / copy.path)  # a training image shows now what is tested
    now, _ = look(source, rows)
    found, left_out = go_on_with(rows, now, source, ONE_STAGE, False)
    after = {row.path: row for row in found}
    assert {path: row.split for path, row in after.items()} == {
        row.path: row.split for row in rows if row not in (gone, copy)
    }
    assert after[altered.path].sha256 != altered.sha256
    assert {each.path: each.reason for each in left_out} == {
        gone.path: "gone or changed since the run began, and cannot be used",
        copy.path: f"the same file as one in test: '{tested.path}'",
    }


@pytest.mark.parametrize("what", ["class gone", "class new", "no test image", "all gone"])
def test_what_no_longer_fits_the_network_is_refused_even_so(what, source, photos):
    rows = begun(source)
    if what == "class gone":
        shutil.rmtree(photos / "red")
        said = "no image of 'red' is left"
    elif what == "class new":
        (photos / "red" / "000.png").rename(photos / "violet.png")
        (photos / "violet").mkdir()
        (photos / "violet.png").rename(photos / "violet" / "000.png")
        said = "the class 'violet' is new"
    elif what == "no test image":
        for row in of(rows, "test"):
            (photos / row.path).unlink()
        said = "no test image is left"
    else:
        shutil.rmtree(photos)
        said = "60 of the run's 60 images are not in"
    with pytest.raises(UserError, match=said):
        go_on_with(rows, look(source, rows)[0], source, ONE_STAGE, False)


def test_of_a_table_and_of_several_folders_all_that_was_given_is_looked_at(photos, tmp_path):
    table = tmp_path / "labels.csv"
    names = sorted(path.relative_to(tmp_path).as_posix() for path in photos.rglob("*.png"))
    table.write_text("path,label\n" + "".join(f"{name},{name.split('/')[1]}\n" for name in names))
    source = open_local([table])
    rows = begun(source)
    table.write_text(table.read_text().replace("red/000.png,red", "red/000.png,green"))
    for looked in (open_local([table]), Folder(source.data_dir)):  # with and without --data_dir
        _, changes = look(looked, rows, given=source.given())
        assert changes.of_the_run() == "1 is of another class (red/000.png)"
    roots = open_local([photos / "red", photos / "green"])
    rows = begun(roots)
    _, changes = look(Folder(roots.data_dir), rows, given=roots.given())
    assert changes.of_the_run() == changes.of_others() == ""  # blue is none of the run's
    write_photo(photos / "red" / "000.png", 0.0, 77_777)
    table.unlink()
    _, changes = look(Folder(photos), rows, given=[str(table)])  # as far as one can see without it
    assert changes.of_the_run() == "1 has another content (red/000.png)"


@pytest.fixture
def stopped(photos, tiny_resnet, tmp_path, monkeypatch):
    """A run that was stopped before its end, and what it was begun with."""
    recipe = replace(ONE_STAGE, base_model=str(tiny_resnet))
    run, flags = RunFolder(tmp_path / "run"), ["--num_train_epochs", "2", "--bf16", "false"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "deploy", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        fit(recipe, Folder(photos), run, flags=flags)

    def go_on(**options):
        return fit(recipe, Folder(photos), run, Options(resume=True, **options), flags)

    return run, go_on


def test_a_photo_exchanged_between_a_kill_and_resume_is_refused_and_can_be_accepted(stopped, photos, capsys):
    run, go_on = stopped
    before = read_splits(run.splits)
    changed, gone = of(before, "validation")[0], of(before, "train")[0]
    write_photo(photos / changed.path, 0.5, 77_777)
    (photos / gone.path).unlink()
    write_photo(photos / "red" / "new.png", 0.0, 88_888)
    with pytest.raises(UserError) as refused:
        go_on()
    assert str(refused.value) == (
        f"of the 60 images that the run in '{run.path}' began with, 1 is gone or cannot be used ({gone.path}), "
        f"1 has another content ({changed.path}); put back what was there, or --accept_changed_data goes on with what "
        "is there, --overwrite starts anew"
    )
    assert read_splits(run.splits) == before and not run.results.exists()
    capsys.readouterr()
    assert go_on(accept_changed_data=True)["images"] == {"train": 41, "validation": 9, "test": 9}
    said = capsys.readouterr().out
    assert "1 is new (red/new.png); this run does not learn from new ones" in said
    after = {row.path: row for row in read_splits(run.splits)}
    assert after.keys() == {row.path for row in before} - {gone.path}
    assert after[changed.path].sha256 != changed.sha256 and after[changed.path].split == "validation"
    assert [each.path for each in stored_skipped(run.skipped)] == [gone.path]
    assert read_json(run.data)["given"] == [str(photos.resolve())]
    go_on()  # from now on these are its images


def test_folds_refuse_other_images(photos, tiny_resnet, tmp_path):
    recipe, run = replace(ONE_STAGE, base_model=str(tiny_resnet)), FoldsFolder(tmp_path / "run")
    flags = ["--num_train_epochs", "1"]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("training.fitting.folds.fit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        fit_folds(recipe, Folder(photos), run, 2, flags=flags)
    write_photo(photos / "red" / "000.png", 0.5, 77_777)
    with pytest.raises(
        UserError, match=r"1 has another content \(red/000.png\); put back what was there, or --overwrite"
    ):
        fit_folds(recipe, Folder(photos), run, 2, Options(resume=True), flags)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "goes with --resume"),
        (["--overwrite"], "goes with --resume"),
        (["--resume", "you/run-checkpoints"], "in its folder on this machine"),
        (["--resume", "--folds", "3"], "folds divide the images that they began with"),
        (["--resume", "--checkpoint_repo"], "the repo knows the images as they were"),
    ],
)
def test_where_changed_images_cannot_be_accepted_the_flag_is_refused(words, said, tmp_path):
    with pytest.raises(UserError, match=said):
        main(["digits", "--accept_changed_data", "--output_dir", str(Path(tmp_path, "run")), *words])


def test_another_data_set_of_the_hub_is_not_taken_for_the_one_it_began_with(stopped, tiny_resnet):
    run, _ = stopped
    run.data.write_text('{"dataset": "you/cats", "revision": "0"}')
    recipe, flags = replace(ONE_STAGE, base_model=str(tiny_resnet)), ["--num_train_epochs", "2", "--bf16", "false"]
    with pytest.raises(UserError, match=r"began with HubDataset\(repo_id='you/cats'"):
        fit(recipe, HubDataset("you/dogs"), run, Options(resume=True), flags)
