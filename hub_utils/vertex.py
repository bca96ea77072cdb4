"""Google's Vertex AI: the folder that its Hugging Face containers serve, and the lines of gcloud that put it there.

What was found in github.com/huggingface/Google-Cloud-Containers (Dockerfile and entrypoint.sh of
containers/pytorch/inference/cpu), which the containers are made of: the folder is copied from AIP_STORAGE_URI, its
requirements.txt is installed, and its handler.py answers. There are two generations. The last that is known by its
address has transformers 4.48 and huggingface-inference-toolkit 0.5, which takes a handler.py wherever there is one; the
next has transformers 5.13 and hf-serve 0.1.1, which wants HF_TASK=custom and HF_TRUST_REMOTE_CODE for that: what is
trusted is the handler, which stands in the folder. Without it the two answer in different forms, take no {"b64": …},
and fetch any address that a question holds.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from hub_utils.deployable import Deployable, with_code
from hub_utils.portable.command import UserError
from hub_utils.portable.tokens import without_token
from hub_utils.portable.whole import write_bytes

ENTRY = ("vertex_handler", "handler.py")
REGION = "us-central1"
MACHINE = "n1-standard-2"
PRICE = (
    "an n1-standard-2 costs about 0.11 USD an hour, 80 a month (us-central1, 2025), from now until you take it down, "
    "asked or not; now: https://cloud.google.com/vertex-ai/pricing"
)
TRANSFORMERS = "4.48"
IMAGE = (
    "us-docker.pkg.dev/deeplearning-platform-release/gcr.io/"
    "huggingface-pytorch-inference-cpu.2-3.transformers.4-48.ubuntu2204.py311"
)
INSTALL = "https://cloud.google.com/sdk/docs/install"
DEPLOYED = "1"  # the id of the model on its endpoint


@dataclass(frozen=True)
class Endpoint:
    """What is made there, of `folder`."""

    name: str
    folder: Path
    region: str
    image: str
    machine: str
    bucket: str | None
    price = PRICE

    @property
    def environment(self) -> dict[str, str]:
        return {"HF_TASK": "custom", "HF_TRUST_REMOTE_CODE": "true"}

    @property
    def missing(self) -> list[str]:
        """Flags without which it cannot be deployed."""
        return [] if self.bucket else ["--bucket"]

    def commands(self) -> list[list[str]]:
        """What makes it, in turn; the last ends when it answers."""
        region, shown = f"--region={self.region}", f"--display-name={self.name}"
        return [
            ["gcloud", "storage", "rsync", str(self.folder), self._place, "--recursive"],
            [
                *("gcloud", "ai", "models", "upload", region, f"--model-id={self.name}", shown),
                *(f"--artifact-uri={self._place}", f"--container-image-uri={self.image}", "--container-ports=8080"),
                *("--container-predict-route=/predict", "--container-health-route=/health"),
                "--container-env-vars=" + ",".join(f"{name}={value}" for name, value in self.environment.items()),
            ],
            ["gcloud", "ai", "endpoints", "create", region, f"--endpoint-id={self.name}", shown],
            [
                *("gcloud", "ai", "endpoints", "deploy-model", self.name, region, f"--model={self.name}", shown),
                *(f"--deployed-model-id={DEPLOYED}", f"--machine-type={self.machine}", "--traffic-split=0=100"),
            ],
        ]

    def deploying(self) -> str:
        return "\n".join(map(shlex.join, self.commands()))

    def asking(self) -> str:
        program = (
            "import base64, json; photo = base64.b64encode(open('photo.jpg', 'rb').read()).decode(); "
            "json.dump({'instances': [{'b64': photo}], 'parameters': {'top_k': 5}}, open('question.json', 'w'))"
        )
        return (
            f'python -c "{program}"\n'
            f"gcloud ai endpoints predict {self.name} --region={self.region} --json-request=question.json"
        )

    def removing(self) -> str:
        region = f"--region={self.region}"
        return (
            f"gcloud ai endpoints undeploy-model {self.name} {region} --deployed-model-id={DEPLOYED}\n"
            f"gcloud ai endpoints delete {self.name} {region}\n"
            f"gcloud ai models delete {self.name} {region}\n"
            f"gcloud storage rm {self._place} --recursive"
        )

    @property
    def _place(self) -> str:
        return f"gs://{self.bucket or 'BUCKET'}/{self.name}"


def files_of(model: Deployable) -> dict[str, bytes | Path]:
    """What the folder holds, by path; raises as `with_code` does."""
    return with_code(model, *ENTRY)


def write_folder(files: Mapping[str, bytes | Path], folder: Path) -> None:
    """Write `files` into a folder that is made for it."""
    folder.mkdir()
    for path, content in tqdm(files.items(), desc="Writing the folder", unit=" files", leave=False, disable=None):
        if isinstance(content, bytes):
            write_bytes(content, folder / path)
        else:
            shutil.copyfile(content, folder / path)


def check_ready() -> None:
    """Raise `UserError` where gcloud, its account or its project is missing; nobody is asked."""
    said = _run(["gcloud", "config", "list", "--format=value(core.account,core.project)"]).split()
    if len(said) < 2:
        raise UserError(
            "--deploy wants gcloud to know your account and project: gcloud auth login, and gcloud config set project "
            "PROJECT"
        )


def deploy(endpoint: Endpoint, say: Callable[[str], None]) -> None:
    """Run the endpoint's commands, and `say` each command before.

    Raises:
        UserError: one of them failed; what gcloud says, and that something may be there.
    """
    for command in endpoint.commands():
        say(f"runs       {shlex.join(command)}")
        _run(command, "; what was made until then may cost money: take it down")


def _run(command: Sequence[str], state: str = "") -> str:
    """What a command of gcloud writes.

    Raises:
        UserError: there is no gcloud, or it fails; `state` ends the sentence.
    """
    name, *words = command
    if not (program := shutil.which(name)):  # gcloud.cmd, on Windows
        raise UserError(f"--deploy wants gcloud, which is not installed: {INSTALL}")
    done = subprocess.run(
        [program, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"status {done.returncode}"]
        said = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        said = without_token(" ".join(said.split()))
        raise UserError(f"gcloud did not do it ({shlex.join(command[:4])}): {said}{state}")
    return done.stdout
