"""As `plain_recipe`, but turned, scaled and flipped, which starts from decoded images of one size."""

from training.recipe import Augmentation, Linear, Recipe, Stage

recipe = Recipe(
    title="Turned",
    base_model="microsoft/resnet-50",
    head=(Linear(),),
    augmentation=Augmentation(rotation=15, zoom=0.15, horizontal_flip=True),
    stages=(Stage(name="all", batch_size=64, arguments={"num_train_epochs": 4, "learning_rate": 5e-5}),),
)
