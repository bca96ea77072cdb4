"""The rocks' first stage, the new layers alone, for fifty epochs and without augmentation."""

from dataclasses import replace

from training.recipe import Augmentation
from training.recipes.rocks import recipe as rocks

head = rocks.stages[0]
recipe = replace(
    rocks,
    title="Fifty epochs of the new layers",
    data=replace(rocks.data, pattern=None, split_names={}, classes=None),
    augmentation=Augmentation(),
    stages=(replace(head, arguments={**head.arguments, "num_train_epochs": 50}),),
)
