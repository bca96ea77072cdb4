"""Golden images are the same bytes everywhere, and their answers tell one preprocessing from another."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from test_export import FORMS, saved, trained  # noqa: F401

from hub_utils.export import save_deployable, save_serving
from hub_utils.portable.classifier import classes_of, load_classifier
from hub_utils.portable.golden import FORMULA, SIZES, golden_images, weights_sha256

DIGEST = "2bda971db22abbf143bd95f526aadc47e5a8c7ce735ba09554c621bab37eeb4a"


def serving_of(folder) -> dict:
    return json.loads((folder / "serving.json").read_text(encoding="utf-8"))


def test_the_images_are_these_bytes_and_no_others():
    """Who changes a byte changes `FORMULA` as well: answers that were stored with the old one are not of these."""
    digest = hashlib.sha256()
    for name, image in golden_images().items():
        digest.update(f"{name} {image.mode} {image.size}".encode() + image.tobytes())
    assert (FORMULA, digest.hexdigest()) == ("discs-1", DIGEST)


def test_they_are_of_many_shapes_and_full_of_colours():
    images = golden_images()
    assert {name: image.size for name, image in images.items()} == SIZES
    assert {image.mode for image in images.values()} == {"RGB", "L"}
    sides = [side for size in SIZES.values() for side in size]
    assert min(sides) < 64 and max(sides) > 448
    assert {width > height for width, height in SIZES.values()} == {True, False}
    for image in images.values():
        pixels = np.asarray(image).astype(int)
        assert len(np.unique(pixels)) > 100  # gradients
        assert (np.abs(np.diff(pixels, axis=1)) > 100).mean() > 0.005  # edges


@pytest.mark.parametrize("form", FORMS)
def test_serving_json_holds_what_pipeline_answers_and_whose_weights_they_are(form, saved):  # noqa: F811
    save_serving(saved[form])
    serving, classifier = serving_of(saved[form]), load_classifier(saved[form])
    assert serving["weights_sha256"] == weights_sha256(saved[form])
    assert serving["golden"]["formula"] == FORMULA
    assert serving["golden"]["labels"] == classes_of(classifier)
    images, labels = golden_images(), classes_of(classifier)
    assert [(each["name"], tuple(each["size"])) for each in serving["golden"]["images"]] == list(SIZES.items())
    for each in serving["golden"]["images"]:
        said = {answer["label"]: answer["score"] for answer in classifier(images[each["name"]], top_k=None)}
        assert dict(zip(labels, each["probabilities"], strict=True)) == pytest.approx(said, abs=1e-5)


MISTAKES = {
    "another way to resample": {"resample": 3},
    "another crop": {"crop_pct": 0.8},
    "another size": {"size": {"shortest_edge": 30}},
    "another mean": {"image_mean": [0.485, 0.456, 0.406]},
    "another deviation": {"image_std": [0.229, 0.224, 0.225]},
    "no normalisation": {"do_normalize": False},
    "no scaling to 1": {"rescale_factor": 1.0},
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_preprocessing_shows_in_the_answers(mistake, colours, tmp_path):
    for name in ("config.json", "model.safetensors", "preprocessor_config.json", "serving.json"):
        shutil.copy(colours.path / name, tmp_path)
    assert off(tmp_path) < 1e-5
    config = tmp_path / "preprocessor_config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    assert all(values.get(name, None) != value for name, value in MISTAKES[mistake].items())
    config.write_text(json.dumps(values | MISTAKES[mistake]), encoding="utf-8")
    assert off(tmp_path) > 1e-3


def test_colours_in_another_order_show_in_the_answers(colours):
    assert off(colours.path, lambda image: Image.merge("RGB", image.convert("RGB").split()[::-1])) > 1e-3


def off(folder, change=lambda image: image) -> float:
    """How far the folder's answers are from the stored ones at most."""
    classifier, images = load_classifier(folder), golden_images()
    labels, found = classes_of(classifier), []
    for each in serving_of(folder)["golden"]["images"]:
        said = {answer["label"]: answer["score"] for answer in classifier(change(images[each["name"]]), top_k=None)}
        found.append(np.abs(np.array([said[label] for label in labels]) - each["probabilities"]).max())
    return max(found)


def test_other_keys_stay_while_the_weights_are_the_same_and_go_with_them(trained, tmp_path):  # noqa: F811
    save_deployable(*trained["native"], tmp_path)
    save_serving(tmp_path)
    first = serving_of(tmp_path)
    (tmp_path / "serving.json").write_text(json.dumps(first | {"thresholds": [0.5], "golden": "lost"}))
    save_serving(tmp_path)
    assert serving_of(tmp_path) == first | {"thresholds": [0.5]}
    save_deployable(*trained["native"], tmp_path, temperature=2.0)
    assert not (tmp_path / "serving.json").exists()  # it was of other weights
    (tmp_path / "serving.json").write_text(json.dumps(first | {"thresholds": [0.5]}))
    save_serving(tmp_path)
    second = serving_of(tmp_path)
    assert set(second) == {"weights_sha256", "golden"} and second["weights_sha256"] != first["weights_sha256"]
    (tmp_path / "serving.json").write_text("{cut off")
    save_serving(tmp_path)
    assert serving_of(tmp_path) == second
    assert not [*tmp_path.glob(".*")]
