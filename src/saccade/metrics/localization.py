"""Localization: does the heat map point at the place that the mask marks?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saccade.errors import BadOption, BadShape, check_shape

_TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True, eq=False)
class Score:
    """Three answers to "how well does this map point at the target?", each `(B,)` in [0, 1].

    pointing    whether the maximum lies on the target; among tied maxima, the share that does
    energy      the share of the map's total that lies on the target
    precision   the average precision of the pixels, ranked by the map, as detections of the target

    >>> one = torch.ones(2)
    >>> Score(pointing=one, energy=one / 2, precision=one / 4).mean()
    {'pointing': 1.0, 'energy': 0.5, 'precision': 0.25}
    """

    pointing: Tensor
    energy: Tensor
    precision: Tensor

    def mean(self) -> dict[str, float]:
        """Return the averages over the images."""
        return {
            "pointing": self.pointing.mean().item(),
            "energy": self.energy.mean().item(),
            "precision": self.precision.mean().item(),
        }


@dataclass(frozen=True, eq=False)
class Localization:
    """The scores of a batch of heat maps: as they are, inverted, and what chance would score.

    bright   the map h as it is
    dark     the map inverted, max h + min h - h: a gate may find the target by darkening it
    chance   `(B,)`, the share of the image that the mask covers: what a constant map scores

    >>> mask = torch.eye(4, dtype=torch.bool)[None]
    >>> localization(1 - mask.float(), mask).mean()["negative"]   # the darkest places are the target
    {'pointing': 1.0, 'energy': 1.0, 'precision': 1.0}
    """

    positive: Score
    negative: Score
    chance: Tensor

    def mean(self) -> dict[str, float | dict[str, float]]:
        """Return the averages over the images, as plain numbers for a result file."""
        return {
            "chance": self.chance.mean().item(),
            "positive": self.positive.mean(),
            "negative": self.negative.mean(),
        }


def localization(heatmap: Tensor, mask: Tensor) -> Localization:
    """Score how well heat maps point at the true places.

    For one image with heat h >= 0 over N pixels and target M, |M| of them:

        pointing  = |{p in M : h_p = max h}| / |{p : h_p = max h}|
        energy    = sum_{p in M} h_p / sum_p h_p                      (|M| / N for a map of zeros)
        precision = 1 / |M| sum_{p in M} |{q in M : h_q >= h_p}| / |{q : h_q >= h_p}|
        chance    = |M| / N

    pointing is the pointing game, with the value expected when ties are broken at random:
    Zhang et al.: Top-down Neural Attention by Excitation Backprop, ECCV 2016.
    energy is the energy-based pointing game:
    Wang et al.: Score-CAM: Score-Weighted Visual Explanations for CNNs, CVPR Workshops 2020.
    precision is the area under the precision-recall curve of the pixels as a step function, ties taken
    together, as `sklearn.metrics.average_precision_score` computes it.

    heatmap (B, H, W), non-negative; mask (B, H, W), bool -> float64 scores (B,). No gradient flows.

    Deviation: the authors' evaluation forgives a miss by 15 pixels; this one does not.

    Raises `BadShape` unless the shapes are these and every mask covers a part of its image; `BadOption`
    for a mask that is not bool, and for heat that is negative or not finite.

    >>> import torch
    >>> heatmap = torch.tensor([[[4.0, 2.0], [1.0, 1.0]]])
    >>> mask = torch.tensor([[[True, False], [True, False]]])
    >>> scores = localization(heatmap, mask)
    >>> scores.positive.pointing, scores.positive.energy, scores.chance
    (tensor([1.], ...), tensor([0.6250], ...), tensor([0.5000], ...))
    """
    _check(heatmap, mask)
    heat = heatmap.detach().flatten(1)
    heat = heat if heat.is_floating_point() else heat.double()
    target = mask.to(heat.device).flatten(1)
    # A maximum of 1 makes the sums over a constant map exact, and all others safe from overflow.
    bright = heat.double() / heat.amax(1, keepdim=True).double().clamp(min=_TINY)
    dark = bright.amax(1, keepdim=True) + bright.amin(1, keepdim=True) - bright
    # Ranks come from the heat itself: the arithmetic above may round two values to one.
    ranked, index = heat.sort(dim=1, descending=True)
    hits = target.gather(1, index)
    return Localization(
        positive=Score(_pointing(heat, target), _energy(bright, target), _precision(ranked, hits)),
        negative=Score(
            _pointing(-heat, target), _energy(dark, target), _precision(ranked.flip(1), hits.flip(1))
        ),
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
    """Return the average precision of pixels sorted from best to worst, `hits` those on the target.

    A threshold admits all equal values or none, so precision and recall exist where equals end.
    """
    ends = torch.ones_like(hits)
    ends[:, :-1] = ranked[:, 1:] != ranked[:, :-1]
    found = hits.cumsum(1)
    admitted = torch.arange(1, found.shape[1] + 1, device=found.device)
    at_ends = torch.where(ends, found, 0).cummax(1).values  # `found` where the latest equals ended
    gain = at_ends.diff(dim=1, prepend=at_ends.new_zeros(len(at_ends), 1))
    recall_gain, precision = gain / found[:, -1:].double(), found / admitted.double()
    return (recall_gain * precision).sum(1)


def _check(heatmap: Tensor, mask: Tensor) -> None:
    check_shape("localization: heatmap", heatmap, "B H W")
    sizes = dict(zip("BHW", heatmap.shape, strict=True))
    check_shape("localization: mask", mask, "B H W", **sizes)
    if mask.dtype != torch.bool:
        raise BadOption(
            f"localization: the mask is {mask.dtype}, expected torch.bool; compare it with a threshold"
        )
    images, covered = len(mask), mask.flatten(1).double().mean(1)
    if empty := int((covered == 0).sum()):
        raise BadShape(
            f"localization: {empty} of {images} masks are empty, and an image without a target cannot be "
            "scored; leave these images out"
        )
    if full := int((covered == 1).sum()):
        raise BadShape(
            f"localization: {full} of {images} masks cover their image, where every map is right; "
            "leave these images out"
        )
    if heatmap.is_complex():
        raise BadOption(f"localization: the heat map is {heatmap.dtype}, expected real numbers")
    if wrong := int((~torch.isfinite(heatmap)).sum()):
        raise BadOption(f"localization: {wrong} values of the heat map are not finite")
    if (lowest := heatmap.min().item()) < 0:
        raise BadOption(
            f"localization: the heat map is negative, {lowest:g} at its lowest; expected values of at least 0"
        )
