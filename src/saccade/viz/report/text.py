"""Numbers and findings in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from saccade.viz.report.results import Interval, Row

BASELINE = "none"
MINUS = "\N{MINUS SIGN}"


def number(value: float, digits: int = 2) -> str:
    """Write a number with a fixed number of decimals and a true minus sign.

    >>> number(-0.5)
    '\N{MINUS SIGN}0.50'
    """
    return f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float, digits: int = 2) -> str:
    """Write a number with its sign, zero without.

    >>> signed(0.5), signed(-0.001)
    ('+0.50', '0.00')
    """
    text = f"{value:+.{digits}f}"
    return number(0, digits) if float(text) == 0 else text.replace("-", MINUS)


def count(value: float) -> str:
    """Write a large count with three digits and a unit.

    >>> count(870), count(11_180_000), count(1_824_000_000)
    ('870', '11.2 M', '1.82 G')
    """
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit * 0.9995:
            scaled = value / limit
            return f"{scaled:.{max(0, 2 - math.floor(math.log10(scaled) + 0.001))}f} {unit}"
    return f"{value:g}"


def duration(seconds: float) -> str:
    """Write a duration in the unit that suits it.

    >>> duration(4.2), duration(75), duration(8000)
    ('4.2 s', '1 min 15 s', '2 h 13 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def verdict(difference: Interval | None) -> str | None:
    """Say what a paired difference shows: "better" or "worse" only if its interval excludes 0.

    None where nothing can be said: no baseline, or one seed.

    >>> verdict({"mean": -0.02, "low": -0.03, "high": -0.01})
    'better'
    >>> verdict({"mean": -0.02, "low": -0.05, "high": 0.01})
    'unclear'
    """
    if difference is None or difference["low"] is None or difference["high"] is None:
        return None
    if difference["high"] < 0:
        return "better"
    return "worse" if difference["low"] > 0 else "unclear"


def finding(leaderboard: Sequence[Row]) -> str:
    """Return the one sentence that the leaderboard supports, and no more; names stand between backticks."""
    best = min(leaderboard, key=lambda row: row["error"]["mean"])
    lowest = f"`{best['attention']}` has the lowest test error, {number(100 * best['error']['mean'])}%"
    others = [row for row in leaderboard if row["attention"] != BASELINE]
    if not others:
        return f"Only `{BASELINE}` was run: its test error is {number(100 * best['error']['mean'])}%."
    if len(others) == len(leaderboard):
        return f"{lowest}; without `{BASELINE}` in the comparison, whether attention helps is unknown."
    verdicts = {row["attention"]: verdict(row["difference"]) for row in others}
    if all(found is None for found in verdicts.values()):
        return f"{lowest}; one seed gives no interval, so no difference can be told from chance."
    better = sorted((r for r in others if verdicts[r["attention"]] == "better"), key=_mean_difference)
    named = [f"`{row['attention']}` ({signed(100 * _mean_difference(row))} points)" for row in better]
    clauses = [f"{_list(named)} {_verb(named)} better than `{BASELINE}`"] if named else []
    for kind, words in (
        ("unclear", f"not distinguishable from `{BASELINE}`"),
        ("worse", f"worse than `{BASELINE}`"),
        (None, "without an interval"),
    ):
        alike = [f"`{name}`" for name, found in verdicts.items() if found == kind]
        if alike:
            clauses.append(f"{_list(alike)} {_verb(alike)} {words}")
    return "; ".join(clauses) + "."


def separable(p_values: Mapping[str, float]) -> list[str]:
    """Name the differences that can be told from chance at 5%, all of them taken together (Holm 1979).

    >>> separable({"a": 0.001, "b": 0.03, "c": 0.04})
    ['a']
    """
    found: list[str] = []
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda pair: pair[1])):
        if not p * (len(p_values) - rank) < 0.05:
            break
        found.append(name)
    return found


def caution(leaderboard: Sequence[Row]) -> str | None:
    """Say what is left of the finding when its differences are taken together; None if there is one or none.

    Of twenty differences that are nothing but chance, one excludes 0 by its interval.
    """
    values = {row["attention"]: row.get("p_value") for row in leaderboard}
    known = {name: p for name, p in values.items() if p is not None}
    alone = [row for row in leaderboard if verdict(row["difference"]) in ("better", "worse")]
    if len(known) < 2 or not alone:
        return None
    real = separable(known)
    if len(real) == len(alone):
        return f"That holds with all {len(known)} differences taken together (Holm, 5%)."
    left = f"only {_list([f'`{name}`' for name in real])}" if real else "none"
    return (
        f"Taken together, as {len(known)} differences have to be, {left} can be told from chance (Holm, 5%)."
    )


def consequence(leaderboard: Sequence[Row]) -> str | None:
    """Say what the most accurate attention that is better than the baseline costs, and where it looks."""
    better = [row for row in leaderboard if verdict(row["difference"]) == "better"]
    if not better:
        return None
    best = min(better, key=lambda row: row["error"]["mean"])
    base = next((row for row in leaderboard if row["attention"] == BASELINE), None)
    sentences = []
    if base and base["flops"] > 0 and base["latency_ms"] > 0:
        flops, latency = best["flops"] / base["flops"], best["latency_ms"] / base["latency_ms"]
        sentences.append(
            f"The most accurate of these, `{best['attention']}`, takes {flops:.2f} times the FLOPs "
            f"and {latency:.2f} times the latency of `{BASELINE}`."
        )
    if where := best["localization"]:
        how = "brightest" if where["polarity"] == "positive" else "darkest"
        sentences.append(
            f"Its maps are {how} on the target: average precision {number(where['precision']['mean'])}, "
            f"where chance is {number(where['chance'])}."
        )
    return " ".join(sentences) or None


def _mean_difference(row: Row) -> float:
    return row["difference"]["mean"] if row["difference"] else 0.0


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _verb(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
