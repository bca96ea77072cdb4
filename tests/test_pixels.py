"""Images that are decoded once: what is kept is what decoding gives, and nothing but time is lost where it is not."""

import csv
import hashlib
import io
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_photos
from PIL import Image
from torch.utils.data import DataLoader, default_collate
from transformers import BitImageProcessor, ConvNextImageProcessor, ViTImageProcessor

from training.data import records
from training.data.images import open_rgb
from training.data.pixels import keep, name_of
from training.data.source import Folder
from training.data.splits import SPLITS, Row
from training.data.transforms import Preprocessing, Views
from training.recipe import Augmentation, Linear, Recipe, Stage
from training.run_folder import RunFolder

HOW = Augmentation(rotation=20, zoom=0.2, horizontal_flip=True)
PROCESSOR = BitImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32})


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "records_folder", lambda: tmp_path / "records")


@pytest.fixture
def preprocessing() -> Preprocessing:
    return Preprocessing(PROCESSOR)


def datasets_of(folder: Path):
    """Pictures below `folder`, the first ten for training, then five each for validation and test."""
    paths = sorted(folder.rglob("*.*"))
    names = ["train"] * 10 + ["validation"] * 5 + ["test"] * 5
    rows = [
        Row(path.relative_to(folder).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest(), str(i % 2), name, "")
        for i, (path, name) in enumerate(zip(paths, names, strict=True))
    ]
    return Folder(folder).as_datasets(rows)


@pytest.fixture
def datasets(tmp_path):
    """JPEGs of 600 × 400 pixels, soft ones, as photographs are."""
    for path in write_photos(tmp_path / "photos", {"red": 20}).rglob("*.png"):
        with Image.open(path) as image:
            image.resize((600, 400), Image.Resampling.BICUBIC).save(path.with_suffix(".jpg"))
        path.unlink()
    return datasets_of(tmp_path / "photos")


def items(views: Views, epoch: int = 0) -> list[dict]:
    return [views[epoch, row] for row in range(len(views))]


def same(first: list[dict], second: list[dict]) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(torch.as_tensor(a[name]), torch.as_tensor(b[name])) for name in a)
        for a, b in zip(first, second, strict=True)
    )


def stored(datasets, preprocessing, how=HOW, limit=None) -> dict[str, Views]:
    """Views of training and validation images that are kept."""
    kept = keep(datasets, preprocessing, how, limit)
    return {
        "train": Views(datasets["train"], preprocessing, how, 1, True, kept.get("train")),
        "validation": Views(datasets["validation"], preprocessing, None, 0, True, kept.get("validation")),
    }


def test_what_is_kept_is_what_decoding_gives_and_no_image_is_read_again(datasets, preprocessing, tmp_path):
    decoded = [items(Views(datasets["train"], preprocessing, HOW, 1, unfinished=True), epoch) for epoch in range(3)]
    whole = items(Views(datasets["validation"], preprocessing, unfinished=True))
    first = stored(datasets, preprocessing)
    assert same(items(first["train"], 0), decoded[0]) and same(items(first["validation"]), whole)
    shutil.rmtree(tmp_path / "photos")
    assert same(items(first["train"], 1), decoded[1])
    later = stored(datasets, preprocessing)  # as another run, or the same one that goes on
    assert same(items(later["train"], 2), decoded[2]) and same(items(later["validation"]), whole)


def test_validation_images_are_read_whole_training_images_at_twice_what_is_needed(datasets, preprocessing, tmp_path):
    views = stored(datasets, preprocessing)
    for _ in range(2):
        for split, at_least in (("train", preprocessing.needed(HOW)), ("validation", None)):
            path = datasets[split].select_columns(["path"])[0]["path"]
            expected = preprocessing.geometry(open_rgb(tmp_path / "photos" / path, at_least))
            assert torch.equal(views[split][0, 0]["pixel_values"], expected), split


