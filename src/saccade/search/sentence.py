"""The answer of a search in one sentence, with what it rests on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saccade.results import Interval, confidence_interval, number

_ALPHA = "5%"
_SMALLEST = 0.0005  # the smallest difference that is not 0.0 points


@dataclass(frozen=True)
class Basis:
    """What an answer rests on.

    Attributes:
        tried: Number of candidates that were trained.
        candidates: Number of candidates within the limits.
        epochs: Epochs of a run.
        images: Number of test images.
        chance_error: Test error of guessing.
        diverged: Finalists whose loss was not finite.
    """

    tried: int
    candidates: int
    epochs: int
    images: int
    chance_error: float
    diverged: tuple[str, ...] = ()

    def describe(self, finalists: int, seeds: int) -> str:
        """Return the part of the sentence in parentheses."""
        tried = f"{self.tried} of {_count(self.candidates, 'candidate')} tried"
        runs = f"{_count(finalists, 'finalist')}, {_count(seeds, 'seed')}, {_count(self.epochs, 'epoch')}"
        intervals = f"95% intervals over seeds on these {_count(self.images, 'test image')}"
        diverged = f"; {' and '.join(map(in_words, self.diverged))} diverged" if self.diverged else ""
        return f"{tried}; {runs}{diverged}; {intervals}; Holm, {_ALPHA}"


@dataclass(frozen=True)
class Finalist:
    """A finalist in a sentence.

    Attributes:
        attention: The attention.
        difference: Test error minus that of the network without attention, over seeds.
        latency: Latency divided by that of the network without attention, over seeds.
        parameters: Parameters divided by those of the network without attention.
    """

    attention: str
    difference: Interval
    latency: Interval
    parameters: float

    @property
    def name(self) -> str:
        """The attention in words."""
        return in_words(self.attention)

    def gain(self) -> str:
        """Describe the difference: `1.2 points fewer errors [0.7, 1.7]`, `... more errors`, or none."""
        mean, low, high = self.difference["mean"], self.difference["low"], self.difference["high"]
        if abs(mean) < _SMALLEST:
            text, sign = "the same test error", -1
        else:
            sign = 1 if mean > 0 else -1
            text = f"{number(100 * abs(mean), 1)} points {'more' if sign > 0 else 'fewer'} errors"
        if low is None or high is None:
            return text
        bounds = sorted(100 * sign * bound for bound in (low, high))
        return f"{text} [{', '.join(number(round(bound, 1) + 0.0, 1) for bound in bounds)}]"  # no -0.0

    def result(self) -> str:
        """Describe the difference and its cost."""
        return f"{self.gain()} for {_change(self.latency)} latency and {_percent(self.parameters)} parameters"


def winner_sentence(
    chosen: Finalist, others: Sequence[Finalist], equivalent: Sequence[str], basis: str
) -> str:
    """Recommend a finalist.

    Args:
        chosen: The recommended one.
        others: Other winners.
        equivalent: Those of them that are not clearly better or worse than the recommended one.
        basis: What the answer rests on.
    """
    relations = {True: "is not clearly different", False: "gains less"}
    parts = [f"{chosen.name}: {chosen.result()}"]
    parts += [f"{one.name} {relations[one.attention in equivalent]}: {one.result()}" for one in others]
    return f"{'; '.join(parts)} ({basis})."


def nothing_sentence(finalists: Sequence[Finalist], seeds: int, baseline_error: float, basis: str) -> str:
    """Say that no finalist wins, and which gain the nearest one can still have.

    If not even a network without errors is excluded, the seeds are too few for an answer.
    """
    if not finalists:
        return f"Nothing helped: the training of every finalist diverged ({basis})."
    nearest = min(finalists, key=lambda one: one.difference["mean"])
    closest = f"the nearest, {nearest.name}, has {nearest.gain()}"
    low, high = nearest.difference["low"], nearest.difference["high"]
    if low is None or high is None or 0 < baseline_error <= -low:
        few = "one seed is too few" if seeds == 1 else f"{seeds} seeds are too few"
        problem = f"No answer: {few} to tell a difference from chance, use more --seeds"
        return f"{problem}; {closest} ({basis})."
    count = len(finalists)
    subject = f"none of the {count} finalists has" if count > 1 else "the finalist has not"
    tested = f"{subject} significantly fewer test errors than the network without attention"
    rest = ""
    if high < 0:
        rest = f", which is not significant among {_count(count, 'finalist')}"
    elif low <= -_SMALLEST:
        rest = f", so that a gain of up to {number(-100 * low, 1)} points is not excluded"
    return f"Nothing helped: {tested}; {closest}{rest} ({basis})."


def chance_sentence(lowest_error: float, chance_error: float, basis: str) -> str:
    """Say that no network has learned the task."""
    lowest, chance = (f"{number(100 * error, 1)}%" for error in (lowest_error, chance_error))
    return (
        f"No answer: no network has learned the task, since the lowest test error, {lowest}, is not below "
        f"that of guessing, {chance}; train longer, or change the learning rate ({basis})."
    )


def relative_latency(latencies: Mapping[int, float], baseline: Mapping[int, float]) -> Interval:
    """Return the latency of each seed divided by that of the network without attention, as an interval."""
    ratios = [value / baseline[seed] for seed, value in latencies.items() if seed in baseline]
    return confidence_interval(ratios, least=0.0, most=math.inf)


def in_words(attention: str) -> str:
    """Return an attention in words; places that are numbers are stages of a small CNN.

    Example:
        >>> in_words("se@2+3"), in_words("eca@residual")
        ('se at stage 2+3', 'eca at residual')
    """
    mechanism, _, place = attention.partition("@")
    return f"{mechanism} at {'stage ' if place[:1].isdigit() else ''}{place}"


def _change(ratio: Interval) -> str:
    """Describe a ratio and its interval as changes: `+3% [+1%, +5%]`."""
    bounds: Any = [ratio["low"], ratio["high"]]
    text = _percent(ratio["mean"])
    return text if None in bounds else f"{text} [{', '.join(map(_percent, bounds))}]"


def _percent(ratio: float) -> str:
    """Return a ratio as a change in percent, without a sign if it rounds to zero.

    Example:
        >>> _percent(1.032), _percent(0.9999), _percent(1.0024)
        ('+3%', '+0%', '+0.2%')
    """
    value = 100 * (ratio - 1)
    digits = 0 if abs(value) >= 1 else 1
    text = f"{value:+.{digits}f}%"
    return "+0%" if float(text[:-1]) == 0 else text.replace("-", "\N{MINUS SIGN}")


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' if count != 1 else ''}"
