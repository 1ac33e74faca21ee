"""Segmentation: a class for each pixel, by cross-entropy and the Dice loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.config import Plan
from saccade.data import IGNORED, Split, TaskInfo
from saccade.errors import BadOption, bad_recipe
from saccade.metrics import confusion_matrix
from saccade.training.loader import Batch
from saccade.training.module import Classifier, select_labeled


class Segment(Classifier):
    """A model that classifies the pixels of images, trained by cross-entropy and the Dice loss.

        L = CE + dice_weight * Dice        Dice = 1 - mean_bc (2 sum_p p y + 1) / (sum_p p + sum_p y + 1)

    p is the predicted probability of class c at a position of image b, and y is 1 where the class is true.
    Pixels without a class are left out. Augmentation moves images and labels alike.

    The error of the objective is one minus the mean IoU, from the counts of all pixels.

    References:
        Milletari, Navab, Ahmadi. V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image
        Segmentation. 3DV 2016 (the Dice loss, with squares in the denominator).

    Args:
        plan: The plan.
        task: What the model needs to know about the data.
        dice_weight: Weight of the Dice loss.

    Shape:
        - Input: uint8 images `(B, 3, H, W)`.
        - Output: logits `(B, classes, H, W)`.

    Raises:
        BadOption: The weight is negative.
        BadRecipe: The labels of the task are those of images.
    """

    ignored_keys: ClassVar = ("mixup",)

    def __init__(self, plan: Plan, task: TaskInfo, dice_weight: float = 1.0) -> None:
        if not task.segmentation:
            problem = f"needs a class for each pixel, which the task {plan.task.text!r} does not have"
            raise bad_recipe(problem, objective=plan.objective.text)
        if dice_weight < 0:
            raise BadOption.of(
                "segment", f"dice_weight={dice_weight} must be at least 0", dice_weight=dice_weight
            )
        super().__init__(plan, task)
        self.dice_weight, self.classes = dice_weight, len(task.classes)

    def forward(self, images: Tensor) -> Tensor:
        return scores_of(self.model(self.normalize(images)))

    def forward_training(self, images: Tensor) -> Tensor:
        return scores_of(super().forward_training(images))

    def head(self) -> str:
        modules = self.model.named_modules()
        paths: list[str] = [path for path, module in modules if isinstance(module, nn.Conv2d)]
        return paths[-1]

    def training_subset(self, split: Split) -> Split:
        """Return a random part of the training images, see `label_fraction` of the recipe."""
        one_class = torch.zeros(len(split), dtype=torch.long)
        kept = select_labeled(one_class, self.recipe.label_fraction, self.recipe.seed)
        return split if kept.all() else split.select(kept)

    def training_step(self, batch: Batch, _index: int) -> dict[str, Tensor]:
        images, labels = self.augment_both(*batch)
        return self.measure(self.forward_training(images), labels, self.recipe.label_smoothing)

    def validation_step(self, batch: Batch, _index: int) -> dict[str, Tensor]:
        return self.measure(self(batch[0]), batch[1])

    def augment_both(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Augment images and labels alike.

        The labels are moved as one plane of 0 and 255 for each class, the first for pixels without a class,
        which is also what a crop adds at the border.
        """
        if self.recipe.augment == "none":
            return images, labels
        values = torch.arange(-1, self.classes, device=labels.device)
        classes = torch.where(labels == IGNORED, -1, labels.short())
        planes = (classes[:, None] == values[:, None, None]).to(torch.uint8) * 255
        moved = self.augment(torch.cat([images, planes], 1))
        classes = moved[:, images.shape[1] :].argmax(1) - 1
        return moved[:, : images.shape[1]], torch.where(classes < 0, IGNORED, classes).to(torch.uint8)

    def measure(self, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> dict[str, Tensor]:
        """Return the loss and the confusion matrix of a batch."""
        loss = F.cross_entropy(
            logits.float(), labels.long(), ignore_index=IGNORED, label_smoothing=label_smoothing
        )
        if not (labels != IGNORED).any():
            loss = logits.sum() * 0  # the mean over no pixel is NaN
        loss = loss + self.dice_weight * dice_loss(logits.float(), labels)
        return {"loss": loss, "confusion": confusion_matrix(logits.argmax(1), labels, self.classes)}

    def image_scores(self, images: Tensor) -> Tensor:
        """Return the mean probability of each class but the background over the pixels of an image."""
        logits: Tensor = self(images)
        return logits.softmax(1)[:, 1:].mean((2, 3))

    def explained(self, logits: Tensor) -> Tensor:
        """Return the highest mean logit of a class but the background, `(B,)`."""
        return logits[:, 1:].mean((2, 3)).max(1).values


def scores_of(output: Any) -> Tensor:
    """Return the scores in the output of a model; torchvision returns them as `out` of a mapping."""
    scores: Tensor = output["out"] if isinstance(output, Mapping) else output
    return scores


def dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the Dice loss: one minus the mean Dice coefficient over images and classes.

    Shape:
        - logits: `(B, classes, H, W)`
        - labels: `(B, H, W)`, `IGNORED` without a class
        - Output: a scalar

    Example:
        >>> labels = torch.tensor([[[0, 1]]])
        >>> dice_loss(100 * F.one_hot(labels, 2).permute(0, 3, 1, 2).float(), labels)
        tensor(0.)
    """
    counted = labels != IGNORED
    true = F.one_hot(torch.where(counted, labels, 0).long(), logits.shape[1]).permute(0, 3, 1, 2)
    true, probabilities = (x * counted[:, None] for x in (true, logits.softmax(1)))
    overlap, sums = (probabilities * true).sum((2, 3)), (probabilities + true).sum((2, 3))
    return 1 - ((2 * overlap + 1) / (sums + 1)).mean()
