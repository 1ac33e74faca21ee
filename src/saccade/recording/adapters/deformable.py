"""Deformable attention of detectors, which reads feature maps of several sizes at points that it predicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.maps import SpatialMap, sampling_density
from saccade.recording.adapters.gates import watch


def _received(block: Any, inputs: Mapping[str, Any], outputs: list[Tensor]) -> SpatialMap:
    """Return the attention that each position receives, the mean over queries and heads.

    A point gives its weight to the four positions that it reads, by the coefficients of bilinear sampling.
    The maps of all levels are summed on the grid of the largest.
    """
    offsets, logits = outputs
    sizes = [(int(height), int(width)) for height, width in _first(inputs, _SIZES)]
    points = offsets.unflatten(
        -1, (block.n_heads, len(sizes), -1, 2)
    )  # (B, queries, heads, levels, points, 2)
    weights = logits.unflatten(-1, (block.n_heads, -1)).softmax(-1).reshape(points.shape[:-1])
    reference = _first(inputs, _REFERENCES)[:, :, None, :, None]
    if reference.shape[-1] == 2:
        extents = torch.tensor(sizes, dtype=points.dtype, device=points.device).flip(-1)
        places = reference + points / extents[:, None]
    else:  # centers and sizes of boxes
        places = reference[..., :2] + points / points.shape[-2] * reference[..., 2:] * 0.5
    largest = max(sizes)
    total = points.new_zeros(len(points), *largest)
    for level, size in enumerate(sizes):
        density = sampling_density(
            (2 * places[:, :, :, level] - 1).flatten(1, 3), size, weights[:, :, :, level].flatten(1)
        )
        scale = size[0] * size[1] / (largest[0] * largest[1])
        total += scale * F.interpolate(density[:, None], largest, mode="bilinear")[:, 0]
    return SpatialMap(total / (points.shape[1] * block.n_heads))


def _first(inputs: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Return the first of some inputs that is given."""
    return next(inputs[name] for name in names if inputs.get(name) is not None)


_SIZES = ("value_shapes", "spatial_shapes_list", "spatial_shapes")
_REFERENCES = ("refer_bbox", "reference_points")

#: A block with linear layers that return the offsets of points and the logits of their weights.
observe_deformable = watch(_received, "sampling_offsets", "attention_weights")
