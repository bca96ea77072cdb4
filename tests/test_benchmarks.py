"""The benchmarks' own machinery: what it says when contestants differ, what it keeps, and that each can be asked."""

import argparse
import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, write_photos

BENCHMARKS = ROOT / "tests" / "benchmarks"
sys.path.append(str(BENCHMARKS))  # as it is for a script of that folder

import arguments  # noqa: E402
import fine_tuning  # noqa: E402
import frozen  # noqa: E402
import gpu  # noqa: E402
import inference  # noqa: E402
import machine  # noqa: E402
import photos as photographs  # noqa: E402
import run  # noqa: E402
import startup  # noqa: E402
import table  # noqa: E402
import throughput  # noqa: E402
from contest import SKIPPED, Contest, Failed  # noqa: E402
from contest import run as run_process  # noqa: E402
from watch import Watch  # noqa: E402

ROW = table.Row("training", 2.0, 5.0, "s", 2.5, "≥ 2.5 ×", True, "10 steps", "plain Trainer")
PRESENT = sorted(run.BENCHMARKS)


@pytest.fixture
def facts(monkeypatch):
    """Nothing is asked of the machine: the versions, the commit and so on are tested apart."""
    monkeypatch.setattr("contest.facts", lambda: {"cores": 2})


@pytest.fixture
def contest(tmp_path, facts):
    return Contest("fine_tuning", tmp_path / "found.json")


def fine_tuned(seconds: float, **changes) -> dict:
    """What a contestant of `fine_tuning` measures."""
    return {
        "seconds": seconds,
        "epochs_seconds": seconds / 2,
        "steps": 100,
        "accuracy": {"validation": 0.9, "test": 0.86},
        "evaluated": [50, 50, 50, 50],
        "loss": 1.6,
        "files": {"train": ["rose/1.jpg"], "validation": ["rose/2.jpg"], "test": ["rose/3.jpg"]},
        "architecture": "ResNetForImageClassification",
        "parameters": 23_518_277,
        **changes,
    }


def compared(contest, **changes) -> table.Row:
    """The whole process of 40 and 50 seconds, of 120 in the middle, and of one that differs."""
    contest.measured = {
        fine_tuning.OURS: [fine_tuned(seconds) for seconds in (41, 40, 90)],
        fine_tuning.PLAIN: [fine_tuned(seconds, **changes) for seconds in (125, 120, 123)],
    }
    return fine_tuning.rows(contest, {"train": 400, "validation": 50, "test": 50})[0]


def test_what_is_the_same_is_said_and_medians_are_compared(contest):
    row = compared(contest)
    assert (row.ours, row.other, row.ratio, row.met) == (41, 123, 3.0, True)
    assert row.same.startswith(
        "the same 500 images in the same splits; the same weights to start from, by the first batch's loss 1.6"
    )
    assert "100 steps; 200 images evaluated; ResNet" in row.same


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"steps": 99}, "100 steps"),
        ({"files": {"train": []}}, "the same 500 images"),
        ({"evaluated": [50, 50]}, "200 images evaluated"),
        ({"parameters": 1}, "weights"),
        ({"loss": 1.61}, "the same weights to start from"),
        ({"accuracy": {"validation": 1.0, "test": 1.0}}, "accuracy on 100 held out 0.880 and 1.000"),
    ],
)
def test_contestants_that_differ_meet_nothing(contest, changes, told):
    row = compared(contest, **changes)
    assert row.met is False and row.ratio is None
    assert row.same.startswith("NOT THE SAME: ") and told in row.same


def test_a_loss_that_differs_is_no_comparison_of_speed(contest):
    same = {"steps": 18, "threads": 2}
    contest.measured = {
        throughput.OURS: [{"images_per_second": 12.0, "loss": 1.60, **same}],
        "loop": [{"images_per_second": 12.0, "loss": 1.70, **same}],
        throughput.STEP: [{"loss": 1.60, "flops": 3e12, "step_seconds": s, "matrix_rate": 4e11} for s in (12, 10, 20)],
    }
    training, step = throughput.rows(contest, "loop", 32)
    assert training.ratio is None and training.met is False and "NOT THE SAME: loss" in training.same
    assert (step.ours, step.other, step.ratio) == (pytest.approx(250), 400, pytest.approx(0.625))  # of 12 s
    assert step.met is True


