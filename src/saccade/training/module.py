"""The network in training: normalization, model, loss and optimizer, as Lightning wants them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar, Self

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.optim import create_optimizer_v2, list_optimizers  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer, lr_scheduler
from torchvision.transforms import v2

from saccade.config import Plan, Recipe
from saccade.data import Split, TaskInfo
from saccade.errors import UnknownName
from saccade.models.backbone import head_path
from saccade.training.augment.basic import augmentation
from saccade.training.loader import Batch
from saccade.training.network import build


class Classifier(lightning.LightningModule):
    """A classifier of uint8 images (B, 3, H, W), or clips (B, 3, T, H, W), trained by cross entropy.

    It carries its own normalization.

    Other methods build on it: whatever they minimize, they end with a classifier.
    """

    ignored_keys: ClassVar[tuple[str, ...]] = ()  # keys of the recipe that a method cannot heed
    model: nn.Module
    mean: Tensor
    std: Tensor

    def __init__(self, plan: Plan, task: TaskInfo) -> None:
        super().__init__()
        recipe = plan.recipe
        known = {"recipe": asdict(recipe), "classes": list(task.classes), "shape": list(task.shape)}
        self.save_hyperparameters(known)
        self.plan, self.recipe = plan, recipe
        network = build(plan, len(task.classes), task.shape)
        # A layout of images: torch knows none of clips.
        self.layout = torch.channels_last if len(task.shape) == 3 else torch.contiguous_format
        self.model = network.to(memory_format=self.layout)
        mean, std = task.mean, task.std
        channels = (-1, *[1 for _ in task.shape[1:]])
        self.register_buffer("mean", mean.view(channels))
        self.register_buffer("std", std.view(channels))
        with torch.device("cpu"):  # also where the network is but an outline on the meta device
            mixup = v2.MixUp(alpha=recipe.mixup, num_classes=len(task.classes)) if recipe.mixup else None
        self.mixup = mixup
        self.augment: nn.Module = augmentation(recipe.augment)
        self._compiled: list[nn.Module] = []  # a list, so that the network keeps its one place
        self.frozen: list[nn.Module] = []  # whose weights are not trained: they stay in evaluation mode

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(self.normalized(images))
        return logits

    def _run(self, images: Tensor) -> Any:
        """Run the network, compiled if the recipe says so."""
        return (self._compiled[0] if self._compiled else self.model)(self.normalized(images))

    def normalized(self, images: Tensor) -> Tensor:
        """Return images of the values 0 to 255 as the network takes them."""
        normalized = (images.to(self.mean.dtype) / 255 - self.mean) / self.std
        return normalized.contiguous(memory_format=self.layout)

    def head(self) -> str:
        """Return the path of the network's head."""
        return head_path(self.model, len(self.hparams["classes"]))

    def training_subset(self, split: Split) -> Split:
        """Return what of the training images is trained with: those whose labels are used."""
        kept = labeled(split.labels, self.recipe.label_fraction, self.recipe.seed)
        if kept.all():
            return split
        masks = None if split.masks is None else split.masks[kept]
        return Split(split.images[kept], split.labels[kept], masks)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def on_fit_start(self) -> None:
        self._compiled = [torch.compile(self.model)] if self.recipe.compile else []  # type: ignore[list-item]

    def on_fit_end(self) -> None:
        self._compiled = []

    def on_train_batch_start(self, _batch: Batch, index: int) -> None:
        # Any draw is a function of seed and step, so that a resumed run repeats an uninterrupted one. Once an
        # epoch would not do: what Lightning draws before the first step differs between the two. Of several
        # processes each draws numbers of its own, since its images are others.
        step = (self.recipe.seed * 100_003 + self.current_epoch) * 1_000_003 + index
        torch.manual_seed(step + self.global_rank * 1_000_000_000_039)

    def training_step(self, batch: Batch, _index: int) -> dict[str, Tensor]:
        images, labels = self.augment(batch[0]), batch[1]
        targets = labels
        if self.mixup is not None:
            frames, targets = self.mixup(images.flatten(1, -3).to(self.mean.dtype), labels)
            images = frames.view(images.shape)
        logits = self._run(images)
        loss = F.cross_entropy(logits, targets, label_smoothing=self.recipe.label_smoothing)
        return {"loss": loss, "wrong": (logits.argmax(1) != labels).sum()}

    def validation_step(self, batch: Batch, _index: int) -> dict[str, Tensor]:
        images, labels = batch
        logits = self(images)
        return {"loss": F.cross_entropy(logits, labels), "wrong": (logits.argmax(1) != labels).sum()}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        recipe = self.recipe
        optimizer = create_optimizer_v2(
            self.model if recipe.layer_decay else [p for p in self.parameters() if p.requires_grad],
            recipe.optimizer,
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            layer_decay=recipe.layer_decay,
        )
        for group in optimizer.param_groups:  # timm leaves it to its own schedules
            group["lr"] *= group.get("lr_scale", 1)
        schedule = schedule_of(recipe, optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def schedule_of(recipe: Recipe, optimizer: Optimizer, steps: int) -> lr_scheduler.LRScheduler:
    """Return the recipe's schedule of the learning rate over so many steps of the optimizer."""
    if recipe.schedule == "one-cycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        return lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps)
    if recipe.schedule == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    if recipe.schedule == "step":
        return lr_scheduler.MultiStepLR(optimizer, [steps // 2, steps * 3 // 4])
    return lr_scheduler.ConstantLR(optimizer, factor=1.0)


def check_optimizer(name: str) -> None:
    """Raise `UnknownName` unless timm has such an optimizer."""
    known = [str(one) for one in list_optimizers()]
    if name not in known:
        raise UnknownName("optimizer", name, known)


def labeled(labels: Tensor, share: float, seed: int) -> Tensor:
    """Choose a share of the images of each class, at least one, by a seed. labels (N,) -> bool (N,).

    >>> labeled(torch.tensor([0] * 10 + [1] * 20), 0.1, seed=0).nonzero()[:, 0].shape
    torch.Size([3])
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    kept = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        its = order[labels[order] == label]
        kept[its[: max(1, round(share * len(its)))]] = True
    return kept
