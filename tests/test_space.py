"""What a bundle holds, what a Space can be made of, and which pictures may be shown on it."""

import ast
import csv
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from importlib.metadata import distribution, version
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from PIL import Image

from hub_utils import bundle
from hub_utils.bundle import SPACES, Model, app_text, contents, may_go, names, needed, write
from hub_utils.clean_start import blocked_modules
from hub_utils.examples import take_examples
from hub_utils.portable.command import UserError
from hub_utils.space import main
from hub_utils.wanted import TAKEN, find, of_run
from training.recipe import load_recipe

SIX = ["breast_cancer", "digits", "dog_breeds", "flowers", "leukemia", "rocks"]
HIDDEN = "hf_hiddenhiddenhiddenhidden"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
SLIM = ["gradio", "openvino", "numpy", "pillow", "huggingface_hub", "markdown-it-py"]


def front_matter(readme: str) -> dict:
    return yaml.safe_load(readme.split("---\n")[1])


def model(name: str = "digits", files=("config.json", "onnx/model.onnx", "serving.json"), **how) -> Model:
    """One on the Hub, trained by the recipe of this name."""
    trained = {"recipe": {"name": name, "data": {"classes": 10}}, "classes": list("0123456789")}
    return Model(name, frozenset(files), **({"repo_id": f"you/{name}", "revision": COMMIT} | trained | how))


def refusal(*words: str) -> str:
    """The one line that a command is refused with."""
    with pytest.raises(UserError) as refused, redirect_stdout(io.StringIO()):
        main(list(words))
    assert "\n" not in str(refused.value)
    return str(refused.value)


# The folders under spaces/


def test_there_is_a_space_for_each_of_the_six_data_sets_and_a_suite():
    assert names() == SIX
    assert sorted(path.parent.name for path in SPACES.glob("*/app.py")) == sorted([*SIX, "suite"])


@pytest.mark.parametrize("name", SIX)
def test_every_app_is_the_same_but_for_its_name(name):
    assert (SPACES / name / "app.py").read_text() == app_text(name)
    assert len(app_text(name).splitlines()) <= 12


def test_an_app_is_as_ruff_would_format_it():
    for text in (app_text("digits"), app_text("suite", SIX)):
        done = subprocess.run(["ruff", "format", "--line-length=120", "-"], input=text, capture_output=True, text=True)
        assert done.stdout == text, done.stderr


def test_the_suite_is_written_as_the_others_are():
    text = (SPACES / "suite" / "app.py").read_text()
    shown = re.findall(r'"(\w+)"', text.partition("build_suite(")[2].partition(")")[0])
    assert sorted(shown) == SIX and text == app_text("suite", shown)


@pytest.mark.parametrize("name", [*SIX, "suite"])
def test_every_readme_says_what_the_hub_must_know(name):
    facts = front_matter((SPACES / name / "README.md").read_text(encoding="utf-8"))
    fixed = {"sdk": "gradio", "app_file": "app.py", "python_version": "3.12", "pinned": False, "license": "apache-2.0"}
    assert fixed.items() <= facts.items()
    assert {facts["colorFrom"], facts["colorTo"]} <= set(COLOURS)
    assert len(facts["short_description"]) <= 60
    if name != "suite":
        assert facts["title"] == load_recipe(name).title


def test_only_digits_bring_example_pictures_and_their_licence_is_told():
    pictures = sorted(path.relative_to(SPACES).as_posix() for path in SPACES.glob("*/examples/*"))
    assert {path.split("/")[0] for path in pictures} == {"digits"} and len(pictures) == 10
    text = (SPACES / "digits" / "README.md").read_text(encoding="utf-8")
    assert "CC BY 4.0" in text and "BSD-3-Clause" in text
    for path in pictures:
        with Image.open(SPACES / path) as image:
            assert image.size == (256, 256) and not image.info


# The bundle


def test_the_page_travels_byte_for_byte_with_all_that_it_imports_and_nothing_else():
    files = contents("digits", [model()], {})
    code = {path: content for path, content in files.items() if path.startswith("hub_utils/")}
    assert all(content == (ROOT / path).read_bytes() for path, content in code.items())
    assert {"hub_utils/__init__.py", "hub_utils/portable/__init__.py", "hub_utils/portable/demo.py"} <= code.keys()
    assert {path.relative_to(ROOT).as_posix() for path in needed()} == code.keys()
    assert not {path for path in code if "training" in path or path.count("/") > 2}
    assert all(map(may_go, files))


