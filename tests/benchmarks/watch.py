"""Times of steps, epochs and evaluations, taken the same way in every contestant that trains."""

import time
from collections.abc import Callable


class Watch:
    """Times in seconds of when things were done, on a clock that begins with training.

    `wait` waits for a device that computes on while Python does. It is waited for where an epoch's measurement begins
    and ends, and nowhere between: there it would slow down what is measured.
    """

    def __init__(self, wait: Callable[[], None] = lambda: None):
        self.wait = wait
        self.began = 0.0
        self.steps: list[list[float]] = []  # of each epoch
        self.ends: list[float] = []
        self.evaluated: list[float] = []

    def start(self) -> None:
        self.began = time.perf_counter()

    def epoch(self) -> None:
        self.steps.append([])

    def step(self) -> None:
        if not self.steps[-1]:
            self.wait()
        self.steps[-1].append(time.perf_counter() - self.began)

    def end(self) -> None:
        self.wait()
        self.ends.append(time.perf_counter() - self.began)

    def evaluation(self) -> None:
        self.evaluated.append(time.perf_counter() - self.began)

    def rate(self, batch: int) -> float | None:
        """Images per second of epochs after the first, each without its first step; all batches are whole ones.

        The first epoch fills caches and sets libraries up; an epoch's first step waits for the loader to begin.
        """
        known = [(steps, end) for steps, end in zip(self.steps[1:], self.ends[1:], strict=False) if len(steps) > 1]
        images = sum(batch * (len(steps) - 1) for steps, _ in known)
        return images / sum(end - steps[0] for steps, end in known) if known else None


def device_wait() -> Callable[[], None]:
    """What waits for the accelerator, if there is one."""
    import torch

    return torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
