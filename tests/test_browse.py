"""The mistakes in the browser: what is asked for, what is shown of it, the page over a socket, and in Chromium."""

import csv
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
import uvicorn
from chromium import chromium, opened
from conftest import ROOT, help_of, write_photos
from PIL import Image

from hub_utils.export import save_deployable
from hub_utils.portable.classifier import load_classifier
from training.browse import features_of, listening, main, open_gallery, read_answers
from training.data.images import open_rgb
from training.data.source import Folder
from training.data.splits import read_splits
from training.fitting.fit import fit
from training.fitting.network import build_network
from training.recipe import BatchNorm, Linear, Recipe, ReLU, Stage, UserError
from training.results.evidence import Evidence, nearest, pooled_features
from training.results.mistakes import Question, as_csv, asked, confused_pairs, confusion, label_suspects
from training.results.mistakes_html import Gallery, percent
from training.results.mistakes_page import build_app
from training.results.predictions import Predictions, write_predictions
from training.run_folder import RunFolder

NAMES = ["blue", "green", "red"]


def answers(labels, probabilities, classes=None, splits=None) -> Predictions:
    """Images called 0.png, 1.png, …"""
    probabilities = np.array(probabilities, dtype=float)
    count, width = probabilities.shape
    classes = classes or [f"class {number}" for number in range(width)]
    paths = [f"{number}.png" for number in range(count)]
    return Predictions(classes, paths, np.array(labels), probabilities, [""] * count, splits or ["test"] * count)


# What is asked for


SIX = answers(
    [0, 0, 0, 1, 1, 1],
    [[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3], [0.45, 0.55], [0.1, 0.9]],
    splits=["test", "test", "test", "test", "test", "validation"],
)


@pytest.mark.parametrize(
    ("question", "numbers"),
    [
        (Question("test"), [1, 3, 2, 4, 0]),
        (Question("validation"), [5]),
        (Question("test", only_mistakes=True), [1, 3, 2]),
        (Question("test", label=0), [1, 2, 0]),
        (Question("test", prediction=1), [1, 2, 4]),
        (Question("test", label=0, prediction=1), [1, 2]),
        (Question("test", label=1, prediction=1), [4]),
        (Question("test", label=1, prediction=1, only_mistakes=True), []),
        (Question("test", only_suspects=True), [2, 4]),
        (Question("test", only_suspects=True, only_mistakes=True), [2]),
        (Question("train"), []),
    ],
)
def test_images_are_filtered_and_the_largest_loss_comes_first(question, numbers):
    suspects = np.array([False, False, True, False, True, True])
    assert asked(SIX, question, suspects).tolist() == numbers


def test_the_matrix_counts_one_split_and_pairs_come_by_number():
    assert confusion(SIX, "test").tolist() == [[1, 2], [1, 1]]
    assert confusion(SIX, "validation").tolist() == [[0, 0], [0, 1]]
    matrix = np.array([[5, 2, 0], [2, 1, 3], [0, 1, 9]])
    assert confused_pairs(matrix, 9) == [(1, 2, 3), (1, 0, 2), (0, 1, 2), (2, 1, 1)]  # label 1 has fewer than label 0
    assert confused_pairs(matrix, 1) == [(1, 2, 3)]
    assert confused_pairs(np.eye(3, dtype=int), 9) == []


def test_a_label_is_suspected_where_model_and_all_neighbours_agree_on_another():
    # Class 1's own images get 0.3, 0.55 and 0.9 of it, 0.58 on average: 0.6 is sure enough, and 0.57 would not be.
    everyone = np.array([[0, 0], [1, 1], [1, 1], [0, 0], [1, 1], [1, 1]])
    assert label_suspects(SIX, everyone).tolist() == [False, True, True, True, False, False]
    assert not label_suspects(SIX, np.array([[0, 1]] * 6)).any()
    assert not label_suspects(SIX, np.full((6, 2), -1)).any()
    less = replace(SIX, probabilities=SIX.probabilities.copy())
    less.probabilities[2] = [0.43, 0.57]
    assert label_suspects(less, everyone).tolist() == [False, True, False, True, False, False]


