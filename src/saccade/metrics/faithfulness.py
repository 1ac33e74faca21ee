"""Faithfulness: does the answer of the model rest on the places that the heat map names?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saccade.errors import BadOption, BadShape, UnknownName, check_choice, check_positive, check_shape

Predict = Callable[[Tensor], Tensor]
RANKINGS = ("positive", "negative", "random", "center_prior")


@dataclass(frozen=True, eq=False)
class Curves:
    """The answers of a model while the pixels of its images are taken out, and while they are put in.

    shares      (S+1,), the share of the pixels that have been replaced, 0 to 1
    deletion    (B, S+1), from the whole image to a blank one; a small area is good
    insertion   (B, S+1), from a blurred image to the whole one; a large area is good

    >>> curves = Curves(torch.tensor([0, 0.5, 1]), torch.tensor([[1.0, 0, 0]]), torch.tensor([[0, 1.0, 1]]))
    >>> curves.mean()["deletion"], curves.mean()["insertion"]
    (0.25, 0.75)
    """

    shares: Tensor
    deletion: Tensor
    insertion: Tensor

    @property
    def deletion_area(self) -> Tensor:
        """The area under the deletion curve by the trapezoidal rule, (B,)."""
        return torch.trapezoid(self.deletion, self.shares)

    @property
    def insertion_area(self) -> Tensor:
        """The area under the insertion curve by the trapezoidal rule, (B,)."""
        return torch.trapezoid(self.insertion, self.shares)

    def auc_gain(self, over: Curves) -> Tensor:
        """Return by how much these curves beat others, (B,), -1 to 1: 0 is no better than they are.

        gain = 1/2 (insertion area - theirs) + 1/2 (their deletion area - deletion area)
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
    """The curves of a batch of heat maps, and of the rankings that they are held against.

    target      (B,), the class whose score the curves follow
    rankings    by name: "positive", the map as it is; "negative", the map inverted; "random"; "center_prior"
    """

    target: Tensor
    rankings: Mapping[str, Curves]

    def __getitem__(self, ranking: str) -> Curves:
        """Return the curves of a ranking. Raises `UnknownName` for one that was not followed."""
        if ranking not in self.rankings:
            raise UnknownName("ranking", ranking, self.rankings)
        return self.rankings[ranking]

    def mean(self) -> dict[str, Any]:
        """Return areas and curves of each ranking, averaged over the images, for a result file."""
        shares = next(iter(self.rankings.values())).shares.tolist()
        return {"shares": shares, **{name: curves.mean() for name, curves in self.rankings.items()}}