def test_rows_are_a_table_and_come_back_from_json(tmp_path, capsys):
    table.print_rows([ROW])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| training | 2 | 5 (plain Trainer) | s | 2.5 | ≥ 2.5 × | yes | 10 steps |"
    assert len({line.count("|") for line in lines}) == 1
    table.write_rows(tmp_path / "found.json", [ROW], {"cores": 2}, {"ours": [{"seconds": 2.0}]})
    assert table.read_rows(tmp_path / "found.json") == ([ROW], {"ours": [{"seconds": 2.0}]})
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


def test_a_contestant_that_fails_is_left_out_and_the_rest_is_measured(contest, capsys):
    order = []

    def measures(name):
        def contestant(number):
            order.append((number, name))
            if (number, name) == (2, "other"):
                raise Failed("no such flower\nstatus 3")
            return {"seconds": float(number)}

        return contestant

    contest.play({"ours": measures("ours"), "other": measures("other")}, [1, 2, 3])
    assert order == [(1, "ours"), (1, "other"), (2, "ours"), (2, "other"), (3, "ours")]
    row = table.lost("training", "s", "≥ 2.5 ×", contest.lost("ours", "other"))
    assert row.same == "failed: other: status 3" and row.ratio is None and row.met is None
    assert contest.finish([row]) == 1
    kept = json.loads(contest.path.read_text())
    assert {name: [each["seconds"] for each in measured] for name, measured in kept["measurements"].items()} == {
        "ours": [1.0, 2.0, 3.0],
        "other": [1.0],
    }
    assert kept["facts"]["failed"] == {"other": "status 3"} and "no such flower" in capsys.readouterr().err


def test_if_ours_fails_only_rows_that_need_it_are_lost(contest):
    contest.failed = {gpu.KEPT: "out of memory"}
    rate = {"images_per_second": 9.0, "loss": 1.6}
    contest.measured = {gpu.FRESH: [rate], gpu.STEP: [rate], gpu.PLAIN: [{"images_per_second": 5.0, "steps": 2}]}
    kept, fresh, plain = gpu.rows(contest, [gpu.KEPT, gpu.FRESH, gpu.STEP, gpu.PLAIN], 8, on_gpu=True)
    assert kept.same == plain.same == f"failed: {gpu.KEPT}: out of memory"
    assert fresh.ratio == 1.0 and fresh.comparable


def test_what_is_too_small_is_not_judged(capsys):
    row = table.compared(ROW, {"10 steps": True}, small=True)
    table.print_rows([row])
    assert "| ≥ 2.5 × | quick | 10 steps |" in capsys.readouterr().out
    for size, small in {(3, 500): False, (1, 500): True, (3, 50): True}.items():
        known = argparse.Namespace(rounds=size[0], images=size[1])
        assert arguments.is_small(known, fine_tuning.parser(), "images") is small
    assert run.default_file(["startup"], quick=True) == "reports/benchmarks-startup-quick.json"
    assert run.default_file([], quick=False) == "reports/benchmarks.json"


def test_a_process_that_fails_says_what_it_said(tmp_path):
    with pytest.raises(Failed, match=r"(?s)no such flower.*status 3: no such flower$"):
        run_process([sys.executable, "-c", "print('no such flower'); exit(3)"], tmp_path, tmp_path / "log")


