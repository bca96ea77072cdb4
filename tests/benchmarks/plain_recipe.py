"""What transformers' example for image classification trains, as a recipe: Trainer's default flags, batches of 8."""

from training.recipe import Augmentation, Linear, Recipe, Stage

recipe = Recipe(
    title="The example's flow",
    base_model="microsoft/resnet-50",
    head=(Linear(),),
    augmentation=Augmentation(crop=0.08, horizontal_flip=True),
    stages=(
        Stage(
            name="all",
            batch_size=8,
            arguments={
                "num_train_epochs": 2,
                "learning_rate": 5e-5,
                "lr_scheduler_type": "linear",
                "max_grad_norm": 1.0,
            },
        ),
    ),
)
