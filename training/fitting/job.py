"""A job: what every stage of a recipe and the deployment share, and the network that they begin with."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from training.data.pixels import Kept, keep
from training.data.records import records_folder
from training.data.source import Folder, Source
from training.data.streaming import Streamed, StreamedSplit
from training.data.transforms import Preprocessing
from training.fitting.hardware import Hardware
from training.fitting.network import build_network, describe
from training.fitting.plan import Options, Plan, on_main
from training.fitting.reading import Reading, data_lines, read_data
from training.recipe import Recipe, UserError
from training.results.serving import positive_classes
from training.run_folder import RunFolder

if TYPE_CHECKING:
    from datasets import DatasetDict

    from hub_utils.portable.modeling_backbone_with_head import BackboneWithHeadForImageClassification
    from training.fitting.checkpoint_repo import Saver


@dataclass(frozen=True)
class Job:
    """What every stage and the deployment share."""

    recipe: Recipe
    run: RunFolder
    machine: Hardware
    reading: Reading
    datasets: DatasetDict | dict[str, StreamedSplit]
    preprocessing: Preprocessing
    say: Callable[[str], None]
    feature_views: int | None  # instead of each `Stage.views`
    saver: Saver | None = None
    kept: Mapping[str, Kept] = field(default_factory=dict)  # decoded images, by split, see `with_pixels`
    disk: int | None = None  # bytes at most for what is computed once, see `Records.open`


def make_job(
    plan: Plan, source: Source, run: RunFolder, options: Options, goes_on: bool = False
) -> tuple[Job, BackboneWithHeadForImageClassification, Any]:
    """The job of training into `run`, the network that its first stage begins with, and its image processor.

    Reads all images and says what they are; nothing is written. Where the run `goes_on`, its images are those that it
    began with.

    Raises:
        UserError: data, base model and recipe do not go together.
    """
    recipe, say = plan.recipe, plan.say
    say(f"{recipe.title} ({recipe.name})")
    reading = on_main(plan.process, lambda: read_data(recipe, source, run if goes_on else None, options, say))
    source = reading.source
    for line in data_lines(recipe, reading):
        say(line)
    streamed = isinstance(source, Streamed)
    labels = source.survey.classes if streamed else sorted({row.label for row in reading.rows})
    positive_classes(asdict(recipe.card), labels)  # better now than when all is trained
    network, processor = build_network(recipe, labels)
    say(f"network\n{describe(network, recipe)}")
    say(f"hardware   {plan.machine}")
    datasets = source.splits(run.skipped) if streamed else source.as_datasets(reading.rows)
    job = Job(
        recipe,
        run,
        plan.machine,
        reading,
        datasets,
        Preprocessing(processor),
        say,
        feature_views=options.feature_views,
        disk=_disk(recipe, options.pixel_cache),
    )
    return job, network, processor


def check_apart(source: Source, folder: Path) -> None:
    """Refuse to write a run around its own images.

    Raises:
        UserError: they lie inside.
    """
    if isinstance(source, Folder) and source.data_dir.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"the images in '{source.data_dir}' lie inside the run folder '{folder}'; keep them apart")


def check_space(network: torch.nn.Module, recipe: Recipe, folder: Path, runs: int = 1, aside: int = 0) -> None:
    """Refuse to begin what cannot be finished: two checkpoints a stage, one being written, and the model, for each run;
    and those `aside` that wait to be uploaded.

    A checkpoint holds the weights and, of what is trained, Adam's two moments, all of 4 bytes.

    Raises:
        UserError: there is no space for it.
    """
    total = sum(parameter.numel() for parameter in network.parameters())
    head = sum(parameter.numel() for parameter in network.head.parameters())
    trained = [head if stage.trainable == "head" else total for stage in recipe.stages]
    kept = sum(2 * (total + 2 * moving) for moving in trained) + total
    need = 4 * (runs * kept + (1 + aside) * (total + 2 * trained[-1]))
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < need:
        raise UserError(
            f"no space left: checkpoints and model need up to {need / 1e6:,.0f} MB, '{there}' has {free / 1e6:,.0f} MB;"
            " free some, or choose another --output_dir"
        )


def with_pixels(plan: Plan, job: Job) -> Job:
    """The job, with a place for decoded images; the same one if each is looked at once only, or no disk may be used."""
    if isinstance(job.reading.source, Streamed):
        return job
    epochs = sum(2 if args.max_steps > 0 else args.num_train_epochs for args in plan.stage_arguments)
    if epochs <= 1:
        return job
    if job.disk == 0:
        whose = "patients' pictures" if plan.recipe.card.medical else "pictures"
        plan.say(f"pixels     decoded in each epoch: --pixel_cache GB would keep {whose} in {records_folder()}")
        return job
    kept = keep(job.datasets, job.preprocessing, plan.recipe.augmentation, job.disk)
    for records in {each.records for each in kept.values()}:
        if not records.room:
            plan.say(f"pixels     decoded in each epoch: no room for them in {records_folder()}, which HF_HOME chooses")
            return job
        there, total = len(records) - len(records.missing()), len(records)
        room = "" if records.room == total else f"; there is room for {records.room:,}"
        what = " and ".join({"train": "training", "validation": "validation"}[split] for split in kept)
        plan.say(f"pixels     of {total:,} {what} images are decoded once and kept, {there:,} are there already{room}")
    return replace(job, kept=kept)


def _disk(recipe: Recipe, gigabytes: float | None) -> int | None:
    """Bytes of disk for what is computed once, decoded images and features; None for the usual bound.

    What was made of patients' pictures outlives neither their folder nor the run unless somebody asks for it.
    """
    if gigabytes is None:
        return 0 if recipe.card.medical else None
    return int(gigabytes * 1e9)
