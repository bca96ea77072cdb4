"""Accuracy, macro F1 and cross-entropy, against cases counted by hand."""

import math

import numpy as np
import pytest
from transformers import EvalPrediction

from training.results.metrics import classification_metrics, compute_metrics


def one_hot(predicted: list[int], classes: int, height: float = 10.0) -> np.ndarray:
    """Logits that are all but sure of `predicted`."""
    return np.eye(classes, dtype=np.float32)[predicted] * height


def test_four_of_six_by_hand():
    """Class 0: 2 right of 3 said and 3 true, F1 2/3; class 1: 1 of 2 and 2, 1/2; class 2: 1 of 1 and 1, 1."""
    metrics = classification_metrics(one_hot([0, 0, 1, 1, 0, 2], 3), np.array([0, 0, 0, 1, 1, 2]))
    assert metrics["accuracy"] == pytest.approx(4 / 6)
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    sure, wrong = -math.log(math.e**10 / (math.e**10 + 2)), -math.log(1 / (math.e**10 + 2))
    assert metrics["loss"] == pytest.approx((4 * sure + 2 * wrong) / 6)


def test_the_loss_is_in_nats_and_of_each_image_once():
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], dtype=np.float32))
    metrics = classification_metrics(logits, np.array([0, 2]))
    assert metrics["loss"] == pytest.approx((math.log(2) + math.log(10)) / 2)
    assert metrics["accuracy"] == 0.5


def test_one_confident_mistake_costs_its_margin_and_no_infinity():
    assert classification_metrics(np.array([[1000.0, 0.0]]), np.array([1]))["loss"] == pytest.approx(1000.0)


def test_logits_count_and_not_their_level():
    draw = np.random.default_rng(0)
    logits, labels = draw.normal(size=(20, 4)).astype(np.float32), draw.integers(0, 4, 20)
    moved = classification_metrics(logits + 100, labels)
    assert moved == pytest.approx(classification_metrics(logits, labels), abs=1e-5)


def test_half_precision_is_measured_in_double():
    logits = np.full((3, 2), 0.1, dtype=np.float16)
    assert classification_metrics(logits, np.array([0, 1, 0]))["loss"] == pytest.approx(math.log(2), abs=1e-12)


def test_all_right_is_one_even_where_a_class_has_no_image():
    metrics = classification_metrics(one_hot([0, 1, 1], 4), np.array([0, 1, 1]))
    assert (metrics["accuracy"], metrics["macro_f1"]) == (1.0, 1.0)


def test_a_class_that_is_said_and_never_true_counts_as_nothing():
    metrics = classification_metrics(one_hot([0, 2], 3), np.array([0, 0]))
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_trainer_gets_plain_numbers_by_the_same_names():
    logits, labels = one_hot([0, 1], 2), np.array([0, 0])
    metrics = compute_metrics(EvalPrediction(logits, labels))
    assert metrics == classification_metrics(logits, labels)
    assert {type(value) for value in metrics.values()} == {float}
