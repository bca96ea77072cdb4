"""Training sees what the deployed model sees, varied; and the variation depends on nothing but seed, epoch and row."""

import dataclasses
import math
import random

import numpy as np
import pytest
import torch
from conftest import write_photo
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from torch.nn import functional
from torch.utils.data import default_collate
from torchvision.transforms.v2 import functional as tv
from transformers import (
    BitImageProcessor,
    ConvNextImageProcessor,
    EfficientNetImageProcessor,
    MobileViTImageProcessor,
    ViTImageProcessor,
)
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

from training.data.transforms import Preprocessing, Views, draws, random_affine, random_crop, variation, vary
from training.recipe import Augmentation, UserError

COLOURS = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}


def timms(**values) -> TimmWrapperImageProcessor:
    cfg = {"input_size": [3, 32, 32], "crop_pct": 0.875, "mean": COLOURS["image_mean"], "std": COLOURS["image_std"]}
    return TimmWrapperImageProcessor(pretrained_cfg=cfg | values, architecture="test_resnet")


PROCESSORS = {
    "convnext, crop": ConvNextImageProcessor(size={"shortest_edge": 32}, **COLOURS),
    "convnext, warp": ConvNextImageProcessor(size={"shortest_edge": 384}, **COLOURS),
    "vit, squash": ViTImageProcessor(size={"height": 32, "width": 32}, **COLOURS),
    "bit, crop": BitImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}, **COLOURS),
    "mobilevit, BGR": MobileViTImageProcessor(size={"shortest_edge": 36}, crop_size={"height": 32, "width": 32}),
    "timm, bicubic": timms(interpolation="bicubic"),
    "timm, bilinear squash": timms(interpolation="bilinear", crop_mode="squash", crop_pct=1.0),
}
SIZES = [(32, 32), (40, 32), (37, 71), (100, 33), (16, 16)]

# Each field alone, as strong as it shows on a picture of 32 pixels.
ALONE = {
    "rotation": 30,
    "shear": 20,
    "zoom": 0.3,
    "shift": 0.2,
    "horizontal_flip": True,
    "vertical_flip": True,
    "crop": 0.5,
    "brightness": 0.5,
    "contrast": 0.5,
    "saturation": 0.5,
}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype="uint8"))


def pixels_of(image: Image.Image) -> torch.Tensor:
    return torch.tensor(np.asarray(image)).permute(2, 0, 1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def augment(pixels: torch.Tensor, how: Augmentation, draw: torch.Generator) -> torch.Tensor:
    """A variation of one image, of bytes, as float32 of 0 to 255."""
    drawn = variation(how, pixels.shape[1] / pixels.shape[2], draw)
    return vary(pixels[None], **{name: each[None] for name, each in drawn.items()})[0]


def augment_alone(pixels: torch.Tensor, how: Augmentation, draw: torch.Generator) -> torch.Tensor:
    """The same by torch's and torchvision's own operations on single images, one after the other."""
    height, width = pixels.shape[1:]
    theta = random_affine(how, height / width, draw)
    image = pixels.float()[None]
    if not torch.equal(theta, torch.eye(2, 3)):
        grid = functional.affine_grid(theta[None], list(image.shape), align_corners=False)
        image = functional.grid_sample(image, grid, padding_mode="border", align_corners=False)
    for axis, flips in ((3, how.horizontal_flip), (2, how.vertical_flip)):
        if flips and torch.rand((), generator=draw).item() < 0.5:
            image = image.flip(axis)
    for name in ("brightness", "contrast", "saturation"):
        reach = getattr(how, name)
        if reach:
            factor = 1 - reach + 2 * reach * torch.rand((), generator=draw).item()
            image = getattr(tv, f"adjust_{name}")(image / 255, factor) * 255
    return image[0]


@pytest.fixture
def rows(tmp_path) -> Dataset:
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        write_photo(path, number / 4, number)
    features = Features(image=ImageFeature(), label=ClassLabel(names=["a", "b"]))
    return Dataset.from_dict({"image": [str(path) for path in paths], "label": [0, 1, 0, 1]}, features=features)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PROCESSORS)
