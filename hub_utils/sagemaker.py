"""Amazon SageMaker: the archive that its Hugging Face container serves, and the lines of boto3 that put it there.

What was found in sagemaker-huggingface-inference-toolkit 2.6.0 (handler_service.py, mms_model_server.py and
transformers_utils.py), which the container runs: the archive is unpacked to /opt/ml/model, code/requirements.txt is
installed, and code/inference.py may bring functions in place of the toolkit's own. Those, in the default
`pipeline(feature_extractor=…)` of transformers 4.51.3, do not load a head with hidden layers, HF_TRUST_REMOTE_CODE or
not; and the image brings no timm. So every archive has code/inference.py of ours, and needs no such variable. With
HF_MODEL_ID the container takes a repo from the Hub at its start, at HF_MODEL_REVISION, and answers by itself.

The container's address and the regions are those of sagemaker 2.257.7 (image_uri_config/huggingface.json).
"""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from hub_utils.deployable import Deployable, with_code
from hub_utils.portable.command import UserError
from hub_utils.portable.tokens import without_token

ENTRY = ("sagemaker_inference", "inference.py", "code/")
REGION = "us-east-1"
MACHINE = "ml.m5.large"
PRICE = (
    "an ml.m5.large costs about 0.12 USD an hour, 85 a month (us-east-1, 2025), from now until you take it down, asked "
    "or not; now: https://aws.amazon.com/sagemaker/ai/pricing/"
)
TRANSFORMERS = "4.51.3"
IMAGE = (
    "763104351884.dkr.ecr.{region}.amazonaws.com/huggingface-pytorch-inference:"
    f"2.6.0-transformers{TRANSFORMERS}-cpu-py312-ubuntu22.04"
)
# Where the container lies under that account; in others it has another one.
REGIONS = ("ap-northeast-1", "ap-northeast-2", "ap-south-1", "ap-southeast-1", "ap-southeast-2", "ca-central-1")
REGIONS += ("eu-central-1", "eu-north-1", "eu-west-1", "eu-west-2", "eu-west-3", "sa-east-1")
REGIONS += ("us-east-1", "us-east-2", "us-west-1", "us-west-2")
BY_ITSELF = "the container takes the model from the Hub, and its answers may be off by 0.01; an archive's are not"
ADDRESSES = "https://github.com/aws/deep-learning-containers"


@dataclass(frozen=True)
class Endpoint:
    """What is made there; `archive` is None where the container takes `model` from the Hub."""

    name: str
    model: Deployable
    archive: Path | None
    region: str
    image: str
    machine: str
    bucket: str | None
    role: str | None
    price = PRICE

    @property
    def environment(self) -> dict[str, str]:
        hub = {"HF_MODEL_ID": str(self.model.repo_id), "HF_MODEL_REVISION": str(self.model.commit)}
        return {"HF_TASK": "image-classification", **({} if self.archive else hub)}

    @property
    def missing(self) -> list[str]:
        """Flags without which it cannot be deployed."""
        wanted = {"--role": self.role, **({"--bucket": self.bucket} if self.archive else {})}
        return [flag for flag, given in wanted.items() if not given]

    def deploying(self) -> str:
        """The program that makes it, and waits until it answers."""
        container: dict[str, object] = {"Image": self.image, "Environment": self.environment}
        upload = ""
        if self.archive:
            bucket, key = self._place
            container["ModelDataUrl"] = f"s3://{bucket}/{key}"
            upload = f"session.client('s3').upload_file({str(self.archive)!r}, {bucket!r}, {key!r})\n"
        variant = {
            "VariantName": "all",
            "ModelName": self.name,
            "InstanceType": self.machine,
            "InitialInstanceCount": 1,
        }
        return (
            f"import boto3\n\nsession = boto3.Session(region_name={self.region!r})\n{upload}"
            "sagemaker = session.client('sagemaker')\n"
            f"container = {json.dumps(container, indent=4)}\n"
            f"role = {self.role or 'ROLE_ARN'!r}\n"
            f"sagemaker.create_model(ModelName={self.name!r}, ExecutionRoleArn=role, PrimaryContainer=container)\n"
            f"variants = [{json.dumps(variant)}]\n"
            f"sagemaker.create_endpoint_config(EndpointConfigName={self.name!r}, ProductionVariants=variants)\n"
            f"sagemaker.create_endpoint(EndpointName={self.name!r}, EndpointConfigName={self.name!r})\n"
            f"sagemaker.get_waiter('endpoint_in_service').wait(EndpointName={self.name!r})"
        )

    def asking(self) -> str:
        return (
            f"import boto3\n\nruntime = boto3.Session(region_name={self.region!r}).client('sagemaker-runtime')\n"
            "with open('photo.jpg', 'rb') as photo:\n"
            f"    answer = runtime.invoke_endpoint(EndpointName={self.name!r}, ContentType='image/jpeg', Body=photo)\n"
            "print(answer['Body'].read().decode())"
        )

    def removing(self) -> str:
        bucket, key = self._place
        there = f"\nsession.client('s3').delete_object(Bucket={bucket!r}, Key={key!r})" if self.archive else ""
        return (
            f"import boto3\n\nsession = boto3.Session(region_name={self.region!r})\n"
            "sagemaker = session.client('sagemaker')\n"
            f"sagemaker.delete_endpoint(EndpointName={self.name!r})\n"
            f"sagemaker.delete_endpoint_config(EndpointConfigName={self.name!r})\n"
            f"sagemaker.delete_model(ModelName={self.name!r}){there}"
        )

    @property
    def _place(self) -> tuple[str, str]:
        """Bucket and key of the archive in S3."""
        return self.bucket or "BUCKET", f"{self.name}/model.tar.gz"


