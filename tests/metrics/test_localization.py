"""Localization: hand-computed cases, the average precision of scikit-learn, symmetries and bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch import Tensor

from saccade.errors import BadOption, BadShape, SaccadeError
from saccade.metrics import Localization, localize
from support.errors import raises


def values(scores: Localization) -> Tensor:
    """Return all scores of all images, (7, B)."""
    parts = (scores.positive, scores.negative)
    return torch.stack([*(v for s in parts for v in (s.pointing, s.energy, s.precision)), scores.chance])


def one(heatmap: list[list[float]], mask: list[list[int]]) -> list[float]:
    """Return the scores of one image: pointing, energy and precision in both polarities, and chance."""
    scores = localize(torch.tensor([heatmap]), torch.tensor([mask]).bool())
    return [round(v, 12) for v in values(scores)[:, 0].tolist()]


def draw(batch: int, height: int, width: int, levels: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return random maps with few levels, and so with ties, and masks that are neither empty nor full."""
    generator = torch.Generator().manual_seed(seed)
    heatmap = torch.randint(0, levels, (batch, height, width), generator=generator).float()
    mask = torch.rand(batch, height, width, generator=generator) < 0.3
    mask[:, 0, 0], mask[:, -1, -1] = True, False
    return heatmap, mask


untimed = settings(deadline=None)  # the first call in a process is slow
cases = st.builds(
    draw,
    batch=st.integers(1, 4),
    height=st.integers(2, 7),
    width=st.integers(1, 7),
    levels=st.integers(1, 9),
    seed=st.integers(0, 10_000),
)


def test_two_by_two() -> None:
    # Positive: 4 is on the target. Energy (4 + 1) / 8. Ranks: 4 (hit, 1/1), then both 1s together (2 of 4).
    # Negative is [1 3; 4 4]: one of both 4s is on the target; energy 5/12. Ranks: both 4s (1/2), 3, 1 (2/4).
    pointing, energy, precision = 1.0, 5 / 8, (1 + 2 / 4) / 2
    negative = 1 / 2, 5 / 12, (1 / 2 + 2 / 4) / 2
    expected = [pointing, energy, precision, *negative, 1 / 2]
    assert one([[4, 2], [1, 1]], [[1, 0], [1, 0]]) == [round(v, 12) for v in expected]


def test_three_by_three() -> None:
    # The target is the 9 and the 5. Ranks: 9 (1/1), 8, 7, 6, 5 (2/5). Negative is 10 - h: 5 is fifth, 9 last.
    expected = [1, 14 / 45, (1 + 2 / 5) / 2, 0, 6 / 45, (1 / 5 + 2 / 9) / 2, 2 / 9]
    heatmap = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]
    assert one(heatmap, [[0, 0, 0], [0, 1, 0], [0, 0, 1]]) == [round(v, 12) for v in expected]


def test_three_tied_maxima_of_which_one_is_inside() -> None:
    assert one([[2, 2, 2], [0, 1, 0], [0, 0, 0]], [[1, 0, 0], [0, 1, 0], [0, 0, 0]])[0] == round(1 / 3, 12)


@untimed
@given(cases)
def test_precision_is_that_of_scikit_learn(case: tuple[Tensor, Tensor]) -> None:
    heatmap, mask = case
    scores = localize(heatmap, mask)
    for i, (heat, target) in enumerate(zip(heatmap.numpy(), mask.numpy(), strict=True)):
        for score, order in ((scores.positive, heat), (scores.negative, heat.max() + heat.min() - heat)):
            expected = average_precision_score(target.ravel(), order.ravel())
            assert score.precision[i].item() == pytest.approx(expected, abs=1e-12)


def test_values_too_close_to_invert_in_float64_keep_their_order() -> None:
    heatmap, mask = torch.tensor([[[1.0, 1e-20, 2e-20]]]), torch.tensor([[[False, True, False]]])
    assert localize(heatmap, mask).negative.precision.item() == 1
    assert localize(heatmap, mask).negative.pointing.item() == 1


@untimed
@given(cases, st.integers(1, 3))
def test_flips_transposition_and_upscaling_change_nothing(case: tuple[Tensor, Tensor], factor: int) -> None:
    heatmap, mask = case
    expected = values(localize(heatmap, mask))

    def upscaled(x: Tensor) -> Tensor:
        return x.repeat_interleave(factor, 1).repeat_interleave(factor, 2)

    for transformed in (lambda x: x.flip(1), lambda x: x.flip(2), lambda x: x.transpose(1, 2), upscaled):
        torch.testing.assert_close(values(localize(transformed(heatmap), transformed(mask))), expected)


@untimed
@given(cases, st.floats(1e-3, 1e3))
def test_a_positive_factor_changes_nothing(case: tuple[Tensor, Tensor], factor: float) -> None:
    heatmap, mask = case
    expected = values(localize(heatmap, mask))
    torch.testing.assert_close(values(localize(heatmap.double() * factor, mask)), expected)


@untimed
@given(cases)
def test_negative_is_positive_of_the_inverted_map(case: tuple[Tensor, Tensor]) -> None:
    heatmap, mask = case
    inverted = heatmap.amax((1, 2), keepdim=True) + heatmap.amin((1, 2), keepdim=True) - heatmap
    swapped = values(localize(inverted, mask))[[3, 4, 5, 0, 1, 2, 6]]
    torch.testing.assert_close(values(localize(heatmap, mask)), swapped)


