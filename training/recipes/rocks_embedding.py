"""rocks_embedding: rocks_tuned with a next-to-last layer of 8 units, one for each dimension of the human space.

    accelerate launch -q training/train.py rocks_embedding --data_dir ROCKS

The course's text asks for 8 units, to be compared with the eight dimensions people judge rocks by; the original has
128. No ReLU follows them: people's dimensions go both ways, and with one the mean r on 72 rocks held out was .57,
without .68 (on features of the base model as it is).
"""

from dataclasses import replace

from training.recipe import Linear
from training.recipes.rocks_tuned import recipe as rocks_tuned

recipe = replace(rocks_tuned, title="Rocks (8-unit embedding)", head=(Linear(8), Linear()))
