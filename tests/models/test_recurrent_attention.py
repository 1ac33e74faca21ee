"""The recurrent attention model: its equations, where gradients flow, any image, and that it learns."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn import functional as F

import saccade as sc
from saccade.errors import BadOption
from saccade.layers.sampling.glimpse import glimpse
from saccade.models import RecurrentAttention, Trajectory, hybrid_loss
from saccade.models.recurrent_attention import Reward
from support.errors import raises

POLICY = {"fixation.mean.weight", "fixation.mean.bias"}
BASELINE = {"baseline.weight", "baseline.bias"}
CLASSIFIER = {"classifier.weight", "classifier.bias"}


def model(**options: Any) -> RecurrentAttention:
    torch.manual_seed(0)
    return RecurrentAttention(4, **({"glimpses": 3, "size": 5, "hidden": 16} | options)).double()


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("core", ["relu", "lstm"])
def test_a_look_equals_the_equations(core: str) -> None:
    """Image by image, from the locations that the look reports."""
    network, x = model(core=core, scales=2, in_channels=3), images(2, 3, 9, 14)
    look = network.look(x)
    p = {name: parameter.detach() for name, parameter in network.named_parameters()}

    def linear(name: str, vector: Tensor) -> Tensor:
        return p[f"{name}.weight"] @ vector + p[f"{name}.bias"]

    def relu(vector: Tensor) -> Tensor:
        return vector.clamp(min=0)

    for b in range(2):
        state = cell = torch.zeros(16, dtype=torch.float64)
        for t, location in enumerate(look.locations[b]):
            if t:
                mean = torch.tanh(linear("fixation.mean", state))
                log_probability = Normal(mean, 0.1).log_prob(location).sum()
                torch.testing.assert_close(look.log_probabilities[b, t - 1].detach(), log_probability)
                torch.testing.assert_close(look.baselines[b, t - 1].detach(), linear("baseline", state)[0])
            clamped = location.clamp(-1, 1)
            patch = glimpse(x[b : b + 1], clamped[None], size=5, scales=2).flatten()
            what, where = relu(linear("see_patch", patch)), relu(linear("see_location", clamped))
            g = relu(linear("mix_patch", what) + linear("mix_location", where))
            if core == "relu":
                state = relu(linear("core_input", g) + linear("core_state", state))
            else:
                gates = p["core.weight_ih"] @ g + p["core.bias_ih"]
                gates = gates + p["core.weight_hh"] @ state + p["core.bias_hh"]
                i, f, c, o = gates.chunk(4)
                cell = f.sigmoid() * cell + i.sigmoid() * c.tanh()
                state = o.sigmoid() * cell.tanh()
        torch.testing.assert_close(look.logits[b].detach(), linear("classifier", state))


@pytest.mark.parametrize("reward", ["final", "step"])
def test_the_loss_equals_the_sums(reward: Reward) -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 3, 3)
    look = Trajectory(logits[:, -1], torch.randn(4, 3, 2), torch.randn(4, 2), torch.randn(4, 2), logits)
    labels = torch.tensor([0, 2, 1, 1])
    total = 0.0
    for b in range(4):
        scores = logits[b].exp()
        likelihoods = [(scores[t][labels[b]] / scores[t].sum()).item() for t in range(3)]
        total -= math.log(likelihoods[2])
        if reward == "step":
            total -= (math.log(likelihoods[0]) + math.log(likelihoods[1])) / 2
        for t in range(2):
            correct = float(logits[b, 2].argmax() == labels[b])
            advantage = (correct if reward == "final" else likelihoods[t + 1]) - look.baselines[b, t].item()
            total += advantage**2 / 2 - 0.5 * advantage * look.log_probabilities[b, t].item()
    loss = hybrid_loss(look, labels, policy_weight=0.5, reward=reward)
    assert loss.item() == pytest.approx(total / 4, rel=1e-5)


def test_an_unknown_reward_is_refused() -> None:
    look = model().look(images(2, 1, 12, 12))
    with pytest.raises(BadOption) as caught:
        hybrid_loss(look, torch.tensor([0, 1]), reward="last")  # type: ignore[arg-type]
    assert (caught.value.option, caught.value.value) == ("reward", "last")


def test_the_logits_after_each_glimpse_end_with_the_result() -> None:
    look = model(glimpses=4).look(images(3, 1, 12, 12))
    assert look.step_logits.shape == (3, 4, look.logits.shape[1])
    torch.testing.assert_close(look.step_logits[:, -1], look.logits, rtol=0, atol=0)


@pytest.mark.parametrize("core", ["relu", "lstm"])
def test_without_detach_the_policy_trains_core_and_glimpse_network(core: str) -> None:
    network = model(core=core, detach=False)
    look = network.look(images(3, 1, 12, 12))
    network.zero_grad()
    look.log_probabilities.sum().backward()
    trained = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained == {name for name, _ in network.named_parameters()} - BASELINE - CLASSIFIER


@pytest.mark.parametrize("core", ["relu", "lstm"])
def test_each_term_trains_its_own_part(core: str) -> None:
    network, labels = model(core=core), torch.tensor([0, 1, 2])
    look = network.look(images(3, 1, 12, 12))
    assert not look.locations.requires_grad

    def trained(loss: Tensor) -> set[str]:
        network.zero_grad()
        loss.backward(retain_graph=True)
        return {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}

    everything = {name for name, _ in network.named_parameters()}
    assert trained(F.cross_entropy(look.logits, labels)) == everything - POLICY - BASELINE
    assert trained(look.log_probabilities.sum()) == POLICY
    assert trained(look.baselines.sum()) == BASELINE
    assert trained(hybrid_loss(look, labels)) == everything


def test_reinforce_moves_the_policy_towards_reward() -> None:
    """The gradient of the loss in the policy alone is -E[(R - b) grad log pi], sample by sample."""
    network, labels = model(), torch.tensor([0, 1, 2, 3])
    look = network.look(images(4, 1, 12, 12))
    weight = network.get_parameter("fixation.mean.weight")
    (got,) = torch.autograd.grad(hybrid_loss(look, labels), weight, retain_graph=True)
    reward = (look.logits.argmax(1) == labels).double()
    expected = torch.zeros_like(weight)
    for b in range(4):
        for t in range(2):
            (score,) = torch.autograd.grad(look.log_probabilities[b, t], weight, retain_graph=True)
            expected -= (reward[b] - look.baselines[b, t].item()) * score / 4
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    "options", [{"size": 1}, {"size": 7, "scales": 3}, {"core": "lstm"}, {"glimpses": 1}]
)
@pytest.mark.parametrize("shape", [(1, 1, 28, 28), (2, 1, 5, 17), (3, 1, 1, 1)], ids=str)
def test_any_image_and_glimpse(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    network = model(**options)
    look = network.look(images(*shape))
    steps = network.glimpses
    assert look.logits.shape == (shape[0], 4)
    assert look.locations.shape == (shape[0], steps, 2)
    assert look.log_probabilities.shape == look.baselines.shape == (shape[0], steps - 1)
    loss = hybrid_loss(look, torch.zeros(shape[0], dtype=torch.long))
    loss.backward()
    assert loss.isfinite()


def test_prediction_is_the_mean_over_looks() -> None:
    network, x = model(), images(3, 1, 12, 12)
    torch.manual_seed(5)
    mean = network.predict(x, samples_per_image=4)
    torch.manual_seed(5)
    logits = network(x.repeat_interleave(4, 0)).detach()
    torch.testing.assert_close(
        mean, torch.stack([logits[4 * b : 4 * b + 4].softmax(1).mean(0) for b in range(3)])
    )
    assert not mean.requires_grad


def test_the_start_is_anywhere_or_the_centre() -> None:
    x = images(500, 1, 12, 12)
    first = model().look(x).locations[:, 0]
    assert first.abs().max() <= 1
    assert first.std(0).min() > 0.5
    assert not model(start="center").look(x).locations[:, 0].any()


def test_recorded_fixations() -> None:
    network, x = model(scales=2), images(2, 1, 10, 20)
    with sc.record(network) as maps:
        look = network.look(x)
    recorded = maps[""]
    assert isinstance(recorded, sc.FixationMap)
    torch.testing.assert_close(recorded.locations, look.locations.clamp(-1, 1))
    assert recorded.extents == ((0.5, 0.25), (1.0, 0.5))
    assert recorded.heatmap().shape == (2, 10, 20)


def test_runs_on_the_meta_device_and_in_bfloat16() -> None:
    with torch.device("meta"):
        network = RecurrentAttention(4)
    assert network(torch.zeros(2, 1, 28, 28, device="meta")).device.type == "meta"
    assert model().bfloat16()(images(2, 1, 12, 12).bfloat16()).dtype is torch.bfloat16


@pytest.mark.parametrize("core", ["relu", "lstm"])
def test_compiles_into_one_graph(core: str) -> None:
    network, x = model(core=core, glimpses=2), images(3, 1, 12, 12)
    torch.manual_seed(2)
    expected = network(x)
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    torch.manual_seed(2)
    torch.testing.assert_close(compiled(x), expected)
    torch._dynamo.reset()


def test_the_loss_has_a_gradient_in_the_first_glimpse() -> None:
    torch.manual_seed(0)
    network = RecurrentAttention(10, glimpses=8)
    seen: list[Tensor] = []
    network.core_input.register_forward_hook(lambda _module, _inputs, output: seen.append(output))

    def ratio() -> float:
        seen.clear()
        loss = F.cross_entropy(network(torch.rand(64, 1, 28, 28)), torch.arange(64) % 10)
        first, last = (g.norm().item() for g in torch.autograd.grad(loss, (seen[0], seen[-1])))
        return float(first / last)

    assert ratio() > 0.3
    network.core_state.reset_parameters()  # as PyTorch draws it
    assert ratio() < 0.03


def test_the_first_locations_are_around_the_center() -> None:
    torch.manual_seed(0)
    locations = RecurrentAttention(10, std=0.1).look(torch.rand(200, 1, 28, 28)).locations[:, 1:]
    assert locations.mean().abs() < 0.02
    assert 0.08 < locations.std() < 0.13


def test_learns_to_look_and_to_tell() -> None:
    """A bar, upright or lying, somewhere on the right; glimpses begin in the center, where nothing is."""

    def batch(count: int) -> tuple[Tensor, Tensor]:
        labels, offset = torch.randint(0, 2, (count,)), torch.arange(16) - torch.randint(6, 11, (count, 1))
        x = torch.zeros(count, 1, 16, 24)
        x[:, 0, :, 20] = labels[:, None] * (offset.abs() <= 3).float()
        x[:, 0, :, 17:24] += ((1 - labels[:, None]) * (offset == 0).float())[:, :, None]
        return x, labels

    torch.manual_seed(0)
    network = RecurrentAttention(2, glimpses=3, size=5, hidden=64, std=0.2, start="center")
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(250):
        x, labels = batch(128)
        loss = hybrid_loss(network.look(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, labels = batch(500)
    assert (network.predict(x, samples_per_image=5).argmax(1) != labels).float().mean() < 0.05
    last = network.look(x).locations[:, -1, 0]
    assert last.mean() > 0.3, "the last glimpse must lie on the right"


@pytest.mark.parametrize(
    ("owner", "option", "value"),
    [
        ("RecurrentAttention", "glimpses", 0),
        ("RecurrentAttention", "hidden", 1),
        ("RecurrentAttention", "core", "gru"),
        ("RecurrentAttention", "start", "left"),
        ("fixation", "std", 0.0),
        ("glimpse", "size", 0),
    ],
)
def test_bad_options(owner: str, option: str, value: Any) -> None:
    with raises(sc.BadOption, owner=owner, option=option, value=value):
        RecurrentAttention(10, **{option: value})


def test_bad_images() -> None:
    network = RecurrentAttention(10)
    for shape in ((2, 3, 28, 28), (2, 28, 28), (0, 1, 28, 28)):
        with raises(sc.BadShape, owner="RecurrentAttention", option="shape", value=shape):
            network(torch.zeros(shape))
    with raises(sc.BadOption, owner="RecurrentAttention", option="samples_per_image", value=0):
        network.predict(torch.zeros(1, 1, 28, 28), samples_per_image=0)
