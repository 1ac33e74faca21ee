"""Faithfulness: whether the answer of a model depends on the pixels that a heat map marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saccade.annotations import check_arguments
from saccade.errors import BadOption, BadShape, UnknownName, check_choice, check_positive, check_shape
from saccade.metrics.checks import Predict, check_finite, image_classes, pixel_ranks, scores_of

RANKINGS = ("positive", "negative", "random", "center_prior")
_OWNER = "evaluate_faithfulness"


@dataclass(frozen=True, eq=False)
class Curves:
    """Scores of a model while the pixels of its images are deleted, and while they are inserted.

    Attributes:
        shares: `(S+1,)`, fraction of the pixels that is replaced, from 0 to 1.
        deletion: `(B, S+1)`, from the whole image to a blank one. A small area is good.
        insertion: `(B, S+1)`, from a blurred image to the whole one. A large area is good.

    Example:
        >>> shares = torch.tensor([0, 0.5, 1])
        >>> curves = Curves(shares, torch.tensor([[1.0, 0, 0]]), torch.tensor([[0, 1.0, 1]]))
        >>> curves.mean()["deletion"], curves.mean()["insertion"]
        (0.25, 0.75)
    """

    shares: Tensor
    deletion: Tensor
    insertion: Tensor

    @property
    def deletion_area(self) -> Tensor:
        """Area under the deletion curve by the trapezoidal rule, `(B,)`."""
        return torch.trapezoid(self.deletion, self.shares)

    @property
    def insertion_area(self) -> Tensor:
        """Area under the insertion curve by the trapezoidal rule, `(B,)`."""
        return torch.trapezoid(self.insertion, self.shares)

    def auc_gain(self, over: Curves) -> Tensor:
        """Return the improvement of the areas over other curves, `(B,)` in [-1, 1]; 0 means no improvement.

        The gain is the mean of the increase of the insertion area and the decrease of the deletion area.
        """
        inserted = self.insertion_area - over.insertion_area
        return (inserted + over.deletion_area - self.deletion_area) / 2

    def mean(self) -> dict[str, Any]:
        """Return areas and curves, averaged over the images."""
        return {
            "deletion": self.deletion_area.mean().item(),
            "insertion": self.insertion_area.mean().item(),
            "deletion_curve": self.deletion.mean(0).tolist(),
            "insertion_curve": self.insertion.mean(0).tolist(),
        }


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """Curves of a batch of heat maps and of the rankings that they are compared with.

    Attributes:
        target: `(B,)`, class whose score the curves show.
        rankings: Curves by ranking: "positive" (the map), "negative" (the inverted map), "random" and
            "center_prior".
    """

    target: Tensor
    rankings: Mapping[str, Curves]

    def __getitem__(self, ranking: str) -> Curves:
        """Return the curves of a ranking.

        Raises:
            UnknownName: If the ranking was not evaluated.
        """
        if ranking not in self.rankings:
            raise UnknownName("ranking", ranking, self.rankings, owner=_OWNER)
        return self.rankings[ranking]

    def mean(self) -> dict[str, Any]:
        """Return areas and curves of each ranking, averaged over the images, for a result file."""
        shares = next(iter(self.rankings.values())).shares.tolist()
        return {"shares": shares, **{name: curves.mean() for name, curves in self.rankings.items()}}


def evaluate_faithfulness(
    predict: Predict,
    images: Tensor,
    heatmap: Tensor,
    *,
    target: Tensor | None = None,
    rankings: Sequence[str] = RANKINGS,
    steps: int = 20,
    blank: Tensor | None = None,
    blurred: Tensor | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> Faithfulness:
    """Evaluate a model while pixels are deleted, and while they are inserted, in the order of a heat map.

    For one image x of N pixels, with ranks r_p = 0 .. N-1 from the highest heat and a fraction t of them:

        deletion(t)  = f(x_p if r_p >= tN else blank_p)       from f(x) to f(blank)
        insertion(t) = f(x_p if r_p < tN else blurred_p)      from f(blurred) to f(x)

    f is the score of the class `target`. If the map marks the pixels on which the answer depends, the
    deletion curve falls early and the insertion curve rises early. The areas under the curves measure it.

    References:
        Petsiuk, Das, Saenko: RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018
        (section 4.2).

    Args:
        predict: Maps images to scores `(B, classes)`. The paper uses probabilities:
            `lambda x: model(x).softmax(1)` with a model in evaluation mode. It is called without gradients
            on floating-point batches of at most `batch_size` images.
        images: Images.
        heatmap: Heat maps, real numbers. Only their order matters.
        target: Class of each image. Default: the class that the model predicts.
        rankings: Rankings to evaluate. "positive" follows the map and "negative" the inverted map, for maps
            that mark where not to look. Two baselines: "random", one random order for all images, and
            "center_prior", from the center outwards.
        steps: Number of evaluations of each curve, S, without the first.
        blank: What remains after deletion; expands to the shape of the images. Default: the mean color of
            each image.
        blurred: What insertion starts from; expands to the shape of the images. Default: the images under a
            Gaussian with standard deviation max(H, W) / 8.
        batch_size: Maximum number of images per call of `predict`.
        seed: Seed of the random order, which also breaks ties of the heat, independently of their position: a
            constant map scores exactly what "random" scores.

    Returns:
        The curves of all rankings.

    Raises:
        BadShape: If a shape is wrong, including that of the scores.
        BadOption: If a class or a ranking does not exist, `steps` exceeds the number of pixels, or the heat
            is not finite.

    Shape:
        - images: `(B, C, H, W)`
        - heatmap: `(B, H, W)`
        - target: `(B,)`

    Note:
        The authors use the mean color of the data set as blank, and a standard deviation of 5 on 224 x 224
        pixels, which leaves objects of that width or more visible.

    Example:
        >>> import torch
        >>> truth = torch.zeros(1, 8, 8)
        >>> truth[:, 2:4, 2:4] = 1
        >>> def brightness(images):                # a model whose answer depends on four pixels
        ...     return (images * truth[:, None]).sum((1, 2, 3), keepdim=True)[:, :, 0, 0] / 4
        >>> scores = evaluate_faithfulness(brightness, truth[:, None], truth, steps=16)
        >>> scores["positive"].deletion_area.item() < scores["random"].deletion_area.item()
        True
        >>> scores["positive"].auc_gain(over=scores["random"]).item() > 0
        True
    """
    check_arguments(evaluate_faithfulness, locals())
    _check(images, heatmap, rankings, steps, batch_size)
    images = images.detach() if images.is_floating_point() else images.float()
    blank = images.mean((2, 3), keepdim=True) if blank is None else blank
    blurred = _blur(images, max(images.shape[2:]) / 8) if blurred is None else blurred
    blank, blurred = (_base(name, b, images) for name, b in (("blank", blank), ("blurred", blurred)))
    pixels = heatmap[0].numel()
    order = torch.randperm(pixels, generator=torch.Generator().manual_seed(seed)).to(images.device)
    counts = torch.linspace(0, pixels, steps + 1, dtype=torch.float64, device=images.device).round()
    with torch.no_grad():
        target = image_classes(_OWNER, target, predict, images, batch_size)
        index = torch.arange(len(images), device=images.device).repeat_interleave(len(counts))
        passes = [*zip(index.split(batch_size), counts.repeat(len(images)).split(batch_size), strict=True)]

        def curve(start: Tensor, end: Tensor, ranks: Tensor) -> Tensor:
            """Return f while the pixels change from start to end in the order of their ranks, (B, S+1)."""
            parts = []
            for i, count in passes:
                passed = ranks[i] < count[:, None, None]
                scores = scores_of(_OWNER, predict, torch.where(passed[:, None], end[i], start[i]))
                if (highest := int(target.max())) >= scores.shape[1]:
                    problem = f"target {highest} is not among the {scores.shape[1]} classes"
                    raise BadOption.of(_OWNER, problem, target=highest)
                parts.append(scores.gather(1, target[i, None])[:, 0].double())
            return torch.cat(parts).reshape(len(start), -1)

        heats = _heats(heatmap.to(images.device))
        curves = {}
        for name in dict.fromkeys(rankings):
            ranks = pixel_ranks(heats[name], order)
            deletion, insertion = curve(images, blank, ranks), curve(blurred, images, ranks)
            curves[name] = Curves(counts / pixels, deletion, insertion)
    return Faithfulness(target, curves)


def _heats(heatmap: Tensor) -> dict[str, Tensor]:
    """Return the heat that each ranking sorts by."""
    heat = heatmap.detach().double()
    y, x = (torch.arange(n, device=heat.device, dtype=heat.dtype) - (n - 1) / 2 for n in heat.shape[1:])
    return {
        "positive": heat,
        "negative": -heat,
        "random": torch.zeros_like(heat),  # all pixels tie, and the random order decides
        "center_prior": -(y[:, None] ** 2 + x**2).expand_as(heat),
    }


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Blur with a Gaussian whose weights sum to 1 over the pixels inside the image."""
    rows, columns = (
        (-((torch.arange(n)[:, None] - torch.arange(n)) ** 2) / (2 * sigma**2)).softmax(1).to(images)
        for n in images.shape[2:]
    )
    return rows @ images @ columns.T


def _base(name: str, base: Tensor, images: Tensor) -> Tensor:
    try:
        return base.detach().to(images).expand_as(images)
    except RuntimeError as error:
        shape = tuple(base.shape)
        problem = f"{name} of shape {shape} does not expand to {tuple(images.shape)}"
        raise BadShape.of(_OWNER, problem, **{name: shape}) from error


def _check(images: Tensor, heatmap: Tensor, rankings: Sequence[str], steps: int, batch_size: int) -> None:
    check_shape(f"{_OWNER}: images", images, "B C H W")
    batch, _, height, width = images.shape
    check_shape(f"{_OWNER}: heatmap", heatmap, "B H W", B=batch, H=height, W=width)
    check_positive(_OWNER, steps=steps, batch_size=batch_size)
    if steps > height * width:
        raise BadOption.of(_OWNER, f"steps={steps} is more than the {height * width} pixels", steps=steps)
    check_finite(_OWNER, heatmap)
    for ranking in rankings or (rankings,):
        check_choice(_OWNER, "rankings", ranking, RANKINGS)
