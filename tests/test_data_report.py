"""The report on a folder: every fault is found, the worst first, and nothing is said that is not so."""

import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, help_of, write_photo, write_photos
from PIL import Image

from training.data import cache
from training.data.duplicates import Duplicate
from training.data.findings import SEVERITIES, Finding, findings
from training.data.kept import Kept
from training.data.report import check_output, verdict, write_report
from training.data.source import Folder
from training.data.survey import Survey, survey
from training.data_report import main as data_report
from training.recipe import Data, Recipe, UserError, load_recipe
from training.results.data_plots import plot_classes, plot_sizes


def look(folder: Path, recipe: Recipe | None = None) -> Survey:
    return survey(recipe or load_recipe("folder"), "folder", Folder(folder), False, progress=False)


def found(folder: Path, recipe: Recipe | None = None) -> dict[str, Finding]:
    """Findings by kind."""
    every = findings(look(folder, recipe))
    assert len({each.kind for each in every}) == len(every)
    return {each.kind: each for each in every}


def with_pattern(pattern: str) -> Recipe:
    return replace(load_recipe("folder"), data=Data(pattern=pattern))


def write_noise(folder: Path, classes: dict[str, int], split: str = "", size=(12, 10)) -> Path:
    """Pictures whose colours tell nothing of the class."""
    for name, count in classes.items():
        for number in range(count):
            seed = zlib.crc32(f"{split} {name} {number}".encode())
            write_photo(folder / split / name / f"{number:03}.png", np.random.default_rng(seed).random(), seed, size)
    return folder


# Findings, one by one


def test_where_nothing_is_wrong_one_line_says_so(tmp_path):
    every = findings(look(write_noise(tmp_path, {"cat": 150, "dog": 150})))
    assert [each.kind for each in every] == ["not_thorough"]
    assert verdict(every)[0] == "nothing is wrong with these images, but:"
    assert verdict([]) == ["nothing is wrong with these images"]


def test_a_picture_in_two_classes_comes_first_with_both_files(tmp_path):
    write_noise(tmp_path, {"rose": 20, "tulip": 20})
    shutil.copy(tmp_path / "rose" / "003.png", tmp_path / "tulip" / "copy.png")
    every = findings(look(tmp_path))
    assert (every[0].kind, every[0].severity) == ("label_conflict", "wrong")
    assert every[0].what == "1 picture stands in more than one class: rose, tulip"
    assert every[0].files == [["rose/003.png", "tulip/copy.png"]]
    assert verdict(every)[2] == "   - rose/003.png = tulip/copy.png"


def test_a_conflict_through_others_is_one_cluster(photos):
    seen = look(photos)
    chain = [
        Duplicate("blue/000.png", "blue/001.png", "near", 0.97),
        Duplicate("blue/001.png", "red/004.png", "mirrored", 0.99),
        Duplicate("green/001.png", "green/004.png", "near", 0.99),
    ]
    kinds = {each.kind: each for each in findings(replace(seen, duplicates=chain))}
    assert kinds["label_conflict"].files == [["blue/000.png", "red/004.png", "blue/001.png"]]  # each label first
    assert kinds["duplicates"].files == [["green/001.png", "green/004.png"]]


def test_overlapping_views_in_two_classes_are_spoken_of_with_more_care(photos):
    seen = replace(look(photos), duplicates=[Duplicate("blue/000.png", "red/001.png", "part", 0.9)])
    kinds = {each.kind: each for each in findings(seen)}
    assert "label_conflict" not in kinds
    assert "Unless" in kinds["overlap_conflict"].why


def test_copies_across_the_datas_own_splits_are_counted(tmp_path):
    for split in ("train", "test"):
        write_noise(tmp_path, {"cat": 20, "dog": 20}, split)
    for number in range(3):
        shutil.copy(tmp_path / "test" / "cat" / f"00{number}.png", tmp_path / "train" / "cat" / f"c{number}.png")
    leak = found(tmp_path)["split_leak"]
    assert leak.what == (
        "3 pictures stand on several sides of the data's own splits (train, test): 3 of 40 validation and test images"
    )
    assert leak.files[0] == ["test/cat/000.png", "train/cat/c0.png"]
    shutil.copytree(tmp_path / "train", tmp_path / "other")
    assert "split_leak" not in found(tmp_path / "other")


