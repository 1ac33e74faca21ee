"""Findings: the sentences claim what the intervals support, and no more."""

from __future__ import annotations

import pytest

from saccade.results import Interval, Row, caution, consequence, finding, verdict


def row(attention: str, error: float, difference: tuple[float, float, float] | None = None) -> Row:
    mean, low, high = difference or (0, 0, 0)
    return {
        "attention": attention,
        "seeds": 3,
        "error": {"mean": error, "low": error - 0.01, "high": error + 0.01},
        "difference": {"mean": mean, "low": low, "high": high} if difference else None,
        "p_value": None,
        "localization": None,
        "scores": None,
        "parameters": 1,
        "flops": 200 if difference else 100,
        "latency_ms": 1.0,
        "train_seconds": 1.0,
    }


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ((-0.02, -0.03, -0.01), "better"),
        ((0.02, 0.01, 0.03), "worse"),
        ((-0.02, -0.05, 0.0), "unclear"),
        ((0.02, 0.0, 0.05), "unclear"),
        ((0.02, None, None), None),
    ],
)
def test_a_verdict_needs_an_interval_without_zero(
    interval: tuple[float, float | None, float | None], expected: str | None
) -> None:
    difference: Interval = {"mean": interval[0], "low": interval[1], "high": interval[2]}
    assert verdict(difference) == expected
    assert verdict(None) is None


def test_finding_says_better_only_if_the_interval_excludes_zero() -> None:
    board = [
        row("none", 0.09),
        row("cbam", 0.05, (-0.04, -0.05, -0.03)),
        row("se", 0.04, (-0.05, -0.11, 0.01)),
        row("bad", 0.2, (0.11, 0.09, 0.13)),
    ]
    assert finding(board) == (
        "`cbam` (\N{MINUS SIGN}4.00 points) is better than `none`; "
        "`se` is not distinguishable from `none`; `bad` is worse than `none`."
    )
    assert consequence(board) == (
        "The most accurate of these, `cbam`, takes 2.00 times the FLOPs and 1.00 times the latency of `none`."
    )


def test_consequence_names_the_level_of_the_maps_on_the_target() -> None:
    board = [row("none", 0.09), row("cbam", 0.05, (-0.04, -0.05, -0.03))]
    score: Interval = {"mean": 0.5, "low": None, "high": None}
    for polarity, level in (("positive", "highest"), ("negative", "lowest")):
        board[1]["localization"] = {
            "polarity": polarity,  # type: ignore[typeddict-item]
            "agree": 3,
            "chance": 0.02,
            "pointing": score,
            "energy": score,
            "precision": score,
        }
        sentence = f"Its maps are {level} on the target: average precision 0.50, chance 0.02."
        assert str(consequence(board)).endswith(sentence)
        weak = board[1]["localization"] | {"precision": score | {"mean": 0.19}}  # type: ignore[operator]
        weakly = [board[0], board[1] | {"localization": weak}]
        sentence = "Its maps hardly point at the target: average precision 0.19, chance 0.02."
        assert str(consequence(weakly)).endswith(sentence)


def test_several_differences_are_corrected_for() -> None:
    cbam, bad = row("cbam", 0.05, (-0.04, -0.05, -0.03)), row("bad", 0.2, (0.11, 0.09, 0.13))
    board = [row("none", 0.09), cbam, bad, row("eca", 0.09, (0.0, -0.1, 0.1))]
    assert caution(board) is None  # one seed: no p-values
    for entry, p in zip(board, (None, 0.001, 0.03, 0.9), strict=True):
        entry["p_value"] = p
    correction = "After Holm correction for 3 comparisons"
    assert caution(board) == f"{correction}, only `cbam` remains significant at 5%."
    cbam["p_value"] = 0.02
    assert caution(board) == f"{correction}, no difference remains significant at 5%."
    cbam["p_value"], bad["p_value"] = 0.001, 0.02
    assert caution(board) == "This remains significant at 5% after Holm correction for 3 comparisons."
    late = row("late", 0.2, (0.11, 0.09, 0.13))
    late["p_value"] = 0.04
    assert caution([*board, late]) == (
        "After Holm correction for 4 comparisons, only `cbam` remains significant at 5%."
    )
    bad["p_value"] = 0.01
    assert caution([*board, late]) == (
        "After Holm correction for 4 comparisons, only `cbam` and `bad` remain significant at 5%."
    )
    assert caution([board[0], cbam]) is None  # a single difference needs no correction
    assert caution([board[0], board[3], board[3]]) is None  # nothing to correct


def test_finding_when_nothing_helps() -> None:
    board = [row("none", 0.09), row("se", 0.04, (-0.05, -0.11, 0.01)), row("eca", 0.05, (-0.04, -0.1, 0.0))]
    assert finding(board) == "`se` and `eca` are not distinguishable from `none`."
    assert consequence(board) is None


def test_finding_without_a_baseline_with_one_seed_and_with_nothing_to_compare() -> None:
    assert "whether attention helps is unknown" in finding([row("se", 0.04)])
    assert finding([row("none", 0.09)]) == "Only `none` was run: its test error is 9.00%."
    alone = row("se", 0.04)
    alone["difference"] = {"mean": -0.05, "low": None, "high": None}
    assert "one seed gives no interval" in finding([row("none", 0.09), alone])


def test_attentions_that_tie_share_the_lowest_error() -> None:
    board = [row("se", 0.5), row("cbam", 0.5), row("bam", 0.5), row("eca", 0.6)]
    assert finding(board).startswith("`se`, `cbam` and `bam` share the lowest test error, 50.00%")
