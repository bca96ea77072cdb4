"""A contestant: `Trainer` with default flags, in the flow of transformers' example for image classification.

accelerate launch -q tests/benchmarks/plain_trainer.py DATA MODEL OUTPUT RESULT

DATA holds train, validation and test folders of class folders; RESULT is a JSON file to write.
"""

import argparse
import json
from pathlib import Path

from watch import Watch, device_wait

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("data", type=Path)
parser.add_argument("model")
parser.add_argument("output", type=Path)
parser.add_argument("result", type=Path)
parser.add_argument("--seed", type=int, default=42)
parser.add_argument("--epochs", type=float, default=2)
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--probe", type=Path, help="a batch of `start.save_probe`, whose loss shows the weights")
parser.add_argument("--no_evaluation", action="store_true", help="train alone, for images per second")


def main(known: argparse.Namespace) -> None:
    """Load, train with an evaluation and a checkpoint an epoch, save, evaluate: as the example does."""
    import numpy as np
    import torch
    from datasets import Image as Encoded
    from datasets import load_dataset
    from start import probe_loss
    from torchvision.transforms import (
        CenterCrop,
        Compose,
        Lambda,
        Normalize,
        RandomHorizontalFlip,
        RandomResizedCrop,
        Resize,
        ToTensor,
    )
    from transformers import (
        AutoConfig,
        AutoImageProcessor,
        AutoModelForImageClassification,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        set_seed,
    )

    watch = Watch(device_wait())
    found: dict[str, float] = {}

    def begin(model):
        watch.start()
        if known.probe is not None:
            found["loss"] = probe_loss(model, known.probe, half=False)

    class Watched(TrainerCallback):
        on_train_begin = staticmethod(lambda *args, **kwargs: begin(kwargs["model"]))
        on_epoch_begin = staticmethod(lambda *args, **kwargs: watch.epoch())
        on_step_end = staticmethod(lambda *args, **kwargs: watch.step())
        on_epoch_end = staticmethod(lambda *args, **kwargs: watch.end())
        on_evaluate = staticmethod(lambda *args, **kwargs: watch.evaluation())

    evaluation = "no" if known.no_evaluation else "epoch"
    arguments = TrainingArguments(
        output_dir=str(known.output),
        eval_strategy=evaluation,
        save_strategy=evaluation,
        seed=known.seed,
        num_train_epochs=known.epochs,
        per_device_train_batch_size=known.batch,
        remove_unused_columns=False,
    )
    set_seed(arguments.seed)
    splits = ("train", "validation", "test")
    data = load_dataset("imagefolder", data_files={split: str(known.data / split / "**") for split in splits})
    labels = data["train"].features["label"].names
    config = AutoConfig.from_pretrained(
        known.model,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    model = AutoModelForImageClassification.from_pretrained(known.model, config=config)
    processor = AutoImageProcessor.from_pretrained(known.model)
    size = processor.size.get("shortest_edge") or (processor.size["height"], processor.size["width"])
    tensors = [ToTensor(), Normalize(mean=processor.image_mean, std=processor.image_std)]
    colour = Lambda(lambda image: image.convert("RGB"))
    varied = Compose([colour, RandomResizedCrop(size), RandomHorizontalFlip(), *tensors])
    plain = Compose([colour, Resize(size), CenterCrop(size), *tensors])

    def transformed(how):
        def transform(batch):
            batch["pixel_values"] = [how(image) for image in batch["image"]]
            return batch

        return transform

    files = {
        split: sorted(
            Path(row["path"]).relative_to(known.data / split).as_posix()
            for row in data[split].cast_column("image", Encoded(decode=False))["image"]
        )
        for split in splits
    }
    data["train"].set_transform(transformed(varied))
    for split in ("validation", "test"):
        data[split].set_transform(transformed(plain))
    evaluated: list[int] = []

    def accuracy(prediction):
        evaluated.append(len(prediction.label_ids))
        return {"accuracy": float(np.mean(np.argmax(prediction.predictions, axis=1) == prediction.label_ids))}

    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        compute_metrics=accuracy,
        processing_class=processor,
        data_collator=lambda rows: {
            "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
            "labels": torch.tensor([row["label"] for row in rows]),
        },
        callbacks=[Watched()],
    )
    trained = trainer.train()
    accuracies = {}
    if not known.no_evaluation:
        trainer.save_model()
        trainer.log_metrics("train", trained.metrics)
        trainer.save_metrics("train", trained.metrics)
        trainer.save_state()
        for split in ("validation", "test"):
            accuracies[split] = trainer.evaluate(data[split])["eval_accuracy"]
        trainer.log_metrics("eval", accuracies)
        trainer.save_metrics("eval", accuracies)
        trainer.create_model_card(tasks="image-classification", tags=["image-classification", "vision"])
    result = {
        **found,
        "steps": trainer.state.global_step,
        "epochs_seconds": (watch.evaluated or watch.ends)[len(watch.ends) - 1],
        "images_per_second": watch.rate(known.batch),
        "accuracy": accuracies,
        "evaluated": evaluated,
        "files": files,
        "architecture": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "threads": torch.get_num_threads(),
    }
    known.result.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(parser.parse_args())
