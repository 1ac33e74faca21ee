"""Statistics: the numbers of SciPy, and those of the formulas in plain Python."""

from __future__ import annotations

import math
import statistics
import warnings
from typing import Any

import numpy as np
import pytest
from scipy import stats

from saccade.results.statistics import (
    confidence_interval,
    p_value,
    paired_differences,
    proportion_interval,
    significant,
)


def plain_interval(values: list[float], least: float) -> tuple[float, float]:
    """Student's interval as the textbook writes it."""
    mean = statistics.fmean(values)
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return max(mean - half, least), min(mean + half, 1.0)


@pytest.mark.parametrize("seed", range(20))
def test_interval_and_p_value_on_random_values(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values: list[float] = rng.normal(0.1, 10.0 ** -rng.integers(0, 6), int(rng.integers(2, 12))).tolist()
    for least in (-1.0, 0.0):
        interval = confidence_interval(values, least)
        assert interval["mean"] == statistics.fmean(values)
        assert (interval["low"], interval["high"]) == pytest.approx(plain_interval(values, least), abs=1e-12)
    test: Any = stats.ttest_1samp(values, 0)
    assert p_value(values) == pytest.approx(test.pvalue, rel=1e-9, abs=1e-12)


def test_interval_is_clipped() -> None:
    assert confidence_interval([0.0, 0.1], least=0.0)["low"] == 0.0  # an error cannot be negative
    assert confidence_interval([0.0, 0.1])["low"] == pytest.approx(0.05 - stats.t.ppf(0.975, 1) * 0.05)
    assert confidence_interval([0.9, 1.0])["high"] == 1.0
    assert confidence_interval([0.2]) == {"mean": 0.2, "low": None, "high": None}


def test_equal_values_have_an_interval_of_no_width_and_give_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert confidence_interval([0.25, 0.25]) == {"mean": 0.25, "low": 0.25, "high": 0.25}
        assert p_value([0.1, 0.1, 0.1]) == 0
        assert p_value([0.0, 0.0]) == 1
        assert p_value([0.1, 0.1, 0.1 + 1e-17, 0.1 + 2e-17]) == pytest.approx(0)
    assert p_value([0.1]) is None
    assert p_value([]) is None


def test_differences_are_paired_by_seed() -> None:
    differences = paired_differences({2: 0.5, 0: 0.25, 7: 1.0}, {0: 0.5, 1: 0.5, 2: 0.25})
    assert differences == [0.25, -0.25]


@pytest.mark.parametrize(("wrong", "images"), [(0, 10), (3, 31), (31, 31), (500, 10_000)])
def test_the_interval_of_a_proportion_is_wilsons(wrong: int, images: int) -> None:
    p, z = wrong / images, 1.959963984540054
    middle = p + z * z / (2 * images)
    half = z * math.sqrt(p * (1 - p) / images + z * z / (4 * images * images))
    interval = proportion_interval(wrong, images)
    bounds = [(middle - half) / (1 + z * z / images), (middle + half) / (1 + z * z / images)]
    assert [interval["low"], interval["high"]] == pytest.approx(bounds, abs=1e-12)
    assert interval["mean"] == p


def test_holm_corrects_step_by_step() -> None:
    assert significant({"a": 0.001, "b": 0.024, "c": 0.04}) == ["a", "b", "c"]
    assert significant({"a": 0.04, "b": 0.026, "c": 0.001}) == ["c"]  # 0.026 x 2 is too much
    assert significant({"a": 0.05}) == []
    assert significant({}) == []