def test_a_patient_on_both_sides_is_named(tmp_path):
    for split, patients in {"train": ("p1", "p2", "p3", "p4"), "test": ("p4", "p5")}.items():
        for patient in patients:
            write_noise(tmp_path, {f"{label}/{patient}": 6 for label in ("sick", "well")}, split)
    kinds = found(tmp_path, with_pattern(r"^(?P<split>\w+)/(?P<label>\w+)/(?P<group>\w+)/"))
    assert set(kinds["group_leak"].notes.values()) == {"group p4"}
    assert {path.split("/")[0] for path in kinds["group_leak"].files[0][:2]} == {"train", "test"}
    assert len(kinds["group_leak"].files[0]) == 24
    assert kinds["few_groups"].what == "the test images are of only 2 groups (patients)"


def write_masks(folder: Path, count: int) -> None:
    rows, columns = np.mgrid[:60, :80]
    for number in range(count):
        disc = (rows - 30) ** 2 + (columns - 40 - number) ** 2 < (8 + number) ** 2
        Image.fromarray((disc * 255).astype(np.uint8)).save(folder / f"gt{number}.png")


def test_masks_empty_pictures_placeholders_and_icons_are_suspects(tmp_path):
    write_noise(tmp_path, {"cat": 40, "dog": 40}, size=(80, 60))
    write_masks(tmp_path / "cat", 5)
    Image.new("RGB", (80, 60), (250, 250, 250)).save(tmp_path / "dog" / "blank.jpg")
    write_photo(tmp_path / "dog" / "icon.png", 0.5, 3, (10, 8))
    for number in range(5):
        write_photo(tmp_path / "dog" / f"missing{number}.png", 0.5, 77, (80, 60))
    seen = look(tmp_path)
    assert {path: why.partition(":")[0] for path, why in seen.suspects.items()} == {
        **{f"cat/gt{number}.png": "mask-like" for number in range(5)},
        "dog/blank.jpg": "empty",
        "dog/icon.png": "tiny",
        **{f"dog/missing{number}.png": "placeholder" for number in range(5)},
    }
    suspects = next(each for each in findings(seen) if each.kind == "suspects")
    assert "12 files do" in suspects.what and "5 × mask-like" in suspects.what
    assert suspects.notes == seen.suspects


def test_two_masks_among_many_are_found(tmp_path):
    write_noise(tmp_path, {"cat": 100, "dog": 100}, size=(40, 30))
    write_masks(tmp_path / "cat", 2)
    assert set(look(tmp_path).suspects) == {"cat/gt0.png", "cat/gt1.png"}


def test_a_data_set_of_drawings_is_not_all_masks(tmp_path):
    """Strokes of many widths: some cover little of the paper, some much, and nothing stands apart."""
    for label in ("circle", "bar"):
        (tmp_path / label).mkdir()
        for number in range(40):
            drawing = np.full((60, 80), 255, np.uint8)
            drawing[: number + 1, : number + 9] = np.linspace(0, 255, number + 9).astype(np.uint8)
            Image.fromarray(drawing).save(tmp_path / label / f"{number}.png")
    assert look(tmp_path).suspects == {}
    for label in ("circle", "bar"):
        for number, path in enumerate(sorted((tmp_path / label).iterdir())):
            Image.fromarray(np.where(np.mgrid[:60, :80][1] < number, 0, 255).astype(np.uint8)).save(path)
    assert look(tmp_path).suspects == {}


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        ("red rose", "red_rose", "same_name"),
        ("Pre-B", "pre b", "same_name"),
        ("rose", "roses", "plural"),
        ("Berry", "berries", "plural"),
    ],
)
def test_one_class_under_two_names_is_said(one, other, kind, tmp_path):
    kinds = found(write_noise(tmp_path, {one: 12, other: 12, "tulip": 12}))
    assert f"'{one}'" in kinds[kind].what and f"'{other}'" in kinds[kind].what
    assert kinds[kind].severity == ("wrong" if kind == "same_name" else "hint")


