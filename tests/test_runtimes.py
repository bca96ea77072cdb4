"""With how many bits pages compute a run: half of them where no clear answer changes, and 8 where somebody asks."""

import io
import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from loopback_hub import LoopbackHub
from PIL import Image
from test_eval import copy, refusal, results_of, tell
from test_predictor import ask, fetched, pictures
from test_verify import model_of

from hub_utils import checks
from hub_utils.allowlist import contents_of, may_go
from hub_utils.card_facts import read_run
from hub_utils.card_results import eight_bits
from hub_utils.export import save_int8
from hub_utils.portable.command import UserError
from hub_utils.portable.network import OFTEN, TOLERANCE, Network
from hub_utils.portable.predictor import INT8, load_predictor
from hub_utils.portable.served import Served
from hub_utils.verify import verify_folder
from training import recipe
from training.data.source import load_source
from training.data.splits import read_splits
from training.results import runtimes
from training.results.predictions import read_predictions
from training.run_folder import RunFolder, sha256


@pytest.fixture(scope="module")
def eight(colours, tmp_path_factory) -> tuple[RunFolder, str]:
    """A run that was measured with 8 bits as well, and what was said."""
    run = copy(colours, tmp_path_factory.mktemp("eight"))
    return run, tell(run, "--int8")


@pytest.fixture
def run(eight, tmp_path) -> RunFolder:
    """A copy that a test may spoil; its images stay where they are."""
    shutil.copytree(eight[0].path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def serving_of(run: RunFolder) -> dict:
    return json.loads((run.path / "serving.json").read_text(encoding="utf-8"))


def say(run: RunFolder, **facts) -> None:
    (run.path / "serving.json").write_text(json.dumps(serving_of(run) | facts), encoding="utf-8")


def kind_of(run: RunFolder) -> str:
    """The kind of half floats that this machine multiplies."""
    found = Network(run.onnx, (3, 32, 32)).precision
    if found == "float32":
        pytest.skip("this machine multiplies no half floats")
    return found


# Half the bits


def test_what_half_the_bits_change_of_validation_images_is_measured_and_said(eight):
    run, said = eight
    kind = kind_of(run)
    facts = serving_of(run)["precision"][kind]
    validation = read_predictions(run.predictions).of("validation")
    assert (facts["split"], facts["images"]) == ("validation", len(validation.paths))
    assert facts["changed"] == 0 and 0 < facts["largest_difference"] <= TOLERANCE
    assert 0 <= facts["asked_twice"] <= 1
    assert facts["taken"] == (kind if facts["asked_twice"] <= OFTEN else "float32")
    assert f"{kind:<10} {'taken' if facts['taken'] == kind else 'not taken'}: of {facts['images']} validation" in said


def asked(run: RunFolder, **changes) -> dict:
    """What is found of the validation images, if the exact answers were others."""
    source = load_source(run.data)
    validation = replace(read_predictions(run.predictions).of("validation"), **changes)
    read = source.reader()
    return runtimes.half_the_bits(run, lambda _, paths: ((path, read(path)) for path in paths), validation)


def test_half_the_bits_are_not_taken_where_a_clear_answer_changes(run):
    kind = kind_of(run)
    exact = read_predictions(run.predictions).of("validation").probabilities
    others = exact[:, [1, 2, 0]]
    clear = np.sort(exact, axis=1)[:, -1] - np.sort(exact, axis=1)[:, -2] > 0.01
    found = asked(run, probabilities=others)["precision"][kind]
    assert found["taken"] == "float32" and found["changed"] == clear.sum() > 5
    assert found["largest_difference"] == pytest.approx(np.abs(others - exact).max(), abs=TOLERANCE)


def test_nor_where_a_probability_changes_by_more_than_is_allowed_or_most_are_asked_twice(run, monkeypatch):
    kind = kind_of(run)
    monkeypatch.setattr(runtimes, "OFTEN", 1.0)
    assert asked(run)["precision"][kind]["taken"] == kind
    monkeypatch.setattr(runtimes, "TOLERANCE", 0.0)
    assert asked(run)["precision"][kind]["taken"] == "float32"
    monkeypatch.setattr(runtimes, "TOLERANCE", TOLERANCE)
    monkeypatch.setattr(runtimes, "OFTEN", -1.0)
    assert asked(run)["precision"][kind]["taken"] == "float32"


def test_no_more_images_are_asked_than_are_needed_and_what_other_machines_found_stays(run, monkeypatch):
    kind = kind_of(run)
    elsewhere = {"taken": "float32", "images": 7}
    say(run, precision={"posit16": elsewhere, kind: elsewhere})
    monkeypatch.setattr(runtimes, "ASKED", 4)
    found = asked(run)["precision"]
    assert found["posit16"] == elsewhere and found[kind]["images"] == 4


def test_without_an_onnx_file_or_images_nothing_is_said(run):
    none = read_predictions(run.predictions).take([])
    assert runtimes.half_the_bits(run, lambda *_: (), none) == {}
    run.onnx.unlink()
    assert asked(run) == {}


TAKEN = {"float32": "float32", "half": "half", None: "half", "broken": "half"}


@pytest.mark.parametrize("taken", TAKEN)
def test_the_predictor_obeys_what_was_found_for_this_machines_kind(taken, run):
    kind = kind_of(run)
    words = kind if taken == "half" else taken
    facts = {"broken": [1], None: {"posit16": {"taken": "float32"}}}.get(taken, {kind: {"taken": words}})
    say(run, precision=facts)
    predictor = load_predictor(run.path)
    assert predictor.runtime == f"OpenVINO, {kind if TAKEN[taken] == 'half' else 'float32'}"
    assert (predictor._network._quick is None) == (TAKEN[taken] == "float32")
    assert load_predictor(run.path, precision="float32").runtime == "OpenVINO, float32"


def test_what_a_page_refuses_to_answer_is_not_asked(run):
    kind_of(run)
    narrow = io.BytesIO()
    Image.new("RGB", (2, 8000)).save(narrow, "PNG")
    source, validation = load_source(run.data), read_predictions(run.predictions).of("validation")
    read = source.reader()

    def shown(_, paths):
        return ((path, narrow.getvalue() if number < 2 else read(path)) for number, path in enumerate(paths))

    (found,) = runtimes.half_the_bits(run, shown, validation)["precision"].values()
    assert found["images"] == len(validation.paths) - 2
    assert runtimes.half_the_bits(run, lambda _, paths: ((path, narrow.getvalue()) for path in paths), validation) == {}


def test_changed_answers_are_counted_by_hand():
    exact = np.array([[0.6, 0.4], [0.504, 0.496], [0.2, 0.8], [0.9, 0.1]])
    found = np.array([[0.4, 0.6], [0.4, 0.6], [0.3, 0.7], [0.9, 0.1]])
    assert runtimes._differences(found, exact) == {"largest_difference": pytest.approx(0.2), "changed": 1}


# Eight bits


def test_eight_bits_are_measured_beside_float32_and_told_in_every_place(eight):
    run, said = eight
    facts = results_of(run)["int8"]
    assert facts == serving_of(run)["int8"]
    for split in ("validation", "test"):
        exact = read_predictions(run.predictions).of(split)
        found = facts[split]
        assert found["images"] == len(exact.paths)
        assert found["accuracy"]["float32"] == (exact.predicted == exact.labels).mean()
        assert found["log_loss"]["float32"] == pytest.approx(exact.losses.mean())
        assert 0 < found["largest_difference"] < 0.2  # else it is not in 8 bits, or broken
    assert facts["bytes"] == {"int8": run.int8.stat().st_size, "float32": run.onnx.stat().st_size}
    assert all(each > 0 for each in facts["milliseconds"].values()) and facts["sha256"] == sha256(run.int8)
    assert "\nint8       " in said and "clear answers change" in said
    card = (run.path / "README.md").read_text(encoding="utf-8")
    medical = replace(read_run(run.path, None), recipe={**read_run(run.path, None).recipe, "card": {"medical": True}})
    assert eight_bits(medical) == ""
    assert eight_bits(read_run(run.path, None)) in card and "convolutions in 8 bits" in card


def timed(run: RunFolder, half: dict) -> dict:
    source = load_source(run.data)
    read = source.reader()
    predictions = read_predictions(run.predictions)
    return runtimes.eight_bits(run, lambda _, paths: ((path, read(path)) for path in paths), predictions, half)["int8"]


def test_its_time_is_beside_that_of_what_answers_without_it(eight):
    run, _ = eight
    kind = kind_of(run)
    facts = serving_of(run)
    assert set(facts["int8"]["milliseconds"]) == {"int8", facts["precision"][kind]["taken"], "float32"}
    assert list(timed(run, {})["milliseconds"]) == ["int8", kind, "float32"]
    assert list(timed(run, {kind: {"taken": "float32"}})["milliseconds"]) == ["int8", "float32"]


def test_all_are_timed_in_turn_by_the_same_first_pictures(run, monkeypatch):
    kind = kind_of(run)
    calls: list[tuple[str, float]] = []
    ask_network = Network.__call__

    def noted(self, pixels):
        calls.append((self.precision, float(pixels.sum())))
        if len(calls) > 12:  # of what is asked later the time counts for nothing
            time.sleep(0.2)
        return ask_network(self, pixels)

    monkeypatch.setattr(Network, "__call__", noted)
    monkeypatch.setattr(runtimes, "TIMED", 4)
    facts = timed(run, {})
    for first in range(0, 12, 3):
        assert sorted(name for name, _ in calls[first : first + 3]) == sorted(("int8", kind, "float32"))
        assert len({pixels for _, pixels in calls[first : first + 3]}) == 1
    assert len(calls) > 24 and {name for name, _ in calls[12:]} == {"int8"}
    assert max(facts["milliseconds"].values()) < 200


def test_its_figures_are_of_what_the_predictor_answers(eight):
    run, _ = eight
    source, exact = load_source(run.data), read_predictions(run.predictions).of("test")
    predictor = load_predictor(run.path, precision="int8")
    found = np.array([predictor([Image.open(source.data_dir / path)])[0].probabilities for path in exact.paths])
    facts = results_of(run)["int8"]["test"]
    assert (found.argmax(axis=1) == exact.labels).mean() == pytest.approx(facts["accuracy"]["int8"])
    assert np.abs(found - exact.probabilities).max() == pytest.approx(facts["largest_difference"], abs=1e-5)


def test_eight_bits_answer_nearly_as_float32_with_maps_and_strangeness(eight):
    run, _ = eight
    exact, small = (load_predictor(run.path, precision=each) for each in ("float32", "int8"))
    assert small.runtime == "OpenVINO, int8" and small.labels == exact.labels
    for one, other in zip(small(pictures()), exact(pictures()), strict=True):
        assert 0 < np.abs(one.probabilities - other.probabilities).max() < 0.2
        assert one.maps.shape == other.maps.shape and (one.strangeness is None) == (other.strangeness is None)


def test_its_weights_are_signed_bytes_with_a_scale_a_channel_and_it_names_nothing_of_this_machine(eight):
    run, _ = eight
    graph = onnx.load(run.int8).graph
    arrays = {each.name: each for each in graph.initializer}
    taken = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.input[:1]}
    weights = [arrays[name] for name in taken if name in arrays and len(arrays[name].dims) == 4]
    assert weights and {each.data_type for each in weights} == {onnx.TensorProto.INT8}
    made = [node.input for node in graph.node if node.op_type == "DequantizeLinear"]
    scales = {each[0]: arrays[each[1]] for each in made if each[1] in arrays}
    assert all(list(scales[each.name].dims) == [each.dims[0]] for each in weights)
    content = run.int8.read_bytes()
    assert str(run.path).encode() not in content and str(Path.home()).encode() not in content


