"""The data set that needs no download: all of it is written, or nothing."""

import multiprocessing
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from training.data.embedded import write_digits
from training.data.intake import read_folder
from training.recipe import load_recipe


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("embedded") / "data" / "digits"
    write_digits(folder)
    return folder


def test_every_digit_becomes_an_image_of_its_class(digits):
    examples, skipped = read_folder(digits, load_recipe("digits").data, progress=False)
    assert skipped == []
    assert Counter(example.label for example in examples) == Counter(str(each) for each in load_digits().target)
    assert len(examples) == 1797


def test_ink_is_dark_on_white_and_nothing_is_lost(digits):
    source = load_digits()
    index = 1000
    pixels = np.array(Image.open(digits / str(source.target[index]) / f"{index:04}.png")).astype(int)
    assert pixels.shape == (8, 8)
    assert np.array_equal(np.round((255 - pixels) * 16 / 255), source.images[index])
    assert pixels.mean() > 127


def test_nothing_is_left_beside_the_folder_and_others_may_read_it(digits):
    assert [path.name for path in digits.parent.iterdir()] == ["digits"]
    if os.name != "nt":
        assert digits.stat().st_mode & 0o777 == 0o755


def test_if_writing_fails_nothing_is_left(tmp_path):
    """A file stands where the folder should come, which shows only when everything has been written."""
    (tmp_path / "digits").write_text("mine")
    with pytest.raises(OSError):
        write_digits(tmp_path / "digits")
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]
    assert (tmp_path / "digits").read_text() == "mine"


def test_two_processes_may_write_it_at_once(tmp_path):
    """As two do that `torchrun` starts where there is no data yet."""
    folder = tmp_path / "data" / "digits"
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(write_digits, [folder, folder], chunksize=1)
    assert len(list(folder.rglob("*.png"))) == 1797
    assert [path.name for path in folder.parent.iterdir()] == ["digits"]