@pytest.mark.parametrize("names", [("a", "as"), ("1", "-1"), ("C", "C#"), ("rose", "prose")])
def test_names_that_mean_two_things_are_left_alone(names, tmp_path):
    kinds = found(write_noise(tmp_path, dict.fromkeys(names, 12)))
    assert not {"same_name", "plural"} & kinds.keys()


def test_what_colour_alone_tells_is_no_skill(tmp_path):
    kinds = found(write_photos(tmp_path, {"red": 60, "green": 60}))
    assert kinds["colours_tell"].what == (
        "colour alone gets 100 % of the test images right: a network that scores 100 % has shown nothing"
    )
    assert kinds["colours_tell"].severity == "uncertain"


def test_what_the_size_alone_tells_is_no_skill(tmp_path):
    write_noise(tmp_path, {"cat": 60}, size=(12, 10))
    write_noise(tmp_path, {"dog": 60}, size=(16, 10))
    assert "size and kind of file alone get 100 %" in found(tmp_path)["files_tell"].what


def test_what_splits_drawn_by_lot_would_leak_is_shown_in_numbers(tmp_path):
    write_noise(tmp_path, {"cat": 40, "dog": 40})
    for path in list(tmp_path.rglob("*.png")):
        for number in range(4):
            shutil.copy(path, path.with_name(f"{path.stem} copy {number}.png"))
    seen = look(tmp_path)
    assert seen.shuffled_colours.accuracy > 0.95 > seen.floors["colours"].accuracy + 0.2
    assert "lot_leak" in {each.kind for each in findings(seen)}


def test_few_images_and_imbalance_are_said_with_the_classes(tmp_path):
    kinds = found(write_noise(tmp_path, {"cat": 60, "dog": 12, "emu": 2}))
    assert kinds["few_images"].what == "2 classes have fewer than 10 images to learn from: emu (2), dog (8)"
    assert kinds["untested_classes"].what == "1 class has no test image: emu"
    assert "± " in kinds["small_test"].what
    assert kinds["imbalance"].what.startswith("'cat' has 60 images, 'emu' 2: always saying 'cat' is right for")


def write_faults(folder: Path) -> Path:
    """One of nearly everything."""
    for split in ("train", "test"):
        write_noise(folder, {"cat": 30, "dog": 30}, split, size=(80, 60))
    write_masks(folder / "train" / "cat", 3)
    shutil.copy(folder / "train" / "cat" / "001.png", folder / "train" / "dog" / "conflict.png")
    shutil.copy(folder / "test" / "dog" / "002.png", folder / "train" / "dog" / "leak.png")
    write_photo(folder / "train" / "emu" / "1.png", 0.5, 5, (80, 60))
    write_photo(folder / "train" / "emu" / "`odd | _name_ <b>.png", 0.5, 6, (80, 60))
    Image.fromarray(np.arange(4800, dtype=np.uint16).reshape(60, 80)).save(folder / "train" / "cat" / "deep.png")
    (folder / "train" / "cat" / "empty.jpg").write_bytes(b"")
    (folder / "train" / "notes.txt").write_text("hello")
    Image.open(folder / "train" / "cat" / "004.png").convert("CMYK").save(folder / "train" / "cat" / "cmyk.jpg")
    return folder


FAULTS = [
    *("label_conflict", "split_leak", "suspects", "few_images", "untested_classes", "imbalance", "deep", "skipped"),
    *("not_images", "duplicates", "odd", "not_thorough"),
]


def test_the_worst_comes_first(tmp_path):
    every = findings(look(write_faults(tmp_path)))
    assert [each.kind for each in every] == FAULTS
    ranks = [list(SEVERITIES).index(each.severity) for each in every]
    assert ranks == sorted(ranks)
    by_kind = {each.kind: each for each in every}
    assert by_kind["deep"].to_do.endswith("--convert COPY`")
    assert by_kind["deep"].files == [["train/cat/deep.png"]]
    assert by_kind["skipped"].what == "1 file is skipped: 1 × empty file"
    assert by_kind["not_images"].what.endswith("1 × not an image by its name")
    assert by_kind["odd"].files == [["train/cat/cmyk.jpg"]]


