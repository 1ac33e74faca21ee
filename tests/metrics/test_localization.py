"""Localization scores: hand-computed cases, scikit-learn's average precision, symmetries, bad input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch import Tensor

from saccade.errors import BadOption, BadShape
from saccade.metrics import Localization, localization


def values(scores: Localization) -> Tensor:
    """All scores of all images, (7, B)."""
    parts = (scores.positive, scores.negative)
    return torch.stack([*(v for s in parts for v in (s.pointing, s.energy, s.precision)), scores.chance])


def one(heatmap: list[list[float]], mask: list[list[int]]) -> list[float]:
    """The scores of one image: bright pointing, energy, precision, the same of dark, and chance."""
    scores = localization(torch.tensor([heatmap]), torch.tensor([mask]).bool())
    return [round(v, 12) for v in values(scores)[:, 0].tolist()]


def draw(batch: int, height: int, width: int, levels: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random maps of few levels, so that there are ties, and masks that are neither empty nor full."""
    generator = torch.Generator().manual_seed(seed)
    heatmap = torch.randint(0, levels, (batch, height, width), generator=generator).float()
    mask = torch.rand(batch, height, width, generator=generator) < 0.3
    mask[:, 0, 0], mask[:, -1, -1] = True, False
    return heatmap, mask


untimed = settings(deadline=None)  # the first call of a process warms torch up
cases = st.builds(
    draw,
    batch=st.integers(1, 4),
    height=st.integers(2, 7),
    width=st.integers(1, 7),
    levels=st.integers(1, 9),
    seed=st.integers(0, 10_000),
)


def test_two_by_two() -> None:
    # Bright: 4 is on the target. Energy (4 + 1) / 8. Ranks: 4 (hit, 1/1), then both 1s together (2 of 4).
    # Dark is [1 3; 4 4]: of the two 4s one is on the target; energy 5/12. Ranks: both 4s (1/2), 3, 1 (2/4).
    pointing, energy, precision = 1.0, 5 / 8, (1 + 2 / 4) / 2
    dark = 1 / 2, 5 / 12, (1 / 2 + 2 / 4) / 2
    expected = [pointing, energy, precision, *dark, 1 / 2]
    assert one([[4, 2], [1, 1]], [[1, 0], [1, 0]]) == [round(v, 12) for v in expected]


def test_three_by_three() -> None:
    # The target is the 9 and the 5. Ranks: 9 (1/1), 8, 7, 6, 5 (2/5). Dark is 10 - h: 5 is fifth, 9 last.
    expected = [1, 14 / 45, (1 + 2 / 5) / 2, 0, 6 / 45, (1 / 5 + 2 / 9) / 2, 2 / 9]
    heatmap = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]
    assert one(heatmap, [[0, 0, 0], [0, 1, 0], [0, 0, 1]]) == [round(v, 12) for v in expected]


def test_three_tied_maxima_of_which_one_is_inside() -> None:
    assert one([[2, 2, 2], [0, 1, 0], [0, 0, 0]], [[1, 0, 0], [0, 1, 0], [0, 0, 0]])[0] == round(1 / 3, 12)


@untimed
@given(cases)
def test_precision_is_that_of_scikit_learn(case: tuple[Tensor, Tensor]) -> None:
    heatmap, mask = case
    scores = localization(heatmap, mask)
    for i, (heat, target) in enumerate(zip(heatmap.numpy(), mask.numpy(), strict=True)):
        for score, order in ((scores.positive, heat), (scores.negative, heat.max() + heat.min() - heat)):
            expected = average_precision_score(target.ravel(), order.ravel())
            assert score.precision[i].item() == pytest.approx(expected, abs=1e-12)


def test_values_too_close_to_invert_in_float64_keep_their_order() -> None:
    heatmap, mask = torch.tensor([[[1.0, 1e-20, 2e-20]]]), torch.tensor([[[False, True, False]]])
    assert localization(heatmap, mask).negative.precision.item() == 1
    assert localization(heatmap, mask).negative.pointing.item() == 1


@untimed
@given(cases, st.integers(1, 3))
def test_flips_transposition_and_upscaling_change_nothing(case: tuple[Tensor, Tensor], factor: int) -> None:
    heatmap, mask = case
    expected = values(localization(heatmap, mask))

    def upscaled(x: Tensor) -> Tensor:
        return x.repeat_interleave(factor, 1).repeat_interleave(factor, 2)

    for transformed in (lambda x: x.flip(1), lambda x: x.flip(2), lambda x: x.transpose(1, 2), upscaled):
        torch.testing.assert_close(values(localization(transformed(heatmap), transformed(mask))), expected)


