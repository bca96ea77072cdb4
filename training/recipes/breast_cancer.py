"""breast_cancer: benign or malignant tissue (BreakHis) with DenseNet-201, all layers, seven epochs.

    accelerate launch -q training/train.py breast_cancer --data_dir BREAKHIS

The original states the head (Dropout 0.5, BatchNorm, two outputs), Adam at 1e-4 with Keras' epsilon, batch 16, seven
epochs, ReduceLROnPlateau, cross-entropy, and zoom, rotation and both flips. It leaves magnitudes and the plateau's
parameters open; chosen here: 20 degrees, a fifth of zoom, and a learning rate cut to a fifth after 2 epochs without
progress, which in seven epochs can happen at all. Imbalance is met with class weights.

The file names of BreakHis tell the patient: `SOB_B_A-14-22549AB-40-001.png` is of patient 14-22549AB. All images of a
patient stay on one side of a split, which the original did not do. Folders of benign and malignant images do as well,
but then nobody knows the patients.
"""

from training.recipe import KERAS_ADAM, Augmentation, BatchNorm, Card, Data, Dropout, Linear, Recipe, Splits, Stage

recipe = Recipe(
    title="Breast cancer histology",
    data=Data(
        source="kaggle:ambarish/breakhis",
        homepage="https://web.inf.ufpr.br/vri/databases/breast-cancer-histopathological-database-breakhis/",
        pattern=r"(?:^|/)SOB_(?P<label>[BM])_[A-Z]+-(?P<group>\d+-\w+)-\d+-\d+\.\w+$",
        class_names={"B": "benign", "M": "malignant"},
        classes=2,
    ),
    splits=Splits(validation=0.15, test=0.2),
    base_model="timm/densenet201.tv_in1k",
    image_size=224,
    head=(Dropout(0.5), BatchNorm(), Linear()),
    augmentation=Augmentation(rotation=20, zoom=0.2, horizontal_flip=True, vertical_flip=True),
    stages=(
        Stage(
            name="all",
            batch_size=16,
            arguments={
                **KERAS_ADAM,
                "num_train_epochs": 7,
                "learning_rate": 1e-4,
                "lr_scheduler_type": "reduce_lr_on_plateau",
                "lr_scheduler_kwargs": {"factor": 0.2, "patience": 1, "threshold_mode": "abs"},
            },
        ),
    ),
    class_weights="balanced",
    card=Card(
        license="apache-2.0",
        data_license="research use",
        citation="Spanhol, F. A., Oliveira, L. S., Petitjean, C., & Heutte, L. (2016). A dataset for breast cancer "
        "histopathological image classification. IEEE Transactions on Biomedical Engineering, 63(7), 1455-1462.",
        limits="82 patients of one laboratory, one stain and one microscope; nothing can be said about others.",
        medical=True,
        positive=("malignant",),
    ),
)
