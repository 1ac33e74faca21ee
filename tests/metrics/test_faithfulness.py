"""Deletion and insertion: a model with known scores, plain loops, batch sizes, ties and bad input."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from saccade.errors import BadOption, BadShape, SaccadeError, UnknownName
from saccade.metrics import RANKINGS, Faithfulness, evaluate_faithfulness
from saccade.models import SmallCNN
from support.errors import raises

untimed = settings(deadline=None, max_examples=30)


def areas(scores: Faithfulness) -> Tensor:
    """Return the areas of all rankings, (rankings, 2, B)."""
    return torch.stack([torch.stack([c.deletion_area, c.insertion_area]) for c in scores.rankings.values()])


def squares(batch: int, side: int, inside: int, seed: int = 0) -> Tensor:
    """Return masks of one square at a random position, (B, side, side)."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(batch, side, side, dtype=torch.bool)
    for mask in masks:
        y, x = torch.randint(0, side - inside + 1, (2,), generator=generator).tolist()
        mask[y : y + inside, x : x + inside] = True
    return masks


class Known:
    """A model whose score is the fraction of the target pixels that is still present in images of ones."""

    def __init__(self, masks: Tensor) -> None:
        self.masks = masks

    def __call__(self, images: Tensor) -> Tensor:
        # The second channel holds the index of the image at every pixel, whichever pixels are deleted.
        mask = self.masks[images[:, 1, 0, 0].round().long()]
        return ((images[:, 0] * mask).sum((1, 2)) / mask.sum((1, 2)))[:, None]

    def images(self) -> Tensor:
        number = torch.arange(len(self.masks), dtype=torch.float64)[:, None, None].expand(self.masks.shape)
        return torch.stack([torch.ones_like(number), number], 1)

    def score(self, heatmap: Tensor, **options: Any) -> Faithfulness:
        images = self.images()
        base = images * torch.tensor([0.0, 1.0])[:, None, None]
        return evaluate_faithfulness(self, images, heatmap, blank=base, blurred=base, **options)


def test_the_truth_scores_best_its_opposite_worst_and_random_maps_chance() -> None:
    masks = squares(batch=40, side=16, inside=4)
    model = Known(masks)
    truth = model.score(masks.double(), steps=16)  # the target is one sixteenth: gone after the first step
    one, rest = 1 / 32, 31 / 32
    torch.testing.assert_close(truth["positive"].deletion_area, torch.full((40,), one).double())
    torch.testing.assert_close(truth["positive"].insertion_area, torch.full((40,), rest).double())
    torch.testing.assert_close(truth["negative"].deletion_area, torch.full((40,), rest).double())
    torch.testing.assert_close(truth["negative"].insertion_area, torch.full((40,), one).double())
    noise = torch.rand(masks.shape, generator=torch.Generator().manual_seed(1))
    for name, scores in (
        ("random", truth),
        ("positive", model.score(noise)),
        ("negative", model.score(noise)),
    ):
        for area in (scores[name].deletion_area, scores[name].insertion_area):
            # Among images the area of 16 of 256 pixels in random order has a standard deviation of 0.07.
            assert area.mean().item() == pytest.approx(0.5, abs=4 * 0.07 / 40**0.5)
    best = truth["positive"].auc_gain(over=truth["random"])
    others = (noise, noise + masks, masks + squares(40, 16, 4, seed=5))
    for other in (model.score(heat.double(), steps=16) for heat in others):
        assert (other["positive"].auc_gain(over=truth["random"]) <= best + 1e-12).all()
    assert best.mean().item() == pytest.approx(0.47, abs=0.02)


def test_center_is_best_where_the_target_is_in_the_middle() -> None:
    masks = torch.zeros(1, 15, 15, dtype=torch.bool)
    masks[:, 5:10, 5:10] = True
    disc = torch.zeros(1, 15, 15, dtype=torch.bool)
    y, x = torch.meshgrid(torch.arange(15) - 7, torch.arange(15) - 7, indexing="ij")
    disc[0] = y**2 + x**2 <= 13
    scores = Known(disc).score(masks.double(), steps=225)
    assert scores["center_prior"].deletion[0, int(disc.sum())] == 0  # only the disc was deleted
    assert scores["center_prior"].deletion[0, int(disc.sum()) - 1] > 0


def plain(model: Any, image: Tensor, heat: Tensor, base: Tensor, steps: int, target: int) -> list[float]:
    """Return the curve of Petsiuk et al. from image to base by a loop over pixels, for heat without ties."""
    ranked = sorted(range(heat.numel()), key=lambda pixel: -heat.flatten()[pixel].item())
    curve = []
    for step in range(steps + 1):
        mixed = image.clone()
        for pixel in ranked[: round(step * heat.numel() / steps)]:
            y, x = divmod(pixel, heat.shape[1])
            mixed[:, y, x] = base[:, y, x]
        curve.append(model(mixed[None])[0, target].item())
    return curve


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 3, 3)).double().eval()


