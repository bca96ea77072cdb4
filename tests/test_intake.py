"""A folder as it is: every usual layout becomes examples with class, split and group, and what is left out is listed.

All files are real and tiny; where a recipe's pattern matters, it is the recipe that comes with the project.
"""

import csv
import json
import os
import re
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from conftest import write_photo, write_photos
from loopback_hub import LoopbackHub
from PIL import Image

from training.data.intake import Example, Skipped, read_folder, summary
from training.data.source import Folder, HubDataset, columns, group_column, load_source
from training.data.splits import make_splits, warnings
from training.recipe import Data, UserError, load_recipe
from training.run_folder import write_skipped


def put(folder: Path, *paths: str) -> Path:
    """A picture of its own at each path."""
    for path in paths:
        write_photo(folder / path, 0.3, put.number, (12, 10))
        put.number += 1
    return folder


put.number = 0


def read(folder: Path, recipe: str | Data = "folder") -> tuple[list[Example], dict[str, str]]:
    """Examples, and the reason for each path that was skipped."""
    data = recipe if isinstance(recipe, Data) else load_recipe(recipe).data
    examples, skipped = read_folder(folder, data, progress=False)
    assert len({each.path for each in skipped}) == len(skipped)
    return examples, {each.path: each.reason for each in skipped}


def places(examples: list[Example]) -> dict[str, tuple[str | None, str]]:
    """Split and class by path."""
    return {example.path: (example.split, example.label) for example in examples}


def refusal(folder: Path, recipe: str | Data = "folder") -> str:
    with pytest.raises(UserError) as refused:
        read(folder, recipe)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# Class folders


def test_class_folders_are_read_in_the_order_of_their_paths(tmp_path):
    put(tmp_path, "dog/2.png", "cat/10.png", "cat/1.JPG", "cat/deeper/still/3.Png")
    examples, skipped = read(tmp_path)
    assert places(examples) == {
        "cat/1.JPG": (None, "cat"),
        "cat/10.png": (None, "cat"),
        "cat/deeper/still/3.Png": (None, "cat"),
        "dog/2.png": (None, "dog"),
    }
    assert list(places(examples)) == sorted(places(examples))
    assert skipped == {}
    assert len({example.sha256 for example in examples}) == 4


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "[Malignant] Pre-B",
        "Blüte",
        "花",
        "100% *sure*?",
        "it's",
        'so "called"',
        "comma, here",
        "#1",
        "-x",
        "{y}",
    ],
)
def test_a_class_may_be_called_anything(name, tmp_path):
    put(tmp_path, f"{name}/a [1] ü, 'x'.png", "other/1.png")
    examples, skipped = read(tmp_path)
    assert sorted({example.label for example in examples}) == sorted([name, "other"])
    assert skipped == {}


def test_one_name_written_in_two_ways_of_unicode_is_one_class(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Blüte") for form in ("NFC", "NFD"))
    put(tmp_path, f"{composed}/1.png", f"{decomposed}/2.png", "other/1.png")
    assert {example.label for example in read(tmp_path)[0]} == {composed, "other"}


def test_folders_around_the_class_folders_are_wrapping(tmp_path):
    put(tmp_path, "archive/flower_photos/rose/1.png", "archive/flower_photos/tulip/1.png")
    assert set(places(read(tmp_path)[0]).values()) == {(None, "rose"), (None, "tulip")}


def test_a_stray_picture_beside_the_wrapping_is_left_out_and_nothing_else(tmp_path):
    put(tmp_path, "preview.png", "archive/rose/1.png", "archive/tulip/1.png", "archive/chart.png")
    examples, skipped = read(tmp_path)
    assert set(places(examples).values()) == {(None, "rose"), (None, "tulip")}
    assert skipped == {"preview.png": "in no class folder", "archive/chart.png": "in no class folder"}


# Split folders


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train", "validation", "test"), ("train", "validation", "test")),
        (("train", "val"), ("train", "validation")),
        (("train", "valid", "test"), ("train", "validation", "test")),
        (("Training", "Testing"), ("train", "test")),
        (("TRAIN", "Dev", "TEST"), ("train", "validation", "test")),
        (("training_set", "test_set"), ("train", "test")),
        (("train-images", "validation data", "test1"), ("train", "validation", "test")),
        (("seg_train/seg_train", "seg_test/seg_test"), ("train", "test")),
    ],
)
@pytest.mark.parametrize("wrapping", ["", "chest_xray/"])
def test_split_folders_of_class_folders(folders, splits, wrapping, tmp_path):
    wanted = {}
    for folder, split in zip(folders, splits, strict=True):
        for name in ("cat", "dog"):
            wanted[f"{wrapping}{folder}/{name}/1.png"] = (split, name)
    put(tmp_path, *wanted)
    examples, skipped = read(tmp_path)
    assert places(examples) == wanted
    assert skipped == {}