def test_a_file_that_changed_since_the_run_began_is_not_kept_under_its_name(datasets, preprocessing, tmp_path):
    views = stored(datasets, preprocessing)["train"]
    path = tmp_path / "photos" / datasets["train"].select_columns(["path"])[0]["path"]
    content = path.read_bytes()
    Image.new("RGB", (600, 400), "blue").save(path)
    assert views[0, 0]["pixel_values"][2].float().mean() > 250
    path.write_bytes(content)
    decoded = Views(datasets["train"], preprocessing, HOW, 1, unfinished=True)
    assert same([stored(datasets, preprocessing)["train"][0, 0]], [decoded[0, 0]])


def test_damage_is_decoded_again(datasets, preprocessing, tmp_path):
    views = stored(datasets, preprocessing)["train"]
    before = items(views)
    [folder] = [each for each in (tmp_path / "records").iterdir() if each.is_dir()]
    content = bytearray((folder / "values").read_bytes())
    content[5] ^= 255
    (folder / "values").write_bytes(content)
    assert views.kept.get(0) is None
    assert same(items(views), before)
    assert views.kept.get(0) is not None


@pytest.mark.parametrize("limit", [0, 4 * (3 * 32 * 32 + 36)])
def test_what_has_no_place_is_decoded_each_time(datasets, preprocessing, limit):
    views = stored(datasets, preprocessing, limit=limit)
    decoded = Views(datasets["train"], preprocessing, HOW, 1, unfinished=True)
    for epoch in range(2):
        assert same(items(views["train"], epoch), items(decoded, epoch))
    assert len(views["train"].kept.records.missing()) == 15 - 3 * bool(limit)  # three quarters of it


def test_a_full_disk_and_a_place_that_cannot_be_written(datasets, preprocessing, tmp_path, monkeypatch):
    decoded = items(Views(datasets["train"], preprocessing, HOW, 1, unfinished=True))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(records, "_write", full)
        assert same(items(stored(datasets, preprocessing)["train"]), decoded)
    monkeypatch.setattr(records, "records_folder", lambda: tmp_path / "file" / "records")
    (tmp_path / "file").write_text("no folder")
    assert same(items(stored(datasets, preprocessing)["train"]), decoded)


@pytest.mark.slow
def test_spawned_loader_workers_and_another_process_keep_for_all_at_once(datasets, preprocessing, tmp_path):
    views = stored(datasets, preprocessing)["train"]
    decoded = Views(datasets["train"], preprocessing, HOW, 1, unfinished=True)
    batches = [[(1, row) for row in range(start, start + 5)] for start in (0, 5)]
    context = multiprocessing.get_context("spawn")
    working = iter(DataLoader(views, batch_sampler=batches, num_workers=2, multiprocessing_context=context))
    here = stored(datasets, preprocessing)  # opened anew
    assert same(items(here["train"], 2)[::2], items(decoded, 2)[::2])
    for batch, keys in zip(working, batches, strict=True):
        expected = preprocessing.finish(default_collate([decoded[key] for key in keys]))
        assert torch.equal(preprocessing.finish(batch)["pixel_values"], expected["pixel_values"])
    assert views.kept.records.missing() == list(range(10, 15))  # of the validation split
    shutil.rmtree(tmp_path / "photos")
    assert same(items(views), items(here["train"]))


def test_nothing_is_kept_that_comes_out_otherwise_the_next_time(datasets, preprocessing):
    assert keep(datasets, preprocessing, replace(HOW, crop=0.5)).keys() == {"validation"}
    own = Preprocessing(ViTImageProcessor(size={"shortest_edge": 32}))
    assert keep(datasets, own, HOW) == {}
    views = stored(datasets, preprocessing, replace(HOW, crop=0.5))["train"]
    assert not torch.equal(views[0, 0]["pixel_values"], views[1, 0]["pixel_values"])


def test_only_what_makes_the_bytes_names_them():
    def name(**values) -> str:
        return name_of(Preprocessing(ConvNextImageProcessor(**{"size": {"shortest_edge": 32}} | values)))

    assert name() == name(image_mean=[0.1] * 3, image_std=[0.2] * 3)
    others = [name(size={"shortest_edge": 33}), name(crop_pct=0.5), name(resample=2)]
    assert len({name(), *others}) == 4


