"""folder: any folder of photographs, one folder a class. For the person with 200 pictures and no recipe.

    accelerate launch -q training/train.py folder --data_dir MY_PHOTOS

Classes are found by looking. The values are made for few images: a linear head that learns first, then all layers at a
small learning rate with warm-up and cosine, label smoothing against overconfidence, flips, small rotations and zooms,
and an end as soon as the validation loss has not improved for 4 epochs. Photographs where left and right matter want a
recipe of their own without the flip.
"""

from training.recipe import Augmentation, BatchNorm, Dropout, Linear, Recipe, Splits, Stage

recipe = Recipe(
    title="Image folder",
    splits=Splits(validation=0.15, test=0.2),
    base_model="microsoft/resnet-50",
    head=(BatchNorm(), Dropout(0.2), Linear()),
    augmentation=Augmentation(rotation=15, zoom=0.15, horizontal_flip=True),
    stages=(
        Stage(
            name="head",
            trainable="head",
            batch_size=16,
            arguments={
                "num_train_epochs": 5,
                "learning_rate": 1e-3,
                "lr_scheduler_type": "cosine",
                "label_smoothing_factor": 0.05,
            },
            restore_best=True,
        ),
        Stage(
            name="all",
            batch_size=16,
            arguments={
                "num_train_epochs": 10,
                "learning_rate": 5e-5,
                "lr_scheduler_type": "cosine",
                "warmup_steps": 0.1,
                "weight_decay": 0.01,
                "label_smoothing_factor": 0.05,
            },
            early_stopping_patience=4,
        ),
    ),
)
