"""digits: scikit-learn's 1,797 real handwritten digits, with a small ResNet that starts from random weights.

The embedded default: no download, no account, no GPU.

    accelerate launch -q training/train.py digits

The network is a ResNet of basic blocks, 0.7 million parameters, at 32 pixels (the scans are 8 × 8). Chosen here: the
widths, so that two CPU cores need about a minute; AdamW at 3e-3 with a cosine, which ends where early stopping would
have to guess. No flips: a mirrored 2 is no 2.
"""

from training.recipe import Augmentation, Card, Data, FromConfig, Linear, Recipe, Splits, Stage

recipe = Recipe(
    title="Handwritten digits",
    data=Data(
        source="sklearn:digits",
        homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        classes=10,
    ),
    splits=Splits(validation=0.1, test=0.2),
    base_model=FromConfig(
        "resnet",
        {"embedding_size": 32, "hidden_sizes": [32, 64, 128], "depths": [1, 1, 1], "layer_type": "basic"},
        image_size=32,
    ),
    head=(Linear(),),
    augmentation=Augmentation(rotation=10, shear=5, zoom=0.1, shift=0.08),
    stages=(
        Stage(
            name="all",
            batch_size=64,
            arguments={
                "num_train_epochs": 12,
                "learning_rate": 3e-3,
                "lr_scheduler_type": "cosine",
                "warmup_steps": 0.1,
                "weight_decay": 0.01,
            },
        ),
    ),
    card=Card(
        license="apache-2.0",
        data_license="CC BY 4.0",
        citation="Alpaydin, E. & Kaynak, C. (1998). Optical Recognition of Handwritten Digits. UCI Machine Learning "
        "Repository. https://doi.org/10.24432/C50P49",
        limits="Digits of one form, written by 43 people and scanned at 8 × 8 pixels; letters, several digits in one "
        "picture and photographs are outside of what it has seen.",
    ),
)
