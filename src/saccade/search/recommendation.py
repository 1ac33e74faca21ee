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
    Interval,
    Row,
    Run,
    SearchRun,
    SpaceCandidate,
    confidence_interval,
    p_value,
    paired_differences,
    significant,
)
from saccade.search.sentence import (
    Basis,
    Finalist,
    chance_sentence,
    nothing_sentence,
    relative_latency,
    winner_sentence,
)

_COSTS: tuple[CostName, ...] = ("latency_ms", "parameters", "flops")


def advise(rows: Sequence[Row], runs: Sequence[Run], basis: Basis, codes: Mapping[str, str]) -> Advice:
    """Draw the conclusion from the tests of the finalists.

    A finalist wins if its mean test error is below that of `none` and the paired difference is significant at
    5% after Holm's correction for all finalists. Of the winners that no winner clearly beats, so that the
    interval of their paired difference is above 0, the one with the fewest FLOPs is recommended. Nothing is
    recommended if no network is better than guessing.

    Args:
        rows: The leaderboard of `none` and the finalists.
        runs: Their runs.
        basis: What the answer rests on.
        codes: The code that inserts each finalist.
    """
    by_name = {row["attention"]: row for row in rows}
    errors = _by_seed(runs, "error")
    names = [name for name in by_name if name != BASELINE]
    step = 1 / basis.images
    paired = {name: paired_differences(errors[name], errors[BASELINE]) for name in names}
    differences = {name: confidence_interval(paired[name], step=step) for name in names}
    seeds = min(row["seeds"] for row in rows)
    described = basis.describe(len(names), seeds)
    lowest = min(row["error"]["mean"] for row in rows)
    winners: list[str] = []
    chosen = None
    if lowest >= basis.chance_error:
        sentence = chance_sentence(lowest, basis.chance_error, described)
    else:
        finalists = _finalists(names, by_name, runs, differences)
        p_values = {name: p for name in names if (p := p_value(paired[name], step)) is not None}
        better = [name for name in significant(p_values) if differences[name]["mean"] < 0]
        winners = sorted(better, key=lambda name: by_name[name]["error"]["mean"])
        if winners:
            chosen = _cheapest_unbeaten(winners, by_name, errors, step)
            others = [name for name in winners if name != chosen]
            equal = [name for name in others if not _beats(errors[chosen], errors[name], step)]
            sentence = winner_sentence(
                finalists[chosen], [finalists[name] for name in others], equal, described
            )
        else:
            baseline_error = by_name[BASELINE]["error"]["mean"]
            sentence = nothing_sentence([*finalists.values()], seeds, baseline_error, described)
    return {
        "attention": chosen,
        "sentence": sentence,
        "winners": winners,
        "difference": differences[chosen] if chosen else None,
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


def _by_seed(runs: Sequence[Run], key: str) -> dict[str, dict[int, float]]:
    """Return a value of each run by attention and seed."""
    values: dict[str, dict[int, float]] = {}
    for run in runs:
        value: Any = run[key]  # type: ignore[literal-required]
        values.setdefault(run["attention"], {})[run["seed"]] = value
    return values


def _finalists(
    names: Sequence[str],
    rows: Mapping[str, Row],
    runs: Sequence[Run],
    differences: Mapping[str, Interval],
) -> dict[str, Finalist]:
    latency, parameters = _by_seed(runs, "latency_ms"), rows[BASELINE]["parameters"]
    return {
        name: Finalist(
            name,
            differences[name],
            relative_latency(latency[name], latency[BASELINE]),
            rows[name]["parameters"] / parameters,
        )
        for name in names
    }


def _beats(errors: Mapping[int, float], others: Mapping[int, float], step: float) -> bool:
    """Return whether the interval of the paired difference of others to these errors is above 0."""
    low = confidence_interval(paired_differences(others, errors), step=step)["low"]
    return low is not None and low > 0


def _cheapest_unbeaten(
    winners: Sequence[str],
    rows: Mapping[str, Row],
    errors: Mapping[str, Mapping[int, float]],
    step: float,
) -> str:
    """Return the winner with the fewest FLOPs of those that no winner clearly beats."""
    unbeaten = [
        name for name in winners if not any(_beats(errors[other], errors[name], step) for other in winners)
    ]
    return min(unbeaten, key=lambda name: (rows[name]["flops"], rows[name]["parameters"]))