@untimed
@given(cases)
def test_an_image_is_scored_alone(case: tuple[Tensor, Tensor]) -> None:
    heatmap, mask = case
    together = values(localize(heatmap, mask))
    alone = [values(localize(heatmap[i : i + 1], mask[i : i + 1])) for i in range(len(mask))]
    torch.testing.assert_close(together, torch.cat(alone, dim=1), rtol=1e-12, atol=0)


def test_the_truth_scores_best_and_its_opposite_worst() -> None:
    _, mask = draw(batch=8, height=6, width=5, levels=2, seed=0)
    truth, opposite = localize(mask.float(), mask), localize(1 - mask.float(), mask)
    ones, zeros = torch.ones(8).double(), torch.zeros(8).double()
    for best in (truth.positive, opposite.negative):
        assert torch.equal(torch.stack([best.pointing, best.energy, best.precision]), ones.expand(3, -1))
    for worst in (truth.negative, opposite.positive):
        assert torch.equal(torch.stack([worst.pointing, worst.energy]), zeros.expand(2, -1))
        assert torch.equal(worst.precision, truth.chance)  # recall stays 0 until everything is admitted


def test_random_maps_score_about_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    heatmap = torch.rand(4000, 8, 8, generator=generator)
    mask = torch.zeros(4000, 8, 8, dtype=torch.bool)
    mask[:, 2:6, 1:5] = True
    scores = localize(heatmap, mask)
    for score in (scores.positive, scores.negative):
        assert score.pointing.mean().item() == pytest.approx(0.25, abs=0.03)
        assert score.energy.mean().item() == pytest.approx(0.25, abs=0.01)
        assert score.precision.mean().item() == pytest.approx(0.28, abs=0.03)  # above 1/4 in a small sample


@pytest.mark.parametrize("level", [0.0, 0.1, 1.0, 1.7e308])
def test_a_constant_map_scores_exactly_chance(level: float) -> None:
    _, mask = draw(batch=5, height=7, width=9, levels=2, seed=3)
    scores = values(localize(torch.full(mask.shape, level, dtype=torch.float64), mask))
    assert torch.equal(scores, scores[-1].expand(7, -1))
    assert torch.equal(scores[-1], mask.flatten(1).double().mean(1))


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int64, torch.bool]
)
def test_any_real_dtype_is_scored_the_same(dtype: torch.dtype) -> None:
    levels = 2 if dtype == torch.bool else 9
    heatmap, mask = draw(batch=3, height=6, width=5, levels=levels, seed=1)
    assert torch.equal(values(localize(heatmap.to(dtype), mask)), values(localize(heatmap, mask)))


def test_scores_are_float64_and_carry_no_gradient() -> None:
    heatmap, mask = draw(batch=3, height=6, width=5, levels=9, seed=1)
    scores = values(localize(heatmap.requires_grad_(), mask))
    assert scores.dtype == torch.float64
    assert not scores.requires_grad


def test_mean_is_plain_numbers_of_the_result_file() -> None:
    heatmap, mask = draw(batch=4, height=6, width=5, levels=9, seed=2)
    scores = localize(heatmap, mask)
    expected = {
        "chance": scores.chance.mean().item(),
        "positive": {
            k: getattr(scores.positive, k).mean().item() for k in ("pointing", "energy", "precision")
        },
        "negative": {
            k: getattr(scores.negative, k).mean().item() for k in ("pointing", "energy", "precision")
        },
    }
    assert scores.mean() == expected
    assert type(scores.mean()["chance"]) is float


GOOD = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0))
MASK = torch.eye(4).bool().expand(2, 4, 4)


@pytest.mark.parametrize(
    ("heatmap", "mask", "error", "fields"),
    [
        (GOOD[0], MASK, BadShape, {"owner": "localize: heatmap", "value": (4, 4)}),
        (GOOD[:, None], MASK, BadShape, {"owner": "localize: heatmap", "value": (2, 1, 4, 4)}),
        (GOOD[:0], MASK[:0], BadShape, {"owner": "localize: heatmap", "value": (0, 4, 4)}),
        (GOOD, MASK[:1], BadShape, {"owner": "localize: mask", "value": (1, 4, 4)}),
        (GOOD, MASK[:, :2], BadShape, {"owner": "localize: mask", "value": (2, 2, 4)}),
        (GOOD, MASK.float(), BadOption, {"option": "mask", "value": torch.float32}),
        (GOOD, MASK & torch.tensor([True, False])[:, None, None], BadShape, {"option": "mask", "value": 1}),
        (GOOD, MASK | torch.tensor([True, True])[:, None, None], BadShape, {"option": "mask", "value": 2}),
        (GOOD - 2, MASK, BadOption, {"option": "heatmap", "value": (GOOD - 2).min().item()}),
        (GOOD / 0, MASK, BadOption, {"option": "heatmap", "value": 32}),
        (GOOD.log() * float("nan"), MASK, BadOption, {"option": "heatmap", "value": 32}),
        (GOOD + 1j, MASK, BadOption, {"option": "heatmap", "value": torch.complex64}),
    ],
)
def test_bad_input(heatmap: Tensor, mask: Tensor, error: type[SaccadeError], fields: dict[str, Any]) -> None:
    with raises(error, **fields):
        localize(heatmap, mask)
