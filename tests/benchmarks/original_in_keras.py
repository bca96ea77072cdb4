"""A contestant: the flowers as the original has them, in Keras 3 on TensorFlow. Run by a Python that has both.

python tests/benchmarks/original_in_keras.py DATA RESULT [--epochs 3] [--batch 32]

ResNet-50 without its top, global average pooling, the original's head, Adam, fp32, images squashed to 224 as Keras'
loader does; it stands in no augmentation, which the original leaves open. Weights are random: only speed is compared.
"""

import argparse
import json
import time
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("data", type=Path, help="has folders train and validation, of class folders")
parser.add_argument("result", type=Path)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--batch", type=int, default=32)
parser.add_argument("--size", type=int, default=224)


def main(known: argparse.Namespace) -> None:
    """Compile, fit, and write how long each epoch took."""
    import keras
    import tensorflow

    class Watch(keras.callbacks.Callback):
        seconds: list[float] = []  # noqa: RUF012
        steps = 0

        def on_epoch_begin(self, epoch, logs=None):
            self.began = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):  # the validation is done by now
            self.seconds.append(time.perf_counter() - self.began)

        def on_train_batch_end(self, batch, logs=None):
            self.steps += 1

    def images(split: str):
        return keras.utils.image_dataset_from_directory(
            known.data / split, image_size=(known.size, known.size), batch_size=known.batch, shuffle=split == "train"
        )

    train, validation = images("train"), images("validation")
    classes = len(train.class_names)
    listed = {"train": len(train.file_paths), "validation": len(validation.file_paths)}
    shape = (known.size, known.size, 3)
    base = keras.applications.ResNet50(include_top=False, weights=None, input_shape=shape, pooling="avg")
    inputs = keras.Input(shape)
    found = base(keras.applications.resnet50.preprocess_input(inputs))
    for width in (256, 128, 64):
        found = keras.layers.Dropout(0.2)(keras.layers.Dense(width, activation="relu")(found))
    model = keras.Model(inputs, keras.layers.Dense(classes, activation="softmax")(found))
    model.compile(keras.optimizers.Adam(5e-5), "sparse_categorical_crossentropy", metrics=["accuracy"])
    watch = Watch()
    fetched = tensorflow.data.AUTOTUNE
    model.fit(
        train.prefetch(fetched), validation_data=validation.prefetch(fetched), epochs=known.epochs, callbacks=[watch],
        verbose=2,
    )  # fmt: skip
    result = {
        "epoch_seconds": watch.seconds,
        "steps": watch.steps,
        "images": listed,
        "parameters": model.count_params(),
        "body_parameters": base.count_params(),
        "versions": {"keras": keras.__version__, "tensorflow": tensorflow.__version__},
    }
    known.result.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(parser.parse_args())
