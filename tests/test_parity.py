"""Two answers never differ: whatever answers for a run gives the same probabilities, image by image."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import write_photo
from parity import allowed, answers_of, largest_differences
from PIL import Image

from training.data.source import Folder
from training.fitting.fit import fit
from training.recipe import BatchNorm, Dropout, Linear, Recipe, ReLU, Stage
from training.run_folder import RunFolder

ARGUMENTS = {"learning_rate": 1e-2, "lr_scheduler_type": "constant", "num_train_epochs": 2}
HEADS = {
    "one layer": (BatchNorm(), Dropout(0.5), Linear()),
    "hidden layers": (BatchNorm(), Linear(16), ReLU(), Dropout(0.2), Linear(8), ReLU(), Linear()),
}
SIZES = ((40, 32), (32, 40), (90, 31), (200, 300), (33, 33))


@pytest.fixture(scope="module")
def odd_photos(tmp_path_factory):
    """Three colours in every size and shape, and in the modes that files have: turned, palette, grey, alpha, CMYK."""
    folder = tmp_path_factory.mktemp("odd")
    for index, name in enumerate(("blue", "green", "red")):
        for number in range(20):
            path = folder / name / f"{number:02}.png"
            write_photo(path, (2 - index) / 3, index * 100 + number, SIZES[number % len(SIZES)])
            image = Image.open(path)
            if number % 7 == 1:
                turned = Image.Exif()
                turned[0x0112] = 6
                image.save(path.with_suffix(".jpg"), exif=turned)
                path.unlink()
            elif number % 7 in (2, 3, 4):
                image.convert({2: "P", 3: "RGBA", 4: "L"}[number % 7]).save(path)
            elif number % 7 == 5:
                image.convert("CMYK").save(path.with_suffix(".jpg"), quality=95)
                path.unlink()
    return folder


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("base", ["tiny_resnet", "tiny_timm"])
def test_all_that_answer_for_a_run_agree_on_every_test_image(base, head, odd_photos, request, tmp_path):
    stage = Stage(name="all", batch_size=8, arguments=ARGUMENTS)
    recipe = Recipe(title="t", base_model=str(request.getfixturevalue(base)), head=HEADS[head], stages=(stage,))
    run = RunFolder(tmp_path / "run")
    results = fit(replace(recipe, name="t"), Folder(odd_photos), run)
    answers = answers_of(run)
    assert len(answers) == 8
    assert len(answers["eval.py"]) == results["images"]["test"] == 9
    assert np.ptp(answers["eval.py"], axis=0).max() > 0.1  # else it would agree with anything
    for name, (others, difference) in largest_differences(answers).items():
        assert others == 0 and difference < allowed(name), name
