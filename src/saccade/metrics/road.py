"""ROAD: faithfulness by removing pixels without leaving a trace of where they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saccade.annotations import check_arguments
from saccade.errors import bad_option, check_shape
from saccade.metrics.checks import Predict, check_finite, image_classes, pixel_ranks, scores_of

_OWNER = "evaluate_road"
# Weights of the neighbors in the mean that replaces a pixel, by their offset.
_NEIGHBORS = {
    (dy, dx): 1 / 6 if dy == 0 or dx == 0 else 1 / 12
    for dy in (-1, 0, 1)
    for dx in (-1, 0, 1)
    if (dy, dx) != (0, 0)
}


@dataclass(frozen=True, eq=False)
class Road:
    """Scores of a model after a share of the pixels was removed and imputed from their neighbors.

    Attributes:
        shares: `(P,)`, the removed share of the pixels.
        most_relevant_first: `(B, P)`, scores after the hottest pixels were removed. Low is good.
        least_relevant_first: `(B, P)`, scores after the coldest pixels were removed. High is good.
    """

    shares: Tensor
    most_relevant_first: Tensor
    least_relevant_first: Tensor

    @property
    def score(self) -> Tensor:
        """Half the mean difference of the two, `(B,)` in [-1, 1] for probabilities; 0 is chance."""
        return (self.least_relevant_first - self.most_relevant_first).mean(1) / 2

    def mean(self) -> dict[str, Any]:
        """Return the means over the images as plain numbers for a result file."""
        return {
            "shares": self.shares.tolist(),
            "most_relevant_first": self.most_relevant_first.mean(0).tolist(),
            "least_relevant_first": self.least_relevant_first.mean(0).tolist(),
            "score": self.score.mean().item(),
        }


def evaluate_road(
    predict: Predict,
    images: Tensor,
    heatmap: Tensor,
    *,
    target: Tensor | None = None,
    shares: Sequence[float] = (0.2, 0.4, 0.6, 0.8),
    noise: float = 0.01,
    batch_size: int = 32,
    seed: int = 0,
) -> Road:
    """Evaluate a model after the hottest, and after the coldest, pixels of a heat map were removed.

    Removed pixels become the weighted mean of their eight neighbors, which may be removed as well: the values
    solve one sparse system of linear equations. A blank pixel would tell the model the shape of the mask; an
    imputed one hardly does.

        x_p = sum_q w_pq x_q / sum_q w_pq + e_p        w = 1/6, diagonally 1/12

    References:
        Rong, Leemann, Borisov, Kasneci, Kasneci: A Consistent and Efficient Evaluation Strategy for
        Attribution Methods, ICML 2022 (section 4.3).

    Args:
        predict: Maps images to scores `(B, classes)`, such as probabilities. It is called without gradients.
        images: Images.
        heatmap: Heat maps. Only their order matters.
        target: Class of each image. Default: the class that the model predicts.
        shares: Shares of the pixels to remove.
        noise: Standard deviation of the noise e on imputed pixels.
        batch_size: Maximum number of images per call of `predict`.
        seed: Seed of the noise, and of the order of pixels of equal heat.

    Returns:
        The scores for each share.

    Raises:
        BadShape: If a shape is wrong, including that of the scores.
        BadOption: If a share is not between 0 and 1, a class does not exist, or the heat is not finite.

    Shape:
        - images: `(B, C, H, W)`
        - heatmap: `(B, H, W)`
        - target: `(B,)`

    Example:
        >>> import torch
        >>> truth = torch.zeros(1, 8, 8)
        >>> truth[:, 2:4, 2:4] = 1
        >>> def brightness(images):
        ...     return (images * truth[:, None]).sum((1, 2, 3), keepdim=True)[:, :, 0, 0] / 4
        >>> evaluate_road(brightness, truth[:, None], truth, shares=[0.1]).score.item() > 0
        True
    """
    check_arguments(evaluate_road, locals())
    check_shape(f"{_OWNER}: images", images, "B C H W")
    batch, _, height, width = images.shape
    check_shape(f"{_OWNER}: heatmap", heatmap, "B H W", B=batch, H=height, W=width)
    check_finite(_OWNER, heatmap)
    if not shares or not all(0 < share < 1 for share in shares):
        raise bad_option(_OWNER, "must hold numbers between 0 and 1", shares=[*shares])
    images = images.detach() if images.is_floating_point() else images.float()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(height * width, generator=generator).to(images.device)
    with torch.no_grad():
        target = image_classes(_OWNER, target, predict, images, batch_size)
        heat = heatmap.detach().double().to(images.device)
        ranks = {sign: pixel_ranks(sign * heat, order) for sign in (1, -1)}
        results: dict[int, list[Tensor]] = {1: [], -1: []}
        for share in shares:
            for sign, rank in ranks.items():
                masks = rank < round(share * height * width)
                imputed = torch.stack([_impute(x, mask) for x, mask in zip(images, masks, strict=True)])
                noisy = imputed + noise * torch.randn(imputed.shape, generator=generator).to(imputed)
                removed = torch.where(masks[:, None], noisy, images)
                scores = torch.cat([scores_of(_OWNER, predict, part) for part in removed.split(batch_size)])
                if (highest := int(target.max())) >= scores.shape[1]:
                    raise bad_option(_OWNER, f"is not among the {scores.shape[1]} classes", target=highest)
                results[sign].append(scores.gather(1, target[:, None])[:, 0].double())
    return Road(torch.tensor(shares), torch.stack(results[1], 1), torch.stack(results[-1], 1))


def _impute(image: Tensor, mask: Tensor) -> Tensor:
    """Return an image (C, H, W) whose masked pixels are the weighted means of their neighbors."""
    import numpy as np
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import spsolve

    values = image.double().cpu().numpy().copy()
    is_removed = mask.cpu().numpy()
    y, x = np.nonzero(is_removed)
    number = np.full(is_removed.shape, -1)
    number[y, x] = np.arange(len(y))
    known = np.zeros((len(y), len(values)))
    total, entries = np.zeros(len(y)), []
    for (dy, dx), weight in _NEIGHBORS.items():
        ny, nx = y + dy, x + dx
        inside = np.nonzero((ny >= 0) & (ny < is_removed.shape[0]) & (nx >= 0) & (nx < is_removed.shape[1]))[
            0
        ]
        total[inside] += weight
        neighbor = number[ny[inside], nx[inside]]
        entries.append((inside[neighbor >= 0], neighbor[neighbor >= 0], weight))
        fixed = inside[neighbor < 0]
        known[fixed] += weight * values[:, ny[fixed], nx[fixed]].T
    rows, columns = (np.concatenate([entry[i] for entry in entries]) for i in (0, 1))
    weights = np.concatenate([np.full(len(row), weight) for row, _, weight in entries])
    diagonal = np.arange(len(y))
    matrix = coo_matrix(
        (
            np.concatenate([total, -weights]),
            (np.concatenate([diagonal, rows]), np.concatenate([diagonal, columns])),
        ),
        shape=(len(y), len(y)),
    )
    solved = spsolve(matrix.tocsc(), known).reshape(known.shape)
    values[:, y, x] = solved.T
    return torch.from_numpy(values).to(image)