def test_a_class_folder_called_test_is_a_class(tmp_path):
    put(tmp_path, "test/1.png", "cat/1.png", "dog/1.png")
    assert {(example.split, example.label) for example in read(tmp_path)[0]} == {
        (None, "test"),
        (None, "cat"),
        (None, "dog"),
    }


def test_a_class_called_test_within_split_folders_is_a_class_too(tmp_path):
    put(tmp_path, "train/test/1.png", "train/cat/1.png", "test/test/1.png", "test/cat/1.png")
    assert places(read(tmp_path)[0])["test/test/1.png"] == ("test", "test")


def test_trains_are_a_class_as_well(tmp_path):
    put(tmp_path, "train/steam/1.png", "train/diesel/1.png", "bus/1.png", "car/x/1.png")
    assert {(example.split, example.label) for example in read(tmp_path)[0]} == {
        (None, "train"),
        (None, "bus"),
        (None, "car"),
    }
    put(tmp_path / "more", "freight train/1.png", "steam train/1.png")
    assert {example.label for example in read(tmp_path / "more")[0]} == {"freight train", "steam train"}


def test_a_test_folder_without_labels_is_left_out_and_a_test_split_is_carved(tmp_path):
    put(tmp_path, *(f"train/{name}/{i}.png" for name in ("cat", "dog") for i in range(10)), "test/1.png", "test/2.png")
    examples, skipped = read(tmp_path)
    assert skipped == {"test/1.png": "in no class folder", "test/2.png": "in no class folder"}
    rows, _ = make_splits(examples, load_recipe("folder").splits)
    assert Counter(row.split for row in rows) == {"train": 13, "validation": 3, "test": 4}


def test_what_lies_beside_the_split_folders_is_left_out(tmp_path):
    put(tmp_path, *(f"{split}/{name}/1.png" for split in ("train", "test") for name in ("cat", "dog")))
    put(tmp_path, "sample.png", "seg_pred/1.png", "extra/cat/2.png")
    examples, skipped = read(tmp_path)
    assert {(example.split, example.label) for example in examples} == {
        (split, name) for split in ("train", "test") for name in ("cat", "dog")
    }
    assert set(skipped) == {"sample.png", "seg_pred/1.png", "extra/cat/2.png"}
    assert skipped["extra/cat/2.png"] == "beside the train and test folders, in none of them"


# File names, by the recipes' patterns


def test_rocks_by_file_name_with_the_published_typo_and_names_with_spaces(tmp_path):
    wanted = {
        "360 Rocks/I_Andesite_01.jpg": (None, "Andesite"),
        "360 Rocks/S_Rock Gypsum_12.jpg": (None, "Rock Gypsum"),
        "120 Rocks/I_Andesite_1_120.jpg": ("test", "Andesite"),
        "120 Rocks/M_Marble_3_1201.jpg": ("test", "Marble"),
        "120 Rocks/S_Rock Gypsum_4_120.JPG": ("test", "Rock Gypsum"),
    }
    put(tmp_path, *wanted, "120 Rocks/overview.jpg")
    (tmp_path / "human").mkdir()
    (tmp_path / "human" / "mds_360.txt").write_text("1 2 3")
    examples, skipped = read(tmp_path, "rocks")
    assert places(examples) == wanted
    assert skipped == {
        "120 Rocks/overview.jpg": "its name does not fit the recipe's pattern",
        "human/mds_360.txt": "not an image by its name: .txt",
    }


def test_rocks_in_one_flat_folder(tmp_path):
    put(tmp_path, "I_Andesite_01.jpg", "I_Andesite_1_120.jpg", "M_Marble_01.jpg", "M_Marble_3_1201.jpg")
    assert sorted(places(read(tmp_path, "rocks")[0]).values(), key=str) == [
        ("test", "Andesite"),
        ("test", "Marble"),
        (None, "Andesite"),
        (None, "Marble"),
    ]