# Where nothing can be trained


def test_one_class_still_gets_its_report(tmp_path):
    write_noise(tmp_path / "data", {"cat": 12})
    shutil.copy(tmp_path / "data" / "cat" / "001.png", tmp_path / "data" / "cat" / "copy.png")
    seen = look(tmp_path / "data")
    every = findings(seen)
    assert (every[0].severity, len(seen.examples), seen.rows, seen.floors) == ("stops", 13, [], {})
    assert "class" in every[0].what
    assert "duplicates" in {each.kind for each in every}


def test_a_class_beside_one_without_a_usable_image_is_still_reported(tmp_path):
    write_noise(tmp_path, {"cat": 12, "dog": 1})
    (tmp_path / "dog" / "000.png").write_bytes(b"")
    every = findings(look(tmp_path))
    assert every[0].what.startswith("only one class in")
    assert "skipped" in {each.kind for each in every}


def test_a_flat_folder_gets_a_report_without_classes(tmp_path):
    for number in range(5):
        write_photo(tmp_path / "data" / f"{number}.png", 0.5, number)
    shutil.copy(tmp_path / "data" / "1.png", tmp_path / "data" / "copy.png")
    seen = look(tmp_path / "data")
    assert "no class folders" in seen.refusal
    assert {example.label for example in seen.examples} == {""}
    write_report(seen, tmp_path / "report", progress=False)
    assert "6 images (5 different ones) without classes" in (tmp_path / "report" / "report.md").read_text("utf-8")


def test_too_few_images_to_divide_are_reported(tmp_path):
    every = findings(look(write_noise(tmp_path, {"cat": 1, "dog": 1})))
    assert every[0].severity == "stops" and "leave nothing for" in every[0].what


@pytest.mark.parametrize("content", [[], ["notes.txt"], ["a/1.jpg"]])
def test_without_any_image_there_is_no_report(content, tmp_path):
    for name in content:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=r"no images in|none of the 1 images"):
        look(tmp_path)


# What is written


def test_the_report_is_whole_and_every_list_in_it_complete(tmp_path):
    folder = write_faults(tmp_path / "data")
    for number in range(30):
        shutil.copy(folder / "train" / "cat" / "005.png", folder / "train" / "cat" / f"again {number:02}.png")
    write_photo(folder / "train" / "dog" / "wide.png", 0.5, 99, (100, 60))
    seen = look(folder)
    every = write_report(seen, tmp_path / "report", progress=False)
    written = {path.relative_to(tmp_path / "report").as_posix() for path in (tmp_path / "report").rglob("*.*")}
    plots = {"plots/classes.png", "plots/sizes.png", "plots/duplicates-1.jpg", "plots/duplicates-2.jpg"}
    assert written == {"report.md", "report.json", *plots, "plots/duplicates-3.jpg", "plots/suspects-1.jpg"}
    facts = json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))
    assert (facts["kind"], facts["version"], facts["images"]) == ("image data report", 1, len(seen.examples))
    assert facts["different_images"] == len(seen.examples) - sum(len(each) - 1 for each in seen.clusters)
    assert len(facts["duplicates"]) == len(seen.duplicates) >= 32 and facts["duplicates"][0]["labels"]
    saved_anew = next(each for each in facts["duplicates"] if each["second"] == "train/cat/cmyk.jpg")
    assert (saved_anew["first"], saved_anew["labels"]) == ("train/cat/004.png", ["cat", "cat"])
    assert saved_anew["kind"] != "exact"
    assert [each["path"] for each in facts["skipped"]] == [
        "train/cat/deep.png",
        "train/cat/empty.jpg",
        "train/notes.txt",
    ]
    assert [each["kind"] for each in facts["verdict"]] == [each.kind for each in every]
    assert sum(counts["images"] for counts in facts["classes"].values()) == facts["images"]
    assert facts["floors"]["majority"]["says"] in ("cat", "dog") and facts["splits"]["test"] == 60
    assert facts["odd"] == {"train/cat/cmyk.jpg": "CMYK"} and len(facts["suspects"]) == 3 + 31
    assert facts["left_out_of_splits"] and facts["own_splits"] == {"test": 60, "train": facts["images"] - 60}


