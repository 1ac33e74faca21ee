"""Limits and budgets: parsed from text, and checked."""

from __future__ import annotations

import pytest

from saccade.errors import BadOption
from saccade.results import SearchCosts, SpaceCandidate
from saccade.search import Budget, Limit, format_amount
from saccade.search.limits import check_any, exceeded_limit
from support.errors import raises

BASE: SearchCosts = {"parameters": 1000, "flops": 2000, "latency_ms": 4.0, "memory": 8000}


@pytest.mark.parametrize(
    ("option", "text", "bound"),
    [
        ("max_parameters", "1.5k", 1500.0),
        ("max_parameters", "+10%", 1100.0),
        ("max_flops", "2G", 2e9),
        ("max_flops", "+0%", 2000.0),
        ("max_latency", "5", 5.0),
        ("max_latency", "250us", 0.25),
        ("max_latency", "+ 50 %", None),
        ("max_latency", "+50 %", 6.0),
        ("max_memory", "12 MB", 12e6),
    ],
)
def test_a_limit_is_absolute_or_relative_to_the_network(option: str, text: str, bound: float | None) -> None:
    if bound is None:
        with raises(BadOption, owner="search", option=option, value=text):
            Limit.parse(option, text)
    else:
        assert Limit.parse(option, text).bound(BASE) == pytest.approx(bound)


@pytest.mark.parametrize(
    "text", ["", "ten", "-5", "0", "10%", "+x%", "1e9", "5 parsecs", "9" * 40, "nan", "5ms"]
)
def test_what_is_no_limit_is_refused(text: str) -> None:
    with raises(BadOption, owner="search", option="max_flops", value=text):
        Limit.parse("max_flops", text)


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("2h", 7200, "seconds"),
        ("45m", 2700, "seconds"),
        ("1h30m", 5400, "seconds"),
        ("90s", 90, "seconds"),
        ("0.5h", 1800, "seconds"),
        ("40runs", 40, "runs"),
        ("1 run", 1, "runs"),
        (" 40 ", 40, "runs"),
    ],
)
def test_a_budget_is_a_time_or_a_number_of_runs(text: str, amount: float, unit: str) -> None:
    budget = Budget.parse(text)
    assert (budget.amount, budget.unit) == (amount, unit)


@pytest.mark.parametrize("text", ["", "much", "2 hours", "-1h", "0", "0h", "1.5runs", "h", "2d", "9" * 30])
def test_what_is_neither_is_refused(text: str) -> None:
    with raises(BadOption, owner="search", option="budget", value=text):
        Budget.parse(text)


def test_a_budget_that_the_finalists_use_up_is_refused() -> None:
    Budget.parse("22").check(20, 2, "the finalists")
    with raises(BadOption, option="budget", value="21"):
        Budget.parse("21").check(20, 2, "the finalists")
    with raises(BadOption, option="budget", value="10m"):
        Budget.parse("10m").check(1200, 120, "the finalists")


@pytest.mark.parametrize("amount", [1.0, 59.0, 60.0, 61.0, 3599.0, 3600.0, 7265.0])
def test_a_formatted_amount_is_enough(amount: float) -> None:
    assert Budget.parse(format_amount(amount, "seconds")).amount >= amount
    assert Budget.parse(format_amount(amount, "runs")).amount >= amount


def candidate(name: str, **costs: float) -> SpaceCandidate:
    of_candidate: SearchCosts = {**BASE, **costs}  # type: ignore[typeddict-item]
    return {
        "attention": name,
        "mechanism": name,
        "place": "stage",
        "costs": of_candidate,
        "refused": "exceeds",
    }


def test_the_nearest_is_the_one_that_exceeds_the_limits_least() -> None:
    limits = [Limit.parse("max_flops", "+1%"), Limit.parse("max_latency", "4.1ms")]
    far, near = candidate("far", flops=2100), candidate("near", flops=2010, latency_ms=4.2)
    assert exceeded_limit({**BASE, "flops": 2020}, limits, BASE) is None
    assert exceeded_limit({**BASE, "flops": 2021}, limits, BASE) == "flops +1.05%, the limit is +1%"
    with raises(BadOption, option="max_latency", value="4.1ms", choices=("near",)):
        check_any([far, near], limits, BASE)
    check_any([far, near | {"refused": None}], limits, BASE)
