"""What a run says to those who serve it: when it is not sure, what is strange, what each threshold costs."""

import io
import json
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from test_eval import copy, run, tell  # noqa: F401

from hub_utils.export import extend_serving, save_serving, serving_facts
from hub_utils.portable.activation_maps import Features
from hub_utils.portable.classifier import load_classifier
from hub_utils.portable.strangeness import strangeness
from hub_utils.scan import scan
from training.data.images import open_rgb
from training.data.source import Folder
from training.data.splits import read_splits
from training.fitting.fit import fit
from training.fitting.folds import fit_folds
from training.recipe import Card, Linear, Recipe, Stage, UserError, load_recipe
from training.results.evaluation import THRESHOLDS, evaluate_split, operating_curve
from training.results.serving import SURE, as_lines, familiar, not_sure, positive_classes
from training.run_folder import FoldsFolder, RunFolder, read_json


def answers(images: int, seed: int = 0, classes: int = 4, power: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are as sure as they are right, and labels drawn by them."""
    draw = np.random.default_rng(seed)
    probabilities = draw.dirichlet([0.3 / power] * classes, images)
    labels = np.array([draw.choice(classes, p=row) for row in probabilities])
    return probabilities, labels


def shares(probabilities, labels, threshold: float) -> tuple[float, float]:
    """Mistakes among all, and among what is answered."""
    wrong = probabilities.argmax(axis=1) != labels
    return wrong.mean(), wrong[probabilities.max(axis=1) >= threshold].mean()


def test_the_threshold_halves_the_mistakes_and_is_the_lowest_that_does():
    probabilities, labels = answers(400)
    found = not_sure(probabilities, labels)
    assert "lowest that halves the share of mistakes among the answers" in found["rule"]
    before, after = shares(probabilities, labels, found["threshold"])
    assert before > 0.1 and after <= before / 2
    assert found["accuracy_all"] == pytest.approx(1 - before) and found["accuracy_answered"] == pytest.approx(1 - after)
    assert found["images"] == 400 and 0.5 <= found["answered"] < 1 and found["split"] == "validation"
    tops = np.sort(probabilities.max(axis=1))
    for lower in tops[tops < found["threshold"]]:
        assert shares(probabilities, labels, lower)[1] > before / 2
    fresh = answers(20_000, seed=1)
    assert shares(*fresh, found["threshold"])[1] < 0.65 * shares(*fresh, found["threshold"])[0]


def test_where_few_mistakes_were_made_those_to_be_expected_count():
    probabilities, labels = answers(150, power=6)
    probabilities[:5] = [[0.4, 0.3, 0.2, 0.1]] * 5
    labels = probabilities.argmax(axis=1)
    found = not_sure(probabilities, labels)
    assert "probabilities let expect" in found["rule"] and "none were made" in found["rule"]
    assert 0.4 < found["threshold"] <= SURE and found["accuracy_all"] == 1
    labels[:2] = 3
    assert "the 2 made are too few to count" in not_sure(probabilities, labels)["rule"]


def test_a_probability_that_everybody_calls_sure_is_sure():
    probabilities = np.full((1000, 2), 0.001)
    probabilities[:, 0] = 0.999
    probabilities[:50] = [0.97, 0.03]
    labels = np.zeros(1000, int)
    labels[:20] = 1
    found = not_sure(probabilities, labels)
    assert found["threshold"] == SURE and found["answered"] == 1 and "would have to be 0.999" in found["rule"]


@pytest.mark.parametrize("case", ["few", "surest seldom right"])
def test_where_no_threshold_can_be_told_it_is_one_half(case):
    probabilities, labels = answers(19 if case == "few" else 200)
    if case == "surest seldom right":
        surest, half = probabilities.max(axis=1) > 0.8, np.arange(200) % 2 == 0
        labels = np.where(surest & half, probabilities.argmin(axis=1), probabilities.argmax(axis=1))
    found = not_sure(probabilities, labels)
    assert found["threshold"] == 0.5 and "one half" in found["rule"]
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("case", ["all alike", "surest wrong"])
def test_where_one_half_tells_nothing_either_there_is_a_reason(case):
    probabilities, labels = answers(200)
    if case == "all alike":
        probabilities[:] = [0.4, 0.3, 0.2, 0.1]
    else:
        labels = np.where(probabilities.max(axis=1) > 0.5, probabilities.argmin(axis=1), probabilities.argmax(axis=1))
    found = not_sure(probabilities, labels)
    assert set(found) == {"split", "images", "reason"}
    assert as_lines({"not_sure": found, "strangeness": {}}) == [
        f"warning    not known when it is not sure: {found['reason']}"
    ]


def test_without_images_there_is_a_reason_and_a_class_that_is_never_predicted_is_no_trouble():
    assert set(not_sure(np.empty((0, 3)), np.empty(0, int))) == {"reason"}
    probabilities, labels = answers(300)
    seldom = np.concatenate([probabilities * 0.9, np.full((300, 1), 0.1)], axis=1)
    labels[:30] = 4
    found = not_sure(seldom, labels)
    assert found["accuracy_answered"] > found["accuracy_all"]


@pytest.mark.parametrize("images", [49, 99, 150, 1000])
def test_of_further_pictures_one_in_fifty_is_called_strange_at_most(images):
    draw = np.random.default_rng(images)
    shares = []
    for _ in range(400):
        found = familiar({}, draw.gamma(5, size=images))
        shares.append((draw.gamma(5, size=400) > found["threshold"]).mean())
        assert found["share_below"] >= 0.98 * images / (images + 1) and "reason" not in found
    assert 0.25 / 50 < np.mean(shares) < 1.15 / 50


def test_of_few_validation_images_there_are_statistics_and_no_threshold():
    found = familiar({"method": "m"}, np.ones(48))
    assert found["method"] == "m" and found["threshold"] is None
    assert found["reason"] == "48 validation images are too few for a threshold; 49 are needed"
    assert familiar({}, np.full(60, np.inf))["reason"] == "the features of validation images are not finite numbers"


# Which classes are looked for


def test_the_recipe_says_which_classes_are_looked_for():
    cells = ["Benign", "[Malignant] Pre-B", "[Malignant] Pro-B", "[Malignant] early Pre-B"]
    assert positive_classes(vars(load_recipe("leukemia").card), cells) == cells[1:]
    assert positive_classes(vars(load_recipe("breast_cancer").card), ["benign", "malignant"]) == ["malignant"]
    assert positive_classes(vars(load_recipe("flowers").card), ["daisy", "rose"]) == []
    assert positive_classes({"medical": True}, ["ill", "well"]) == ["well"]
    assert positive_classes({"medical": True, "positive": ("ill",)}, ["ill", "well"]) == ["ill"]
    assert positive_classes({"medical": True}, ["a", "b", "c"]) == []


def test_a_class_that_is_not_there_and_all_of_them_are_refused():
    with pytest.raises(UserError, match="looks for the class 'ill', and there are sick, well; correct `positive`"):
        positive_classes({"positive": ("ill",)}, ["sick", "well"])
    with pytest.raises(UserError, match="all classes"):
        positive_classes({"positive": ("sick", "well")}, ["sick", "well"])
    with pytest.raises(ValueError, match="a tuple of class names"):
        Card(positive="malignant")


def test_a_class_that_is_not_there_is_told_before_training(photos, tiny_resnet, tmp_path):
    stage = Stage(name="all", arguments={"num_train_epochs": 1})
    values = {"base_model": str(tiny_resnet), "head": (Linear(),), "stages": (stage,)}
    recipe = Recipe(title="t", name="t", card=Card(positive=("malignant",)), **values)
    with redirect_stdout(io.StringIO()):
        with pytest.raises(UserError, match="looks for the class 'malignant', and there are blue, green, red"):
            fit(recipe, Folder(photos), RunFolder(tmp_path / "run"))
        with pytest.raises(UserError, match="looks for the class 'malignant'"):
            fit_folds(recipe, Folder(photos), FoldsFolder(tmp_path / "folds"), 2)
    assert not (tmp_path / "run").exists() and not (tmp_path / "folds").exists()


# The operating curve


def test_the_curve_is_counted_by_hand_and_sums_the_positive_classes():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.05, 0.9, 0.05], [0.6, 0.2, 0.2], [0.9, 0.05, 0.05]])
    labels = np.array([0, 1, 2, 2, 0])
    curve = operating_curve(labels, probabilities, ["a", "b", "c"], list("01234"), ["c", "b"])
    assert curve["positive"] == ["b", "c"] and curve["negative"] == ["a"]
    assert (curve["images"], curve["groups"]) == (5, 5)
    points = {point["threshold"]: point for point in curve["points"]}
    assert list(points) == list(THRESHOLDS) and 95 <= len(points) <= 110
    at = {
        t: (points[t]["sensitivity"]["value"], points[t]["specificity"]["value"]) for t in (0.05, 0.2, 0.35, 0.5, 0.99)
    }
    # Of b and c together the five have .3, .7, .95, .4 and .1.
    third = pytest.approx(2 / 3)
    assert at == {0.05: (1, 0), 0.2: (1, 0.5), 0.35: (1, 1), 0.5: (third, 1), 0.99: (0, 1)}
    low, high = points[0.5]["sensitivity"]["interval"]
    assert 0.15 < low < 2 / 3 < high < 0.99 and points[0.5]["sensitivity"]["method"] == "Wilson"
    json.dumps(curve, allow_nan=False)


def test_what_belongs_together_widens_the_intervals_of_the_curve():
    probabilities, labels = answers(120, classes=2)

    def width(groups: list[str]) -> float:
        points = operating_curve(labels, probabilities, ["a", "b"], groups, ["b"])["points"]
        low, high = next(each for each in points if each["threshold"] == 0.5)["sensitivity"]["interval"]
        return high - low

    assert width([str(n // 10) for n in range(120)]) > width([str(n) for n in range(120)])


def test_without_a_positive_image_the_curve_says_so():
    probabilities, _ = answers(20, classes=2)
    point = operating_curve(np.zeros(20, int), probabilities, ["a", "b"], [str(n) for n in range(20)], ["b"])["points"][
        0
    ]
    assert point["sensitivity"] == {"value": None, "interval": None, "reason": "no image of the positive class"}
    assert point["specificity"]["value"] is not None


def test_of_two_classes_the_first_may_be_the_one_that_is_looked_for():
    """The same images with the classes in the other order give the same figures, and the curve passes through them."""
    probabilities, labels = answers(80, classes=2)
    groups = [str(n) for n in range(80)]
    first = evaluate_split(labels, probabilities, ["ill", "well"], groups, threshold=0.3, positive=0)
    other = evaluate_split(1 - labels, probabilities[:, ::-1], ["well", "ill"], groups, threshold=0.3)
    assert first["positive"] == other["positive"] == "ill"
    assert first["operating_points"] == other["operating_points"]
    for name in ("accuracy", "roc_auc", "average_precision", "sensitivity", "specificity", "log_loss"):
        assert first["metrics"][name] == other["metrics"][name]
    point = first["operating_points"]["at_95_sensitivity"]
    curve = operating_curve(labels, probabilities, ["ill", "well"], groups, ["ill"])["points"]
    assert point in curve


# The whole way


def strange_of(folder, paths) -> np.ndarray:
    """Scores by hand: the folder's network, preprocessing and statistics."""
    classifier = load_classifier(folder)
    pixels = [classifier.preprocess(open_rgb(path.read_bytes()))["pixel_values"] for path in paths]
    with torch.inference_mode():
        features = Features(classifier.model)(torch.cat(pixels))[1].numpy()
    return strangeness(features, serving_facts(folder)["strangeness"])


def test_training_and_evaluation_leave_all_of_it(run):  # noqa: F811
    trained = serving_facts(run.path)
    assert set(trained) == {"weights_sha256", "golden", "not_sure", "strangeness"}
    golden, before = trained["golden"], trained["strangeness"]
    weights = run.weights.read_bytes()
    tell(run)
    found = serving_facts(run.path)
    assert set(found) - {"precision"} == {*trained, "floors", "operating_curve"} and found["golden"] == golden
    assert run.weights.read_bytes() == weights
    assert found["floors"] == read_json(run.test_results)["floors"]
    assert found["operating_curve"]["reason"]  # no class of colours is looked for
    assert found["strangeness"]["axes"] == before["axes"]
    assert found["not_sure"]["threshold"] == pytest.approx(trained["not_sure"]["threshold"], abs=1e-4)
    photos = json.loads(run.data.read_text())["data_dir"]
    rows = [row for row in read_splits(run.splits) if row.split == "train"]
    assert (strange_of(run.path, [Path(photos) / row.path for row in rows]) < 1).all()


def test_evaluation_adds_what_an_older_run_lacks(run):  # noqa: F811
    there = serving_facts(run.path)
    (run.path / "serving.json").unlink()
    tell(run)
    found = serving_facts(run.path)
    assert found["golden"] == there["golden"]
    assert found["strangeness"]["axes"] == there["strangeness"]["axes"]
    assert {"not_sure", "strangeness", "floors", "operating_curve"} <= set(found)
    assert not [*run.path.glob(".serving*")]


def test_of_a_run_whose_training_images_are_gone_the_reason_is_told(run):  # noqa: F811
    (run.path / "serving.json").unlink()
    photos = Path(json.loads(run.data.read_text())["data_dir"])
    for row in read_splits(run.splits):
        if row.split == "train":
            (photos / row.path).unlink()
    tell(run)
    found = serving_facts(run.path)
    assert found["strangeness"] == {"reason": "0 training images are too few to say what is strange; 20 are needed"}
    assert "threshold" in found["not_sure"]


def test_an_onnx_file_without_features_is_written_anew_and_told(run):  # noqa: F811
    import onnx

    model = onnx.load(run.onnx)
    del model.graph.output[-1]
    onnx.save(model, run.onnx)
    weights = run.weights.read_bytes()
    assert "onnx/model.onnx anew: it did not give the features" in tell(run).replace("\\", "/")
    assert [output.name for output in onnx.load(run.onnx).graph.output][-1] == "features"
    assert run.weights.read_bytes() == weights
    assert "anew" not in tell(run)


def test_facts_are_added_whole_or_not_at_all(colours, tmp_path):
    for name in ("config.json", "model.safetensors", "preprocessor_config.json", "serving.json"):
        shutil.copy(colours.path / name, tmp_path)
    there = serving_facts(tmp_path)
    extend_serving(tmp_path, {"floors": 1})
    assert serving_facts(tmp_path) == {**there, "floors": 1}
    with pytest.raises(ValueError, match="JSON compliant"):
        extend_serving(tmp_path, {"floors": float("nan")})
    assert serving_facts(tmp_path) == {**there, "floors": 1}
    assert not [*tmp_path.glob(".serving*")]
    (tmp_path / "serving.json").write_text(json.dumps({**there, "weights_sha256": "0" * 64, "floors": 2}))
    assert serving_facts(tmp_path) == {}
    extend_serving(tmp_path, {"not_sure": 3})  # of other weights nothing stays
    assert serving_facts(tmp_path) == {**{key: there[key] for key in ("weights_sha256", "golden")}, "not_sure": 3}
    save_serving(tmp_path, {"not_sure": 4})
    assert serving_facts(tmp_path)["not_sure"] == 4


def test_the_statistics_are_no_secret_and_name_no_image(run):  # noqa: F811
    """By chance base64 holds every short name, and what a key begins with."""
    with run.splits.open("a", encoding="utf-8") as file:
        file.write("more/a12.jpg," + "ab" * 32 + ",red,train,\n")
    facts = serving_facts(run.path)
    facts["strangeness"]["axes"] = "A" * 200 + "/a12/AIza" + "x" * 35 + "AKIA" + "A" * 300
    assert scan({"serving.json": json.dumps(facts, indent=2).encode()}, run.path) == []
    beside = json.dumps(facts | {"note": "a12"}, indent=2).encode()
    assert len(scan({"serving.json": beside}, run.path)) == 1
    assert scan({"config.json": json.dumps(facts, indent=2).encode()}, run.path)