def test_the_text_embeds_its_plots_and_survives_every_name(tmp_path):
    folder = write_faults(tmp_path / "data")
    shutil.copy(folder / "train" / "emu" / "`odd | _name_ <b>.png", folder / "train" / "cat" / "twin.png")
    write_report(look(folder), tmp_path / "report", progress=False)
    text = (tmp_path / "report" / "report.md").read_text("utf-8")
    embedded = re.findall(r"!\[\w+\]\((.+?)\)", text)
    assert sorted(embedded) == sorted(f"plots/{path.name}" for path in (tmp_path / "report" / "plots").iterdir())
    assert "do not upload it" in text and "## Verdict" in text
    assert "``train/emu/`odd \\| _name_ <b>.png``" in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        lines = [re.sub(r"\\\|", "", line) for line in table.splitlines()]
        assert len({line.count("|") for line in lines}) == 1, table


def test_what_does_not_occur_has_no_plot(tmp_path):
    folder = write_noise(tmp_path / "data", {"cat": 20, "dog": 20})
    write_report(look(folder), tmp_path / "report", progress=False)
    assert [path.name for path in (tmp_path / "report" / "plots").iterdir()] == ["classes.png"]


def test_a_report_replaces_a_report_and_nothing_else(tmp_path):
    folder = write_noise(tmp_path / "data", {"cat": 20, "dog": 20})
    output = tmp_path / "deep" / "report"
    write_report(look(folder), output, progress=False)
    shutil.copy(folder / "cat" / "000.png", folder / "cat" / "copy.png")
    check_output(output, [folder])
    write_report(look(folder), output, progress=False)
    assert json.loads((output / "report.json").read_text("utf-8"))["images"] == 41
    assert [path.name for path in output.parent.iterdir()] == ["report"]
    (output / "mine.txt").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "report.json").write_text('{"kind": "weather"}')
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".env").write_text("mine")
    for place in (output, tmp_path / "other", tmp_path / "mine"):
        with pytest.raises(UserError, match="something else than a report of ours"):
            check_output(place, [folder])
    (tmp_path / "itself").symlink_to(tmp_path / "itself")
    with pytest.raises(UserError, match="leads nowhere"):
        check_output(tmp_path / "itself", [folder])


def test_the_report_lies_outside_the_data_and_where_one_can_write(photos, tmp_path):
    for place in (photos, photos / "red", photos / "report", tmp_path):
        with pytest.raises(UserError, match="lie in each other"):
            check_output(place, [photos])
    for place in (photos / "red" / "000.png", tmp_path / "x.txt" / "report"):
        (tmp_path / "x.txt").write_text("")
        with pytest.raises(UserError, match=r"lie in each other|cannot be written to"):
            check_output(place, [photos])


def test_an_image_that_is_gone_meanwhile_leaves_the_earlier_report(tmp_path):
    folder = write_noise(tmp_path / "data", {"cat": 20, "dog": 20})
    shutil.copy(folder / "cat" / "000.png", folder / "cat" / "copy.png")
    seen = look(folder)
    write_report(seen, tmp_path / "report", progress=False)
    (folder / "cat" / "copy.png").unlink()
    before = (tmp_path / "report" / "report.json").stat().st_mtime_ns
    with pytest.raises(UserError, match=r"copy\.png.*nothing was written"):
        write_report(seen, tmp_path / "report", progress=False)
    assert (tmp_path / "report" / "report.json").stat().st_mtime_ns == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "report"]


def test_a_hundred_classes_can_still_be_read_and_a_thousand_are_cut(tmp_path, photos):
    example = look(photos).examples[0]
    heights = []
    for classes in (100, 1000):
        examples = [replace(example, label=f"class {n:04}") for n in range(classes) for _ in range(1 + n % 3)]
        plot_classes(examples, [], tmp_path / "classes.png")
        with Image.open(tmp_path / "classes.png") as image:
            heights.append(image.height)
    assert heights[0] > 100 * 15 and heights[1] < 130 * 25