@untimed
@given(st.integers(0, 10_000), st.integers(1, 40), st.booleans())
def test_curves_are_those_of_a_plain_loop(seed: int, steps: int, given_class: bool) -> None:
    model, generator = network(), torch.Generator().manual_seed(seed)

    def predict(images: Tensor) -> Tensor:
        return torch.softmax(model(images), 1)

    images, blank, blurred = torch.rand(3, 2, 2, 8, 5, generator=generator, dtype=torch.float64)
    heat = torch.rand(2, 8, 5, generator=generator, dtype=torch.float64)
    target = torch.tensor([2, 0]) if given_class else predict(images).argmax(1)
    scores = evaluate_faithfulness(
        predict,
        images,
        heat,
        steps=steps,
        blank=blank,
        blurred=blurred,
        target=target if given_class else None,
        rankings=("positive", "negative"),
    )
    assert torch.equal(scores.target, target)
    for name, order in (("positive", heat), ("negative", -heat)):
        for i in range(2):
            taken = plain(predict, images[i], order[i], blank[i], steps, int(target[i]))
            put = plain(predict, blurred[i], order[i], images[i], steps, int(target[i]))
            assert scores[name].deletion[i].tolist() == pytest.approx(taken, abs=1e-12)
            assert scores[name].insertion[i].tolist() == pytest.approx(put, abs=1e-12)
            width = [round(s * 40 / steps) / 40 for s in range(steps + 1)]
            area = sum((taken[s] + taken[s + 1]) / 2 * (width[s + 1] - width[s]) for s in range(steps))
            assert scores[name].deletion_area[i].item() == pytest.approx(area, abs=1e-12)


@untimed
@given(st.integers(1, 5), st.integers(1, 60), st.integers(1, 9))
def test_neither_batch_size_nor_company_counts(batch: int, batch_size: int, levels: int) -> None:
    masks = squares(batch, side=6, inside=2)
    model = Known(masks)
    heat = torch.randint(0, levels, masks.shape, generator=torch.Generator().manual_seed(levels))
    expected = areas(model.score(heat, steps=7))
    assert torch.equal(areas(model.score(heat, steps=7, batch_size=batch_size)), expected)  # to the last bit
    images = model.images()
    base = images * torch.tensor([0.0, 1.0])[:, None, None]
    for i in range(batch):
        one = slice(i, i + 1)
        alone = evaluate_faithfulness(
            model, images[one], heat[one], steps=7, blank=base[one], blurred=base[one]
        )
        assert torch.equal(areas(alone), expected[:, :, one])


def test_batch_size_changes_a_networks_scores_by_rounding_alone() -> None:
    torch.manual_seed(0)
    model = SmallCNN(3).eval()
    images, heat = torch.rand(5, 3, 32, 32), torch.rand(5, 32, 32)
    scores = [
        areas(evaluate_faithfulness(lambda x: model(x).softmax(1), images, heat, batch_size=n, steps=5))
        for n in (1, 7, 1000)
    ]
    for other in scores[1:]:
        torch.testing.assert_close(other, scores[0], rtol=0, atol=1e-6)


def test_a_constant_map_scores_exactly_chance_and_ties_favor_no_corner() -> None:
    masks = squares(batch=8, side=16, inside=4)
    scores = Known(masks).score(torch.full(masks.shape, 0.3))
    for sign in ("positive", "negative"):
        assert torch.equal(scores[sign].deletion, scores["random"].deletion)
        assert torch.equal(scores[sign].auc_gain(over=scores["random"]), torch.zeros(8).double())
    corner = torch.zeros(1, 16, 16, dtype=torch.bool)
    corner[:, :8, :8] = True
    areas_of_corners = [
        Known(corner.rot90(turn, (1, 2))).score(torch.zeros(1, 16, 16))["positive"].deletion_area.item()
        for turn in range(4)
    ]
    assert areas_of_corners == pytest.approx([0.5] * 4, abs=0.15)


