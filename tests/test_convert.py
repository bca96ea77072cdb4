"""`--convert`: real files of every odd kind become plain pictures, and `pipeline` sees in them what it saw before."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, write_photo, write_photos
from PIL import Image, ImageOps

from training.data.convert import RULES, convert_folder, counts, log_of, to_8_bits
from training.data.images import open_rgb
from training.data.intake import read_folder
from training.recipe import Data, UserError

ODD = ["cmyk.jpg", "palette.png", "alpha.png", "grey alpha.png", "animated.gif", "pages.tif", "turned.png", "lab.tif"]
DEEP = ["deep.png", "deep.tif", "float.tif", "signed.tif"]


def picture(seed: int = 0, size: tuple[int, int] = (24, 16)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


@pytest.fixture
def odd(tmp_path) -> Path:
    """Two classes; in `a` one file of every odd kind, in `b` plain ones."""
    folder = write_photos(tmp_path / "odd", {"a": 3, "b": 3})
    a = folder / "a"
    rgb = picture()
    rgb.convert("CMYK").save(a / "cmyk.jpg")
    rgb.quantize(8).save(a / "palette.png", transparency=0)
    rgb.putalpha(Image.linear_gradient("L").resize(rgb.size))
    rgb.save(a / "alpha.png")
    rgb.convert("LA").save(a / "grey alpha.png")
    frames = [picture(seed).convert("P") for seed in (1, 2)]
    frames[0].save(a / "animated.gif", save_all=True, append_images=frames[1:])
    picture(1).save(a / "pages.tif", save_all=True, append_images=[picture(2)])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(3).convert("RGBA").save(a / "turned.png", exif=exif)
    Image.merge("LAB", picture(4).split()).save(a / "lab.tif")
    deep = np.linspace(100, 4000, 24 * 16).astype(np.uint16).reshape(16, 24)
    for name in ("deep.png", "deep.tif"):
        Image.fromarray(deep).save(a / name)
    Image.fromarray(deep.astype(np.float32) / 4000 - 0.5).save(a / "float.tif")
    Image.fromarray(deep.astype(np.int32) - 2000).save(a / "signed.tif")
    return folder


def rules(converted) -> dict[str, str]:
    return {each.path: each.rule for each in converted}


def became(converted) -> dict[str, str]:
    return {each.path: each.became for each in converted}


def refusal(*arguments) -> str:
    with pytest.raises(UserError) as refused:
        convert_folder(*arguments, progress=False)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_every_odd_file_becomes_a_plain_one_of_its_name(odd, tmp_path):
    converted = convert_folder(odd, tmp_path / "copy", progress=False)
    assert len(converted) == 6 + len(ODD) + len(DEEP)
    deep = {"deep.png": "a/deep.png", "deep.tif": "a/deep.tif.png", "float.tif": "a/float.png"}
    assert {path: became(converted)[f"a/{path}"] for path in deep} == deep
    for name in ODD + DEEP:
        with Image.open(tmp_path / "copy" / became(converted)[f"a/{name}"]) as image:
            assert (image.format, image.mode, getattr(image, "n_frames", 1)) == ("PNG", "RGB", 1)
            assert not {"transparency", "icc_profile", "exif"} & image.info.keys()
    kinds = [rules(converted)[f"a/{name}"].partition(":")[0] for name in ODD]
    assert kinds == [
        *("CMYK", "palette", "alpha channel", "alpha channel", "animated", "several pages", "alpha channel"),
        "another colour space",
    ]
    assert {rules(converted)[f"a/{name}"].partition(":")[0] for name in DEEP} == {"16 bits or more"}


def test_pipeline_sees_in_the_copy_what_it_saw_in_the_original(odd, tmp_path):
    converted = convert_folder(odd, tmp_path / "copy", progress=False)
    for name in ODD:
        before = open_rgb(odd / "a" / name)
        after = open_rgb(tmp_path / "copy" / became(converted)[f"a/{name}"])
        assert np.array_equal(np.asarray(before), np.asarray(after)), name
    assert open_rgb(odd / "a" / "turned.png").size == (16, 24)


def test_what_is_plain_is_copied_byte_for_byte_and_is_no_link(odd, tmp_path):
    converted = convert_folder(odd, tmp_path / "copy", progress=False)
    for path in [each.path for each in converted if each.rule == "copied as it is"]:
        assert (tmp_path / "copy" / path).read_bytes() == (odd / path).read_bytes()
        assert (tmp_path / "copy" / path).stat().st_ino != (odd / path).stat().st_ino
    assert counts(converted)[0] == ("copied as it is", 6)


def test_the_copy_is_read_with_nothing_skipped(odd, tmp_path):
    assert len(read_folder(odd, Data(), progress=False)[1]) == len(DEEP)
    convert_folder(odd, tmp_path / "copy", progress=False)
    examples, skipped = read_folder(tmp_path / "copy", Data(), progress=False)
    assert skipped == []
    assert len(examples) == 6 + len(ODD) + len(DEEP)


def test_a_folder_of_nothing_but_deep_images_is_converted(tmp_path):
    for label in "ab":
        (tmp_path / "data" / label).mkdir(parents=True)
        Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20)).save(tmp_path / "data" / label / "1.tif")
    convert_folder(tmp_path / "data", tmp_path / "copy", progress=False)
    assert len(read_folder(tmp_path / "copy", Data(), progress=False)[0]) == 2


# The rule for deep images


def shades(values: np.ndarray, window=None) -> np.ndarray:
    rgb = np.asarray(to_8_bits(Image.fromarray(values), window))
    assert np.array_equal(rgb[..., 0], rgb[..., 1]) and np.array_equal(rgb[..., 0], rgb[..., 2])
    return rgb[..., 0]


def test_half_a_percent_of_the_pixels_is_black_and_half_a_percent_white():
    values = np.arange(1001, dtype=np.uint16).reshape(7, 143) * 4  # a 12-bit scanner
    found = shades(values)
    # The percentiles are 20 and 3980; what is between is linear.
    assert np.array_equal(found, np.clip((values - 20.0) / 3960 * 255, 0, 255).round())
    assert (found == 0).sum() >= 5 and (found == 255).sum() >= 5


def test_twelve_bits_look_as_sixteen_do_and_a_burnt_pixel_changes_nothing():
    values = np.random.default_rng(0).integers(0, 4096, (50, 50)).astype(np.uint16)
    assert np.array_equal(shades(values), shades(values * 16))
    burnt = values.copy()
    burnt[0, 0] = 65535
    assert np.abs(shades(burnt).astype(int) - shades(values))[0, 1:].max() <= 2


def test_a_mask_of_few_pixels_does_not_vanish():
    values = np.zeros((50, 50), np.uint16)
    values[0, 0] = 7
    assert shades(values)[0, 0] == 255 and shades(values).sum() == 255


def test_an_image_of_one_value_is_black():
    assert not shades(np.full((5, 5), 1000, np.uint16)).any()


def test_what_is_no_number_becomes_black():
    values = np.linspace(-1, 1, 100).astype(np.float32).reshape(10, 10)
    values[5, 5], values[6, 6], values[7, 7] = np.nan, np.inf, -np.inf
    found = shades(values)
    assert (found[5, 5], found[6, 6], found[7, 7]) == (0, 255, 0)
    with pytest.raises(ValueError, match="no pixel is a number"):
        shades(np.full((4, 4), np.nan, np.float32))


def test_a_window_that_is_given_holds_for_every_image():
    hounsfield = np.array([[-1000, -160, 40, 240, 3000]], np.int32)
    assert shades(hounsfield, (-160, 240)).tolist() == [[0, 0, 128, 255, 255]]


def test_where_white_is_zero_the_picture_is_turned_to_light_on_dark(tmp_path):
    values = np.arange(1000, dtype=np.uint16).reshape(20, 50)
    Image.fromarray(values).save(tmp_path / "1.tif", tiffinfo={262: 0})
    with Image.open(tmp_path / "1.tif") as image:
        assert image.tag_v2[262] == 0
        assert np.array_equal(np.asarray(to_8_bits(image))[..., 0], 255 - shades(values))


def test_a_deep_image_is_turned_as_exif_says(tmp_path):
    (tmp_path / "data" / "a").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 3
    values = np.arange(400, dtype=np.uint16).reshape(20, 20)
    Image.fromarray(values).save(tmp_path / "data" / "a" / "1.png", exif=exif)
    convert_folder(tmp_path / "data", tmp_path / "copy", progress=False)
    found = np.asarray(Image.open(tmp_path / "copy" / "a" / "1.png"))[..., 0]
    assert np.array_equal(found, shades(values)[::-1, ::-1])


# What is left out, and what names become


def test_masks_strangers_and_broken_files_are_left_out_and_listed(odd, tmp_path):
    write_photo(odd / "b" / "000_mask.png", 0.1, 1)
    (odd / "b" / "notes.txt").write_text("hello")
    (odd / "b" / "cut.png").write_bytes((odd / "b" / "000.png").read_bytes()[:400])
    (odd / "a" / "cut.tif").write_bytes((odd / "a" / "deep.tif").read_bytes()[:300])
    copy = tmp_path / "copy"
    converted = convert_folder(odd, copy, progress=False)
    out = {path: rules(converted)[path] for path, name in became(converted).items() if not name}
    assert set(out) == {"b/000_mask.png", "b/notes.txt", "b/cut.png", "a/cut.tif"}
    assert all(rule.startswith("left out: ") for rule in out.values())
    assert "mask" in out["b/000_mask.png"]
    found = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    assert found == {each.became for each in converted if each.became}
    with log_of(copy).open(encoding="utf-8") as file:
        listed = list(csv.DictReader(file))
    assert [(row["path"], row["became"], row["rule"]) for row in listed] == [
        (each.path, each.became, each.rule) for each in converted
    ]


def test_no_file_takes_anothers_name(tmp_path):
    folder = tmp_path / "data" / "a"
    folder.mkdir(parents=True)
    picture(1).save(folder / "x.png")
    picture(2).convert("CMYK").save(folder / "x.jpg")
    picture(3).convert("CMYK").save(folder / "x.tif")
    picture(4).save(folder / "x.tif.png")
    picture(5).convert("CMYK").save(folder / "y.tif")
    picture(6).convert("P").save(folder / "z.png")
    picture(7).convert("CMYK").save(folder / "Y.jpg")
    converted = convert_folder(tmp_path / "data", tmp_path / "copy", progress=False)
    names = became(converted)
    assert len({name.casefold() for name in names.values()}) == 7
    assert (names["a/x.png"], names["a/x.tif.png"], names["a/z.png"]) == ("a/x.png", "a/x.tif.png", "a/z.png")
    for path, name in names.items():
        same = np.asarray(open_rgb(tmp_path / "data" / path)) == np.asarray(open_rgb(tmp_path / "copy" / name))
        assert same.all(), path


def test_a_telephones_picture_with_another_behind_it_is_plain(tmp_path):
    (tmp_path / "data" / "a").mkdir(parents=True)
    path = tmp_path / "data" / "a" / "1.jpg"
    picture(1).save(path, "MPO", save_all=True, append_images=[picture(2)])
    assert Image.open(path).n_frames == 2
    assert rules(convert_folder(tmp_path / "data", tmp_path / "copy", progress=False)) == {"a/1.jpg": "copied as it is"}


# Where the copy may be


def test_the_copy_lies_neither_in_the_data_nor_around_them_nor_on_anything(odd, tmp_path):
    before = sorted(path for path in tmp_path.rglob("*"))
    assert "lie in each other" in refusal(odd, odd / "copy")
    assert "lie in each other" in refusal(odd, odd)
    assert "lie in each other" in refusal(odd, tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").write_text("mine")
    assert "is not empty" in refusal(odd, tmp_path / "taken")
    assert "is a file" in refusal(odd, tmp_path / "taken" / "x")
    assert "taken/x/copy" in refusal(odd, tmp_path / "taken" / "x" / "copy").replace(os.sep, "/")
    (tmp_path / "copy-files.csv").write_text("mine")
    assert "something else already" in refusal(odd, tmp_path / "copy")
    assert "does not exist" in refusal(tmp_path / "nowhere", tmp_path / "copy")
    new = {tmp_path / "taken", tmp_path / "taken" / "x", tmp_path / "copy-files.csv"}
    assert set(tmp_path.rglob("*")) == set(before) | new


def test_an_empty_folder_may_be_filled_and_the_list_of_an_earlier_copy_replaced(odd, tmp_path):
    (tmp_path / "copy").mkdir()
    convert_folder(odd, tmp_path / "copy", progress=False)
    for path in sorted((tmp_path / "copy").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    convert_folder(odd, tmp_path / "copy", progress=False)
    assert (tmp_path / "copy" / "a" / "000.png").is_file()


def test_a_folder_without_a_picture_to_copy_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.txt").write_text("")
    assert "no image" in refusal(tmp_path / "data", tmp_path / "new" / "copy")
    (tmp_path / "data" / "x.jpg").write_text("")
    assert "1 × empty file (x.jpg)" in refusal(tmp_path / "data", tmp_path / "new" / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def command(*words, **kwargs) -> subprocess.CompletedProcess:
    words = [sys.executable, str(ROOT / "training" / "data_report.py"), *map(str, words)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, **kwargs)


def test_the_command_says_what_became_of_the_files_and_what_comes_next(odd, tmp_path):
    finished = command(odd, "--convert", "8 bit", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    assert lines[0].split(maxsplit=1) == ["6", "copied as it is"]
    assert any("4  16 bits or more: one linear window an image" in line for line in lines)
    assert lines[-1] == "next       accelerate launch -q training/train.py folder --data_dir '8 bit'"
    assert (tmp_path / "8 bit" / "a" / "cmyk.png").is_file()


def test_a_window_goes_through_the_command(odd, tmp_path):
    finished = command(odd, "--convert", tmp_path / "copy", "--window", "-160", "240")
    assert finished.returncode == 0, finished.stderr
    assert "the linear window that was given" in finished.stdout
    signed = np.asarray(Image.open(tmp_path / "copy" / "a" / "signed.png"))[..., 0]
    with Image.open(odd / "a" / "signed.tif") as image:
        expected = np.clip((np.asarray(ImageOps.exif_transpose(image)) + 160.0) / 400 * 255, 0, 255).round()
    assert np.array_equal(signed, expected)
    for words in (["--window", "1", "2"], ["--convert", tmp_path / "x", "--window", "2", "1"]):
        finished = command(odd, *words)
        assert finished.returncode == 1 and finished.stderr.startswith("error: --window")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_copy_that_cannot_be_finished_leaves_nothing(odd, tmp_path):
    picture(9, (400, 400)).save(odd / "b" / "zz big.png")
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from pathlib import Path; from training.data.convert import convert_folder\n"
        "from training.recipe import UserError\n"
        "try: convert_folder(Path(sys.argv[1]), Path(sys.argv[2]), progress=False)\n"
        "except UserError as error: print(error)"
    )
    words = [sys.executable, "-c", code, str(odd), str(tmp_path / "new" / "copy")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "home")}
    finished = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment)
    assert "File too large" in finished.stdout and finished.stdout.count("\n") == 1, finished.stderr
    assert not (tmp_path / "new").exists()


def test_sixteen_bits_a_colour_are_windowed_too(tmp_path):
    """Pillow takes their upper byte, of which a 12-bit scanner fills four bits."""
    draw = np.random.default_rng(0)
    dark = draw.integers(0, 4096, (24, 32, 3), dtype=np.uint16)
    for name in ("a/12in16.png", "b/12in16.tif"):
        (tmp_path / "scans" / name).parent.mkdir(parents=True)
        (tmp_path / "scans" / name).write_bytes(cv2.imencode(Path(name).suffix, dark[..., ::-1])[1].tobytes())
    converted = {each.path: each for each in convert_folder(tmp_path / "scans", tmp_path / "copy", progress=False)}
    low, high = np.percentile(dark, (0.5, 99.5))
    expected = (np.clip((dark - low) / (high - low), 0, 1) * 255).round()
    for path in ("a/12in16.png", "b/12in16.tif"):
        assert converted[path].rule == RULES["deep colour"]
        written = np.asarray(Image.open(tmp_path / "copy" / converted[path].became))
        assert written.dtype == np.uint8 and np.abs(written - expected).max() <= 1


def test_of_deep_pages_the_first_is_taken_and_said_so(tmp_path):
    pages = [Image.fromarray(np.full((20, 20), value, np.uint16)) for value in (100, 200)]
    (tmp_path / "scans" / "a").mkdir(parents=True)
    pages[0].save(tmp_path / "scans" / "a" / "stack.tif", save_all=True, append_images=pages[1:])
    (done,) = convert_folder(tmp_path / "scans", tmp_path / "copy", progress=False)
    assert done.rule == RULES["deep pages"] and "the first page" in done.rule
