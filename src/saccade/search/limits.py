"""The limits of a search on cost, and its budget: parsed from text once, and checked."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from saccade.errors import BadOption, bad_option
from saccade.results import CostName, SearchCosts, SpaceCandidate

_COUNT = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_BYTES = {"": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9}
_MILLISECONDS = {"": 1.0, "us": 1e-3, "ms": 1.0, "s": 1e3}
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}

#: Option of the command line -> the cost that it limits.
COSTS: Mapping[str, CostName] = {
    "max_parameters": "parameters",
    "max_flops": "flops",
    "max_latency": "latency_ms",
    "max_memory": "memory",
}
_UNITS: Mapping[CostName, Mapping[str, float]] = {
    "parameters": _COUNT,
    "flops": _COUNT,
    "latency_ms": _MILLISECONDS,
    "memory": _BYTES,
}
_LARGEST = 1e15


@dataclass(frozen=True)
class Limit:
    """The largest cost of a model that a search may choose.

    Attributes:
        cost: The cost.
        text: What the user wrote.
        value: The largest value or, if it is relative, the largest fraction above the baseline.
        relative: Whether the value is relative to the model without attention.
    """

    cost: CostName
    text: str
    value: float
    relative: bool

    @classmethod
    def parse(cls, option: str, text: str) -> Limit:
        """Parse an absolute limit, `12M`, or one relative to the model without attention, `+10%`.

        Args:
            option: `max_parameters`, `max_flops`, `max_latency` or `max_memory`.
            text: The text.

        Raises:
            BadOption: The text has neither form.

        Example:
            >>> Limit.parse("max_latency", "+10%").value, Limit.parse("max_flops", "1.5G").value
            (0.1, 1500000000.0)
        """
        cost = COSTS[option]
        units = _UNITS[cost]
        if match := re.fullmatch(r"\+(\d{1,9}(?:\.\d{1,9})?)\s*%", text.strip()):
            return cls(cost, text, float(match[1]) / 100, relative=True)
        names = "|".join(units)
        match = re.fullmatch(rf"(\d{{1,15}}(?:\.\d{{1,9}})?)\s*({names})", text.strip())
        if match is None or not 0 < float(match[1]) * units[match[2]] <= _LARGEST:
            known = ", ".join(unit for unit in units if unit)
            expected = f"must be a positive number, with or without {known}, or a percentage such as '+10%'"
            raise bad_option("search", expected, **{option: text})
        return cls(cost, text, float(match[1]) * units[match[2]], relative=False)

    def bound(self, baseline: SearchCosts) -> float:
        """Return the largest cost, given that of the model without attention."""
        if not self.relative:
            return self.value
        base = baseline[self.cost]
        return math.inf if base is None else base * (1 + self.value)

    def excess(self, costs: SearchCosts, baseline: SearchCosts) -> float:
        """Return the fraction by which a cost exceeds the bound; at most 0 within the limit."""
        value = costs[self.cost]
        return 0.0 if value is None else value / self.bound(baseline) - 1


@dataclass(frozen=True)
class Budget:
    """How much a study may train.

    Attributes:
        text: What the user wrote.
        amount: Seconds of training, or runs.
        unit: "seconds" or "runs".
    """

    text: str
    amount: float
    unit: Literal["seconds", "runs"]

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Parse a time, `2h`, `45m` or `1h30m`, or a number of runs, `40runs` or `40`.

        Raises:
            BadOption: The text is neither.

        Example:
            >>> Budget.parse("1h30m").amount, Budget.parse("40runs").unit
            (5400.0, 'runs')
        """
        shown = text.strip().lower()
        if match := re.fullmatch(r"(\d{1,9})\s*(?:runs?)?", shown):
            amount, unit = float(match[1]), "runs"
        elif re.fullmatch(r"(?:\d{1,9}(?:\.\d{1,9})?[hms])+", shown):
            parts = re.findall(r"([\d.]+)([hms])", shown)
            amount, unit = sum(float(number) * _SECONDS[letter] for number, letter in parts), "seconds"
        else:
            amount, unit = 0.0, "runs"
        if not 0 < amount < _LARGEST:
            expected = "must be a time, such as 2h, 45m or 1h30m, or a number of runs, such as 40runs"
            raise bad_option("search", expected, budget=text)
        return cls(text, amount, "seconds" if unit == "seconds" else "runs")

    def check(self, reserved: float, need: float, purpose: str) -> None:
        """Raise `BadOption` unless the budget covers what is reserved for the finalists, and the search.

        Args:
            reserved: Amount that the finalists take.
            need: Least amount for the search before them.
            purpose: What the finalists take, for the message.
        """
        if self.amount < reserved + need:
            least = format_amount(reserved + need, self.unit)
            message = (
                f"budget={self.text!r} is too small: {purpose} take "
                f"{format_amount(reserved, self.unit)} of it; allow at least {least}, or fewer finalists, "
                f"seeds or epochs"
            )
            raise BadOption(message, owner="search", option="budget", value=self.text)


def format_amount(amount: float, unit: str) -> str:
    """Format an amount of a budget as `Budget.parse` reads it; it is rounded up.

    Example:
        >>> format_amount(5430, "seconds"), format_amount(19.2, "runs"), format_amount(0.5, "seconds")
        ('1h31m', '20 runs', '1s')
    """
    if unit == "runs":
        return f"{math.ceil(amount)} runs"
    if amount <= 60:
        return f"{math.ceil(amount)}s"
    hours, minutes = divmod(math.ceil(amount / 60), 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m"


def exceeded_limit(costs: SearchCosts, limits: Sequence[Limit], baseline: SearchCosts) -> str | None:
    """Return how a cost exceeds the first limit that it exceeds, or None within all limits."""
    for limit in limits:
        if limit.excess(costs, baseline) > 0:
            return f"{describe_cost(limit, costs, baseline)}, the limit is {limit.text}"
    return None


def describe_cost(limit: Limit, costs: SearchCosts, baseline: SearchCosts) -> str:
    """Describe a cost as its limit is written: as a percentage above the baseline, or as a number."""
    name = limit.cost.removesuffix("_ms")
    value, base = costs[limit.cost] or 0, baseline[limit.cost] or 0
    if limit.relative and base:
        return f"{name} {100 * (value / base - 1):+.2f}%"
    return f"{name} {value:,.2f} ms" if limit.cost == "latency_ms" else f"{name} {value:,}"


def check_any(candidates: Sequence[SpaceCandidate], limits: Sequence[Limit], baseline: SearchCosts) -> None:
    """Raise `BadOption` if no candidate can be trained."""
    if any(candidate["refused"] is None for candidate in candidates):
        return
    fitting = [(candidate, candidate["costs"]) for candidate in candidates if candidate["costs"]]
    if not fitting:
        reason = candidates[0]["refused"]
        problem = f"no mechanism fits the network at these places; {candidates[0]['attention']}: {reason}"
        raise BadOption(f"search: {problem}", owner="search", option="attention", value=None)
    excess = {limit.cost: limit for limit in limits}
    nearest, costs = min(fitting, key=lambda pair: max(limit.excess(pair[1], baseline) for limit in limits))
    worst = max(limits, key=lambda limit: limit.excess(costs, baseline))
    option = next(option for option, cost in COSTS.items() if cost == worst.cost)
    shown = describe_cost(excess[worst.cost], costs, baseline)
    message = (
        f"no mechanism meets {option}={worst.text!r}; the nearest is {nearest['attention']!r} with {shown}"
    )
    raise BadOption(message, owner="search", option=option, value=worst.text, choices=[nearest["attention"]])