def test_measured_again_without_the_flag_it_is_still_told_and_a_new_model_takes_it_away(run, colours):
    run.int8.touch()
    tell(run)
    assert results_of(run)["int8"]["test"]["images"]
    run.int8.unlink()
    tell(run)
    assert "int8" not in results_of(run)
    assert "convolutions in 8 bits" not in (run.path / "README.md").read_text(encoding="utf-8")


def test_a_model_that_is_exported_anew_has_no_older_file_beside_it(eight, tiny_resnet, tmp_path):
    from test_export import PLAIN
    from test_onnx import deployed

    folder = deployed(tmp_path / "run", tiny_resnet, PLAIN)
    (folder / "onnx").mkdir()
    shutil.copy(eight[0].int8, folder / "onnx")
    deployed(folder, tiny_resnet, PLAIN)
    assert not (folder / INT8).exists()


def test_what_cannot_be_made_is_refused_and_nothing_is_left(run, tmp_path):
    from test_export import PLAIN, timm_base
    from test_onnx import deployed, save_onnx

    folder = deployed(tmp_path / "vit", timm_base(tmp_path, "test_vit", 160), PLAIN)
    save_onnx(folder)
    with pytest.raises(ValueError, match=r"% of its weights are not in convolutions"):
        save_int8(folder, [])
    with pytest.raises(recipe.UserError, match=r"--int8: .*% of its weights are not in convolutions.*; leave it out"):
        runtimes.check_int8(RunFolder(folder))  # before all the work
    assert [path.name for path in (folder / "onnx").iterdir()] == ["model.onnx"] and not (folder / ".export").exists()
    shutil.rmtree(run.path / "onnx")
    for path in (run.test_results, run.predictions):
        path.unlink()
    assert "has no onnx/model.onnx to be made smaller; leave it out" in refusal(run, "--int8")