def test_breakhis_keeps_each_patient_on_one_side(tmp_path):
    for kind, patients in {"B_A": 6, "M_DC": 9}.items():
        for patient in range(patients):
            name = f"SOB_{kind}-14-{22549 + patient}AB"
            magnified = [f"{zoom}X/{name}-{zoom}-{i:03}.png" for zoom in (40, 100) for i in range(1, 3)]
            folder = f"breast/{'benign' if kind[0] == 'B' else 'malignant'}/SOB/{name.replace('-', '_', 1)}"
            put(tmp_path, *(f"{folder}/{path}" for path in magnified))
    examples, skipped = read(tmp_path, "breast_cancer")
    assert Counter(example.label for example in examples) == {"benign": 24, "malignant": 36}
    assert {example.group for example in examples} == {f"14-{22549 + patient}AB" for patient in range(9)}
    rows, _ = make_splits(examples, load_recipe("breast_cancer").splits)
    sides = {group: {row.split for row in rows if row.group == group} for group in {row.group for row in rows}}
    assert all(len(splits) == 1 for splits in sides.values())
    assert {row.split for row in rows} == {"train", "validation", "test"}
    assert skipped == {}


def test_benign_and_malignant_folders_do_for_breast_cancer_as_well(tmp_path):
    put(tmp_path, "benign/1.png", "malignant/1.png")
    assert {(example.label, example.group) for example in read(tmp_path, "breast_cancer")[0]} == {
        ("benign", None),
        ("malignant", None),
    }


BRACKETED = ["Benign", "[Malignant] Pre-B", "[Malignant] Pro-B", "[Malignant] early Pre-B"]


@pytest.mark.parametrize("wrapping", ["", "archive/Blood cell Cancer [ALL]/"])
def test_both_mirrors_of_leukemia_give_the_same_classes(wrapping, tmp_path):
    original = [f"{wrapping}Original/{name}/WBC-{name}-001.jpg" for name in ("Benign", "Early", "Pre", "Pro")]
    segmented = [path.replace("Original", "Segmented") for path in original]
    put(tmp_path / "one", *original, *segmented)
    examples, skipped = read(tmp_path / "one", "leukemia")
    assert sorted({example.label for example in examples}) == BRACKETED
    assert skipped == dict.fromkeys(segmented, "its name does not fit the recipe's pattern")
    put(tmp_path / "other", *(f"{wrapping}{name}/Sap_013 (1).jpg" for name in BRACKETED))
    assert sorted({example.label for example in read(tmp_path / "other", "leukemia")[0]}) == BRACKETED
    put(tmp_path / "bare", *(f"{wrapping}{name}/1.jpg" for name in ("Benign", "Early", "Pre", "Pro")))
    assert sorted({example.label for example in read(tmp_path / "bare", "leukemia")[0]}) == BRACKETED


def test_dog_breeds_are_called_by_what_follows_the_number(tmp_path):
    paths = ["Images/n02085620-Chihuahua/x.jpg", "Images/n02091831-Saluki/y.jpg", "Images/n02113624-toy-poodle/z.jpg"]
    put(tmp_path, *paths)
    assert [example.label for example in read(tmp_path, "dog_breeds")[0]] == ["Chihuahua", "Saluki", "toy-poodle"]


def test_flowers_are_called_alike_in_both_published_sets(tmp_path):
    put(tmp_path / "tensorflow", *(f"flower_photos/{name}/1.jpg" for name in ("daisy", "roses", "sunflowers")))
    put(tmp_path / "kaggle", *(f"{name}/1.jpg" for name in ("daisy", "rose", "sunflower")))
    for mirror in ("tensorflow", "kaggle"):
        assert [each.label for each in read(tmp_path / mirror, "flowers")[0]] == ["daisy", "rose", "sunflower"]


def test_a_pattern_may_tell_only_the_patient_and_the_folder_the_class(tmp_path):
    put(tmp_path, "sick/p1_a.png", "sick/p2_a.png", "well/p3_a.png")
    examples, _ = read(tmp_path, Data(pattern=r"(?P<group>p\d+)_"))
    assert [(example.label, example.group) for example in examples] == [("sick", "p1"), ("sick", "p2"), ("well", "p3")]


def test_class_and_split_may_both_stand_in_the_name(tmp_path):
    put(tmp_path, "cat-Train-1.png", "dog-VAL-1.png", "dog-a-1.png")
    data = Data(pattern=r"(?P<label>\w+)-(?P<split>\w+)-", split_names={"a": "test"})
    assert places(read(tmp_path, data)[0]) == {
        "cat-Train-1.png": ("train", "cat"),
        "dog-VAL-1.png": ("validation", "dog"),
        "dog-a-1.png": ("test", "dog"),
    }


