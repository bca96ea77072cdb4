"""The end of training: what calibration does to the weights and to the figures, and what leaves it alone."""

import json

import numpy as np
import pytest
import torch
from conftest import write_photo
from PIL import Image
from safetensors.torch import load_file
from test_commands import OWN_RECIPE

from hub_utils.portable.classifier import load_classifier, logits_of
from training.recipe import UserError
from training.run_folder import RunFolder
from training.train import main

SHORT = ["--use_cpu", "--bf16", "false", "--threads", "1"]


@pytest.fixture(scope="module")
def noisy(tmp_path_factory, tiny_resnet):
    """Recipe and folder of two colours, of which one picture in four is labelled by lot."""
    folder = tmp_path_factory.mktemp("noisy")
    recipe = folder / "colours.py"
    recipe.write_text(OWN_RECIPE.format(base=str(tiny_resnet)))
    for number in range(60):
        label = ("red", "green")[(number // 4 if number % 4 == 0 else number) % 2]
        write_photo(folder / "photos" / label / f"{number:02}.png", number % 2 / 3, number)
    return [str(recipe), "--data_dir", str(folder / "photos")]


@pytest.fixture(scope="module")
def both(noisy, tmp_path_factory) -> dict[str, RunFolder]:
    """The same training, calibrated and not."""
    folder = tmp_path_factory.mktemp("both")
    for name, flags in {"calibrated": [], "plain": ["--no_calibrate"]}.items():
        assert main([*noisy, "--output_dir", str(folder / name), *SHORT, *flags]) == 0
    return {name: RunFolder(folder / name) for name in ("calibrated", "plain")}


def results_of(run: RunFolder) -> dict:
    return json.loads(run.results.read_text(encoding="utf-8"))


def test_no_calibrate_leaves_the_weights_and_calibration_divides_the_logits_of_the_same_network(both, noisy):
    calibrated, plain = results_of(both["calibrated"]), results_of(both["plain"])
    assert plain["temperature"] is None and plain["calibration"] == {}
    temperature = calibrated["temperature"]
    assert abs(temperature - 1) > 0.02
    pictures = [np.random.default_rng(seed).integers(0, 255, (32, 40, 3), np.uint8) for seed in range(5)]
    ours, theirs = (
        np.array(list(logits_of(load_classifier(both[name].path), map(Image.fromarray, pictures))))
        for name in ("calibrated", "plain")
    )
    assert ours * temperature == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    before, after = (load_file(both[name].weights) for name in ("plain", "calibrated"))
    for name, weight in before.items():
        scale = temperature if name.startswith("classifier.1") else 1
        assert torch.allclose(after[name] * scale, weight, rtol=1e-5, atol=1e-7), name
    assert calibrated["test"]["accuracy"] == plain["test"]["accuracy"]


def test_both_splits_are_told_before_and_after_and_validation_does_not_get_worse(both):
    calibrated, plain = results_of(both["calibrated"]), results_of(both["plain"])
    assert set(calibrated["calibration"]) == {"validation", "test"}
    for split, told in calibrated["calibration"].items():
        assert told["before"]["loss"] == pytest.approx(plain[split]["loss"], rel=1e-4)
        assert told["after"]["loss"] == pytest.approx(calibrated[split]["loss"], rel=1e-6)
        assert all(0 <= told[when]["expected_calibration_error"] <= 1 for when in ("before", "after"))
    # The prior pulls towards T = 1, which is "before": no temperature that costs more than that one is ever taken.
    validation = calibrated["calibration"]["validation"]
    assert validation["after"]["loss"] <= validation["before"]["loss"]


def test_a_training_that_comes_to_nothing_ends_in_one_line_and_is_not_saved(noisy, tmp_path):
    wild = ["--learning_rate", "1e30", "--max_grad_norm", "0"]
    with pytest.raises(UserError, match="no finite number") as refused:
        main([*noisy, "--output_dir", str(tmp_path / "run"), *SHORT, *wild])
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert not (tmp_path / "run" / "all_results.json").exists()
