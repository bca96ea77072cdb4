"""Several folders are read as one data set, each by its own layout; what looks like a mistake is said."""

import json
import os
import unicodedata
from pathlib import Path

import pytest
from conftest import write_photos
from test_intake import places, put

from training.data.intake import Example
from training.data.source import Folder, load_source, open_local
from training.data.splits import Row, make_splits, read_splits, warnings
from training.recipe import Data, UserError, load_recipe
from training.train import main, parser

OWN_RECIPE = """
from training.recipe import Linear, Recipe, Stage
recipe = Recipe(
    title="Colours", base_model={base!r}, head=(Linear(),),
    stages=(Stage(name="all", batch_size=8, arguments={{"num_train_epochs": 1, "learning_rate": 1e-2}}),),
)
"""


def read(*roots: Path, recipe: str | Data = "folder") -> tuple[list[Example], dict[str, str], Folder]:
    """Examples, the reason for each path that was skipped, and where they lie."""
    data = recipe if isinstance(recipe, Data) else load_recipe(recipe).data
    source = open_local(list(roots), progress=False)
    examples, skipped = source.read(data, progress=False)
    assert all((source.data_dir / example.path).is_file() for example in examples)
    assert [example.path for example in examples] == sorted(example.path for example in examples)
    return examples, {each.path: each.reason for each in skipped}, source


def refusal(*roots: Path) -> str:
    with pytest.raises(UserError) as refused:
        read(*roots)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def rows(*paths: str) -> list[Row]:
    """As of paths whose first folder is the class."""
    return [Row(path, path, path.split("/")[0], "train", "") for path in paths]


# Several roots


def test_class_folders_of_one_name_are_one_class(tmp_path):
    put(tmp_path, "photosA/cat/1.png", "photosA/dog/1.png", "photosB/deep/er/cat/1.png", "photosB/deep/er/cow/2.png")
    put(tmp_path, "beside/cat/9.png")
    examples, skipped, source = read(tmp_path / "photosA", tmp_path / "photosB")
    assert places(examples) == {
        "photosA/cat/1.png": (None, "cat"),
        "photosA/dog/1.png": (None, "dog"),
        "photosB/deep/er/cat/1.png": (None, "cat"),
        "photosB/deep/er/cow/2.png": (None, "cow"),
    }
    assert skipped == {}
    assert source.to_dict() == {"data_dir": str(tmp_path.resolve())}


def test_one_name_in_two_ways_of_unicode_is_one_class(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Blüte") for form in ("NFC", "NFD"))
    put(tmp_path, f"a/{composed}/1.png", f"b/{decomposed}/1.png", "b/other/1.png")
    assert {example.label for example in read(tmp_path / "a", tmp_path / "b")[0]} == {composed, "other"}


def test_folders_of_images_are_each_a_class(tmp_path):
    put(tmp_path, "x/cats/1.png", "x/cats/old/2.png", "x/cats/3.png", "y/dogs/1.png", "y/dogs/.hidden/2.png")
    examples, skipped, source = read(tmp_path / "x" / "cats", tmp_path / "y" / "dogs")
    assert places(examples) == {
        "x/cats/1.png": (None, "cats"),
        "x/cats/3.png": (None, "cats"),
        "x/cats/old/2.png": (None, "cats"),
        "y/dogs/1.png": (None, "dogs"),
    }
    assert skipped == {"y/dogs/.hidden": "hidden, or the operating system's own"}
    assert source.data_dir == tmp_path


def test_a_stray_image_beside_class_folders_makes_no_class(tmp_path):
    put(tmp_path, "a/cat/1.png", "a/cat/2.png", "a/preview.png", "b/dog/1.png", "b/dog/2.png")
    examples, skipped, _ = read(tmp_path / "a", tmp_path / "b")
    assert {example.label for example in examples} == {"cat", "dog"}
    assert skipped == {"a/preview.png": "in no class folder"}


def test_a_class_and_class_folders_go_together(tmp_path):
    put(tmp_path, "horses/1.png", "horses/2.png", "more/cat/1.png", "more/horses/3.png")
    assert {each.path: each.label for each in read(tmp_path / "horses", tmp_path / "more")[0]} == {
        "horses/1.png": "horses",
        "horses/2.png": "horses",
        "more/cat/1.png": "cat",
        "more/horses/3.png": "horses",
    }


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "val"), ("seg_train", "seg_test")])
def test_folders_called_after_splits_are_the_splits(names, tmp_path):
    put(tmp_path, *(f"{name}/{label}/{i}.png" for name in names for label in ("cat", "dog") for i in range(2)))
    put(tmp_path, f"{names[1]}/loose.png")
    examples, skipped, _ = read(*(tmp_path / name for name in names))
    splits = {example.path.split("/")[0]: example.split for example in examples}
    assert splits == {names[0]: "train", names[1]: "validation" if names[1] == "val" else "test"}
    assert {example.label for example in examples} == {"cat", "dog"}
    assert skipped == {f"{names[1]}/loose.png": "in no class folder"}


