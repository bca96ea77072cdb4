"""No pickle and no code of a model's own is ever run: not to answer, measure, train from, or go on from."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, write_photos
from loopback_hub import LoopbackHub
from safetensors.torch import load_file

from hub_utils.portable.predictor import load_predictor
from training.results.batch import load_model


class Spy:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path) -> Path:
    """What is there once anything of a model's was run."""
    return tmp_path / "it-was-run"


def code(mark: Path) -> str:
    return (
        f"import os\nos.makedirs({str(mark)!r}, exist_ok=True)\n"
        "from transformers import ResNetConfig, ResNetForImageClassification\n"
        "class OwnConfig(ResNetConfig): pass\nclass Own(ResNetForImageClassification): config_class = OwnConfig\n"
    )


def pickled(tiny: Path, folder: Path, mark: Path) -> Path:
    """Weights as nothing but a pickle, under each of the names that one has."""
    shutil.copytree(tiny, folder)
    (folder / "model.safetensors").unlink()
    for name in (
        "pytorch_model.bin",
        "model.pt",
        "training_args.bin",
        "model.ckpt",
        "tf_model.h5",
        "flax_model.msgpack",
    ):
        (folder / name).write_bytes(pickle.dumps(Spy(mark)))
    return folder


def only_bin(tiny: Path, folder: Path, mark: Path) -> Path:
    """As it comes from older versions of transformers, and harmless as it is."""
    shutil.copytree(tiny, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def disguised(tiny: Path, folder: Path, mark: Path) -> Path:
    shutil.copytree(tiny, folder)
    (folder / "model.safetensors").write_bytes(pickle.dumps(Spy(mark)))
    return folder


def with_index(tiny: Path, folder: Path, mark: Path) -> Path:
    """An index of safetensors that leads to a pickle, and out of the folder."""
    shutil.copytree(tiny, folder)
    (folder / "model.safetensors").unlink()
    (folder / "weights.bin").write_bytes(pickle.dumps(Spy(mark)))
    (folder / "model-1-of-1.safetensors").write_bytes(pickle.dumps(Spy(mark)))
    places = {"classifier.1.weight": "weights.bin", "classifier.1.bias": "../../../etc/passwd"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def with_code(tiny: Path, folder: Path, mark: Path) -> Path:
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    own = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.Own", "AutoModelForImageClassification": "own.Own"}
    config |= {"auto_map": own, "model_type": "own_type", "architectures": ["Own"]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(code(mark))
    return folder


def with_code_for_pictures(tiny: Path, folder: Path, mark: Path) -> Path:
    """In another repo, which is where `auto_map` may lead."""
    shutil.copytree(tiny, folder)
    told = {"image_processor_type": "OwnProcessor", "auto_map": {"AutoImageProcessor": "alice/spy--own.OwnProcessor"}}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    (folder / "own.py").write_text(code(mark))
    return folder


MADE = [pickled, only_bin, disguised, with_index, with_code, with_code_for_pictures]


def refused(ask, *asked) -> str:
    with pytest.raises(Exception) as refusal:
        ask(*asked)
    assert type(refusal.value).__name__ == "UserError", repr(refusal.value)
    said = str(refusal.value)
    assert "\n" not in said and len(said) < 900, said
    return said


@pytest.mark.parametrize("make", MADE, ids=lambda each: each.__name__)
def test_a_page_and_predict_refuse_it_in_words(make, tiny_resnet, tmp_path, mark):
    folder = make(tiny_resnet, tmp_path / "model", mark)
    for ask in (load_predictor, load_model):
        said = refused(ask, str(folder))
        assert ("safetensors" in said or "code" in said or "cannot" in said) and "etc/passwd:" not in said
    assert not mark.exists()


@pytest.mark.parametrize("make", MADE, ids=lambda each: each.__name__)
def test_nothing_is_trained_from_it(make, tiny_resnet, tmp_path, mark):
    from training.fitting.network import _load
    from training.recipe import Linear, Recipe, Stage

    folder = make(tiny_resnet, tmp_path / "model", mark)
    stage = Stage(name="all", batch_size=8, arguments={"num_train_epochs": 1})
    refused(_load, Recipe(title="x", base_model=str(folder), head=(Linear(),), stages=(stage,)))
    assert not mark.exists()


@pytest.mark.slow
def test_so_is_a_repo_s_whatever_the_hub_offers_instead(tiny_resnet, tmp_path, mark):
    """transformers asks a Space on the Hub to make safetensors of pickles: nobody is asked here."""
    folder = only_bin(tiny_resnet, tmp_path / "model", mark)
    files = {each.name: each.read_bytes() for each in folder.iterdir()}
    spied = {each.name: each.read_bytes() for each in with_code(tiny_resnet, tmp_path / "spy", mark).iterdir()}
    with LoopbackHub(tokens={}) as hub:
        hub.add("alice/bin", files)
        hub.add("alice/spy", spied)
        environment = os.environ | hub.environment(tmp_path / "home") | {"PYTHONPATH": str(ROOT)}
        photos = write_photos(tmp_path / "photos", {"red": 12, "blue": 12})
        predict, train = ROOT / "training" / "predict.py", ROOT / "training" / "train.py"
        trained = [train, "folder", "--data_dir", photos, "--output_dir", tmp_path / "run", "--use_cpu", "--base_model"]
        for command in ([predict, "alice/bin", photos], [*trained, "alice/bin"], [*trained, "alice/spy"]):
            done = subprocess.run(
                [sys.executable, *map(str, command)],
                env=environment,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
            (said,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
            assert "safetensors" in said or "code" in said, said
    assert not mark.exists()