def image_in(region: str) -> str:
    """The container's address.

    Raises:
        UserError: it has another one there.
    """
    if region not in REGIONS:
        raise UserError(f"the container's address in '{region}' is not known here; --image ADDRESS, from {ADDRESSES}")
    return IMAGE.format(region=region)


def check_by_itself(model: Deployable) -> None:
    """Raise `UserError` for a model that the container cannot take from the Hub without an archive of ours."""
    if not model.repo_id:
        raise UserError(f"'{model.said}' is a folder: --output model.tar.gz says where its archive goes")
    why = "is a private repo" if model.private else "has a head with hidden layers" if model.custom else None
    why = why or ("is a network of timm" if model.timm else None)
    if why:
        raise UserError(
            f"'{model.said}' {why}, and the container cannot take it from the Hub by itself; --output model.tar.gz "
            "makes an archive with all that it needs"
        )


def files_of(model: Deployable) -> dict[str, bytes | Path]:
    """What the archive holds, by path; raises as `with_code` does."""
    return with_code(model, *ENTRY)


def write_archive(files: Mapping[str, bytes | Path], target: Path) -> None:
    """A tar.gz of `files`, the same bytes for the same files: sorted, of nobody, and of no time."""
    total = sum(len(each) if isinstance(each, bytes) else each.stat().st_size for each in files.values())
    bar = tqdm(desc="Writing the archive", total=total, unit="B", unit_scale=True, leave=False, disable=None)
    with (
        bar,
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,  # weights hardly shrink
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path, content in sorted(files.items()):
            about = tarfile.TarInfo(path)
            about.size = len(content) if isinstance(content, bytes) else content.stat().st_size
            with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
                archive.addfile(about, file)
            bar.update(about.size)


def check_ready() -> None:
    """Raise `UserError` where boto3, or a way into an account, is missing; nobody is asked."""
    if not importlib.util.find_spec("boto3"):
        raise UserError("--deploy wants boto3, which is not installed: pip install boto3")
    import boto3

    if boto3.Session().get_credentials() is None:
        raise UserError("--deploy wants an account of AWS, and there are no credentials: aws configure")


def deploy(endpoint: Endpoint) -> None:
    """Run what `deploying` says.

    Raises:
        UserError: it went wrong; what AWS says, and that something may be there.
    """
    done = subprocess.run(
        [sys.executable, "-c", endpoint.deploying()], capture_output=True, text=True, encoding="utf-8", errors="replace"
    )
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise UserError(
            f"AWS did not take it: {without_token(said)}; what was made until then may cost money: take it down"
        )
