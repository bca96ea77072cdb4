"""A recipe says everything about one data set's model, in one Python file.

Only the standard library is imported here, so that listing and checking recipes costs nothing. To add a recipe, copy
the shortest of ``training/recipes/``; a variant is ``dataclasses.replace`` of its sibling. The file system is the
registry: ``load_recipe("flowers")`` reads ``training/recipes/flowers.py``, ``load_recipe("my/own.py")`` any file
that defines ``recipe``.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

RECIPES = Path(__file__).parent / "recipes"


class UserError(Exception):
    """Something a user can put right. Commands print it as one line, without a traceback, and exit with status 1."""


def first_line(error: Exception) -> str:
    """What a library says of an error, as much as fits into a message of ours."""
    return (str(error) or type(error).__name__).strip().splitlines()[0]


# The head: layers from the pooled features to the logits. Softmax belongs to the loss and to `pipeline`.


@dataclass(frozen=True)
class Linear:
    """A fully connected layer; without `features` it has one output per class."""

    features: int | None = None

    def __post_init__(self):
        if self.features is not None and (not isinstance(self.features, int) or self.features < 1):
            raise ValueError(f"Linear({self.features!r}): a width of at least 1, or nothing for one output per class")


@dataclass(frozen=True)
class ReLU:
    """max(x, 0)."""


@dataclass(frozen=True)
class Dropout:
    """Zeroes a share `rate` of its inputs while training."""

    rate: float

    def __post_init__(self):
        if not isinstance(self.rate, (int, float)) or not 0 <= self.rate < 1:
            raise ValueError(f"Dropout({self.rate!r}): a share from 0 to below 1")


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalisation with Keras' defaults: its momentum of .99 is torch's .01, and epsilon is 1e-3."""

    momentum: float = 0.01
    epsilon: float = 1e-3


Layer = Linear | ReLU | Dropout | BatchNorm


