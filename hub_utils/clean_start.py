"""A bundle, started as its Space will be: alone in a folder, with what it requires and nothing else, and asked."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import psutil
from tqdm.auto import tqdm

from hub_utils.bundle import ONNX, ROOT, Model
from hub_utils.portable.command import UserError
from hub_utils.portable.golden import golden_images
from hub_utils.portable.served import precision_of
from hub_utils.portable.tokens import without_token
from hub_utils.portable.whole import passing
from hub_utils.visit import clean_environment

if TYPE_CHECKING:
    from hub_utils.portable.network import Precision

LIMIT = 600.0  # seconds in which a bundle must have answered, its model downloaded
INSTALLING = 1800.0  # seconds in which pip must have installed what it requires
NEAR = 0.01  # by which a probability may differ from what the predictor says here
TOLD = 15  # last lines that are shown of a process that failed


@dataclass(frozen=True)
class Seen:
    """What a started bundle was seen to do: `seconds` to its first answer, `memory` in bytes, its largest deviation."""

    seconds: float
    memory: int
    answers: int
    deviation: float


def start_and_ask(
    files: Mapping[str, bytes],
    models: Sequence[Model],
    clean: bool = False,
    say: Callable[[str], None] = print,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Seen:
    """Start the bundle in an empty folder, with an empty cache of the Hub, and compare its answers with ours.

    By default with this very Python, in which only what the requirements bring can be imported; with `clean` in an
    environment of its own, which pip makes from them. Of the `variables` that its Space will have it finds those that
    the page itself reads; others may name places that are only there.

    Raises:
        UserError: it does not come up, or not answer as the predictor does here.
    """
    precision = precision_of(variables)
    expected = {model.name: _answers_here(model, precision) for model in models}
    with passing("bundle") as temporary:
        folder = Path(temporary, "app")
        _lay_out(files, models, folder)
        command = _own_python(Path(temporary), files, say) if clean else _this_python(Path(temporary), files)
        offline = not any(model.repo_id for model in models)
        own = {name: value for name, value in variables.items() if name.startswith("DEMO_")}
        environment = own | clean_environment(Path(temporary), offline)
        # Settings that others made for themselves are none of the bundle's; see gradio's guide to its variables.
        environment |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(Path(temporary, "gradio"))}
        environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
        try:
            return _compare(command, Path(temporary), environment, expected)
        except UserError:
            _show(Path(temporary, "log.txt"), say)
            raise


def _lay_out(files: Mapping[str, bytes], models: Sequence[Model], folder: Path) -> None:
    """Write it; models that are only here are named by their folder."""
    places = {
        each.name: {"model": each.repo_id, "revision": each.revision}
        if each.repo_id
        else {"model": str(each.run.resolve()), "revision": None}
        for each in models
    }
    for path, content in (files | {"model.json": json.dumps(places).encode()}).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def _answers_here(model: Model, precision: Precision) -> list[dict[str, float]]:
    """Of each golden image, what the predictor of this process says: probabilities by class.

    Raises:
        UserError: it does not load, or the page would need torch for it where the bundle brings none.
    """
    from hub_utils.portable.predictor import load_predictor

    predictor = load_predictor(model.place, model.revision, precision)
    if model.slim and not predictor.runtime.startswith("OpenVINO"):
        problem = predictor.runtime.partition("(")[2].removesuffix(")")
        anew = f"the command that began the run, with --resume, writes {ONNX} again"
        again = "--model NS/NAME names another" if model.repo_id else anew
        raise UserError(f"'{model.place}': {problem}; {again}")
    answers = predictor([image.convert("RGB") for image in golden_images().values()])
    return [dict(zip(predictor.labels, map(float, each.probabilities), strict=True)) for each in answers]


def _this_python(temporary: Path, files: Mapping[str, bytes]) -> list[str]:
    """The command that starts app.py with this Python, without what a Space will not have."""
    blocked = temporary / "blocked.json"
    blocked.write_text(json.dumps(blocked_modules(files)), encoding="utf-8")
    return [sys.executable, "-P", str(ROOT / "hub_utils" / "starter.py"), str(blocked)]


def blocked_modules(files: Mapping[str, bytes]) -> list[str]:
    """Modules that are here and not in the Space: of packages that nothing there requires, and of this project."""
    there = _required(files["requirements.txt"].decode().split())
    installed = {module: {_canonical(name) for name in names} for module, names in packages_distributions().items()}
    others = {module for module, names in installed.items() if module.isidentifier() and not names & there}
    ours = {path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / "hub_utils").rglob("*.py")}
    missing = {path.replace("/", ".") for path in ours if f"{path}.py" not in files and not path.endswith("__init__")}
    return sorted((others - sys.stdlib_module_names - {"hub_utils"}) | missing | {"training"})


def _required(lines: Sequence[str]) -> set[str]:
    """Names of the packages that pip would install for these lines, as far as they are installed here."""
    from packaging.requirements import Requirement

    found: set[tuple[str, str]] = set()
    todo = [Requirement(line) for line in lines]
    while todo:
        wanted = todo.pop()
        new = {(_canonical(wanted.name), extra) for extra in (wanted.extras or {""})} - found
        found |= new
        for name, extra in new:
            try:
                requires = [Requirement(each) for each in distribution(name).requires or ()]
            except PackageNotFoundError:  # of another system
                continue
            todo += [each for each in requires if each.marker is None or each.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def _canonical(name: str) -> str:
    from packaging.utils import canonicalize_name

    return canonicalize_name(name)


def _own_python(temporary: Path, files: Mapping[str, bytes], say: Callable[[str], None]) -> list[str]:
    """The command that starts app.py in an environment that pip makes from the requirements."""
    folder, required, log = temporary / "environment", temporary / "requirements.txt", temporary / "pip.txt"
    required.write_bytes(files["requirements.txt"])
    start = time.monotonic()
    venv.create(folder, with_pip=True)
    python = str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "-r", str(required)]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with (
        tqdm(desc="Installing the requirements", unit="B", unit_scale=True, leave=False, disable=None) as bar,
        _process(command, temporary, kept, log) as process,
    ):
        while not _ended(process, 1):
            bar.update(_size(folder) - bar.n)
            if time.monotonic() - start > INSTALLING:
                raise UserError(f"pip has not installed the requirements in {INSTALLING:g} s; the same command again")
    if process.returncode:
        _show(log, say)
        raise UserError("pip cannot install what the bundle requires, see above; is the network there?")
    say(f"installed  {_size(folder) / 1e6:,.0f} MB in {time.monotonic() - start:.0f} s, by pip from requirements.txt")
    return [python, "app.py"]


def _compare(
    command: list[str], temporary: Path, environment: Mapping[str, str], expected: Mapping[str, list[dict[str, float]]]
) -> Seen:
    """Start app.py, ask each model of it about the golden images, and hold the answers against `expected`."""
    from gradio_client import Client  # before the clock runs

    port, images = _free_port(), _golden_files(temporary)
    environment = dict(environment) | {"GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"}
    first, deviations = 0.0, []
    with (
        tqdm(desc="Starting the bundle", bar_format="{desc}: {elapsed}", leave=False, disable=None) as bar,
        _process(command, temporary / "app", environment, temporary / "log.txt") as process,
    ):
        asked = _Asked(process, bar)
        asked.wait_for(f"http://127.0.0.1:{port}/config")
        client = Client(f"http://127.0.0.1:{port}", verbose=False, analytics_enabled=False)
        for name, answers in expected.items():
            for image, answer in zip(images, answers, strict=True):
                told = asked.predict(client, _endpoint(client, name), image)
                first = first or time.monotonic() - asked.start
                deviations.append(_deviation(name, told, answer))
        return Seen(first, _memory(process), len(deviations), max(deviations))


class _Asked:
    """A process that answers over HTTP, or ends, or takes too long."""

    def __init__(self, process: subprocess.Popen, bar: tqdm) -> None:
        self.process, self.bar, self.start = process, bar, time.monotonic()

    def check(self) -> None:
        self.bar.refresh()
        if self.process.poll() is not None:
            raise UserError(f"the bundle does not start: its app.py ended with status {self.process.returncode}")
        if time.monotonic() - self.start > LIMIT:
            raise UserError(f"the bundle has not answered in {LIMIT:g} s; the same command again")

    def wait_for(self, url: str) -> None:
        while True:
            self.check()
            try:
                with urllib.request.urlopen(url, timeout=10):
                    return
            except OSError:
                time.sleep(0.05)

    def predict(self, client: Any, endpoint: str, image: Path) -> dict[str, Any]:
        from gradio_client import handle_file

        job = client.submit(handle_file(image), api_name=endpoint)
        while not job.done():
            self.check()
            time.sleep(0.02)
        try:
            return job.result()
        except Exception as error:  # gradio's own, and of the network
            raise UserError(f"the bundle answers no {endpoint}: {' '.join(str(error).split())[:300]}") from error


def _endpoint(client: Any, name: str) -> str:
    """What the page calls the endpoint of this model: alone it is /predict."""
    known = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    wanted = ("/predict", f"/predict_{name}", f"/{name}/predict")
    for endpoint in wanted:
        if endpoint in known:
            return endpoint
    raise UserError(f"the bundle has no endpoint {' or '.join(wanted)}, but {', '.join(known)}")


def _deviation(name: str, told: Any, expected: Mapping[str, float]) -> float:
    """The largest difference between two probabilities of a class.

    Raises:
        UserError: it is too large, or it is no answer.
    """
    try:
        differences = [abs(told["probabilities"][label] - value) for label, value in expected.items()]
    except (KeyError, TypeError) as error:
        raise UserError(f"'{name}' in the bundle answers {str(told)[:200]}, which lacks {error}") from error
    if not max(differences) <= NEAR:
        raise UserError(
            f"'{name}' in the bundle answers otherwise than here: a probability differs by {max(differences):.3f}, and "
            f"{NEAR:g} are allowed"
        )
    return max(differences)


@contextmanager
def _process(command: list[str], folder: Path, environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen]:
    """It runs within the block, and is ended with it, however that ends; what it says goes into `log`."""
    with log.open("wb") as said:
        process = psutil.Popen(
            command, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=said, stderr=said
        )
    try:
        yield process
    finally:
        with suppress(psutil.NoSuchProcess):
            for each in [*process.children(recursive=True), process]:
                each.kill()
        process.wait()


def _ended(process: subprocess.Popen, seconds: float) -> bool:
    """Whether it has, or does within so many seconds."""
    with suppress(subprocess.TimeoutExpired, psutil.TimeoutExpired):
        process.wait(timeout=seconds)
        return True
    return False


def _memory(process: psutil.Process) -> int:
    """Bytes that it and its children hold in memory."""
    return sum(each.memory_info().rss for each in [process, *process.children(recursive=True)])


def _golden_files(folder: Path) -> list[Path]:
    images = []
    for name, image in golden_images().items():
        images.append(folder / f"{name}.png")
        image.save(images[-1])
    return images


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _size(folder: Path) -> int:
    """Bytes of the files below it, while somebody writes there."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += 0 if path.is_symlink() or path.is_dir() else path.stat().st_size
    return total


def _show(log: Path, say: Callable[[str], None]) -> None:
    """The last lines of what a process said."""
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-TOLD:]:
        say(f"  {without_token(line)}")
