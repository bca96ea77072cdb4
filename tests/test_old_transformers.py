"""The folders load under transformers 4.51.3, which SageMaker's and the inference toolkit's images have.

Slow, and in want of a package index:

    pytest -m slow -s tests/test_old_transformers.py
"""

import os
import subprocess

import pytest
from test_export import FORMS, saved, trained  # noqa: F401
from visits import ask, bare, bare_python, golden_files, largest_difference, question

from hub_utils.export import save_onnx, save_serving
from hub_utils.portable.golden import SIZES

PACKAGES = ("transformers==4.51.3", "huggingface_hub<1", "tokenizers<0.22")
# 4.51 resizes with PIL for transformers' own networks, where torchvision does here: a level of a colour here and there
# when a picture becomes smaller. timm's own are resized with PIL by both.
RESAMPLED = 5e-3
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    python = bare_python(tmp_path_factory.mktemp("old") / "venv", *PACKAGES)
    asked = [python, "-c", "import transformers; print(transformers.__version__)"]
    done = subprocess.run(asked, env=bare(os.environ), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "4.51.3"
    return python


@pytest.fixture(scope="module")
def answers(old, saved, tmp_path_factory) -> dict:  # noqa: F811
    folder = tmp_path_factory.mktemp("visit")
    images, questions = golden_files(folder / "images"), []
    for form in FORMS:
        save_onnx(saved[form])
        save_serving(saved[form])
        # Without it 4.51 does not find the image processor of a model type that it does not know.
        custom = {"trust_remote_code": True, "image_processor": str(saved[form])}
        questions.append(question(saved[form], images, **(custom if form.startswith("custom") else {})))
    environment = {**os.environ, "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
    return dict(zip(FORMS, ask(old, questions, folder, environment), strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_the_folder_loads_and_gives_the_golden_probabilities(form, answers, saved):  # noqa: F811
    answer = answers[form]
    assert "error" not in answer, answer["error"]
    assert answer["class"] == FORMS[form][1]
    assert (answer["missing"], answer["unexpected"]) == ([], [])
    by_pipeline = largest_difference(saved[form], answer["probabilities"])
    by_onnx = largest_difference(saved[form], answer["onnx_probabilities"])
    print(f"\n{form}: {answer['processor']}, safetensors {by_pipeline:.1e}, ONNX {by_onnx:.1e}")
    assert max(by_pipeline, by_onnx) <= (1e-4 if form == "timm" else RESAMPLED)
    # Of the very same pixels it says the same.
    pairs = zip(answer["probabilities"], answer["onnx_probabilities"], strict=True)
    assert max(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True)) <= 1e-4
    assert len(answer["probabilities"]) == len(SIZES)