@dataclass(frozen=True)
class FromConfig:
    """A network that starts from random weights: a transformers `model_type` and the values of its configuration."""

    model_type: str
    values: Mapping[str, Any]
    image_size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where the images are published and how a folder of them is read.

    `pattern` is a regular expression searched in each image's path (POSIX, relative to the folder). Its group `label`
    is the class (without that group, folders tell it); `split`, if it matches, is looked up in `split_names`; images
    with the same `group` (a patient, say) are never on both sides of a split. Where the pattern fits no file at all,
    class folders are used.
    `class_names` renames what the folders or file names say. `parts` names the folders that are wanted of a `source`
    with others beside them.
    """

    source: str | None = None
    parts: tuple[str, ...] = ()
    homepage: str | None = None
    pattern: str | None = None
    split_names: Mapping[str, str] = field(default_factory=dict)
    class_names: Mapping[str, str] = field(default_factory=dict)
    classes: int | None = None

    def __post_init__(self):
        if self.parts and not _is_tuple_of(self.parts, str):
            raise ValueError(
                f"Data(parts={self.parts!r}): a tuple of folder names is needed, as in parts=('Original',)"
            )


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Shares of the images for validation and test, where the data brings no splits of its own."""

    validation: float = 0.15
    test: float = 0.15
    seed: int = 42

    def __post_init__(self):
        for name in ("validation", "test"):
            share = getattr(self, name)
            if not 0 < share < 1:
                raise ValueError(f"Splits({name}={share}): a share lies between 0 and 1, for example {name}=0.15")
        if self.validation + self.test >= 1:
            raise ValueError("Splits: validation and test together leave nothing to train on")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How training images vary; every draw depends on nothing but seed, epoch and image.

    `rotation` and `shear` in degrees, either way; `zoom` and `shift` as shares (0.2: scaled by 0.8 to 1.2, moved by up
    to a fifth); what comes into view beyond the edge repeats the edge, as in Keras. `crop`: the smallest share of the
    area that a random crop keeps (1 crops nothing). `brightness`, `contrast`, `saturation`: largest relative change.
    """

    rotation: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    horizontal_flip: bool = False
    vertical_flip: bool = False
    crop: float = 1.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self):
        most = {"rotation": 180, "shear": 80, "zoom": 0.9, "shift": 1, "brightness": 1, "contrast": 1, "saturation": 1}
        for name, limit in most.items():
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(f"Augmentation({name}={getattr(self, name)}): allowed are 0 to {limit}")
        if not 0 < self.crop <= 1:
            raise ValueError(f"Augmentation(crop={self.crop}): a share of the area, more than 0 and at most 1")


@dataclass(frozen=True)
class ExponentialDecay:
    """Learning rate × rate^(step / steps), continuous, counted in optimiser steps."""

    rate: float
    steps: int


# Keras' Adam with its own epsilon: torch's AdamW without weight decay is the same rule.
KERAS_ADAM = MappingProxyType({"optim": "adamw_torch_fused", "weight_decay": 0.0, "adam_epsilon": 1e-7})
# What the tuned recipes share: AdamW's decoupled weight decay (arXiv:1711.05101), a cosine to zero (arXiv:1608.03983),
# label smoothing (arXiv:1512.00567).
ADAMW_COSINE = MappingProxyType({"lr_scheduler_type": "cosine", "weight_decay": 0.05, "label_smoothing_factor": 0.1})


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One leg of training.

    `trainable`: "all"; "head" for the new layers only; or "last_stage" for these and the base model's layers of lowest
    resolution, its BatchNorm excepted, whose statistics few images only disturb. What is frozen stands still,
    BatchNorm's statistics included.
    `batch_size` is global: it is divided by processes and gradient accumulation. `arguments` are `TrainingArguments` by
    their own names; the `patience` of a plateau is one less than Keras', for torch acts one epoch later. With
    `early_stopping_patience`, training ends after that many epochs without a lower validation loss, and the best
    weights come back; with `restore_best` alone, only the latter.

    A head that is trained alone learns from features that are computed once: if the recipe augments, of `views` views
    of each training image, at which the epochs take turns; with 0 every epoch computes another view.
    """

    name: str
    trainable: Literal["all", "last_stage", "head"] = "all"
    batch_size: int = 32
    arguments: Mapping[str, Any] = field(default_factory=dict)
    decay: ExponentialDecay | None = None
    early_stopping_patience: int | None = None
    restore_best: bool = False
    views: int = 3

    def __post_init__(self):
        if self.trainable not in ("all", "last_stage", "head"):
            raise ValueError(f"Stage(trainable={self.trainable!r}): allowed are 'all', 'last_stage' and 'head'")
        if not re.fullmatch(r"[a-z0-9_]+", self.name):
            raise ValueError(f"Stage(name={self.name!r}): small letters, digits and _ only; it names a folder")
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ValueError(f"Stage(batch_size={self.batch_size!r}): a whole number of 1 or more")
        if not isinstance(self.views, int) or self.views < 0:
            raise ValueError(
                f"Stage(views={self.views!r}): a whole number of 0 or more; 0 computes another view in every epoch"
            )


