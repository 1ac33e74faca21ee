"""fixation: the log-probability of the sample as it was drawn, and the gradient that REINFORCE promises."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

import saccade as sc
from saccade.layers.hard.fixation import fixation
from support.errors import raises
from support.parity import assert_close, build, normal

C, STD = 6, 0.4


def policy(std: float = STD) -> nn.Module:
    return build("fixation", C, std=std)


def reward(location: Tensor) -> Tensor:
    """Nearness to a target, with a cliff at the edge of the image: (..., 2) -> (...)."""
    near = torch.exp(-(location - torch.tensor([0.7, -0.2], dtype=location.dtype)).square().sum(-1))
    return near * (location.abs() <= 1).all(-1)


def test_equals_the_formula() -> None:
    module, state = policy(), normal(5, C).requires_grad_()
    torch.manual_seed(3)
    location, log_probability, mean = module(state)
    assert not location.requires_grad
    weight, bias = dict(module.named_parameters()).values()
    expected_mean = torch.tanh(state @ weight.T + bias)
    assert_close("the mean", mean, expected_mean)
    expected = Normal(expected_mean, STD).log_prob(location).sum(1)
    assert_close("the log-probability", log_probability, expected)
    targets = [state, weight, bias]
    ours, theirs = (torch.autograd.grad(p.sum(), targets) for p in (log_probability, expected))
    for got, want in zip(ours, theirs, strict=True):
        assert_close("a gradient", got, want)


def test_the_log_probability_is_of_the_unclamped_sample() -> None:
    torch.manual_seed(0)
    mean = torch.full((2000, 2), 0.95, dtype=torch.float64)
    location, log_probability, _ = fixation(mean, 0.3)
    outside = (location.abs() > 1).any(1)
    assert outside.float().mean() > 0.5
    exact = Normal(mean, 0.3).log_prob(location).sum(1)
    assert_close("outside", log_probability[outside], exact[outside])
    clamped = Normal(mean, 0.3).log_prob(location.clamp(-1, 1)).sum(1)
    assert (log_probability[outside] < clamped[outside]).all()


def test_samples_have_the_mean_and_the_width_of_the_policy() -> None:
    torch.manual_seed(0)
    location = fixation(torch.tensor([[0.3, -0.5]]).expand(20_000, 2), 0.2).location
    assert (location.mean(0) - torch.tensor([0.3, -0.5])).abs().max() < 5 * 0.2 / math.sqrt(20_000)
    assert (location.std(0) - 0.2).abs().max() < 0.005


def test_reinforce_agrees_with_the_exact_gradient() -> None:
    """The gradient of E[R] by Gauss-Legendre quadrature, within three standard errors of 10,000 samples."""
    module, state, count = policy(), normal(1, C), 10_000
    leaf = state.clone().requires_grad_()
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(200))
    points = torch.stack(torch.meshgrid(nodes, nodes, indexing="xy"), -1).flatten(0, 1)
    areas = torch.outer(weights, weights).flatten()  # the reward is 0 outside of [-1, 1]
    density = Normal(module(leaf).mean, STD).log_prob(points).sum(1).exp()
    (exact,) = torch.autograd.grad((areas * density * reward(points)).sum(), leaf)

    torch.manual_seed(1)
    rows = state.expand(count, C).clone().requires_grad_()
    location, log_probability, _ = module(rows)
    advantage = reward(location) - 0.2  # a baseline leaves the gradient where it is
    (estimates,) = torch.autograd.grad((advantage * log_probability).sum(), rows)
    error = estimates.std(0) / math.sqrt(count)
    assert ((estimates.mean(0) - exact[0]).abs() < 3 * error).all()
    assert (exact[0].abs() > 10 * error).any()  # or the test would pass with any gradient


def test_a_seed_repeats_the_places_in_every_dtype() -> None:
    mean = torch.tensor([[0.5, -0.25]])
    places = []
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        torch.manual_seed(7)
        places.append(fixation(mean.to(dtype), 0.5).location.double())
    torch.testing.assert_close(places[1], places[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(places[2], places[0], rtol=0, atol=2e-2)


def test_nan_stays_in_its_row() -> None:
    state = normal(3, C)
    state[1] = float("nan")
    location, log_probability, _ = policy()(state)
    assert log_probability.isnan().tolist() == location.isnan().all(1).tolist() == [False, True, False]


def test_recorded_place() -> None:
    module = policy(0.5)
    with sc.record(module) as maps:
        location = module(normal(4, C)).location
    recorded = maps[""]
    assert isinstance(recorded, sc.FixationMap)
    assert torch.equal(recorded.locations[:, 0], location)
    assert recorded.heatmap((10, 20)).shape == (4, 10, 20)


@pytest.mark.parametrize("std", [0, -0.1, math.inf, math.nan, True, "0.1"], ids=repr)
def test_sigma_must_be_a_number_above_0(std: Any) -> None:
    with raises(sc.BadOption, owner="fixation", option="std", value=std):
        sc.create("fixation", C, std=std)


def test_a_map_is_not_a_state() -> None:
    with raises(sc.BadShape, owner="fixation", option="shape", value=(2, C, 3, 3)):
        policy()(normal(2, C, 3, 3))
