"""Archives and folders for clouds under the clouds' own code: SageMaker's toolkit with transformers 4.51.3, both
generations of Vertex AI's container, and gcloud.

Slow, and in want of a package index:

    pytest -m slow -s tests/test_cloud_toolkits.py
"""

import base64
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from test_round_trip import train
from visits import bare, bare_python, golden_files

from hub_utils.cloud import main
from hub_utils.portable.classifier import load_classifier, logits_of, probabilities_of

TOOLKIT = ("sagemaker-huggingface-inference-toolkit==2.6.0", "sagemaker-inference==1.10.1")
TOOLKIT += ("multi-model-server==1.1.11", "six", "retrying", "future")
OLD = ("transformers==4.51.3", "huggingface_hub<1", "tokenizers<0.22")
SERVER = ("hf-serve==0.1.1", "prometheus-client", "python-magic")
KINDS = {"leukemia": "native", "breast_cancer": "timm", "flowers": "custom"}
pytestmark = pytest.mark.slow


def python_with(folder: Path, *wanted: str) -> Path:
    """An environment with these packages, before the libraries that are here."""
    try:
        return bare_python(folder, *wanted)
    except subprocess.CalledProcessError:
        pytest.skip(f"no package index has {', '.join(wanted)}, or there is none that can be reached")


@pytest.fixture(scope="module")
def runs(tiny_resnet, tiny_timm, tmp_path_factory) -> dict[str, Path]:
    bases = {"microsoft/resnet-50": str(tiny_resnet), "timm/densenet201.tv_in1k": str(tiny_timm)}
    found = train(list(KINDS), bases, 40, tmp_path_factory.mktemp("trained"))
    return {name: run.path for name, run in found.items()}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[str]:
    return golden_files(tmp_path_factory.mktemp("images"))


def check(name: str, run: Path, images: list[str], answers: list[list[dict]]) -> None:
    """The run's labels, in its order, and its probabilities."""
    classifier = load_classifier(run)
    ours = probabilities_of(classifier, np.stack(list(logits_of(classifier, map(Image.open, images)))))
    labels = [label for _, label in sorted(classifier.model.config.id2label.items())]
    scores = [{each["label"]: each["score"] for each in answer} for answer in answers]
    theirs = np.array([[found[label] for label in labels] for found in scores])
    print(f"\n{name} ({KINDS[name]}): probabilities differ by {np.abs(theirs - ours).max():.1e}")
    assert [answer[0]["label"] for answer in answers] == [labels[index] for index in ours.argmax(axis=1)]
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-4)
    assert np.ptp(ours, axis=0).max() > 1e-3  # it tells pictures apart


@pytest.fixture(scope="module")
def toolkit(tmp_path_factory) -> Path:
    return python_with(tmp_path_factory.mktemp("toolkit") / "venv", *OLD, *TOOLKIT)


@pytest.mark.parametrize("name", KINDS)
def test_the_archive_answers_as_the_run_under_sagemakers_toolkit(name, toolkit, runs, images, tmp_path):
    main(["sagemaker", str(runs[name]), "--output", str(tmp_path / "model.tar.gz")])
    with tarfile.open(tmp_path / "model.tar.gz") as archive:
        archive.extractall(tmp_path / "model")
    question = {"inputs": base64.b64encode(Path(images[0]).read_bytes()).decode(), "parameters": {"top_k": 2}}
    (tmp_path / "question.json").write_text(json.dumps(question))
    (tmp_path / "bad.png").write_text("no picture")
    files = [*images, str(tmp_path / "question.json"), str(tmp_path / "bad.png")]
    (tmp_path / "asked").write_text(json.dumps({"archive": str(tmp_path / "model"), "images": files}))
    command = [toolkit, "-P", ROOT / "tests" / "toolkit_visitor.py", tmp_path / "asked", tmp_path / "answers"]
    environment = bare(os.environ) | {"HF_TASK": "image-classification", "HF_HUB_OFFLINE": "1"}
    environment["HF_HOME"] = str(tmp_path / "home")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    *answers, two, bad = json.loads((tmp_path / "answers").read_text())
    check(name, runs[name], images, answers)
    assert two == answers[0][:2]
    assert bad["code"] == 400 and bad["error"].startswith("This is a text, and JPEG, PNG")


def test_the_folders_answer_as_the_runs_with_the_transformers_of_the_older_container(runs, images, tmp_path):
    python = python_with(tmp_path / "venv", "transformers==4.48.0", "huggingface_hub<1", "tokenizers<0.22")
    questions = [{"instances": [{"b64": {"file": path}} for path in images], "parameters": {"top_k": 4}}]
    asked = []
    for name, run in runs.items():
        main(["vertex", str(run), "--output", str(tmp_path / name)])
        asked.append({"folder": str(tmp_path / name), "questions": questions})
    (tmp_path / "asked").write_text(json.dumps(asked))
    command = [python, "-P", ROOT / "tests" / "cloud_visitor.py", tmp_path / "asked", tmp_path / "answers"]
    environment = bare(os.environ) | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    for (name, run), [said] in zip(runs.items(), json.loads((tmp_path / "answers").read_text()), strict=True):
        check(name, run, images, said["answer"]["predictions"])


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Path:
    return python_with(tmp_path_factory.mktemp("server") / "venv", *SERVER)


@pytest.mark.parametrize("name", KINDS)
def test_the_folder_answers_as_the_run_under_the_server_of_vertex_ai(name, server, runs, images, tmp_path):
    main(["vertex", str(runs[name]), "--output", str(tmp_path / "model")])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = bare(os.environ) | {"HF_TASK": "custom", "HF_TRUST_REMOTE_CODE": "true", "HF_HUB_OFFLINE": "1"}
    environment |= {"AIP_MODE": "PREDICTION", "AIP_PREDICT_ROUTE": "/predict", "AIP_HEALTH_ROUTE": "/health"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "MODEL_DIR": str(tmp_path / "model")}
    command = [server, "-P", "-c", "from hf_serve.cli import main; main()", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, tmp_path / "log")
        instances = [{"b64": base64.b64encode(Path(path).read_bytes()).decode()} for path in images]
        status, answer = ask(port, {"instances": instances, "parameters": {"top_k": 4}})
        assert (status, list(answer)) == (200, ["predictions"])
        check(name, runs[name], images, answer["predictions"])
        status, refused = ask(port, {"instances": [{"b64": base64.b64encode(b"no picture").decode()}]})
        assert status == 400 and "This is a text, and JPEG, PNG" in refused["detail"]
        status, refused = ask(port, {"inputs": "x"})
        assert status == 400 and refused["detail"].startswith("the question has no 'instances'")
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(not shutil.which("gcloud"), reason="gcloud is not installed")
def test_gcloud_takes_the_lines_that_are_printed(runs, tmp_path, capsys):
    """It looks at them, and runs none."""
    main(["vertex", str(runs["leukemia"]), "--output", str(tmp_path / "a model"), "--bucket", "my-bucket"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("gcloud ")]
    assert len(lines) == 9
    environment = os.environ | {"CLOUDSDK_CONFIG": str(tmp_path / "configuration")}  # where nobody is logged in
    for line in lines:
        command = [shutil.which("gcloud"), "meta", "lint-gcloud-commands", f"--command-string={line}"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        [found] = json.loads(done.stdout)
        assert found["success"], (line, found.get("error_message"))


def wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text(errors="replace")[-3000:])


def ask(port: int, question: dict) -> tuple[int, dict]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", json.dumps(question).encode())
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=300) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
