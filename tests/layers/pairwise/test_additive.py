"""additive equals the alignment model of the paper (appendix A.1.2), written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import saccade as sc
from saccade.layers.pairwise import additive as file
from saccade.layers.pairwise.additive import additive
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, largest_tensor, normal

D = 16


def plain_weights(parameters: Parameters, query: Tensor, key: Tensor) -> Tensor:
    """(B, heads, Lq, Lk): e_ij = v_a^T tanh(W_a q_i + U_a k_j), then the softmax over j; pair by pair."""
    q, k = query @ parameters["query.weight"].T, key @ parameters["key.weight"].T
    rows = []
    for i in range(query.shape[1]):
        pairs = [torch.tanh(q[:, i] + k[:, j]) @ parameters["direction"] for j in range(key.shape[1])]
        rows.append(torch.stack(pairs, -1).exp())
    scores = torch.stack(rows, 2)
    return scores / scores.sum(-1, keepdim=True)


def plain(parameters: Parameters, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.einsum("bhqk,bkhd->bqhd", plain_weights(parameters, query, key), value)


@pytest.fixture(params=[1, 2 * 3 * 7 * D * 2, 10**9], ids=["1 query", "2 queries", "all"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many queries are taken at a time."""
    monkeypatch.setattr(file, "_CHUNK", request.param)


@pytest.mark.usefixtures("chunk")
def test_equals_the_formula() -> None:
    query, key, value = normal(2, 5, 3, D), normal(2, 7, 3, D, seed=1), normal(2, 7, 3, D, seed=2)
    module = build("additive", D)
    assert_parity(module, plain, query, key, value)
    assert_parity(module, lambda p, q, k: plain(p, q, k, k), query, key)
    assert_parity(module, lambda p, q: plain(p, q, q, q), query)


def test_second_derivatives_are_those_of_finite_differences() -> None:
    inputs = [normal(1, n, 1, 3, seed=n).requires_grad_() for n in (2, 3, 3)]
    direction = normal(3).requires_grad_()
    torch.autograd.gradgradcheck(additive, (*inputs, direction))


def test_the_parameters_are_those_of_the_paper_and_start_as_there() -> None:
    torch.manual_seed(0)
    module = sc.create("additive", 64)
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    assert shapes == {"direction": (64,), "query.weight": (64, 64), "key.weight": (64, 64)}
    assert not module.get_parameter("direction").any()
    for name in ("query.weight", "key.weight"):
        assert module.get_parameter(name).std().item() == pytest.approx(0.001, rel=0.05)
    value = normal(2, 7, 1, 64).float()
    torch.testing.assert_close(module(normal(2, 5, 1, 64).float(), value)[:, 0], value.mean(1))


def test_recorded_weights_equal_the_formula() -> None:
    query, key = normal(2, 5, 3, D), normal(2, 7, 3, D, seed=1)
    module = build("additive", D)
    with sc.record(module) as maps:
        module(query, key)
    recorded = maps[""]
    assert isinstance(recorded, sc.PairwiseMap)
    expected = plain_weights(dict(module.named_parameters()), query, key).detach()
    assert_close("weights", recorded.weights(), expected)
    assert_close("a row", recorded.attention_from(x=3, head=1), expected[:, 1, 3])
    assert_close("the weight received", recorded.attention_received(), expected.mean((1, 2)))


def test_no_tensor_holds_all_pairs() -> None:
    tokens = 6400
    module = sc.create("additive", 1)
    assert largest_tensor(module, torch.randn(1, tokens, 1, 1)) < tokens**2 / 8


def test_recording_never_holds_all_pairs() -> None:
    module = sc.create("additive", 2)
    with sc.record(module) as maps, torch.no_grad():
        module(torch.randn(1, 4096, 1, 2))
    assert maps[""].heatmap().shape == (1, 4096)


@pytest.mark.parametrize(
    ("query", "key", "value", "wrong"),
    [
        ((2, 5, 3, D), (2, 7, 4, D), (2, 7, 4, D), "key"),
        ((2, 5, 3, D), (3, 7, 3, D), (3, 7, 3, D), "key"),
        ((2, 5, 3, D), (2, 7, 3, D), (2, 6, 3, D), "value"),
        ((2, 5, 3, D), (2, 7, 3, D), (2, 7, 3, 8), "value"),
        ((2, D, 8, 6), (2, D, 8, 6), (2, D, 8, 6), "query"),
        ((0, 5, 3, D), (0, 7, 3, D), (0, 7, 3, D), "query"),
    ],
    ids=["heads", "batch", "length of value", "width of value", "a map", "an empty batch"],
)
def test_other_shapes_are_refused(
    query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], wrong: str
) -> None:
    shape = {"query": query, "key": key, "value": value}[wrong]
    with raises(sc.BadShape, owner="additive", option="shape", value=shape):
        sc.create("additive", D)(torch.zeros(query), torch.zeros(key), torch.zeros(value))
