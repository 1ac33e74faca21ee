"""What a leaderboard shows, in sentences. Names of attentions are in backticks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from saccade.results.schema import BASELINE, Interval, JoinedLocalization, Row
from saccade.results.statistics import significant

MINUS = "\N{MINUS SIGN}"
_WEAK = 0.25  # average precision below which a map hardly points at the target
Verdict = Literal["better", "worse", "unclear"]


def number(value: float, digits: int = 2) -> str:
    """Format a number with a fixed number of decimals and a true minus sign.

    Example:
        >>> number(-0.5)
        '\N{MINUS SIGN}0.50'
    """
    return f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float, digits: int = 2) -> str:
    """Format a number with its sign; zero has none.

    Example:
        >>> signed(0.5), signed(-0.001)
        ('+0.50', '0.00')
    """
    text = f"{value:+.{digits}f}"
    return number(0, digits) if float(text) == 0 else text.replace("-", MINUS)


def verdict(difference: Interval | None) -> Verdict | None:
    """Classify a paired difference of errors: "better" or "worse" only if its interval excludes 0.

    Returns:
        The verdict, or None without an interval: there is no baseline, or one seed.

    Example:
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
    """Return the one sentence that the leaderboard supports."""
    smallest = min(row["error"]["mean"] for row in leaderboard)
    error = f"{number(100 * smallest)}%"
    best = [f"`{row['attention']}`" for row in leaderboard if row["error"]["mean"] == smallest]
    lowest = f"{_list(best)} {'has' if len(best) == 1 else 'share'} the lowest test error, {error}"
    others = [row for row in leaderboard if row["attention"] != BASELINE]
    if not others:
        return f"Only `{BASELINE}` was run: its test error is {error}."
    if len(others) == len(leaderboard):
        return f"{lowest}; without `{BASELINE}` in the comparison, whether attention helps is unknown."
    verdicts = {row["attention"]: verdict(row["difference"]) for row in others}
    if not any(verdicts.values()):
        return f"{lowest}; one seed gives no interval, so no difference can be tested."
    better = sorted((r for r in others if verdicts[r["attention"]] == "better"), key=_mean_difference)
    named = [f"`{row['attention']}` ({signed(100 * _mean_difference(row))} points)" for row in better]
    clauses = [f"{_clause(named)} better than `{BASELINE}`"] if named else []
    for kind, predicate in (
        ("unclear", f"not distinguishable from `{BASELINE}`"),
        ("worse", f"worse than `{BASELINE}`"),
        (None, "without an interval"),
    ):
        names = [f"`{name}`" for name, reached in verdicts.items() if reached == kind]
        if names:
            clauses.append(f"{_clause(names)} {predicate}")
    return "; ".join(clauses) + "."


def caution(leaderboard: Sequence[Row]) -> str | None:
    """Say which differences of the finding remain significant after Holm's correction.

    Of twenty differences that are pure chance, one is expected to be significant at 5% by itself.

    Returns:
        The sentence, or None if fewer than two differences were tested or none excludes 0.
    """
    p_values = {row["attention"]: row["p_value"] for row in leaderboard if row["p_value"] is not None}
    uncorrected = sum(verdict(row["difference"]) in ("better", "worse") for row in leaderboard)
    if len(p_values) < 2 or not uncorrected:
        return None
    names = [f"`{name}`" for name in significant(p_values)]
    if len(names) == uncorrected:
        return f"This remains significant at 5% after Holm correction for {len(p_values)} comparisons."
    subject = f"only {_list(names)}" if names else "no difference"
    verb = "remain" if len(names) > 1 else "remains"
    return f"After Holm correction for {len(p_values)} comparisons, {subject} {verb} significant at 5%."


def consequence(leaderboard: Sequence[Row]) -> str | None:
    """Describe the cost and the maps of the most accurate attention that is better than the baseline.

    Returns:
        The sentences, or None if no attention is better.
    """
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
    if localization := best["localization"]:
        level = "highest" if localization["polarity"] == "positive" else "lowest"
        where = "hardly point at the target" if is_weak(localization) else f"are {level} on the target"
        sentences.append(
            f"Its maps {where}: average precision "
            f"{number(localization['precision']['mean'])}, chance {number(localization['chance'])}."
        )
    return " ".join(sentences) or None


def is_weak(localization: JoinedLocalization) -> bool:
    """Return whether a map hardly points at the target: its average precision is low, or near chance."""
    return localization["precision"]["mean"] < max(_WEAK, 2 * localization["chance"])


def _mean_difference(row: Row) -> float:
    return row["difference"]["mean"] if row["difference"] else 0.0


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _clause(names: Sequence[str]) -> str:
    return f"{_list(names)} {'is' if len(names) == 1 else 'are'}"
