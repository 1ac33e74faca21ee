"""The recommendation: it is not misled by noise, finds a real gain, and says what it rests on."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
import torch

import saccade as sc
from saccade.config import Recipe, resolve
from saccade.models import SmallCNN, load_backbone
from saccade.results import BASELINE, Advice, Row, Run, SearchRun, SpaceCandidate, compute_leaderboard
from saccade.search.finalists import best_candidates
from saccade.search.recommendation import advise, code_for, contributions, pareto_front
from saccade.search.sentence import Basis

BASIS = Basis(tried=12, candidates=37, epochs=9, images=400, chance_error=0.9)
COSTS = {BASELINE: (1.0, 100, 1000), "se@stage": (1.03, 101, 1010), "cbam@stage": (1.19, 102, 1100)}


def run(attention: str, seed: int, error: float) -> Run:
    latency, parameters, operations = COSTS.get(attention, (1.1, 105, 1050))
    return {
        "attention": attention,
        "seed": seed,
        "error": error,
        "loss": 1.0,
        "localization": None,
        "parameters": parameters,
        "flops": operations,
        "latency_ms": latency,
        "train_seconds": 1.0,
        "curves": {},
        "scores": None,
    }


def runs_of(errors: Mapping[str, Sequence[float]]) -> list[Run]:
    return [run(name, seed, error) for name, values in errors.items() for seed, error in enumerate(values)]


def advice_on(errors: Mapping[str, Sequence[float]], basis: Basis = BASIS) -> Advice:
    runs = runs_of(errors)
    return advise(compute_leaderboard(runs), runs, basis, {name: f"code of {name}" for name in errors})


def simulate(generator: random.Random, gain: float, *, candidates: int = 30, finalists: int = 3) -> bool:
    """Whether a study names a winner: all errors are noise, but the first candidate gains `gain`.

    Validation errors are drawn for all candidates, the lowest become finalists, and their test errors are
    drawn anew. The errors of a seed have a common part, as they start from the same weights.
    """
    truth = {f"m{number}@stage": 0.3 - (gain if number == 0 else 0.0) for number in range(candidates)}
    validation = {name: generator.gauss(mean, 0.02) for name, mean in truth.items()}
    costs: dict[str, SpaceCandidate] = {name: candidate(name) for name in truth}
    chosen = best_candidates([trained(name, error) for name, error in validation.items()], costs)[:finalists]
    common = [generator.gauss(0, 0.01) for _ in range(5)]
    errors = {
        name: [truth.get(name, 0.3) + part + generator.gauss(0, 0.02) for part in common]
        for name in (BASELINE, *chosen)
    }
    advice = advice_on(errors)
    assert (advice["attention"] is None) == advice["sentence"].startswith("Nothing helped:")
    return advice["attention"] is not None


def candidate(name: str) -> SpaceCandidate:
    mechanism, _, place = name.partition("@")
    return {
        "attention": name,
        "mechanism": mechanism,
        "place": place,
        "costs": {"parameters": 1, "flops": 1, "latency_ms": None, "memory": None},
        "refused": None,
    }


def trained(name: str, error: float, first: float | None = None) -> SearchRun:
    return {
        "attention": name,
        "state": "complete",
        "epochs": 9,
        "error": error,
        "first_error": error if first is None else first,
        "seconds": 1.0,
        "reason": None,
    }


@pytest.mark.parametrize("seed", [0, 1])
def test_pure_noise_has_a_winner_in_at_most_5_percent_of_200_studies(seed: int) -> None:
    generator = random.Random(seed)
    assert sum(simulate(generator, gain=0.0) for _ in range(200)) <= 10


def test_a_real_gain_has_a_winner_in_most_studies() -> None:
    generator = random.Random(0)
    assert sum(simulate(generator, gain=0.1) for _ in range(50)) >= 45


def test_choosing_by_the_test_error_of_the_candidates_would_be_misled() -> None:
    """The procedure is needed: the best of 30 candidates, tested once more by nobody, often seems to win."""
    generator, misled = random.Random(0), 0
    for _ in range(200):
        errors = {f"m{n}@stage": [generator.gauss(0.3, 0.02) for _ in range(5)] for n in range(30)}
        errors[BASELINE] = [generator.gauss(0.3, 0.02) for _ in range(5)]
        best = min(errors, key=lambda name: statistics.fmean(errors[name]))
        if best != BASELINE:
            misled += advice_on({BASELINE: errors[BASELINE], best: errors[best]})["attention"] is not None
    assert misled > 10


@pytest.mark.parametrize(("images", "seeds"), [(10, 2), (20, 2), (60, 3)])
def test_few_test_images_and_few_seeds_name_no_more_winners(images: int, seeds: int) -> None:
    """Errors are multiples of 1 / images: by chance, two seeds often have the same difference."""
    generator, winners = random.Random(0), 0
    basis = replace(BASIS, images=images)
    for _ in range(200):
        errors = {
            name: [sum(generator.random() < 0.3 for _ in range(images)) / images for _ in range(seeds)]
            for name in (BASELINE, "a@stage", "b@stage", "c@stage")
        }
        winners += advice_on(errors, basis)["attention"] is not None
    assert winners <= 10


BASE = [0.200, 0.210, 0.190, 0.205, 0.195]
RESTS_ON = "5 seeds, 9 epochs; 95% intervals over seeds on these 400 test images; Holm, 5%)."


def test_the_sentence_names_gain_interval_cost_and_basis() -> None:
    advice = advice_on(
        {
            BASELINE: BASE,
            "se@stage": [0.186, 0.199, 0.179, 0.192, 0.184],
            "cbam@stage": [0.187, 0.197, 0.178, 0.193, 0.183],
            "eca@stage": [0.201, 0.208, 0.192, 0.203, 0.197],
        }
    )
    assert advice["winners"] == ["cbam@stage", "se@stage"]
    assert advice["attention"] == "se@stage"  # as good, with fewer FLOPs
    assert advice["code"] == "code of se@stage"
    assert advice["sentence"] == (
        "se at stage: 1.2 points fewer errors [1.0, 1.4] for +3% [+3%, +3%] latency and +1% parameters; cbam "
        "at stage is not clearly different: 1.2 points fewer errors [1.1, 1.4] for +19% [+19%, +19%] latency "
        f"and +2% parameters (12 of 37 candidates tried; 3 finalists, {RESTS_ON}"
    )


def test_a_clearly_better_winner_is_recommended_although_it_costs_more() -> None:
    advice = advice_on(
        {
            BASELINE: BASE,
            "se@stage": [0.190, 0.201, 0.181, 0.194, 0.186],
            "cbam@stage": [0.150, 0.161, 0.141, 0.154, 0.146],
        }
    )
    assert advice["winners"] == ["cbam@stage", "se@stage"]
    assert advice["attention"] == "cbam@stage"
    assert "; se at stage gains less: 1.0 points fewer errors [" in advice["sentence"]


def test_latency_that_varies_has_an_interval() -> None:
    runs = runs_of({BASELINE: BASE, "se@stage": [error - 0.05 for error in BASE]})
    for number, one in enumerate(runs):
        one["latency_ms"] *= 1 + 0.3 * (number % 3)
    advice = advise(compute_leaderboard(runs), runs, BASIS, {"se@stage": ""})
    assert advice["sentence"].startswith(
        "se at stage: 5.0 points fewer errors [4.9, 5.1] for +14% [\N{MINUS SIGN}43%, +72%] latency and +1% "
    )


def test_a_finalist_that_is_significantly_worse_is_no_winner() -> None:
    advice = advice_on({BASELINE: [0.20, 0.21, 0.19, 0.205], "se@stage": [0.25, 0.261, 0.241, 0.2549]})
    assert advice["attention"] is None
    assert advice["winners"] == []
    assert advice["sentence"] == (
        "Nothing helped: the finalist has not significantly fewer test errors than the network without "
        "attention; the nearest, se at stage, has 5.0 points more errors [4.9, 5.2] (12 of 37 candidates "
        "tried; 1 finalist, 4 seeds, 9 epochs; 95% intervals over seeds on these 400 test images; Holm, 5%)."
    )


def test_that_nothing_helped_says_which_gain_remains_possible() -> None:
    sentence = advice_on({BASELINE: BASE, "se@stage": [0.195, 0.212, 0.185, 0.206, 0.189]})["sentence"]
    assert sentence.startswith("Nothing helped: ")
    assert "0.3 points fewer errors [\N{MINUS SIGN}0.2, 0.7], so that a gain of up to 0.7 points" in sentence


def test_a_single_interval_without_zero_is_not_significant_among_several() -> None:
    errors = {"se@stage": [0.190, 0.208, 0.181, 0.204, 0.187], "a@stage": BASE[::-1], "b@stage": BASE}
    sentence = advice_on({BASELINE: BASE, **errors})["sentence"]
    assert sentence.startswith("Nothing helped: ")
    assert "[0.1, 1.1], which is not significant among 3 finalists (" in sentence


def test_equal_errors_are_the_same_and_not_fewer() -> None:
    sentence = advice_on({BASELINE: BASE, "se@stage": BASE})["sentence"]
    assert "the nearest, se at stage, has the same test error [" in sentence


def test_a_network_that_has_not_learned_the_task_answers_nothing() -> None:
    """Although every seed has 5 points fewer errors."""
    errors = {BASELINE: [0.6 + error for error in BASE], "se@stage": [0.55 + error for error in BASE]}
    assert advice_on(errors)["attention"] == "se@stage"
    advice = advice_on(errors, replace(BASIS, chance_error=0.7))
    assert (advice["attention"], advice["winners"], advice["code"]) == (None, [], None)
    assert advice["sentence"].startswith(
        "No answer: no network has learned the task, since the lowest test error, 75.0%, is not below that "
        "of guessing, 70.0%"
    )


def test_finalists_that_diverged_are_named() -> None:
    basis = replace(BASIS, diverged=("cbam@stage", "se@2"))
    sentence = advice_on({BASELINE: BASE, "eca@stage": BASE[::-1]}, basis)["sentence"]
    assert "; 1 finalist, 5 seeds, 9 epochs; cbam at stage and se at stage 2 diverged; 95%" in sentence
    sentence = advice_on({BASELINE: BASE}, basis)["sentence"]
    assert sentence.startswith("Nothing helped: the training of every finalist diverged (12 of 37 candidates")


def test_too_few_seeds_answer_nothing() -> None:
    advice = advice_on({BASELINE: [0.2], "se@stage": [0.1]})
    assert advice["attention"] is None
    assert advice["sentence"].startswith("No answer: one seed is too few to tell a difference from chance")
    assert "10.0 points fewer errors (12 of" in advice["sentence"]
    advice = advice_on({BASELINE: [0.2, 0.25], "se@stage": [0.1, 0.2]})  # not even 0 errors are excluded
    assert advice["sentence"].startswith("No answer: 2 seeds are too few to tell a difference from chance")
    advice = advice_on({BASELINE: [0.0, 0.0], "se@stage": [0.0, 0.1]})  # but nothing can help this network
    assert advice["sentence"].startswith("Nothing helped: ")


def test_holm_counts_all_finalists() -> None:
    better = [0.190, 0.208, 0.181, 0.204, 0.187]  # p = 0.033, which is above 5% / 3
    alone = advice_on({BASELINE: BASE, "se@stage": better})
    among = advice_on({BASELINE: BASE, "se@stage": better, "a@stage": BASE[::-1], "b@stage": BASE})
    assert alone["attention"] == "se@stage"
    assert among["attention"] is None


def test_the_pareto_front_holds_what_nothing_beats() -> None:
    rows: list[Row] = compute_leaderboard(
        runs_of({BASELINE: [0.3], "se@stage": [0.2], "cbam@stage": [0.1], "eca@stage": [0.2]})
    )
    assert pareto_front(rows, "latency_ms") == [BASELINE, "se@stage", "cbam@stage"]
    assert pareto_front(rows, "parameters") == [BASELINE, "se@stage", "cbam@stage"]


def test_contributions_compare_all_candidates_at_the_first_rung() -> None:
    names = ["se@1", "se@2", "eca@1", "eca@2"]
    errors = {"se@1": 0.1, "se@2": 0.2, "eca@1": 0.3, "eca@2": 0.4, BASELINE: 0.9}
    levels = contributions(
        [trained(name, 0.0, first) for name, first in errors.items()],
        {name: candidate(name) for name in names},
    )
    assert [(level["factor"], level["level"], level["candidates"]) for level in levels] == [
        ("mechanism", "se", 2),
        ("mechanism", "eca", 2),
        ("place", "1", 2),
        ("place", "2", 2),
    ]
    assert [level["difference"] for level in levels] == pytest.approx([-0.1, 0.1, -0.05, 0.05])
    assert contributions([], {}) == []


@pytest.mark.parametrize("attention", ["cbam:reduction=4@residual", "eca@layer1.*.bn2+layer3.1"])
@pytest.mark.parametrize("identity", [True, False])
def test_the_code_inserts_the_attention(attention: str, identity: bool) -> None:
    plan = resolve(Recipe(backbone="resnet18", attention=attention, identity=identity))
    model, images = load_backbone("timm:resnet18:channels=[16,32,64,64]"), torch.randn(2, 3, 64, 64)
    eval(code_for(plan, attention), {"sc": sc, "model": model, "images": images})  # what a user pastes
    paths = sc.detach(model)
    assert len(paths) == (8 if attention.endswith("residual") else 3)
    assert ("identity=False" in code_for(plan, attention)) != identity


def test_the_code_for_a_small_network_builds_it() -> None:
    code = code_for(resolve(Recipe(attention="se:reduction=4@2+3")), "se:reduction=4@2+3")
    names: dict[str, object] = {"SmallCNN": SmallCNN, "classes": 2}
    exec(code, names)
    model = names["model"]
    assert isinstance(model, SmallCNN)
    assert sorted(model.attention) == ["2", "3"]