def test_a_pattern_that_finds_an_unknown_split_says_where_to_map_it(tmp_path):
    put(tmp_path, "cat-120-1.png", "dog-360-1.png")
    assert refusal(tmp_path, Data(pattern=r"(?P<label>\w+)-(?P<split>\d+)-")) == (
        "the recipe's pattern finds the split '120' in 'cat-120-1.png'; allowed are train, validation and test: say in "
        "`split_names` which one it is"
    )


def test_a_pattern_that_is_no_regular_expression_is_refused(tmp_path):
    put(tmp_path, "a/1.png", "b/1.png")
    told = refusal(tmp_path, Data(pattern=r"(?P<label>\w+"))
    assert re.match(r"the recipe's pattern '.*' is no regular expression: .*unterminated subpattern", told)


# What is skipped, and listed


def test_files_of_operating_systems_are_listed_and_never_opened(tmp_path):
    put(tmp_path, "a/1.png", "b/1.png", "__MACOSX/a/1.png", "a/.ipynb_checkpoints/1.png", "a/@eaDir/1.png")
    for path in (".DS_Store", "a/.DS_Store", "b/Thumbs.db", "b/desktop.ini", "a/._1.png"):
        (tmp_path / path).write_bytes(b"\0\1")
    examples, skipped = read(tmp_path)
    assert list(places(examples)) == ["a/1.png", "b/1.png"]
    names = [".DS_Store", "__MACOSX", "a/.DS_Store", "a/._1.png", "a/.ipynb_checkpoints", "a/@eaDir", "b/Thumbs.db"]
    assert skipped == dict.fromkeys([*names, "b/desktop.ini"], "hidden, or the operating system's own")


def test_masks_are_left_out_beside_their_image_only(tmp_path):
    put(tmp_path, "benign/benign (1).png", "benign/benign (1)_mask.png", "benign/benign (1)_mask_1.png")
    put(tmp_path, "COVID/images/COVID-1.png", "COVID/masks/COVID-1.png", "benign/lonely_mask.png")
    examples, skipped = read(tmp_path)
    assert set(places(examples)) == {"benign/benign (1).png", "benign/lonely_mask.png", "COVID/images/COVID-1.png"}
    assert skipped == dict.fromkeys(
        ["benign/benign (1)_mask.png", "benign/benign (1)_mask_1.png", "COVID/masks/COVID-1.png"],
        "a mask of the image beside it",
    )


def test_people_with_and_without_masks_are_classes(tmp_path):
    paths = [
        f"{name}/{i}.png" for name in ("mask", "no_mask", "with_mask", "masks", "images-of-people") for i in (1, 2)
    ]
    put(tmp_path, *paths)
    assert sorted(places(read(tmp_path)[0])) == sorted(paths)


def test_every_bad_file_is_listed_with_its_reason(photos):
    good = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.png"))
    red = photos / "red"
    (red / "empty.jpg").write_bytes(b"")
    (red / "text.jpg").write_bytes(b"this is text")
    (red / "cut.png").write_bytes((red / "000.png").read_bytes()[:-100])
    Image.new("RGB", (1, 1)).save(red / "dot.png")
    Image.new("I;16", (40, 32)).save(red / "deep.tif")
    (red / "notes.txt").write_text("x")
    (red / "README").write_text("x")
    (photos / "yellow").mkdir()
    examples, skipped = read(photos)
    assert sorted(places(examples)) == good
    assert {path: reason.partition(": ")[0] for path, reason in skipped.items()} == {
        "red/README": "not an image by its name",
        "red/cut.png": "cannot be read",
        "red/deep.tif": "16 bits a pixel or more, which `pipeline` would clip to white",
        "red/dot.png": "too small",
        "red/empty.jpg": "empty file",
        "red/notes.txt": "not an image by its name",
        "red/text.jpg": "not an image, whatever its name says",
        "yellow": "an empty folder",
    }


def test_a_class_that_is_lost_altogether_is_named(tmp_path):
    write_photos(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "c").mkdir()
    Image.new("I;16", (40, 32)).save(tmp_path / "c" / "1.png")
    examples, skipped = read(tmp_path)
    assert {example.label for example in examples} == {"a", "b"}
    assert skipped["c"] == "a class without a usable image"


symlinks = pytest.mark.skipif(os.name == "nt", reason="links want a privilege there")