def test_the_seed_decides_the_random_order_and_nothing_else_does() -> None:
    masks = squares(batch=3, side=8, inside=3)
    model, heat = Known(masks), torch.rand(3, 8, 8)
    state = torch.get_rng_state()
    first, again, other = (areas(model.score(heat, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert torch.equal(first[:2], other[:2])  # "center_prior" has ties
    assert not torch.equal(first[2], other[2])


def test_only_the_order_of_the_heat_counts() -> None:
    masks = squares(batch=3, side=8, inside=3)
    heat = torch.randn(3, 8, 8).double()
    expected = areas(Known(masks).score(heat))
    assert torch.equal(areas(Known(masks).score(heat.exp())), expected)
    assert torch.equal(areas(Known(masks).score(5 * heat - 100)), expected)


def test_the_blank_is_the_mean_color_and_the_blur_hides_what_is_small() -> None:
    seen: list[Tensor] = []

    def predict(images: Tensor) -> Tensor:
        seen.append(images)
        return torch.zeros(len(images), 2)

    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    images[:, 1, 20:28, 30:38] = 255
    evaluate_faithfulness(
        predict, images, torch.rand(1, 64, 64), steps=1, rankings=("positive",), batch_size=1
    )
    whole, _, blank, blurred, _ = seen
    assert torch.equal(whole, images.float())
    torch.testing.assert_close(blank, images.float().mean((2, 3), keepdim=True).expand_as(blank))
    assert blurred.max() < 255 / 5
    for y, x in ((24, 34), (0, 63)):  # a Gaussian of standard deviation 64 / 8, cut at the edges
        places = product(range(64), range(64))
        weights = {(v, u): math.exp(-((v - y) ** 2 + (u - x) ** 2) / (2 * 8**2)) for v, u in places}
        expected = sum(w * int(images[0, 1, v, u]) for (v, u), w in weights.items()) / sum(weights.values())
        assert blurred[0, 1, y, x].item() == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(blurred[:, [0, 2]], torch.zeros(1, 2, 64, 64))


def test_no_gradient_is_kept_and_the_areas_are_those_of_the_curves() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    scores = evaluate_faithfulness(model, images, torch.rand(2, 4, 4, requires_grad=True), steps=4)
    assert not any(c.deletion.requires_grad or c.insertion.requires_grad for c in scores.rankings.values())
    assert scores["positive"].deletion.shape == (2, 5)
    mean = scores.mean()
    assert list(mean) == ["shares", *RANKINGS]
    assert mean["shares"] == [0, 0.25, 0.5, 0.75, 1]
    assert mean["negative"]["insertion"] == pytest.approx(scores["negative"].insertion_area.mean().item())
    assert mean["negative"]["insertion_curve"] == pytest.approx(scores["negative"].insertion.mean(0).tolist())


IMAGES, HEAT = torch.rand(2, 3, 6, 6), torch.rand(2, 6, 6)


@pytest.mark.parametrize(
    ("changes", "error", "fields"),
    [
        (
            {"images": IMAGES[0]},
            BadShape,
            {"owner": "evaluate_faithfulness: images", "option": "shape", "value": (3, 6, 6)},
        ),
        (
            {"heatmap": HEAT[:1]},
            BadShape,
            {"owner": "evaluate_faithfulness: heatmap", "option": "shape", "value": (1, 6, 6)},
        ),
        (
            {"heatmap": HEAT[:, :2]},
            BadShape,
            {"owner": "evaluate_faithfulness: heatmap", "option": "shape", "value": (2, 2, 6)},
        ),
        ({"heatmap": HEAT / 0}, BadOption, {"option": "heatmap", "value": 72}),
        ({"heatmap": HEAT + 1j}, BadOption, {"option": "heatmap", "value": torch.complex64}),
        ({"steps": 37}, BadOption, {"option": "steps", "value": 37}),
        ({"steps": 0}, BadOption, {"option": "steps", "value": 0}),
        ({"batch_size": True}, BadOption, {"option": "batch_size", "value": True}),
        ({"rankings": ()}, BadOption, {"option": "rankings", "value": (), "choices": RANKINGS}),
        (
            {"rankings": ("brigth",)},
            BadOption,
            {"option": "rankings", "value": "brigth", "choices": RANKINGS},
        ),
        ({"target": torch.tensor([0, 2])}, BadOption, {"option": "target", "value": 2}),
        ({"target": torch.tensor([0, -1])}, BadOption, {"option": "target", "value": (2,)}),
        ({"target": torch.tensor([0])}, BadOption, {"option": "target", "value": (1,)}),
        ({"target": torch.rand(2)}, BadOption, {"option": "target", "value": (2,)}),
        ({"blank": torch.rand(5, 3, 6, 6)}, BadShape, {"option": "blank", "value": (5, 3, 6, 6)}),
        ({"predict": lambda x: x.mean((1, 2, 3))}, BadShape, {"option": "predict", "value": (2,)}),
        ({"predict": lambda _: torch.zeros(1, 2)}, BadShape, {"option": "predict", "value": (1, 2)}),
    ],
)
def test_bad_input(changes: dict[str, Any], error: type[SaccadeError], fields: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {
        "predict": lambda x: torch.zeros(len(x), 2),
        "images": IMAGES,
        "heatmap": HEAT,
        **changes,
    }
    with raises(error, **{"owner": "evaluate_faithfulness", **fields}):
        evaluate_faithfulness(**arguments)


def test_a_ranking_that_was_not_followed_is_named() -> None:
    scores = evaluate_faithfulness(lambda x: x[:, :2, 0, 0], IMAGES, HEAT, rankings=("positive",), steps=2)
    with raises(UnknownName, kind="ranking", value="random", choices=("positive",)):
        scores["random"]