def test_two_folders_called_train_are_no_splits(tmp_path):
    put(tmp_path, "a/train/cat/1.png", "b/train/dog/1.png")
    assert {(each.split, each.label) for each in read(tmp_path / "a" / "train", tmp_path / "b" / "train")[0]} == {
        (None, "cat"),
        (None, "dog"),
    }


def test_trains_buses_and_cars_are_classes(tmp_path):
    put(tmp_path, "train/1.png", "bus/1.png", "car/1.png")
    examples, _, _ = read(*(tmp_path / name for name in ("train", "bus", "car")))
    assert {(each.split, each.label) for each in examples} == {(None, "train"), (None, "bus"), (None, "car")}


def test_roots_with_splits_of_their_own_keep_them(tmp_path):
    put(tmp_path, *(f"{root}/{split}/{label}/1.png" for root in "ab" for split in ("train", "test") for label in "xy"))
    examples, _, _ = read(tmp_path / "a", tmp_path / "b")
    assert places(examples)["b/test/x/1.png"] == ("test", "x")
    assert places(examples)["a/train/y/1.png"] == ("train", "y")


def test_the_rocks_are_told_by_the_recipes_pattern_in_two_folders(tmp_path):
    put(tmp_path, "360 Rocks/I_Andesite_01.jpg", "360 Rocks/M_Marble_01.jpg", "120 Rocks/I_Andesite_1_120.jpg")
    examples, _, _ = read(tmp_path / "360 Rocks", tmp_path / "120 Rocks", recipe="rocks")
    assert places(examples) == {
        "120 Rocks/I_Andesite_1_120.jpg": ("test", "Andesite"),
        "360 Rocks/I_Andesite_01.jpg": (None, "Andesite"),
        "360 Rocks/M_Marble_01.jpg": (None, "Marble"),
    }


def test_what_cannot_be_opened_is_listed_from_the_common_folder(tmp_path):
    put(tmp_path, "a/cat/1.png", "b/dog/1.png", "b/dog/2.png")
    (tmp_path / "b" / "dog" / "2.png").write_bytes(b"")
    (tmp_path / "a" / "notes.txt").write_text("x")
    assert read(tmp_path / "a", tmp_path / "b")[1] == {
        "a/notes.txt": "not an image by its name: .txt",
        "b/dog/2.png": "empty file",
    }


def test_folders_are_given_relative_to_where_one_is(tmp_path, monkeypatch):
    put(tmp_path, "here/cats/1.png", "dogs/1.png")
    monkeypatch.chdir(tmp_path / "here")
    examples, _, source = read(Path("cats/"), Path("..") / "dogs")
    assert places(examples) == {"dogs/1.png": (None, "dogs"), "here/cats/1.png": (None, "cats")}
    assert source.data_dir == tmp_path


# What is wrong with roots


def test_a_folder_given_twice_is_one_line(tmp_path):
    put(tmp_path, "a/cat/1.png", "b/dog/1.png")
    again = tmp_path / "b" / ".." / "a"
    assert refusal(tmp_path / "a", tmp_path / "b", again) == (
        f"--data_dir: '{tmp_path / 'a'}' and '{again}' are one folder; give it once"
    )


