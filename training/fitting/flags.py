"""Command-line flags that are `TrainingArguments`: for every stage, or with `--stage2.` for one."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from training.recipe import Recipe, UserError

# Trainer's own ways of doing what this project does otherwise, and what to use instead.
INSTEAD = {
    "resume_from_checkpoint": "use --resume",
    "push_to_hub": "Trainer would upload weights and a pickle, publicly; --checkpoint_repo keeps checkpoints in a "
    "private repo, and python -m hub_utils.push RUN uploads the finished model",
    "remove_unused_columns": "the image column is needed until the last moment",
    "label_names": "classes come from the data",
    "data_seed": "--seed is for weights, order and augmentation alike",
    "do_train": "this command trains",
    "do_eval": "every epoch is evaluated",
    "do_predict": "this command trains",
    "gradient_checkpointing": "these networks cannot; a smaller --per_device_train_batch_size with "
    "--gradient_accumulation_steps saves as much memory",
    "neftune_noise_alpha": "it is for networks that read text",
    "save_only_model": "without the optimiser's state --resume could not go on",
    "dataloader_drop_last": "it would drop validation images too; a last batch of one image is left out anyway",
}
# The process is set up once: for all stages together.
WHOLE_RUN = ("bf16", "fp16", "use_cpu", "seed")
LEAST = {"gradient_accumulation_steps": 1, "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1}
METRICS = ("loss", "accuracy", "macro_f1")
# Flags of the command itself, which are for the whole run.
OWN = (
    "data_dir",
    "dataset",
    "streaming",
    "thorough",
    "base_model",
    "output_dir",
    "folds",
    "find_lr",
    "resume",
    "checkpoint_repo",
    "overwrite",
    "accept_changed_data",
    "class_weights",
    "threads",
    "channels_last",
    "feature_views",
    "no_calibrate",
    "pixel_cache",
)


def parse_flags(tokens: list[str], recipe: Recipe) -> list[dict[str, Any]]:
    """For each stage of the recipe, the `TrainingArguments` that the command line states, by name.

    Raises:
        UserError: an unknown flag or stage, a value of the wrong kind, or a flag of Trainer's that is not used here.
    """
    common, single = _by_stage(tokens, len(recipe.stages))
    parser = _parser()
    everywhere = _parse(parser, common)
    apart = {number: _parse(parser, stage_tokens) for number, stage_tokens in single.items()}
    for number, values in apart.items():
        for name in values:
            if name in WHOLE_RUN:
                raise UserError(f"--stage{number}.{name}: write --{name}, which is for the whole run")
    return [_with_direction({**everywhere, **apart.get(number, {})}) for number in range(1, len(recipe.stages) + 1)]


def with_flags(recipe: Recipe, stage_flags: list[dict[str, Any]]) -> Recipe:
    """The recipe as the flags change it: its seed, and a schedule that gives way to another one whole.

    Raises:
        UserError: as `check_arguments`.
    """
    stages = []
    for number, (stage, flags) in enumerate(zip(recipe.stages, stage_flags, strict=True), 1):
        if "lr_scheduler_type" in flags:
            arguments = {name: value for name, value in stage.arguments.items() if name != "lr_scheduler_kwargs"}
            stage = replace(stage, decay=None, arguments=arguments)
        check_arguments({**stage.arguments, **flags}, f"stage {number} of recipe {recipe.name}")
        stages.append(stage)
    return replace(recipe, stages=tuple(stages), seed=stage_flags[0].get("seed", recipe.seed))


def check_arguments(values: Mapping[str, Any], where: str) -> None:
    """Refuse a stage's `TrainingArguments` that cannot work, before anything has begun.

    Raises:
        UserError: a name that this version of transformers does not have, with the nearest that it has; a name that is
            not used here; or a value out of its range.
    """
    known = set(_parser().known)
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise UserError(f"{where}: TrainingArguments has no '{name}'{hint}")
        if name in INSTEAD or name in OWN or name.startswith("hub_"):
            raise UserError(f"{where}: '{name}' is not used here: {INSTEAD.get(name, 'it is for the command line')}")
    for name, least in LEAST.items():
        if not isinstance(values.get(name, least), int) or values.get(name, least) < least:
            raise UserError(f"{where}: {name} is {values[name]!r}; a whole number of {least} or more is needed")
    for name, least in {"learning_rate": 0, "num_train_epochs": 0}.items():
        value = values.get(name, 1)
        if not isinstance(value, (int, float)) or value < least or (name == "num_train_epochs" and value == 0):
            raise UserError(f"{where}: {name} is {value!r}; a number above 0 is needed")
    metric = values.get("metric_for_best_model")
    if metric is not None and metric.removeprefix("eval_") not in METRICS:
        raise UserError(f"{where}: metric_for_best_model is '{metric}'; allowed are {', '.join(METRICS)}")


def make_arguments(values: Mapping[str, Any]) -> Any:
    """`TrainingArguments`; what they refuse becomes one line.

    Raises:
        UserError: the values do not go together.
    """
    from transformers import TrainingArguments

    try:
        arguments = TrainingArguments(**values)
    except json.JSONDecodeError as error:
        name = next((name for name, value in values.items() if value == error.doc), "a value")
        raise UserError(f"training arguments: {name} is no JSON, in the shell's quotes: {error}") from error
    except (ValueError, ImportError, TypeError) as error:
        raise UserError(f"training arguments: {' '.join(str(error).split())}") from error
    for name in ("eval_strategy", "save_strategy"):
        if getattr(arguments, name) not in ("epoch", "steps"):
            raise UserError(
                f"training arguments: {name} can be epoch or steps; each stage hands its checkpoint to the next"
            )
    from transformers.integrations import get_available_reporting_integrations

    for name in set(arguments.report_to) - set(get_available_reporting_integrations()):
        raise UserError(f"--report_to {name}: is it installed? pip install {name}")
    return arguments


def _by_stage(tokens: list[str], stages: int) -> tuple[list[str], dict[int, list[str]]]:
    """Tokens for all stages, and those for each numbered one; a flag's values follow it to its stage."""
    common: list[str] = []
    single: dict[int, list[str]] = {}
    target = common
    for token in tokens:
        found = re.match(r"--stage(\d+)\.(.+)", token)
        if found:
            number = int(found[1])
            if not 1 <= number <= stages:
                raise UserError(f"{token}: this recipe has {stages} stage{'s' if stages > 1 else ''}, counted from 1")
            target, token = single.setdefault(number, []), f"--{found[2]}"
        elif token.startswith("--"):
            target = common
        target.append(token)
    return common, single