def test_a_model_with_an_onnx_file_needs_no_torch_and_versions_are_those_installed_here():
    lines = contents("digits", [model()], {})["requirements.txt"].decode().split()
    assert lines == [f"{name}=={version(name)}" for name in SLIM]
    lines = contents("digits", [model(files=["config.json"])], {})["requirements.txt"].decode().split()
    assert {"torch", "torchvision", "transformers", "timm"} < {line.partition("==")[0] for line in lines}
    assert not [line for line in lines if "+" in line]


def test_a_model_that_only_transformers_prepares_pictures_for_needs_it_with_an_onnx_file_too(colours, tmp_path):
    run = shutil.copytree(colours.path, tmp_path / "run")
    assert of_run("colours", run).slim
    path = run / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_processor_type": "SomebodysImageProcessor"}))
    assert not of_run("colours", run).slim


def test_the_readme_names_the_model_its_commit_and_the_version_of_gradio():
    text = contents("digits", [model()], {})["README.md"].decode()
    facts = front_matter(text)
    assert (facts["models"], facts["sdk_version"]) == (["you/digits"], version("gradio"))
    assert facts["preload_from_hub"] == [f"you/digits config.json,onnx/model.onnx,serving.json {COMMIT}"]
    assert facts["title"] == "Handwritten digits" and f"you/digits/tree/{COMMIT}" in text
    assert json.loads(contents("digits", [model()], {})["model.json"]) == {
        "digits": {"model": "you/digits", "revision": COMMIT}
    }


def test_a_private_model_is_not_fetched_while_the_space_is_built_without_a_token():
    assert "preload_from_hub" not in front_matter(contents("digits", [model(private=True)], {})["README.md"].decode())


def test_the_weights_are_not_fetched_where_the_onnx_file_answers():
    of_files = ["config.json", "model.safetensors", "onnx/model.onnx", "plots/recall.png", "local/a.json"]
    assert bundle._preload(model(files=of_files)).split()[1] == "config.json,onnx/model.onnx,plots/recall.png"
    assert "model.safetensors" in bundle._preload(model(files=["config.json", "model.safetensors"]))


def test_a_bundle_of_a_run_that_is_only_here_names_no_folder_of_this_machine(colours):
    files = contents("colours", [of_run("colours", colours.path)], {})
    assert "model.json" not in files
    assert not [path for path, content in files.items() if str(colours.path).encode() in content]


def test_a_page_of_somebodys_own_run_has_its_title_and_its_classes(colours):
    text = contents("birds", [of_run("birds", colours.path)], {})["README.md"].decode()
    facts = front_matter(text)
    assert (facts["title"], facts["sdk"], facts["python_version"]) == ("Colours", "gradio", "3.12")
    assert facts["short_description"] == "A picture in, one of 3 classes out" and "blue, green, red" in text


def test_a_run_of_patients_is_said_to_be_no_diagnosis(colours, tmp_path):
    run = shutil.copytree(colours.path, tmp_path / "cells")
    change(run, medical=True, title="Cells: *so* `bad`\n---\nlicense: mit")
    text = contents("cells", [of_run("cells", run)], {})["README.md"].decode()
    assert "no medical device" in text
    assert front_matter(text)["license"] == "apache-2.0" and "\n---\nlicense: mit" not in text


def test_a_model_that_is_only_called_like_one_of_ours_is_told_of_by_its_own_files(colours):
    for other in (model("leukemia", recipe={}), model("digits", classes=["cat", "dog"])):
        text = contents(other.name, [other], {})["README.md"].decode()
        assert "Leukemia" not in text and "Handwritten" not in text
        assert f"A picture in, one of {len(other.classes)} classes out" in text
    assert (
        "Handwritten digits"
        in contents("digits", [model(recipe=model().recipe | {"name": "digits_2"})], {})["README.md"].decode()
    )


def test_a_suite_of_others_says_how_many_there_are_and_not_which_ours_are():
    text = contents("suite", [model("digits"), model("birds")], {})["README.md"].decode()
    assert front_matter(text)["short_description"] == "Image classifiers behind one door: 2"


def test_a_suite_names_the_models_that_it_has():
    files = contents("suite", [model("digits"), model("birds", files=["config.json"])], {})
    assert b'build_suite(["digits", "birds"])' in files["app.py"]
    assert front_matter(files["README.md"].decode())["models"] == ["you/digits", "you/birds"]
    assert b"torch" in files["requirements.txt"]
    assert json.loads(files["model.json"]).keys() == {"digits", "birds"}


