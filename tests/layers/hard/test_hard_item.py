"""hard_item: what is drawn, how often, and the gradients of both estimators."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import saccade as sc
from saccade.layers.hard.hard_item import hard_item
from support.errors import raises
from support.parity import assert_close, build, normal

L, C = 5, 4


@pytest.mark.parametrize("estimator", ["reinforce", "gumbel"])
def test_equals_the_formula(estimator: Any) -> None:
    module = build("hard_item", C, estimator=estimator)
    items = normal(3, L, C).requires_grad_()
    item, position, log_probability, entropy = module(items)
    (weight,) = module.parameters()
    for b in range(3):
        scores = torch.stack([(weight[0] * items[b, i]).sum() for i in range(L)])
        p = scores.exp() / scores.exp().sum()
        assert_close("the log-probability", log_probability[b], p[position[b]].log())
        assert_close("the entropy", entropy[b], -sum((q * q.log() for q in p), start=p.new_zeros(())))
        assert torch.equal(item[b], items[b, position[b]])
        expected = torch.autograd.grad(p[position[b]].log(), [weight, items], retain_graph=True)
        got = torch.autograd.grad(log_probability[b], [weight, items], retain_graph=True)
        for ours, theirs in zip(got, expected, strict=True):
            assert_close("a gradient", ours, theirs)


def test_frequencies_are_the_probabilities() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5])
    count = 40_000
    position = hard_item(torch.zeros(count, L, 1), logits.expand(count, L)).position
    frequency = torch.bincount(position, minlength=L) / count
    p = logits.softmax(0)
    assert ((frequency - p).abs() < 4 * (p * (1 - p) / count).sqrt()).all()


def test_reinforce_agrees_with_the_enumerated_gradient() -> None:
    """Of E[R] over all items, within three standard errors of 10,000 samples."""
    module, items, rewards, count = build("hard_item", C), normal(1, L, C), normal(L, seed=2), 10_000
    leaf = items.clone().requires_grad_()
    (weight,) = module.parameters()
    (exact,) = torch.autograd.grad(((leaf @ weight[0]).softmax(1)[0] * rewards).sum(), leaf)

    torch.manual_seed(1)
    rows = items.expand(count, L, C).clone().requires_grad_()
    chosen = module(rows)
    advantage = rewards[chosen.position] - 0.3
    (estimates,) = torch.autograd.grad((advantage * chosen.log_probability).sum(), rows)
    error = estimates.std(0) / math.sqrt(count)
    assert ((estimates.mean(0) - exact[0]).abs() < 3 * error).all()
    assert (exact[0].abs() > 10 * error).any()


def test_straight_through_is_the_item_forward_and_the_softmax_backward() -> None:
    items, logits = normal(6, L, C), normal(6, L, seed=1).requires_grad_()
    torch.manual_seed(4)
    chosen = hard_item(items, logits, "gumbel", temperature=0.7)
    torch.manual_seed(4)
    noise = -torch.empty(6, L).exponential_().log().double()
    soft = torch.einsum("bl,blc->bc", ((logits + noise) / 0.7).softmax(1), items)
    projection = normal(6, C, seed=5)
    (ours,) = torch.autograd.grad((chosen.item * projection).sum(), logits)
    (theirs,) = torch.autograd.grad((soft * projection).sum(), logits)
    assert_close("the gradient", ours, theirs)


def test_straight_through_learns_which_item_is_right() -> None:
    """The item that holds the target, told by its first channel, is chosen almost always in the end."""
    torch.manual_seed(0)
    module = sc.create("hard_item", C, estimator="gumbel")
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    for step in range(120):
        items = torch.randn(64, L, C)
        right = torch.randint(0, L, (64,))
        items[..., 0] = torch.nn.functional.one_hot(right, L)
        chosen = module(items)
        loss = (chosen.item[:, 0] - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 0:
            assert (chosen.position == right).float().mean() < 0.5
    assert (chosen.position == right).float().mean() > 0.9


def test_nan_stays_in_its_sequence() -> None:
    items = normal(3, L, C)
    items[1] = float("nan")
    chosen = build("hard_item", C)(items)
    assert chosen.log_probability.isnan().tolist() == [False, True, False]
    assert chosen.item.isnan().any(1).tolist() == [False, True, False]


def test_recorded_probabilities() -> None:
    module, items = build("hard_item", C), normal(3, L, C)
    with sc.record(module) as maps:
        module(items)
    recorded = maps[""]
    assert isinstance(recorded, sc.SpatialMap)
    (weight,) = module.parameters()
    assert_close("the map", recorded.weights, (items @ weight[0]).softmax(1).detach())


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, math.inf, True, "1"], ids=repr)
def test_the_temperature_must_be_above_0(temperature: Any) -> None:
    with raises(sc.BadOption, owner="hard_item", option="temperature", value=temperature):
        sc.create("hard_item", C, temperature=temperature)


def test_the_places_of_a_map_are_items() -> None:
    module, x = build("hard_item", C), normal(3, C, 2, 5)
    torch.manual_seed(4)
    chosen = module(x)
    torch.manual_seed(4)
    items = x.flatten(2).transpose(1, 2)
    for ours, theirs in zip(chosen, module(items), strict=True):
        assert torch.equal(ours, theirs)
    for image, place in enumerate(chosen.position.tolist()):
        assert torch.equal(chosen.item[image], x[image, :, place // 5, place % 5])
    with sc.record(module) as maps:
        module(x)
    (weight,) = module.parameters()
    expected = (items @ weight[0]).softmax(1).detach().unflatten(1, (2, 5))
    assert_close("the map", maps[""].saliency(), expected)


def test_a_clip_is_not_a_map() -> None:
    with raises(sc.BadShape, owner="hard_item", option="shape", value=(2, C, 3, 3, 3)):
        sc.create("hard_item", C)(torch.zeros(2, C, 3, 3, 3))
