"""One stage of a job: its trainer, and its training to the end, which leaves a checkpoint for the next."""

from __future__ import annotations

import gc
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState

from hub_utils.portable.modeling_backbone_with_head import BackboneWithHeadForImageClassification
from training.data.streaming import StreamedSplit, views
from training.fitting import checkpoints, features, leaving
from training.fitting.job import Job
from training.fitting.network import last_stage, set_trainable
from training.fitting.progress import Bar, Progress, history_rows
from training.fitting.trainer import StageTrainer, balanced_weights
from training.recipe import Stage

if TYPE_CHECKING:
    from datasets import Dataset


def run_stage(
    job: Job,
    network: BackboneWithHeadForImageClassification,
    stage: Stage,
    args: Any,
    history: list[dict[str, Any]],
    goes_on: bool,
) -> BackboneWithHeadForImageClassification:
    """Train a stage to its end, from its newest checkpoint if it has one; a network with the weights that it yields.

    `history` has the rows of the stages before (see `history_rows`), to which those of this one are added.
    """
    progress = Progress(stage.name, list(history), job.run.history)  # which counts the seconds from here on
    result = _train(job, network, stage, args, progress, goes_on)
    history += history_rows(stage.name, checkpoints.state_of(_last(args))["log_history"])
    return load_checkpoint(network, result)


def make_trainer(
    job: Job,
    network: BackboneWithHeadForImageClassification,
    stage: Stage,
    args: Any,
    progress: Bar,
    newest: Path | None = None,
    kind: type[StageTrainer] = StageTrainer,
) -> StageTrainer:
    """The trainer of a stage, which trains `network` itself: on images as they vary, or its head on stored features.

    `newest` is the checkpoint from which it will go on, if it does.
    """
    set_trainable(network, stage.trainable)
    # Checkpoints have the names of now: transformers would write Swin's weights under older ones, which neither
    # Trainer nor `load_checkpoint` translates back.
    network.save_pretrained = partial(network.save_pretrained, save_original_format=False)
    if job.machine.channels_last:
        network.to(memory_format=torch.channels_last)
    images, process = job.datasets["train"], (args.process_index, args.world_size)
    class_weights = None
    if job.recipe.class_weights == "balanced":
        class_weights = balanced_weights(_class_counts(images, network.config.num_labels))
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
    model, collator, shown = network, None, _stored_views(job, stage, args)
    if shown:
        if newest is not None:
            features.check_body(network, newest)
        model, collator = features.Head(network), features.as_it_is
        train, validation, told = features.stored_features(network, model, train, validation, shown, args, job.disk)
        args = features.without_workers(args)
        job.say(f"  features {told}")
    return kind(
        stage,
        progress,
        class_weights,
        model=model,
        args=args,
        data_collator=collator,
        train_dataset=train,
        eval_dataset=validation,
    )


def what_is_trained(job: Job, network: BackboneWithHeadForImageClassification, stage: Stage, args: Any) -> str:
    """What a stage trains, in words that end a sentence."""
    if stage.trainable == "all":
        return "all layers"
    if stage.trainable == "last_stage":
        every = len(last_stage(network.backbone)) == len(list(network.backbone.parameters()))
        what = "all layers, as the base model tells of no stages" if every else "the head and the last stage"
        return f"{what}, BatchNorm stands still"
    shown = _stored_views(job, stage, args)
    if shown:
        return f"the head on stored features of {shown} view{'s' * (shown > 1)} of each image, the rest stands still"
    streamed = isinstance(job.datasets["train"], StreamedSplit)
    return "the head, the rest stands still" + ", computed anew in each epoch, as of any stream" * streamed


def _train(
    job: Job,
    network: BackboneWithHeadForImageClassification,
    stage: Stage,
    args: Any,
    progress: Progress,
    goes_on: bool,
) -> Path:
    """As `run_stage`; the checkpoint with the weights that the stage yields."""
    newest, broken = checkpoints.newest_checkpoint(Path(args.output_dir)) if goes_on else (None, {})
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    images = f"{len(job.datasets['train']):,} images in batches of {batch}"
    job.say(f"stage      {stage.name}: trains {what_is_trained(job, network, stage, args)}; {images}")
    for path, reason in broken.items():
        job.say(f"warning    {path} {reason}; going on from {newest or 'the start of the stage'}")
    if newest is not None and checkpoints.is_finished(newest):
        job.say(f"  finished before, at step {checkpoints.state_of(newest)['global_step']}")
        return checkpoints.result_of(newest, args.load_best_model_at_end)
    if args.process_index == 0:
        for path in broken:
            checkpoints.remove(path)
    PartialState().wait_for_everyone()

    trainer = make_trainer(job, network, stage, args, progress, newest)
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
    if stage.trainable != "head" or isinstance(images, StreamedSplit):
        return 0
    asked = stage.views if job.feature_views is None else job.feature_views
    return features.views_of(asked, job.recipe.augmentation, len(images), args)


def _class_counts(images: Dataset | StreamedSplit, classes: int) -> list[int]:
    if isinstance(images, StreamedSplit):
        return images.counts
    counts = Counter(images["label"])
    return [counts[number] for number in range(classes)]


def _last(args: Any) -> Path:
    """The checkpoint with which a stage ended."""
    return checkpoints.newest_checkpoint(Path(args.output_dir))[0]


def load_checkpoint(
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
