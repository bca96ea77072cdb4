"""The comparison with people's space of rocks: figures whose answer is known, and the command on made-up rocks."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import help_of, write_photo
from PIL import Image
from scipy.stats import ortho_group, pearsonr

from hub_utils.portable.classifier import load_classifier, logits_of
from training.data.images import open_rgb
from training.data.source import Folder
from training.fitting.fit import fit
from training.recipe import BatchNorm, Linear, ReLU, Stage, UserError
from training.recipes.rocks import recipe as rocks
from training.results.embedding import choose_layer, embed, layers
from training.results.similarity import (
    DIMENSIONS,
    REFERENCES,
    _held_out,
    beside_chance,
    check_published,
    compare,
    find_rocks,
    read_human,
    table,
    to_width,
)
from training.rocks_similarity import main
from training.run_folder import RunFolder

CLASSES = {"I_Andesite": 0.0, "M_Marble": 0.3, "S_Rock Gypsum": 0.6}
A_CLASS = {"360": 6, "120": 3}


def points(rocks: int, seed: int, width: int = 8) -> np.ndarray:
    """Places as uneven as people's: the first dimensions spread most."""
    return np.random.default_rng(seed).standard_normal((rocks, width)) * np.linspace(3, 1, width)


def turned(human: np.ndarray, mirrored: bool = False) -> np.ndarray:
    """The same places in other axes, larger and elsewhere."""
    turn = ortho_group.rvs(human.shape[1], random_state=3)
    if (np.linalg.det(turn) < 0) != mirrored:
        turn[0] *= -1
    return 7.5 * human @ turn + np.linspace(-40, 90, human.shape[1])


def write_points(path, values: np.ndarray) -> None:
    np.savetxt(path, values, fmt="%8.3f")


@pytest.fixture(scope="module")
def stones(tmp_path_factory):
    """Made-up rocks in the layout and the names of the published ones, and people's files beside them."""
    folder = tmp_path_factory.mktemp("stones") / "data"
    for index, (name, hue) in enumerate(CLASSES.items()):
        for number in range(1, A_CLASS["360"] + 1):
            write_photo(folder / "360 Rocks" / f"{name}_{number:02}.jpg", hue, index * 100 + number)
        for number in range(1, A_CLASS["120"] + 1):
            typo = "1" if (name, number) == ("M_Marble", 3) else ""
            write_photo(folder / "120 Rocks" / f"{name}_{number}_120{typo}.jpg", hue, index * 100 + 50 + number)
    shutil.copy(folder / "360 Rocks" / "I_Andesite_01.jpg", folder / "360 Rocks" / "I_Andesite_05.jpg")
    (folder / "human").mkdir()
    for name, count in A_CLASS.items():
        write_points(folder / "human" / f"mds_{name}.txt", points(3 * count, 5))
    return folder


@pytest.fixture(scope="module")
def trained(stones, tiny_resnet, tmp_path_factory):
    """A run on them, with hidden layers of 12 and 8 units."""
    run = tmp_path_factory.mktemp("runs") / "rocks"
    head = (BatchNorm(), Linear(12), ReLU(), Linear(8), ReLU(), Linear())
    stage = Stage(name="all", batch_size=8, arguments={"num_train_epochs": 2, "learning_rate": 1e-2})
    recipe = replace(rocks, base_model=str(tiny_resnet), head=head, stages=(stage,))
    fit(recipe, Folder(stones), RunFolder(run))
    return run


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))


# The figures


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_same_space_in_other_axes_is_alike_in_full(mirrored):
    human = points(40, 1)
    found = compare(human, turned(human, mirrored))
    assert found.disparity == pytest.approx(0, abs=1e-12)
    assert found.r == pytest.approx(np.ones(8)) and found.mean_r == pytest.approx(1)


def test_r_is_pearsons_in_each_dimension_after_procrustes():
    from scipy.spatial import procrustes

    human, network = points(40, 1), points(40, 1) + 2 * points(40, 2)
    fixed, fitted, disparity = procrustes(human, network)
    found = compare(human, network)
    assert found.disparity == disparity and 0.1 < disparity < 0.9
    assert found.r == pytest.approx([pearsonr(fixed[:, place], fitted[:, place])[0] for place in range(8)])
    assert found.mean_r == pytest.approx(found.r.mean())