@pytest.mark.skipif(os.name == "nt", reason="links want a privilege there")
def test_a_folder_given_by_a_link_as_well_is_one_line(tmp_path):
    put(tmp_path, "a/cat/1.png")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert "are one folder; give it once" in refusal(tmp_path / "a", tmp_path / "link")


def test_a_folder_inside_another_is_one_line(tmp_path):
    put(tmp_path, "a/deep/cat/1.png")
    for roots in ((tmp_path / "a", tmp_path / "a" / "deep" / "cat"), (tmp_path / "a" / "deep" / "cat", tmp_path / "a")):
        assert refusal(*roots) == (
            f"--data_dir: '{tmp_path / 'a' / 'deep' / 'cat'}' lies inside '{tmp_path / 'a'}'; give one of them"
        )


def test_a_folder_that_is_not_there_or_has_no_image_is_named(tmp_path):
    put(tmp_path, "a/cat/1.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.txt").write_text("x")
    assert refusal(tmp_path / "a", tmp_path / "no").startswith(f"data folder '{tmp_path / 'no'}' does not exist; give")
    assert refusal(tmp_path / "a", tmp_path / "b").startswith(
        f"no images in '{tmp_path / 'b'}' (1 × not an image by its name: .txt (b/x.txt)); expected one folder a class"
    )


def test_splits_beside_something_else_are_asked_about(tmp_path):
    put(tmp_path, *(f"{name}/{label}/1.png" for name in ("train", "test", "extra") for label in ("cat", "dog")))
    assert refusal(tmp_path / "train", tmp_path / "extra", tmp_path / "test") == (
        "--data_dir: by their names 'train', 'test' are splits and 'extra' is none; rename what is meant otherwise, or "
        "give the splits alone"
    )


def test_one_class_in_all_roots_names_them(tmp_path):
    put(tmp_path, "a/cat/1.png", "b/cat/1.png")
    assert refusal(tmp_path / "a", tmp_path / "b").startswith(
        f"only one class in '{tmp_path / 'a'}', '{tmp_path / 'b'}', 'cat' (2 images); a classifier needs two or more"
    )


def test_a_table_stands_alone(tmp_path):
    put(tmp_path, "a/cat/1.png")
    (tmp_path / "labels.csv").write_text("path,label\n")
    assert "labels.csv' stands alone" in refusal(tmp_path / "a", tmp_path / "labels.csv")


# Nested folders, and folders that are not what they seem


def test_whatever_wraps_the_classes_or_lies_deeper_in_them_changes_nothing(tmp_path):
    put(tmp_path, "one/two/three/cat/1.png", "one/two/three/cat/2021/may/2.png", "one/two/three/dog/2021/3.png")
    put(tmp_path, "one/two/three/dog/indoors/2022/4.png")
    assert {each.path.rsplit("/", 1)[1]: each.label for each in read(tmp_path)[0]} == {
        "1.png": "cat",
        "2.png": "cat",
        "3.png": "dog",
        "4.png": "dog",
    }


def test_a_data_set_in_several_versions_is_no_set_of_classes(tmp_path):
    versions, leaves = ("color", "grayscale", "segmented"), ("apple", "corn", "grape", "tomato")
    put(tmp_path, *(f"plants/{version}/{leaf}/{i}.png" for version in versions for leaf in leaves for i in range(3)))
    put(tmp_path, "plants/segmented/removed/1.png")
    made, _ = make_splits(read(tmp_path)[0], load_recipe("folder").splits)
    assert (
        "the classes color, grayscale, segmented hold folders of the same names (apple, corn, grape and 1 more); if "
        "these are the classes, give one of the former alone, such as --data_dir …/color"
    ) in warnings(made)


def test_the_versions_are_seen_within_splits_too():
    paths = [f"train/{version}/{leaf}/1.png" for version in ("color", "gray") for leaf in ("apple", "corn")]
    made = [Row(path, path, path.split("/")[1], "train", "") for path in paths]
    assert any("the classes color, gray hold folders of the same names" in each for each in warnings(made))


