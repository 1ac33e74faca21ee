"""bat equals timm's BatNonLocalAttn weight for weight, and the formula written block by block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers.non_local_attn import BatNonLocalAttn
from torch import Tensor
from torch.func import functional_call

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import BatchNorms, pointwise, relu, sigmoid

C = 16
BASE: dict[str, Any] = {"block_size": 2, "drop_rate": 0.0}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"block_size": 3, "groups": 4},
    {"block_size": 1, "rd_channels": 6},
    {"rd_ratio": 0.5, "rd_divisor": 2, "groups": 1},
]


def layer(norm: BatchNorms, p: Parameters, name: str, x: Tensor) -> Tensor:
    return relu(norm(p, f"{name}.bn", pointwise(p, f"{name}.conv", x)))


def factors(norm: BatchNorms, p: Parameters, z: Tensor, s: int, groups: int) -> tuple[Tensor, Tensor]:
    maps = layer(norm, p, "ba.conv1", z)
    rows = torch.stack([part.amax((2, 3)) for part in maps.chunk(s, 2)], 2)  # (B, groups, s)
    columns = torch.stack([part.amax((2, 3)) for part in maps.chunk(s, 3)], 2)
    found = []
    for name, pooled in (("ba.conv_p", rows), ("ba.conv_q", columns)):
        weight = p[f"{name}.weight"].flatten(2)
        logits = torch.einsum("ogs,bgs->bo", weight, pooled) + p[f"{name}.bias"]
        found.append(sigmoid(logits).reshape(-1, groups, s, s))
    return found[0] / found[0].sum(3, keepdim=True), found[1] / found[1].sum(2, keepdim=True)


def plain(norm: BatchNorms, p: Parameters, x: Tensor, s: int, groups: int) -> Tensor:
    z = layer(norm, p, "conv1", x)
    rows, columns = factors(norm, p, z, s, groups)
    parts = []
    for g, part in enumerate(z.chunk(groups, 1)):
        blocks = [band.chunk(s, 3) for band in part.chunk(s, 2)]
        lines = []
        for m in range(s):
            line = []
            for n in range(s):
                terms = [
                    (rows[:, g, m, i] * columns[:, g, j, n])[:, None, None, None] * blocks[i][j]
                    for i in range(s)
                    for j in range(s)
                ]
                line.append(torch.stack(terms).sum(0))
            lines.append(torch.cat(line, 3))
        parts.append(torch.cat(lines, 2))
    y = layer(norm, p, "ba.conv2", torch.cat(parts, 1))
    return x + layer(norm, p, "conv2", y)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("shape", [(2, C, 6, 12), (1, C, 6, 6)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...], options: dict[str, Any], training: bool) -> None:
    chosen = {**BASE, **options}
    module, x = build("bat", C, **chosen), normal(*shape)
    module(normal(4, C, 6, 6, seed=1))  # so that the running statistics are not those of the start
    norm = BatchNorms(module.train(training))
    switches = chosen["block_size"], chosen.get("groups", 2)
    assert_parity(module, lambda p, x: plain(norm, p, x, *switches), x)
    if training:
        norm.assert_running()


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_equals_timm(options: dict[str, Any], training: bool) -> None:
    chosen = {**BASE, **options}
    module = build("bat", C, **chosen).train(training)
    theirs = BatNonLocalAttn(C, **chosen).double().train(training)
    assert [*theirs.state_dict()] == [*module.state_dict()]

    def reference(parameters: Parameters, x: Tensor) -> Tensor:
        result: Tensor = functional_call(theirs, dict(parameters), (x,))
        return result

    assert_parity(module, reference, normal(2, C, 6, 12))


def test_defaults_are_those_of_timm() -> None:
    for channels in (64, 72, 256):
        module, theirs = sc.create("bat", channels), BatNonLocalAttn(channels)
        assert [p.shape for p in module.parameters()] == [p.shape for p in theirs.parameters()]
        assert module.get_submodule("dropout").p == theirs.dropout.p == 0.2


def test_dropout_drops_whole_channels_in_training() -> None:
    module, x = build("bat", C, block_size=2, drop_rate=0.5), normal(2, C, 6, 6)
    added = module(x) - x
    dropped = (added == 0).flatten(2).all(2)
    assert dropped.any()
    assert torch.equal(module.eval()(x), module(x))


def test_no_tensor_is_larger_than_the_map() -> None:
    x = torch.randn(2, 32, 28, 28)
    assert largest_tensor(sc.create("bat", 32), x) == x.numel()


def test_the_recorded_map_holds_the_weights_of_blocks() -> None:
    module, x = build("bat", C, **BASE).eval(), normal(2, C, 4, 6)
    with sc.record(module) as maps:
        module(x)
    recorded = maps["ba"]
    assert isinstance(recorded, sc.PairwiseMap)
    norm, p = BatchNorms(module), dict(module.named_parameters())
    rows, columns = factors(norm, p, layer(norm, p, "conv1", x), 2, 2)
    expected = torch.einsum("bgmi,bgjn->bgmnij", rows, columns).detach()
    assert_close("weights", recorded.weights(), expected.flatten(4).flatten(2, 3))


def test_a_single_position_cannot_train() -> None:
    module = sc.create("bat", C, block_size=1)
    with raises(sc.BadShape, owner="bat", option="shape", value=(1, C, 1, 1)):
        module(torch.randn(1, C, 1, 1))
    assert module.eval()(torch.randn(1, C, 1, 1)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "option", "value"),
    [
        ({"block_size": 0}, "block_size", 0),
        ({"groups": 0}, "groups", 0),
        ({"groups": 3}, "rd_channels", 8),
        ({"rd_channels": 0}, "rd_channels", 0),
        ({"rd_divisor": 0}, "rd_divisor", 0),
        ({"rd_ratio": 0.0}, "rd_ratio", 0.0),
        ({"drop_rate": 1.0}, "drop_rate", 1.0),
        ({"drop_rate": -0.1}, "drop_rate", -0.1),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], option: str, value: object) -> None:
    with raises(sc.BadOption, owner="bat", option=option, value=value):
        sc.create("bat", C, **options)


@pytest.mark.parametrize(
    "shape", [(2, C + 1, 7, 7), (2, C, 8, 7), (2, C, 7, 6), (2, C, 1, 1), (2, C, 49), (0, C, 7, 7)], ids=str
)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="bat", option="shape", value=shape):
        sc.create("bat", C)(torch.zeros(shape))