@untimed
@given(cases, st.floats(1e-3, 1e3))
def test_a_positive_factor_changes_nothing(case: tuple[Tensor, Tensor], factor: float) -> None:
    heatmap, mask = case
    expected = values(localization(heatmap, mask))
    torch.testing.assert_close(values(localization(heatmap.double() * factor, mask)), expected)


@untimed
@given(cases)
def test_dark_is_bright_of_the_inverted_map(case: tuple[Tensor, Tensor]) -> None:
    heatmap, mask = case
    inverted = heatmap.amax((1, 2), keepdim=True) + heatmap.amin((1, 2), keepdim=True) - heatmap
    swapped = values(localization(inverted, mask))[[3, 4, 5, 0, 1, 2, 6]]
    torch.testing.assert_close(values(localization(heatmap, mask)), swapped)


@untimed
@given(cases)
def test_an_image_is_scored_alone(case: tuple[Tensor, Tensor]) -> None:
    heatmap, mask = case
    together = values(localization(heatmap, mask))
    alone = [values(localization(heatmap[i : i + 1], mask[i : i + 1])) for i in range(len(mask))]
    torch.testing.assert_close(together, torch.cat(alone, dim=1), rtol=1e-12, atol=0)


def test_the_truth_scores_best_and_its_opposite_worst() -> None:
    _, mask = draw(batch=8, height=6, width=5, levels=2, seed=0)
    truth, opposite = localization(mask.float(), mask), localization(1 - mask.float(), mask)
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
    scores = localization(heatmap, mask)
    for score in (scores.positive, scores.negative):
        assert score.pointing.mean().item() == pytest.approx(0.25, abs=0.03)
        assert score.energy.mean().item() == pytest.approx(0.25, abs=0.01)
        assert score.precision.mean().item() == pytest.approx(0.28, abs=0.03)  # above 1/4 in a small sample


@pytest.mark.parametrize("level", [0.0, 0.1, 1.0, 1.7e308])
def test_a_constant_map_scores_exactly_chance(level: float) -> None:
    _, mask = draw(batch=5, height=7, width=9, levels=2, seed=3)
    scores = values(localization(torch.full(mask.shape, level, dtype=torch.float64), mask))
    assert torch.equal(scores, scores[-1].expand(7, -1))
    assert torch.equal(scores[-1], mask.flatten(1).double().mean(1))


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int64, torch.bool]
)
def test_any_real_dtype_is_scored_the_same(dtype: torch.dtype) -> None:
    levels = 2 if dtype == torch.bool else 9
    heatmap, mask = draw(batch=3, height=6, width=5, levels=levels, seed=1)
    assert torch.equal(values(localization(heatmap.to(dtype), mask)), values(localization(heatmap, mask)))


def test_scores_are_float64_and_carry_no_gradient() -> None:
    heatmap, mask = draw(batch=3, height=6, width=5, levels=9, seed=1)
    scores = values(localization(heatmap.requires_grad_(), mask))
    assert scores.dtype == torch.float64
    assert not scores.requires_grad


def test_mean_is_plain_numbers_of_the_result_file() -> None:
    heatmap, mask = draw(batch=4, height=6, width=5, levels=9, seed=2)
    scores = localization(heatmap, mask)
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


GOOD = torch.rand(2, 4, 4)
MASK = torch.eye(4).bool().expand(2, 4, 4)


@pytest.mark.parametrize(
    ("heatmap", "mask", "error", "sentence"),
    [
        (GOOD[0], MASK, BadShape, r"heatmap: expected \(B, H, W\), got \(4, 4\)"),
        (GOOD[:, None], MASK, BadShape, r"heatmap: expected \(B, H, W\), got \(2, 1, 4, 4\)"),
        (GOOD[:0], MASK[:0], BadShape, "which is empty"),
        (GOOD, MASK[:1], BadShape, r"mask: expected \(B=2, H=4, W=4\), got \(1, 4, 4\)"),
        (GOOD, MASK[:, :2], BadShape, r"mask: expected \(B=2, H=4, W=4\), got \(2, 2, 4\)"),
        (GOOD, MASK.float(), BadOption, "torch.float32, expected torch.bool"),
        (GOOD, MASK & torch.tensor([True, False])[:, None, None], BadShape, "1 of 2 masks are empty"),
        (GOOD, MASK | torch.tensor([True, True])[:, None, None], BadShape, "2 of 2 masks cover their image"),
        (GOOD - 2, MASK, BadOption, "negative, -"),
        (GOOD / 0, MASK, BadOption, "32 values of the heat map are not finite"),
        (GOOD.log() * float("nan"), MASK, BadOption, "32 values of the heat map are not finite"),
        (GOOD + 1j, MASK, BadOption, "complex64, expected real"),
    ],
)
def test_bad_input(heatmap: Tensor, mask: Tensor, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        localization(heatmap, mask)