def test_an_image_is_preprocessed_as_the_image_processor_does_it(name, size):
    expected = PROCESSORS[name](noise(*size), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(Preprocessing(PROCESSORS[name])(noise(*size)), expected)
    assert (expected.dtype, expected.shape[0]) == (torch.float32, 3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PROCESSORS)
def test_training_without_variation_sees_what_the_deployed_model_sees(name, size):
    """Within float32's rounding: both round to bytes after resizing, so not even a level of 1/255 lies between."""
    preprocessing, image = Preprocessing(PROCESSORS[name]), noise(*size)
    pixels = preprocessing.geometry(image)
    assert pixels.dtype == torch.uint8
    varied = preprocessing.normalise(augment(pixels, Augmentation(), generator()))
    torch.testing.assert_close(varied, preprocessing(image), rtol=0, atol=1e-5)


WAYS = {
    "plain": {},
    "flips": {"horizontal_flip": True, "vertical_flip": True},
    "moves": {"rotation": 30, "shear": 20, "zoom": 0.3, "shift": 0.2},
    "moves, flips": {"rotation": 30, "zoom": 0.3, "horizontal_flip": True, "vertical_flip": True},
    "brightness": {"brightness": 0.5},
    "contrast": {"contrast": 0.5},
    "saturation": {"saturation": 0.5},
    "all": {name: value for name, value in ALONE.items() if name != "crop"},
    "all, cropped": ALONE,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["bit, crop", "timm, bicubic"])
def test_a_batch_is_what_its_images_are_alone_by_the_libraries_own_operations(rows, name, way):
    how, preprocessing, keys = Augmentation(**WAYS[way]), Preprocessing(PROCESSORS[name]), [(3, 1), (0, 0), (3, 2)]
    views = Views(rows, preprocessing, how, 42, unfinished=True)
    alone = Views(rows, preprocessing, how, 42)
    batch = default_collate([views[key] for key in keys])
    assert batch["pixel_values"].dtype == torch.uint8
    done = preprocessing.finish(batch)
    assert done.keys() == {"pixel_values", "labels"} and done["pixel_values"].dtype == torch.float32
    assert done["labels"].tolist() == [1, 0, 0]
    mean, std = preprocessing.mean, preprocessing.std
    for (epoch, row), pixels in zip(keys, done["pixel_values"], strict=True):
        draw, image = draws((42, epoch, row)), rows[row]["image"]
        image = random_crop(image, how.crop, draw) if how.crop < 1 else image
        expected = (augment_alone(preprocessing.geometry(image), how, draw) / 255 - mean) / std
        torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-3)  # sampling noise, steep wherever one looks
        torch.testing.assert_close(alone[epoch, row]["pixel_values"], pixels)


@pytest.mark.parametrize("way", ["flips", "moves, flips"])
def test_whoever_else_is_in_a_batch_changes_no_bit_of_an_image(rows, way):
    preprocessing = Preprocessing(PROCESSORS["bit, crop"])
    views = Views(rows, preprocessing, Augmentation(**WAYS[way]), 42, unfinished=True)
    items = [views[1, row % 4] for row in range(37)]
    alone = [preprocessing.finish(default_collate([item]))["pixel_values"][0] for item in items]
    for size in (2, 3, 37):
        batches = [items[start : start + size] for start in range(0, 37, size)]
        pixels = torch.cat([preprocessing.finish(default_collate(batch))["pixel_values"] for batch in batches])
        assert torch.equal(pixels, torch.stack(alone))


def test_what_is_finished_is_not_finished_again(rows):
    preprocessing = Preprocessing(PROCESSORS["bit, crop"])
    batch = default_collate([Views(rows, preprocessing)[row] for row in range(4)])
    assert torch.equal(preprocessing.finish(batch)["pixel_values"], batch["pixel_values"])


def test_bytes_that_are_not_varied_become_what_the_deployed_model_sees(rows):
    preprocessing = Preprocessing(PROCESSORS["timm, bicubic"])
    unfinished = default_collate([Views(rows, preprocessing, unfinished=True)[row] for row in range(4)])
    pixels = preprocessing.finish(unfinished)["pixel_values"]
    expected = torch.stack([Views(rows, preprocessing)[row]["pixel_values"] for row in range(4)])
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-5)


def test_images_in_shapes_of_their_own_are_told_from_those_that_make_a_batch():
    assert Preprocessing(PROCESSORS["convnext, crop"]).shape == (3, 32, 32)
    assert Preprocessing(PROCESSORS["vit, squash"]).shape == (3, 32, 32)
    own = Preprocessing(ViTImageProcessor(size={"shortest_edge": 32}, **COLOURS))
    assert own.shape is None


