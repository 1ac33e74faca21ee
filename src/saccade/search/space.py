"""The space of a search: mechanisms x places, and what each costs before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from saccade.attachment import KINDS, Site, Sites, sites
from saccade.config import Comparison, Recipe, resolve
from saccade.data import Task, load
from saccade.errors import BadOption, SaccadeError, bad_option
from saccade.grammar import parse
from saccade.layers.registry import specs
from saccade.profiling import flops, latency, training_memory
from saccade.results import BASELINE, SCHEMA, SearchCosts, SearchSpace, SpaceCandidate
from saccade.search.limits import Limit, check_any, exceeded_limit
from saccade.search.places import find_places, numbered_stages, site_key
from saccade.training import build, prepare

Report = Callable[[str, float], None]  # the current step, and the completed fraction

#: A reduction of channels of at least this much is also tried with `_FINER`.
_COARSE, _FINER = 8, 4


def default_mechanisms(dims: int) -> list[str]:
    """Return the mechanisms that a search tries: all that return maps of the shape that they take.

    A mechanism that reduces channels by 8 or more is tried with `reduction=4`, too.

    Args:
        dims: Number of spatial axes of the features: 2 for images, 3 for clips.

    Example:
        >>> [text for text in default_mechanisms(2) if text.startswith("c")]  # doctest: +ELLIPSIS
        ['cam', 'cbam', 'cbam:reduction=4', ...]
    """
    texts = []
    for spec in specs():
        if dims in spec.dims and spec.selection == "soft":
            texts.append(spec.name)
            default = next((option.default for option in spec.options if option.name == "reduction"), None)
            if isinstance(default, int) and default >= _COARSE:
                texts.append(f"{spec.name}:reduction={_FINER}")
    return texts


def explore(
    recipe: Recipe,
    mechanisms: Sequence[str],
    where: Sequence[str],
    limits: Sequence[Limit],
    report: Report = lambda _step, _fraction: None,
) -> SearchSpace:
    """Find all candidates, and measure their cost. Nothing is trained.

    Args:
        recipe: Recipe of all runs.
        mechanisms: Mechanisms as `NAME[:option=value,...]`; all that fit if there are none.
        where: Kinds of sites, or places; all kinds if there are none.
        limits: Limits on the cost of the model.
        report: Called with the progress.

    Returns:
        The space. Candidates that do not fit, or exceed a limit, say why.

    Raises:
        UnknownName: A mechanism, an option or a place does not exist.
        BadOption: No mechanism fits, or none meets the limits; the nearest is named.
        SaccadeError: The network cannot take the images, or another check of `prepare` fails.
    """
    recipe = replace(recipe, attention=BASELINE)
    plan = prepare(recipe)
    task = load(plan.task)
    texts = _checked(mechanisms) or default_mechanisms(len(task.shape) - 1)
    with torch.device("meta"):
        network, example = build(plan, len(task.classes), task.shape), torch.zeros(2, *task.shape)
    rename = numbered_stages if plan.backbone.name == "small" else Sites
    all_sites = rename(sites(network, example))
    places = find_places(network, all_sites, where or KINDS)
    if not places:
        counts = sorted({str(site.kind) for site in all_sites})
        problem = f"the network has no such place; it has {', '.join(counts) or 'none'}"
        raise BadOption.of("search", problem, counts, where=", ".join(where or KINDS))
    measured = [limit.cost for limit in limits if limit.cost in ("latency_ms", "memory")]
    parameters = sum(p.numel() for p in network.parameters())
    of_network: SearchCosts = {
        "parameters": parameters,
        "flops": flops(network, example[:1]),
        "latency_ms": None,
        "memory": None,
    }
    baseline = of_network | _measure(recipe, task, measured)
    candidates = []
    for number, mechanism in enumerate(texts):
        report(f"measuring {mechanism}", number / len(texts))
        costs = {site_key(site): site for site in rename(sites(network, example, mechanism))}
        for place, keys in places.items():
            candidate = _candidate(mechanism, place, [costs[key] for key in keys], of_network)
            candidates.append(_limited(candidate, recipe, task, measured, limits, baseline))
    check_any(candidates, limits, baseline)
    return {
        "schema": SCHEMA,
        "recipe": shared_recipe(recipe),
        "mechanisms": texts,
        "places": list(where),
        "limits": {limit.cost: limit.text for limit in limits},
        "baseline": baseline,
        "candidates": candidates,
    }


def shared_recipe(recipe: Recipe) -> dict[str, Any]:
    """Return the keys of a recipe that all runs of a search share."""
    mapping = Comparison((BASELINE,), 1, recipe).to_mapping()
    return {key: value for key, value in mapping.items() if key not in ("attentions", "seeds")}


def _checked(mechanisms: Sequence[str]) -> list[str]:
    """Return the mechanisms without "none", which is always trained."""
    for text in mechanisms:
        if "@" in text:
            raise bad_option("search", "names a place; use --where for places", attention=text)
        if mechanisms.count(text) > 1:
            raise bad_option("search", "occurs twice", attention=text)
        resolve(Recipe(attention=text))
    return [text for text in mechanisms if parse(text)[0] != BASELINE]


def _candidate(mechanism: str, place: str, chosen: Sequence[Site], of_network: SearchCosts) -> SpaceCandidate:
    refused = next((site.refused for site in chosen if site.refused), None)
    costs: SearchCosts = {
        "parameters": of_network["parameters"] + sum(site.parameters or 0 for site in chosen),
        "flops": of_network["flops"] + sum(site.flops or 0 for site in chosen),
        "latency_ms": None,
        "memory": None,
    }
    return {
        "attention": f"{mechanism}@{place}",
        "mechanism": mechanism,
        "place": place,
        "costs": None if refused else costs,
        "refused": refused,
    }


def _limited(
    candidate: SpaceCandidate,
    recipe: Recipe,
    task: Task,
    measured: Sequence[str],
    limits: Sequence[Limit],
    baseline: SearchCosts,
) -> SpaceCandidate:
    """Return a candidate with the reason if it exceeds a limit. What costs time is measured last."""
    costs = candidate["costs"]
    if costs is None:
        return candidate
    exceeded = exceeded_limit(costs, limits, baseline)
    if measured and not exceeded:
        try:
            costs = costs | _measure(replace(recipe, attention=candidate["attention"]), task, measured)
        except SaccadeError as error:
            return candidate | {"costs": None, "refused": str(error)}
        exceeded = exceeded_limit(costs, limits, baseline)
    return candidate | {"costs": costs, "refused": exceeded}


def _measure(recipe: Recipe, task: Task, names: Sequence[str]) -> SearchCosts:
    """Measure the latency on this machine, and the training memory, as far as `names` contains them."""
    plan = resolve(recipe)
    costs: dict[str, float] = {}
    if "memory" in names:
        with torch.device("meta"):
            network = build(plan, len(task.classes), task.shape)
            costs["memory"] = training_memory(network, torch.zeros(recipe.batch_size, *task.shape))
    if "latency_ms" in names:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        with torch.random.fork_rng(devices=[]):
            network = build(plan, len(task.classes), task.shape).to(device)
            costs["latency_ms"] = latency(network, torch.rand(1, *task.shape, device=device))
    return costs  # type: ignore[return-value]
