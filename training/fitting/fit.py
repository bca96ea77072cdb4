"""The main job: a recipe and its images become a run folder."""

from __future__ import annotations

import gc
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers.utils import logging as transformers_logging

from hub_utils.portable.modeling_backbone_with_head import BackboneWithHeadForImageClassification
from training.data.intake import summary
from training.data.pixels import Kept, keep
from training.data.records import records_folder
from training.data.source import Folder, Source
from training.data.splits import SPLITS
from training.data.streaming import Streamed, StreamedSplit, read_skipped, views
from training.data.transforms import Preprocessing
from training.fitting import checkpoint_repo, checkpoints, features, hardware, leaving
from training.fitting.checkpoint_repo import CheckpointRepo, Saver
from training.fitting.checkpoint_restore import restore
from training.fitting.deploy import deploy
from training.fitting.flags import make_arguments, parse_flags, with_flags
from training.fitting.network import base_model_facts, build_network, describe, set_trainable
from training.fitting.progress import Progress, history_rows, write_history
from training.fitting.reading import Reading, data_lines, read_again, read_data, write_reading
from training.fitting.trainer import StageTrainer, balanced_weights
from training.recipe import BatchNorm, Recipe, Stage, UserError
from training.results.curves import plot_curves
from training.results.serving import positive_classes
from training.run_folder import RunFolder, check_same, read_json, recipe_facts, write_json
from training.run_lock import locked

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


@dataclass(frozen=True)
class Options:
    """What the command line says beside the recipe and `TrainingArguments`."""

    resume: bool = False
    resume_from: str | None = None  # a checkpoint repo
    checkpoint_repo: str | None = None  # where to keep checkpoints; "" for a repo called as the run folder
    overwrite: bool = False
    look_again: bool = True  # whether the images of a run that goes on are still the same
    accept_changed_data: bool = False  # though they are not
    threads: int | None = None
    channels_last: bool | None = None
    thorough: bool = False
    calibrate: bool = True
    feature_views: int | None = None  # as the run that goes on, or `features.VIEWS`; 0 computes features in each epoch
    pixel_cache: float | None = None  # GB of disk for decoded images; None for the usual bound


@dataclass(frozen=True)
class Plan:
    """A command that has proved good, before anything is read or written."""

    recipe: Recipe  # as the flags change it
    facts: dict[str, Any]
    stage_arguments: list[Any]
    machine: hardware.Hardware
    process: PartialState
    say: Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """What every stage and the deployment share."""

    recipe: Recipe
    run: RunFolder
    machine: hardware.Hardware
    datasets: DatasetDict | dict[str, StreamedSplit]
    preprocessing: Preprocessing
    say: Callable[[str], None]
    feature_views: int
    saver: Saver | None = None
    kept: Mapping[str, Kept] = field(default_factory=dict)  # decoded images, by split
    disk: int | None = None  # bytes at most for what is computed once, see `Records.open`


def fit(
    recipe: Recipe, source: Source, run: RunFolder, options: Options | None = None, flags: Sequence[str] = ()
) -> dict:
    """Train `recipe` on the images of `source` into `run`, and return what `all_results.json` says.

    Nothing is written before data, base model and flags have proved good.

    Raises:
        UserError: something that a user can put right.
    """
    options = options or Options()
    plan = prepare(recipe, run, options, flags)
    with alone(plan, run.path):
        return _fit(plan, source, run, options)