def test_a_network_that_the_quantiser_refuses_is_one_line(run):
    with pytest.raises(
        recipe.UserError, match=r"--int8: this network cannot be computed in 8 bits \(.*\); leave it out"
    ):
        runtimes.make_int8(run, [])  # no picture to find a range by
    assert run.int8.is_file()


def test_a_predictor_says_what_is_missing_and_what_there_is(run):
    with pytest.raises(UserError, match=r"there is no precision 'int4'; auto, float32, int8 are there"):
        load_predictor(run.path, precision="int4")
    run.int8.write_bytes(run.int8.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"onnx/model_int8.onnx cannot be used: it is not the file that was measured"):
        load_predictor(run.path, precision="int8")
    say(run, int8={"sha256": sha256(run.int8)})
    with pytest.raises(UserError, match=r"onnx/model_int8.onnx cannot be used: (?!it is not the file)"):
        load_predictor(run.path, precision="int8")
    run.int8.unlink()
    with pytest.raises(UserError, match=r"has no onnx/model_int8.onnx, which python training/eval.py RUN --int8 makes"):
        load_predictor(run.path, precision="int8")


def test_a_page_computes_as_the_variable_says(run, monkeypatch):
    say(run, precision={})
    assert Served("colours", run.path).predictor().runtime == load_predictor(run.path).runtime
    for said in ("int8", " INT8"):
        monkeypatch.setenv("DEMO_PRECISION", said)
        assert Served("colours", run.path).predictor().runtime == "OpenVINO, int8"
    monkeypatch.setenv("DEMO_PRECISION", "few")
    with pytest.raises(UserError, match="DEMO_PRECISION is 'few'; auto, float32, int8 are allowed, or leave it out"):
        Served("colours", run.path).predictor()


