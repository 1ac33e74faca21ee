"""Maps of coordinates: the density of samples, and the footprints of fixations."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

import saccade as sc


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_density_is_what_bilinear_sampling_reads(align_corners: bool) -> None:
    """The derivative of the sum of all samples: how much each pixel counts in the output."""
    torch.manual_seed(0)
    grid = 0.9 * torch.randn(3, 5, 4, 2)  # some of it outside
    image = torch.zeros(3, 1, 6, 9, requires_grad=True)
    sampled = F.grid_sample(image, grid, align_corners=align_corners)
    (expected,) = torch.autograd.grad(sampled.sum(), image)
    density = sc.GridMap(grid, (6, 9), align_corners).saliency()
    torch.testing.assert_close(density, expected[:, 0])


def test_an_identity_grid_prefers_no_place() -> None:
    grid = F.affine_grid(torch.eye(2, 3)[None], [1, 1, 6, 8], align_corners=False)
    density = sc.GridMap(grid, (6, 8))
    torch.testing.assert_close(density.saliency(), torch.ones(1, 6, 8))


def test_points_that_are_no_numbers_are_nowhere() -> None:
    grid = torch.full((2, 3, 3, 2), float("nan"))
    grid[1] = 0.1
    density = sc.GridMap(grid, (4, 4)).saliency()
    assert not density[0].any()
    assert round(density[1].sum().item(), 4) == 9


def test_footprints_count_how_often_a_pixel_was_seen() -> None:
    torch.manual_seed(0)
    locations = torch.rand(2, 5, 2) * 2 - 1
    counts = sc.FixationMap(locations, ((3 / 8, 3 / 12), (6 / 8, 6 / 12)), size=(8, 12)).saliency()
    expected = torch.zeros(2, 8, 12)
    for b, step, side in itertools.product(range(2), range(5), (3, 6)):
        x, y = ((locations[b, step] + 1) / 2 * torch.tensor([12, 8])).tolist()
        for i, j in itertools.product(range(8), range(12)):
            high = max(0.0, min(i + 1, y + side / 2) - max(i, y - side / 2))
            wide = max(0.0, min(j + 1, x + side / 2) - max(j, x - side / 2))
            expected[b, i, j] += high * wide
    torch.testing.assert_close(counts, expected)


def test_a_fixation_is_drawn_at_any_size() -> None:
    places = sc.FixationMap(torch.tensor([[[0.5, -0.5]]]), ((0.25, 0.25),))
    heat = places.heatmap((20, 40))
    assert heat.shape == (1, 20, 40)
    peak = int(heat.flatten().argmax())
    assert 2 <= peak // 40 <= 7
    assert 25 <= peak % 40 <= 34
