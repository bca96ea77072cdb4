"""Every recipe says what its original states, and what is wrong with a user's own becomes one line."""

import dataclasses
import json
import re

import pytest
from conftest import ROOT
from safetensors.torch import save_file

from training.fitting.flags import check_arguments, make_arguments
from training.fitting.network import build_network, describe, head_layers
from training.recipe import (
    Augmentation,
    BatchNorm,
    Dropout,
    ExponentialDecay,
    FromConfig,
    Linear,
    ReLU,
    Splits,
    UserError,
    load_recipe,
    recipe_names,
)

NAMES = sorted(path.stem for path in (ROOT / "training" / "recipes").glob("[!_]*.py"))
RESNET, DENSENET, INCEPTION = "microsoft/resnet-50", "timm/densenet201.tv_in1k", "timm/inception_resnet_v2.tf_in1k"
KERAS = {"optim": "adamw_torch_fused", "weight_decay": 0.0}  # Keras' Adam is torch's AdamW without weight decay

# What the originals state: whole recipe, then each stage that is stated. Heads without the Dropouts are of `rocks`,
# whose original leaves the places and rates of Dropout and BatchNorm open.
STATED = {
    "leukemia": {"base_model": RESNET, "image_size": 224, "head": (BatchNorm(), Linear())},
    "rocks": {"base_model": RESNET, "image_size": 224, "linear": [512, 128, None], "relus": 2},
    "rocks_embedding": {"base_model": RESNET, "linear": [8, None]},
    "dog_breeds": {"base_model": INCEPTION, "image_size": 299, "head": (Linear(),)},
    "breast_cancer": {
        "base_model": DENSENET,
        "image_size": 224,
        "head": (Dropout(0.5), BatchNorm(), Linear()),
        "class_weights": "balanced",
    },
    "flowers": {
        "base_model": RESNET,
        "head": (
            *(Linear(256), ReLU(), Dropout(0.2)),
            *(Linear(128), ReLU(), Dropout(0.2)),
            *(Linear(64), ReLU(), Dropout(0.2)),
            Linear(),
        ),
    },
}
LEUKEMIA_ADAM = {"learning_rate": 1e-4, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, **KERAS}
STAGES = {
    ("leukemia", 0): {"trainable": "all", "num_train_epochs": 2, **LEUKEMIA_ADAM, "decay": ExponentialDecay(0.96, 40)},
    ("breast_cancer", 0): {
        **{"trainable": "all", "num_train_epochs": 7, "batch_size": 16},
        **{"learning_rate": 1e-4, "adam_epsilon": 1e-7, "lr_scheduler_type": "reduce_lr_on_plateau", **KERAS},
    },
    ("rocks", 0): {"trainable": "head", "num_train_epochs": 5, "adam_epsilon": 1e-7, **KERAS},
    ("rocks", 1): {
        **{"trainable": "all", "num_train_epochs": 250, "early_stopping_patience": 20},
        **{"lr_scheduler_type": "reduce_lr_on_plateau", "adam_epsilon": 1e-7, **KERAS},
    },
    ("dog_breeds", 1): {"trainable": "all", "lr_scheduler_type": "cosine", "early_stopping_patience": 3, **KERAS},
}
AUGMENTED = {
    "rocks": {"rotation", "shear", "zoom", "horizontal_flip", "vertical_flip"},
    "breast_cancer": {"rotation", "zoom", "horizontal_flip", "vertical_flip"},
    "leukemia": set(),
}
CLASSES = {"leukemia": 4, "rocks": 30, "dog_breeds": 120, "breast_cancer": 2, "flowers": 5, "digits": 10}
TUNED = ("image_size", "head", "augmentation", "stages")
VARIANTS = {
    "rocks_tuned": ("rocks", {"name", "title", "splits", *TUNED}),
    "rocks_embedding": ("rocks_tuned", {"name", "title", "head"}),
    "flowers_tuned": ("flowers", {"name", "title", *TUNED}),
    "flowers_densenet": ("flowers", {"name", "title", "base_model"}),
}


