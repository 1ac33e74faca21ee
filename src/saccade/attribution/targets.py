"""Targets: the score of an output of a model that an attribution explains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.errors import BadOption, BadShape, bad_option, check_positive

#: A class for all images, one class for each, or a function of the output that returns one score per image.
Target: TypeAlias = int | Sequence[int] | Tensor | Callable[[Any], Tensor] | None

#: Where the outputs of other libraries keep their scores, in the order of preference.
_FIELDS = ("logits", "out", "logits_per_image", "pred_logits", "scores", "pred")


def target_scores(owner: str, output: Any, target: Target, images: Tensor | None = None) -> Tensor:
    """Return the score to explain for each image, (B,).

    Args:
        owner: Name of the function that explains, for messages.
        output: Output of a model: a tensor, a tuple, a mapping or an object with the field `logits` or `out`.
        target: A class, one class for each image, or a function of the output. None means the class with the
            highest score; of a segmentation, the class of most pixels; of a detector, the best box.
        images: The images; an output of their shape is an image and holds no scores.

    Raises:
        BadShape: The output holds no scores, and `target` is no function.
        BadOption: A class does not exist, or the function returns something else than scores.
    """
    if callable(target):
        return _from_function(owner, target, output)
    scores = find_scores(output)
    if isinstance(scores, Tensor) and scores.ndim == 2:
        return scores.gather(1, classes(owner, scores, target)[:, None])[:, 0]
    is_map = isinstance(scores, Tensor) and scores.ndim == 4
    if target is None and is_map and (images is None or scores.shape != images.shape):
        return segmentation_score()(scores)
    if target is None and (_has_boxes(output) or (isinstance(scores, Tensor) and scores.ndim == 3)):
        return detection_score()(output)
    found = describe(output if scores is None else scores)
    advice = "give `target`, a function of the output that returns one score per image"
    message = f"{owner}: the model returns {found}, expected scores of shape (B, classes); {advice}"
    raise BadShape(message, owner=owner, option="target", value=found)


def class_scores(owner: str, output: Any) -> Tensor:
    """Return the scores `(B, classes)` in the output of a classifier."""
    scores = find_scores(output)
    if not isinstance(scores, Tensor) or scores.ndim != 2:
        found = describe(output if scores is None else scores)
        message = f"{owner}: the model returns {found}, expected scores of shape (B, classes)"
        raise BadShape(message, owner=owner, option="model", value=found)
    return scores


def classes(owner: str, scores: Tensor, target: int | Sequence[int] | Tensor | None) -> Tensor:
    """Return the class of each image, (B,)."""
    if target is None:
        return scores.argmax(1)
    chosen = torch.as_tensor(target).to(scores.device)
    if chosen.is_floating_point() or tuple(chosen.shape) not in ((), (len(scores),)):
        expected = f"must be one class, or one for each of the {len(scores)} images"
        raise bad_option(owner, expected, target=target)
    if ((chosen < 0) | (chosen >= scores.shape[1])).any():
        raise bad_option(owner, f"is not among the classes 0 to {scores.shape[1] - 1}", target=target)
    return chosen.long().expand(len(scores))


def find_scores(output: Any) -> Any:
    """Return the tensor of scores in the output of a model, or None."""
    if isinstance(output, Tensor):
        return output
    for name in _FIELDS:
        value = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(value, Tensor):
            return value
    tensors = [x for x in output if isinstance(x, Tensor)] if isinstance(output, tuple | list) else []
    return next((x for x in tensors if x.ndim == 2), tensors[0] if tensors else None)


def describe(output: Any) -> tuple[int, ...] | str:
    """Return the shape of a tensor, or the type of another output."""
    return tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"


def _from_function(owner: str, target: Callable[[Any], Tensor], output: Any) -> Tensor:
    scores = target(output)
    if not isinstance(scores, Tensor) or scores.ndim > 1 or not scores.requires_grad:
        found = describe(scores)
        message = f"{owner}: target returned {found}, expected one score per image that has a gradient"
        raise BadOption(message, owner=owner, option="target", value=found)
    return scores.reshape(-1)


def segmentation_score(category: int | None = None) -> Callable[[Any], Tensor]:
    """Return the target of a segmentation: the mean score of a class over the pixels predicted as it.

        s = mean over p with argmax_k y_kp = c of y_cp

    Where no pixel is predicted as class c, the mean is over all pixels. A single channel of scores holds one
    class against the background, which is predicted where the score is positive.

    Args:
        category: Class c. Default: the class of most pixels of each image.

    Example:
        >>> import torch
        >>> y = torch.zeros(1, 3, 2, 2)
        >>> y[0, 1, 0] = torch.tensor([2.0, 4.0])        # class 1 in the first row
        >>> segmentation_score(1)({"out": y})
        tensor([3.])
    """
    if category is not None:
        check_positive("segmentation_score", category=category + 1)

    def score(output: Any) -> Tensor:
        scores = find_scores(output)
        if not isinstance(scores, Tensor) or scores.ndim < 3:
            found = describe(output if scores is None else scores)
            message = f"segmentation_score: the model returns {found}, expected scores (B, classes, H, W)"
            raise BadShape(message, owner="segmentation_score", option="model", value=found)
        if category is not None and category >= scores.shape[1]:
            expected = f"is not among the classes 0 to {scores.shape[1] - 1}"
            raise bad_option("segmentation_score", expected, category=category)
        scores = scores.flatten(2)
        predicted = scores.detach().argmax(1)
        chosen = (
            predicted.mode(1, keepdim=True).values if category is None else predicted[:, :1] * 0 + category
        )
        mask = predicted == chosen if scores.shape[1] > 1 else scores.detach()[:, 0] > 0
        mask = torch.where(mask.any(1, keepdim=True), mask, True).to(scores)
        of_class = scores.gather(1, chosen[:, :, None].expand(-1, 1, scores.shape[2]))[:, 0]
        return (of_class * mask).sum(1) / mask.sum(1)

    return score


def detection_score(category: int | None = None, top: int = 1) -> Callable[[Any], Tensor]:
    """Return the target of a detector: the sum of the scores of its best boxes.

    It understands the lists of torchvision, `[{"boxes", "labels", "scores"}, ...]`, scores of queries
    (B, Q, classes) as `logits` or `pred_logits` (DETR; the last class means no object), and the raw outputs
    of YOLO, (B, 4 + classes, boxes).

    Args:
        category: Class of the boxes. Default: the class of the best box of each image.
        top: Number of boxes.

    Example:
        >>> import torch
        >>> found = {"scores": torch.tensor([0.9, 0.8, 0.3]), "labels": torch.tensor([2, 1, 1])}
        >>> detection_score()([found]), detection_score(category=1, top=2)([found])
        (tensor([0.9000]), tensor([1.1000]))
    """
    check_positive("detection_score", top=top)

    def score(output: Any) -> Tensor:
        if _has_boxes(output):
            return torch.stack([_box_score(found, category, top) for found in output])
        scores = find_scores(output)
        if not isinstance(scores, Tensor) or scores.ndim != 3:
            found = describe(output if scores is None else scores)
            message = f"detection_score: the model returns {found}, expected boxes with scores"
            raise BadShape(message, owner="detection_score", option="model", value=found)
        is_queries = not isinstance(output, Tensor | tuple | list)
        scores = scores.softmax(2)[:, :, :-1].mT if is_queries else scores[:, 4:]  # (B, classes, boxes)
        if category is not None and not 0 <= category < scores.shape[1]:
            expected = f"is not among the classes 0 to {scores.shape[1] - 1}"
            raise bad_option("detection_score", expected, category=category)
        best = scores.amax(2).argmax(1) if category is None else torch.full_like(scores[:, 0, 0], category)
        chosen = scores[torch.arange(len(scores)), best.long()]
        return chosen.topk(min(top, chosen.shape[1]), 1).values.sum(1)

    return score


def _has_boxes(output: Any) -> bool:
    """Return whether an output lists the boxes of each image, as that of torchvision's detectors."""
    first = output[0] if isinstance(output, list) and output else None
    return isinstance(first, Mapping) and "scores" in first


