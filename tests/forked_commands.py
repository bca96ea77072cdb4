"""`train.py` as a process of its own within a second: forked from one that has imported the libraries already.

For tests that start and kill it many times, where the system can fork.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


class Warm:
    """A process that has imported all of training, and forks; ends with the block."""

    def __enter__(self) -> Warm:
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert self.process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        finally:
            self.process.kill()

    def start(self, words: list[str], log: Path, **environment: str) -> int:
        """Start `train.py` with these words, what it says in `log`; the number of its process."""
        return self._ask({"words": words, "log": str(log), "environment": environment})

    def wait(self, *pids: int, seconds: float = 120) -> int:
        """The exit status of the first that ends otherwise than well, negative after a signal as `subprocess` has it.

        The others are then asked to leave, as by torchrun, and killed after 30 seconds, as are all after `seconds`.
        """
        return self._ask({"pids": pids, "seconds": seconds})

    def _ask(self, question: dict[str, Any]) -> int:
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


def _train(words: list[str], log: str, environment: dict[str, str]) -> None:
    """What `python training/train.py` does, in the forked process."""
    os.environ.update(environment)
    os.setpgid(0, 0)  # a group of its own, with what it starts
    from training import preemption, train
    from training.command import run_command

    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    status = 1
    try:
        preemption.watch()
        sys.argv = ["train.py", *words]
        status = run_command(train.main, preemption.GOES_ON)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _wait(pids: list[int], seconds: float) -> int:
    end, first, left = time.monotonic() + seconds, 0, set(pids)
    while left:
        for pid in tuple(left):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            left.remove(pid)
            if first == 0 and status != 0:
                first, end = os.waitstatus_to_exitcode(status), time.monotonic() + 30
                for other in left:
                    os.kill(other, signal.SIGTERM)
        if time.monotonic() > end:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return first


def _serve() -> None:
    import openvino  # noqa: F401
    import torch.onnx  # noqa: F401
    import transformers.trainer  # noqa: F401

    import hub_utils.export
    import training.fitting.folds  # noqa: F401

    del hub_utils
    print("ready", flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        if "pids" in question:
            answer = _wait(**question)
        else:
            answer = os.fork()
            if answer == 0:
                _train(**question)
        print(answer, flush=True)
    os._exit(0)  # what libraries do at the end takes seconds


if __name__ == "__main__":
    _serve()
