"""Several processes and machines, as accelerate's configuration files and torchrun start them; here over loopback."""

import csv
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils import DistributedType
from conftest import ROOT

RECIPE = """
from training.recipe import Linear, Recipe, Stage
recipe = Recipe(
    title="Colours", base_model={base!r}, head=(Linear(),),
    stages=(Stage(name="all", batch_size=8, arguments={{"num_train_epochs": 1, "learning_rate": 1e-2}}),),
)
"""
FOLDER = ROOT / "training" / "accelerate"
EXPECTED = {  # type, processes, machines
    "one_gpu": (DistributedType.NO, 1, 1),
    "several_gpus": (DistributedType.MULTI_GPU, 2, 1),
    "several_machines": (DistributedType.MULTI_GPU, 2, 2),
}
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "-q", "--config_file"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


@pytest.fixture
def words(photos, tiny_resnet, tmp_path) -> list[str]:
    """train.py, and what to train."""
    recipe = tmp_path / "colours.py"
    recipe.write_text(RECIPE.format(base=str(tiny_resnet)), encoding="utf-8")
    data = ["--data_dir", photos, "--output_dir", tmp_path / "run"]
    return [
        str(ROOT / "training" / "train.py"),
        *map(str, (recipe, *data)),
        "--use_cpu",
        "--bf16",
        "false",
        "--no_calibrate",
    ]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(command: list[str], log: Path) -> subprocess.Popen:
    with log.open("w") as file:  # a pipe that nobody reads would fill up
        return subprocess.Popen(list(map(str, command)), cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, text=True)


def finish(processes: dict[Path, subprocess.Popen]) -> None:
    try:
        for log, process in processes.items():
            assert process.wait(timeout=300) == 0, log.read_text()
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def test_accelerate_reads_each_file_as_it_is_meant():
    files = {path.stem: path for path in FOLDER.iterdir()}
    assert files.keys() == EXPECTED.keys()
    for name, path in files.items():
        found = load_config_from_file(str(path))  # raises for keys that it does not know
        assert (found.distributed_type, found.num_processes, found.num_machines) == EXPECTED[name]
        assert found.mixed_precision == "no" and not found.use_cpu
        assert yaml.safe_load(path.read_text(encoding="utf-8")).keys() <= ClusterConfig.__dataclass_fields__.keys()


@pytest.mark.slow
def test_the_file_for_several_gpus_starts_several_processes(words, tmp_path):
    log = tmp_path / "log"
    command = [*ACCELERATE, FOLDER / "several_gpus.yaml", "--main_process_port", free_port(), *words]
    finish({log: start(command, log)})
    assert json.loads((tmp_path / "run" / "all_results.json").read_text())["processes"] == 2


@pytest.mark.slow  # four processes import torch, on the cores of one machine
@pytest.mark.parametrize("launcher", ["accelerate", "torchrun"])
def test_two_machines_make_one_run(launcher, words, tmp_path):
    port, processes = free_port(), {}
    for rank in (0, 1):
        by = {
            "accelerate": [*ACCELERATE, FOLDER / "several_machines.yaml", "--machine_rank", rank]
            + ["--main_process_ip", "127.0.0.1", "--main_process_port", port],
            "torchrun": [*TORCHRUN, "--nnodes", 2, "--node_rank", rank, "--nproc_per_node", 1]
            + ["--master_addr", "127.0.0.1", "--master_port", port],
        }
        log = tmp_path / f"{rank}.log"
        processes[log] = start([*by[launcher], *words], log)
    finish(processes)
    first, second = (log.read_text() for log in processes)
    results = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert results["processes"] == 2 and "2 processes" in first
    assert "wrote  " in first and "wrote  " not in second  # the first machine alone writes
    with (tmp_path / "run" / "log_history.csv").open() as file:
        (epoch,) = csv.DictReader(file)
    # Nine validation images, five and four of them here and there, count once each.
    assert float(epoch["validation_loss"]) == pytest.approx(results["validation"]["loss"], rel=1e-4)
    assert float(epoch["validation_accuracy"]) == results["validation"]["accuracy"]
    assert results["images"] == {"train": 42, "validation": 9, "test": 9}
