"""A run folder measured as a visitor meets it: what was saved is loaded again and asked about the test images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import date
from functools import partial
from itertools import islice
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from transformers.utils import logging

from hub_utils.export import extend_serving, gives_features, save_onnx, serving_facts
from hub_utils.portable.classifier import classes_of, load_classifier, probabilities_of
from hub_utils.portable.strangeness import METHOD
from training.data.images import Facts
from training.data.source import Folder, Source, load_source
from training.data.splits import SPLITS, Row, read_splits, some
from training.data.streaming import Streamed, StreamedViews
from training.disk import writing
from training.fitting import hardware
from training.hub import why_not_loaded
from training.recipe import Augmentation, UserError, first_line, load_recipe, recipe_names
from training.results import floors, runtimes
from training.results.answers import answers
from training.results.evaluation import SLACK, evaluate_split, operating_curve, sensitivity_threshold
from training.results.placed import beside, clear, place
from training.results.plots import plot_results, plot_surest_mistakes
from training.results.predictions import Predictions, write_predictions
from training.results.runtimes import CALIBRATED, Shown, check_int8, eight_bits, half_the_bits, make_int8
from training.results.serving import FITTED, Strangeness, drawn, not_sure, positive_classes
from training.run_folder import RunFolder, read_json, session, sha256

NO_INTERVAL = "[no interval: too few images]"
MEASURED = SPLITS[1:]  # validation, by which a threshold is chosen, and test


def measure(
    run: RunFolder, source: Source | None = None, say: Callable[[str], None] = print, int8: bool = False
) -> dict[str, Any]:
    """Measure a run; write `test_results.json`, predictions, plots and the model card; return what the first says.

    `source`: where the images lie now, if not where training saw them. Weights are never changed. With `int8` the
    network is written in 8 bits as well, and whenever it is there, it is measured.

    Raises:
        UserError: there is no model, its labels are not the data's, there is nothing to test, an image is gone or not
            the one that training saw, or the folder cannot be written, or it is known at once that `int8` cannot be
            made; what fails of it later is a warning.
    """
    began = time.perf_counter()
    run.check_trained()
    if int8:
        check_int8(run)
    temperature = read_json(run.results).get("temperature")
    source = _source(run, source)
    with _writing(run), TemporaryFile(dir=run.path):  # better now than after all the work
        pass
    begun = read_json(run.recipe)
    recipe = begun["recipe"]
    say(f"{recipe['title']} ({recipe['name']})")
    classifier = load_run(run)
    classes = classes_of(classifier)
    positive = positive_classes(_card(recipe, classes), classes)
    name = type(classifier.model).__name__
    say(f"model      {name} of {run.path}, loaded as a visitor loads it · {classifier.device.type} · fp32")
    if isinstance(source, Streamed):
        _check_labels(source.survey.classes, classes, run)
        rows, predictions, strange = _ask_about_stream(classifier, source, run)
        _check_test(rows, run)
        facts: Mapping[str, Facts] = {}
    else:
        rows = _rows(run)
        _check_labels({row.label for row in rows}, classes, run)
        _check_test(rows, run)
        facts = _facts(source, rows)
        if int8:
            _check_calibration(run, rows, facts)
        read = source.reader()
        strange = _strangeness(classifier, run, *_training_images(rows, facts, read))
        predictions = _ask(classifier, [row for row in rows if row.split in MEASURED], read, strange)
    if not np.isfinite(predictions.probabilities).all():
        raise UserError(
            f"the answers of the model in '{run.path}' are not finite numbers; train anew with --overwrite and a "
            "smaller --learning_rate"
        )
    with _writing(run):
        _complete_onnx(run, strange, say)
    if int8:
        try:
            make_int8(run, _for_calibration(source, rows, facts))
        except UserError as error:  # all else has been measured by now
            say(f"warning    {error}")
    shown = partial(_shown, source)
    bits = half_the_bits(run, shown, predictions.of("validation"))
    bits |= _eight_bits(run, shown, predictions, bits.get("precision", {}), say)
    for line in runtimes.as_lines(bits):
        say(line)
    results = {
        "split": "test",
        "classes": classes,
        **_results(predictions, positive),
        "floors": _floors(rows, facts),
        "temperature": temperature,
        **{name: begun[name] for name in ("search",) if name in begun},
        **{name: bits[name] for name in ("int8",) if name in bits},
        "model_class": name,
        "model_sha256": sha256(run.weights),
        **session(),
        "hardware": f"{classifier.device.type} · fp32",
        "date": date.today().isoformat(),
        "seconds": round(time.perf_counter() - began, 1),
    }
    title = f"{recipe['title']} ({recipe['name']}), test split"
    with _writing(run), beside(run) as new:
        write_predictions(predictions, new.predictions)
        plot_results(results, predictions.of("test"), new.plots, title)
        if not isinstance(source, Streamed):  # whose images would have to be fetched again
            plot_surest_mistakes(classifier, predictions.of("test"), source.reader(), new.mistakes, title)
        clear(run)
        unknown = {"precision": None, "int8": None}  # what an earlier measurement said goes
        extend_serving(run.path, _serving(results, predictions, positive, strange) | unknown | bits)
        place(results, new, run)
    return results


def _source(run: RunFolder, moved: Source | None) -> Source:
    """Where the images lie now.

    Raises:
        UserError: nobody knows, or they lie on the Hub and somewhere else was said.
    """
    if not run.data.is_file():
        if moved is None:
            raise UserError(
                f"'{run.path}' has no local/data.json, which is never uploaded, so that nobody knows where its images "
                "lie: name their folder with --data_dir"
            )
        return moved
    stored = load_source(run.data)
    if moved is None:
        return stored
    if not isinstance(stored, Folder):
        raise UserError(
            f"--data_dir: the images of '{run.path}' come from the Hub, data set '{stored.repo_id}'; leave it out"
        )
    return moved


def _writing(run: RunFolder) -> AbstractContextManager[None]:
    """One line for a folder that cannot be written: what is measured is written beside the model."""
    return writing(run.path, "the same command again", "measure a copy elsewhere")


def lines(results: Mapping[str, Any]) -> list[str]:
    """The headline figures, for a person to read."""
    metrics, floors_ = results["metrics"], results["floors"]
    always, colour = floors_["majority"], floors_["colour_neighbour"]
    alone = results["groups"] == results["images"]
    said = [
        f"test       {results['images']:,} images, {len(results['classes'])} classes"
        + ("" if alone else f"; some belong together: {results['groups']:,} groups"),
        f"accuracy   {_share(metrics['accuracy'])}; balanced {_share(metrics['balanced_accuracy'])}",
        f"           log loss {_number(metrics['log_loss'])}; "
        f"calibration error {_share(metrics['expected_calibration_error'])}",
        f"floors     always '{always['says']}' {_share(always)}; nearest by colour alone {_share(colour)}",
    ]
    why = {"at_half": "", "at_95_sensitivity": " (95 % sensitivity on the validation split)"}
    for name, point in results.get("operating_points", {}).items():
        if point["threshold"] is not None:
            said.append(
                f"           '{results['positive']}' from {point['threshold']:.3g} on{why[name]}: sensitivity "
                f"{_share(point['sensitivity'])}, specificity {_share(point['specificity'])}"
            )
    if "search" in results:
        trials, looks = (results["search"][name] for name in ("trials", "looks"))
        said.append(
            f"search     chosen among {trials} on the validation split; the test split was looked at "
            + ("once" if looks == 1 else f"{looks} times, each for another choice")
        )
    if results["missing"]:
        said.append(f"warning    no test image of {some(results['missing'])}: of such a class nothing is known")
    if colour["value"] is not None and colour["interval"][1] >= metrics["accuracy"]["interval"][0]:
        how = "does better" if colour["interval"][0] > metrics["accuracy"]["interval"][1] else "does about as well"
        said.append(f"warning    colour alone {how}: the accuracy does not show that shapes were learned")
    return said


def _share(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return f"unknown ({figure['reason']})"
    between = figure["interval"]
    return f"{figure['value']:.1%} " + (f"[{between[0]:.1%}, {between[1]:.1%}]" if between else NO_INTERVAL)


def _number(figure: Mapping[str, Any]) -> str:
    between = figure["interval"]
    return f"{figure['value']:.3f} " + (f"[{between[0]:.3f}, {between[1]:.3f}]" if between else NO_INTERVAL)


def load_run(run: RunFolder) -> Any:
    """The run's model as `load_classifier` gives it, on the fastest device there is, in exact fp32.

    Raises:
        UserError: what lies there does not load.
    """
    logging.disable_progress_bar()
    machine = hardware.choose()
    hardware.compute_exactly()
    hardware.keep_freed_memory()
    try:
        return load_classifier(run.path, device=machine.device)
    except Exception as error:  # transformers, safetensors and torch each have their own
        why = why_not_loaded("model", "RUN", str(run.path), error)
        raise UserError(f"{why}; the command that trained it writes it again with --resume") from error


def _rows(run: RunFolder) -> list[Row]:
    if not run.splits.is_file():
        raise UserError(
            f"'{run.path}' has no local/splits.csv, which is never uploaded, so that which images were for testing is "
            "not known; python training/predict.py asks its model about any images"
        )
    return read_splits(run.splits)


def _check_labels(labels: Iterable[str], classes: Sequence[str], run: RunFolder) -> None:
    """Raise `UserError` where the model and the data do not belong together."""
    strange = sorted(set(labels) - set(classes))
    if strange:
        raise UserError(
            f"the data of '{run.path}' has the class '{strange[0]}', its model answers {some(classes)}: they do not "
            "belong together; train anew with --overwrite"
        )


def _check_test(rows: Sequence[Row], run: RunFolder) -> None:
    """Raise `UserError` where there is nothing to test."""
    if not any(row.split == "test" for row in rows):
        raise UserError(
            f"the run in '{run.path}' has no image in its test split, so there is nothing to measure; train anew with "
            "--overwrite, with a test folder or a recipe that keeps some images for testing"
        )


def _facts(source: Source, rows: Sequence[Row]) -> dict[str, Facts]:
    """What is in each image that is the one training saw, by path; every one that is measured is.

    Raises:
        UserError: one is not.
    """
    measured = [row for row in rows if row.split in MEASURED]
    if isinstance(source, Folder):
        if not source.data_dir.is_dir():
            raise UserError(f"data folder '{source.data_dir}' does not exist; --data_dir names the one of the images")
        source.check_there(measured)
    facts = source.facts(rows)
    lost = [row.path for row in measured if row.path not in facts]
    if lost:
        raise UserError(
            f"{len(lost)} of {len(measured)} images cannot be read any more, '{lost[0]}' for one; put back what "
            "training saw, or train anew with --overwrite"
        )
    changed = [row.path for row in measured if facts[row.path].sha256 != row.sha256]
    if changed:
        raise UserError(
            f"{len(changed)} of {len(measured)} images are not what training saw, '{changed[0]}' for one; put "
            "that back, or name its folder with --data_dir, or train anew with --overwrite"
        )
    return {row.path: facts[row.path] for row in rows if row.path in facts and facts[row.path].sha256 == row.sha256}


def _ask(classifier: Any, rows: Sequence[Row], read: Callable[[str], bytes], strange: Strangeness) -> Predictions:
    """What the model says of each row.

    Raises:
        UserError: an image cannot be read.
    """
    logits = []
    found = answers(classifier, rows, lambda row: read(row.path))
    with strange.watching():
        for row, answer in tqdm(found, "Measuring", len(rows), unit=" images", leave=False, disable=None):
            if isinstance(answer, str):
                raise UserError(
                    f"'{row.path}': {answer}; put it back as training saw it, or train anew with --overwrite"
                )
            logits.append(answer)
    return _predictions(classifier, rows, logits)


def _ask_about_stream(classifier: Any, source: Streamed, run: RunFolder) -> tuple[list[Row], Predictions, Strangeness]:
    """What there is, as rows, those for training without a path, and what the model says of the rest."""
    splits = source.splits()
    mixed = StreamedViews(splits["train"], None, 1, Augmentation()).encoded()
    images = islice((content for _, _, content in mixed), FITTED)
    strange = _strangeness(classifier, run, images, min(FITTED, len(splits["train"])))
    classes = source.survey.classes
    rows = [
        Row("", "", name, "train", "")
        for name, count in zip(classes, source.survey.counts["train"], strict=True)
        for _ in range(count)
    ]
    asked, logits = [], []
    for split in MEASURED:
        part = splits[split]
        found = answers(classifier, StreamedViews(part, None, 1).encoded(), lambda item: item[2])
        with strange.watching():
            for (path, label, _), answer in tqdm(found, f"Measuring {split}", len(part), leave=False, disable=None):
                if not isinstance(answer, str):  # training left it out as well, and listed it
                    asked.append(Row(path, "", classes[label], split, ""))
                    logits.append(answer)
    return rows + asked, _predictions(classifier, asked, logits), strange


def _strangeness(classifier: Any, run: RunFolder, images: Iterable[bytes | None], count: int) -> Strangeness:
    """By the statistics that training left, or, of a run of an earlier version, of its `count` encoded images."""
    known = serving_facts(run.path).get("strangeness")
    if isinstance(known, dict) and known.get("method") == METHOD:
        return Strangeness(classifier, {name: known[name] for name in ("method", "width", "axes")})

    def show() -> None:
        found = answers(classifier, images, lambda content: content)
        for _ in tqdm(found, "Features of training images", count, unit=" images", leave=False, disable=None):
            pass

    return Strangeness.fitted(classifier, show)


def _training_images(
    rows: Sequence[Row], facts: Mapping[str, Facts], read: Callable[[str], bytes], at_most: int = FITTED
) -> tuple[Iterator[bytes], int]:
    """Encoded training images by lot, of those that are still there as training saw them, and how many these are."""
    there = [row.path for row in rows if row.split == "train" and row.path in facts]
    chosen = drawn(len(there), at_most)
    return (read(there[number]) for number in chosen), len(chosen)


def _check_calibration(run: RunFolder, rows: Sequence[Row], facts: Mapping[str, Facts]) -> None:
    """Raise `UserError` where no training image is there to find the ranges of 8 bits by."""
    if not _training_images(rows, facts, lambda _: b"", 1)[1]:
        raise UserError(
            f"--int8: none of the training images of '{run.path}', by which the ranges of 8 bits are found, is there "
            "as training saw it; name their folder with --data_dir, or leave --int8 out"
        )


def _eight_bits(
    run: RunFolder, shown: Shown, predictions: Predictions, half: Mapping[str, Any], say: Callable[[str], None]
) -> dict[str, Any]:
    """What the file in 8 bits costs; {} with a warning where it cannot be asked, which keeps nothing else back."""
    try:
        return eight_bits(run, shown, predictions, half)
    except Exception as error:  # OpenVINO's are of many kinds
        say(f"warning    {run.int8} was not measured, and so no page asks it: {first_line(error)}")
        return {}


def _for_calibration(source: Source, rows: Sequence[Row], facts: Mapping[str, Facts]) -> Iterator[bytes]:
    """Encoded training images by lot."""
    if isinstance(source, Streamed):
        mixed = StreamedViews(source.splits()["train"], None, 1, Augmentation()).encoded()
        return islice((content for _, _, content in mixed if content), CALIBRATED)
    return _training_images(rows, facts, source.reader(), CALIBRATED)[0]


def _shown(source: Source, split: str, paths: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Paths and encoded images of a split, which were read a moment ago."""
    if isinstance(source, Streamed):
        wanted = set(paths)
        streamed = StreamedViews(source.splits()[split], None, 1).encoded()
        return ((path, content) for path, _, content in streamed if path in wanted and content)
    read = source.reader()
    return ((path, read(path)) for path in paths)


