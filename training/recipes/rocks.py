"""rocks: 30 kinds of rock with ResNet-50: the new layers first, then everything for up to 250 epochs.

    accelerate launch -q training/train.py rocks --data_dir ROCKS      # holds "360 Rocks" and "120 Rocks"

The original states two stages (new layers, "a few" epochs; all layers, 250 epochs), EarlyStopping and
ReduceLROnPlateau, the widths 512 and 128, and augmentation by rotation, shear, zoom and flip; it credits BatchNorm in
the head with helping. Inferred: 224 pixels, ReLU, where the Dropouts stand. It leaves learning rates, patience, batch
and magnitudes open; chosen here: BatchNorm first in the head (it folds away exactly), dropout 0.3, batch 32, 1e-3 then
1e-4, the learning rate halved after 8 epochs without progress and training ended after 20, 20 degrees of rotation, 10
of shear, a fifth of zoom, and both flips, for a rock has no upper side.

The original validated on the 120 rocks, and so chose its weights by them. Here the 120 are the test set and are used
for nothing else; validation is a fifth of the 360. The published name `M_Marble_3_1201.jpg` is a typo of the 120 set.
"""

from training.recipe import (
    KERAS_ADAM,
    Augmentation,
    BatchNorm,
    Card,
    Data,
    Dropout,
    Linear,
    Recipe,
    ReLU,
    Splits,
    Stage,
)

recipe = Recipe(
    title="Rocks",
    data=Data(
        source="osf:d6b9y",
        parts=("360 Rocks", "120 Rocks"),
        homepage="https://osf.io/d6b9y/",
        pattern=r"(?:^|/)[IMS]_(?P<label>[A-Za-z ]+)_\d+(?:_(?P<split>120)\d?)?\.\w+$",
        split_names={"120": "test"},
        classes=30,
    ),
    splits=Splits(validation=0.2, test=0.25),
    base_model="microsoft/resnet-50",
    image_size=224,
    head=(
        BatchNorm(),
        *(Linear(512), ReLU(), Dropout(0.3)),
        *(Linear(128), ReLU(), Dropout(0.3)),
        Linear(),
    ),
    augmentation=Augmentation(rotation=20, shear=10, zoom=0.2, horizontal_flip=True, vertical_flip=True),
    stages=(
        Stage(
            name="head",
            trainable="head",
            batch_size=32,
            arguments={**KERAS_ADAM, "num_train_epochs": 5, "learning_rate": 1e-3, "lr_scheduler_type": "constant"},
        ),
        Stage(
            name="all",
            batch_size=32,
            arguments={
                **KERAS_ADAM,
                "num_train_epochs": 250,
                "learning_rate": 1e-4,
                "lr_scheduler_type": "reduce_lr_on_plateau",
                "lr_scheduler_kwargs": {"factor": 0.5, "patience": 7, "threshold_mode": "abs"},
            },
            early_stopping_patience=20,
        ),
    ),
    card=Card(
        license="apache-2.0",
        data_license="none stated",
        citation="Nosofsky, R. M., Sanders, C. A., Meagher, B. J., & Douglas, B. J. (2018). Toward the development of "
        "a feature-space representation for a complex natural category domain. Behavior Research Methods, 50, 530-556.",
        limits="Hand samples, centred on white; outcrops, weathered or wet rocks and other kinds are outside.",
    ),
)
