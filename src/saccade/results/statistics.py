"""Statistics over seeds: confidence intervals, paired tests, correction for multiple comparisons."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from scipy import stats

from saccade.results.schema import Interval

#: Significance level of all tests.
ALPHA = 0.05


def confidence_interval(
    values: Sequence[float], least: float = -1.0, most: float = 1.0, step: float = 0.0
) -> Interval:
    """Compute the mean of some values and its 95% confidence interval (Student's t).

    Args:
        values: One value per seed.
        least: Smallest possible value. The interval is clipped to [`least`, `most`].
        most: Largest possible value.
        step: Distance of two possible values, see `p_value`.

    Returns:
        The interval. Its bounds are None for a single value.

    Example:
        >>> confidence_interval([0.5])
        {'mean': 0.5, 'low': None, 'high': None}
    """
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return {"mean": mean, "low": None, "high": None}
    error = _deviation(values, step) / count**0.5
    low, high = stats.t.interval(1 - ALPHA, count - 1, mean, error) if error else (mean, mean)
    return {"mean": mean, "low": max(float(low), least), "high": min(float(high), most)}


def proportion_interval(count: int, total: int) -> Interval:
    """Compute the fraction `count / total` and its 95% confidence interval (Wilson's).

    References:
        E. B. Wilson: Probable inference, the law of succession, and statistical inference. JASA, 1927.
    """
    interval = stats.binomtest(count, total).proportion_ci(1 - ALPHA, method="wilson")
    return {"mean": count / total, "low": float(interval.low), "high": float(interval.high)}


def paired_differences(values: Mapping[int, float], baseline: Mapping[int, float]) -> list[float]:
    """Subtract the baseline's value from each value, for the seeds that both have.

    Example:
        >>> paired_differences({0: 3.0, 1: 5.0}, {1: 1.0, 2: 1.0})
        [4.0]
    """
    return [value - baseline[seed] for seed, value in values.items() if seed in baseline]


def p_value(differences: Sequence[float], step: float = 0.0) -> float | None:
    """Test whether the mean of paired differences is zero (Student's t, two-sided).

    Args:
        differences: One difference per seed.
        step: Distance of two possible values of what is subtracted: 1 / images for a test error. A deviation
            below that of rounding, step / sqrt(6), cannot be observed, and counts as this one. Otherwise, two
            seeds with the same difference by chance would be significant.

    Returns:
        The p-value, or None for a single difference.

    Example:
        >>> round(p_value([0.01, 0.02, 0.03]), 3), p_value([0.0, 0.0]), p_value([0.5])
        (0.074, 1.0, None)
    """
    count = len(differences)
    if count < 2:
        return None
    mean, deviation = statistics.fmean(differences), _deviation(differences, step)
    if not deviation:
        return float(mean == 0)
    # The formula of ttest_1samp, with an exact deviation: it warns if all differences are almost equal.
    return float(2 * stats.t.sf(abs(mean) / deviation * count**0.5, count - 1))


def _deviation(values: Sequence[float], step: float) -> float:
    return max(statistics.stdev(values), step / 6**0.5)


def significant(p_values: Mapping[str, float]) -> list[str]:
    """Return the names that are significant at 5% after Holm's correction, smallest p-value first.

    SciPy has no Holm correction.

    References:
        S. Holm: A simple sequentially rejective multiple test procedure. Scand. J. Statist., 1979.

    Example:
        >>> significant({"a": 0.001, "b": 0.03, "c": 0.04})
        ['a']
    """
    names: list[str] = []
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda pair: pair[1])):
        if not p * (len(p_values) - rank) < ALPHA:
            break
        names.append(name)
    return names