def _box_score(found: Mapping[str, Tensor], category: int | None, top: int) -> Tensor:
    scores = found["scores"] if category is None else found["scores"][found["labels"] == category]
    if not len(scores):
        what = "box" if category is None else f"box of class {category}"
        problem = f"the model finds no {what} in one of the images"
        raise BadOption.of("detection_score", problem, category=category)
    return scores.topk(min(top, len(scores))).values.sum()


def similarity(embedding: Tensor) -> Callable[[Any], Tensor]:
    """Return the target of an image encoder: the cosine of its embedding with a given one.

    Args:
        embedding: The other embedding, such as that of a text, (C,) or one for each image (B, C).

    Example:
        >>> import torch
        >>> similarity(torch.tensor([1.0, 0.0]))(torch.tensor([[3.0, 4.0]]))
        tensor([0.6000])
    """

    def score(output: Any) -> Tensor:
        images = (
            output if isinstance(output, Tensor) else getattr(output, "image_embeds", find_scores(output))
        )
        if not isinstance(images, Tensor) or images.ndim != 2 or images.shape[1] != embedding.shape[-1]:
            found = describe(output if images is None else images)
            message = f"similarity: the model returns {found}, expected embeddings (B, {embedding.shape[-1]})"
            raise BadShape(message, owner="similarity", option="model", value=found)
        return F.cosine_similarity(images, embedding.to(images).expand_as(images), 1)

    return score