def _serving(
    results: Mapping[str, Any], predictions: Predictions, positive: Sequence[str], strange: Strangeness
) -> dict[str, Any]:
    """What serving.json gets to know."""
    validation, test = (predictions.of(split) for split in MEASURED)
    by_split = [[score for score, each in zip(strange.scores, predictions.splits, strict=False) if each == split]
                for split in MEASURED]  # fmt: skip
    facts = {
        "not_sure": not_sure(validation.probabilities, validation.labels),
        "strangeness": strange.fact(*by_split),
        "floors": results["floors"],
        "operating_curve": {"reason": "no class of these is the one that is looked for: the recipe names none"},
    }
    if positive:
        curve = operating_curve(test.labels, test.probabilities, test.classes, _groups(test), positive)
        facts["operating_curve"] = {"split": "test", **curve}
    return facts


def _complete_onnx(run: RunFolder, strange: Strangeness, say: Callable[[str], None]) -> None:
    """Write the ONNX file of a run of an earlier version anew, which does not give the features."""
    if strange.statistics is None or not run.onnx.is_file() or gives_features(run.path):
        return
    try:
        save_onnx(run.path)
        say(f"wrote      {run.onnx} anew: it did not give the features, by which strange pictures are known")
    except Exception as error:  # the exporter's are of many kinds
        say(f"warning    {run.onnx} does not give the features, and cannot be written anew: {first_line(error)}")