def test_a_medical_model_answers_in_float32_whoever_asks_and_in_no_fewer_bits(run, monkeypatch):
    say(run, precision={})
    facts = json.loads(run.recipe.read_text(encoding="utf-8"))
    facts["recipe"]["card"]["medical"] = True
    run.recipe.write_text(json.dumps(facts), encoding="utf-8")
    for precision in ("auto", "float32"):
        assert load_predictor(run.path, precision=precision).runtime == "OpenVINO, float32"
        monkeypatch.setenv("DEMO_PRECISION", precision)
        assert Served("colours", run.path).predictor().runtime == "OpenVINO, float32"
    refused = f"{re.escape(str(run.path))}: .*medical.*float32.*'int8'.*leave out DEMO_PRECISION"
    with pytest.raises(UserError, match=refused):
        load_predictor(run.path, precision="int8")
    monkeypatch.setenv("DEMO_PRECISION", "int8")
    with pytest.raises(UserError, match=r"medical.*float32.*'int8'.*leave out DEMO_PRECISION"):
        Served("colours", run.path).predictor()
    assert asked(run) == {}  # of half the bits nothing is found out that nobody needs
    with pytest.raises(recipe.UserError, match=r"--int8: .*medical.*float32.*leave it out"):
        runtimes.check_int8(run)
    assert runtimes.eight_bits(run, lambda *_: (), read_predictions(run.predictions), {}) == {}