def test_the_eleven_recipes_are_found_by_looking():
    assert recipe_names() == NAMES
    assert len(NAMES) == 11


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_loads_under_the_name_of_its_file(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.title


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_tells_the_command_that_trains_it(name):
    text = (ROOT / "training" / "recipes" / f"{name}.py").read_text(encoding="utf-8")
    assert text.startswith(f'"""{name}: ')
    assert f"accelerate launch -q training/train.py {name}" in text


@pytest.mark.parametrize("name", NAMES)
def test_the_arguments_of_every_stage_are_trainers_own(name, tmp_path):
    for stage in load_recipe(name).stages:
        check_arguments(stage.arguments, stage.name)
        values = {"output_dir": str(tmp_path), "eval_strategy": "epoch", "use_cpu": True, **stage.arguments}
        arguments = make_arguments(values)
        for key, value in stage.arguments.items():
            assert getattr(arguments, key) == value


@pytest.mark.parametrize("name", STATED)
def test_a_recipe_says_what_its_original_states(name):
    recipe = load_recipe(name)
    linear = [layer.features for layer in recipe.head if isinstance(layer, Linear)]
    relus = sum(isinstance(layer, ReLU) for layer in recipe.head)
    said = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    said |= {"linear": linear, "relus": relus}
    assert {key: said[key] for key in STATED[name]} == STATED[name]


@pytest.mark.parametrize(("name", "number"), STAGES)
def test_a_stage_says_what_its_original_states(name, number):
    stage = load_recipe(name).stages[number]
    said = {**dataclasses.asdict(stage), "decay": stage.decay, **stage.arguments}
    assert {key: said[key] for key in STAGES[name, number]} == STAGES[name, number]


def test_the_originals_number_of_stages():
    counts = {name: len(load_recipe(name).stages) for name in CLASSES}
    assert counts == {"leukemia": 1, "breast_cancer": 1, "rocks": 2, "dog_breeds": 2, "flowers": 2, "digits": 1}


@pytest.mark.parametrize("name", AUGMENTED)
def test_images_vary_in_the_ways_that_the_original_states(name):
    how = load_recipe(name).augmentation
    default = Augmentation()
    varied = {
        field.name for field in dataclasses.fields(how) if getattr(how, field.name) != getattr(default, field.name)
    }
    assert varied == AUGMENTED[name]


@pytest.mark.parametrize("name", CLASSES)
def test_the_number_of_classes_is_known(name):
    assert load_recipe(name).data.classes == CLASSES[name]


def test_new_batch_norm_layers_follow_keras():
    assert BatchNorm() == BatchNorm(momentum=0.01, epsilon=1e-3)  # Keras' momentum of .99, as torch counts it


@pytest.mark.parametrize(
    ("path", "label", "split"),
    [
        ("360 Rocks/I_Andesite_01.jpg", "Andesite", None),
        ("120 Rocks/I_Andesite_1_120.jpg", "Andesite", "test"),
        ("120 Rocks/M_Marble_3_1201.jpg", "Marble", "test"),
        ("S_Rock Gypsum_12.jpg", "Rock Gypsum", None),
    ],
)
def test_rocks_reads_class_and_split_from_file_names_and_keeps_the_120_for_the_test(path, label, split):
    data = load_recipe("rocks").data
    found = re.search(data.pattern, path)
    assert (found["label"], data.split_names.get(found["split"])) == (label, split)


@pytest.mark.parametrize(
    ("path", "label", "patient"),
    [
        ("breast/benign/SOB/adenosis/SOB_B_A_14-22549AB/40X/SOB_B_A-14-22549AB-40-001.png", "benign", "14-22549AB"),
        ("SOB_M_DC-14-2523-400-009.png", "malignant", "14-2523"),
    ],
)
def test_breast_cancer_reads_class_and_patient_from_file_names(path, label, patient):
    data = load_recipe("breast_cancer").data
    found = re.search(data.pattern, path)
    assert (data.class_names[found["label"]], found["group"]) == (label, patient)


def test_leukemia_calls_the_classes_of_both_mirrors_alike():
    data = load_recipe("leukemia").data
    folders = ["Benign", "Early", "Pre", "Pro"]
    labels = [re.search(data.pattern, f"leukemia/Original/{folder}/WBC-1.jpg")["label"] for folder in folders]
    names = ["Benign", "[Malignant] early Pre-B", "[Malignant] Pre-B", "[Malignant] Pro-B"]
    assert [data.class_names.get(label, label) for label in labels] == names
    assert re.search(data.pattern, "leukemia/Segmented/Pre/WBC-1.jpg") is None


def test_dog_breeds_are_called_what_follows_the_first_hyphen():
    pattern = load_recipe("dog_breeds").data.pattern
    assert re.search(pattern, "Images/n02085620-Chihuahua/n02085620_7.jpg")["label"] == "Chihuahua"
    assert re.search(pattern, "n02099267-flat-coated_retriever/1.jpg")["label"] == "flat-coated_retriever"


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_differs_from_its_sibling_only_in_what_it_is_about(name):
    sibling, fields = VARIANTS[name]
    one, other = load_recipe(name), load_recipe(sibling)
    assert {f.name for f in dataclasses.fields(one) if getattr(one, f.name) != getattr(other, f.name)} == fields


def test_breast_cancer_has_exactly_the_originals_number_of_weights(tmp_path):
    import timm

    model = timm.create_model("densenet201", pretrained=False)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    cfg = {key: model.default_cfg[key] for key in ("input_size", "interpolation", "crop_pct", "mean", "std")}
    config = {"architecture": "densenet201", "num_classes": 1000, "num_features": 1920, "pretrained_cfg": cfg}
    (tmp_path / "config.json").write_text(json.dumps(config))
    recipe = dataclasses.replace(load_recipe("breast_cancer"), base_model=str(tmp_path))

    network, processor = build_network(recipe, ["benign", "malignant"])
    assert sum(p.numel() for p in network.parameters()) == 18_100_610
    assert sum(b.numel() for b in network.buffers() if b.is_floating_point()) == 232_896
    assert "18,333,506" in describe(network, recipe)
    assert processor.data_config["input_size"] == (3, 224, 224)


def test_the_head_of_flowers_on_a_resnet_50_has_the_originals_shapes():
    recipe = dataclasses.replace(load_recipe("flowers"), base_model=FromConfig("resnet", {}, image_size=64))
    network, _ = build_network(recipe, ["daisy", "dandelion", "rose", "sunflower", "tulip"])
    shapes = [tuple(parameter.shape) for parameter in network.head.parameters() if parameter.ndim == 2]
    assert shapes == [(256, 2048), (128, 256), (64, 128), (5, 64)]
    assert sum(p.numel() for p in network.backbone.parameters()) == 23_508_032
    assert len(head_layers(recipe, 2048, 5)) == 10


# A user's own recipe

GOOD = """
from training.recipe import *
recipe = Recipe(
    title="Mine",
    base_model="microsoft/resnet-50",
    head=(Linear(),),
    stages=(Stage(name="all", batch_size=8, arguments={"num_train_epochs": 1}),),
)
"""


def own(tmp_path, text: str) -> str:
    path = tmp_path / "mine.py"
    path.write_text(text, encoding="utf-8")
    return str(path)


def message(*arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_recipe_file_of_ones_own_is_loaded_by_its_path(tmp_path):
    recipe = load_recipe(own(tmp_path, GOOD))
    assert (recipe.name, recipe.title, recipe.stages[0].batch_size) == ("mine", "Mine", 8)


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("batch_size=8", "batchsize=8", "did you mean 'batch_size'?"),
        ("title=", "titel=", "did you mean 'title'?"),
        ("Linear()", "Linear(feature=3)", "did you mean 'features'?"),
        ('title="Mine"', 'title="Mine", qqqqq=1', "Recipe has title, base_model, head"),
        ('title="Mine",', "", "missing 1 required keyword-only argument: 'title'"),
        ("(Linear(),)", "(Linear())", "head=(Linear(),)"),
        ('{"num_train_epochs": 1}),)', '{"num_train_epochs": 1}))', "stages=(Stage(...),)"),
        ("head=(Linear(),)", "head=(Linear(5),)", "the last layer must be Linear()"),
        ("head=(Linear(),)", 'head=("Linear", Linear())', "'Linear'"),
        ("(Stage(", "(dict(", "stages=(Stage(...),)"),
        ('title="Mine"', 'title="Mine", resize="squish"', "'crop', 'squash'"),
        ('title="Mine"', 'title="Mine", class_weights="balance"', "'balanced'"),
        ('title="Mine"', 'title="Mine", data=Data(parts=("Original"))', "parts=('Original',)"),
        ('title="Mine"', 'title="Mine", image_size=0', "image_size"),
        ("batch_size=8", 'trainable="heads"', "'last_stage' and 'head'"),
        ('name="all"', 'name="All layers"', "small letters"),
        ("batch_size=8", "batch_size=0", "batch_size"),
        ("batch_size=8", 'batch_size="8"', "Stage(batch_size='8'): a whole number"),
        ("batch_size=8", "batch_size=2.5", "Stage(batch_size=2.5): a whole number"),
        ("batch_size=8", "views=-1", "Stage(views=-1): a whole number"),
        ("batch_size=8", 'views="x"', "Stage(views='x'): a whole number"),
        ("batch_size=8", "views=2.5", "Stage(views=2.5): a whole number"),
        ("batch_size=8", "views=None", "Stage(views=None): a whole number"),
        ('title="Mine"', 'title="Mine", splits=Splits(test=1.5)', "between 0 and 1"),
        ("from training.recipe import *", "from training.recipe import Recipee", "cannot import name 'Recipee'"),
        ("from training.recipe import *", "import nosuchlibrary", "No module named 'nosuchlibrary'"),
        ("recipe = Recipe(", "recipe = Recipe((", "line"),
        ("recipe = Recipe(", "rezept = Recipe(", "must define `recipe = Recipe(...)`"),
    ],
)
def test_what_is_wrong_with_a_recipe_file_is_told_in_one_line_that_names_it(tmp_path, right, wrong, told):
    assert right in GOOD
    text = message(own(tmp_path, GOOD.replace(right, wrong)))
    assert "mine.py" in text
    assert told in text


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"zoom": 1.0}, "zoom"),
        ({"crop": 0.0}, "crop"),
        ({"crop": 1.5}, "crop"),
        ({"brightness": -0.1}, "brightness"),
        ({"contrast": 1.5}, "contrast"),
        ({"shear": 90}, "shear"),
        ({"rotation": -5}, "rotation"),
    ],
)
def test_magnitudes_that_make_no_picture_are_refused(values, told):
    with pytest.raises(ValueError, match=rf"Augmentation\({told}="):
        Augmentation(**values)


@pytest.mark.parametrize("values", [{"validation": 0}, {"test": 1}, {"validation": 0.5, "test": 0.5}])
def test_splits_that_leave_nothing_are_refused(values):
    with pytest.raises(ValueError, match="Splits"):
        Splits(**values)


def test_a_missing_recipe_file_is_named(tmp_path):
    assert "no recipe file" in (text := message(str(tmp_path / "no.py"))) and "no.py" in text


@pytest.mark.parametrize(
    ("typo", "meant"), [("flower", "flowers"), ("breastcancer", "breast_cancer"), ("Rocks", "rocks")]
)
def test_an_unknown_recipe_gets_the_nearest_name_and_the_list(typo, meant):
    text = message(typo)
    assert f"did you mean '{meant}'?" in text
    assert all(name in text for name in NAMES)


def test_a_recipe_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_recipe("flowers").seed = 1