def test_a_dimension_about_which_nothing_is_said_has_no_r():
    human = np.kron(np.eye(8), [[1.0], [-1.0]])  # no two dimensions have a rock in common
    network = human.copy()
    network[:, 3] = 0
    assert np.isnan(compare(human, network).r[3]) and np.nansum(compare(human, network).r) == pytest.approx(7)
    found = beside_chance(human, network, draws=20)
    assert found["r"]["shininess"]["value"] is None and found["r"]["shininess"]["random"]["p"] is None
    assert found["mean_r"]["value"] is None and found["r"]["hue"]["value"] == pytest.approx(1)
    lines = [line.split() for line in table("360", {**found, "splits": {}})]
    assert {line[0]: line[1] for line in lines}["shininess"] == "–"
    json.dumps(found, allow_nan=False)


def test_a_related_space_is_told_from_chance_and_an_unrelated_one_is_not():
    human = points(60, 1)
    related = beside_chance(human, turned(human + points(60, 2)), draws=199)
    for figure in (related["disparity"], related["mean_r"]):
        assert figure["random"]["p"] == figure["permuted"]["p"] == 1 / 200
    assert related["disparity"]["value"] < related["disparity"]["permuted"]["percentile_5"]
    assert related["mean_r"]["value"] > related["mean_r"]["permuted"]["percentile_95"]
    p = [beside_chance(human, points(60, seed), 99)["mean_r"]["permuted"]["p"] for seed in range(10, 30)]
    assert 0.3 < np.mean(p) < 0.7 and min(p) < 0.3 and max(p) > 0.7


def test_chance_finds_the_likeness_that_procrustes_always_finds():
    human = points(360, 1)
    found = beside_chance(human, points(360, 2), draws=100)
    for null in ("random", "permuted"):
        assert 0.1 < found["mean_r"][null]["mean"] < found["mean_r"][null]["percentile_95"] < 0.2
        assert 1 > found["disparity"][null]["mean"] > found["disparity"][null]["percentile_5"] > 0.9
    assert found == beside_chance(human, points(360, 2), draws=100)


def test_rocks_in_another_order_are_no_longer_alike():
    human = points(60, 1)
    assert compare(human, turned(human)[::-1]).mean_r < 0.4


def test_a_wide_layer_keeps_its_first_eight_principal_components():
    human = points(40, 1)
    wide = human @ ortho_group.rvs(20, random_state=1)[:8] + 5
    reduced, kept = to_width(wide)
    assert reduced.shape == (40, 8) and kept == pytest.approx(1)
    assert np.diff(reduced.var(axis=0)).max() <= 0
    assert compare(human, reduced).disparity == pytest.approx(0, abs=1e-12)
    faint = np.random.default_rng(2).standard_normal((40, 12)) * 0.1
    reduced, kept = to_width(np.hstack([wide, faint]))
    assert 0.9 < kept < 1 and compare(human, reduced).mean_r > 0.99


def test_a_layer_of_eight_stays_and_a_narrow_one_is_filled_up():
    human = points(40, 1)
    assert to_width(human)[0] is not human and (to_width(human)[0] == human).all()
    filled, kept = to_width(human[:, :3])
    assert (filled[:, :3] == human[:, :3]).all() and (filled[:, 3:] == 0).all() and kept == 1
    found = beside_chance(human, human[:, :3], draws=99)
    assert found["width"] == 3 and found["mean_r"]["random"]["p"] == 0.01
    assert found["disparity"]["random"]["mean"] > 0.9


# People's files, and the images


def test_images_are_in_the_order_of_their_whole_names_also_copies(stones, tmp_path):
    found = find_rocks(stones, rocks.data, read_human(stones / "human"))
    names = [path.name for path, _ in found["360"]]
    assert names[0] == "I_Andesite_01.jpg" and names[-1] == "S_Rock Gypsum_06.jpg" and names == sorted(names)
    assert [label for _, label in found["360"]] == ["Andesite"] * 6 + ["Marble"] * 6 + ["Rock Gypsum"] * 6
    assert [path.name for path, _ in found["120"]][3:6] == [
        f"M_Marble_{end}.jpg" for end in ("1_120", "2_120", "3_1201")
    ]
    together = tmp_path / "one folder"
    together.mkdir()
    for path in stones.glob("*/*.jpg"):
        shutil.copy(path, together)
    again = find_rocks(together, rocks.data, read_human(stones / "human"))
    assert [path.name for path, _ in again["360"]] == names


