"""The search: explore the space, train candidates, test finalists, and recommend."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import saccade
from saccade.config import Comparison, Recipe, resolve
from saccade.data import load
from saccade.errors import BadOption, BadRun, check_positive
from saccade.experiments import Ray
from saccade.files import check_folder
from saccade.results import (
    BASELINE,
    SCHEMA,
    SPACE,
    SearchResults,
    SearchSpace,
    check_unused,
    hardware_info,
    read_space,
    write_search,
    write_space,
)
from saccade.search.execution import Candidates, Observer
from saccade.search.finalists import (
    CANDIDATE_SEED,
    FINALISTS,
    best_candidates,
    train_finalists,
    waiting_lock,
)
from saccade.search.limits import Budget, Limit
from saccade.search.recommendation import advise, code_for, contributions
from saccade.search.sentence import Basis
from saccade.search.space import default_mechanisms, explore, shared_recipe
from saccade.search.study import open_study
from saccade.training import LoggerName, prepare


def search(
    recipe: Recipe,
    out: Path,
    budget: Budget,
    *,
    mechanisms: Sequence[str] = (),
    where: Sequence[str] = (),
    limits: Sequence[Limit] = (),
    finalists: int = 3,
    seeds: int = 5,
    observer: Observer | None = None,
    logger: LoggerName = "auto",
    executor: Ray | None = None,
) -> SearchResults:
    """Find the attention that helps a network on a task, and where.

    1. All mechanisms at all places that fit the network and the limits are the candidates.
    2. Candidates are trained with one seed and chosen by TPE. Successive halving stops those whose validation
       error is high. Their test error is not computed.
    3. The finalists, which have the lowest validation errors, and the model without attention are trained
       anew with fresh seeds, and tested.
    4. A finalist is recommended if its paired differences are significant after Holm's correction.

    Killed at any moment, the same call continues. Several processes can make the same call at once.

    Args:
        recipe: Recipe of all runs. Its attention, seed and early stopping are ignored for candidates.
        out: Folder of the search.
        budget: How much is trained, with the finalists. The finalists are always completed.
        mechanisms: Mechanisms as `NAME[:option=value,...]`; by default, all that fit.
        where: Kinds of sites, or places; by default, all kinds.
        limits: Limits on the cost of the model.
        finalists: Number of finalists.
        seeds: Number of seeds of each finalist.
        observer: Receives the progress.
        logger: Where the curves of the finalists go, see `saccade.training.train`.
        executor: The Ray cluster on which candidates and finalists are trained; by default, this process.

    Returns:
        The content of search.json.

    Raises:
        BadOption: The budget does not cover the finalists, no mechanism meets the limits, a number is not
            positive, or no cluster answers.
        BadRecipe: There are more seeds than a comparison can have.
        BadRun: The folder belongs to another search, or its storage is locked.
        SaccadeError: The network cannot be trained on this task.
    """
    check_positive("search", finalists=finalists, seeds=seeds)
    Comparison((BASELINE,), seeds, recipe)  # raises `BadRecipe` for too many seeds
    runs = (finalists + 1) * seeds
    purpose = f"the {runs} runs of the finalists ({finalists} and none, {seeds} seeds each)"
    if budget.unit == "runs":
        budget.check(runs, 2, purpose)
    space = _space(recipe, out, mechanisms, where, limits, observer)
    base = replace(recipe, attention=BASELINE, seed=CANDIDATE_SEED, early_stopping_patience=None)
    with open_study(out, space, recipe.epochs) as study:
        if observer:
            observer.opened(study, budget)

        def may_start() -> bool:
            reserved = runs if budget.unit == "runs" else study.seconds_of_finalists(finalists, seeds)
            if not best_candidates(study.runs(), study.candidates):
                budget.check(reserved, 2 * reserved / runs, purpose)
            return study.is_within(budget, reserved)

        candidates = Candidates(study, base, out, may_start, observer)
        if executor:
            candidates.train_on(executor)
        else:
            candidates.train()
        chosen = study.finalists(finalists)
        trained, spent = study.runs(), study.spent(budget.unit)
    if not chosen:
        reasons = (f"{run['attention']}: {run['reason']}" for run in trained if run["reason"])
        reason = next(reasons, "another process stopped before its first epoch")
        raise BadOption(
            f"search: no candidate could be trained; {reason}", owner="search", option="attention"
        )
    if observer:
        observer.selected(Comparison((BASELINE, *chosen), seeds, recipe))
    tested, diverged = train_finalists(recipe, chosen, seeds, out / FINALISTS, observer, logger, executor)
    kept = [name for name in chosen if name not in diverged]
    codes = {name: code_for(resolve(replace(recipe, attention=name)), name) for name in kept}
    by_name = {candidate["attention"]: candidate for candidate in space["candidates"]}
    allowed = sum(candidate["refused"] is None for candidate in by_name.values())
    basis = Basis(
        tried=sum(run["epochs"] > 0 and run["attention"] != BASELINE for run in trained),
        candidates=allowed,
        epochs=recipe.epochs,
        images=tested["task"]["test"],
        chance_error=tested["task"]["chance_error"],
        diverged=tuple(diverged),
    )
    results: SearchResults = {
        "schema": SCHEMA,
        "saccade": saccade.__version__,
        "command": shlex.join(["saccade", *sys.argv[1:]]),
        "recipe": space["recipe"],
        "hardware": hardware_info(),
        "task": tested["task"],
        "budget": budget.text,
        "spent": spent,
        "seeds": seeds,
        "limits": space["limits"],
        "candidates": allowed,
        "refused": len(by_name) - allowed,
        "runs": trained,
        "finalists": kept,
        "factors": contributions(trained, by_name),
        "leaderboard": tested["leaderboard"],
        "advice": advise(tested["leaderboard"], tested["runs"], basis, codes),
    }
    write_search(out, results)
    return results


def _space(
    recipe: Recipe,
    out: Path,
    mechanisms: Sequence[str],
    where: Sequence[str],
    limits: Sequence[Limit],
    observer: Observer | None,
) -> SearchSpace:
    """Return the space in a folder, which must be the requested one, or explore and write it."""
    check_folder(out)
    if not (out / SPACE).exists():
        if out.exists():
            check_unused(out)
        space = explore(recipe, mechanisms, where, limits, observer.exploring if observer else _silent)
        with waiting_lock(out):
            if not (out / SPACE).exists():  # otherwise, another process was faster
                write_space(out, space)
    stored = read_space(out)
    shape = load(prepare(replace(recipe, attention=BASELINE)).task).shape
    asked = {
        "mechanisms": [name for name in mechanisms if name != BASELINE] or default_mechanisms(len(shape) - 1),
        "places": list(where),
        "limits": {limit.cost: limit.text for limit in limits},
        **shared_recipe(recipe),
    }
    old = {key: stored[key] for key in ("mechanisms", "places", "limits")} | stored["recipe"]
    if changed := [key for key in asked if asked[key] != old.get(key)]:
        key = changed[0]
        message = (
            f"{str(out)!r} belongs to the search of another space: {key} {old.get(key)!r}, not "
            f"{asked[key]!r}; choose another --out"
        )
        raise BadRun(message, owner=str(out), option=key, value=asked[key])
    return stored


def _silent(_step: str, _fraction: float) -> None:
    """Report nothing."""