def test_the_list_has_both_probabilities_and_survives_odd_names():
    odd = replace(SIX, classes=['a, "b"', "ß\n1"], paths=["ä, b.png", *SIX.paths[1:]])
    first, second = csv.DictReader(io.StringIO(as_csv(odd, [1, 0]), newline=""))
    assert first == {
        "path": "1.png", "label": 'a, "b"', "prediction": "ß\n1", "loss": "1.60944", "p_label": "0.2",
        "p_prediction": "0.8",
    }  # fmt: skip
    assert (second["path"], second["p_label"], second["p_prediction"]) == ("ä, b.png", "0.9", "0.9")


def test_shares_are_never_rounded_to_nothing_or_all():
    said = [percent(share).replace("&nbsp;", " ") for share in (0, 0.001, 0.5, 0.999, 1)]
    assert said == ["0 %", "&lt;1 %", "50 %", "&gt;99 %", "100 %"]


# Neighbours


def test_the_nearest_are_found_by_direction_and_what_is_missing_is_passed_over():
    gone = [np.nan, np.nan]
    among = np.array([[2, 0], gone, [0, 1], [3, 3]], np.float16)
    numbers, cosines = nearest(np.array([[1, 0], gone, [0, 9]], np.float16), among, 4, offset=10)
    assert numbers.tolist() == [[10, 13, 12, -1], [-1] * 4, [12, 13, 10, -1]]
    np.testing.assert_allclose(cosines[0, :3], [1, 0.5**0.5, 0], atol=1e-3)
    assert np.isnan(cosines[1]).all()
    assert nearest(np.zeros((0, 2)), among, 2)[0].shape == (0, 2)
    assert nearest(among[:1], among[1:2], 2)[0].tolist() == [[-1, -1]]


@pytest.mark.parametrize("base", ["native", "timm"])
@pytest.mark.parametrize("head", [(BatchNorm(), Linear()), (Linear(8), ReLU(), Linear())], ids=["linear", "hidden"])
def test_features_are_what_the_head_makes_the_logits_of(base, head, tiny_resnet, tiny_timm, tmp_path):
    folder = tiny_resnet if base == "native" else tiny_timm
    network, processor = build_network(
        Recipe(title="t", base_model=str(folder), head=head, stages=(Stage(name="all"),)), NAMES
    )
    save_deployable(network.eval(), processor, tmp_path)
    model = load_classifier(tmp_path).model
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = pooled_features(model, pixels)
    kind = type(model).__name__
    by_kind = {"ResNetForImageClassification": lambda: model.classifier[1]}
    by_kind |= {"TimmWrapperForImageClassification": lambda: model.timm_model.get_classifier()}
    with torch.inference_mode():
        made = by_kind.get(kind, lambda: model.head)()(torch.from_numpy(features))
        torch.testing.assert_close(made, model(pixels).logits)


# A run


@pytest.fixture(scope="module")
def run(tiny_resnet, tmp_path_factory):
    """Three colours learnt, and measured; one picture of the test split is labelled otherwise than it looks."""
    folder = tmp_path_factory.mktemp("browse")
    photos = write_photos(folder / "photos", {"red": 20, "green": 20, "blue": 20})
    arguments = {"learning_rate": 1e-2, "lr_scheduler_type": "constant", "num_train_epochs": 3}
    stages = (Stage(name="all", batch_size=8, arguments=arguments, restore_best=True),)
    recipe = Recipe(
        name="colours", title="<i>Colours</i> & more", base_model=str(tiny_resnet), head=(BatchNorm(), Linear()),
        stages=stages,
    )  # fmt: skip
    fit(recipe, Folder(photos), RunFolder(folder / "run"))
    write_predictions(measured(folder / "run"), folder / "run" / "local" / "predictions.csv")
    return RunFolder(folder / "run")


