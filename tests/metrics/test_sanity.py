"""The sanity check: maps that ignore the weights, maps that depend on them, and a restored model."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity
from torch import Tensor, nn

import saccade as sc
from saccade.attribution import grad_cam
from saccade.errors import BadOption, BadShape, SaccadeError, UnknownName
from saccade.metrics import Sanity, sanity_check
from saccade.models import SmallCNN
from support.errors import raises

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network(attention: str = "cbam") -> SmallCNN:
    """Return a model after three training steps, with batch norm statistics."""
    torch.manual_seed(1)
    model = SmallCNN(2, attention={2: attention})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.rand(8, 3, 32, 32)).square().sum().backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


def attention(model: nn.Module) -> Tensor:
    with sc.record(model) as maps:
        model(IMAGES)
    return maps["attention.2"].heatmap((32, 32))


def cam(model: nn.Module) -> Tensor:
    return grad_cam(model, IMAGES).heatmap((32, 32))


def edges(_: nn.Module) -> Tensor:
    """Return a map that depends on the image alone."""
    return IMAGES.diff(dim=2, append=IMAGES[:, :, -1:]).abs().sum(1)


def test_a_map_that_ignores_the_weights_stays_the_same() -> None:
    scores = sanity_check(network(), edges)
    torch.testing.assert_close(scores.spearman, torch.ones_like(scores.spearman))
    torch.testing.assert_close(scores.ssim, torch.ones_like(scores.ssim))
    assert scores.mean()["spearman"] == pytest.approx(1)


@pytest.mark.parametrize("heat", [attention, cam])
def test_a_map_that_depends_on_the_weights_changes(heat: Any) -> None:
    scores = sanity_check(network(), heat)
    assert scores.spearman[-1].abs().max() < 0.9
    assert scores.ssim[-1].max() < 0.9


def test_the_cascade_runs_from_the_output_to_the_input() -> None:
    scores = sanity_check(network("se"), attention, at="attention.2")
    assert scores.layers == (
        "head",
        "stages.2.1",
        "stages.2.0",
        "attention.2.expand",
        "attention.2.reduce",
        "stages.1.1",
        "stages.1.0",
        "stages.0.1",
        "stages.0.0",
    )
    assert scores.spearman.shape == scores.ssim.shape == (9, 3)


def test_layers_after_the_map_do_not_reach_it() -> None:
    scores = sanity_check(network(), attention, at="attention.2.spatial")
    unreached = [path for path, reaches in zip(scores.layers, scores.reaches, strict=True) if not reaches]
    assert unreached == ["head", "stages.2.1", "stages.2.0"]
    above = torch.tensor(scores.reaches).logical_not()
    torch.testing.assert_close(scores.ssim[above], torch.ones_like(scores.ssim[above]))
    assert scores.ssim[~above][1:].max() < 1 - 1e-6
    assert all(sanity_check(network(), cam).reaches)
    assert [layer["reaches"] for layer in scores.mean()["layers"]] == list(scores.reaches)


def test_each_step_adds_one_layer_and_keeps_those_before() -> None:
    model, seen = network(), []

    def heat(model: nn.Module) -> Tensor:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return edges(model)

    scores = sanity_check(model, heat, layers=["head", "stages.2", "attention", "stages.1", "stages.0"])
    assert scores.layers == ("head", "stages.2", "attention", "stages.1", "stages.0")
    for before, after, path in zip(seen, seen[1:], scores.layers, strict=False):
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed
        assert all(name.startswith(path + ".") for name in changed)
    trained = {name for name, value in seen[0].items() if not torch.equal(value, seen[-1][name])}
    assert trained >= {name for name, _ in model.named_parameters()}


def test_parameters_without_a_method_of_their_own_are_randomized() -> None:
    model = network("multi_head:heads=2")
    weights: list[Tensor] = []

    def heat(model: nn.Module) -> Tensor:
        weights.append(model.get_parameter("attention.2.in_proj_weight").clone())
        return edges(model)

    sanity_check(model, heat, layers=["attention.2"])
    trained, drawn = weights
    assert (trained != drawn).all()
    assert drawn.square().mean().sqrt().item() == pytest.approx(
        trained.square().mean().sqrt().item(), rel=0.05
    )
    assert drawn.mean().abs() < 0.1 * drawn.std()
    flat = torch.stack([trained.flatten(), drawn.flatten()])
    assert torch.corrcoef(flat)[0, 1].abs() < 0.1
    scale = nn.Module()
    scale.zero, scale.one = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.full((1,), 7.0))
    values: list[tuple[float, float]] = []

    def look(module: nn.Module) -> Tensor:
        values.append((module.get_parameter("zero").item(), module.get_parameter("one").item()))
        return IMAGES[:, 0]

    sanity_check(scale, look)
    assert values[1][0] == 0
    assert values[1][1] != 7


class Failure(Exception):
    pass


@pytest.mark.parametrize("calls", [None, 1, 4])
@pytest.mark.parametrize("build", [network, lambda: network("multi_head:heads=2")])
def test_the_model_is_restored_bit_for_bit(calls: int | None, build: Any) -> None:
    model = build()
    model.train()
    model.stages[0].eval()
    model.head.weight.requires_grad_(False)
    model.head.bias.grad = torch.ones(2)
    kept = copy.deepcopy(model)
    identities = {name: id(p) for name, p in [*model.named_parameters(), *model.named_buffers()]}
    flags = [module.training for module in model.modules()]
    state, gradient = torch.get_rng_state(), model.head.bias.grad
    made = 0

    def heat(model: nn.Module) -> Tensor:
        nonlocal made
        made += 1
        if made == calls:
            raise Failure
        assert not any(module.training for module in model.modules())
        model(IMAGES).sum().backward()  # leaves gradients, as a saliency map might
        return torch.rand(3, 8, 8)

    if calls is None:
        sanity_check(model, heat)
    else:
        with pytest.raises(Failure):
            sanity_check(model, heat)
    for (name, value), original in zip(model.state_dict().items(), kept.state_dict().values(), strict=True):
        assert torch.equal(value, original), name
    assert {n: id(p) for n, p in [*model.named_parameters(), *model.named_buffers()]} == identities
    assert [module.training for module in model.modules()] == flags
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in kept.parameters()]
    assert torch.equal(torch.get_rng_state(), state)
    assert model.head.bias.grad is gradient
    assert torch.equal(gradient, torch.ones(2))
    assert model.stages[0][0].weight.grad is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_maps_that_draw_at_random_draw_the_same_each_time() -> None:
    scores = sanity_check(network(), lambda _: torch.rand(3, 8, 8))
    torch.testing.assert_close(scores.spearman, torch.ones_like(scores.spearman))


def test_the_seed_decides_the_new_weights() -> None:
    model = network()
    first, again, other = (sanity_check(model, cam, seed=seed).ssim for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_similarities_are_those_of_scipy_and_scikit_image() -> None:
    maps = iter([torch.randint(0, 5, (2, 9, 8)).float(), torch.randint(0, 9, (2, 9, 8)).float() - 3])
    kept: list[Tensor] = []

    def heat(_: nn.Module) -> Tensor:
        kept.append(next(maps))
        return kept[-1]

    scores = sanity_check(nn.Linear(2, 2), heat)
    for i in range(2):
        a, b = (heat[i].double().numpy() for heat in kept)
        assert scores.spearman[0, i].item() == pytest.approx(spearmanr(a.ravel(), b.ravel()).statistic)
        a, b = ((m - m.min()) / (m.max() - m.min()) for m in (a, b))
        assert scores.ssim[0, i].item() == pytest.approx(structural_similarity(a, b, data_range=1))


def test_a_flat_map_is_like_another_and_like_nothing_else() -> None:
    def similarity(*maps: Tensor) -> Sanity:
        left = iter(maps)
        return sanity_check(nn.Linear(2, 2), lambda _: next(left))

    flat, other = torch.zeros(1, 8, 8), torch.rand(1, 8, 8)
    assert similarity(flat, flat + 1).spearman.item() == 1
    assert similarity(flat, other).spearman.item() == 0
    assert similarity(other, flat).spearman.item() == 0
    assert similarity(other, -other).spearman.item() == -1
    assert similarity(other, -other).mean()["spearman"] == 1  # inverted, it shows the same places
    assert similarity(flat[:, :3, :4], flat[:, :3, :4]).ssim.item() == 1


@pytest.mark.parametrize(
    ("changes", "error", "fields"),
    [
        ({"at": "attention.3"}, UnknownName, {"kind": "module", "value": "attention.3"}),
        ({"layers": ["haed"]}, UnknownName, {"kind": "module", "value": "haed"}),
        ({"layers": ["stages.0.2"]}, BadOption, {"option": "layers", "value": ["stages.0.2"]}),
        ({"layers": []}, BadOption, {"option": "layers", "value": []}),
        ({"model": nn.ReLU(), "heat": edges}, BadOption, {"option": "layers", "value": None}),
        ({"heat": edges, "at": "head"}, BadOption, {"option": "at", "value": "head"}),
        ({"model": torch.jit.script(nn.Linear(2, 2))}, BadOption, {"option": "model"}),
        (
            {"heat": lambda _: torch.rand(3, 3)},
            BadShape,
            {"owner": "sanity_check: heat", "option": "shape", "value": (3, 3)},
        ),
        ({"heat": lambda _: torch.rand(3, 2, 8)}, BadShape, {"option": "heat", "value": (3, 2, 8)}),
        (
            {"heat": lambda _: torch.full((1, 4, 4), torch.nan)},
            BadOption,
            {"option": "heatmap", "value": 16},
        ),
    ],
)
def test_bad_input(changes: dict[str, Any], error: type[SaccadeError], fields: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"model": network(), "heat": attention, **changes}
    with raises(error, **{"owner": "sanity_check", **fields}):
        sanity_check(arguments.pop("model"), arguments.pop("heat"), **arguments)


def test_a_compiled_model_is_refused_and_heat_must_keep_its_shape() -> None:
    with raises(BadOption, owner="sanity_check", option="model"):
        sanity_check(cast(nn.Module, torch.compile(network())), edges)
    sizes = iter((8, 9))
    with raises(BadShape, owner="sanity_check", option="heat", value=(1, 9, 9)):
        sanity_check(nn.Linear(2, 2), lambda _: torch.rand(1, *(2 * [next(sizes)])))
    maps = iter((torch.rand(1, 8, 8), torch.full((1, 8, 8), torch.inf)))
    with raises(BadOption, owner="sanity_check", option="heatmap", value=64):
        sanity_check(network(), lambda _: next(maps))
