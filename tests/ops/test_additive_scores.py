"""The native loops of additive attention equal its formula in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import saccade as sc
from saccade.layers.pairwise.additive import additive
from saccade.ops import explain, implementation
from saccade.ops.additive_scores import additive_scores, additive_scores_backward
from support.parity import normal

pytest.importorskip("numba")

TOLERANCE = 4e-6  # of float32, relative to the largest value: sums of up to 300 terms


def inputs(batch: int, heads: int, queries: int, keys: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    query = normal(batch, heads, queries, width).float()
    key = normal(batch, heads, keys, width, seed=1).float()
    return query, key, normal(width, seed=2).float()


def assert_near(name: str, got: Tensor, expected: Tensor) -> None:
    largest = max(1.0, expected.abs().max().item())
    assert (got.double() - expected).abs().max().item() <= TOLERANCE * largest, name


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 20), st.integers(1, 40), st.integers(1, 300))
def test_scores_and_gradients_of_any_shape(
    batch: int, heads: int, queries: int, keys: int, width: int
) -> None:
    tensors = inputs(batch, heads, queries, keys, width)
    twins = [x.double().requires_grad_() for x in tensors]
    expected = torch.tanh(twins[0].unsqueeze(3) + twins[1].unsqueeze(2)) @ twins[2]
    d_scores = normal(*expected.shape, seed=9)
    assert_near("scores", additive_scores(*tensors, native=True), expected.detach())
    got = additive_scores_backward(d_scores.float(), *tensors, native=True)
    for name, value, reference in zip(
        ("query", "key", "direction"), got, torch.autograd.grad(expected, twins, d_scores), strict=True
    ):
        assert_near(name, value, reference)


def test_the_tanh_of_every_magnitude() -> None:
    z = torch.cat([torch.logspace(-30, 4, 4001), torch.tensor([0.0, 8.999, 9.0, 9.001, math.inf])])
    z = torch.cat([z, -z])
    got = additive_scores(z[None, None, :, None], torch.zeros(1, 1, 1, 1), torch.ones(1), native=True)
    expected = torch.tanh(z.double())
    error = (got.flatten().double() - expected).abs()
    assert (error <= 5e-7 * expected.abs()).all()


def test_nan_stays_nan() -> None:
    query, key, direction = inputs(1, 1, 3, 4, 5)
    query[0, 0, 1, 2] = math.nan
    scores = additive_scores(query, key, direction, native=True)
    assert scores[0, 0, 1].isnan().all()
    assert not scores[0, 0, [0, 2]].isnan().any()


def test_the_mechanism_runs_the_loops_and_equals_its_plain_form() -> None:
    torch.manual_seed(0)
    module = sc.create("additive", 64)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 70, 3, 64, requires_grad=True)
    (choice,) = explain(module, x)
    assert (choice.operation, choice.form) == ("additive_scores", "native")
    results = {}
    for form in ("plain", "native"):
        with implementation(form):
            y = module(x)
        results[form] = [y, *torch.autograd.grad(y, [x, *module.parameters()], torch.ones_like(y))]
    for got, expected in zip(results["native"], results["plain"], strict=True):
        assert_near("a result", got, expected.double())


def test_expanded_and_strided_inputs() -> None:
    query = normal(1, 1, 3, 40).float().expand(2, 60, 3, 40)
    key = normal(2, 3, 50, 40, seed=1).float().transpose(1, 2)
    direction = normal(80, seed=2).float()[::2].contiguous()
    with implementation("native"):
        got = additive(query, key, key, direction)
    assert_near("output", got, additive(query.double(), key.double(), key.double(), direction.double()))


def test_the_gradient_of_a_gradient_is_that_of_the_plain_form() -> None:
    query, key, direction = inputs(1, 2, 40, 50, 30)
    query, key = query.transpose(1, 2).requires_grad_(), key.transpose(1, 2).requires_grad_()
    direction.requires_grad_()

    def second(form: str) -> tuple[Tensor, ...]:
        with implementation(form):  # type: ignore[arg-type]
            y = additive(query, key, key, direction)
        (gradient,) = torch.autograd.grad(y.square().sum(), query, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), [query, key, direction])

    for got, expected in zip(second("native"), second("plain"), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-5 * expected.abs().max().item())


def test_any_number_of_threads_gives_the_same_bits() -> None:
    tensors = inputs(2, 1, 700, 900, 8)
    d_scores = normal(2, 1, 700, 900, seed=3).float()
    before, results = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            scores = additive_scores(*tensors, native=True)
            results.append([scores, *additive_scores_backward(d_scores, *tensors, native=True)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(("dtype", "length"), [(torch.float64, 70), (torch.float32, 4)])
def test_other_types_and_few_pairs_take_the_formula(dtype: torch.dtype, length: int) -> None:
    module = sc.create("additive", 64).to(dtype)
    (choice,) = explain(module, torch.randn(2, length, 3, 64, dtype=dtype))
    assert choice.form == "plain"
    assert choice.reason