def _parse(parser: Any, tokens: list[str]) -> dict[str, Any]:
    given = [token.split("=")[0] for token in tokens if token.startswith("--")]
    for flag in given:
        own = flag.removeprefix("--").replace("-", "_")
        if own in OWN:
            raise UserError(f"{flag}: write --{own}, which is for the whole run and not for a stage")
        name = parser.destination.get(flag)
        if name is None:
            near = difflib.get_close_matches(flag, [*parser.destination, *(f"--{own}" for own in OWN)], n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"unknown flag {flag}{hint} (flags cannot be shortened; --help lists them)")
        if name in INSTEAD or name.startswith("hub_"):
            raise UserError(f"{flag} is not used here: {INSTEAD.get(name, INSTEAD['push_to_hub'])}")
    namespace, rest = parser.parse_known_args(tokens)
    if rest:
        raise UserError(f"'{rest[0]}' belongs to no flag; RECIPE comes first, then flags with their values")
    return {parser.destination[flag]: getattr(namespace, parser.destination[flag]) for flag in given}


def _with_direction(flags: dict[str, Any]) -> dict[str, Any]:
    """A metric to choose the best weights by, with its direction: stages say that lower is better, of the loss."""
    metric = flags.get("metric_for_best_model")
    return flags if metric is None else {"greater_is_better": not metric.endswith("loss"), **flags}


@cache
def _parser() -> Any:
    """An argument parser for `TrainingArguments` that raises `UserError` instead of ending the process."""
    from transformers import HfArgumentParser, TrainingArguments

    class Parser(HfArgumentParser):
        def error(self, message: str) -> None:
            raise UserError(re.sub(r"argument (--\w+)(/--[\w-]+)?", r"\1", message))

    parser = Parser(TrainingArguments, allow_abbrev=False, add_help=False)
    parser.destination = {flag: action.dest for action in parser._actions for flag in action.option_strings}
    parser.known = [action.dest for action in parser._actions]
    return parser
