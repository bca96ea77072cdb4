"""folder: any folder of photographs, one folder a class. For the person with 200 pictures and no recipe.

    accelerate launch -q training/train.py folder --data_dir MY_PHOTOS

Classes are found by looking. The values are those that `flowers_tuned` and `rocks_tuned` taught, made gentler for few
images: a linear head until it has learned what it can (about the learning rate that `--find_lr` suggests), then the
base model's last stage in small steps, and an end as soon as the validation loss has not improved for 4 epochs;
label smoothing against overconfidence; flips, small rotations, random crops, somewhat other colours. Of 138 photographs
of flowers that learns better than all layers at 5e-5 behind a short head did (training/RESULTS.md). Photographs where
left and right, or the exact colour, matter want a recipe of their own without the flip, or the colours.

With `--streaming` the base model sees every image anew in each of the head's epochs: `--stage1.num_train_epochs 5` is
enough for so many.
"""

from training.recipe import ADAMW_COSINE, Augmentation, Linear, Recipe, Splits, Stage

recipe = Recipe(
    title="Image folder",
    splits=Splits(validation=0.15, test=0.2),
    base_model="microsoft/resnet-50",
    head=(Linear(),),
    augmentation=Augmentation(
        rotation=15,
        crop=0.6,
        horizontal_flip=True,
        brightness=0.2,
        contrast=0.2,
        saturation=0.2,
    ),
    stages=(
        Stage(
            name="head",
            trainable="head",
            batch_size=16,
            arguments={**ADAMW_COSINE, "num_train_epochs": 20, "learning_rate": 3e-3},
            restore_best=True,
        ),
        Stage(
            name="last",
            trainable="last_stage",
            batch_size=16,
            arguments={**ADAMW_COSINE, "num_train_epochs": 10, "learning_rate": 1e-4, "warmup_steps": 0.1},
            early_stopping_patience=4,
        ),
    ),
)
