"""Test error, attention maps and their localization of a trained model, and its gallery."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from saccade.data import Split
from saccade.errors import BadRun
from saccade.maps import AttentionMap
from saccade.metrics import Localization, LocalizationScore
from saccade.metrics import localize as localize_maps
from saccade.recording import record
from saccade.results import Gallery, RunLocalization
from saccade.training.module import Classifier
from saccade.training.network import attention_path

_BATCH = 100
_GALLERY_IMAGES = 24


@torch.inference_mode()
def error_and_loss(classifier: Classifier, split: Split) -> tuple[float, float]:
    """Return the error and the mean loss on a split.

    Raises:
        BadRun: The loss is not finite, because training diverged.
    """
    logits = predict(classifier, split.images)
    wrong = (logits.argmax(1) != split.labels).double().mean()
    loss = F.cross_entropy(logits, split.labels).item()
    if not math.isfinite(loss):
        message = f"training diverged: the test loss is {loss}; lower learning_rate or set grad_clip"
        raise BadRun(message, owner="train", option="loss", value=loss)
    return wrong.item(), loss


@torch.inference_mode()
def predict(classifier: Classifier, images: Tensor) -> Tensor:
    """Return the logits of images, `(N, classes)`, on the CPU."""
    return torch.cat([classifier(batch) for batch in _batches(classifier, images)]).cpu()


def localize(classifier: Classifier, split: Split) -> RunLocalization | None:
    """Return the mean localization of the attention on images with a target, or None if there are none."""
    if split.masks is None or not split.masks.any():
        return None
    with_target = split.masks.flatten(1).any(1)
    images, masks = split.images[with_target], split.masks[with_target]
    scores, path, kind = [], "", ""
    for batch, mask in zip(_batches(classifier, images), masks.split(_BATCH), strict=True):
        path, attention, _ = record_attention(classifier, batch)
        kind = attention.kind
        scores.append(localize_maps(*_on_one_grid(attention, mask)))
    return cast(RunLocalization, {"path": path, "kind": kind, **_joined(scores).mean()})


@torch.inference_mode()
def record_attention(classifier: Classifier, images: Tensor) -> tuple[str, AttentionMap, Tensor]:
    """Record the main attention of a model, see `saccade.training.network.attention_path`.

    Args:
        classifier: The model.
        images: A batch on the device of the model.

    Returns:
        The path of the attention in the network, its map, and the logits.
    """
    with record(classifier) as maps:
        logits = classifier(images)
    attention = maps[f"model.{attention_path(classifier.model)}".rstrip(".")]
    path = next(path for path, recorded in maps.items() if recorded is attention)
    return path.removeprefix("model").removeprefix("."), attention, logits


@torch.inference_mode()
def build_gallery(classifier: Classifier, split: Split) -> Gallery:
    """Return test images of each class with their predictions and the attention map, for the report."""
    chosen = _gallery_images(split.labels)
    images = split.images[chosen]
    attention = None
    if attention_path(classifier.model) is None:
        logits = classifier(images.to(classifier.device))
    else:
        _, attention, logits = record_attention(classifier, images.to(classifier.device))
    return Gallery(
        images,
        split.labels[chosen],
        logits.argmax(1).cpu(),
        logits.softmax(1).float().cpu(),
        None if split.masks is None else split.masks[chosen],
        attention,
    )


def _on_one_grid(attention: AttentionMap, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return heatmap and mask on one grid, both `(B, H, W)`; the frames of a clip become rows.

    For a map over time only, the mask marks the frames with a target.
    """
    if mask.ndim == 4 and attention.saliency().ndim == 2:
        mask = mask.flatten(2).any(2)
    heat = attention.heatmap(tuple(mask.shape[1:])).cpu()
    rows = (len(mask), -1, mask.shape[-1])
    return heat.reshape(rows), mask.reshape(rows)


def _gallery_images(labels: Tensor) -> list[int]:
    """Select the first images of each class, the same number of each."""
    classes = labels.unique()
    each = max(1, _GALLERY_IMAGES // len(classes))
    return torch.cat([(labels == label).nonzero()[:each, 0] for label in classes]).sort().values.tolist()


def _batches(classifier: Classifier, images: Tensor) -> Iterator[Tensor]:
    return (part.to(classifier.device) for part in images.split(_BATCH))


def _joined(scores: list[Localization]) -> Localization:
    def join(parts: list[LocalizationScore]) -> LocalizationScore:
        return LocalizationScore(
            *(
                torch.cat([getattr(part, name) for part in parts])
                for name in ("pointing", "energy", "precision")
            )
        )

    return Localization(
        join([score.positive for score in scores]),
        join([score.negative for score in scores]),
        torch.cat([score.chance for score in scores]),
    )
