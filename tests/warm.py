"""Runs commands as forks of one process that has imported everything: a second each instead of ten.

    python tests/warm.py SECONDS [MODULE ...]

Takes on standard input a command a line, as JSON, and answers on standard output. What would be waited is not, but
counted; the Hub may be silent for SECONDS.
"""

import contextlib
import importlib
import json
import os
import runpy
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parent.parent
LIBRARIES = ("torch", "datasets", "timm", "onnxruntime", "openvino", "matplotlib.pyplot")
MODULES = ("training.fitting.fit", "training.results.measure", "training.results.batch", "training.data.streaming")
EVERYTHING = (*LIBRARIES, *MODULES, "transformers.models.resnet.modeling_resnet", "hub_utils.portable.predictor")
LIMIT = 120.0  # seconds a command

really_sleep = time.sleep
slept = 0.0


def hardly_sleep(seconds: float) -> None:
    """Counts what it does not wait."""
    global slept
    slept += seconds
    really_sleep(min(seconds, 0.01))


def warm_up(silence: float, modules: Sequence[str]) -> None:
    time.sleep = hardly_sleep  # before anything takes it by its name
    for name in modules:
        importlib.import_module(name)

    from hub_utils import running, visit
    from hub_utils.portable import patience

    patience.COMMANDS = patience.Patience(silence=silence, writing=silence)
    patience.PAGES = patience.Patience(waits=(1, 2), silence=silence, longest=10)
    patience._now = patience.COMMANDS
    visit.subprocess = SimpleNamespace(Popen=Visitor, TimeoutExpired=visit.subprocess.TimeoutExpired, DEVNULL=-3)
    visit.LIMIT = 4 * silence
    running.GRACE = 0.2  # or it would ask all the time, with no waiting in between


class Visitor:
    """As much of `Popen` as a visit needs: the visitor is a fork as well."""

    def __init__(self, command: list[str], cwd: Path, env: dict[str, str], stdout, **how):
        from huggingface_hub import constants, set_client_factory
        from huggingface_hub.utils._http import default_client_factory

        self.returncode = None
        self.args = command
        self.pid = os.fork()
        if self.pid == 0:
            os.environ.clear()
            os.environ.update(env)
            constants.HF_HOME, constants.HF_HUB_CACHE = env["HF_HOME"], os.path.join(env["HF_HOME"], "hub")
            set_client_factory(default_client_factory)  # a stranger has no other
            start(command[command.index("utf8") + 1], command[command.index("utf8") + 2 :], cwd, stdout.fileno())

    def wait(self, timeout: float | None = None) -> int:
        import subprocess

        until = time.monotonic() + (timeout or LIMIT)
        while self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                raise subprocess.TimeoutExpired(self.args, timeout or LIMIT)
            really_sleep(0.01)
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)


def start(script: str, words: list[str], folder: Path, output: int) -> None:
    """Be that command, in a process that was forked for it."""
    code = 1
    try:
        os.chdir(folder)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.argv = [script, *words]
        try:
            if script.endswith(".py"):
                runpy.run_path(script, run_name="__main__")
            else:
                runpy.run_module(script, run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def run(script: str, words: list[str], folder: str) -> dict:
    """Exit status (None if it was killed), what it said, seconds, and how many it would have waited."""
    global slept
    output, waited = Path(folder, ".said"), Path(folder, ".waited")
    began = time.monotonic()
    with output.open("wb") as file:
        pid = os.fork()
        if pid == 0:
            slept, leave = 0.0, os._exit
            owner = os.getpid()

            def tell_and_leave(code: int) -> None:
                if os.getpid() == owner:
                    waited.write_text(str(slept))
                leave(code)

            os._exit = tell_and_leave
            start(script, words, Path(folder), file.fileno())
    status = None
    while time.monotonic() - began < LIMIT:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        really_sleep(0.01)
    else:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return {"code": None, "said": output.read_text(errors="replace"), "seconds": LIMIT, "waited": 0.0}
    return {
        "code": os.waitstatus_to_exitcode(status),
        "said": output.read_text(errors="replace"),
        "seconds": round(time.monotonic() - began, 2),
        "waited": float(waited.read_text()) if waited.exists() else 0.0,
    }


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warm_up(float(sys.argv[1]), sys.argv[2:] or EVERYTHING)
    print(json.dumps("warm"), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
