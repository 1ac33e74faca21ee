"""The network in training: normalisation, model, loss and optimiser, as Lightning wants them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Protocol

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from saccade.data import Split
from saccade.models import SmallCNN
from saccade.train.recipe import Recipe

Batch = tuple[Tensor, Tensor]


def build(recipe: Recipe, classes: int) -> SmallCNN:
    """Build the recipe's model."""
    attention = {} if recipe.attention == "none" else {recipe.stage: recipe.attention}
    return SmallCNN(classes, attention=attention)


class Described(Protocol):
    """What a classifier is told of its task."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    def normalisation(self) -> tuple[Tensor, Tensor]: ...


class Classifier(lightning.LightningModule):
    """A classifier of uint8 images (B, 3, H, W) that carries its own normalisation."""

    mean: Tensor
    std: Tensor

    def __init__(self, recipe: Recipe, task: Described) -> None:
        super().__init__()
        self.save_hyperparameters({"recipe": asdict(recipe), "classes": list(task.classes)})
        self.recipe = recipe
        self.model = build(recipe, len(task.classes)).to(memory_format=torch.channels_last)
        mean, std = task.normalisation()
        self.register_buffer("mean", mean[:, None, None])
        self.register_buffer("std", std[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        normalised = (images.float() / 255 - self.mean) / self.std
        logits: Tensor = self.model(normalised.contiguous(memory_format=torch.channels_last))
        return logits

    def on_train_epoch_start(self) -> None:
        # Any draw is a function of seed and epoch, so that a resumed run repeats an uninterrupted one.
        torch.manual_seed(self.recipe.seed * 100_003 + self.current_epoch)

    def training_step(self, batch: Batch, _index: int) -> dict[str, Tensor]:
        return self._step(batch)

    def validation_step(self, batch: Batch, _index: int) -> dict[str, Tensor]:
        return self._step(batch)

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        images, labels = batch
        logits = self(images)
        wrong = (logits.argmax(1) != labels).sum()
        return {"loss": F.cross_entropy(logits, labels), "wrong": wrong}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        recipe = self.recipe
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Batches(Sampler[list[int]]):
    """Batches of indices. With a seed, for training: in an order that is a function of seed and epoch, and
    without an incomplete last batch, of whose one image, say, no batch norm could learn.
    """

    def __init__(self, length: int, batch_size: int, seed: int | None = None) -> None:
        self.length, self.batch_size, self.seed, self.epoch = length, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.arange(self.length)
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
            order = torch.randperm(self.length, generator=generator)
        yield from (part.tolist() for part in order[: len(self) * self.batch_size].split(self.batch_size))

    def __len__(self) -> int:
        whole, rest = divmod(self.length, self.batch_size)
        return whole + (rest > 0 and self.seed is None)


class Images(Dataset[Batch]):
    """A split, indexed by whole batches."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __getitem__(self, indices: Any) -> Batch:
        return self.split.images[indices], self.split.labels[indices]

    def __len__(self) -> int:
        return len(self.split)


def loader(split: Split, batch_size: int, seed: int | None = None) -> DataLoader[Batch]:
    """Serve a split that lies in memory, a batch at a time, without workers or collation."""
    return DataLoader(Images(split), sampler=Batches(len(split), batch_size, seed), batch_size=None)
