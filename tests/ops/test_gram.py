"""gram has the values and gradients of its formula."""

from __future__ import annotations

import pytest
import torch

from saccade.ops.gram import gram
from support.parity import assert_close, normal


@pytest.mark.parametrize("factor", [1.0, -1.0, 0.5])
def test_values_and_gradients_are_those_of_the_formula(factor: float) -> None:
    x = normal(2, 4, 7).requires_grad_()
    got, expected = gram(x, factor), factor * torch.einsum("bin,bjn->bij", x, x)
    assert_close("value", got, expected)
    projection = normal(2, 4, 4, seed=1)
    gradients = [torch.autograd.grad(y, x, projection)[0] for y in (got, expected)]
    assert_close("gradient", *gradients)


def test_second_derivatives_are_those_of_finite_differences() -> None:
    assert torch.autograd.gradgradcheck(lambda x: gram(x, -1.0), normal(2, 3, 4).requires_grad_())


def test_nan_stays_in_its_rows() -> None:
    x = normal(2, 3, 4)
    x[0, 0] = float("nan")
    assert not gram(x)[0, 1:, 1:].isnan().any()
    assert not gram(x)[1].isnan().any()
