"""axial equals the formula of the authors' code, written with all terms, batch statistics included."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal
from support.plain import BatchNorms

C, HEADS = 12, 3
D = C // HEADS


def line(norm: BatchNorms, p: Parameters, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """The result for lines (B, C, L) and the weights (B, heads, L, L), pair by pair."""
    length = x.shape[2]
    qkv = norm(p, f"{name}.norm_qkv", torch.einsum("oc,bcl->bol", p[f"{name}.qkv.weight"][..., 0], x))
    qkv = qkv.reshape(len(x), HEADS, 2 * D, length)
    q, k, v = qkv[:, :, : D // 2], qkv[:, :, D // 2 : D], qkv[:, :, D:]
    table = p[f"{name}.relative"]
    at = [[table[:, i - j + length - 1] for j in range(length)] for i in range(length)]

    def matrix(entry: Any) -> Tensor:
        return torch.stack([torch.stack([entry(i, j) for j in range(length)], 2) for i in range(length)], 2)

    terms = [
        matrix(lambda i, j: (q[..., i] * k[..., j]).sum(2)),
        matrix(lambda i, j: (q[..., i] * at[i][j][: D // 2]).sum(2)),
        matrix(lambda i, j: (k[..., j] * at[j][i][D // 2 : D]).sum(2)),
    ]
    normed = norm(p, f"{name}.norm_logits", torch.cat(terms, 1))
    exponents = normed.unflatten(1, (3, HEADS)).sum(1).exp()
    weights = exponents / exponents.sum(3, keepdim=True)
    values = torch.einsum("bhij,bhcj->bhci", weights, v)
    places = torch.stack([torch.stack([at[i][j][D:] for j in range(length)], 1) for i in range(length)], 1)
    positions = torch.einsum("bhij,cij->bhci", weights, places)
    both = torch.stack([values, positions], 3).reshape(len(x), 2 * C, length)
    return norm(p, f"{name}.norm_output", both).reshape(len(x), C, 2, length).sum(2), weights


def plain(norm: BatchNorms, p: Parameters, x: Tensor) -> Tensor:
    height, width = x.shape[2:]
    columns = torch.cat([x[..., j] for j in range(width)])  # lines of the first column first
    y = torch.stack(line(norm, p, "column", columns)[0].chunk(width), 3)
    rows = torch.cat([y[:, :, i] for i in range(height)])
    return torch.stack(line(norm, p, "row", rows)[0].chunk(height), 2)


@pytest.mark.usefixtures("either_form")
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shape", [(2, C, 5, 4), (1, C, 3, 6), (2, C, 4, 4)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...], training: bool) -> None:
    module = build("axial", C, size=shape[2:], heads=HEADS)
    module(normal(3, *shape[1:], seed=1))
    norm = BatchNorms(module.train(training))
    vanishing = [f"{name}.norm_logits.bias" for name in ("column", "row")]
    assert_parity(module, lambda p, x: plain(norm, p, x), normal(*shape), vanishing=vanishing)
    if training:
        norm.assert_running()


def test_one_position_is_its_own_line() -> None:
    module = build("axial", C, size=1, heads=HEADS).eval()
    x, norm = normal(2, C, 1, 1), BatchNorms(module)
    assert_close("the output", module(x), plain(norm, dict(module.named_parameters()), x))


def test_columns_come_before_rows() -> None:
    """After a change of one pixel, its column changes at every place, and each row from there."""
    module, x = build("axial", C, size=(5, 4), heads=HEADS).eval(), normal(1, C, 5, 4)
    column = module.get_submodule("column")
    (gradient,) = torch.autograd.grad(column(x.requires_grad_())[0, :, 2, 1].sum(), x)
    reached = gradient[0].abs().sum(0) > 0
    assert reached.nonzero().tolist() == [[i, 1] for i in range(5)]


def test_parameters_and_buffers_are_those_of_the_authors_in_their_order() -> None:
    module = sc.create("axial", 32, size=(6, 4))
    norms = {"norm_qkv": 64, "norm_logits": 24, "norm_output": 64}
    shapes = [(name, tuple(p.shape)) for name, p in module.named_parameters()]
    assert shapes == [
        entry
        for name, length in (("column", 6), ("row", 4))
        for entry in (
            (f"{name}.relative", (8, 2 * length - 1)),
            (f"{name}.qkv.weight", (64, 32, 1)),
            *((f"{name}.{n}.{kind}", (w,)) for n, w in norms.items() for kind in ("weight", "bias")),
        )
    ]
    assert module.get_buffer("column.relative_index").shape == (36,)


def test_weights_of_all_lines_are_held_at_no_time() -> None:
    x = torch.randn(1, 16, 128, 128)
    assert largest_tensor(sc.create("axial", 16, size=128, heads=4), x) == 1 << 21 < 128**3 * 4


@pytest.mark.usefixtures("without_all_weights")
def test_lines_in_chunks_equal_all_lines_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = build("axial", C, size=(5, 4), heads=HEADS), normal(2, C, 5, 4)
    monkeypatch.setattr("saccade.layers.pairwise.axial._WEIGHTS", 3 * HEADS * 5**2)
    norm = BatchNorms(module)
    vanishing = [f"{name}.norm_logits.bias" for name in ("column", "row")]
    assert_parity(module, lambda p, x: plain(norm, p, x), x, vanishing=vanishing)


def test_recorded_maps_are_the_weights_received() -> None:
    module, x = build("axial", C, size=(5, 4), heads=HEADS).eval(), normal(2, C, 5, 4)
    with sc.record(module) as maps:
        module(x)
    column, row = maps.values()
    assert isinstance(column, sc.SpatialMap)
    assert isinstance(row, sc.SpatialMap)
    norm, p = BatchNorms(module), dict(module.named_parameters())
    for j in range(4):
        expected = line(norm, p, "column", x[..., j])[1].mean((1, 2)).detach()
        assert_close("column", column.weights[..., j], expected)
    y = module.get_submodule("column")(x)
    for i in range(5):
        assert_close("row", row.weights[:, i], line(norm, p, "row", y[:, :, i])[1].mean((1, 2)).detach())


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"heads": 4}, "channels"),
        ({"heads": 0}, "heads"),
        ({"size": 0}, "size"),
        ({"size": (4, 4, 4)}, "size"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options: dict[str, Any], option: str) -> None:
    with raises(sc.BadOption, owner="axial", option=option, value=options.get(option, C)):
        sc.create("axial", C, **{"heads": HEADS, **options})


@pytest.mark.parametrize("shape", [(2, C + 1, 4, 4), (2, C, 4, 5), (2, C, 9), (0, C, 4, 4)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="axial", option="shape", value=shape):
        sc.create("axial", C, size=4, heads=HEADS)(torch.zeros(shape))


def test_a_single_position_cannot_be_normalized() -> None:
    with raises(sc.BadShape, owner="axial", option="shape", value=(1, C, 1, 1)):
        sc.create("axial", C, size=1, heads=HEADS)(torch.zeros(1, C, 1, 1))
