"""A contestant: `training/train.py` itself, with a watch in it.

python tests/benchmarks/steady.py MODE RESULT PROBE -- RECIPE [flags of train.py]

MODE is `train` (images per second while training), `stage` (seconds of each stage, whatever it does before its first
step included), `whole` (how many images each evaluation had), `loader` (images per second of the batches alone, as they
come to the device) or `step` (the training step alone, on one batch that lies on the device). The latter two end the
process when they have measured; all but `stage` take the probe's loss before the first step, `whole` in fp32. RESULT is
a JSON file to write, PROBE what `start.save_probe` wrote.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from watch import Watch, device_wait

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("mode", choices=["train", "stage", "whole", "loader", "step"])
parser.add_argument("result", type=Path)
parser.add_argument("probe", type=Path)
parser.add_argument("--steps", type=int, default=16, help="steps to measure alone")
parser.add_argument("words", nargs=argparse.REMAINDER, help="-- and what train.py is told")


def main(known: argparse.Namespace) -> None:
    """Train with a watch at the places where Trainer calls our progress, or around each stage."""
    from training import train
    from training.fitting.progress import Progress

    words = known.words[1:] if known.words[:1] == ["--"] else known.words
    if known.mode == "stage":
        seconds = watch_stages()
        status = train.main(words)
        write(known.result, {"stage_seconds": seconds})
        sys.exit(status)

    watch = Watch(device_wait())
    found: dict[str, Any] = {"evaluated": watch_evaluations()} if known.mode == "whole" else {}

    def watched(name: str, note: Any) -> None:
        own = getattr(Progress, name)

        def both(self, args, state, control, **kwargs):
            own(self, args, state, control, **kwargs)
            note(args, state, **kwargs)

        setattr(Progress, name, both)

    def begin(args, state, model, optimizer, train_dataloader, **kwargs):
        import torch
        from start import probe_loss

        found["batch"] = args.per_device_train_batch_size
        found["threads"] = torch.get_num_threads()
        found["loss"] = probe_loss(model, known.probe, args.bf16 and known.mode != "whole")
        if known.mode in ("loader", "step"):
            alone = loader(train_dataloader) if known.mode == "loader" else step(model, optimizer, args, known)
            write(known.result, found | alone)
            sys.stdout.flush()
            raise SystemExit(0)
        watch.start()

    watched("on_train_begin", begin)
    watched("on_epoch_begin", lambda args, state, **kwargs: watch.epoch())
    watched("on_step_end", lambda args, state, **kwargs: watch.step())
    watched("on_epoch_end", lambda args, state, **kwargs: watch.end())
    watched("on_train_end", lambda args, state, **kwargs: found.update(steps=state.global_step))
    status = train.main(words)
    write(known.result, found | {"images_per_second": watch.rate(found["batch"])})
    sys.exit(status)


def watch_stages() -> list[float]:
    """A list that will hold the seconds of each stage."""
    from training.fitting import fit

    own, seconds = fit.run_stage, []

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        result = own(*args, **kwargs)
        seconds.append(time.perf_counter() - began)
        return result

    fit.run_stage = timed
    return seconds


def watch_evaluations() -> list[int]:
    """A list that will hold how many images' answers each evaluation had: Trainer's, and those of the saved model."""
    from transformers import Trainer

    from training.fitting import deploy

    own_loop, own_answers, counted = Trainer.evaluation_loop, deploy.answers, []

    def loop(*args: Any, **kwargs: Any) -> Any:
        result = own_loop(*args, **kwargs)
        counted.append(len(result.label_ids))
        return result

    def answers(model: Any, batches: Any, name: str) -> Any:
        result = own_answers(model, batches, name)
        if name in ("validation", "test"):  # not what else is asked for statistics
            counted.append(len(result[1]))
        return result

    Trainer.evaluation_loop, deploy.answers = loop, answers
    return counted


def write(path: Path, found: dict[str, Any]) -> None:
    path.write_text(json.dumps(found), encoding="utf-8")


def loader(batches: Any) -> dict[str, float]:
    """Images per second of a second epoch's batches; the first fills the caches."""
    wait = device_wait()
    for epoch in (0, 1):
        if hasattr(batches, "set_epoch"):
            batches.set_epoch(epoch)
        images, began = 0, time.perf_counter()
        for batch in batches:
            images += len(batch["labels"])
        wait()
    return {"images_per_second": images / (time.perf_counter() - began)}


def step(model: Any, optimizer: Any, args: Any, known: argparse.Namespace) -> dict[str, float]:
    """Median seconds of forward, loss, backward and update; their FLOPs, and the machine's rate just afterwards.

    The FLOPs are those of forward and backward as torch counts them: the first convolution, which needs no gradient of
    its input, has two thirds of what a layer else has.
    """
    import torch
    from machine import matrix_rate
    from torch.nn import functional
    from torch.utils.flop_counter import FlopCounterMode

    wait = device_wait()
    device = next(model.parameters()).device
    probe = torch.load(known.probe, weights_only=True)
    pixels, labels = (probe[name][: args.per_device_train_batch_size].to(device) for name in ("pixels", "labels"))
    model.train()
    half = torch.bfloat16 if args.bf16 else torch.float32

    def both_ways() -> None:
        functional.cross_entropy(model(pixel_values=pixels).logits.float(), labels).backward()

    with FlopCounterMode(display=False) as counter:
        both_ways()
    optimizer.zero_grad()
    times = []
    for _ in range(known.steps + 3):
        wait()
        began = time.perf_counter()
        both_ways()
        optimizer.step()
        optimizer.zero_grad()
        wait()
        times.append(time.perf_counter() - began)
    seconds = statistics.median(times[3:])
    return {
        "step_seconds": seconds,
        "step_seconds_all": times,
        "images_per_second": len(labels) / seconds,
        "flops": counter.get_total_flops(),
        "matrix_rate": matrix_rate(half, torch.get_num_threads(), device.type),
    }


if __name__ == "__main__":
    main(parser.parse_args())