def test_a_rock_too_few_or_all_twice_are_refused(stones, tmp_path):
    human = read_human(stones / "human")
    folder = shutil.copytree(stones, tmp_path / "rocks")
    (folder / "120 Rocks" / "I_Andesite_2_120.jpg").unlink()
    with pytest.raises(UserError, match=r"holds 8 images of the 120 rocks, mds_120.txt 9 rows; .*--data_dir"):
        find_rocks(folder, rocks.data, human)
    shutil.copytree(stones / "360 Rocks", folder / "copy" / "360 Rocks")
    with pytest.raises(UserError, match=r"holds 36 images of the 360 rocks, mds_360\.txt 18 rows"):
        find_rocks(folder, rocks.data, human)
    with pytest.raises(UserError, match="does not exist"):
        find_rocks(tmp_path / "nowhere", rocks.data, human)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"mds_120.txt' cannot be read \(No such file"),
        ("", "different, finite places"),
        ("1 2 3 4 5 6 7 8\n" * 3, "different, finite places"),
        ("1 2 3 4 5 6 7 nan\n8 7 6 5 4 3 2 1\n", "different, finite places"),
        ("1 2 3 4 5 6 7 8\n1 2 3 4 5 6 7\n", r"no table of 8 numbers a row \(lightness, .*row 2 has 7"),
        ("lightness grain a b c d e f\n", "could not convert string"),
        ("1,2,3,4,5,6,7,8\n", "row 1 has 1"),
    ],
)
def test_peoples_files_are_held_against_what_they_should_be(content, message, tmp_path):
    write_points(tmp_path / "mds_360.txt", points(5, 1))
    if content is not None:
        (tmp_path / "mds_120.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        read_human(tmp_path)


# The network


def test_every_layer_is_what_the_network_computes(run, stones):
    classifier = load_classifier(run)
    paths = sorted(stones.glob("120 Rocks/*.jpg"))
    assert list(layers(classifier.model)) == ["features", "linear1", "relu1", "linear2", "relu2", "logits"]
    found = {name: embed(classifier, paths, name) for name in layers(classifier.model)}
    assert [values.shape for values in found.values()] == [(9, width) for width in (16, 12, 12, 8, 8, 3)]
    images = [open_rgb(path) for path in paths]
    assert found["logits"] == pytest.approx(np.stack(list(logits_of(classifier, images))), abs=1e-5)
    pixels = torch.cat([classifier.preprocess(image)["pixel_values"] for image in images])
    with torch.inference_mode():
        assert found["features"] == pytest.approx(classifier.model.features(pixels).numpy(), abs=1e-5)
    for number in (1, 2):
        assert (found[f"relu{number}"] == np.maximum(found[f"linear{number}"], 0)).all()
    assert choose_layer(classifier.model, None) == "relu2"
    assert not any(module._forward_pre_hooks for module in classifier.model.modules())


@pytest.mark.parametrize(("base", "width"), [("tiny_resnet", 16), ("tiny_timm", 96)])
def test_with_one_linear_layer_the_next_to_last_is_the_pooled_features(base, width, stones, request):
    classifier = load_classifier(request.getfixturevalue(base))
    paths = sorted(stones.glob("120 Rocks/*.jpg"))[:3]
    assert list(layers(classifier.model)) == ["features", "logits"]
    assert choose_layer(classifier.model, None) == "features"
    assert embed(classifier, paths, "features").shape == (3, width)
    logits = np.stack(list(logits_of(classifier, [open_rgb(path) for path in paths])))
    assert embed(classifier, paths, "logits") == pytest.approx(logits, abs=1e-5)


# The command


def test_the_command_writes_figures_and_plot_and_tells_them(run, stones, capsys):
    assert main([str(run), "--human", str(stones / "human")]) == 0
    found = json.loads((run / "rocks_similarity.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert (found["layer"], found["draws"], len(found["published"])) == ("relu2", 1000, len(REFERENCES))
    assert found["sets"]["360"]["splits"]["train"] + found["sets"]["360"]["splits"]["validation"] == 18
    assert found["sets"]["120"]["splits"] == {"test": 9}
    for name, part in found["sets"].items():
        assert part["rocks"] == 3 * A_CLASS[name] and list(part["r"]) == list(DIMENSIONS)
        assert 0 <= part["disparity"]["value"] <= 1
        assert part["mean_r"]["value"] == pytest.approx(np.mean([each["value"] for each in part["r"].values()]))
        assert 0 < part["mean_r"]["permuted"]["p"] <= 1
    with Image.open(run / "plots" / "rocks_similarity.png") as image:
        assert image.width > 1000
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "layer      relu2, 8 wide, as it is"
    assert any(line.startswith("mean r ") for line in said) and any("0.893" in line for line in said)
    assert said[-2:] == [
        f"wrote      {run / 'rocks_similarity.json'}",
        f"next       python training/eval.py {run}",
    ]
    assert max(map(len, said[:-3])) <= 100


def test_the_images_may_have_moved_and_any_layer_be_asked(run, stones, tmp_path, capsys):
    (run / "local" / "data.json").unlink()
    with pytest.raises(UserError, match="knows no folder of images; give the rocks with --data_dir"):
        main([str(run), "--human", str(stones / "human")])
    moved = shutil.copytree(stones, tmp_path / "moved")
    words = [str(run), "--human", str(moved / "human"), "--data_dir", str(moved)]
    for layer, told in {"features": "16 wide, of which 8 principal", "logits": "3 wide, filled up with zeros"}.items():
        assert main([*words, "--layer", layer]) == 0
        assert told in capsys.readouterr().out
        assert json.loads((run / "rocks_similarity.json").read_text())["layer"] == layer
    with pytest.raises(
        UserError, match="--layer 'relu3': this network has features, linear1, relu1, linear2, relu2, log"
    ):
        main([*words, "--layer", "relu3"])


def test_a_run_of_something_else_or_of_nothing_is_refused(run, stones, photos, tmp_path):
    human = ["--human", str(stones / "human")]
    with pytest.raises(UserError, match=r"nowhere' is no run; RUN is the folder that train\.py wrote"):
        main([str(tmp_path / "nowhere"), *human])
    with pytest.raises(UserError, match=r"no image in '.*' is called as the rocks are"):
        main([str(run), *human, "--data_dir", str(photos)])
    config = json.loads((run / "config.json").read_text())
    colours = config | {"id2label": {"0": "red", "1": "green", "2": "blue"}}
    (run / "config.json").write_text(json.dumps(colours))
    with pytest.raises(UserError, match=r"have different classes, 6 of them in one only, 'Andesite' for one"):
        main([str(run), *human])
    weights = run / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match=r"cannot be loaded: .*train it anew"):
        main([str(run), *human])
    weights.unlink()
    with pytest.raises(UserError, match="has no weights"):
        main([str(run), *human])
    assert not (run / "rocks_similarity.json").exists()


def test_an_image_that_broke_and_a_layer_that_says_nothing_are_told(run, stones, tmp_path):
    from safetensors.torch import load_file, save_file

    moved = shutil.copytree(stones, tmp_path / "moved")
    words = [str(run), "--human", str(moved / "human"), "--data_dir", str(moved)]
    broken = moved / "120 Rocks" / "I_Andesite_2_120.jpg"
    broken.write_bytes(b"")
    with pytest.raises(UserError, match=r"I_Andesite_2_120.jpg': empty file; every image is needed"):
        main(words)
    shutil.copy(stones / "120 Rocks" / broken.name, broken)
    weights = load_file(run / "model.safetensors")
    for fill, message in ((-1.0, "says the same of all 18 rocks"), (float("nan"), "values that are not finite")):
        weights["head.2.weight"].zero_()
        weights["head.2.bias"].fill_(fill)
        save_file(weights, run / "model.safetensors", {"format": "pt"})
        with pytest.raises(UserError, match=message):
            main(words)
    assert not (run / "rocks_similarity.json").exists()


def test_the_published_rows_are_checked(tmp_path, capsys):
    for name in ("360", "120"):
        write_points(tmp_path / f"mds_{name}.txt", points(int(name), 1))
    human = read_human(tmp_path)
    assert len(check_published(tmp_path, human)) == 2  # without the authors' network, the random embedding alone
    write_points(tmp_path / "cnn_120.txt", turned(human["120"]))
    write_points(tmp_path / "cnn_test.txt", turned(human["360"])[_held_out()])
    found = check_published(tmp_path, human)
    assert [(each.name, each.set) for each, _, _ in found[2:]] == [
        ("authors' network, 90 held out", "360"),
        ("authors' network", "120"),
    ]
    assert [here.mean_r for _, here, _ in found[2:]] == pytest.approx([1, 1], abs=1e-4)
    with pytest.raises(UserError, match=r"not as published: .*authors' network, 90 held out, authors' network; are"):
        main(["--check", "--human", str(tmp_path)])
    assert "1.000 (said 0.893)" in capsys.readouterr().out
    write_points(tmp_path / "cnn_test.txt", points(89, 1))
    with pytest.raises(UserError, match="has 89 rows; expected 90"):
        main(["--check", "--human", str(tmp_path)])


def test_three_rocks_of_each_class_are_held_out():
    assert np.bincount(_held_out() // 12).tolist() == [3] * 30


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs/rocks"], "--human"),
        (["--human", "x"], "no RUN"),
        (["runs/rocks", "--check", "--human", "x"], "nothing else"),
        (["runs/rocks", "--human", "nowhere"], "nowhere.mds_360.txt' cannot be read"),
    ],
)
def test_a_mistake_on_the_command_line_gets_one_line(words, message):
    with pytest.raises(UserError, match=message) as error:
        main(words)
    assert "\n" not in str(error.value)


def test_help_imports_no_heavy_library():
    said = help_of("rocks_similarity.py", "torch", "transformers", "numpy", "PIL", "scipy")
    assert "next-to-last" in said and "Procrustes" in said
