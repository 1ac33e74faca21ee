"""Localization: how well a heat map points at the region that a mask marks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.annotations import check_arguments
from saccade.errors import BadOption, BadShape, check_shape
from saccade.metrics.checks import check_finite

_TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True, eq=False)
class LocalizationScore:
    """Three measures of how well heat maps point at their targets, each `(B,)` in [0, 1].

    Attributes:
        pointing: 1 if the maximum of the map is on the target, else 0. If several pixels tie for the maximum,
            the fraction of them that is on the target.
        energy: Fraction of the sum of the map that is on the target.
        precision: Average precision of the pixels, ranked by the map, as detections of the target.

    Example:
        >>> one = torch.ones(2)
        >>> LocalizationScore(pointing=one, energy=one / 2, precision=one / 4).mean()
        {'pointing': 1.0, 'energy': 0.5, 'precision': 0.25}
    """

    pointing: Tensor
    energy: Tensor
    precision: Tensor

    def mean(self) -> dict[str, float]:
        """Return the means over the images."""
        return {name: getattr(self, name).mean().item() for name in ("pointing", "energy", "precision")}


@dataclass(frozen=True, eq=False)
class Localization:
    """Localization scores of a batch of heat maps in both polarities, and the score of chance.

    Attributes:
        positive: Scores of the map h.
        negative: Scores of the inverted map, max h + min h - h. A gate may find the target by suppressing it.
        chance: `(B,)`, the fraction of the image that the mask covers: the score of a constant map.

    Example:
        >>> mask = torch.eye(4, dtype=torch.bool)[None]
        >>> localize(1 - mask.float(), mask).mean()["negative"]   # the lowest values are on the target
        {'pointing': 1.0, 'energy': 1.0, 'precision': 1.0}
    """

    positive: LocalizationScore
    negative: LocalizationScore
    chance: Tensor

    def mean(self) -> dict[str, float | dict[str, float]]:
        """Return the means over the images as plain numbers for a result file."""
        return {
            "chance": self.chance.mean().item(),
            "positive": self.positive.mean(),
            "negative": self.negative.mean(),
        }


def localize(heatmap: Tensor, mask: Tensor) -> Localization:
    """Score how well heat maps point at the true regions.

    For one image with heat h >= 0 over N pixels and target M of |M| pixels:

        pointing  = |{p in M : h_p = max h}| / |{p : h_p = max h}|
        energy    = sum_{p in M} h_p / sum_p h_p                      (|M| / N for a map of zeros)
        precision = 1 / |M| sum_{p in M} |{q in M : h_q >= h_p}| / |{q : h_q >= h_p}|
        chance    = |M| / N

    `pointing` is the pointing game, with its expected value if ties are broken at random. `energy` is the
    energy-based pointing game. `precision` is the area under the precision-recall curve of the pixels as a
    step function, with ties taken together, as in `sklearn.metrics.average_precision_score`.

    References:
        Zhang et al.: Top-down Neural Attention by Excitation Backprop, ECCV 2016 (pointing game).
        Wang et al.: Score-CAM: Score-Weighted Visual Explanations for CNNs, CVPR Workshops 2020
        (energy-based pointing game).

    Args:
        heatmap: Heat maps; non-negative real numbers.
        mask: True regions; bool. Each mask covers a part of its image, neither nothing nor all of it.

    Returns:
        Scores in float64 without gradients.

    Raises:
        BadShape: If a shape is wrong, or a mask is empty or covers its whole image.
        BadOption: If the mask is not bool, or the heat map is complex, negative or not finite.

    Shape:
        - heatmap: `(B, H, W)`
        - mask: `(B, H, W)`
        - scores: `(B,)`

    Note:
        The authors' evaluation of the pointing game tolerates a miss of 15 pixels. This one does not.

    Example:
        >>> import torch
        >>> heatmap = torch.tensor([[[4.0, 2.0], [1.0, 1.0]]])
        >>> mask = torch.tensor([[[True, False], [True, False]]])
        >>> scores = localize(heatmap, mask)
        >>> scores.positive.pointing, scores.positive.energy, scores.chance
        (tensor([1.], ...), tensor([0.6250], ...), tensor([0.5000], ...))
    """
    check_arguments(localize, locals())
    _check(heatmap, mask)
    heat = heatmap.detach().flatten(1)
    heat = heat if heat.is_floating_point() else heat.double()
    target = mask.to(heat.device).flatten(1)
    # With a maximum of 1 the sums over a constant map are exact, and no other sum overflows.
    scaled = heat.double() / heat.amax(1, keepdim=True).double().clamp(min=_TINY)
    inverted = scaled.amax(1, keepdim=True) + scaled.amin(1, keepdim=True) - scaled
    # Ranks come from the heat itself: scaling may round two different values to one.
    ranked, index = heat.sort(dim=1, descending=True)
    hits = target.gather(1, index)
    precision, reverse = _precision(ranked, hits), _precision(ranked.flip(1), hits.flip(1))
    return Localization(
        positive=LocalizationScore(_pointing(heat, target), _energy(scaled, target), precision),
        negative=LocalizationScore(_pointing(-heat, target), _energy(inverted, target), reverse),
        chance=_chance(target),
    )


def _chance(target: Tensor) -> Tensor:
    return target.sum(1).double() / target.shape[1]


def _pointing(heat: Tensor, target: Tensor) -> Tensor:
    top = heat == heat.amax(1, keepdim=True)
    return (top & target).sum(1).double() / top.sum(1)


def _energy(heat: Tensor, target: Tensor) -> Tensor:
    total = heat.sum(1)
    return torch.where(total > 0, (heat * target).sum(1) / total, _chance(target))


def _precision(ranked: Tensor, hits: Tensor) -> Tensor:
    """Return the average precision of pixels sorted from best to worst; `hits` marks those on the target.

    A threshold admits all equal values or none, so precision and recall are defined where a run of equal
    values ends.
    """
    ends = torch.ones_like(hits)
    ends[:, :-1] = ranked[:, 1:] != ranked[:, :-1]
    true_positives = hits.cumsum(1)
    admitted = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    at_ends = torch.where(ends, true_positives, 0).cummax(1).values  # those where the last run ended
    gain = at_ends.diff(dim=1, prepend=at_ends.new_zeros(len(at_ends), 1))
    recall_gain, precision = gain / true_positives[:, -1:].double(), true_positives / admitted.double()
    return (recall_gain * precision).sum(1)


def _check(heatmap: Tensor, mask: Tensor) -> None:
    check_shape("localize: heatmap", heatmap, "B H W")
    check_shape("localize: mask", mask, "B H W", **dict(zip("BHW", heatmap.shape, strict=True)))
    if mask.dtype != torch.bool:
        problem = f"the mask is {mask.dtype}, expected torch.bool; compare it with a threshold"
        raise BadOption.of("localize", problem, mask=mask.dtype)
    covered = mask.flatten(1).double().mean(1)
    for share, what in ((0, "are empty"), (1, "cover their whole image")):
        if wrong := int((covered == share).sum()):
            problem = f"{wrong} of {len(mask)} masks {what}; leave these images out"
            raise BadShape.of("localize", problem, mask=wrong)
    check_finite("localize", heatmap)
    if (lowest := heatmap.min().item()) < 0:
        problem = f"the minimum of the heat map is {lowest:g}, expected values of at least 0"
        raise BadOption.of("localize", problem, heatmap=lowest)
