"""leukemia: four kinds of cells in blood smears with ResNet-50, all layers, two epochs.

    accelerate launch -q training/train.py leukemia --data_dir LEUKEMIA

The original states everything but the batch size: head of BatchNorm and one Linear, Adam at 1e-4 with epsilon 1e-8, the
learning rate times 0.96 every 40 steps, continuously, two epochs, no augmentation. Chosen here: batch 32. The published
folders are called Benign, Early, Pre and Pro under `Original` (`Segmented` beside it shows the same cells and is left
out), or bear the bracketed names in another mirror: both come out alike.

The published numbers on this set (98.9 to 99.9 %) are on random splits, where 38 % of the test images have an
overlapping twin in training, and the colour of the picture alone nearly gives the class away.
"""

from training.recipe import KERAS_ADAM, BatchNorm, Card, Data, ExponentialDecay, Linear, Recipe, Splits, Stage

recipe = Recipe(
    title="Leukemia cells",
    data=Data(
        source="kaggle:mehradaria/leukemia",
        parts=("Original",),
        homepage="https://www.kaggle.com/datasets/mehradaria/leukemia",
        pattern=r"(?:^|/)Original/(?P<label>[^/]+)/[^/]+$",
        class_names={
            "Early": "[Malignant] early Pre-B",
            "Pre": "[Malignant] Pre-B",
            "Pro": "[Malignant] Pro-B",
        },
        classes=4,
    ),
    splits=Splits(validation=0.15, test=0.2),
    base_model="microsoft/resnet-50",
    image_size=224,
    head=(BatchNorm(), Linear()),
    stages=(
        Stage(
            name="all",
            batch_size=32,
            arguments={
                **KERAS_ADAM,
                "num_train_epochs": 2,
                "learning_rate": 1e-4,
                "adam_beta1": 0.9,
                "adam_beta2": 0.999,
                "adam_epsilon": 1e-8,
            },
            decay=ExponentialDecay(rate=0.96, steps=40),
        ),
    ),
    card=Card(
        license="apache-2.0",
        data_license="unverified",
        citation="Aria, M., Ghaderzadeh, M., Bashash, D., Abolghasemi, H., Asadi, F., & Hosseini, A. (2021). Acute "
        "Lymphoblastic Leukemia (ALL) image dataset. Kaggle. https://doi.org/10.34740/KAGGLE/DSV/2175623",
        limits="One laboratory, one camera, 89 patients without identifiers: how it does on another microscope or on a "
        "new patient cannot be known from these images.",
        medical=True,
        positive=("[Malignant] early Pre-B", "[Malignant] Pre-B", "[Malignant] Pro-B"),
    ),
)
