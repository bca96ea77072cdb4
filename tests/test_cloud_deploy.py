"""A model on SageMaker and Vertex AI: nothing goes there by itself, and what is printed is what runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_cloud import ROLE, saved

from hub_utils import sagemaker
from hub_utils.cloud import main
from hub_utils.portable.command import UserError


@pytest.fixture(scope="module")
def run(tiny_resnet, tmp_path_factory) -> Path:
    return saved("native", tiny_resnet, tmp_path_factory.mktemp("models"))


STAND_IN = """
import json, pathlib, sys
calls = pathlib.Path({calls!r})

class Any:
    def __init__(self, name): self.name = name
    def __getattr__(self, name): return Any(f"{{self.name}}.{{name}}")
    def __getitem__(self, name): return Any(f"{{self.name}}.{{name}}")
    def __call__(self, *args, **kwargs):
        if self.name.endswith(".get_credentials"): return {credentials}
        with calls.open("a") as file: file.write(json.dumps([self.name, args, kwargs], default=str) + "\\n")
        if self.name.endswith({fails!r}): raise RuntimeError("AccessDenied for hf_" + "aB3" * 12)
        return self

Session = Any("Session")
"""


@pytest.fixture
def boto3(tmp_path, monkeypatch):
    """Makes a stand-in for boto3, which is found before any other, and writes down what it is asked for."""

    def make(credentials="True", fails="nothing") -> Path:
        calls = tmp_path / "calls"
        (tmp_path / "stand-in").mkdir(exist_ok=True)
        stand_in = STAND_IN.format(calls=str(calls), credentials=credentials, fails=fails)
        (tmp_path / "stand-in" / "boto3.py").write_text(stand_in)
        monkeypatch.syspath_prepend(tmp_path / "stand-in")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stand-in"))
        monkeypatch.delitem(sys.modules, "boto3", raising=False)
        return calls

    yield make
    sys.modules.pop("boto3", None)


def to_aws(run, tmp_path, *more) -> list[str]:
    output = str(tmp_path / "a.tar.gz")
    return ["sagemaker", str(run), "--output", output, "--bucket", "mine", "--role", ROLE, *more]


def test_nothing_is_deployed_without_deploy(run, tmp_path, boto3, capsys):
    calls = boto3()
    main(to_aws(run, tmp_path))
    assert not calls.exists()
    said = capsys.readouterr().out
    assert "nothing is deployed" in said and said.splitlines()[-1].endswith("--deploy")


def test_what_is_printed_for_aws_runs_as_it_stands(run, tmp_path, boto3, capsys):
    calls = boto3()
    (tmp_path / "photo.jpg").write_bytes(b"photo")
    main(to_aws(run, tmp_path))
    said = capsys.readouterr().out
    program = said[said.index("# deploy") : said.index("wrote ")]  # deploys it, asks it and takes it down
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=60)
    made = [json.loads(line) for line in calls.read_text().splitlines()]
    names = [name.rpartition(".")[2] for name, _, _ in made]
    assert names.index("wait") < names.index("invoke_endpoint") < names.index("delete_endpoint")
    assert names[-4:-2] == ["delete_endpoint_config", "delete_model"]
    assert made[-1][2] == {"Bucket": "mine", "Key": "native-run/model.tar.gz"} and names[-1] == "delete_object"


def test_deploy_runs_what_was_printed(run, tmp_path, boto3, capsys):
    calls = boto3()
    main(to_aws(run, tmp_path, "--deploy"))
    made = [json.loads(line) for line in calls.read_text().splitlines()]
    names = [name.rpartition(".")[2] for name, _, _ in made]
    assert names == [
        "Session", "Session", "client", "upload_file", "client", "create_model", "create_endpoint_config",
        "create_endpoint", "get_waiter", "wait",
    ]  # fmt: skip
    (_, upload, _), (_, _, model), (_, _, variants) = (made[names.index(each)] for each in (
        "upload_file", "create_model", "create_endpoint_config"))  # fmt: skip
    assert upload == [str(tmp_path / "a.tar.gz"), "mine", "native-run/model.tar.gz"]
    container = model["PrimaryContainer"]
    assert (model["ExecutionRoleArn"], container["ModelDataUrl"]) == (ROLE, "s3://mine/native-run/model.tar.gz")
    assert container["Environment"] == {"HF_TASK": "image-classification"}
    assert variants["ProductionVariants"][0]["InstanceType"] == "ml.m5.large"
    said = capsys.readouterr().out
    assert "delete_endpoint(EndpointName='native-run')" in said and "costs money until you take it down" in said


def test_what_aws_refuses_is_one_line_without_tokens(run, tmp_path, boto3):
    boto3(fails="create_endpoint")
    with pytest.raises(UserError, match=r"AWS did not take it: .*AccessDenied for .*take it down") as raised:
        main(to_aws(run, tmp_path, "--deploy"))
    assert "aB3" not in str(raised.value)


def test_without_boto3_or_credentials_nothing_is_even_written(run, tmp_path, boto3, monkeypatch):
    boto3(credentials="None")
    with pytest.raises(UserError, match="there are no credentials: aws configure"):
        main(to_aws(run, tmp_path, "--deploy"))
    monkeypatch.setattr(sagemaker.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"boto3, which is not installed: pip install boto3"):
        main(to_aws(run, tmp_path, "--deploy"))
    assert not (tmp_path / "a.tar.gz").exists()


GCLOUD = """
import json, pathlib, sys
with pathlib.Path({calls!r}).open("a") as file: file.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[1] == "config": print({known!r})
if {fails!r} in sys.argv: sys.exit("Some help.\\nERROR: (gcloud.ai) PERMISSION_DENIED:  not you")
"""


@pytest.fixture
def gcloud(tmp_path, monkeypatch):
    """Makes a stand-in for gcloud on an otherwise empty path, which writes down what it is asked for."""

    def make(known="alice@example.com\tproject", fails="nothing") -> Path:
        folder, calls = tmp_path / "bin", tmp_path / "calls"
        folder.mkdir(exist_ok=True)
        script = folder / "stand_in.py"
        script.write_text(GCLOUD.format(calls=str(calls), known=known, fails=fails))
        if os.name == "nt":
            (folder / "gcloud.cmd").write_text(f'@"{sys.executable}" "{script}" %*\n')
        else:
            (folder / "gcloud").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
            (folder / "gcloud").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))
        return calls

    return make


def to_google(run, tmp_path, *more) -> list[str]:
    return ["vertex", str(run), "--output", str(tmp_path / "a"), "--bucket", "mine", *more]


def test_deploy_runs_the_lines_of_gcloud_in_turn(run, tmp_path, gcloud, capsys):
    calls = gcloud()
    main(to_google(run, tmp_path))
    assert not calls.exists()
    printed = capsys.readouterr().out
    main(to_google(run, tmp_path, "--deploy"))
    _, *made = [json.loads(line) for line in calls.read_text().splitlines()]
    assert [words[:3] for words in made] == [
        ["storage", "rsync", str(tmp_path / "a")], ["ai", "models", "upload"], ["ai", "endpoints", "create"],
        ["ai", "endpoints", "deploy-model"],
    ]  # fmt: skip
    lines = [line for line in printed.splitlines() if line.startswith("gcloud ")]
    assert lines[:4] == [" ".join(["gcloud", *words]) for words in made]
    assert "--container-env-vars=HF_TASK=custom,HF_TRUST_REMOTE_CODE=true" in made[1]


def test_what_gcloud_lacks_or_refuses_is_one_line(run, tmp_path, gcloud, monkeypatch):
    calls = gcloud(fails="create")
    with pytest.raises(UserError, match=r"ERROR: \(gcloud.ai\) PERMISSION_DENIED: not you; what was made until then"):
        main(to_google(run, tmp_path, "--deploy"))
    assert "deploy-model" not in calls.read_text()
    gcloud(known="alice@example.com")
    with pytest.raises(UserError, match="wants gcloud to know your account and project"):
        main(to_google(run, tmp_path, "--deploy"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="gcloud, which is not installed: https://"):
        main(to_google(run, tmp_path, "--deploy"))
