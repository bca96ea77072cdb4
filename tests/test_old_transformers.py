"""The folders load under transformers 4.51.3, which SageMaker's and the inference toolkit's images have.

Slow, and in want of a package index:

    pytest -m slow -s tests/test_old_transformers.py
"""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from test_round_trip import CUSTOM, GENTLE, REAL, real_base, train
from visits import ask, bare, bare_python, golden_files, largest_difference, question

BESIDE = ("huggingface_hub<1", "tokenizers<0.22")
# 4.51 resizes with PIL for transformers' own networks, where torchvision does here: a level of a colour here and there,
# and of a network of random weights answers moved by up to 0.009. timm's own are resized with PIL by both.
RESIZED = 2e-2
DEPLOYED = {  # a folded head and one with hidden layers, of transformers' own networks and of timm's
    "leukemia": "ResNetForImageClassification",
    "flowers": CUSTOM,
    "breast_cancer": "TimmWrapperForImageClassification",
    "flowers_densenet": CUSTOM,
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    python = bare_python(tmp_path_factory.mktemp("old") / "venv", "transformers==4.51.3", *BESIDE)
    asked = [python, "-c", "import transformers; print(transformers.__version__)"]
    done = subprocess.run(asked, env=bare(os.environ), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "4.51.3"
    return python


@pytest.fixture(scope="module")
def runs(tiny_resnet, tiny_timm, tmp_path_factory) -> dict[str, Path]:
    """By recipe; a network that timm builds with arguments (`model_args`) is none that 4.51 can build."""
    bases = {"microsoft/resnet-50": str(tiny_resnet), "timm/densenet201.tv_in1k": str(tiny_timm)}
    found = train(list(DEPLOYED), bases, 40, tmp_path_factory.mktemp("trained"))
    return {name: run.path for name, run in found.items()}


def ask_old(old: Path, runs: Mapping[str, Path], deployed: Mapping[str, str], folder: Path) -> dict[str, dict]:
    """What 4.51.3 says of the golden images, by recipe."""
    images, questions = golden_files(folder / "images"), []
    for name, run in runs.items():
        # Without it 4.51 does not find the image processor of a model type that it does not know.
        custom = {"trust_remote_code": True, "image_processor": str(run)}
        questions.append(question(run, images, **(custom if deployed[name] == CUSTOM else {})))
    environment = {**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    return dict(zip(runs, ask(old, questions, folder, environment), strict=True))


def check(run: Path, deployed: str, answer: dict, name: str) -> None:
    assert "error" not in answer, answer["error"]
    assert answer["class"] == deployed
    assert (answer["missing"], answer["unexpected"]) == ([], [])
    assert np.ptp(answer["probabilities"], axis=0).max() > 1e-3  # it tells pictures apart
    by_pipeline = largest_difference(run, answer["probabilities"])
    by_onnx = largest_difference(run, answer["onnx_probabilities"])
    pairs = zip(answer["probabilities"], answer["onnx_probabilities"], strict=True)
    of_equal_pixels = max(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True))
    print(
        f"\n{name}: {answer['class']}, {answer['processor']}: golden answers differ by {by_pipeline:.1e} and through "
        f"ONNX by {by_onnx:.1e}; both of equal pixels by {of_equal_pixels:.1e}"
    )
    assert max(by_pipeline, by_onnx) <= (1e-4 if deployed.startswith("Timm") else RESIZED)
    assert of_equal_pixels <= 1e-4


@pytest.fixture(scope="module")
def answers(old, runs, tmp_path_factory) -> dict:
    return ask_old(old, runs, DEPLOYED, tmp_path_factory.mktemp("visit"))


@pytest.mark.parametrize("name", DEPLOYED)
def test_the_folder_loads_and_gives_the_golden_probabilities(name, answers, runs):
    check(runs[name], DEPLOYED[name], answers[name], name)


@pytest.mark.parametrize("base", REAL)
def test_the_real_architectures_load_as_well(base, old, tmp_path):
    found = train(list(REAL[base]), {base: real_base(base, tmp_path / "base")}, None, tmp_path, GENTLE)
    runs = {name: run.path for name, run in found.items()}
    for name, answer in ask_old(old, runs, REAL[base], tmp_path).items():
        check(runs[name], REAL[base][name], answer, f"{base}, head of {name}")
        if answer["shapes"][0] == [3, 224, 224]:  # cut from a picture of 256, which "square" is: nothing is resized
            stored = json.loads((runs[name] / "serving.json").read_text(encoding="utf-8"))["golden"]["images"]
            pairs = zip(stored, answer["probabilities"], strict=True)
            [square] = [(image["probabilities"], found) for image, found in pairs if image["name"] == "square"]
            np.testing.assert_allclose(*square, rtol=0, atol=1e-4)
