"""Contrastive pre-training without labels: views of one image are told from views of other images."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from saccade.config import Plan
from saccade.data import Split, TaskInfo
from saccade.errors import bad_option, check_positive, check_positive_number
from saccade.models.info_nce import nt_xent
from saccade.training.augment.simclr import Views
from saccade.training.loader import Batch
from saccade.training.module import Classifier, select_labeled

UNKNOWN = -1  # the label of an image whose label is not used


class Head(nn.Module):
    """A projection for the contrastive loss, and a linear probe that classifies.

    The gradient of the probe stops at the features, so that the probe reads them without changing them.

    Shape:
        - Input: features `(B, channels)`.
        - Output: in training, embedding `(B, width)` and logits `(B, classes)`; in evaluation, the logits.
    """

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.projection = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, width))
        self.probe = nn.Linear(channels, classes)

    def forward(self, features: Tensor) -> Any:
        logits = self.probe(features.detach())
        return (self.projection(features), logits) if self.training else logits


class Contrastive(Classifier):
    """A model that identifies, among the views of all images of a batch, the other view of each image.

        L = NT-Xent(z, z', temperature)        z = W_2 ReLU(W_1 h)

    See `saccade.models.info_nce.nt_xent`. `h` is the input of the model's head. The head is replaced by the
    projection, `W_1` and `W_2`, and by a linear probe of `h` with its own cross-entropy. The probe is trained
    on the labels that `label_fraction` of the recipe selects, and its classes are the predictions in
    evaluation. Labels change no other weight, and gradient clipping excludes the probe for the same reason.
    The only exception is an optimizer that uses the norm of all gradients, such as lamb.

    References:
        Chen, Kornblith, Norouzi, Hinton. A Simple Framework for Contrastive Learning of Visual
        Representations. ICML 2020.

    Args:
        plan: The plan.
        task: What the model needs to know about the data.
        temperature: Temperature of the similarities.
        width: Size of the embedding `z`.
        color: Strength of the color distortion, from 0 (none) to 1.

    Raises:
        BadOption: An option is out of range, or the model has no linear head.
    """

    ignored_keys: ClassVar = ("mixup", "label_smoothing")

    def __init__(
        self, plan: Plan, task: TaskInfo, temperature: float = 0.5, width: int = 128, color: float = 0.5
    ) -> None:
        check_positive("contrastive", width=width)
        check_positive_number("contrastive", temperature=temperature)
        if isinstance(color, bool) or not isinstance(color, int | float) or not 0 <= color <= 1:
            raise bad_option("contrastive", "must be a number from 0 to 1", color=color)
        super().__init__(plan, task)
        self.temperature = temperature
        self.augment = Views("flip" in plan.recipe.augment, color)
        self._head = super().head()
        channels = self.model.get_parameter(f"{self._head}.weight").shape[1]
        self.model.set_submodule(self._head, Head(channels, width, len(task.classes)))

    def head(self) -> str:
        return self._head

    def training_subset(self, split: Split) -> Split:
        """Return all training images, with the label `UNKNOWN` for those whose labels are not used."""
        known = select_labeled(split.labels, self.recipe.label_fraction, self.recipe.seed)
        return Split(split.images, split.labels.where(known, UNKNOWN), split.masks)

    def training_step(self, batch: Batch, _index: int) -> dict[str, Tensor]:
        images, labels = batch
        labels, known = labels.repeat(2), (labels != UNKNOWN).repeat(2)
        embedding, logits = self.forward_training(self.augment(images))
        first, second = embedding.chunk(2)
        loss = nt_xent(first, second, self.temperature)
        probe_loss = F.cross_entropy(logits, labels, ignore_index=UNKNOWN, reduction="sum")
        wrong = ((logits.argmax(1) != labels) & known).sum()
        probe_loss = probe_loss / known.sum().clamp_min(1)
        # Adds the gradient of the probe, but not its value: some batches have no labels.
        loss = loss + probe_loss - probe_loss.detach()
        return {"loss": loss, "wrong": wrong, "answers": known.sum()}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,  # noqa: ARG002  Lightning passes all three, by these names
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,  # noqa: ARG002
    ) -> None:
        if gradient_clip_val is not None:
            probe = {*self.model.get_submodule(f"{self._head}.probe").parameters()}
            others = [p for p in self.parameters() if p not in probe]
            nn.utils.clip_grad_norm_(others, gradient_clip_val)