def test_no_module_of_a_bundle_that_is_started_here_comes_from_elsewhere():
    blocked = set(blocked_modules(contents("digits", [model()], {})))
    assert {"torch", "transformers", "scipy", "training", "hub_utils.export", "hub_utils.space"} <= blocked
    assert not blocked & {"gradio", "pandas", "numpy", "PIL", "yaml", "hub_utils", "hub_utils.portable.demo", "json"}


def test_a_bundle_takes_the_place_of_a_bundle_and_of_nothing_else(tmp_path):
    files, folder = contents("digits", [model()], {"1.png": b"png"}), tmp_path / "bundles" / "digits"
    write(files, folder)
    (folder / "hub_utils" / "__pycache__").mkdir()
    (folder / "hub_utils" / "__pycache__" / "demo.pyc").write_bytes(b"")
    write({path: content for path, content in files.items() if path != "examples/1.png"}, folder)
    assert not (folder / "examples").exists() and not (folder / "hub_utils" / "__pycache__").exists()
    for path in ("hub_utils/__pycache__/precious.txt", ".git/HEAD", "examples/.git"):
        (folder / path).parent.mkdir(exist_ok=True, parents=True)
        (folder / path).write_text("mine") if path.endswith((".txt", "D")) else (folder / path).mkdir()
        with pytest.raises(UserError, match=re.escape(f"holds {path}")):
            write(files, folder)
        assert (folder / path).exists()
        shutil.rmtree(folder / Path(path).parent)
    (folder / ".git").mkdir()
    with pytest.raises(UserError, match=r"holds \.git,"):
        write(files, folder)
    (folder / ".git").rmdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt.*--output"):
        write(files, folder)
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in folder.parent.iterdir()] == ["digits"]


@pytest.mark.parametrize("name", ["app.py", "README.md", "photos/1.jpg", "hub_utils/portable/mine.txt"])
def test_a_folder_of_somebody_elses_is_refused_and_stays_as_it_is(tmp_path, name):
    folder = tmp_path / "mine"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("mine")
    with pytest.raises(UserError, match=re.escape(name)):
        write(contents("digits", [model()], {}), folder)
    assert [path for path in folder.rglob("*") if path.is_file()] == [folder / name]


def test_a_file_in_the_way_is_no_folder(tmp_path):
    (tmp_path / "digits").write_text("mine")
    with pytest.raises(UserError, match="no folder"):
        write(contents("digits", [model()], {}), tmp_path / "digits")


def test_the_pictures_of_digits_go_with_its_page_and_with_the_suite(here, colours):
    for name in ("digits", "rocks"):
        trained_as(shutil.copytree(colours.path, here / "runs" / name), name)
    with redirect_stdout(io.StringIO()):
        main(["digits", "--no_check"])
        main(["suite", "--no_check"])
    for folder in ("digits/examples", "suite/examples/digits"):
        assert (here / "bundles" / folder / "02-1.png").read_bytes() == (
            SPACES / "digits" / "examples" / "02-1.png"
        ).read_bytes()
    assert [path.name for path in (here / "bundles" / "suite" / "examples").iterdir()] == ["digits"]
    trained_as(here / "runs" / "digits", "colours")
    with redirect_stdout(io.StringIO()):
        main(["digits", "--no_check"])
        main(["suite", "--no_check"])
    assert not list((here / "bundles").rglob("*.png"))


def test_names_of_the_pictures_may_stand_in_our_own_code(here, colours):
    run = shutil.copytree(colours.path, here / "runs" / "colours")
    splits = run / "local" / "splits.csv"
    named = ["camera.jpg", "cat.jpg", "base64.png", "softmax.png"]
    splits.write_text(splits.read_text() + "".join(f"{name},{'0' * 64},red,train,\n" for name in named))
    with redirect_stdout(io.StringIO()):
        main(["runs/colours", "--no_check"])
    change(run, title="Colours of softmax.png")
    assert "README.md, line 2: the name of an image of the data set" in refusal("runs/colours", "--no_check")


