"""flowers: daisy, dandelion, rose, sunflower, tulip, with the original's head of three hidden layers on ResNet-50.

    accelerate launch -q training/train.py flowers --data_dir FLOWERS

The original states the base model, the input size and the head, layers and dropout included. It leaves everything else
open; chosen here: two stages, because a head of random weights would upset the base model in its first steps; Adam with
Keras' epsilon; 1e-3 for the head and 5e-5 with warm-up and cosine for all layers, gentle enough for ImageNet features;
batch 32; early stopping on the validation loss; flips and small rotations and zooms, as for photographs of plants.
The Kaggle set says `rose`, TensorFlow's `roses`: both come out as `rose`.
"""

from training.recipe import KERAS_ADAM, Augmentation, Card, Data, Dropout, Linear, Recipe, ReLU, Splits, Stage

recipe = Recipe(
    title="Flowers",
    data=Data(
        source="https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz",
        homepage="https://www.tensorflow.org/datasets/catalog/tf_flowers",
        class_names={"roses": "rose", "sunflowers": "sunflower", "tulips": "tulip"},
        classes=5,
    ),
    splits=Splits(validation=0.15, test=0.2),
    base_model="microsoft/resnet-50",
    image_size=224,
    head=(
        *(Linear(256), ReLU(), Dropout(0.2)),
        *(Linear(128), ReLU(), Dropout(0.2)),
        *(Linear(64), ReLU(), Dropout(0.2)),
        Linear(),
    ),
    augmentation=Augmentation(rotation=15, zoom=0.15, horizontal_flip=True),
    stages=(
        Stage(
            name="head",
            trainable="head",
            batch_size=32,
            arguments={**KERAS_ADAM, "num_train_epochs": 5, "learning_rate": 1e-3, "lr_scheduler_type": "constant"},
            restore_best=True,
        ),
        Stage(
            name="all",
            batch_size=32,
            arguments={
                **KERAS_ADAM,
                "num_train_epochs": 8,
                "learning_rate": 5e-5,
                "lr_scheduler_type": "cosine",
                "warmup_steps": 0.1,
            },
            early_stopping_patience=3,
        ),
    ),
    card=Card(
        license="apache-2.0",
        data_license="CC BY, per photo, in TensorFlow's set (LICENSE.txt inside); unverified in Kaggle's",
        citation="The TensorFlow Team (2019). Flowers. http://download.tensorflow.org/example_images/flower_photos.tgz",
        limits="Five kinds of garden flowers; any other plant is called one of them.",
    ),
)