def faithfulness(
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
    """Follow a model's answer while pixels are deleted, and while they are inserted, in the map's order.

    For one image x of N pixels, ranked r_p = 0 .. N-1 from the hottest, and the share t of them:

        deletion(t)  = f(x_p if r_p >= tN else blank_p)       from f(x) to f(blank)
        insertion(t) = f(x_p if r_p < tN else blurred_p)      from f(blurred) to f(x)

    f is the model's score of the class `target`. A map that names the pixels on which the answer rests
    makes the first fall soon and the second rise soon; the areas under both say how soon.

    Petsiuk, Das, Saenko: RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018
    (section 4.2).

    predict     images -> scores (B, classes), taken as they are: probabilities in the paper, so
                `lambda x: model(x).softmax(1)`, of a model in evaluation mode. It sees as many images at a
                time as `batch_size` says, in floating point, without gradients
    images      (B, C, H, W)
    heatmap     (B, H, W), real numbers, of which only the order counts
    target      (B,), the class of each image; by default the one that the model gives to it
    rankings    those to follow. "positive" is the map's, "negative" that of the map inverted, for one that
                shows where not to look. Of two others the map is to be better: "random", a random order, the
                same for every image, and "center_prior", from the center outwards
    steps       evaluations of each curve, S, not counting its start
    blank       what is left when all is deleted, of the images' shape or one that expands to it; by default
                the mean color of each image
    blurred     what is there before anything is inserted; by default the image under a Gaussian of standard
                deviation max(H, W) / 8
    seed        of the random order, which also decides between pixels of equal heat, whatever their place:
                a map that is the same everywhere scores what "random" scores, exactly

    Deviations: the authors blank with the mean color of the data set, and blur 224 x 224 pixels with a
    standard deviation of 5, which leaves an object of that width or more where it was.

    Raises `BadShape` for other shapes, of `predict`'s answer as well; `BadOption` for a class or a ranking
    that does not exist, more steps than pixels, and heat that is not finite.

    >>> import torch
    >>> truth = torch.zeros(1, 8, 8)
    >>> truth[:, 2:4, 2:4] = 1
    >>> def brightness_there(images):                # a model whose answer rests on four pixels
    ...     return (images * truth[:, None]).sum((1, 2, 3), keepdim=True)[:, :, 0, 0] / 4
    >>> scores = faithfulness(brightness_there, truth[:, None], truth, steps=16)
    >>> scores["positive"].deletion_area.item() < scores["random"].deletion_area.item()
    True
    >>> scores["positive"].auc_gain(over=scores["random"]).item() > 0
    True
    """
    _check(images, heatmap, rankings, steps, batch_size)
    images = images.detach() if images.is_floating_point() else images.float()
    blank = images.mean((2, 3), keepdim=True) if blank is None else blank
    blurred = _blur(images, max(images.shape[2:]) / 8) if blurred is None else blurred
    blank, blurred = (_base(name, b, images) for name, b in (("blank", blank), ("blurred", blurred)))
    pixels = heatmap[0].numel()
    order = torch.randperm(pixels, generator=torch.Generator().manual_seed(seed)).to(images.device)
    counts = torch.linspace(0, pixels, steps + 1, dtype=torch.float64, device=images.device).round()
    with torch.no_grad():
        if target is None:
            target = torch.cat([_scores(predict, part).argmax(1) for part in images.split(batch_size)])
        target = _classes(target, images)

        def curve(start: Tensor, end: Tensor, ranks: Tensor) -> Tensor:
            return _curve(predict, start, end, ranks, counts, target, batch_size)

        found = {}
        for name in dict.fromkeys(rankings):
            ranks = _ranks(_heat(name, heatmap.to(images.device)), order)
            deletion, insertion = curve(images, blank, ranks), curve(blurred, images, ranks)
            found[name] = Curves(counts / pixels, deletion, insertion)
    return Faithfulness(target, found)


def _heat(ranking: str, heatmap: Tensor) -> Tensor:
    """Return the heat whose order a ranking is."""
    heat = heatmap.detach().double()
    if ranking == "positive":
        return heat
    if ranking == "negative":
        return -heat
    if ranking == "random":
        return torch.zeros_like(heat)  # no pixel before another: the random order decides
    y, x = (torch.arange(n, device=heat.device, dtype=heat.dtype) - (n - 1) / 2 for n in heat.shape[1:])
    return -(y[:, None] ** 2 + x**2).expand_as(heat)


def _ranks(heat: Tensor, order: Tensor) -> Tensor:
    """Return the place of each pixel from the hottest, (B, H, W); among equals the one first in `order`."""
    ranked = order[heat.flatten(1)[:, order].argsort(dim=1, descending=True, stable=True)]
    places = torch.arange(len(order), device=heat.device).expand_as(ranked)
    return torch.empty_like(ranked).scatter_(1, ranked, places).reshape(heat.shape)


def _curve(
    predict: Predict,
    start: Tensor,
    end: Tensor,
    ranks: Tensor,
    counts: Tensor,
    target: Tensor,
    batch_size: int,
) -> Tensor:
    """Return f while the first of the pixels pass from start's to end's: (B, S+1)."""
    which = torch.arange(len(start), device=start.device).repeat_interleave(len(counts))
    parts = []
    for index, count in zip(
        which.split(batch_size), counts.repeat(len(start)).split(batch_size), strict=True
    ):
        passed = ranks[index] < count[:, None, None]
        scores = _scores(predict, torch.where(passed[:, None], end[index], start[index]))
        if int(target.max()) >= scores.shape[1]:
            raise BadOption(
                f"faithfulness: target {int(target.max())} is not among the {scores.shape[1]} classes"
            )
        parts.append(scores.gather(1, target[index, None])[:, 0].double())
    return torch.cat(parts).reshape(len(start), -1)


def _scores(predict: Predict, images: Tensor) -> Tensor:
    scores = predict(images)
    if scores.ndim != 2 or len(scores) != len(images):
        raise BadShape(
            f"faithfulness: predict returned {tuple(scores.shape)} for {len(images)} images, "
            f"expected ({len(images)}, classes)"
        )
    return scores.to(images.device)


def _blur(images: Tensor, sigma: float) -> Tensor:
    """Blur with a Gaussian whose weights sum to 1 over what lies inside of the image."""
    rows, columns = (
        (-((torch.arange(n)[:, None] - torch.arange(n)) ** 2) / (2 * sigma**2)).softmax(1).to(images)
        for n in images.shape[2:]
    )
    return rows @ images @ columns.T


def _base(name: str, base: Tensor, images: Tensor) -> Tensor:
    try:
        return base.detach().to(images).expand_as(images)
    except RuntimeError as error:
        raise BadShape(
            f"faithfulness: {name} of shape {tuple(base.shape)} does not expand to {tuple(images.shape)}"
        ) from error


def _classes(target: Tensor, images: Tensor) -> Tensor:
    if target.is_floating_point() or target.shape != images.shape[:1] or int(target.min()) < 0:
        raise BadOption(
            f"faithfulness: target must hold a class of at least 0 for each of {len(images)} images, "
            f"got {target.dtype} of shape {tuple(target.shape)}"
        )
    return target.to(images.device).long()


def _check(images: Tensor, heatmap: Tensor, rankings: Sequence[str], steps: int, batch_size: int) -> None:
    check_shape("faithfulness: images", images, "B C H W")
    batch, _, height, width = images.shape
    check_shape("faithfulness: heatmap", heatmap, "B H W", B=batch, H=height, W=width)
    check_positive("faithfulness", steps=steps, batch_size=batch_size)
    if steps > height * width:
        raise BadOption(f"faithfulness: steps={steps} is more than the {height * width} pixels")
    if heatmap.is_complex():
        raise BadOption(f"faithfulness: the heat map is {heatmap.dtype}, expected real numbers")
    if wrong := int((~torch.isfinite(heatmap)).sum()):
        raise BadOption(f"faithfulness: {wrong} values of the heat map are not finite")
    if not rankings:
        raise BadOption(f"faithfulness: rankings={rankings!r} must name at least one of {RANKINGS}")
    for ranking in rankings:
        check_choice("faithfulness", "rankings", ranking, RANKINGS)