def test_a_picture_that_was_chosen_may_be_the_very_file_of_the_data_set(here, run, monkeypatch):
    splits, data = run / "local" / "splits.csv", run / "local" / "data.json"
    (only,) = take_examples(run, 1, public=True).files.values()
    (here / "photos").mkdir()
    (here / "photos" / "01.png").write_bytes(only)
    splits.write_text(f"path,sha256,label,split,group\n01.png,{hashlib.sha256(only).hexdigest()},blue,test,\n")
    data.write_text(json.dumps({"data_dir": str(here / "photos")}))
    with redirect_stdout(io.StringIO()):
        main([str(run), "--no_check", "--examples", "1"])
    assert (here / "bundles" / "run" / "examples" / "01-blue.png").read_bytes() == only


BROKEN = {
    "config.json": ["[]", "{", '{"id2label": ["a", "b"]}', '{"id2label": ["0", "1"]}', '{"label_names": 3}', b"\xff"],
    "recipe.json": ["[]", '{"recipe": null}', '{"recipe": {"card": null}}', '{"recipe": {"data": [], "card": {}}}']
    + ['{"recipe": {"card": {"data_license": ["mit"]}}}', '{"recipe": {"data": {"source": 7}, "card": {}}}', "{}"],
    "local/splits.csv": ["path,label,split,sha256\na.png,red,test,00\n", b"path,label\n\xff,1\n", "path,group\na\n"],
    "local/data.json": ["{", "[]", '{"data_dir": ["photos"]}', b"\xff"],
}


@pytest.mark.parametrize(("file", "said"), [(file, said) for file, several in BROKEN.items() for said in several])
def test_what_is_half_written_or_of_another_is_said_to_be_in_one_sentence(here, run, file, said):
    (run / file).write_bytes(said if isinstance(said, bytes) else said.encode())
    told = refusal(str(run), "--no_check", "--examples", "3")
    assert str(run) in told
    assert not (here / "bundles").exists()


def test_a_folder_with_nothing_but_weights_of_somebody_elses_is_bundled_without_a_recipe(here, run):
    shutil.rmtree(run / "local")
    (run / "recipe.json").unlink()
    with redirect_stdout(io.StringIO()):
        main([str(run), "--no_check"])
    assert "title: run" in (here / "bundles" / "run" / "README.md").read_text()


# Words


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put_run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_a_name_is_the_run_that_is_here_or_the_model_that_is_named(here):
    assert "there is no model for 'digits'" in refusal("digits")
    assert find("digits", ["you/digits"], "v1").repos == {"digits": "you/digits"}
    put_run(here / "runs" / "digits")
    found = find("digits", [])
    assert (found.name, found.runs, found.repos) == ("digits", {"digits": Path("runs/digits")}, {})


def test_accents_are_taken_off_a_name(here):
    put_run(here / "runs" / "Ünïcode my_birds")
    assert find("runs/Ünïcode my_birds", []).name == "Unicode-my_birds"


def test_a_model_called_suite_is_a_page_like_any_other():
    assert find("you/suite", []).name == "you-suite"


def test_no_page_of_the_suite_is_called_as_what_gradio_answers_itself():
    source = Path(distribution("gradio").locate_file("gradio/routes.py")).read_text(encoding="utf-8")  # read at once
    [routes] = re.findall(r"^INTERNAL_ROUTES = (\[.+?\])", source, re.MULTILINE | re.DOTALL)
    assert set(ast.literal_eval(routes)) == TAKEN


def test_a_run_of_ones_own_and_any_repo_of_the_hub_need_no_folder_under_spaces(here):
    put_run(here / "runs" / "my birds")
    assert find("runs/my birds", []).name == "my-birds"
    found = find("microsoft/resnet-50", [], "main")
    assert (found.name, found.repos, found.revision) == ("resnet-50", {"resnet-50": "microsoft/resnet-50"}, "main")