def _fit(plan: Plan, source: Source, run: RunFolder, options: Options) -> dict:
    """As `fit`, when nobody else writes into the run."""
    began = time.perf_counter()
    recipe, stage_arguments, process, say = plan.recipe, plan.stage_arguments, plan.process, plan.say

    check_apart(source, run.path)
    goes_on, repo = on_main(process, lambda: _place(plan, source, run, options))
    say(f"{recipe.title} ({recipe.name})")
    reading = on_main(process, lambda: read_data(recipe, source, run if goes_on else None, options, say))
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
    if not goes_on:
        on_main(process, lambda: check_space(network, recipe, run.path, aside=0 if repo is None else 2))
    on_main(process, lambda: _begin(run, plan, reading, repo, goes_on))
    process.wait_for_everyone()
    feature_views = on_main(process, lambda: read_json(run.recipe).get("feature_views", 0))  # old runs have none

    history: list[dict[str, Any]] = []
    weights: Path | None = None
    with checkpoint_repo.saving(repo, run, say) as saver:
        preprocessing = Preprocessing(processor)
        disk = _disk(recipe, options.pixel_cache)
        kept = {} if streamed else _keep_pixels(plan, datasets, preprocessing, disk)
        job = Job(recipe, run, plan.machine, datasets, preprocessing, say, feature_views, saver, kept, disk)
        for stage, args in zip(recipe.stages, stage_arguments, strict=True):
            if weights is not None:
                network = _load_checkpoint(network, weights)
            weights = _run_stage(job, network, stage, args, history, goes_on)
            history += history_rows(stage.name, checkpoints.state_of(_last(args))["log_history"])
        if not process.is_main_process:
            return {}

        network = _load_checkpoint(network, weights).eval()
        write_history(history, run.history)
        plot_curves(history, run.plots / "curves.png", f"{recipe.title} ({recipe.name})")
        results = {
            **deploy(network, processor, job.datasets, run.path, stage_arguments[-1], say, options.calibrate),
            "seconds": round(sum(row["seconds"] or 0 for row in history), 1),
            "hardware": str(plan.machine),
            "processes": process.num_processes,
            "images": {split: len(job.datasets[split]) for split in SPLITS},
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
        }
        if streamed:
            found = read_skipped(run.skipped)
            lost = Counter(source.split_of_row(each.path) for each in found)
            results["images"] = {split: count - lost[split] for split, count in results["images"].items()}
            if found:
                say(f"skipped    {len(found)} images in all ({run.skipped}): {summary(found)}")
        write_json(results, run.results)  # before the Hub is waited for
    say(
        f"time       {results['seconds'] / 60:.1f} min of training, {(time.perf_counter() - began) / 60:.1f} min in all"
    )
    return results


def prepare(recipe: Recipe, run: RunFolder, options: Options, flags: Sequence[str]) -> Plan:
    """What the recipe, the flags and the machine make of a run together.

    Raises:
        UserError: they do not go together.
    """
    transformers_logging.disable_progress_bar()
    stage_flags = parse_flags(list(flags), recipe)
    recipe = with_flags(recipe, stage_flags)
    machine = _choose_hardware(stage_flags, options)
    stage_arguments = [
        make_arguments(_argument_values(recipe, number, stage, machine, run, stage_flags[number - 1]))
        for number, stage in enumerate(recipe.stages, 1)
    ]
    if (options.feature_views or 0) < 0:
        raise UserError(f"--feature_views {options.feature_views}: 0 or more; 0 computes features anew in each epoch")
    facts = recipe_facts(recipe, base_model_facts(recipe), stage_flags) | {"feature_views": options.feature_views}
    process = PartialState()  # after TrainingArguments, which say whether it is on the CPU
    return Plan(recipe, facts, stage_arguments, machine, process, print if process.is_main_process else _silent)


@contextmanager
def alone(plan: Plan, folder: Path) -> Iterator[None]:
    """Keep others from writing into `folder`; the main process holds the lock for all.

    Raises:
        UserError: somebody does already.
    """
    with ExitStack() as stack:
        on_main(plan.process, lambda: stack.enter_context(locked(folder, "trains into", plan.say)))
        yield


def check_apart(source: Source, folder: Path) -> None:
    """Refuse to write a run around its own images.

    Raises:
        UserError: they lie inside.
    """
    if isinstance(source, Folder) and source.data_dir.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"the images in '{source.data_dir}' lie inside the run folder '{folder}'; keep them apart")


def begin(run: RunFolder, plan: Plan, reading: Reading) -> None:
    """Write what a run begins with, and from which it can go on."""
    asked = plan.facts["feature_views"]
    run.begin({**plan.facts, "feature_views": features.VIEWS if asked is None else asked})
    write_reading(run, reading)


