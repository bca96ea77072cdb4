"""What the machine offers, and how training uses it: precision, memory layout, threads, loader workers."""

import ctypes
import math
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from training.recipe import UserError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
CONTROL_GROUP = Path("/sys/fs/cgroup")  # where Linux tells a container what it may use


@dataclass(frozen=True)
class Hardware:
    """The choices for one process, each of which a flag overrides."""

    device: str
    bf16: bool
    channels_last: bool
    threads: int
    workers: int
    processes: int
    multiplies_bf16: bool = True

    def __str__(self) -> str:
        parts = [
            f"{self.processes} processes" if self.processes > 1 else None,
            self.device,
            self._precision(),
            "channels-last" if self.channels_last else "channels-first",
            f"{self.threads} thread{'s' if self.threads > 1 else ''}",
            f"{self.workers} loader worker{'' if self.workers == 1 else 's'}",
        ]
        return " · ".join(part for part in parts if part)

    def _precision(self) -> str:
        if self.bf16 or self.multiplies_bf16:
            return "bf16" if self.bf16 else "fp32"
        return "fp32 (it multiplies no bf16" + ("; try --fp16 true)" if self.device == "cuda" else ")")


def choose(
    use_cpu: bool = False,
    bf16: bool | None = None,
    channels_last: bool | None = None,
    threads: int | None = None,
    workers: int | None = None,
) -> Hardware:
    """The best known use of this machine; what is not None is taken as it is.

    bf16 only where the hardware multiplies it (elsewhere it is emulated and slower). Channels-last nearly doubles
    convolutions in bf16 on a CPU. Workers load images beside a GPU; beside a CPU they would take its cores.

    Raises:
        UserError: no threads are asked for.
    """
    if threads is not None and threads < 1:
        raise UserError(f"--threads {threads}: at least 1 is needed; without the flag it is the number of cores")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    cores = max(1, _cores() // local)
    if torch.cuda.is_available() and not use_cpu:
        device, fast_bf16, loaders = "cuda", torch.cuda.is_bf16_supported(including_emulation=False), min(8, cores)
    elif torch.backends.mps.is_available() and not use_cpu:
        device, fast_bf16, loaders = "mps", False, 0
    else:
        device, fast_bf16, loaders = "cpu", _cpu_multiplies_bf16(), 0
    return Hardware(
        device=device,
        bf16=fast_bf16 if bf16 is None else bf16,
        channels_last=device != "mps" if channels_last is None else channels_last,
        threads=threads or cores,
        workers=loaders if workers is None else workers,
        processes=int(os.environ.get("WORLD_SIZE", 1)),
        multiplies_bf16=fast_bf16,
    )


def compute_exactly() -> None:
    """fp32 as it is called: by default cuDNN rounds what convolutions multiply to 10 bits (TF32)."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def keep_freed_memory() -> None:
    """Let glibc keep the memory of a step for the next one.

    By default it gives large arrays back to the system when they are freed, which then makes every page of the next
    ones anew: a tenth of a ResNet-50's training step on two cores.
    """
    with suppress(OSError, AttributeError, TypeError):  # other systems, and other libraries of C, do not know it
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, 2**30)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _cores() -> int:
    """Physical cores that this process may use; a second thread on a core only slows matrix products."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, psutil.cpu_count(logical=False) or allowed, _granted())


def _granted() -> float:
    """Cores that a container may use, however many its machine has."""
    for name, pattern in (("cpu.max", r"(\d+) (\d+)"), ("cpu/cpu.cfs_quota_us", r"(\d+)")):
        with suppress(OSError):
            found = re.match(pattern, (CONTROL_GROUP / name).read_text())
            if found:
                period = found[2] if found.lastindex == 2 else (CONTROL_GROUP / "cpu/cpu.cfs_period_us").read_text()
                return max(1, round(int(found[1]) / int(period)))
    return math.inf


def _cpu_multiplies_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