@pytest.mark.parametrize(
    "paths",
    [
        ("cat/1.png", "dog/1.png"),
        ("cat/2021/1.png", "dog/2022/1.png"),
        ("cat/a/1.png", "cat/b/1.png", "dog/c/1.png", "dog/d/1.png"),
        ("cat/a/1.png", "cat/b/1.png", "cat/1.png", "dog/a/1.png", "dog/b/1.png"),
        ("cat/a/1.png", "dog/a/1.png"),
    ],
)
def test_ordinary_classes_are_not_warned_of(paths):
    assert not any("same names" in each or "written" in each for each in warnings(rows(*paths)))


def test_a_label_that_is_no_folder_is_not_looked_for_in_the_path():
    made = [Row(f"{i}/{j}/1.png", f"{i}{j}", "benign" if i else "malignant", "train", "") for i in (0, 1) for j in "ab"]
    assert not any("same names" in each for each in warnings(made))


def test_rose_and_rose_are_said_to_be_two_classes():
    told = warnings(rows("Rose/1.png", "rose/2.png", "tulip/1.png", "early_blight/1.png", "Early Blight/1.png"))
    assert "classes that differ only in how they are written: Rose, rose" in told
    assert "classes that differ only in how they are written: Early Blight, early_blight" in told


def test_a_table_among_images_without_class_folders_is_the_next_step(tmp_path):
    put(tmp_path, "train/1.png", "train/2.png", "test/3.png")
    (tmp_path / "labels.csv").write_text("id,breed\n1,boxer\n")
    assert f"but no class folders; give the table instead: --data_dir {(tmp_path / 'labels.csv').as_posix()}; or " in (
        refusal(tmp_path)
    )
    (tmp_path / "a_sample.csv").write_text("id,breed\n3,\n")
    (tmp_path / "train" / "deep.parquet").write_bytes(b"")
    assert "/a_sample.csv (or labels.csv, train/deep.parquet); or put each class" in refusal(tmp_path)


def test_a_table_beside_folders_that_may_be_no_classes_is_pointed_out(tmp_path):
    put(tmp_path, "images_part_1/1.png", "images_part_2/2.png")
    (tmp_path / "metadata.csv").write_text("image_id,dx\n1,nv\n")
    assert read(tmp_path)[1] == {"metadata.csv": "a table: if it tells the classes, give it with --data_dir"}


# The command


def test_data_dir_takes_several_at_once_or_one_by_one():
    for words in (["--data_dir", "a", "b"], ["--data_dir", "a", "--data_dir", "b"]):
        known, rest = parser().parse_known_args(["folder", *words, "--seed", "1"])
        assert (known.data_dir, rest) == (["a", "b"], ["--seed", "1"])


def test_help_names_every_way_in():
    text = parser().format_help()
    for example in ("my_photos/cat/1.jpg", "my_photos/train/cat/1.jpg", "nested", "cats dogs", ".zip", "labels.csv"):
        assert example in text.split("what --data_dir takes")[1]
    assert "--dataset OWNER/NAME" in text


def test_a_run_on_several_folders_goes_on_with_and_without_their_names(tiny_resnet, tmp_path, capsys):
    photos = write_photos(tmp_path / "photos", {"red": 10, "green": 10})
    more = write_photos(tmp_path / "more", {"blue": 10})
    recipe, run = tmp_path / "colours.py", tmp_path / "run"
    recipe.write_text(OWN_RECIPE.format(base=str(tiny_resnet)))
    words = [str(recipe), "--use_cpu", "--output_dir", str(run)]
    roots = ["--data_dir", str(photos), str(more)]
    assert main([*words, *roots]) == 0
    given = [str(each.resolve()) for each in (photos, more)]
    assert json.loads((run / "local" / "data.json").read_text()) == {
        "data_dir": str(tmp_path.resolve()),
        "given": given,
    }
    written = read_splits(run / "local" / "splits.csv")
    assert {row.path.rsplit("/", 1)[0] for row in written} == {"photos/red", "photos/green", "more/blue"}
    assert load_source(run / "local" / "data.json").as_datasets(written)["train"][0]["image"].size == (40, 32)
    for again in (roots, []):
        assert main([*words, *again, "--resume"]) == 0
        assert "finished before" in capsys.readouterr().out
    assert read_splits(run / "local" / "splits.csv") == written