@pytest.mark.parametrize("sizes", [2, 3000])
def test_sizes_are_drawn_few_or_many(sizes, photos, tmp_path):
    example = look(photos).examples[0]
    facts = [replace(example.facts, width=20 + number, height=10 + number // 2) for number in range(sizes)]
    plot_sizes([replace(example, facts=each) for each in facts], tmp_path / "sizes.png")
    colours = np.unique(np.asarray(Image.open(tmp_path / "sizes.png").convert("RGB")).reshape(-1, 3), axis=0)
    assert len(colours) > 20


# The command


def command(*words, cwd) -> subprocess.CompletedProcess:
    words = [sys.executable, str(ROOT / "training" / "data_report.py"), *map(str, words)]
    environment = {name: value for name, value in os.environ.items() if name != "DISPLAY"}
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def test_the_command_reports_on_a_folder(tmp_path):
    write_noise(tmp_path / "my photos", {"rose": 20, "tulip": 20})
    shutil.copy(tmp_path / "my photos" / "rose" / "003.png", tmp_path / "my photos" / "tulip" / "copy.png")
    finished = command("my photos", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    assert lines[:2] == [
        "Image folder: 41 images in 2 classes",
        "1. 1 picture stands in more than one class: rose, tulip",
    ]
    assert any(line.startswith("floors     always saying ") for line in lines)
    wrote = Path("reports", "my photos", "report.md")
    assert lines[-2] == f"wrote      {wrote}" and (tmp_path / wrote).is_file()
    assert lines[-1] == "next       accelerate launch -q training/train.py folder --data_dir 'my photos'"


def test_a_report_is_kept_until_its_images_its_words_or_its_files_change(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cache, "cache_file", lambda: tmp_path / "cache" / "images.sqlite3")
    write_noise(tmp_path / "photos", {"rose": 12, "tulip": 12})
    photos, report = tmp_path / "photos", tmp_path / "report"

    def run(*flags: str) -> str:
        before = (report / "report.json").stat().st_ino if report.exists() else None
        assert data_report([str(photos), "--output", str(report), *flags]) == 0
        lines = capsys.readouterr().out.splitlines()
        anew = (report / "report.json").stat().st_ino != before
        assert lines[-2] == f"{'wrote' if anew else 'unchanged':<10} {report / 'report.md'}"
        said.append([*lines[:-2], lines[-1]])
        return "wrote" if anew else "kept"

    said: list[list[str]] = []
    assert (run(), run()) == ("wrote", "kept") and said[0] == said[1]
    assert (run("--thorough"), run("--thorough"), run()) == ("wrote", "kept", "wrote")
    (report / "report.md").write_text("mine")
    assert (run(), run()) == ("wrote", "kept")
    (report / "plots" / "classes.png").unlink()
    assert (run(), run()) == ("wrote", "kept")
    (report / ".DS_Store").touch()  # a Mac has looked into it
    (report / "plots" / "Thumbs.db").touch()
    (report / "@eaDir").mkdir()
    (report / "@eaDir" / "thumbnail.png").touch()
    assert run() == "kept"
    write_photo(photos / "rose" / "003.png", 0.9, 7)
    assert (run(), run()) == ("wrote", "kept")
    (photos / "rose" / "new.jpg").write_bytes(b"")
    assert (run(), run()) == ("wrote", "kept") and "empty" in " ".join(said[-1])
    (photos / "rose" / "004.png").rename(photos / "tulip" / "moved.png")
    assert (run(), run()) == ("wrote", "kept")
    cache.cache_file().unlink()
    assert run() == "wrote"


def test_a_report_that_another_process_put_in_its_place_is_not_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cache, "cache_file", lambda: tmp_path / "cache" / "images.sqlite3")
    write_noise(tmp_path / "photos", {"rose": 12, "tulip": 12})
    words = [str(tmp_path / "photos"), "--output", str(tmp_path / "report")]
    keep = Kept.keep

    def keep_late(kept: Kept, said: str) -> None:
        monkeypatch.setattr(Kept, "keep", keep)
        assert data_report([*words, "--thorough"]) == 0
        keep(kept, said)

    monkeypatch.setattr(Kept, "keep", keep_late)
    for _ in range(2):
        assert data_report(words) == 0
    assert f"wrote      {tmp_path / 'report' / 'report.md'}" in capsys.readouterr().out.splitlines()[-2]


def test_a_report_behind_a_link_is_replaced_where_it_lies(tmp_path):
    folder = write_noise(tmp_path / "data", {"cat": 20, "dog": 20})
    (tmp_path / "far").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "far", target_is_directory=True)
    for _ in range(2):
        write_report(look(folder), link, progress=False)
    assert link.is_symlink() and (tmp_path / "far" / "report.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "far", "link"]


def test_the_command_reports_on_a_recipe_which_wins_over_a_folder_of_that_name(tmp_path):
    for number in range(12):
        for label in ("Slate", "Shale"):
            write_photo(tmp_path / "stones" / f"M_{label}_{number:02}.png", number / 12, number * 2 + (label < "Sl"))
    write_noise(tmp_path / "rocks", {"cat": 5, "dog": 5})
    finished = command("rocks", "--data_dir", "stones", "--output", "out", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("note       'rocks' is a recipe and a folder here")
    facts = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert (facts["recipe"], sorted(facts["classes"])) == ("rocks", ["Shale", "Slate"])
    assert "train.py rocks --data_dir" in finished.stdout
    finished = command("./rocks", cwd=tmp_path)
    assert sorted(json.loads((tmp_path / "reports" / "rocks" / "report.json").read_text("utf-8"))["classes"]) == [
        "cat",
        "dog",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["flower"], "no folder 'flower', and no recipe 'flower'; did you mean 'flowers'?"),
        (["photos", "--data_dir", "x"], "'photos' is where images lie, so --data_dir x is one too many"),
        (["flowers"], "'data/flowers' does not exist; the images are published at"),
        (["empty"], "no images in 'empty'"),
        (["photos", "--output", "photos/report"], "lie in each other"),
        (["photos", "--output", "photos/a/0.png/x"], "lie in each other"),
        (["photos", "--output", "file/x"], "cannot be written to"),
        (["photos", "--convert", "photos/copy"], "lie in each other"),
        (["photos", "--thorougly"], "--help shows how it goes"),
        ([], "RECIPE_OR_DIR"),
    ],
)
def test_a_mistake_gets_one_line_and_leaves_nothing(words, message, tmp_path):
    write_noise(tmp_path / "photos", {"a": 2, "b": 2})
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    finished = command(*words, cwd=tmp_path)
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: ") and finished.stderr.count("\n") == 1
    assert message in finished.stderr.replace(os.sep, "/")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "photos"]


