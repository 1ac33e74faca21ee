"""Train a ResNet of transformers with SE by its `Trainer`, resume, and load a checkpoint with its attention.

    python examples/attach_trainer.py --out trainer

`Trainer` saves checkpoints by `save_pretrained`, so their configuration says what to attach.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

import saccade as sc
from saccade.integrations import transformers as attention


def build() -> ResNetForImageClassification:
    """Return a small ResNet. Use `from_pretrained` of transformers for yours, then attach."""
    sizes: dict[str, Any] = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}
    return ResNetForImageClassification(ResNetConfig(**sizes, layer_type="basic", num_labels=2))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("trainer"))
    options = parser.parse_args(arguments)
    model, images = build(), torch.rand(8, 3, 32, 32)
    attention.attach(model, "se:reduction=4", example_inputs={"pixel_values": images})
    data: Any = [{"pixel_values": image, "labels": i % 2} for i, image in enumerate(images)]
    settings: dict[str, Any] = {"save_steps": 2, "report_to": [], "use_cpu": True, "disable_tqdm": True}
    Trainer(model, TrainingArguments(str(options.out), max_steps=2, **settings), train_dataset=data).train()

    # %% Resume: load the network with its attention, then continue from the same checkpoint.
    checkpoint = options.out / "checkpoint-2"
    loaded: Any = attention.from_pretrained(ResNetForImageClassification, checkpoint)
    assert torch.equal(loaded(images).logits, model.eval()(images).logits)
    trainer = Trainer(
        loaded, TrainingArguments(str(options.out), max_steps=4, **settings), train_dataset=data
    )
    trainer.train(resume_from_checkpoint=str(checkpoint))
    print(sc.attached(attention.from_pretrained(ResNetForImageClassification, options.out / "checkpoint-4")))


if __name__ == "__main__":
    main()