@pytest.mark.parametrize(
    ("name", "edge"),
    [("convnext, crop", 36), ("convnext, warp", 384), ("vit, squash", 32), ("bit, crop", 36), ("timm, bicubic", 36)]
    + [("mobilevit, BGR", 36), ("timm, bilinear squash", 32)],
)
def test_how_much_of_an_image_is_needed(name, edge):
    preprocessing = Preprocessing(PROCESSORS[name])
    assert preprocessing.edge == pytest.approx(edge, abs=2)
    assert preprocessing.needed(Augmentation()) == 2 * preprocessing.edge
    assert preprocessing.needed(Augmentation(crop=0.25)) == math.ceil(2 * preprocessing.edge / math.sqrt(0.25 * 0.75))


def test_a_random_part_is_never_smaller_than_what_was_counted_on():
    for smallest in (0.08, 0.5, 0.9):
        kept = math.sqrt(smallest * max(3 / 4, smallest))
        for seed in range(300):
            part = random_crop(noise(40, 30), smallest, generator(seed))
            assert part.width >= kept * 40 - 0.51 and part.height >= kept * 30 - 0.51


def test_a_processor_that_does_more_than_resize_and_normalise_is_refused():
    with pytest.raises(UserError, match="EfficientNetImageProcessor does more"):
        Preprocessing(EfficientNetImageProcessor(size={"height": 32, "width": 32}, include_top=True))


def test_a_view_is_a_pure_function_of_seed_epoch_and_row(rows):
    how = Augmentation(**ALONE)
    preprocessing = Preprocessing(PROCESSORS["bit, crop"])

    def view(seed: int, epoch: int, row: int) -> torch.Tensor:
        return Views(rows, preprocessing, how, seed)[epoch, row]["pixel_values"]

    first = view(42, 1, 2)
    torch.manual_seed(123)
    assert torch.equal(view(42, 1, 2), first)
    assert not torch.equal(view(43, 1, 2), first)
    assert not torch.equal(view(42, 2, 2), first)
    views = Views(rows, preprocessing, how, 42)
    in_order = [views[1, row]["pixel_values"] for row in range(4)]
    assert all(torch.equal(views[1, row]["pixel_values"], in_order[row]) for row in (3, 1, 0, 2))


def test_rows_are_varied_independently(rows):
    same = rows.select([0, 0, 0, 0])
    views = Views(same, Preprocessing(PROCESSORS["bit, crop"]), Augmentation(**ALONE), 42)
    pictures = [views[epoch, row]["pixel_values"] for epoch in range(3) for row in range(4)]
    assert len({tuple(picture.flatten().tolist()) for picture in pictures}) == 12


def test_an_evaluation_view_is_not_varied_and_carries_the_label(rows):
    preprocessing = Preprocessing(PROCESSORS["bit, crop"])
    views = Views(rows, preprocessing)
    assert len(views) == 4
    assert [views[row]["labels"] for row in range(4)] == [0, 1, 0, 1]
    assert torch.equal(views[1]["pixel_values"], preprocessing(rows[1]["image"]))


def test_the_global_random_numbers_are_not_touched(rows):
    torch.manual_seed(7), np.random.seed(7), random.seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    views = Views(rows, Preprocessing(PROCESSORS["timm, bicubic"]), Augmentation(**ALONE), 42)
    [views[1, row] for row in range(4)]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]


@pytest.mark.parametrize("size", [(32, 32), (33, 50), (64, 23)])
@pytest.mark.parametrize(("field", "axis"), [("horizontal_flip", 2), ("vertical_flip", 1)])
def test_a_flip_is_exactly_the_mirror_image_half_of_the_time(field, axis, size):
    pixels = pixels_of(noise(*size))
    kept = mirrored = 0
    for seed in range(200):
        image = augment(pixels, Augmentation(**{field: True}), generator(seed))
        kept += torch.equal(image, pixels.float())
        mirrored += torch.equal(image, pixels.flip(axis).float())
    assert kept + mirrored == 200
    assert 70 <= kept <= 130


