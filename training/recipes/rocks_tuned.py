"""rocks_tuned: the rocks recipe with what fine-tuning on few images needs, measured.

    accelerate launch -q training/train.py rocks_tuned --data_dir ROCKS
"""

from dataclasses import replace

from training.recipe import Augmentation, Linear, Stage
from training.recipes.rocks import recipe as rocks

recipe = replace(
    rocks,
    title="Rocks, tuned",
    image_size=384,
    head=(Linear(),),
    augmentation=Augmentation(
        rotation=45,
        zoom=0.3,
        horizontal_flip=True,
        vertical_flip=True,
        brightness=0.1,
        contrast=0.1,
        saturation=0.1,
    ),
    stages=(
        Stage(
            name="head",
            trainable="head",
            batch_size=32,
            arguments={
                "num_train_epochs": 30,
                "learning_rate": 1e-3,
                "lr_scheduler_type": "cosine",
                "weight_decay": 0.05,
            },
        ),
        Stage(
            name="all",
            trainable="all_but_batch_norm",
            batch_size=16,
            arguments={
                "num_train_epochs": 8,
                "learning_rate": 5e-5,
                "lr_scheduler_type": "cosine",
                "warmup_steps": 0.1,
                "weight_decay": 0.05,
                "label_smoothing_factor": 0.1,
            },
        ),
    ),
)