def test_help_imports_no_heavy_library():
    said = help_of("data_report.py", "torch", "transformers", "numpy", "PIL", "matplotlib", "scipy")
    for word in ("--thorough", "--convert", "--window", "percentile"):
        assert word in said


def test_a_report_needs_no_torch(photos, tmp_path):
    code = (
        "import sys; from training.data_report import main\n"
        f"assert main([{str(photos)!r}, '--output', {str(tmp_path / 'report')!r}]) == 0\n"
        "print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert finished.stdout.splitlines()[-1] == "[]", finished.stderr


def test_several_folders_and_tables_are_reported_from_where_they_lie(tmp_path):
    """Their common parent is where one works, and reports go."""
    write_noise(tmp_path, {"cats": 15, "dogs": 15})
    finished = command("folder", "--data_dir", "cats", "dogs", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("Image folder: 30 images in 2 classes")
    rows = [
        f"{path.relative_to(tmp_path).as_posix()},{path.parent.name}" for path in sorted(tmp_path.glob("?o?s/*.png"))
    ]
    rows += [
        f"{path.relative_to(tmp_path).as_posix()},{path.parent.name}" for path in sorted(tmp_path.glob("cats/*.png"))
    ]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]))
    finished = command("labels.csv", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "table      labels.csv: path from 'path', label from 'label'" in finished.stdout
    assert finished.stdout.rstrip().endswith("train.py folder --data_dir labels.csv")