def jpeg(width: int, height: int, turned: bool = False, mode: str = "RGB") -> bytes:
    """A picture of soft shapes with fine grain."""
    draw = np.random.default_rng(0)
    coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype="uint8"))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) + draw.normal(
        0, 8, (height, width, 3)
    )
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6 if turned else 1
    Image.fromarray(np.clip(pixels, 0, 255).astype("uint8")).convert(mode).save(file, "JPEG", quality=90, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize(
    ("at_least", "size"), [(72, (75, 100)), (80, (150, 200)), (301, (600, 800)), (5000, (600, 800))]
)
def test_a_jpeg_is_read_at_the_smallest_scale_that_is_enough(at_least, size):
    image = open_rgb(jpeg(800, 600, turned=True), at_least)
    assert (image.size, image.mode) == (size, "RGB")
    assert open_rgb(jpeg(800, 600, turned=True)).size == (600, 800)
    assert open_rgb(jpeg(800, 600, mode="CMYK"), at_least).mode == "RGB"
    assert open_rgb(jpeg(800, 600, mode="L"), at_least).size == tuple(reversed(size))


def test_a_reduced_size_shows_nearly_the_same_and_other_formats_the_same(preprocessing):
    content = jpeg(1200, 896)  # which an eighth divides
    whole, reduced = (preprocessing.geometry(open_rgb(content, at_least)).float() for at_least in (None, 72))
    assert 0 < (whole - reduced).abs().mean() < 1.5 and (whole - reduced).abs().max() < 12
    file = io.BytesIO()
    open_rgb(content).save(file, "PNG")
    assert np.array_equal(np.asarray(open_rgb(file.getvalue(), 72)), np.asarray(open_rgb(file.getvalue())))


def fitted(run: Path, photos: Path, base: Path, *flags: str, epochs: int = 2, **options) -> dict:
    from training.fitting.fit import Options, fit

    arguments = {"learning_rate": 1e-2, "num_train_epochs": epochs}
    stage = Stage(name="all", batch_size=8, arguments=arguments)
    recipe = Recipe(title="Colours", base_model=str(base), head=(Linear(),), augmentation=HOW, stages=(stage,))
    recipe = replace(recipe, name="colours")
    return fit(recipe, Folder(photos), RunFolder(run), Options(**options), ["--bf16", "false", "--use_cpu", *flags])


@pytest.fixture
def decodes(monkeypatch) -> list[bytes]:
    """Every image that is decoded for a view, in this process."""
    from training.data import transforms

    seen = []

    def counting(source, at_least=None):
        seen.append(source)
        return open_rgb(source, at_least)

    monkeypatch.setattr(transforms, "open_rgb", counting)
    return seen


@pytest.mark.slow
def test_a_run_decodes_once_a_second_one_not_at_all_and_both_are_as_without(photos, tiny_resnet, tmp_path, decodes):
    results, counts = [], []
    for name, options in (("first", {}), ("second", {}), ("without", {"pixel_cache": 0.0})):
        decodes.clear()
        results.append(fitted(tmp_path / name, photos, tiny_resnet, **options))
        counts.append(len(decodes))
    with (tmp_path / "first" / "local" / "splits.csv").open(encoding="utf-8") as file:
        splits = [row["split"] for row in csv.DictReader(file)]
    train, validation, test = (splits.count(name) for name in SPLITS)
    deployed = 2 * validation + test + train  # each measured from the file, as a visitor would
    assert counts == [deployed + train + validation, deployed, deployed + 2 * (train + validation)]
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second", "without")]
    assert files[0] == files[1] == files[2]
    assert [each["test"] for each in results] == [results[0]["test"]] * 3


@pytest.mark.slow
def test_one_epoch_keeps_nothing(photos, tiny_resnet, tmp_path):
    fitted(tmp_path / "run", photos, tiny_resnet, epochs=1)
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize("words", [["-1"], ["much"], ["nan"], ["inf"]])
def test_a_cache_of_a_size_that_cannot_be(words, capsys):
    from training.train import main

    with pytest.raises((SystemExit, Exception)) as caught:
        main(["digits", "--pixel_cache", *words])
    assert "gigabytes" in str(caught.value) + capsys.readouterr().err