@pytest.mark.parametrize("size", [(33, 33), (61, 33)])
def test_a_rotation_keeps_the_centre_and_repeats_the_edge(size):
    width, height = size
    pixels = torch.zeros(3, height, width, dtype=torch.uint8)
    pixels[:, height // 2 - 2 : height // 2 + 3, width // 2 - 2 : width // 2 + 3] = 200
    rotated = augment(pixels, Augmentation(rotation=45), generator(1))
    assert not torch.equal(rotated, pixels.float())
    assert rotated[:, height // 2, width // 2].tolist() == pytest.approx([200.0] * 3)
    grey = augment(torch.full((3, height, width), 90, dtype=torch.uint8), Augmentation(rotation=45), generator(1))
    assert grey.min().item() == pytest.approx(90, abs=1e-3)  # no black corners


def test_a_rotation_turns_by_at_most_its_degrees_and_does_not_stretch():
    turns = []
    for seed in range(300):
        matrix = random_affine(Augmentation(rotation=20), 1.0, generator(seed))
        torch.testing.assert_close(matrix[:, :2] @ matrix[:, :2].T, torch.eye(2))
        turns.append(math.degrees(math.atan2(matrix[1, 0], matrix[0, 0])))
    assert -20 <= min(turns) < -18
    assert 18 < max(turns) <= 20


def test_a_circle_in_an_oblong_picture_stays_a_circle():
    height, width = 40, 80
    y, x = torch.meshgrid(torch.arange(height) - 19.5, torch.arange(width) - 39.5, indexing="ij")
    disc = ((x**2 + y**2) < 15**2).to(torch.uint8).expand(3, -1, -1) * 255
    rotated = augment(disc, Augmentation(rotation=90), generator(3))
    assert (rotated - disc.float()).abs().mean().item() < 4


def test_zoom_shift_and_shear_reach_as_far_as_they_say():
    matrices = {
        name: torch.stack([random_affine(Augmentation(**{name: ALONE[name]}), 1.0, generator(s)) for s in range(400)])
        for name in ("zoom", "shift", "shear")
    }
    scales = 1 / matrices["zoom"][:, 0, 0]
    assert 0.7 <= scales.min() < 0.72 and 1.28 < scales.max() <= 1.3
    shares = matrices["shift"][:, :, 2] / 2  # places run from -1 to 1
    assert -0.2 <= shares.min() < -0.19 and 0.19 < shares.max() <= 0.2
    angles = torch.rad2deg(torch.atan(matrices["shear"][:, 0, 1]))
    assert -20 <= angles.min() < -19 and 19 < angles.max() <= 20


@pytest.mark.parametrize("smallest", [0.08, 0.5, 0.9, 0.99])
def test_a_crop_keeps_at_least_its_share_and_nearly_the_images_shape(smallest):
    image = noise(400, 300)
    for seed in range(200):
        part = random_crop(image, smallest, generator(seed))
        assert part.width * part.height >= smallest * 400 * 300 * 0.99
        assert 3 / 4 * 0.98 <= (part.width / part.height) / (400 / 300) <= 4 / 3 * 1.02


def test_a_crop_of_a_tiny_image_still_has_pixels():
    assert min(random_crop(noise(2, 3), 0.01, generator(seed)).size[0] for seed in range(50)) == 1


def test_every_way_to_vary_has_a_case_here():
    assert ALONE.keys() == {field.name for field in dataclasses.fields(Augmentation)}


@pytest.mark.parametrize("field", ALONE)
def test_each_way_to_vary_does_something_alone_and_stays_a_picture(rows, field):
    views = Views(rows, Preprocessing(PROCESSORS["bit, crop"]), Augmentation(**{field: ALONE[field]}), 42)
    plain = Views(rows, views.preprocessing)
    changed = 0
    for epoch in range(5):
        view = views[epoch, 1]["pixel_values"]
        assert view.shape == (3, 32, 32)
        bytes_again = (view * views.preprocessing.std + views.preprocessing.mean) * 255
        assert bytes_again.min() >= -0.01 and bytes_again.max() <= 255.01
        changed += not torch.allclose(view, plain[1]["pixel_values"])
    assert changed >= 1


@pytest.mark.parametrize("field", ["brightness", "contrast", "saturation"])
def test_colours_vary_either_way_by_at_most_their_share(field):
    pixels = pixels_of(noise(32, 32)).clamp(100, 150)  # far from black and white, where values are cut off

    def strength(image: torch.Tensor) -> float:
        image = image.float()
        if field == "brightness":
            return image.mean().item()
        return (image.std() if field == "contrast" else (image[0] - image[1]).std()).item()

    ratios = [
        strength(augment(pixels, Augmentation(**{field: 0.3}), generator(seed))) / strength(pixels)
        for seed in range(300)
    ]
    assert 0.69 < min(ratios) < 0.75
    assert 1.25 < max(ratios) < 1.31
