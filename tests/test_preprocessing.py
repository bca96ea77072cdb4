"""Pixels by PIL and numpy alone are, bit for bit, what the saved image processor makes."""

import json
import tracemalloc
from functools import cache

import numpy as np
import pytest
from conftest import scene
from PIL import Image
from transformers import (
    AutoImageProcessor,
    BitImageProcessor,
    ConvNextImageProcessor,
    DeiTImageProcessor,
    EfficientNetImageProcessor,
    ViTImageProcessor,
)
from transformers.models.timm_wrapper.image_processing_timm_wrapper import TimmWrapperImageProcessor

from hub_utils.portable.command import UserError
from hub_utils.portable.preprocessing import KERNELS, preprocessing_of

COLOURS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
SQUARE = {"height": 33, "width": 32}
PROCESSORS = {
    "ResNet-50's": ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=0.875, resample=3, **COLOURS),
    "cropped, an odd border": ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.9, resample=2, **COLOURS),
    "squashed": ConvNextImageProcessor(size={"shortest_edge": 384}, resample=3, **COLOURS),
    "to other sides": ViTImageProcessor(size={"height": 40, "width": 32}, resample=2),
    "shorter side, crop": BitImageProcessor(
        size={"shortest_edge": 40}, crop_size=SQUARE, do_center_crop=True, do_convert_rgb=True, resample=3, **COLOURS
    ),
    "squashed, crop": BitImageProcessor(
        size={"height": 41, "width": 50}, crop_size=SQUARE, do_center_crop=True, resample=1, **COLOURS
    ),
    "DeiT's": DeiTImageProcessor(),
}
TIMM = {"input_size": [3, 32, 32], "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center"}
TIMM |= {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
TIMMS = {
    "cropped": TIMM,
    "squashed": TIMM | {"crop_mode": "squash", "input_size": [3, 40, 32], "interpolation": "bilinear"},
    "its size": TIMM | {"crop_pct": 1.0, "interpolation": "lanczos"},
    "defaults": {"input_size": [3, 64, 64]},
}
SIZES = ((301, 200), (200, 301), (37, 64), (32, 40), (900, 150), (53, 180), (2, 3), (36, 36), (256, 256), (500, 650))


@cache
def pictures() -> list[Image.Image]:
    """Noise, black and white noise, and scenes, of every size."""
    draw, made = np.random.default_rng(0), []
    for width, height in SIZES:
        noise = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        made.append(noise)
        made.append(np.where(noise > 127, 255, 0).astype(np.uint8))
        made.append(np.stack([scene(seed, height, width) for seed in (1, 2, 3)], axis=-1))
    return [Image.fromarray(each) for each in made]


def assert_equal_to(processor, folder) -> None:
    ours = preprocessing_of(folder)
    for picture in pictures():
        expected = processor(picture, return_tensors="pt")["pixel_values"][0].numpy()
        made = ours(picture)
        assert made.dtype == np.float32
        assert made.shape == expected.shape
        assert np.array_equal(made, expected), picture.size


@pytest.mark.parametrize("name", PROCESSORS)
def test_transformers_processors_are_equalled_bit_for_bit(name, tmp_path):
    PROCESSORS[name].save_pretrained(tmp_path)
    assert_equal_to(PROCESSORS[name], tmp_path)


@pytest.mark.parametrize("name", TIMMS)
def test_timms_processors_are_equalled_bit_for_bit(name, tmp_path):
    write(tmp_path, "config.json", {"architecture": "test_resnet", "pretrained_cfg": TIMMS[name]})
    assert_equal_to(TimmWrapperImageProcessor(TIMMS[name]), tmp_path)


@pytest.mark.parametrize("resample", KERNELS)
@pytest.mark.parametrize("size", [(224, 224), (17, 200), (200, 17), (64, 255), (255, 64), (400, 100), (800, 600)])
def test_resampling_is_torchvisions_to_any_size(size, resample, tmp_path):
    processor = ViTImageProcessor(
        size={"width": size[0], "height": size[1]}, resample=Image.Resampling[resample], **COLOURS
    )
    processor.save_pretrained(tmp_path)
    assert_equal_to(processor, tmp_path)


def write(folder, name: str, values) -> None:
    (folder / name).write_text(json.dumps(values), encoding="utf-8")


OLD = {"do_normalize": True, "do_resize": True, "resample": 3, "crop_pct": 0.875, **COLOURS}


@pytest.mark.parametrize(
    "values",
    [
        OLD | {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 64},
        OLD | {"feature_extractor_type": "ViTFeatureExtractor", "size": 64},
        OLD | {"image_processor_type": "ViTImageProcessorFast", "size": SQUARE, "data_format": "channels_first"},
        OLD | {"image_processor_type": "DeiTImageProcessor", "size": 64, "crop_size": 40},
        OLD | {"image_processor_type": "BitImageProcessor", "size": 64, "crop_size": SQUARE, "do_rescale": True},
    ],
)
def test_files_of_earlier_versions_mean_what_they_mean_to_transformers(values, tmp_path):
    values.pop("crop_pct") if "ConvNext" not in str(values) else None
    write(tmp_path, "preprocessor_config.json", values)
    write(tmp_path, "config.json", {"model_type": "resnet"})
    assert_equal_to(AutoImageProcessor.from_pretrained(tmp_path), tmp_path)


KNOWN = PROCESSORS["shorter side, crop"].to_dict()


@pytest.mark.parametrize(
    "values",
    [
        EfficientNetImageProcessor().to_dict(),
        KNOWN | {"do_pad": True},
        KNOWN | {"size": {"shortest_edge": 40, "longest_edge": 80}},
        KNOWN | {"crop_size": {"height": 50, "width": 50}},
        KNOWN | {"resample": 0},
        KNOWN | {"resample": None},
        KNOWN | {"rescale_factor": 1 / 127.5},
        KNOWN | {"do_normalize": False},
        KNOWN | {"image_mean": [0.5], "image_std": [0.5]},
        KNOWN | {"image_std": [0.5, 0.5, 0]},
        KNOWN | {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 64}, "do_center_crop": False},
        KNOWN | {"image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 64}, "do_center_crop": False},
        {key: value for key, value in KNOWN.items() if key != "image_processor_type"},
        [],
    ],
)
def test_what_is_not_known_is_left_to_transformers(values, tmp_path):
    write(tmp_path, "preprocessor_config.json", KNOWN)
    assert preprocessing_of(tmp_path)
    write(tmp_path, "preprocessor_config.json", values)
    assert preprocessing_of(tmp_path) is None


@pytest.mark.parametrize(
    "values",
    [
        TIMM | {"crop_mode": "border"},
        TIMM | {"input_size": [3, 32, 40]},
        TIMM | {"interpolation": "random"},
        TIMM | {"mean": [0.5]},
        None,
    ],
)
def test_of_timms_as_well(values, tmp_path):
    write(tmp_path, "config.json", {"pretrained_cfg": values})
    assert preprocessing_of(tmp_path) is None


def test_a_folder_without_the_files_is_not_known(tmp_path):
    assert preprocessing_of(tmp_path) is None
    (tmp_path / "preprocessor_config.json").write_text("{", encoding="utf-8")
    assert preprocessing_of(tmp_path) is None


def test_what_is_seen_is_the_crop_as_shares_of_the_picture(tmp_path):
    PROCESSORS["ResNet-50's"].save_pretrained(tmp_path)
    # 400 × 200 becomes 512 × 256, of which 224 × 224 are left from (144, 16) on.
    assert preprocessing_of(tmp_path).seen((400, 200)) == (144 / 512, 16 / 256, 368 / 512, 240 / 256)
    PROCESSORS["to other sides"].save_pretrained(tmp_path)
    assert preprocessing_of(tmp_path).seen((400, 200)) == (0, 0, 1, 1)


@pytest.mark.parametrize("size", [(2, 40_000), (40_000, 2)])
def test_a_picture_that_is_all_but_a_line_is_refused_in_words(size, tmp_path):
    PROCESSORS["ResNet-50's"].save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"40,000.* pixels is too narrow: cut a part out of it"):
        preprocessing_of(tmp_path)(Image.new("RGB", size))


def test_a_photograph_of_12_megapixels_takes_little_memory(tmp_path):
    PROCESSORS["ResNet-50's"].save_pretrained(tmp_path)
    ours, picture = preprocessing_of(tmp_path), Image.new("RGB", (4000, 3000), "orange")
    tracemalloc.start()
    ours(picture)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 40e6  # one of its colours as bytes has 12 MB
