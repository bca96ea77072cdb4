"""The temperature: found again where it is known, and never far off where little is."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from training.results.calibration import fit_temperature


def simulated(images: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are calibrated once divided by `temperature`, and labels drawn by them."""
    draw = np.random.default_rng(seed)
    logits = 2 * draw.normal(size=(images, 5))
    labels = np.array([draw.choice(5, p=row) for row in softmax(logits, axis=1)])
    return logits * temperature, labels


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


@pytest.mark.parametrize("temperature", [0.4, 1, 1.7, 5])
def test_a_known_temperature_is_found(temperature):
    assert fit_temperature(*simulated(5_000, temperature)) == pytest.approx(temperature, rel=0.04)


def test_what_is_too_sure_loses_less_on_other_images():
    temperature = fit_temperature(*simulated(500, 2.5))
    logits, labels = simulated(2_000, 2.5, seed=1)
    assert log_loss(logits / temperature, labels) < log_loss(logits, labels) - 0.2


def test_all_right_does_not_drive_it_to_nothing():
    """Without the prior T would end at its bound: the smaller, the less the loss."""
    logits, labels = np.tile(2 * np.eye(3), (20, 1)), np.tile(np.arange(3), 20)
    assert 0.2 < fit_temperature(logits, labels) < 1
    assert 0.05 < fit_temperature(np.tile(logits, (100, 1)), np.tile(labels, 100)) < 0.5


def test_all_wrong_stays_within_the_bounds():
    logits, labels = np.tile([[50.0, 0.0]], (100, 1)), np.ones(100, int)
    assert 1 < fit_temperature(logits, labels) <= 20


def test_one_class_missing_one_image_and_none():
    logits, labels = simulated(300, 1.5)
    assert 1 < fit_temperature(logits[labels != 2], labels[labels != 2]) < 3
    assert fit_temperature(np.array([[2.0, 0.0]]), np.array([0])) == 1
    assert fit_temperature(np.empty((0, 3)), np.empty(0, int)) == pytest.approx(1, abs=1e-4)
    assert fit_temperature(np.array([[3.0], [-1.0]]), np.array([0, 0])) == pytest.approx(1, abs=1e-4)


def test_half_precision_and_large_logits():
    logits, labels = simulated(1_000, 2)
    assert fit_temperature(logits.astype(np.float16), labels) == pytest.approx(
        fit_temperature(logits, labels), rel=0.01
    )
    assert np.isfinite(fit_temperature(logits * 1e4, labels))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_infinite_logits_are_refused(value):
    with pytest.raises(ValueError, match="finite"):
        fit_temperature(np.array([[0.0, value]]), np.array([0]))


@pytest.mark.parametrize(
    ("logits", "labels", "says"),
    [
        (np.zeros((2, 3)), np.array([0]), r"\(2, 3\) do not go with labels of shape \(1,\)"),
        (np.zeros(3), np.array([0, 1, 2]), "do not go"),
        (np.zeros((2, 3)), np.array([0, 3]), "labels from 0 to 3 are not all among 3 classes"),
        (np.zeros((2, 3)), np.array([-100, 1]), "labels from -100 to 1"),
    ],
)
def test_what_does_not_go_together_is_refused(logits, labels, says):
    with pytest.raises(ValueError, match=says):
        fit_temperature(logits, labels)


def test_what_a_few_images_do_not_ask_for_is_left_alone():
    """Of one free number chance gains more than a nat once in six: twice the gain is chi-squared."""
    found = [fit_temperature(*simulated(72, 1.0, seed=seed)) for seed in range(60)]
    assert 45 <= found.count(1.0) < 60