@symlinks
def test_links_are_followed_and_loops_are_not(tmp_path):
    folder = put(tmp_path / "data", "a/1.png", "b/1.png")
    elsewhere = put(tmp_path / "elsewhere", "c/1.png", "2.png")
    (folder / "c").symlink_to(elsewhere / "c")
    (folder / "a" / "2.png").symlink_to(elsewhere / "2.png")
    (folder / "a" / "up").symlink_to(folder)
    (folder / "b" / "self.png").symlink_to(folder / "b" / "self.png")
    (folder / "b" / "gone.png").symlink_to(folder / "nothing.png")
    examples, skipped = read(folder)
    assert list(places(examples)) == ["a/1.png", "a/2.png", "b/1.png", "c/1.png"]
    assert skipped == {
        "a/up": "a link to a folder above it",
        "b/self.png": "a broken link",
        "b/gone.png": "a broken link",
    }


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no named pipes")
def test_a_named_pipe_is_not_waited_for(tmp_path):
    put(tmp_path, "a/1.png", "b/1.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    assert read(tmp_path)[1] == {"a/pipe.png": "neither a file nor a folder"}


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode there")
def test_a_name_that_is_not_utf8_is_listed_readably_and_skipped(tmp_path):
    put(tmp_path, "a/1.png", "a/2.png", "b/1.png", "c/1.png")
    os.rename(tmp_path / "a" / "2.png", os.fsencode(tmp_path / "a") + b"/caf\xe9.png")
    os.rename(tmp_path / "c", os.fsencode(tmp_path) + b"/\xfcber")
    examples, skipped = read(tmp_path)
    assert list(places(examples)) == ["a/1.png", "b/1.png"]
    assert skipped == dict.fromkeys([r"a/caf\udce9.png", r"\udcfcber"], "its name is not UTF-8: rename it")
    write_skipped([Skipped(*each) for each in skipped.items()], tmp_path / "skipped.csv")


def test_what_may_not_be_opened_is_listed(tmp_path):
    put(tmp_path, "a/1.png", "a/2.png", "b/1.png", "c/1.png")
    (tmp_path / "a" / "2.png").chmod(0)
    if os.access(tmp_path / "a" / "2.png", os.R_OK):
        pytest.skip("nothing is barred to this user")
    (tmp_path / "c").chmod(0)
    examples, skipped = read(tmp_path)
    (tmp_path / "c").chmod(0o700)
    assert list(places(examples)) == ["a/1.png", "b/1.png"]
    assert skipped == dict.fromkeys(["a/2.png", "c"], "cannot be opened: Permission denied")
    tmp_path.chmod(0)
    told = [refusal(tmp_path), refusal(tmp_path / "below")]
    tmp_path.chmod(0o700)
    assert all("cannot be opened (Permission denied); give the folder" in each for each in told)


def test_summary_counts_by_kind_and_shows_what_they_have_in_common():
    skipped = [Skipped(f"a/{i}.jpg", "empty file") for i in range(4)]
    skipped += [Skipped("b/1.png", "too small: 1 × 1 pixels"), Skipped("b/2.png", "too small: 1 × 4 pixels")]
    skipped += [Skipped("c/1.tif", "16 bits: make it 8-bit first")]
    assert summary(skipped) == (
        "4 × empty file (a/0.jpg, a/1.jpg, a/2.jpg, …); 2 × too small (b/1.png, b/2.png); "
        "1 × 16 bits: make it 8-bit first (c/1.tif)"
    )


def test_summary_of_very_many_is_short_and_quick():
    """Each of these has a reason of its own, as the copies left out of given splits have."""
    skipped = [Skipped(f"train/{i}.png", f"the same file as one in test: 'test/{i}.png'") for i in range(50_000)]
    began = time.perf_counter()
    assert len(summary(skipped)) < 200
    assert time.perf_counter() - began < 5  # quadratic, it took minutes


def test_twenty_thousand_paths_are_sorted_out_in_no_time(tmp_path):
    """All are empty, so nothing is decoded; quadratic, this would take minutes."""
    for label in range(20):
        folder = tmp_path / "wrap" / f"class {label}"
        folder.mkdir(parents=True)
        for i in range(1_000):
            (folder / f"{i}.jpg").touch()
    began = time.perf_counter()
    assert "20000 × empty file" in refusal(tmp_path)
    assert time.perf_counter() - began < 20


# What stops it


def test_a_missing_folder_says_where_the_images_are_published(tmp_path):
    missing = tmp_path / "nowhere"
    assert refusal(missing) == (
        f"data folder '{missing}' does not exist; give the folder of your images with --data_dir"
    )
    assert refusal(missing, "flowers") == (
        f"data folder '{missing}' does not exist; the images are published at https://www.tensorflow.org/datasets/catalog/"
        "tf_flowers : unpack them and say --data_dir FOLDER, or try `digits`"
    )
    archive = put(tmp_path, "photos.png") / "photos.png"
    assert refusal(archive).startswith(f"data folder '{archive}' is not a folder; give the folder")


def test_an_empty_folder_says_what_was_expected(tmp_path):
    assert refusal(tmp_path) == (
        f"no images in '{tmp_path}'; expected one folder a class, with files such as {tmp_path}/cat/1.jpg"
    )


def test_a_folder_without_images_says_what_is_there_instead(tmp_path):
    (tmp_path / "images.zip").write_bytes(b"PK")
    assert refusal(tmp_path) == (
        f"no images in '{tmp_path}' (1 × an archive: give it, or the folder it unpacks to, with --data_dir "
        f"(images.zip)); expected one folder a class, with files such as {tmp_path}/cat/1.jpg"
    )


def test_pictures_without_class_folders_say_how_to_arrange_them(tmp_path):
    put(tmp_path, "1.png", "2.png")
    assert refusal(tmp_path) == (
        f"2 images in '{tmp_path}', but no class folders; put each class in a folder of its own, such as "
        f"{tmp_path}/cat/1.jpg, or state `pattern` in a recipe if the file names tell the class"
    )


@pytest.mark.parametrize("folders", [("train", "test"), ("Training", "val", "Testing")])
def test_split_folders_without_class_folders_are_not_taken_for_classes(folders, tmp_path):
    put(tmp_path, *(f"{folder}/{i}.png" for folder in folders for i in range(3)))
    assert f"{3 * len(folders)} images in '{tmp_path}', but no class folders; " in refusal(tmp_path)


def test_one_class_is_refused_with_its_name_and_the_folder(tmp_path):
    put(tmp_path, "cat/1.png", "cat/2.png")
    assert refusal(tmp_path) == (
        f"only one class in '{tmp_path}', 'cat' (2 images); a classifier needs two or more: one folder a class, such "
        f"as {tmp_path}/cat/1.jpg and {tmp_path}/dog/1.jpg"
    )


def test_if_no_image_can_be_used_the_reasons_are_given(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("I;16", (40, 32)).save(tmp_path / name / "1.png")
    told = refusal(tmp_path)
    assert told.startswith(f"none of the 2 images in '{tmp_path}' can be used: 2 × 16 bits")
    assert "data_report.py DIR --convert COPY" in told


def test_one_usable_class_is_refused_with_what_was_skipped(tmp_path):
    put(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "b" / "1.png").write_bytes(b"")
    assert "only one class" in refusal(tmp_path)
    assert refusal(tmp_path).endswith("; skipped: 1 × a class without a usable image (b); 1 × empty file (b/1.png)")


def test_a_class_with_one_image_is_trained_on_and_warned_of(photos):
    put(photos, "rare/1.png")
    rows, _ = make_splits(read(photos)[0], load_recipe("folder").splits)
    assert [row.split for row in rows if row.label == "rare"] == ["train"]
    assert "classes without a test image, on which nothing can be said: rare" in warnings(rows)
    assert "fewer than 10 images to learn from: rare (1)" in warnings(rows)


# What `datasets` is handed


def test_images_labels_and_paths_are_handed_over_explicitly(photos):
    folder = Folder(photos)
    rows, _ = make_splits(read(photos)[0], load_recipe("folder").splits)
    parts = folder.as_datasets(rows)
    assert {name: len(part) for name, part in parts.items()} == {"train": 39, "validation": 9, "test": 12}
    for split, part in parts.items():
        assert part.features["label"].names == ["blue", "green", "red"]
        assert part["path"][:] == [row.path for row in rows if row.split == split]
        for row in part:
            assert part.features["label"].int2str(row["label"]) == row["path"].split("/")[0]
            assert row["image"].size == (40, 32)


def test_going_on_without_the_images_says_which_are_missing(photos, tmp_path):
    rows, _ = make_splits(read(photos)[0], load_recipe("folder").splits)
    (photos / rows[0].path).unlink()
    with pytest.raises(UserError) as refused:
        Folder(photos).as_datasets(rows)
    assert str(refused.value) == (
        f"1 of the run's 60 images is not in '{photos}' any more, '{rows[0].path}' for one; give their folder as it "
        "was with --data_dir, or train anew with --overwrite"
    )
    (photos / "red").rename(photos / "crimson")
    with pytest.raises(UserError, match=r"for one \(there is no 'red' in it\)"):
        Folder(photos).as_datasets([row for row in rows if row.label == "red"])


@pytest.mark.parametrize("source", [Folder(Path("photos").absolute()), HubDataset("alice/photos", "abc")])
def test_a_source_is_remembered(source, tmp_path):
    (tmp_path / "data.json").write_text(json.dumps(source.to_dict()))
    assert load_source(tmp_path / "data.json") == source


# The Hub


def column_names(**features) -> tuple[str, str]:
    from datasets import Dataset, Features

    return columns(Dataset.from_dict({name: [] for name in features}, features=Features(features)), "alice/photos")


def test_columns_are_told_by_type_and_then_by_their_usual_names():
    from datasets import ClassLabel, Value
    from datasets import Image as ImageFeature

    kinds, image, text, number = ClassLabel(names=["a", "b"]), ImageFeature(), Value("string"), Value("int64")
    assert column_names(image=image, label=kinds) == ("image", "label")
    assert column_names(img=image, fine_label=kinds, coarse_label=kinds) == ("img", "fine_label")
    assert column_names(image_file_path=text, image=image, labels=kinds) == ("image", "labels")
    assert column_names(id=number, pixels=image, species=text) == ("pixels", "species")
    assert column_names(jpg=image, cls=number) == ("jpg", "cls")
    assert column_names(Image=image, Label=text) == ("Image", "Label")
    assert column_names(image=image, kind_of_leaf=kinds) == ("image", "kind_of_leaf")
    assert column_names(image=image, split=kinds, label=text) == ("image", "label")


def test_the_column_of_groups_is_told_by_its_usual_names_and_holds_numbers_or_text():
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Image as ImageFeature

    def told(**features) -> str | None:
        features |= {"image": ImageFeature(), "label": ClassLabel(names=["a", "b"])}
        return group_column(Dataset.from_dict({name: [] for name in features}, features=Features(features)))

    text, number = Value("string"), Value("int32")
    assert told() is None and told(id=number, caption=text) is None
    assert told(group=number) == "group" and told(Patient_ID=text) == "Patient_ID"
    assert told(lesion_id=text, patient_id=text) == "patient_id"
    assert told(group=ClassLabel(names=["mammals", "birds"])) is None and told(group=Value("float32")) is None


def test_columns_that_cannot_be_told_are_listed():
    from datasets import ClassLabel, Value
    from datasets import Image as ImageFeature

    kinds, image, text = ClassLabel(names=["a", "b"]), ImageFeature(), Value("string")
    with pytest.raises(UserError, match="'alice/photos' has no column of images; it has text, label"):
        column_names(text=text, label=kinds)
    with pytest.raises(UserError, match="has no column of labels; it has image, caption, and looked for were"):
        column_names(image=image, caption=text)
    with pytest.raises(UserError, match=r"has several columns of labels, artist, genre; rename .* to 'label'"):
        column_names(image=image, artist=kinds, genre=kinds)


READ = """
import json, sys
from collections import Counter
from training.data.source import HubDataset
from training.data.splits import make_splits
from training.recipe import Data, Splits, UserError

for repo_id in sys.argv[1:]:
    try:
        source = HubDataset(repo_id).pinned()
        examples, skipped = source.read(Data(class_names={"roses": "rose"}), progress=False)
        rows, leaks = make_splits(examples, Splits(validation=0.2, test=0.2))
        parts = source.as_datasets(rows)
        names = parts["train"].features["label"].names
        print(json.dumps({
            "source": source.to_dict(),
            "given": sorted({str(example.split) for example in examples}),
            "skipped": [(each.path, each.reason) for each in skipped + leaks],
            "counts": {split: Counter(names[label] for label in part["label"]) for split, part in parts.items()},
            "in order": all(part["path"][:] == [r.path for r in rows if r.split == s] for s, part in parts.items()),
            "pictures": all(
                parts[split][0]["image"].getpixel((0, 0))[1 if name == "green" else 0] > 150
                for split in parts for name in [names[parts[split][0]["label"]]]
            ),
        }))
    except UserError as error:
        print(json.dumps(str(error)))
"""


def ask(hub: LoopbackHub, home: Path, token: str, *repo_ids: str) -> list:
    """What each data set is read as, in a process whose only Hub is this one."""
    command = [sys.executable, "-c", READ, *repo_ids]
    environment = hub.environment(home, token)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def parquet(path: Path, label, names: list, first: int = 0) -> Path:
    """A parquet file with columns `img` and `fine_label`: 10 pictures each, red and green, and one that is cut off."""
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature

    rows = {"img": [], "fine_label": []}
    for number in range(20):
        write_photo(path, number % 2 / 3, first + number)
        rows["img"].append({"bytes": path.read_bytes(), "path": None})
        rows["fine_label"].append(names[number % 2])
    rows["img"].append({"bytes": rows["img"][0]["bytes"][:-200], "path": None})
    rows["fine_label"].append(names[0])
    result = path.with_suffix(".parquet")
    Dataset.from_dict(rows, features=Features(img=ImageFeature(), fine_label=label)).to_parquet(result)
    return result


def test_a_data_set_on_the_hub_is_read_with_its_own_splits_columns_and_names(tmp_path):
    from datasets import ClassLabel, Value

    labelled = parquet(tmp_path / "a.png", ClassLabel(names=["roses", "green"]), [0, 1])
    train, test = (parquet(tmp_path / f"{i}.png", Value("string"), ["red", "green"], i) for i in (100, 110))
    with LoopbackHub(tokens={"hf_alice": "alice"}) as hub:
        for repo_id in ("alice/private", "bob/private"):
            hub.add(repo_id, {"data/train-0.parquet": labelled}, repo_type="dataset", private=True)
        files = {"data/train-0.parquet": train, "data/test-0.parquet": test}
        sha = hub.add("alice/two", files, repo_type="dataset")
        hub.add("alice/broken", {"data/train-0.parquet": b"PAR1"}, repo_type="dataset")
        hub.add("alice/text", {"train.csv": b"text,label\nx,1\n"}, repo_type="dataset")
        names = ["alice/private", "alice/two", "alice/none", "bob/private", "alice/broken", "alice/text"]
        one, two, missing, barred, broken, text = ask(hub, tmp_path / "home", "hf_alice", *names)
    assert one["given"] == ["None"]
    assert one["counts"] == {
        "train": {"rose": 6, "green": 6},
        "validation": {"rose": 2, "green": 2},
        "test": {"rose": 2, "green": 2},
    }
    assert [path.split("/", 1)[1] for path, _ in one["skipped"]] == ["train/20"]
    assert two["source"] == {"dataset": "alice/two", "revision": sha}
    assert two["given"] == ["test", "train"]
    assert two["counts"]["test"] == {"red": 10, "green": 10}
    assert two["counts"]["train"] == {"red": 4, "green": 4}  # of ten, five stand in the test split as well
    assert Counter(reason.partition(": ")[0] for _, reason in two["skipped"]) == {
        "the same file as one in test": 10,
        "cannot be read": 2,
    }
    assert all(each["in order"] and each["pictures"] for each in (one, two))
    for told, repo_id in ((missing, "alice/none"), (barred, "bob/private")):
        assert re.match(rf"no data set '{repo_id}' on the Hub for you \(HTTP 40\d\); .*hf auth login", told)
    assert re.match(r"data set 'alice/broken' cannot be loaded: .*--data_dir$", broken)
    assert re.match(r"data set 'alice/text' has no column of images; it has text, label$", text)


def test_a_hub_that_cannot_be_reached_is_told_in_one_line():
    """`HF_ENDPOINT` of all tests is a port at which nobody listens."""
    with pytest.raises(UserError) as refused:
        HubDataset("alice/photos").pinned()
    assert re.fullmatch(
        r"data set 'alice/photos': .*refused.*; is the network there\? HF_ENDPOINT names another Hub, --data_dir "
        "FOLDER needs none",
        str(refused.value),
    )


def test_a_name_that_no_data_set_can_have_is_told_in_one_line():
    with pytest.raises(UserError, match=r"^--dataset 'alice//photos': a data set of the Hub is called OWNER/NAME$"):
        HubDataset("alice//photos").pinned()


def test_skipped_files_are_written_with_odd_names(tmp_path):
    skipped = [Skipped('a, "b"/ü 花.png', "cannot be read: x, y"), Skipped("c.png", "empty file")]
    write_skipped(skipped, tmp_path / "skipped.csv")
    with (tmp_path / "skipped.csv").open(newline="", encoding="utf-8") as file:
        assert [Skipped(**line) for line in csv.DictReader(file)] == skipped