def _card(recipe: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """What the run's recipe says, or, of a run of an earlier version, the recipe of that name of which class is looked
    for.
    """
    card = dict(recipe["card"])
    if "positive" not in card and recipe["name"] in recipe_names():
        positive = load_recipe(recipe["name"]).card.positive
        card["positive"] = positive if set(positive) < set(classes) else ()
    return card


def _predictions(classifier: Any, rows: Sequence[Row], logits: Sequence[np.ndarray]) -> Predictions:
    classes = classes_of(classifier)
    index = {name: number for number, name in enumerate(classes)}
    return Predictions(
        classes,
        [row.path for row in rows],
        np.array([index[row.label] for row in rows], dtype=np.int64),
        probabilities_of(classifier, np.array(logits).reshape(len(rows), len(classes))),
        [row.group for row in rows],
        [row.split for row in rows],
    )


def _results(predictions: Predictions, positive: Sequence[str]) -> dict[str, Any]:
    """The figures of the test split; the threshold of two classes is chosen on the validation split."""
    test, validation = (predictions.of(split) for split in ("test", "validation"))
    threshold, index = None, test.classes.index(positive[0]) if positive else 1
    if len(predictions.classes) == 2:
        threshold = sensitivity_threshold(validation.labels == index, validation.probabilities[:, index])
        # It is an image's own p: a little less, so that the rounding of a table or of another runtime changes no side.
        threshold = None if threshold is None else float(f"{threshold * (1 - SLACK):.9g}")
    missing = [name for number, name in enumerate(test.classes) if number not in test.labels]
    how = {"threshold": threshold, "positive": index}
    return {**evaluate_split(test.labels, test.probabilities, test.classes, _groups(test), **how), "missing": missing}


def _groups(predictions: Predictions) -> list[str]:
    return [group or path for group, path in zip(predictions.groups, predictions.paths, strict=True)]


def _floors(rows: Iterable[Row], facts: Mapping[str, Facts]) -> dict[str, Any]:
    """What the test split comes to without a look at what its pictures show."""
    rows = list(rows)
    found = {"majority": _floor(floors.majority(rows))}
    seen = [row for row in rows if row.path in facts]
    lost = sum(row.split == "train" for row in rows) - sum(row.split == "train" for row in seen)
    if lost:
        reason = f"the colours of {lost} training images are not known: they are gone, have changed, or were streamed"
        return {**found, "colour_neighbour": {"value": None, "interval": None, "reason": reason}}
    return {**found, "colour_neighbour": _floor(floors.colour_neighbour(seen, facts))}


def _floor(floor: floors.Floor) -> dict[str, Any]:
    says = {} if floor.says is None else {"says": floor.says}
    return {"value": floor.accuracy, "interval": [floor.low, floor.high], "method": "Wilson", **says}