def test_the_suite_is_of_every_run_or_of_the_models_that_are_named(here):
    assert "there is no run in runs/" in refusal("suite")
    put_run(here / "runs" / "digits")
    put_run(here / "runs" / "rocks")
    assert list(find("suite", []).runs) == ["digits", "rocks"]
    found = find("suite", ["birds=you/birds", "rocks=you/rocks"])
    assert found.repos == {"birds": "you/birds", "rocks": "you/rocks"}
    assert found.runs == {"birds": None, "rocks": Path("runs/rocks")}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["digit"], "no Space or run 'digit'; there are breast_cancer, digits"),
        (["digits", "--model", "you/a", "--model", "you/b"], "a page has one model"),
        (["suite", "--model", "you/a"], "the suite has several"),
        (["suite", "--model", "a=you/a", "--revision", "v1"], "--revision is for one model"),
        (["runs/suite"], "has a name that no page can have"),
        (["digits", "--revision", "v1"], "--revision v1 is one of a repo on the Hub"),
        (["digits", "--revision", ""], "--revision is empty"),
        ([""], "NAME_OR_RUN is empty"),
        (["suite", "--model", ""], "--model is empty"),
        (["runs/none"], "there is no folder 'runs/none'"),
        (["./none"], "there is no folder './none'"),
        (["runs"], "'runs' is no run: it has no config.json"),
        (["suite", "--model", "config=you/a"], "gradio takes this name for itself"),
        (
            ["suite", "--model", "a=you/a", "--model", "a=you/b"],
            "a model of this name already; choose another, as --model a-2",
        ),
        (["digits", "--clean", "--no_check"], "--clean is a way to try"),
        (["digits", "--public"], "--public is for a Space on the Hub"),
        (["digits", "--replace_changes"], "--replace_changes is for a Space on the Hub: add --push"),
        (["digits", "--push", "--i_have_the_right"], "add --examples N"),
        (["digits", "--push", "--variable", f"A={HIDDEN}"], "looks like a token or a password"),
        (["digits", "--push", "--variable", HIDDEN], "looks like a token or a password"),
        (["digits", "--push", "--variable", "A=1", "--variable", "A=2"], "--variable A is there twice"),
        (["digits", "--push", "--secret", HIDDEN], "there is no environment variable hf_…"),
        (["digits", "--push", "--variable", "HOME=1", "--secret", "HOME"], "--variable HOME and --secret HOME"),
        (["digits", HIDDEN], "unrecognized arguments: hf_…"),
        (["digits", "--hardware", "zero-a10g"], "--hardware is for a Space on the Hub: add --push"),
        (["digits", "--secret", "A"], "add --push"),
        (["digits", "--push", "--variable", "A"], "NAME=VALUE is wanted"),
        (["digits", "--push", "--secret", "NOT_SET"], "there is no environment variable NOT_SET"),
        (["digits", "--push", "--secret", "A=hidden"], "--secret takes a NAME"),
        (["digits", "--example", "3"], "unrecognized arguments"),
        ([], "required: NAME_OR_RUN"),
        (["digits", "--output", "mine"], "holds a.txt"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is(here, words, said):
    for name in ("digits", "suite"):
        put_run(here / "runs" / name)
    (here / "mine").mkdir()
    (here / "mine" / "a.txt").write_text("mine")
    told = refusal(*words)
    assert said in told and "hidden" not in told
    assert not (here / "bundles").exists()


def test_help_imports_nothing_that_takes_its_time():
    code = (
        "import sys; from hub_utils.space import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'gradio', 'huggingface_hub', 'numpy', 'PIL', 'openvino'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert told.splitlines()[-1] == "[]" and "--examples" in told


# Examples


def trained_as(run: Path, name: str) -> None:
    """Let a run of three classes be one of the recipe `name`."""
    known = json.loads((run / "recipe.json").read_text())
    known["recipe"]["name"], known["recipe"]["data"]["classes"] = name, 3
    (run / "recipe.json").write_text(json.dumps(known))


def change(run: Path, title: str | None = None, **card: object) -> None:
    """Let the recipe of a run say other things of its data."""
    path = run / "recipe.json"
    known = json.loads(path.read_text())
    known["recipe"]["card"] |= card
    known["recipe"] |= {"title": title} if title else {}
    path.write_text(json.dumps(known))


@pytest.fixture
def run(colours, tmp_path) -> Path:
    """A copy that a test may spoil, of pictures that may be passed on."""
    run = shutil.copytree(colours.path, tmp_path / "run")
    change(run, data_license="CC BY 4.0", citation="Somebody (2026).")
    return run


def test_examples_are_of_each_class_in_turn_from_the_test_split_and_the_same_each_time(run):
    found = take_examples(run, 7, public=True)
    assert [name[3:] for name in found.files] == [f"{n}.png" for n in ("blue", "green", "red") * 2] + ["blue.png"]
    assert found == take_examples(run, 7, public=True)
    assert "CC BY 4.0" in found.credit and "Somebody (2026)." in found.credit
    with (run / "local" / "splits.csv").open() as file:
        tested = sum(row["split"] == "test" for row in csv.DictReader(file))
    assert len(take_examples(run, 48, public=True).files) == tested < 48


def test_small_pictures_are_enlarged_and_answered_as_before(run):
    from hub_utils.portable.predictor import load_predictor

    predictor = load_predictor(run)
    for name, content in take_examples(run, 6, public=True).files.items():
        with Image.open(io.BytesIO(content)) as image:
            assert image.size == (320, 256), name
    photos = json.loads((run / "local" / "data.json").read_text())["data_dir"]
    with (run / "local" / "splits.csv").open() as file:
        rows = sorted((row for row in csv.DictReader(file) if row["split"] == "test"), key=lambda row: row["sha256"])
    first = next(row for row in rows if row["label"] == "blue")
    before, after = predictor(
        [
            Image.open(Path(photos, first["path"])).convert("RGB"),
            Image.open(io.BytesIO(take_examples(run, 1, public=True).files["01-blue.png"])),
        ]
    )
    assert abs(before.probabilities - after.probabilities).max() < 0.05


def test_nothing_but_pixels_goes_along_with_a_photograph(run, tmp_path):
    photos, rows = tmp_path / "photos", []
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "taken at home"  # turned; a description
    photos.mkdir()
    Image.new("RGB", (1200, 600), "teal").save(photos / "home.jpg", exif=exif, comment=b"mine")
    digest = hashlib.sha256((photos / "home.jpg").read_bytes()).hexdigest()
    rows.append(f"home.jpg,{digest},Ä b/c ☃,test,")
    (run / "local" / "splits.csv").write_text(
        "path,sha256,label,split,group\n" + "\n".join(rows) + "\n", encoding="utf-8"
    )
    (run / "local" / "data.json").write_text(json.dumps({"data_dir": str(photos)}))
    ((name, content),) = take_examples(run, 3, public=True).files.items()
    assert name == "01-A-b-c.jpg" and b"home" not in content and b"mine" not in content
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (256, 512) and not image.getexif()


@pytest.mark.parametrize("have_the_right", [False, True])
def test_no_picture_of_a_patient_is_an_example_whoever_has_the_right(run, have_the_right):
    change(run, medical=True)
    with pytest.raises(UserError, match="medical pictures are no examples"):
        take_examples(run, 3, public=False, have_the_right=have_the_right)
    change(run, medical=False)
    splits = run / "local" / "splits.csv"
    splits.write_text(splits.read_text().replace(",test,\n", ",test,patient 7\n"))
    with pytest.raises(UserError, match="pictures of groups that the data names"):
        take_examples(run, 3, public=False, have_the_right=have_the_right)


def test_groups_of_pictures_found_alike_are_no_patients(run):
    splits = run / "local" / "splits.csv"
    splits.write_text(splits.read_text().replace(",test,\n", ",test,sha256:abc\n"))
    assert take_examples(run, 3, public=True).files


def test_pictures_that_may_not_be_passed_on_want_somebody_who_has_the_right(run):
    change(run, data_license="CC BY-NC 4.0")
    with pytest.raises(UserError, match=r"'CC BY-NC 4\.0'.*--i_have_the_right"):
        take_examples(run, 3, public=False)
    assert take_examples(run, 3, public=True, have_the_right=True).files


def test_ones_own_pictures_are_shown_to_oneself_and_to_others_only_with_a_word(run):
    change(run, data_license="unknown")
    assert take_examples(run, 3, public=False).files
    with pytest.raises(UserError, match="--public shows the examples to everybody"):
        take_examples(run, 3, public=True)


@pytest.mark.parametrize("count", [0, -1, 49])
def test_a_page_takes_few_examples(run, count):
    with pytest.raises(UserError, match=f"--examples {count}: 1 to 48"):
        take_examples(run, count, public=True)


def test_pictures_that_are_gone_or_others_are_said_to_be(run, tmp_path):
    notes = run / "local" / "data.json"
    notes.write_text(json.dumps({"data_dir": str(tmp_path / "gone")}))
    with pytest.raises(UserError, match="are not where they were"):
        take_examples(run, 3, public=True)
    notes.write_text(json.dumps({"dataset": "you/colours"}))
    with pytest.raises(UserError, match="the data set 'you/colours' on the Hub"):
        take_examples(run, 3, public=True)
    shutil.rmtree(run / "local")
    with pytest.raises(UserError, match=r"splits\.csv.*is missing"):
        take_examples(run, 3, public=True)