def test_without_training_images_it_is_refused_at_once(run, tmp_path):
    rows = read_splits(run.splits)
    for path in (run.test_results, run.predictions):
        path.unlink()
    for row in rows:
        if row.split != "train":
            (tmp_path / "rest" / row.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(load_source(run.data).data_dir / row.path, tmp_path / "rest" / row.path)
    said = refusal(run, "--int8", "--data_dir", tmp_path / "rest")
    assert "--int8: none of the training images" in said and "--data_dir" in said


def test_8_bits_that_fail_late_take_nothing_else_away(run, monkeypatch):
    run.test_results.unlink()
    monkeypatch.setattr("training.results.measure.make_int8", lambda run, _: runtimes.make_int8(run, []))
    assert "warning    --int8: this network cannot be computed in 8 bits (" in tell(run, "--int8")
    assert results_of(run)["int8"]["sha256"] == sha256(run.int8)  # of the file that was there before
    run.int8.write_bytes(b"nothing")
    assert "onnx/model_int8.onnx was not measured" in tell(run).replace("\\", "/")
    assert "int8" not in results_of(run) and "int8" not in serving_of(run)


def test_what_was_found_earlier_of_half_the_bits_goes_where_nothing_is_found_now(run):
    say(run, precision={"posit16": {"taken": "float32", "images": 7}})
    run.onnx.unlink()
    tell(run)
    assert "precision" not in serving_of(run)


def test_figures_of_tiny_networks_are_not_nothing(run):
    facts = serving_of(run)["int8"] | {
        "bytes": {"int8": 12_345, "float32": 987_654},
        "milliseconds": {"int8": 0.184, "float32": 0.221},
    }
    (said,) = runtimes.as_lines({"int8": facts})
    assert "0.18 ms a picture for 0.22 ms in float32; 12.3 kB for 988 kB;" in said
    known = read_run(run.path, None)
    told = eight_bits(replace(known, test=known.test | {"int8": facts}))
    assert "12.3 kB instead of 988 kB" in told and "0.18 ms a picture instead of 0.22 ms in float32." in told
    facts["milliseconds"] = {"int8": 0.184, "bfloat16": 0.191, "float32": 0.221}
    (said,) = runtimes.as_lines({"int8": facts})
    assert "0.18 ms a picture for 0.19 ms in bfloat16 (0.22 ms in float32); 12.3 kB" in said
    told = eight_bits(replace(known, test=known.test | {"int8": facts}))
    assert "0.18 ms a picture instead of 0.19 ms in bfloat16 (0.22 ms in float32)." in told


# On the Hub


def of_another_network(run: RunFolder) -> None:
    shutil.copy(run.onnx, run.int8)


def not_told(run: RunFolder) -> None:
    say(run, int8={"bytes": 3})


@pytest.mark.parametrize("spoil", [of_another_network, not_told])
def test_a_file_that_was_not_measured_neither_goes_nor_is_told_of_nor_passes(spoil, run):
    spoil(run)
    why = "is not the file that was measured" if spoil is of_another_network else "does not say that it was measured"
    said: list[str] = []
    assert not verify_folder(run.path, said.append)
    (line,) = [each for each in said if "golden answers in 8 bits" in each]
    assert line.startswith("  FAILED ") and why in line and "python training/eval.py RUN --int8" in line
    with pytest.raises(UserError, match=why):
        load_predictor(run.path, precision="int8")
    contents = contents_of(run.path)
    assert INT8 not in contents.files and why in contents.stays[INT8]
    assert eight_bits(read_run(run.path, None)) == ""


@pytest.mark.slow
def test_it_goes_with_a_push_and_is_looked_at_by_verify(run):
    assert may_go(INT8) and INT8 in contents_of(run.path).files
    said: list[str] = []
    assert verify_folder(run.path, said.append)
    (line,) = [each for each in said if "golden answers in 8 bits" in each]
    assert line.startswith("  passed ") and "of 7 likeliest classes alike, largest difference" in line
    run.int8.write_bytes(b"nothing")
    said.clear()
    assert not verify_folder(run.path, said.append)
    (line,) = [each for each in said if "golden answers in 8 bits" in each]
    assert line.startswith("  FAILED ")


def test_answers_of_8_bits_that_are_none_are_told(run):
    model, count = model_of(run.path), len(serving_of(run)["golden"]["images"])
    for broken, words in (([0.5, 0.5], "2 probabilities, stored are 3"), ([float("nan")] * 3, "no probabilities")):
        with pytest.raises(checks.Failed, match=words):
            checks.int8(model, {"int8_probabilities": [broken] * count})
    say(run, golden=None)
    with pytest.raises(checks.NotAsked, match=r"see serving\.json"):
        checks.int8(model_of(run.path), {"int8_probabilities": [[0.2, 0.3, 0.5]] * count})


def test_of_a_repo_the_one_file_is_downloaded_that_is_asked_for(run, tmp_path):
    code = "import functools, hub_utils.portable.predictor as p\n"
    code += "p.load_predictor = functools.partial(p.load_predictor, precision='int8')\n"
    with LoopbackHub() as hub:
        hub.add("alice/tiny", run.path)
        answers, heavy = ask(("alice/tiny", None), first=code, **hub.environment(tmp_path / "home"))
    assert answers[0][1] == "OpenVINO, int8" and heavy == []
    assert "model_int8.onnx" in fetched(tmp_path / "home") and "model.onnx" not in fetched(tmp_path / "home")
