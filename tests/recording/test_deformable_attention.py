"""Deformable attention of detectors: how much of it each position receives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import saccade as sc
from saccade.recording.adapters.deformable import observe_deformable

SIZES, QUERIES, HEADS, POINTS = [(6, 8), (3, 4)], 5, 2, 3


class Deformable(nn.Module):
    """Reads two feature maps at predicted points; `values` are the maps side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.n_heads, self.n_points = HEADS, POINTS
        count = HEADS * len(SIZES) * POINTS
        self.sampling_offsets, self.attention_weights = nn.Linear(4, 2 * count), nn.Linear(4, count)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        values: Tensor,
        spatial_shapes_list: list[tuple[int, int]],
    ) -> Tensor:
        shape = len(query), QUERIES, HEADS, len(SIZES), POINTS
        offsets = self.sampling_offsets(query).view(*shape, 2)
        weights = self.attention_weights(query).view(*shape[:3], -1).softmax(-1).view(shape)
        total = query.new_zeros(len(query))
        start = 0
        for level, (height, width) in enumerate(spatial_shapes_list):
            value = values[:, start : start + height * width].reshape(-1, 1, height, width)
            start += height * width
            reference = reference_points[:, :, None, level, None]
            if reference.shape[-1] == 2:
                places = reference + offsets[:, :, :, level] / torch.tensor([width, height])
            else:
                places = reference[..., :2] + offsets[:, :, :, level] / POINTS * reference[..., 2:] / 2
            read = F.grid_sample(value, (2 * places - 1).flatten(1, 2), align_corners=False)
            total = total + (read[:, 0] * weights[:, :, :, level].flatten(1, 2)).sum((1, 2))
        return total


@pytest.mark.parametrize("coordinates", [2, 4])
def test_each_position_receives_what_the_output_takes_from_it(
    coordinates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model, query = Deformable(), torch.randn(2, QUERIES, 4)
    reference = torch.rand(2, QUERIES, len(SIZES), coordinates)
    values = torch.zeros(2, sum(h * w for h, w in SIZES), requires_grad=True)
    table = {f"{__name__}.Deformable": observe_deformable}
    monkeypatch.setattr("saccade.recording.adapters.registry.ADAPTERS", table)
    with sc.record(model) as maps:
        output = model(query, reference, values, SIZES)
    (gradient,) = torch.autograd.grad(output.sum(), values)  # what the output takes from each position
    large, small = gradient.split([h * w for h, w in SIZES], 1)
    expected = large.reshape(-1, *SIZES[0])
    expected = expected + F.interpolate(small.reshape(-1, 1, *SIZES[1]), SIZES[0], mode="bilinear")[:, 0] / 4
    attention = maps[""]
    assert isinstance(attention, sc.SpatialMap)
    torch.testing.assert_close(attention.weights, expected / (QUERIES * HEADS))
    assert attention.weights.sum() > 0
