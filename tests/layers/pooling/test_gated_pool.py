"""gated_pool equals the authors' formula, written bag by bag and instance by instance."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, normal
from support.plain import sigmoid

C = 6


def weights(p: Parameters, bag: Tensor) -> Tensor:
    """(branches, K)."""
    scores = []
    for h in bag:
        features = torch.tanh(p["hidden.weight"] @ h + p["hidden.bias"])
        if "gate.weight" in p:
            features = features * sigmoid(p["gate.weight"] @ h + p["gate.bias"])
        scores.append(torch.exp(p["score.weight"] @ features + p["score.bias"]))
    return (torch.stack(scores) / torch.stack(scores).sum(0)).T


def reference(p: Parameters, bags: Tensor) -> Tensor:
    pooled = torch.stack([weights(p, bag) @ bag for bag in bags])
    return pooled[:, 0] if pooled.shape[1] == 1 else pooled


@pytest.mark.parametrize("options", [{}, {"gated": False}, {"branches": 3, "hidden": 5}], ids=str)
@pytest.mark.parametrize("shape", [(3, 7, C), (1, 1, C), (2, 12, C)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    assert_parity(build("gated_pool", C, **options), reference, normal(*shape))


def test_parameters_are_those_of_the_authors_in_their_order() -> None:
    shapes = [tuple(p.shape) for p in sc.create("gated_pool", C).parameters()]
    assert shapes == [(128, C), (128,), (128, C), (128,), (1, 128), (1,)]
    shapes = [tuple(p.shape) for p in sc.create("gated_pool", C, gated=False, branches=2).parameters()]
    assert shapes == [(128, C), (128,), (2, 128), (2,)]


def test_the_softmax_runs_over_the_instances_of_one_bag() -> None:
    """Weights of each bag sum to 1, whatever the other bags hold."""
    module, bags = build("gated_pool", C, branches=2), normal(3, 7, C)
    with sc.record(module) as maps:
        module(bags)
    recorded = maps[""]
    assert isinstance(recorded, sc.SpatialMap)
    assert_close("sums", recorded.weights.sum(1), torch.ones(3).double())
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
    expected = torch.stack([weights(parameters, bag).mean(0) for bag in bags])
    assert_close("weights", recorded.weights, expected)


def test_the_order_of_instances_does_not_matter() -> None:
    module, bags = build("gated_pool", C), normal(2, 7, C)
    assert_close("permuted", module(bags[:, torch.randperm(7)]), module(bags))


@pytest.mark.parametrize(("option", "value"), [("hidden", 0), ("branches", 0), ("branches", 1.5)])
def test_bad_options_are_refused(option: str, value: float) -> None:
    with raises(sc.BadOption, owner="gated_pool", option=option, value=value):
        sc.create("gated_pool", C, **{option: value})


@pytest.mark.parametrize("shape", [(2, 7, C + 1), (7, C), (2, C, 5, 5), (2, 0, C)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="gated_pool", option="shape", value=shape):
        sc.create("gated_pool", C)(torch.zeros(shape))
