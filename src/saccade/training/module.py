"""The classifier in training: normalization, model, loss, optimizer and schedule, as a Lightning module."""

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
from saccade.errors import UnknownName, bad_recipe
from saccade.models import head_path
from saccade.training.augment.basic import augmentation
from saccade.training.loader import CPU, Batch
from saccade.training.network import build


class Classifier(lightning.LightningModule):
    """A classifier of images or clips, trained by cross-entropy: the objective "classify".

    It includes its normalization. The other objectives are subclasses: they minimize another loss, but
    predict classes as well.

    Attributes:
        ignored_keys: Recipe keys that have no effect on the objective. A recipe that sets one is refused.
        plan: The plan.
        recipe: Its recipe.
        model: The network, without the normalization.
        frozen_modules: Modules whose weights are not trained. They stay in evaluation mode.

    Args:
        plan: The plan.
        task: What the model needs to know about the data.

    Shape:
        - Input: uint8 images `(B, 3, H, W)` or clips `(B, 3, T, H, W)`.
        - Output: logits `(B, classes)`.
    """

    ignored_keys: ClassVar[tuple[str, ...]] = ()
    model: nn.Module
    mean: Tensor
    std: Tensor

    def __init__(self, plan: Plan, task: TaskInfo) -> None:
        super().__init__()
        recipe = plan.recipe
        self.save_hyperparameters(
            {
                "recipe": asdict(recipe),
                "classes": list(task.classes),
                "shape": list(task.shape),
                "segmentation": task.segmentation,
            }
        )
        self.plan, self.recipe = plan, recipe
        network = build(plan, len(task.classes), task.shape)
        # torch has no channels-last layout that suits clips
        self.layout = torch.channels_last if len(task.shape) == 3 else torch.contiguous_format
        self.model = network
        for tensor in [*network.parameters(), *network.buffers()]:
            if tensor.ndim == 4:  # others have no such layout
                tensor.data = tensor.data.to(memory_format=self.layout)
        channels = (-1, *[1 for _ in task.shape[1:]])
        self.register_buffer("mean", task.mean.view(channels))
        self.register_buffer("std", task.std.view(channels))
        with CPU:  # also if the model is built on the meta device
            mixup = v2.MixUp(alpha=recipe.mixup, num_classes=len(task.classes)) if recipe.mixup else None
        self.mixup = mixup
        self.augment: nn.Module = augmentation(recipe.augment)
        self._compiled: list[nn.Module] = []  # a list, so that the model is registered only once
        self.frozen_modules: list[nn.Module] = []

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(self.normalize(images))
        return logits

    def forward_training(self, images: Tensor) -> Any:
        """Run the model, compiled if the recipe sets `compile`."""
        return (self._compiled[0] if self._compiled else self.model)(self.normalize(images))

    def image_scores(self, images: Tensor) -> Tensor:
        """Return one score for each class of each image, `(B, classes)`, by which maps are judged."""
        logits: Tensor = self(images)
        return logits.softmax(1)

    def explained(self, logits: Tensor) -> Tensor:
        """Return the score of each image that Grad-CAM explains, `(B,)`: that of the predicted class."""
        return logits.max(1).values

    def normalize(self, images: Tensor) -> Tensor:
        """Normalize images with values from 0 to 255 for the model."""
        normalized = (images.to(self.mean.dtype) / 255 - self.mean) / self.std
        return normalized.contiguous(memory_format=self.layout)

    def head(self) -> str:
        """Return the path of the model's head."""
        return head_path(self.model, len(self.hparams["classes"]))

    def training_subset(self, split: Split) -> Split:
        """Return the training images whose labels are used, see `label_fraction` of the recipe."""
        kept = select_labeled(split.labels, self.recipe.label_fraction, self.recipe.seed)
        return split if kept.all() else split.select(kept)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.frozen_modules:
            module.training = False  # not of its children: attention in it may be trained
        return self

    def on_fit_start(self) -> None:
        self._compiled = [torch.compile(self.model)] if self.recipe.compile else []  # type: ignore[list-item]

    def on_fit_end(self) -> None:
        self._compiled = []

    def on_train_batch_start(self, _batch: Batch, index: int) -> None:
        # Every draw is a function of seed and step, so that a resumed run repeats an uninterrupted one. To
        # seed once per epoch does not suffice: Lightning draws a different amount before the first step of
        # each. Every process has its own draws, because its images differ.
        step = (self.recipe.seed * 100_003 + self.current_epoch) * 1_000_003 + index
        torch.manual_seed((step + self.global_rank * 1_000_000_000_039) % 2**63)

    def training_step(self, batch: Batch, _index: int) -> dict[str, Tensor]:
        images, labels = self.augment(batch[0]), batch[1]
        targets = labels
        if self.mixup is not None:
            frames, targets = self.mixup(images.flatten(1, -3).to(self.mean.dtype), labels)
            images = frames.view(images.shape)
        logits = self.forward_training(images)
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
        for group in optimizer.param_groups:  # only timm's own schedules apply lr_scale
            group["lr"] *= group.get("lr_scale", 1)
        schedule = create_schedule(recipe, optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def create_schedule(recipe: Recipe, optimizer: Optimizer, steps: int) -> lr_scheduler.LRScheduler:
    """Create the learning-rate schedule of a recipe over a number of optimizer steps."""
    if recipe.schedule == "one-cycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        return lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps)
    if recipe.schedule == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    if recipe.schedule == "step":
        return lr_scheduler.MultiStepLR(optimizer, [steps // 2, steps * 3 // 4])
    return lr_scheduler.ConstantLR(optimizer, factor=1.0)


def check_optimizer(name: str) -> None:
    """Check that timm has an optimizer, and that it can take a step here.

    Raises:
        UnknownName: timm has no optimizer of this name.
        BadRecipe: It needs another package, a GPU, a closure or second-order gradients.
    """
    known = [str(optimizer) for optimizer in list_optimizers()]
    if name not in known:
        raise UnknownName("optimizer", name, known, owner="timm")
    with torch.random.fork_rng(devices=[]):
        weight = nn.Parameter(torch.ones(2, 2))
        weight.grad = torch.ones(2, 2)
        try:
            create_optimizer_v2([weight], name, lr=1e-3).step()
        except Exception as error:  # each optimizer fails in its own way
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise bad_recipe(f"cannot train here: {reason}", owner="train", optimizer=name) from error


def select_labeled(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Select a random fraction of the images of each class, at least one.

    Args:
        labels: Labels, `(N,)`.
        fraction: The fraction.
        seed: Seed of the selection.

    Returns:
        Whether each image is selected, bool `(N,)`.

    Example:
        >>> select_labeled(torch.tensor([0] * 10 + [1] * 20), 0.1, seed=0).nonzero()[:, 0].shape
        torch.Size([3])
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    selected = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        of_class = order[labels[order] == label]
        selected[of_class[: max(1, round(fraction * len(of_class)))]] = True
    return selected
