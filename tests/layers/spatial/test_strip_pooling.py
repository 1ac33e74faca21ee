"""strip_pooling equals its formula with batch and running statistics."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, normal
from support.plain import BatchNorms, pointwise, relu, sigmoid

C = 6


def strip(norm: BatchNorms, p: Parameters, name: str, means: Tensor) -> Tensor:
    """The convolution of the means of one axis, (B, C, length), tap by tap, and its batch norm."""
    kernel, length = p[f"{name}.0.weight"].flatten(2), means.shape[2]
    padded = F.pad(means, [1, 1])
    taps = [torch.einsum("oc,bcl->bol", kernel[..., i], padded[:, :, i : i + length]) for i in range(3)]
    return norm(p, f"{name}.1", torch.stack(taps).sum(0))


def gate(norm: BatchNorms, p: Parameters, x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    rows = strip(norm, p, "rows", x.sum(3) / width)
    columns = strip(norm, p, "columns", x.sum(2) / height)
    return sigmoid(pointwise(p, "mix", relu(rows[..., :, None] + columns[..., None, :])))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    "shape", [(2, C, 8, 8), (1, C, 7, 5), (3, C, 1, 4), (2, C, 9, 2), (2, C, 1, 1)], ids=str
)
def test_equals_the_formula(shape: tuple[int, ...], training: bool) -> None:
    module, x = build("strip_pooling", C), normal(*shape)
    module(normal(4, C, 6, 6, seed=1))  # so that the running statistics are not those of the start
    norm = BatchNorms(module.train(training))
    assert_parity(module, lambda p, x: x * gate(norm, p, x), x)
    if training:
        norm.assert_running()


def test_one_position_in_eval_mode_equals_the_formula() -> None:
    module = build("strip_pooling", C).eval()
    norm = BatchNorms(module)
    assert_parity(module, lambda p, x: x * gate(norm, p, x), normal(1, C, 1, 1))


def test_rows_and_columns_have_their_own_layers() -> None:
    """A transposed map gives the transposed result only if the layers of both axes are exchanged."""
    module, x = build("strip_pooling", C).eval(), normal(2, C, 5, 7)
    assert (module(x.mT).mT - module(x)).abs().max() > 0.01
    exchanged = build("strip_pooling", C).eval()
    state = module.state_dict()
    swapped = {
        name.replace("rows", "other").replace("columns", "rows").replace("other", "columns"): value.mT
        if value.ndim == 4
        else value
        for name, value in state.items()
    }
    exchanged.load_state_dict(swapped)
    assert_close("transposed", exchanged(x.mT).mT, module(x))


def test_parameters_and_buffers_are_those_of_the_authors_in_their_order() -> None:
    state = sc.create("strip_pooling", C).state_dict()
    norm = [(C,), (C,), (C,), (C,), ()]
    assert [tuple(value.shape) for value in state.values()] == [
        (C, C, 3, 1), *norm, (C, C, 1, 3), *norm, (C, C, 1, 1), (C,)
    ]  # fmt: skip


def test_convolutions_have_the_authors_initialization() -> None:
    torch.manual_seed(0)
    state = sc.create("strip_pooling", 128).state_dict()
    for name, area in (("rows.0", 3), ("columns.0", 3), ("mix", 1)):
        expected = (2 / (area * 128)) ** 0.5
        assert state[f"{name}.weight"].std().item() == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("kernel_size", [4, 0])
def test_bad_options_are_refused(kernel_size: int) -> None:
    with raises(sc.BadOption, owner="strip_pooling", option="kernel_size", value=kernel_size):
        sc.create("strip_pooling", C, kernel_size=kernel_size)


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C, 9), (2, C, 3, 4, 5), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="strip_pooling", option="shape", value=shape):
        sc.create("strip_pooling", C)(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(1, C, 1, 4), (1, C, 4, 1)], ids=str)
def test_strips_without_batch_statistics_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="strip_pooling", option="shape", value=shape):
        sc.create("strip_pooling", C)(torch.zeros(shape))


def test_the_recorded_map_is_the_mean_of_the_gate_over_channels() -> None:
    module, x = build("strip_pooling", C).eval(), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.SpatialMap)
    expected = gate(BatchNorms(module), dict(module.named_parameters()), x).mean(1)
    assert_close("weights", recorded.weights, expected.detach())
