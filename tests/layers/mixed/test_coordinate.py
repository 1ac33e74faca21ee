"""coordinate equals timm's CoordAttn and its formula, batch statistics and running buffers included."""

from __future__ import annotations

import pytest
import torch
from timm.layers.coord_attn import CoordAttn
from torch import Tensor
from torch.func import functional_call

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import BatchNorms, pointwise, relu, sigmoid

C = 12


def gates(norm: BatchNorms, p: Parameters, x: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, H) and (B, C, W), the rows and columns of the strip one by one."""
    height, width = x.shape[2:]
    rows = [x[:, :, i].sum(2) / width for i in range(height)]
    columns = [x[..., j].sum(2) / height for j in range(width)]
    z = norm(p, "norm", pointwise(p, "reduce", torch.stack([*rows, *columns], 2)))
    z = z * torch.minimum(relu(z + 3), torch.full_like(z, 6)) / 6
    return sigmoid(pointwise(p, "rows", z[..., :height])), sigmoid(pointwise(p, "columns", z[..., height:]))


def plain(norm: BatchNorms, p: Parameters, x: Tensor) -> Tensor:
    return torch.einsum("bchw,bch,bcw->bchw", x, *gates(norm, p, x))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shape", [(3, C, 7, 5), (2, C, 4, 4), (1, C, 1, 6), (1, C, 1, 1)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...], training: bool) -> None:
    module, x = build("coordinate", C), normal(*shape)
    module(normal(4, C, 6, 6, seed=1))  # so that the running statistics are not those of the start
    norm = BatchNorms(module.train(training))
    if shape[2:] == (1, 1):  # both means are equal, and batch norm would divide 0 by 0 variance
        norm = BatchNorms(module.eval())
    vanishing = ["reduce.bias"] if module.training else []
    assert_parity(module, lambda p, x: plain(norm, p, x), x, vanishing=vanishing)
    if module.training:
        norm.assert_running()
    else:
        assert all(torch.equal(norm.buffers[name], now) for name, now in module.named_buffers())


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_equals_timm(training: bool) -> None:
    theirs = CoordAttn(C, rd_channels=8, bias=True).double().train(training)
    names = {"conv1": "reduce", "bn1": "norm", "conv_h": "rows", "conv_w": "columns"}

    def reference(parameters: Parameters, x: Tensor) -> Tensor:
        mapped = {
            name: parameters[f"{names[name.split('.')[0]]}.{name.split('.')[1]}"]
            for name, _ in theirs.named_parameters()
        }
        result: Tensor = functional_call(theirs, mapped, (x,))
        return result

    module = build("coordinate", C).train(training)
    assert_parity(module, reference, normal(3, C, 7, 5), vanishing=["reduce.bias"] if training else ())


@pytest.mark.parametrize(("channels", "reduction", "hidden"), [(64, 32, 8), (512, 32, 16), (64, 4, 16)])
def test_layers_are_those_of_the_authors(channels: int, reduction: int, hidden: int) -> None:
    shapes = [tuple(p.shape) for p in sc.create("coordinate", channels, reduction=reduction).parameters()]
    gate = [(channels, hidden, 1, 1), (channels,)]
    assert shapes == [(hidden, channels, 1, 1), (hidden,), (hidden,), (hidden,), *gate, *gate]


def test_both_gates_are_sigmoids() -> None:
    """A popular copy multiplies by the logits. With logits of 0 each gate is a half, not 0."""
    module, x = build("coordinate", C), normal(2, C, 7, 5)
    with torch.no_grad():
        for name in ("rows", "columns"):
            for parameter in module.get_submodule(name).parameters():
                parameter.zero_()
    assert_close("a quarter", module(x), x / 4)


def test_rows_and_columns_keep_their_places() -> None:
    """A permutation of rows and columns permutes the result: no reshape mixes the axes."""
    module, x = build("coordinate", C).eval(), normal(2, C, 5, 7)
    rows, columns = torch.tensor([3, 0, 4, 1, 2]), torch.tensor([6, 2, 0, 1, 5, 3, 4])
    assert_close("permuted", module(x[:, :, rows][..., columns]), module(x)[:, :, rows][..., columns])


def test_the_gate_of_a_row_sees_this_row_alone() -> None:
    module, x = build("coordinate", C).eval(), normal(1, C, 5, 7)
    other = x.clone()
    other[:, :, 3] += 1
    other[:, :, 3, ::2] -= 7 / 4  # so that the mean of row 3 is unchanged, and those of the columns are not
    parameters = dict(module.named_parameters())
    before, after = (gates(BatchNorms(module), parameters, z) for z in (x, other))
    assert_close("rows", after[0], before[0])
    ratio = (module(other) / other)[:, :, 0] / (module(x) / x)[:, :, 0]
    assert_close("columns", ratio, after[1] / before[1])


def test_the_recorded_map_is_the_product_averaged_over_channels() -> None:
    module, x = build("coordinate", C).eval(), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        y = module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.SpatialMap)
    assert_close("weights", recorded.weights, (y / x).mean(1).detach())


def test_no_tensor_is_larger_than_the_map() -> None:
    x = torch.randn(2, 32, 24, 20)
    assert largest_tensor(sc.create("coordinate", 32), x) == x.numel()


@pytest.mark.parametrize(
    ("option", "value"), [("reduction", 0), ("reduction", -1), ("reduction", 2.5), ("hidden", 0)]
)
def test_bad_options_are_refused(option: str, value: float) -> None:
    with raises(sc.BadOption, owner="coordinate", option=option, value=value):
        sc.create("coordinate", C, **{option: value})


def test_the_map_of_the_simple_variant_is_the_mean_of_its_gate() -> None:
    module, x = build("coordinate", C, variant="simple"), normal(2, C, 7, 5)
    with sc.record(module) as maps:
        y = module(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.SpatialMap)
    assert_close("weights", recorded.weights, (y / x).mean(1).detach())


@pytest.mark.parametrize("shape", [(2, 33, 4, 4), (2, 32, 10), (2, 32, 3, 4, 4), (0, 32, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="coordinate", option="shape", value=shape):
        sc.create("coordinate", 32)(torch.zeros(shape))


def test_one_position_can_be_trained() -> None:
    assert sc.create("coordinate", C)(torch.randn(1, C, 1, 1)).isfinite().all()
