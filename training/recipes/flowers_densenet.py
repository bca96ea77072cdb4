"""flowers_densenet: the flowers recipe on DenseNet-201, for a comparison of base models on equal splits.

accelerate launch -q training/train.py flowers_densenet --data_dir FLOWERS
"""

from dataclasses import replace

from training.recipes.flowers import recipe as flowers

recipe = replace(flowers, title="Flowers (DenseNet-201)", base_model="timm/densenet201.tv_in1k")
