"""temporal_pool equals the paper's sums, written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import saccade as sc
from support.errors import raises
from support.parity import Parameters, assert_parity, build, normal

C = 6


def reference(parameters: Parameters, states: Tensor) -> Tensor:
    """u . tanh(W h + b) and u . h, moment by moment."""
    context = parameters["context.weight"][0]
    pooled = []
    for sequence in states:
        scores = []
        for moment in sequence:
            key = moment
            if "hidden.weight" in parameters:
                key = torch.tanh(parameters["hidden.weight"] @ moment + parameters["hidden.bias"])
            scores.append(torch.exp((context * key).sum()))
        total = torch.stack(scores).sum()
        parts = [s / total * moment for s, moment in zip(scores, sequence, strict=True)]
        pooled.append(torch.stack(parts).sum(0))
    return torch.stack(pooled)


@pytest.mark.parametrize("score", ["additive", "dot_product"])
@pytest.mark.parametrize("shape", [(3, 7, C), (1, 1, C), (2, 12, C)], ids=str)
def test_equals_the_formula(shape: tuple[int, ...], score: str) -> None:
    assert_parity(build("temporal_pool", C, score=score), reference, normal(*shape))


def test_parameters_are_those_of_the_paper() -> None:
    assert [*build("temporal_pool", C).state_dict()] == ["hidden.weight", "hidden.bias", "context.weight"]
    assert [*build("temporal_pool", C, score="dot_product").state_dict()] == ["context.weight"]


def test_recorded_weights_make_the_output() -> None:
    module, states = build("temporal_pool", C), normal(2, 7, C)
    with sc.record(module) as maps:
        y = module(states)
    recorded = maps[""]
    assert isinstance(recorded, sc.SpatialMap)
    torch.testing.assert_close((recorded.weights[..., None] * states).sum(1), y.detach())


def test_large_scores_do_not_overflow() -> None:
    module = sc.create("temporal_pool", C, score="dot_product").half()
    states = torch.full((1, 3, C), 100.0).half()
    assert module(states).isfinite().all()


def test_bad_input() -> None:
    with raises(sc.BadOption, owner="temporal_pool", option="score", value="cosine"):
        sc.create("temporal_pool", C, score="cosine")
    with raises(sc.BadShape, owner="temporal_pool", option="shape", value=(2, C, 5, 5)):
        sc.create("temporal_pool", C)(torch.zeros(2, C, 5, 5))