@pytest.mark.parametrize(
    "parser, words, told",
    [
        (fine_tuning.parser, ["nowhere", "--base_model", "."], "argument photos: 'nowhere' is no folder"),
        (frozen.parser, ["nowhere", "--base_model", "."], "argument photos: 'nowhere' is no folder"),
        (startup.parser, ["--rounds", "0"], "argument --rounds: '0' is no whole number of at least 1"),
        (inference.parser, [".", "--pictures", "0"], "argument --pictures: '0' is no whole number of at least 1"),
        (throughput.parser, [".", "--base_model", ".", "--epochs", "1"], "argument --base_model: '.' is no ResNet-50"),
        (throughput.parser, [".", "--epochs", "1"], "argument --epochs: '1' is no whole number of at least 2"),
        (startup.parser, ["--json", "."], "argument --json: '.' is a folder"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(parser, words, told, capsys):
    with pytest.raises(SystemExit) as refused:
        parser().parse_args(words)
    assert refused.value.code == 2 and told in capsys.readouterr().err


def test_one_step_an_epoch_and_other_networks_are_refused(tmp_path, tiny_resnet, capsys):
    with pytest.raises(SystemExit):
        arguments.check_steps(argparse.Namespace(images=40, batch=32), throughput.parser())
    assert "--images 40 fill no two batches of 32" in capsys.readouterr().err
    with pytest.raises(argparse.ArgumentTypeError, match=r"no ResNet-50.*'depths': \[1, 1\]"):
        arguments.resnet_50(str(tiny_resnet))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet"}))  # all else is as by default
    assert arguments.resnet_50(str(tmp_path)) == tmp_path
    assert arguments.json_file(str(tmp_path / "new" / "found.json")).parent.is_dir()


def test_photographs_of_any_kind_are_found(tmp_path):
    for name in ("a.jpg", "b.JPEG", "c.png", "d.webp", "e.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in photographs.photographs([tmp_path])] == ["a.jpg", "b.JPEG", "c.png", "d.webp"]


def test_every_process_begins_with_the_cache_it_is_given_and_no_thread_count(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    code = "import os; print(os.environ['HF_HOME'], os.environ.get('OMP_NUM_THREADS'))"
    assert run_process([sys.executable, "-c", code], tmp_path / "cache", tmp_path / "log") > 0
    assert (tmp_path / "log").read_text().split() == [str(tmp_path / "cache"), "None"]


def test_first_epochs_and_first_steps_do_not_count(monkeypatch):
    clock = iter([100.0, 105.0, 106.0, 107.0, 109.0, 110.0, 111.0])
    monkeypatch.setattr("watch.time.perf_counter", lambda: next(clock))
    watch = Watch()
    watch.start()
    for _ in range(2):
        watch.epoch()
        watch.step()
        watch.step()
        watch.end()
    assert watch.rate(8) == 8 / (111 - 109)  # the second epoch's second step, from the first one's end to the epoch's


def test_photographs_are_divided_alike_and_none_resembles_another(tmp_path):
    folder = write_photos(tmp_path / "photos", {"rose": 12, "tulip": 12})
    twin = folder / "tulip" / "twin.png"
    twin.write_bytes((folder / "rose" / "000.png").read_bytes())
    photographs.divide(folder, tmp_path / "divided", {"train": 8, "validation": 4, "test": 2})
    found = photographs.listing(tmp_path / "divided")
    assert {split: len(names) for split, names in found.items()} == {"train": 8, "validation": 4, "test": 2}
    names = [name for each in found.values() for name in each]
    assert len(set(names)) == 14 and not {"tulip/twin.png", "rose/000.png"} & set(names)
    assert all(sum(name.startswith("rose/") for name in each) == len(each) / 2 for each in found.values())
    with pytest.raises(SystemExit, match="has 23 of 25 photographs to use; 30 are needed"):
        photographs.divide(folder, tmp_path / "again", {"train": 30})


def test_the_matrix_rate_is_a_rate_and_the_machine_is_told():
    import torch

    threads = torch.get_num_threads()
    assert machine.matrix_rate(torch.float32, 1, seconds=0.01, sides=(64, 128)) > 1e6
    assert torch.get_num_threads() == threads
    told = machine.facts()
    assert told["cores"] >= 1 and told["versions"]["torch"] in torch.__version__ and told["processor"]
    json.dumps(told)


def test_every_weight_of_transformers_resnet_has_its_place_in_timms():
    import timm
    import torch
    from timm_loop import timm_name
    from transformers import ResNetConfig, ResNetForImageClassification

    with torch.device("meta"):
        one = ResNetForImageClassification(ResNetConfig(num_labels=5)).state_dict()
        other = timm.create_model("resnet50", num_classes=5).state_dict()
    shapes = {timm_name(name): tensor.shape for name, tensor in one.items()}
    assert shapes == {name: tensor.shape for name, tensor in other.items()}


def test_each_gets_its_words_and_what_cannot_be_run_is_left_out_with_a_word(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("my photos", "base"):
        (tmp_path / name).mkdir()
    words = ["--photos", "my photos", "--base_model", "base", "--json", str(tmp_path / "found.json"), "--rounds", "2"]
    known = run.parser().parse_args(words)
    values = run.values_of(known, tmp_path)
    here = run.Path.cwd()
    found = run.words_of(run.BENCHMARKS["throughput"], values, quick=False)
    assert found == [str(here / "my photos"), "--base_model", str(here / "base"), "--rounds", "2"]
    assert "--others_python" not in run.words_of(run.BENCHMARKS["report"], values, quick=False)
    for name, missing in {"against_keras": "keras_python", "inference": "run"}.items():
        with pytest.raises(KeyError, match=missing):
            run.words_of(run.BENCHMARKS[name], values, quick=False)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")  # what fine_tuning leaves
    assert run.words_of(run.BENCHMARKS["inference"], run.values_of(known, tmp_path), False)[0] == str(tmp_path / "run")


@pytest.mark.slow
def test_the_one_command_puts_all_into_one_table(tmp_path):
    stale = tmp_path / "all.json.parts" / "against_keras.json"
    stale.parent.mkdir()
    table.write_rows(stale, [ROW], {})  # of an earlier invocation
    command = [sys.executable, str(BENCHMARKS / "run.py"), "against_keras", "startup", "startup", "--quick"]
    finished = subprocess.run(
        [*command, "--json", str(tmp_path / "all.json")], capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 1 and "not the same: against_keras" in finished.stdout, finished.stderr
    rows, measured = table.read_rows(tmp_path / "all.json")
    assert [row.what.split(",")[0] for row in rows] == [f"--help of the slowest of {len(startup.commands())} commands"]
    assert measured["against_keras"]["status"] == "skipped: --photos is needed"
    assert measured["startup"]["status"] == 0 and rows[0].met == "quick"
    assert len(measured["startup"]["measurements"]) == len(startup.commands()) + 1


@pytest.mark.slow
def test_a_run_that_an_earlier_invocation_left_is_not_measured_as_new(tmp_path):
    left = tmp_path / "all.json.parts" / "run"
    left.mkdir(parents=True)
    (left / "config.json").write_text("{}")
    command = [sys.executable, str(BENCHMARKS / "run.py"), "inference", "--json", str(tmp_path / "all.json")]
    refused = subprocess.run([*command, "--run", str(left)], capture_output=True, text=True, check=False)
    assert "which is emptied first" in refused.stderr and left.is_dir()
    subprocess.run(command, capture_output=True, check=False)
    assert table.read_rows(tmp_path / "all.json")[1]["inference"]["status"] == "skipped: --run is needed"


def test_no_keras_is_skipped_and_not_failed(tmp_path):
    words = [str(tmp_path), "--base_model", str(tmp_path), "--keras_python", str(tmp_path / "python")]
    command = [sys.executable, str(BENCHMARKS / "against_keras.py"), *words]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == SKIPPED and finished.stderr.startswith("skipped: ")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows sends no Ctrl-C to a group from here")
def test_an_interruption_loses_nothing_that_was_measured(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "run.py"), "startup", "throughput", "--rounds", "1000"]
    started = subprocess.Popen(
        [*command, "--json", str(tmp_path / "all.json")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    seen = next((line for line in started.stderr if "round 1" in line and line.endswith(" s\n")), "")
    os.killpg(started.pid, signal.SIGINT)  # as Ctrl-C does
    said = started.communicate(timeout=60)[1]
    assert seen and started.returncode == 1, said
    measured = table.read_rows(tmp_path / "all.json")[1]
    assert list(measured) == ["startup"] and measured["startup"]["status"] == "interrupted"
    assert startup.PYTHON in measured["startup"]["measurements"]


def test_startup_asks_every_command():
    names = [name.split()[-1] for name in startup.commands()]
    assert len(names) == 14
    assert {"training/train.py", "training/eval.py", "hub_utils.push", "hub_utils.space"} <= set(names)


def test_a_benchmark_that_does_not_exist_is_named_with_those_that_do():
    finished = subprocess.run(
        [sys.executable, str(BENCHMARKS / "run.py"), "trainig"], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 1
    assert finished.stderr == f"error: no benchmark 'trainig'; there are {', '.join(run.BENCHMARKS)}\n"


@pytest.mark.parametrize("name", ["run", *PRESENT])
def test_every_benchmark_says_how_it_is_used(name):
    finished = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), "--help"], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0 and "--json" in finished.stdout, finished.stderr


@pytest.mark.slow
def test_fine_tuning_of_a_tiny_network_is_the_same_in_both(tmp_path, tiny_resnet):
    folder = write_photos(tmp_path / "photos", {"rose": 30, "tulip": 30})
    words = [folder, "--base_model", tiny_resnet, "--images", 50, "--rounds", 1, "--json", tmp_path / "found.json"]
    command = [sys.executable, BENCHMARKS / "fine_tuning.py", *words, "--keep", tmp_path / "kept"]
    finished = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300, check=False)
    rows, _ = table.read_rows(tmp_path / "found.json")
    assert len(rows) == 2, finished.stderr
    differ = [row.same.removeprefix(table.DIFFERENT) for row in rows if not row.comparable]
    assert all(each.startswith("accuracy on 10") and ";" not in each for each in differ), differ  # ten tell nothing
    where = json.loads((tmp_path / "kept" / "run" / "local" / "data.json").read_text())
    assert where["data_dir"] == str(tmp_path / "kept" / "photos")
