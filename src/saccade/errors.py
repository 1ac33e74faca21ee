"""Every error that a user's input can cause: one sentence, the offending value, what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class SaccadeError(ValueError):
    """Base of all errors raised on purpose. The command line prints its message and exits with code 2."""


class UnknownName(SaccadeError, KeyError):
    """A mechanism, option, task or key that does not exist; carries the nearest names.

    >>> print(UnknownName("mechanism", "cbm", ["cbam", "se"]))
    unknown mechanism 'cbm'; did you mean 'cbam'?
    >>> print(UnknownName("task", "zebra", ["white-patch"]))
    unknown task 'zebra'; there are 'white-patch'
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        near = difflib.get_close_matches(name, self.known, n=3, cutoff=0.5)
        if near:
            hint = f"did you mean {' or '.join(map(repr, near))}?"
        elif self.known:
            hint = f"there are {', '.join(map(repr, self.known))}"
        else:
            hint = "there are none"
        super().__init__(f"unknown {kind} {name!r}; {hint}")

    def __reduce__(self) -> tuple[type[UnknownName], tuple[str, str, list[str]]]:
        return type(self), (self.kind, self.name, self.known)  # it crosses from one process to another

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would put it into quotes


class BadOption(SaccadeError):
    """An option whose value is out of range, of the wrong kind, or at odds with another."""


class BadShape(SaccadeError):
    """A tensor whose shape a mechanism, a map or a score cannot take."""


class NothingRecorded(SaccadeError):
    """`record` was asked for maps and none were published."""


class BadData(SaccadeError):
    """Images or labels that cannot be used: missing, unreadable, too few, of one class only."""


class BadRecipe(SaccadeError):
    """A recipe that cannot be read, has an unknown key, or asks for the impossible."""


class BadRun(SaccadeError):
    """A run folder that cannot be used: another recipe's, read-only, full, or a checkpoint that is none."""


def check_choice(owner: str, option: str, value: object, choices: Sequence[object]) -> None:
    """Raise `BadOption` unless `value` is one of `choices`."""
    if value not in choices:
        expected = ", ".join(map(repr, choices))
        raise BadOption(f"{owner}: {option}={value!r} is not one of {expected}")


def check_positive(owner: str, **values: object) -> None:
    """Raise `BadOption` unless every value is an integer of at least 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadOption(f"{owner}: {name}={value!r} must be an integer of at least 1")


def check_shape(owner: str, x: Tensor, pattern: str, **sizes: int) -> None:
    """Raise `BadShape` unless `x` has the axes that `pattern` names, none of them empty.

    `...` at the end stands for one to three spatial axes; `sizes` fixes the extent of named axes.

    >>> import torch
    >>> check_shape("cbam", torch.zeros(2, 3, 8, 8), "B C H W", C=64)
    Traceback (most recent call last):
    saccade.errors.BadShape: cbam: expected (B, C=64, H, W), got (2, 3, 8, 8)
    """
    axes = pattern.split()
    if axes[-1] == "...":
        fits = len(axes) <= x.ndim <= len(axes) + 2
        axes = axes[:-1]
    else:
        fits = x.ndim == len(axes)
    if fits and all(x.shape[axes.index(axis)] == size for axis, size in sizes.items()) and 0 not in x.shape:
        return
    expected = ", ".join(f"{a}={sizes[a]}" if a in sizes else a for a in pattern.split())
    empty = ", which is empty" if 0 in x.shape else ""
    raise BadShape(f"{owner}: expected ({expected}), got {tuple(x.shape)}{empty}")