def measured(run) -> Predictions:
    """What the deployed model says; the first test image is labelled as the class after its own."""
    rows = [row for row in read_splits(run / "local" / "splits.csv") if row.split != "train"]
    classifier = load_classifier(run)
    images = [open_rgb(run.parent / "photos" / row.path) for row in rows]
    with torch.inference_mode():
        pixels = torch.cat([classifier.preprocess(image)["pixel_values"] for image in images])
        probabilities = classifier.model(pixels).logits.double().softmax(dim=1).numpy()
    labels = np.array([NAMES.index(row.label) for row in rows])
    wrong = next(number for number, row in enumerate(rows) if row.split == "test")
    labels[wrong] = (labels[wrong] + 1) % 3
    return Predictions(NAMES, [row.path for row in rows], labels, probabilities, [""] * 18, [row.split for row in rows])


@pytest.fixture
def copy(run, tmp_path):
    """The run, to be spoilt."""
    shutil.copytree(run.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


@pytest.fixture(scope="module")
def gallery(run):
    """Opened, with neighbours found."""
    opened = open_gallery(run, read_answers(run), None)
    opened.evidence.gather(*features_of(run, opened.evidence.paths))
    assert opened.evidence.failure is None
    return opened


def test_a_wrong_label_is_suspected_and_its_neighbours_are_shown(gallery):
    predictions = gallery.predictions
    [suspect] = np.flatnonzero(gallery.suspects)
    assert predictions.splits[suspect] == "test"
    assert gallery.ask(Question("test", only_suspects=True)).tolist() == [suspect]
    numbers, cosines = gallery.evidence.nearest
    assert numbers.shape == (18, 5) and numbers.min() >= 18  # training images alone
    assert (np.diff(cosines, axis=1) <= 0).all()
    said = NAMES[predictions.predicted[suspect]]
    assert {gallery.labels[number] for number in numbers[suspect]} == {said}
    card = gallery.cards(Question("test", only_suspects=True), 12, frozenset())
    assert "Is the label wrong?" in card and card.count("<figure>") == 1 + 2 + 5
    assert gallery.cards(Question("test", only_mistakes=False), 3, frozenset()).count("<article") == 3


def test_features_are_kept_until_the_model_or_an_image_changes(gallery, run, copy):
    file, of = features_of(copy, gallery.evidence.paths)
    assert file.is_file()  # `gallery` wrote it

    def unread(path):
        raise OSError(path)

    again = Evidence(load_classifier(copy.path), unread, gallery.evidence.paths, 18)
    again.gather(file, of)
    assert (again.nearest[0] == gallery.evidence.nearest[0]).all()
    other = Evidence(load_classifier(copy.path), unread, gallery.evidence.paths, 18)
    other.gather(file, "of another model")
    assert other.nearest is None and "no image can be read" in other.failure
    weights = copy.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    assert features_of(copy, gallery.evidence.paths)[1] != of
    file.write_bytes(file.read_bytes()[:100])
    cut_off = Evidence(load_classifier(run.path), gallery.evidence._read, gallery.evidence.paths, 18)
    cut_off.gather(file, of)
    assert (cut_off.nearest[0] == gallery.evidence.nearest[0]).all()


def test_images_that_are_gone_or_broken_stop_nothing(gallery, run, copy):
    shutil.copytree(run.path.parent / "photos", copy.path / "photos")
    first, second, trained = gallery.evidence.paths[0], gallery.evidence.paths[1], gallery.evidence.paths[-1]
    (copy.path / "photos" / first).unlink()
    (copy.path / "photos" / second).write_bytes(b"no image")
    (copy.path / "photos" / trained).unlink()
    (copy.path / "local" / "features.npz").unlink()
    opened = open_gallery(copy, read_answers(copy), [str(copy.path / "photos")])
    opened.evidence.gather(*features_of(copy, opened.evidence.paths))
    numbers, _ = opened.evidence.nearest
    assert (numbers[:2] == -1).all() and (numbers[2:] >= 18).all()
    assert len(opened.evidence.paths) - 1 not in numbers
    with served(opened) as address:
        size, gone = get(f"{address}/{opened.secret}/picture/middle/0")
        assert size == "image/svg+xml" and b"not there any more" in gone
        assert b"cannot be read" in get(f"{address}/{opened.secret}/map/1/0")[1]
        assert get(f"{address}/{opened.secret}/map/2/0")[0] == "image/jpeg"
        assert get(f"{address}/")[0].startswith("text/html")


class Cells(HTMLParser):
    """Rows of a table as lists of what its cells say."""

    def __init__(self, html: str):
        super().__init__()
        self.rows: list[list[str]] = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip()


@pytest.mark.parametrize("classes", [2, 5, 30, 120])
def test_a_cell_stands_where_its_label_and_prediction_say(classes, gallery):
    draw = np.random.default_rng(classes)
    predictions = answers(draw.integers(0, classes, 300), draw.dirichlet(np.ones(classes), 300))
    html = Gallery("many", predictions, gallery.evidence, gallery.labels).overview("test")
    table = Cells(html[: html.index("</table>")]).rows
    assert [cell for cell in table[0][1:]] == predictions.classes == [row[0] for row in table[1:]]
    counts = [[int(cell or 0) for cell in row[1:]] for row in table[1:]]
    assert counts == confusion(predictions, "test").tolist()
    assert html.count("data-prediction") == min(30, len(confused_pairs(np.array(counts), 999)))
    assert len(html) < 250_000


def test_without_a_mistake_the_least_certain_are_shown(gallery):
    right = replace(gallery.predictions, labels=gallery.predictions.predicted)
    page = Gallery("right", right, gallery.evidence, gallery.labels)
    assert "No mistake" in page.overview("test") and "none of them wrong" in page.overview("test")
    with served(page) as address:
        shown = client(address).predict("test", -1, -1, False, False, api_name="/ask_filters")
        assert "9 images, largest loss first" in "".join(map(str, shown))


def test_names_cannot_break_out_of_the_page(gallery):
    evil = '"><script>alert(1)</script>{{value}}${1+1}'
    spoilt = replace(gallery.predictions, classes=[evil, *NAMES[1:]], paths=[evil] * 18)
    page = Gallery(evil, spoilt, gallery.evidence, [evil] * len(gallery.labels))
    question = Question("test", label=0)
    html = page.overview("test") + page.bar(question, frozenset()) + page.cards(question, 12, frozenset())
    assert "&lt;script&gt;" in html and "<script" not in html


# The page, over a socket


@contextmanager
def served(gallery):
    """Its address, as long as it lasts."""
    with listening(0) as listener:
        server = uvicorn.Server(uvicorn.Config(build_app(gallery), log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def address(gallery):
    with served(gallery) as address:
        yield address


def client(address):
    from gradio_client import Client

    return Client(address, verbose=False, analytics_enabled=False)


def get(address, data=None, **headers) -> tuple[str, bytes]:
    """Type and content."""
    with urllib.request.urlopen(urllib.request.Request(address, data, headers), timeout=60) as answer:
        return answer.headers["Content-Type"], answer.read()


def test_pictures_and_heat_maps_come_as_jpegs(address, gallery):
    for name, size in (("picture/small/0", (40, 32)), ("picture/large/59", (40, 32)), ("map/0/1", (32, 32))):
        kind, content = get(f"{address}/{gallery.secret}/{name}")
        assert (kind, Image.open(io.BytesIO(content)).size) == ("image/jpeg", size)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("picture/small/60", 404), ("picture/small/-1", 404), ("picture/huge/0", 422), ("map/18/0", 404),
        ("map/0/3", 404), ("map/0/-1", 404), ("../0", 404), ("picture/small/..%2F..%2Fetc%2Fpasswd", 404),
    ],
)  # fmt: skip
def test_nothing_else_can_be_asked_for(path, status, address, gallery):
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(f"{address}/{gallery.secret}/{path}")
    assert refused.value.code == status


def test_other_pages_in_the_browser_get_nothing(address, gallery):
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(f"{address}/{gallery.secret}/picture/small/0", Host="evil.example")
    assert refused.value.code == 400
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(f"{address}/guessed/picture/small/0")
    assert refused.value.code == 404


def test_the_list_is_exported(address, gallery):
    form = urllib.parse.urlencode({"numbers": "3,1"}).encode()
    kind, content = get(f"{address}/{gallery.secret}/mistakes.csv", form)
    assert kind == "text/csv; charset=utf-8"
    assert content.decode() == as_csv(gallery.predictions, [3, 1])
    for numbers in ("18", "-1", "x", ""):
        with pytest.raises(urllib.error.HTTPError) as refused:
            get(f"{address}/{gallery.secret}/mistakes.csv", urllib.parse.urlencode({"numbers": numbers}).encode())
        assert refused.value.code in (404, 422)


def test_filters_answer_over_the_api(address, gallery):
    api = client(address)
    said = "".join(map(str, api.predict("test", -1, -1, True, False, api_name="/ask_filters")))
    [wrong] = gallery.ask(Question("test", only_mistakes=True))
    assert "1 mistake" in said and gallery.predictions.paths[wrong] in said
    said = "".join(map(str, api.predict("validation", 0, 0, False, False, api_name="/ask_filters")))
    assert "3 images, labelled blue, taken for blue, largest loss first" in said and said.count("<article") == 3
    said = "".join(map(str, api.predict("validation", -1, -1, False, False, api_name="/ask_split")))
    assert "Confusion matrix of the validation split" in said


def test_an_answer_to_older_values_of_the_browser_shows_what_was_asked_last(address):
    api = client(address)
    api.predict("validation", 0, 0, False, False, api_name="/ask_filters")
    # What the timer sent just before its answer: the page as it opened.
    for name in ("/look", "/show", "/show_more"):
        said = "".join(map(str, api.predict("test", -1, -1, True, False, api_name=name)))
        assert "3 images, labelled blue, taken for blue" in said, name


# In the browser


@pytest.fixture
def browser_page():
    with chromium() as browser:
        yield opened(browser, width=360, height=800)


def test_a_cell_is_clicked_its_images_seen_and_the_ticked_one_exported(browser_page, address, gallery):
    page, complaints = browser_page
    predictions = gallery.predictions
    [wrong] = gallery.ask(Question("test", only_mistakes=True)).tolist()
    label, said = int(predictions.labels[wrong]), int(predictions.predicted[wrong])
    page.goto(address)
    page.locator(f".confusion tr:nth-child({said + 1}) td:nth-of-type({said + 1})").click()
    status = page.get_by_role("status")
    status.filter(has_text=f"labelled {NAMES[said]}, taken for {NAMES[said]}").wait_for()
    page.locator(f".confusion tr:nth-child({label + 1}) td:nth-of-type({said + 1})").click()
    status.filter(has_text=f"1 mistake, labelled {NAMES[label]}, taken for {NAMES[said]}").wait_for()
    assert page.locator(".card").count() == 1
    seen = "() => [...document.querySelectorAll('.card img')].every(each => each.complete && each.naturalWidth > 1)"
    page.locator(".near img").last.scroll_into_view_if_needed()
    page.wait_for_function(seen)
    assert page.locator(".card img").count() == 3 + 5
    assert all(page.locator(".card img").evaluate_all("images => images.map(each => each.alt)"))
    page.locator(".card input").check()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export list (1 ticked)").click()
    assert download.value.suggested_filename == "mistakes.csv"
    assert download.value.path().read_text() == as_csv(predictions, [wrong])
    # By the keyboard: up to the heads, and to all of a class.
    page.locator(".confusion [tabindex='0']").focus()
    for key in [*["ArrowUp"] * 3, "Enter"]:
        page.keyboard.press(key)
    status.filter(has_text=f"taken for {NAMES[said]}").filter(has_not_text="labelled").wait_for()
    assert page.locator(".card input:checked").count() == 1
    page.get_by_role("button", name="Untick all").click()
    page.get_by_role("button", name=re.compile(r"Export list \(\d+\)")).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert complaints == []


def test_no_name_runs_a_script_in_the_browser(browser_page, gallery):
    page, complaints = browser_page
    evil = [
        '<img src="/nowhere" onerror="window.owned=1">',
        '"><script>window.owned=2</script>\u202egnp.exe\n# x',
        "'-window.owned-' [a](javascript:window.owned=3) {{7*7}} ${window.owned=4} {@html x}</style></textarea>",
    ]
    paths = [f"{evil[number % 3]}/{number}.png" for number in range(len(gallery.predictions.paths))]
    spoilt = replace(gallery.predictions, classes=evil, paths=paths)
    hostile = Gallery(" ".join(evil), spoilt, gallery.evidence, [evil[0]] * len(gallery.labels))
    with served(hostile) as address:
        page.goto(address)
        page.locator(".confusion td").first.click()
        page.locator(".card").first.wait_for()
        page.locator(".card input").first.check()
        page.get_by_role("button", name="Export list (1 ticked)").wait_for()
        assert page.evaluate("window.owned") is None and page.locator("a[href^=javascript]").count() == 0
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(f"{address}/monitoring")
    assert complaints == []


# The command


@pytest.mark.slow
def test_the_command_opens_the_page_and_ends_with_ctrl_c(copy):
    command = [sys.executable, str(ROOT / "training" / "browse.py"), str(copy.path), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            lines = iter(process.stdout.readline, "")
            address = next(filter(None, (re.search(r"^page +(http://127\.0\.0\.1:\d+)", line) for line in lines)))[1]
            assert b"Colours" in get(address)[1]
            process.send_signal(signal.SIGINT)
            process.wait(60)
        finally:
            process.kill()
        assert process.returncode == 0 and "Traceback" not in process.stderr.read()
    assert (copy.path / "local" / "features.npz").is_file()


def test_help_comes_without_a_heavy_library():
    help_of("browse.py", "torch", "transformers", "numpy", "PIL", "gradio")


def no_model(run):
    (run.path / "model.safetensors").unlink()


def no_predictions(run):
    (run.path / "local" / "predictions.csv").unlink()


def empty_predictions(run):
    file = run.path / "local" / "predictions.csv"
    file.write_text(file.read_text().splitlines()[0] + "\n")


def other_classes(run):
    config = json.loads((run.path / "config.json").read_text())
    config["id2label"]["0"] = "violet"
    (run.path / "config.json").write_text(json.dumps(config))


def other_model(run):
    (run.path / "test_results.json").write_text(json.dumps({"model_sha256": "0" * 64}))


def broken_model(run):
    (run.path / "model.safetensors").write_bytes(b"no weights")


def images_moved(run):
    (run.path / "local" / "data.json").write_text(json.dumps({"data_dir": str(run.path / "nowhere")}))


def no_run(run):
    (run.path / "recipe.json").unlink()


def folds(run):
    (run.path / "folds.json").write_text(json.dumps({"folds": 3, "seed": 0}))


BAD = {
    no_run: "is no run; give a folder that train.py wrote",
    folds: "holds a cross-validation; give one of its runs",
    no_model: "has no model yet",
    no_predictions: "has no predictions yet; `python training/eval.py {run}` writes them",
    empty_predictions: "has no image in it",
    other_classes: "is of other classes than the model",
    other_model: "is of another model than the one in",
    broken_model: "cannot be loaded",
    images_moved: "say with --data_dir where they are now",
}


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
def test_a_run_that_cannot_be_shown_gets_one_line(spoil, copy):
    spoil(copy)
    with pytest.raises(UserError) as error:
        main([str(copy.path), "--port", "0"])
    assert BAD[spoil].format(run=copy.path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_port_that_is_taken_or_is_none_gets_one_line(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} cannot be had .+; --port {port + 1} may be free"):
            main([str(run.path), "--port", str(port)])
    with pytest.raises(UserError, match="--port 70000: a port is a number from 0"):
        main([str(run.path), "--port", "70000"])
    with pytest.raises(UserError, match="--port: invalid int value: 'http'"):
        main([str(run.path), "--port", "http"])
