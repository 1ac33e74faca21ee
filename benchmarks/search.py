"""Compare the search with random search and with the full grid, where the truth is known.

python benchmarks/search.py

Nothing is trained: the truth is a synthetic table of errors, mechanism x place, with learning curves and the
noise of a seed. The studies are real: Optuna chooses, stops and stores, as in `saccade search`.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler

from saccade.files import write_json
from saccade.results import BASELINE, SCHEMA, SearchSpace, hardware_info
from saccade.search import Study, best_candidates, open_study

RESULT = Path(__file__).parent / "results" / "search.json"
MECHANISMS, PLACES, EPOCHS = 6, 6, 9
SEED_NOISE = (
    0.01  # standard deviation of the error of a complete run over seeds; the standard error of one run
)
EPOCH_NOISE = 0.004  # further noise of each epoch
BUDGETS = (5, 10, 15, 20, 25, 30, 37)  # complete runs; the grid has 37 with the model without attention
FINALISTS = 3

STRATEGIES: Mapping[str, dict[str, Any]] = {
    "search": {},
    "random order, halving": {"sampler": RandomSampler},
    "random order": {"sampler": RandomSampler, "pruner": NopPruner()},
}


def truth(generator: random.Random) -> dict[str, float]:
    """Draw the error of each candidate: effects of mechanism and place, and what is particular to the two."""
    mechanisms = [generator.gauss(0, 0.015) for _ in range(MECHANISMS)]
    places = [generator.gauss(0, 0.015) for _ in range(PLACES)]
    errors = {
        f"m{m}@p{p}": 0.3 + mechanisms[m] + places[p] + generator.gauss(0, 0.005)
        for m in range(MECHANISMS)
        for p in range(PLACES)
    }
    return {BASELINE: 0.3, **errors}


def space(errors: Mapping[str, float]) -> SearchSpace:
    costs: Any = {"parameters": 1, "flops": 1, "latency_ms": None, "memory": None}
    return {
        "schema": SCHEMA,
        "recipe": {},
        "mechanisms": [],
        "places": [],
        "limits": {},
        "baseline": costs,
        "candidates": [
            {
                "attention": name,
                "mechanism": name.partition("@")[0],
                "place": name.partition("@")[2],
                "costs": costs,
                "refused": None,
            }
            for name in errors
            if name != BASELINE
        ],
    }


def curve(error: float, generator: random.Random) -> list[float]:
    """Draw the validation errors of a run: they fall exponentially to the error, as epochs pass."""
    end = error + generator.gauss(0, SEED_NOISE)
    return [
        end + 0.3 * (math.exp(-epoch / 2) - math.exp(-EPOCHS / 2)) + generator.gauss(0, EPOCH_NOISE)
        for epoch in range(1, EPOCHS + 1)
    ]


def simulate(strategy: str, seed: int, folder: Path) -> list[tuple[float, bool]]:
    """Run one study until all candidates are chosen.

    Returns:
        After each candidate, the complete runs spent, and whether one of the best three by validation has an
        error within one standard error of the best.
    """
    generator = random.Random(seed)
    errors = truth(generator)
    goal = min(error for name, error in errors.items() if name != BASELINE) + SEED_NOISE
    trace = []
    with open_study(folder, space(errors), EPOCHS, **STRATEGIES[strategy]) as study:
        while (trial := study.ask()) is not None:
            number, name = trial
            for epoch, error in enumerate(curve(errors[name], generator), start=1):
                if study.report(number, epoch, error, float(epoch)):
                    break
            study.finish(number)
            trace.append((study.spent("runs"), any(errors[best] <= goal for best in leading(study))))
    return trace


def leading(study: Study) -> list[str]:
    return best_candidates(study.runs(), study.candidates)[:FINALISTS]


def found_within(trace: list[tuple[float, bool]], budget: float) -> bool:
    """Return whether the best is among the finalists, once the next candidate would exceed the budget."""
    known = [found for spent, found in trace if spent <= budget + 1e-9]
    return bool(known) and known[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=40, help="number of studies of each strategy")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    rows = []
    for strategy in STRATEGIES:
        traces = []
        for seed in range(arguments.studies):
            with tempfile.TemporaryDirectory() as folder:
                traces.append(simulate(strategy, seed, Path(folder)))
        share = {str(budget): hits(traces, budget) for budget in BUDGETS}
        enough = next((budget for budget in range(1, 38) if hits(traces, budget) >= 0.8), None)
        total = statistics.fmean(trace[-1][0] for trace in traces)
        rows.append(
            {"strategy": strategy, "found": share, "runs_for_80_percent": enough, "runs_of_all": total}
        )
        shown = "  ".join(f"{budget}: {value:.0%}" for budget, value in share.items())
        print(f"{strategy:24} {shown}   80% with {enough} runs; all candidates take {total:.1f}", flush=True)
    write_json(
        arguments.out,
        {
            "command": f"python benchmarks/search.py --studies {arguments.studies}",
            "hardware": hardware_info(),
            "truth": "synthetic",
            "mechanisms": MECHANISMS,
            "places": PLACES,
            "epochs": EPOCHS,
            "studies": arguments.studies,
            "standard_error": SEED_NOISE,
            "results": rows,
        },
    )


def hits(traces: list[list[tuple[float, bool]]], budget: float) -> float:
    """Return the share of studies that have the best among the finalists within a budget."""
    return statistics.fmean(found_within(trace, budget) for trace in traces)


if __name__ == "__main__":
    main()
