"""window equals its formula, written as loops over windows and positions, and torchvision's attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torchvision.models.swin_transformer import ShiftedWindowAttention

import saccade as sc
from saccade.maps import WindowMap
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import pointwise

C, HEADS = 12, 3


def plain_weights(p: Parameters, x: Tensor, size: int, shift: int) -> Tensor:
    """(B, heads, H, W, H, W), pair by pair: who shares a window, and which region of it."""
    height, width = x.shape[2:]
    if min(height, width) <= size:
        shift = 0
    rows, columns = (-(-extent // size) * size for extent in (height, width))
    q, k, _ = pointwise(p, "qkv", x).unflatten(1, (3, HEADS, -1)).unbind(1)

    def window(i: int, extent: int) -> tuple[int, int]:
        """The window of a row or column, and whether the shift wrapped it around."""
        return (i - shift) % extent // size, int(i < shift)

    places = [(i, j) for i in range(height) for j in range(width)]
    result = torch.zeros(len(x), HEADS, height, width, height, width, dtype=x.dtype)
    totals = torch.zeros(len(x), HEADS, height, width, dtype=x.dtype)
    for y, z in places:
        at = window(y, rows), window(z, columns)
        for i, j in places:
            other = window(i, rows), window(j, columns)
            if any(a[0] != b[0] for a, b in zip(at, other, strict=True)):
                continue
            logit = (q[..., y, z] * k[..., i, j]).sum(2) / (C / HEADS) ** 0.5
            if "relative_position_bias_table" in p:
                offset = (y - i + size - 1) * (2 * size - 1) + z - j + size - 1
                offset = offset if at == other else 0  # the table has no entry; the mask is all that matters
                logit = logit + p["relative_position_bias_table"][offset]
            if at != other:
                logit = logit - 100
            result[:, :, y, z, i, j] = logit.exp()
            totals[:, :, y, z] = totals[:, :, y, z] + logit.exp()
    return result / totals[..., None, None]


def plain(p: Parameters, x: Tensor, size: int = 7, shift: int = 0) -> Tensor:
    values = pointwise(p, "qkv", x).unflatten(1, (3, HEADS, -1))[:, 2]
    mixed = torch.einsum("bhyzij,bhdij->bhdyz", plain_weights(p, x, size, shift), values)
    return pointwise(p, "proj", mixed.flatten(1, 2))


@pytest.mark.usefixtures("either_form")
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, C, 4, 6), {"size": 2}),
        ((2, C, 4, 6), {"size": 2, "shift": 1}),
        ((1, C, 7, 5), {"size": 3, "shift": 1}),
        ((2, C, 7, 4), {"size": 3, "shift": 2}),
        ((2, C, 5, 4), {"size": 3}),
        ((1, C, 5, 7), {}),
        ((2, C, 3, 5), {"size": 4, "shift": 2}),
        ((2, C, 1, 1), {"size": 2, "shift": 1}),
        ((2, C, 3, 2), {"size": 1}),
        ((2, C, 5, 4), {"size": 2, "shift": 1, "bias": False, "qkv_bias": False}),
    ],
    ids=str,
)
def test_equals_the_formula(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    module = build("window", C, heads=HEADS, **options)
    size, shift = options.get("size", 7), options.get("shift", 0)
    assert_parity(module, lambda p, x: plain(p, x, size, shift), normal(*shape))


@pytest.mark.usefixtures("either_form")
@pytest.mark.parametrize("shift", [0, 1, 2])
def test_equals_torchvision(shift: int) -> None:
    """torchvision does not mask padding; its names of the parameters are ours."""
    theirs = ShiftedWindowAttention(C, [4, 4], [shift, shift], HEADS).double()

    def reference(p: Parameters, x: Tensor) -> Tensor:
        result: Tensor = functional_call(theirs, dict(p), (x.permute(0, 2, 3, 1),))
        return result.permute(0, 3, 1, 2)

    assert_parity(build("window", C, size=4, heads=HEADS, shift=shift), reference, normal(2, C, 8, 12))


def test_padding_has_no_weight() -> None:
    """torchvision gives padding the key of a zero. Here the weights of all positions sum to 1."""
    (recorded,) = recorded_maps(build("window", C, size=4, heads=HEADS), normal(1, C, 6, 5))
    assert_close("sums", recorded.weights().sum(3), torch.ones(1, HEADS, 30, dtype=torch.float64))


def recorded_maps(module: torch.nn.Module, x: Tensor) -> list[WindowMap]:
    with sc.record(module) as maps:
        module(x)
    recorded = list(maps.values())
    assert all(isinstance(one, WindowMap) for one in recorded)
    return recorded  # type: ignore[return-value]


@pytest.mark.parametrize("shape", [(2, C, 8, 4), (2, C, 7, 5)], ids=str)
@pytest.mark.parametrize("options", [{}, {"shift": 1}, {"bias": False}], ids=str)
def test_recorded_weights_equal_the_formula(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    module, x = build("window", C, size=3, heads=HEADS, **options), normal(*shape)
    (recorded,) = recorded_maps(module, x)
    weights = plain_weights(dict(module.named_parameters()), x, 3, options.get("shift", 0)).detach()
    assert_close("weights", recorded.weights(), weights.flatten(4).flatten(2, 3))
    assert_close("received", recorded.attention_received(), weights.mean((1, 2, 3)))


def test_a_small_map_is_not_shifted() -> None:
    x = normal(2, C, 4, 9)
    shifted, plain_module = (build("window", C, size=4, heads=HEADS, shift=shift) for shift in (2, 0))
    assert_close("the output", shifted(x), plain_module(x))


def test_parameters_and_buffers_are_those_of_the_authors_in_their_order() -> None:
    torch.manual_seed(0)
    module = sc.create("window", 96, size=3, heads=4)
    shapes = [(name, tuple(value.shape)) for name, value in module.state_dict().items()]
    assert shapes == [
        ("relative_position_bias_table", (25, 4)),
        ("relative_position_index", (9, 9)),
        ("qkv.weight", (288, 96)),
        ("qkv.bias", (288,)),
        ("proj.weight", (96, 96)),
        ("proj.bias", (96,)),
    ]
    theirs = ShiftedWindowAttention(96, [3, 3], [0, 0], 4)
    assert module.get_buffer("relative_position_index").flatten().tolist() == (
        theirs.relative_position_index.tolist()
    )
    assert module.get_parameter("qkv.weight").std().item() == pytest.approx(0.02, rel=0.05)


def test_no_tensor_holds_all_pairs() -> None:
    """Rows of the largest tensor: 49 weights for each position and head."""
    x = torch.randn(1, 16, 84, 84)
    assert largest_tensor(sc.create("window", 16, heads=2, shift=3), x) <= 84 * 84 * 49 * 2


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"heads": 5}, "channels"),
        ({"heads": 0}, "heads"),
        ({"size": 0}, "size"),
        ({"size": 3, "shift": 3}, "shift"),
        ({"shift": -1}, "shift"),
        ({"shift": 1.5}, "shift"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], option: str) -> None:
    with raises(sc.BadOption, owner="window", option=option, value=options.get(option, C)):
        sc.create("window", C, **{"heads": HEADS, **options})


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C, 9), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="window", option="shape", value=shape):
        sc.create("window", C, heads=HEADS)(torch.zeros(shape))
