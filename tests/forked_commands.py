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
        self.process.wait(timeout=10)

    def start(self, words: list[str], log: Path) -> int:
        """Start `train.py` with these words, what it says in `log`; the number of its process."""
        return self._ask({"words": words, "log": str(log)})

    def wait(self, pid: int, seconds: float = 120) -> int:
        """Its exit status, negative after a signal as `subprocess` has it; one that does not end is killed."""
        return self._ask({"pid": pid, "seconds": seconds})

    def _ask(self, question: dict[str, Any]) -> int:
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


def _train(words: list[str], log: str) -> None:
    """What `python training/train.py` does, in the forked process."""
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


def _wait(pid: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


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
        if "pid" in question:
            answer = _wait(**question)
        else:
            answer = os.fork()
            if answer == 0:
                _train(**question)
        print(answer, flush=True)


if __name__ == "__main__":
    _serve()
