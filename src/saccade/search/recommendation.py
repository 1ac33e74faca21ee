"""What the finalists show: the recommendation, the code to paste, the Pareto front and the factors."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from saccade.attachment import KINDS
from saccade.config import Plan
from saccade.results import (
    BASELINE,
    Advice,
    CostName,
    FactorLevel,
    Row,
    Run,
    SearchRun,
    SpaceCandidate,
    confidence_interval,
    number,
    significant,
)

_COSTS: tuple[CostName, ...] = ("latency_ms", "parameters", "flops")
_ALPHA = "5%"


def advise(rows: Sequence[Row], runs: Sequence[Run], images: int, codes: Mapping[str, str]) -> Advice:
    """Draw the conclusion from the tests of the finalists.

    A finalist wins if its mean test error is below that of `none` and the paired difference is significant at
    5% after Holm's correction for all finalists. Of the winners, those are equivalent to the most accurate
    one whose paired difference to it has an interval that contains 0; the one with the fewest FLOPs is
    recommended.

    Args:
        rows: The leaderboard of `none` and the finalists.
        runs: Their runs.
        images: Number of test images.
        codes: The code that inserts each finalist.
    """
    by_name = {row["attention"]: row for row in rows}
    p_values = {name: row["p_value"] for name, row in by_name.items() if row["p_value"] is not None}
    better = [name for name in significant(p_values) if _mean(by_name[name]) < 0]
    winners = sorted(better, key=lambda name: by_name[name]["error"]["mean"])
    chosen = _cheapest_equivalent(winners, by_name, runs) if winners else None
    seeds = min(row["seeds"] for row in rows)
    if chosen is None:
        sentence = _nothing(rows, len(p_values), seeds, images)
    else:
        sentence = _sentence(chosen, winners, by_name, len(p_values), seeds, images)
    return {
        "attention": chosen,
        "sentence": sentence,
        "winners": winners,
        "difference": by_name[chosen]["difference"] if chosen else None,
        "code": codes[chosen] if chosen else None,
        "pareto": {cost: pareto_front(rows, cost) for cost in _COSTS},
    }


def code_for(plan: Plan, text: str) -> str:
    """Return the Python code that inserts the attention of a plan into its network.

    Args:
        plan: The plan of a run with attention.
        text: The attention, `NAME[:option=value,...]@PLACE[+PLACE...]`.
    """
    mechanism, _, place = text.partition("@")
    places = place.split("+")
    if plan.backbone.name == "small":
        slots = ", ".join(f"{slot}: {mechanism!r}" for slot in places)
        return f"model = SmallCNN(classes, attention={{{slots}}})"
    where = repr(place) if place in KINDS else repr(places)
    identity = "" if plan.recipe.identity else ", identity=False"
    return f"sc.attach(model, {mechanism!r}, where={where}, example_inputs=images{identity})"


def pareto_front(rows: Sequence[Row], cost: str) -> list[str]:
    """Return the attentions that no other beats in both mean test error and a cost, cheapest first."""

    def values(row: Row) -> tuple[float, float]:
        value: Any = row[cost]  # type: ignore[literal-required]
        return value, row["error"]["mean"]

    def is_beaten(row: Row) -> bool:
        own = values(row)
        return any(other[0] <= own[0] and other[1] <= own[1] and other != own for other in map(values, rows))

    return [row["attention"] for row in sorted(rows, key=values) if not is_beaten(row)]


def contributions(runs: Sequence[SearchRun], candidates: Mapping[str, SpaceCandidate]) -> list[FactorLevel]:
    """Average the validation error at the first rung, which all candidates reach, over each factor level.

    The values describe the candidates of this study; they are not tested.

    Returns:
        The levels of each factor, the most helpful first.
    """
    errors = {
        run["attention"]: run["first_error"]
        for run in runs
        if run["attention"] in candidates and run["first_error"] is not None
    }
    if not errors:
        return []
    mean = statistics.fmean(errors.values())
    levels: list[FactorLevel] = []
    for factor in ("mechanism", "place"):
        groups: dict[str, list[float]] = {}
        for name, error in errors.items():
            groups.setdefault(candidates[name][factor], []).append(error)
        of_factor: list[FactorLevel] = [
            {
                "factor": factor,
                "level": level,
                "candidates": len(group),
                "difference": statistics.fmean(group) - mean,
            }
            for level, group in groups.items()
        ]
        levels += sorted(of_factor, key=lambda level: level["difference"])
    return levels


def _mean(row: Row) -> float:
    return row["difference"]["mean"] if row["difference"] else 0.0


def _cheapest_equivalent(winners: Sequence[str], rows: Mapping[str, Row], runs: Sequence[Run]) -> str:
    """Return the winner with the fewest FLOPs of those that the most accurate one does not clearly beat."""
    errors: dict[str, dict[int, float]] = {}
    for run in runs:
        errors.setdefault(run["attention"], {})[run["seed"]] = run["error"]
    best = errors[winners[0]]

    def is_equivalent(name: str) -> bool:
        interval = confidence_interval([errors[name][seed] - best[seed] for seed in best])
        return name == winners[0] or interval["low"] is None or interval["low"] <= 0

    equivalent = [name for name in winners if is_equivalent(name)]
    return min(equivalent, key=lambda name: (rows[name]["flops"], rows[name]["parameters"]))


def _sentence(
    chosen: str, winners: Sequence[str], rows: Mapping[str, Row], tests: int, seeds: int, images: int
) -> str:
    first = f"{_named(chosen)}: {_points(rows[chosen])} for {_cost(rows[chosen], rows[BASELINE])}"
    others = [
        f"{_named(name)}: {_points(rows[name])} for {_cost(rows[name], rows[BASELINE])}"
        for name in winners
        if name != chosen
    ]
    also = f"; also better than none, {'; '.join(others)}" if others else ""
    return f"{first}{also} ({_basis(tests, seeds, images)})."


def _nothing(rows: Sequence[Row], tests: int, seeds: int, images: int) -> str:
    finalists = [row for row in rows if row["attention"] != BASELINE]
    if not finalists:
        return "Nothing helped: no candidate could be trained."
    nearest = min(finalists, key=_mean)
    count = f"none of the {len(finalists)} finalists has" if len(finalists) > 1 else "the finalist has not"
    tested = f"{count} significantly fewer test errors than the network without attention"
    if not tests:
        tested = "one seed per finalist tests no difference"
    closest = f"the nearest, {_named(nearest['attention'])}, has {_points(nearest)}"
    return f"Nothing helped: {tested}; {closest} ({_basis(tests, seeds, images)})."


def _basis(tests: int, seeds: int, images: int) -> str:
    finalists = f"{tests} finalist{'s' if tests != 1 else ''}"
    return f"{seeds} seeds, {images:,} test images; 95% intervals over seeds; Holm, {finalists}, {_ALPHA}"


def _named(text: str) -> str:
    """Name an attention in a sentence; places that are numbers are stages of a small CNN."""
    mechanism, _, place = text.partition("@")
    return f"{mechanism} at {'stage ' if place[:1].isdigit() else ''}{place}"


def _points(row: Row) -> str:
    """Describe a difference of errors: `1.2 points fewer errors [0.7, 1.7]`, or `more errors`."""
    difference = row["difference"]
    if difference is None:
        return f"a test error of {number(100 * row['error']['mean'], 1)}%"
    sign = 1 if difference["mean"] > 0 else -1
    text = f"{number(100 * abs(difference['mean']), 1)} points {'more' if sign > 0 else 'fewer'} errors"
    if difference["low"] is None or difference["high"] is None:
        return text
    low, high = sorted(100 * sign * bound for bound in (difference["low"], difference["high"]))
    return f"{text} [{number(low, 1)}, {number(high, 1)}]"


def _cost(row: Row, baseline: Row) -> str:
    latency = 100 * (row["latency_ms"] / baseline["latency_ms"] - 1)
    parameters = 100 * (row["parameters"] / baseline["parameters"] - 1)
    return f"{_percent(latency)} latency and {_percent(parameters)} parameters"


def _percent(value: float) -> str:
    """Return a change in percent, without a sign if it rounds to zero.

    Example:
        >>> _percent(3.2), _percent(-0.01), _percent(0.24)
        ('+3%', '+0%', '+0.2%')
    """
    digits = 0 if abs(value) >= 1 else 1
    text = f"{value:+.{digits}f}%"
    return "+0%" if float(text[:-1]) == 0 else text.replace("-", "\N{MINUS SIGN}")
