"""deformable equals the authors' formula, written point by point with its own bilinear sampling."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import saccade as sc
from saccade.ops import recompute
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import conv3x3, pointwise

C, HEADS = 8, 4


def sample(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bilinear samples of (C, H, W) at points y, x in [-1, 1], with corners aligned; 0 outside."""
    height, width = image.shape[1:]
    rows, columns = (y + 1) / 2 * (height - 1), (x + 1) / 2 * (width - 1)
    total = torch.zeros(len(image), *y.shape, dtype=image.dtype)
    for i in range(height):
        for j in range(width):
            weight = (1 - (rows - i).abs()).clamp(min=0) * (1 - (columns - j).abs()).clamp(min=0)
            total = total + image[:, i, j].reshape(-1, *[1] * y.ndim) * weight
    return total


def points(p: Parameters, q: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """y and x of the sampled points of one group, (H, W) each."""
    height, width = q.shape[1:]
    z = conv3x3(p, "offset.0", q[None], groups=len(q))
    mean = z.mean(1, keepdim=True)
    z = (z - mean) / ((z - mean).square().mean(1, keepdim=True) + 1e-5).sqrt()
    z = z * p["offset.1.weight"][:, None, None] + p["offset.1.bias"][:, None, None]
    z = z * (1 + torch.erf(z / math.sqrt(2))) / 2
    o_y, o_x = pointwise(p, "offset.3", z)[0]
    if factor >= 0:
        o_y, o_x = factor * o_y.tanh() / (height - 1), factor * o_x.tanh() / (width - 1)
    centers = [2 * (torch.arange(n).double() + 0.5) / (n - 1) - 1 for n in (height, width)]
    y, x = o_y + centers[0][:, None], o_x + centers[1]
    return (y, x) if factor >= 0 else (y.clamp(-1, 1), x.clamp(-1, 1))


def plain(p: Parameters, images: Tensor, groups: int = 1, factor: float = 1.0) -> Tensor:
    height, width = images.shape[2:]
    places = [torch.linspace(-1, 1, n, dtype=torch.float64) for n in (height, width)]
    results = []
    for image in images:
        heads = []
        q = pointwise(p, "query", image[None])[0]
        where = [points(p, part, factor) for part in q.chunk(groups)]
        parts = zip(image.chunk(groups), where, strict=True)
        sampled = torch.cat([sample(part, *at) for part, at in parts])[None]
        k, v = (pointwise(p, name, sampled)[0] for name in ("key", "value"))
        for head in range(HEADS):
            own = slice(head * C // HEADS, (head + 1) * C // HEADS)
            y, x = where[head * groups // HEADS]
            rows = []
            for i in range(height):
                for j in range(width):
                    distance = (places[0][i] - y) / 2, (places[1][j] - x) / 2
                    bias = sample(p["table"][head][None], *distance)[0]
                    logits = (q[own, i, j, None, None] * k[own]).sum(0) / (C / HEADS) ** 0.5 + bias
                    weights = torch.exp(logits) / torch.exp(logits).sum()
                    rows.append((weights * v[own]).sum((1, 2)))
            heads.append(torch.stack(rows, 1))
        results.append(torch.cat(heads).reshape(image.shape))
    return pointwise(p, "proj", torch.stack(results))


@pytest.mark.parametrize("options", [{}, {"groups": 2}, {"offset_range_factor": -1}, {"groups": 4}], ids=str)
@pytest.mark.parametrize(("size", "shape"), [((4, 3), (2, C, 4, 3)), ((3, 5), (1, C, 4, 2))], ids=str)
def test_equals_the_formula(size: tuple[int, int], shape: tuple[int, ...], options: dict[str, Any]) -> None:
    module = build("deformable", C, size=size, heads=HEADS, **options)
    switches = options.get("groups", 1), options.get("offset_range_factor", 1.0)
    assert_parity(module, lambda p, x: plain(p, x, *switches), normal(*shape), vanishing=["key.bias"])


def test_chunks_give_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = build("deformable", C, size=(4, 3), heads=HEADS, groups=2), normal(2, C, 4, 3)
    monkeypatch.setattr(recompute, "_FEW", 0)
    monkeypatch.setattr(recompute, "CHUNK", 2 * HEADS * 12 * 5)  # five queries at a time
    assert_parity(module, lambda p, x: plain(p, x, 2), x, vanishing=["key.bias"])


def test_parameters_are_those_of_the_authors_in_their_order() -> None:
    shapes = [tuple(p.shape) for p in sc.create("deformable", 16, size=(5, 7), groups=2).parameters()]
    offset = [(8, 1, 3, 3), (8,), (8,), (8,), (2, 8, 1, 1)]
    assert shapes == [(8, 9, 13), *offset, *4 * [(16, 16, 1, 1), (16,)]]


def test_the_recorded_map_holds_the_sampled_points() -> None:
    module, x = build("deformable", C, size=(4, 3), heads=HEADS, groups=2), normal(2, C, 4, 3)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.GridMap)
    assert recorded.grid.shape == (2, 8, 3, 2)
    p = dict(module.named_parameters())
    for b, image in enumerate(x):
        for g, part in enumerate(pointwise(p, "query", image[None])[0].chunk(2)):
            y, columns = points(p, part, 1.0)
            expected = torch.stack([columns, y], -1).detach()
            assert_close("points", recorded.grid[b, 4 * g : 4 * g + 4], expected)


def test_points_are_sampled_as_grid_sample_does() -> None:
    """Without offsets, the samples are those of torch at the centers, which run past the last row."""
    module, x = build("deformable", C, size=4, heads=HEADS, offset_range_factor=0), normal(1, C, 4, 4)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.GridMap)
    assert recorded.grid.max() == 2 * 3.5 / 3 - 1
    expected = F.grid_sample(x, recorded.grid, align_corners=True)
    y, columns = recorded.grid[0].unbind(-1)[::-1]
    assert_close("samples", sample(x[0], y, columns), expected[0])


def test_no_tensor_holds_all_pairs() -> None:
    module, x = sc.create("deformable", 8, size=40), torch.randn(1, 8, 40, 36)
    assert largest_tensor(module, x) <= recompute.CHUNK < 8 * (40 * 36) ** 2


@pytest.mark.parametrize(
    ("options", "option", "value"),
    [
        ({}, "size", None),
        ({"size": (3, 4, 5)}, "size", (3, 4, 5)),
        ({"size": 0}, "size", 0),
        ({"size": 4, "heads": 3}, "channels", C),
        ({"size": 4, "heads": 4, "groups": 3}, "groups", 3),
        ({"size": 4, "offset_range_factor": -2}, "offset_range_factor", -2),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], option: str, value: object) -> None:
    with raises(sc.BadOption, owner="deformable", option=option, value=value):
        sc.create("deformable", C, **options)


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C, 9), (0, C, 4, 4), (2, C, 1, 5)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="deformable", option="shape", value=shape):
        sc.create("deformable", C, size=4)(torch.zeros(shape))
