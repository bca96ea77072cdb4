"""The machine that is measured on: what it is, and how fast it multiplies matrices, which is what bounds networks."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).parents[2]
SIDES = (1024, 2048, 4096)
LIBRARIES = ("torch", "torchvision", "transformers", "accelerate", "timm", "datasets", "openvino", "onnxruntime")


def matrix_rate(
    dtype: torch.dtype | None = None,
    threads: int | None = None,
    device: str = "cpu",
    seconds: float = 1.0,
    sides: Sequence[int] = SIDES,
) -> float:
    """FLOP/s of the best square product of 1024, 2048 and 4096, each repeated for about so many `seconds`, best taken.

    In bfloat16 unless `dtype` says otherwise. A product of two n × n matrices is 2n³ operations.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return max(_rate(side, dtype or torch.bfloat16, device, seconds) for side in sides)
    finally:
        torch.set_num_threads(before)


def _rate(side: int, dtype: torch.dtype, device: str, seconds: float) -> float:
    import torch

    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    best, until = float("inf"), time.perf_counter() + seconds
    for number in range(1_000_000):
        wait()
        began = time.perf_counter()
        one @ other
        wait()
        ended = time.perf_counter()
        if number:  # the first one sets the library up
            best = min(best, ended - began)
        if number > 2 and ended > until:
            break
    return 2 * side**3 / best


def facts() -> dict[str, Any]:
    """Processor, cores, memory, GPU, versions of the libraries and git commit."""
    import psutil
    import torch

    return {
        "when": time.strftime("%Y-%m-%d %H:%M:%S"),
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=False),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_before": [round(each, 2) for each in psutil.getloadavg()],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "bf16": {name: value for name, value in torch.cpu.get_capabilities().items() if "bf16" in name},
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in LIBRARIES},
        "commit": _commit(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit, with a + where files differ from it; None outside a clone."""
    said = [
        subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    ]
    return said[0].stdout.strip() + ("+" if said[1].stdout.strip() else "") if said[0].returncode == 0 else None


def matrix_rates() -> dict[str, float]:
    """`matrix_gflops` of this machine now, for float32 and bfloat16, with the threads that torch takes by itself."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    kinds = (torch.float32, torch.bfloat16)
    rates = {str(kind).removeprefix("torch."): round(matrix_rate(kind, device=device) / 1e9, 1) for kind in kinds}
    return {"matrix_gflops": rates}
