"""dog_breeds: 120 breeds (Stanford Dogs) with InceptionResNetV2.

    accelerate launch -q training/train.py dog_breeds --data_dir DOGS

The original states the base model, a learning-rate schedule, EarlyStopping and augmentation, and leaves their values
and the data open. Chosen here: Stanford Dogs; 299 pixels and the checkpoint's own mean and deviation of 0.5; one
Linear, since the features already know dogs; the head alone at 1e-3 for 3 epochs, then all layers at 5e-5 with warm-up
and cosine for at most 10, ended after 3 epochs without progress; mirror images, small rotations and zooms.

Stanford Dogs was taken from ImageNet: the base model has seen these photographs, test set included, with their labels.
The accuracy says how well it remembers, and little about a new dog.
"""

from training.recipe import KERAS_ADAM, Augmentation, Card, Data, Linear, Recipe, Splits, Stage

recipe = Recipe(
    title="Dog breeds",
    data=Data(
        source="http://vision.stanford.edu/aditya86/ImageNetDogs/images.tar",
        homepage="http://vision.stanford.edu/aditya86/ImageNetDogs/",
        pattern=r"(?:^|/)n\d{8}-(?P<label>[^/]+)/[^/]+$",
        classes=120,
    ),
    splits=Splits(validation=0.1, test=0.2),
    base_model="timm/inception_resnet_v2.tf_in1k",
    image_size=299,
    head=(Linear(),),
    augmentation=Augmentation(rotation=10, zoom=0.15, horizontal_flip=True),
    stages=(
        Stage(
            name="head",
            trainable="head",
            batch_size=32,
            arguments={**KERAS_ADAM, "num_train_epochs": 3, "learning_rate": 1e-3, "lr_scheduler_type": "constant"},
            restore_best=True,
        ),
        Stage(
            name="all",
            batch_size=32,
            arguments={
                **KERAS_ADAM,
                "num_train_epochs": 10,
                "learning_rate": 5e-5,
                "lr_scheduler_type": "cosine",
                "warmup_steps": 0.1,
            },
            early_stopping_patience=3,
        ),
    ),
    card=Card(
        license="apache-2.0",
        data_license="research use",
        citation="Khosla, A., Jayadevaprakash, N., Yao, B., & Fei-Fei, L. (2011). Novel dataset for fine-grained image "
        "categorization. First Workshop on Fine-Grained Visual Categorization, CVPR.",
        limits="The photographs are part of ImageNet, on which the base model was trained: the test accuracy is "
        "inflated. Mixed breeds, and any animal that is no dog, are called one of the 120.",
    ),
)