def _place(plan: Plan, source: Source, run: RunFolder, options: Options) -> tuple[bool, CheckpointRepo | None]:
    """Whether there is a run to go on with, here or brought here from the Hub, and where its checkpoints go.

    Raises:
        UserError: neither the folder nor the Hub has a place for this run.
    """
    goes_on = run.check_free(options.resume, options.overwrite)
    if options.resume_from is not None:
        repo = checkpoint_repo.find_repo(options.resume_from, run, goes_on)
        if goes_on:
            check_same(run.recipe, plan.facts)
            return True, repo
        plan.say(f"resuming   from {repo.url}")
        stages = [Path(args.output_dir).name for args in plan.stage_arguments]
        look = partial(read_again, plan.recipe, source, options.thorough)
        restore(repo, run, plan.facts, stages, source, look)
        return True, repo
    if options.resume and not goes_on:
        plan.say(f"nothing to resume in {run.path}: starting afresh")
    if goes_on:
        check_same(run.recipe, plan.facts)
    if options.checkpoint_repo is None:
        mine = checkpoint_repo.own(run) if goes_on else {}
        if mine:
            plan.say(
                f"warning    checkpoints stay on this machine now: {mine['repo_id']} takes them by --checkpoint_repo"
            )
        return goes_on, None
    repo = checkpoint_repo.open_repo(options.checkpoint_repo, run, goes_on)
    plan.say(f"checkpoints go to {repo.url} (private); on any machine --resume {repo.repo_id} goes on")
    return goes_on, repo


def _begin(run: RunFolder, plan: Plan, reading: Reading, repo: CheckpointRepo | None, goes_on: bool) -> None:
    """As `begin`, unless the run goes on; on the Hub first, which may still refuse."""
    with TemporaryDirectory() as folder:
        if repo is not None:
            first = run if goes_on else RunFolder(Path(folder))
            if not goes_on:
                begin(first, plan, reading)
            repo.begin(first)
    if not goes_on:
        begin(run, plan, reading)
    elif reading.accepted is not None:
        write_reading(run, reading)
    if repo is not None:
        repo.claim(run)


def _silent(_: str) -> None:
    """What the other processes say."""


def _choose_hardware(stage_flags: list[dict[str, Any]], options: Options) -> hardware.Hardware:
    """One choice for all stages."""
    first = stage_flags[0]
    half = first.get("bf16", False if first.get("fp16") else None)
    machine = hardware.choose(
        use_cpu=first.get("use_cpu", False),
        bf16=half,
        channels_last=options.channels_last,
        threads=options.threads,
        workers=first.get("dataloader_num_workers"),
    )
    torch.set_num_threads(machine.threads)  # accelerate launch leaves one thread on a CPU
    if machine.device == "cpu":
        hardware.keep_freed_memory()
    return machine


