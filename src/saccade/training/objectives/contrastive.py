"""Contrastive pre-training: what belongs to one image is told from what belongs to others, without labels."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from saccade.config import Plan
from saccade.data import Split, TaskInfo
from saccade.errors import BadOption, check_positive
from saccade.models.info_nce import check_temperature, nt_xent
from saccade.training.augment.simclr import Views
from saccade.training.loader import Batch
from saccade.training.module import Classifier, labeled

UNKNOWN = -1  # the label of an image whose label is not used


class Head(nn.Module):
    """In training, an embedding of the features and the logits of a probe; in evaluation, these logits.

    features (B, C) -> embedding (B, width) and logits (B, classes). The probe is linear, and its gradient
    stops at the features: it reads them and teaches them nothing.
    """

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.projection = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, width))
        self.probe = nn.Linear(channels, classes)

    def forward(self, features: Tensor) -> Any:
        logits = self.probe(features.detach())
        return (self.projection(features), logits) if self.training else logits


class Contrastive(Classifier):
    """A network that learns to find, among the views of all images of a batch, the other view of an image.

        L = NT-Xent(z, z', temperature)        z = W_2 ReLU(W_1 h)

    Chen, Kornblith, Norouzi, Hinton: A Simple Framework for Contrastive Learning of Visual Representations,
    ICML 2020; see `saccade.models.info_nce.nt_xent`. h is what the network's head is given. In place of the
    head stand the projection, W_1 and W_2, and a linear probe of h with a cross entropy of its own: the
    classes it names are the network's answers in evaluation. It is taught the recipe's share of the labels.
    No label changes any other weight, also not through `clip`, which leaves the probe out; only an optimizer
    that looks at the norm of all gradients, as lamb does, would let it.

    temperature    of the similarities
    width          of z
    color         strength of the change of colors, up to 1; without, views are parts of the image alone

    Raises `BadOption` for an option out of range or a network without a linear head.
    """

    ignored_keys: ClassVar = ("mixup", "label_smoothing")

    def __init__(
        self, plan: Plan, task: TaskInfo, temperature: float = 0.5, width: int = 128, color: float = 0.5
    ) -> None:
        check_positive("contrastive", width=width)
        check_temperature("contrastive", temperature)
        if isinstance(color, bool) or not isinstance(color, int | float) or not 0 <= color <= 1:
            raise BadOption(f"contrastive: color={color!r} must be a number from 0 to 1")
        super().__init__(plan, task)
        self.temperature = temperature
        self.augment = Views("flip" in plan.recipe.augment, color)
        self._head = super().head()
        channels = self.model.get_parameter(f"{self._head}.weight").shape[1]
        self.model.set_submodule(self._head, Head(channels, width, len(task.classes)))

    def head(self) -> str:
        return self._head

    def training_subset(self, split: Split) -> Split:
        """Return all training images, of those whose labels are not used with the label `UNKNOWN`."""
        known = labeled(split.labels, self.recipe.label_fraction, self.recipe.seed)
        return Split(split.images, split.labels.where(known, UNKNOWN), split.masks)

    def training_step(self, batch: Batch, _index: int) -> dict[str, Tensor]:
        images, labels = batch
        labels, known = labels.repeat(2), (labels != UNKNOWN).repeat(2)
        embedding, logits = self._run(self.augment(images))
        first, second = embedding.chunk(2)
        loss = nt_xent(first, second, self.temperature)
        taught = F.cross_entropy(logits, labels, ignore_index=UNKNOWN, reduction="sum")
        wrong = ((logits.argmax(1) != labels) & known).sum()
        taught = taught / known.sum().clamp_min(1)
        loss = loss + taught - taught.detach()  # its gradient, but not its value: some batches have no labels
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