@dataclass(frozen=True, kw_only=True)
class Card:
    """What the model card must say and no program can find out.

    `positive` names the classes that are looked for, as a malignant one is: a picture's probability of these together
    is what a threshold is set for, with a sensitivity and a specificity.
    """

    license: str = "unknown"
    data_license: str = "unknown"
    citation: str | None = None
    limits: str | None = None
    medical: bool = False
    positive: tuple[str, ...] = ()

    def __post_init__(self):
        if self.positive != () and not _is_tuple_of(self.positive, str):
            raise ValueError(
                f"Card(positive={self.positive!r}): a tuple of class names is needed, as in positive=('malignant',)"
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything about one data set's model; see the module's docstring.

    `image_size` and `resize` override the base model's own preprocessing: "crop" scales the shorter side and cuts out
    the middle, "squash" scales to a square. `seed` is for weights, order and augmentation; the splits have their own.
    """

    title: str
    base_model: str | FromConfig
    head: tuple[Layer, ...]
    stages: tuple[Stage, ...]
    data: Data = Data()
    splits: Splits = Splits()
    augmentation: Augmentation = Augmentation()
    image_size: int | None = None
    resize: Literal["crop", "squash"] | None = None
    class_weights: Literal["balanced"] | None = None
    seed: int = 42
    card: Card = Card()
    name: str = ""

    def __post_init__(self):
        if not _is_tuple_of(self.stages, Stage):
            raise ValueError("Recipe(stages=...): a tuple of at least one Stage is needed, as in stages=(Stage(...),)")
        if not _is_tuple_of(self.head, Layer):
            raise ValueError(f"Recipe(head={self.head!r}): a tuple of layers is needed, as in head=(Linear(),)")
        if self.head[-1] != Linear():
            raise ValueError("Recipe(head=...): the last layer must be Linear(), with one output per class")
        if self.resize not in (None, "crop", "squash"):
            raise ValueError(
                f"Recipe(resize={self.resize!r}): allowed are 'crop', 'squash' and None (the base model's)"
            )
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"Recipe(image_size={self.image_size}): at least 1 pixel, or None (the base model's)")
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"Recipe(stages=...): stages are called {', '.join(names)}; give each a name of its own")
        kinds = {"data": Data, "splits": Splits, "augmentation": Augmentation, "card": Card, "seed": int}
        for field_name, kind in {**kinds, "base_model": (str, FromConfig)}.items():
            if not isinstance(getattr(self, field_name), kind):
                raise ValueError(f"Recipe({field_name}={getattr(self, field_name)!r}): this is not what it takes")
        if self.class_weights not in (None, "balanced"):
            raise ValueError(f"Recipe(class_weights={self.class_weights!r}): allowed are 'balanced' and None")


def _is_tuple_of(values: Any, kind: Any) -> bool:
    """Whether there is at least one; `(Stage(...))` without its comma is no tuple."""
    return isinstance(values, tuple) and bool(values) and all(isinstance(value, kind) for value in values)


def recipe_names() -> list[str]:
    """Names of the recipes that come with the project, in alphabetical order."""
    return sorted(path.stem for path in RECIPES.glob("*.py") if not path.stem.startswith("_"))


def load_recipe(name: str) -> Recipe:
    """The recipe of that name, or the one that the file `name` defines.

    Raises:
        UserError: there is no such recipe or file, or it does not define a valid `recipe`.
    """
    by_path = name.endswith(".py") or "/" in name or "\\" in name
    if not by_path and name not in recipe_names():
        near = difflib.get_close_matches(name, recipe_names(), n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise UserError(f"no recipe '{name}'; {hint}there are {', '.join(recipe_names())}, or the path of your own .py")
    path = Path(name) if by_path else RECIPES / f"{name}.py"
    if not path.is_file():
        raise UserError(f"no recipe file '{path}'; there are {', '.join(recipe_names())}, or the path of your own .py")
    recipe = getattr(_import(path, by_path), "recipe", None)
    if not isinstance(recipe, Recipe):
        raise UserError(f"{path} must define `recipe = Recipe(...)`; copy {RECIPES / 'flowers.py'} to start from")
    return dataclasses.replace(recipe, name=path.stem)


def _import(path: Path, by_path: bool):
    """The recipe's module; whatever is wrong with it becomes one line that names the file."""
    try:
        if not by_path:
            return importlib.import_module(f"training.recipes.{path.stem}")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except SyntaxError as error:
        raise UserError(f"{path}, line {error.lineno}: {error.msg}") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}{_near_field(str(error))}") from error
    except Exception as error:
        raise UserError(f"{path}: {type(error).__name__}: {error}") from error


def _near_field(message: str) -> str:
    """For "Stage.__init__() got an unexpected keyword argument 'batchsize'": the field that was probably meant."""
    found = re.search(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", message)
    owner = globals().get(found[1]) if found else None
    if not dataclasses.is_dataclass(owner):
        return ""
    names = [each.name for each in dataclasses.fields(owner)]
    near = difflib.get_close_matches(found[2], names, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; {found[1]} has {', '.join(names)}"