def _argument_values(
    recipe: Recipe, number: int, stage: Stage, machine: hardware.Hardware, run: RunFolder, flags: dict[str, Any]
) -> dict[str, Any]:
    """`TrainingArguments` of a stage: the house's, the machine's, the recipe's, and over all of them the flags."""
    accumulation = flags.get("gradient_accumulation_steps", stage.arguments.get("gradient_accumulation_steps", 1))
    devices = machine.processes
    if machine.device == "cuda" and devices == 1:
        devices = max(1, torch.cuda.device_count())
    batch = max(1, stage.batch_size // (devices * accumulation))
    values = {
        "output_dir": str(run.stage(number, stage.name)),
        "per_device_train_batch_size": batch,
        "per_device_eval_batch_size": 32,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "logging_strategy": "epoch",
        "logging_nan_inf_filter": False,  # it would hide what `Finite` looks for
        "save_total_limit": 2,
        "load_best_model_at_end": stage.restore_best or stage.early_stopping_patience is not None,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "restore_callback_states_from_checkpoint": True,
        "remove_unused_columns": False,
        "label_names": ["labels"],
        "log_level": "error",
        "report_to": "none",
        "project": recipe.name,
        "run_name": f"{run.path.name}-{number}-{stage.name}",
        "seed": recipe.seed,
        "max_grad_norm": 0.0,  # Keras clips nothing
        "bf16": machine.bf16,
        "use_cpu": machine.device == "cpu",
        "dataloader_num_workers": machine.workers,
        "dataloader_persistent_workers": flags.get("dataloader_num_workers", machine.workers) > 0,
        "dataloader_pin_memory": machine.device == "cuda",
        "ddp_find_unused_parameters": False,  # what is frozen is known before the model is wrapped
        **stage.arguments,
        **flags,
    }
    if values["per_device_train_batch_size"] == 1 and BatchNorm() in recipe.head:
        raise UserError(
            f"stage {number} of recipe {recipe.name}: BatchNorm in the head cannot learn from batches of one image; "
            f"{stage.batch_size} divided by {devices} processes and {accumulation} accumulation steps is too small"
        )
    return values


def on_main(process: PartialState, work: Callable[[], Any]) -> Any:
    """The result of `work`, done by the main process alone and given to the others; so is its failure."""
    outcome: list[Any] = [None, None]
    if process.is_main_process:
        try:
            outcome[0] = work()
        except UserError as error:
            if process.num_processes == 1:
                raise
            outcome[1] = str(error)
    if process.num_processes > 1:
        broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise UserError(outcome[1])
    return outcome[0]


def check_space(network: torch.nn.Module, recipe: Recipe, folder: Path, runs: int = 1, aside: int = 0) -> None:
    """Refuse to begin what cannot be finished: two checkpoints a stage, one being written, and the model, for each run;
    and those `aside` that wait to be uploaded.

    A checkpoint holds the weights and, of what is trained, Adam's two moments, all of 4 bytes.

    Raises:
        UserError: there is no space for it.
    """
    total = sum(parameter.numel() for parameter in network.parameters())
    head = sum(parameter.numel() for parameter in network.head.parameters())
    trained = [total if stage.trainable == "all" else head for stage in recipe.stages]
    kept = sum(2 * (total + 2 * moving) for moving in trained) + total
    need = 4 * (runs * kept + (1 + aside) * (total + 2 * trained[-1]))
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < need:
        raise UserError(
            f"no space left: checkpoints and model need up to {need / 1e6:,.0f} MB, '{there}' has {free / 1e6:,.0f} MB;"
            " free some, or choose another --output_dir"
        )


def _run_stage(
    job: Job,
    network: BackboneWithHeadForImageClassification,
    stage: Stage,
    args: Any,
    history: list[dict],
    goes_on: bool,
) -> Path:
    """Train a stage to its end, from its newest checkpoint if it has one; the checkpoint with the weights it yields."""
    progress = Progress(stage.name, history, job.run.history)  # which counts the seconds from here on
    folder, images = Path(args.output_dir), job.datasets["train"]
    newest, broken = checkpoints.newest_checkpoint(folder) if goes_on else (None, {})
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    shown = _stored_views(job, stage, args)
    trained = _what_is_trained(job, stage, shown)
    job.say(f"stage      {stage.name}: trains {trained}; {len(images):,} images in batches of {batch}")
    for path, reason in broken.items():
        job.say(f"warning    {path} {reason}; going on from {newest or 'the start of the stage'}")
    if newest is not None and checkpoints.is_finished(newest):
        job.say(f"  finished before, at step {checkpoints.state_of(newest)['global_step']}")
        return checkpoints.result_of(newest, args.load_best_model_at_end)
    if args.process_index == 0:
        for path in broken:
            checkpoints.remove(path)
    PartialState().wait_for_everyone()

    set_trainable(network, stage.trainable)
    if job.machine.channels_last:
        network.to(memory_format=torch.channels_last)
    class_weights = None
    if job.recipe.class_weights == "balanced":
        class_weights = balanced_weights(_class_counts(images, network.config.num_labels))
    process = (args.process_index, args.world_size)
    train = views(
        images,
        job.preprocessing,
        args.train_batch_size,
        job.recipe.augmentation,
        args.seed,
        process,
        unfinished=True,
        kept=job.kept.get("train"),
    )
    validation = views(
        job.datasets["validation"],
        job.preprocessing,
        args.eval_batch_size,
        process=process,
        unfinished=True,
        kept=job.kept.get("validation"),
    )
    model, collator = network, None
    if shown:
        if newest is not None:
            features.check_body(network, newest)
        model, collator = features.Head(network), features.as_it_is
        train, validation, told = features.stored_features(network, model, train, validation, shown, args, job.disk)
        args = features.without_workers(args)
        job.say(f"  features {told}")
    trainer = StageTrainer(
        stage,
        progress,
        class_weights,
        model=model,
        args=args,
        data_collator=collator,
        train_dataset=train,
        eval_dataset=validation,
    )
    if job.saver is not None:
        trainer.add_callback(job.saver)
    if newest is not None:
        job.say(f"  going on after step {checkpoints.state_of(newest)['global_step']}")
    leaving.train(trainer, newest)
    trainer.accelerator.free_memory()
    del trainer
    gc.collect()
    result = checkpoints.result_of(_last(args), args.load_best_model_at_end)
    if args.load_best_model_at_end:
        job.say(f"  best weights are those of epoch {checkpoints.state_of(result)['epoch']:g}")
    return result


def _stored_views(job: Job, stage: Stage, args: Any) -> int:
    """Of how many views of each training image features are stored; 0 where all is computed in each epoch."""
    images = job.datasets["train"]
    if stage.trainable == "all" or isinstance(images, StreamedSplit):
        return 0
    return features.views_of(job.feature_views, job.recipe.augmentation, len(images), args)


def _what_is_trained(job: Job, stage: Stage, shown: int) -> str:
    if stage.trainable == "all":
        return "all layers"
    if shown:
        return f"the head on stored features of {shown} view{'s' * (shown > 1)} of each image, the rest stands still"
    streamed = isinstance(job.datasets["train"], StreamedSplit)
    return "the head, the rest stands still" + ", computed anew in each epoch, as of any stream" * streamed


def _disk(recipe: Recipe, gigabytes: float | None) -> int | None:
    """Bytes of disk for what is computed once, decoded images and features; None for the usual bound.

    What was made of patients' pictures outlives neither their folder nor the run unless somebody asks for it.
    """
    if gigabytes is None:
        return 0 if recipe.card.medical else None
    return int(gigabytes * 1e9)


def _keep_pixels(
    plan: Plan, datasets: DatasetDict, preprocessing: Preprocessing, disk: int | None
) -> Mapping[str, Kept]:
    """Where decoded images are kept; nowhere if each is looked at once only, or no disk may be used for it."""
    epochs = sum(2 if args.max_steps > 0 else args.num_train_epochs for args in plan.stage_arguments)
    if epochs <= 1:
        return {}
    if disk == 0:
        whose = "patients' pictures" if plan.recipe.card.medical else "pictures"
        plan.say(f"pixels     decoded in each epoch: --pixel_cache GB would keep {whose} in {records_folder()}")
        return {}
    kept = keep(datasets, preprocessing, plan.recipe.augmentation, disk)
    for records in {each.records for each in kept.values()}:
        if not records.room:
            plan.say(f"pixels     decoded in each epoch: no room for them in {records_folder()}, which HF_HOME chooses")
            return {}
        there, total = len(records) - len(records.missing()), len(records)
        room = "" if records.room == total else f"; there is room for {records.room:,}"
        what = " and ".join({"train": "training", "validation": "validation"}[split] for split in kept)
        plan.say(f"pixels     of {total:,} {what} images are decoded once and kept, {there:,} are there already{room}")
    return kept


def _class_counts(images: Dataset | StreamedSplit, classes: int) -> list[int]:
    if isinstance(images, StreamedSplit):
        return images.counts
    counts = Counter(images["label"])
    return [counts[number] for number in range(classes)]


def _last(args: Any) -> Path:
    """The checkpoint with which a stage ended."""
    return checkpoints.newest_checkpoint(Path(args.output_dir))[0]


def _load_checkpoint(
    before: BackboneWithHeadForImageClassification, checkpoint: Path
) -> BackboneWithHeadForImageClassification:
    """A network with a checkpoint's weights; what one of the head alone has not, the body, is as it was before.

    Every stage starts from a file, as it does after a kill.

    Raises:
        UserError: the head in the checkpoint belongs to another body.
    """
    from safetensors.torch import load_file

    features.check_body(before, checkpoint)
    network = BackboneWithHeadForImageClassification(before.config)
    weights = load_file(checkpoint / "model.safetensors")
    weights.pop(features.BODY, None)
    network.load_state_dict({**before.state_dict(), **weights})
    return network
