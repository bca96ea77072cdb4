"""Offline by construction: no token, caches of our own, and an endpoint at which nobody listens.

The libraries read these variables when they are imported, so they are set before anything else is.
"""

import os
import signal
import tempfile

# A runner that was started in the background ignores Ctrl-C, and by `nohup` a closed terminal, and so would the
# processes that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Of several processes that test at once each takes one core; what they start may say otherwise.
os.environ.setdefault("OMP_NUM_THREADS", "1")
for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))]:
    del os.environ[name]
CACHE = tempfile.TemporaryDirectory(prefix="tests-cache-")
os.environ.update(
    HF_HOME=CACHE.name,
    HF_TOKEN="",
    HF_ENDPOINT="http://127.0.0.1:9",  # the discard port: refused at once
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_PROGRESS_BARS="1",
    HF_HUB_DISABLE_XET="1",
    MPLCONFIGDIR=os.path.join(CACHE.name, "matplotlib"),
    no_proxy="127.0.0.1,localhost",
)

import colorsys  # noqa: E402
import json  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from PIL import Image  # noqa: E402

ROOT = Path(__file__).parent.parent


def write_photo(path: Path, hue: float, seed: int, size: tuple[int, int] = (40, 32)) -> None:
    """A noisy picture of one colour: a class that a network of a few hundred weights can learn."""
    draw = np.random.default_rng(seed)
    colour = np.array(colorsys.hsv_to_rgb(hue, 0.8, 0.8)) * 255
    pixels = np.clip(colour + draw.normal(0, 40, (size[1], size[0], 3)), 0, 255).astype("uint8")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_photos(folder: Path, classes: dict[str, int]) -> Path:
    """`folder`/<class>/<number>.png for each class and its number of pictures; no two are alike."""
    for index, (name, count) in enumerate(classes.items()):
        for number in range(count):
            write_photo(folder / name / f"{number:03}.png", index / len(classes), index * 10_000 + number)
    return folder


def scene(seed: int, height: int = 240, width: int = 320) -> np.ndarray:
    """Ellipses of all sizes on a ground of soft shades: edges, corners and smooth places, as photographs have."""
    import cv2

    draw = np.random.default_rng(seed)
    ground = cv2.resize(
        draw.uniform(60, 200, (6, 8)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    for _ in range(60):
        place = (draw.uniform(0, width), draw.uniform(0, height)), draw.uniform(4, 60, 2), draw.uniform(0, 180)
        cv2.ellipse(ground, place, draw.uniform(0, 255), -1, cv2.LINE_AA)
    return np.clip(cv2.GaussianBlur(ground, (0, 0), 1), 0, 255).astype(np.uint8)


def help_of(script: str, *libraries: str) -> str:
    """What `--help` of training/`script` says, once it is sure that none of the libraries was imported for it."""
    code = (
        f"import runpy, sys; sys.argv = ['{script}', '--help']\n"
        f"try: runpy.run_path('training/{script}', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"print(sorted({set(libraries)!r} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[-1] == "[]", finished.stderr
    return finished.stdout


@pytest.fixture(scope="session", autouse=True)
def hasty() -> None:
    """In the process that tests, nothing waits long before the Hub is asked again."""
    from hub_utils.portable import patience

    for each in (patience.COMMANDS, patience.PAGES):
        object.__setattr__(each, "waits", tuple(0.01 for _ in each.waits))


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three colours, 20 pictures each."""
    return write_photos(tmp_path / "photos", {"red": 20, "green": 20, "blue": 20})


@pytest.fixture(scope="session")
def tiny_resnet(tmp_path_factory) -> Path:
    """A base model in the layout of microsoft/resnet-50, with 3,000 weights, for pictures of 32 pixels."""
    import torch
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification

    folder = tmp_path_factory.mktemp("base") / "tiny-resnet"
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=7)
    ResNetForImageClassification(config).save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875, resample=2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_timm(tmp_path_factory) -> Path:
    """A base model in timm's own layout on the Hub, for pictures of 32 pixels."""
    import timm
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("base") / "tiny-timm"
    folder.mkdir()
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=7)
    save_file(model.state_dict(), folder / "model.safetensors")
    pretrained = {"input_size": [3, 32, 32], "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center"}
    pretrained |= {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "first_conv": "conv1", "classifier": "fc"}
    config = {"architecture": "test_resnet", "num_classes": 7, "num_features": model.num_features}
    (folder / "config.json").write_text(json.dumps(config | {"pretrained_cfg": pretrained}))
    return folder


@pytest.fixture(scope="session")
def colours(tmp_path_factory, tiny_resnet):
    """A run of three colours that nobody may change; one picture in five is labelled by lot, so that mistakes remain.

    The images lie in `photos` beside it.
    """
    from training.data.source import Folder
    from training.fitting.fit import fit
    from training.recipe import BatchNorm, Linear, Recipe, Stage
    from training.run_folder import RunFolder

    folder = tmp_path_factory.mktemp("colours")
    names = ["blue", "green", "red"]
    for number in range(75):
        label = names[(number // 5 if number % 5 == 0 else number) % 3]
        write_photo(folder / "photos" / label / f"{number:03}.png", (2 - number % 3) / 3, number)
    fast = {"learning_rate": 1e-2, "lr_scheduler_type": "constant", "num_train_epochs": 3}
    stage = Stage(name="all", batch_size=8, arguments=fast)
    recipe = Recipe(title="Colours", base_model=str(tiny_resnet), head=(BatchNorm(), Linear()), stages=(stage,))
    run = RunFolder(folder / "run")
    fit(replace(recipe, name="colours"), Folder(folder / "photos"), run, flags=["--bf16", "false"])
    return run


@pytest.fixture(scope="session")
def digits_model(tmp_path_factory) -> Path:
    """A model's folder, with an ONNX file, that has seen digits once: it tells pictures apart, and is there soon."""
    from digits_network import save_digits_network

    folder = tmp_path_factory.mktemp("model") / "digits"
    save_digits_network(folder, epochs=1)
    return folder


@pytest.fixture
def hub():
    """A loopback Hub of two people; some tests have one of their own."""
    from loopback_hub import LoopbackHub

    with LoopbackHub(tokens={"hf_alice": "alice", "hf_bob": "bob"}) as hub:
        yield hub


@pytest.fixture
def api(hub):
    """The real client, as alice."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=hub.url, token="hf_alice")
