"""Every error that a user's input can cause: one sentence, with the facts as fields for programs."""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from torch import Tensor


_LONGEST = 1000  # characters of a message
_MOST_CHOICES = 40  # names that a message lists


def printable(text: str, longest: int = _LONGEST) -> str:
    r"""Return text that is safe to print: on one line, without control characters, of limited length.

    Args:
        text: Any text, for example with the names of files.
        longest: Number of characters; the middle of a longer text is left out.

    Example:
        >>> printable("name\x1b[31m"), printable("x" * 100, longest=20)
        ('name\\x1b[31m', 'xxxxxxx ... xxxxxxxx')
    """
    ends = text if len(text) <= 2 * longest else text[:longest] + text[-longest:]
    shown = "".join(
        " " if letter == "\n" else letter if letter.isprintable() else ascii(letter)[1:-1] for letter in ends
    )
    if len(shown) <= longest:
        return shown
    head = (longest - 5) // 2
    return f"{shown[:head]} ... {shown[head + 5 - longest :]}"


class SaccadeError(ValueError):
    """Base class of all errors that saccade raises on purpose.

    The command line prints the message and exits with code 2.

    Args:
        message: One sentence with the offending value and what was expected.
        owner: What the option or value belongs to: a mechanism, a task, a function, a file.
        option: Name of the option, argument, key or field at fault.
        value: The offending value.
        choices: What would be accepted, if that is a closed set.

    Example:
        >>> error = BadOption("se: reduction=0 must be positive", owner="se", option="reduction", value=0)
        >>> error.owner, error.option, error.value
        ('se', 'reduction', 0)
    """

    owner: str | None
    option: str | None
    value: Any
    choices: tuple[Any, ...] | None

    def __init__(
        self,
        message: str = "",
        *,
        owner: str | None = None,
        option: str | None = None,
        value: Any = None,
        choices: Iterable[Any] | None = None,
    ) -> None:
        super().__init__(printable(message))
        self.owner, self.option, self.value = owner, option, value
        self.choices = None if choices is None else tuple(choices)

    @classmethod
    def of(cls, owner: str, problem: str, choices: Any = None, **option: object) -> Self:
        """Return the error `owner: problem`, with the option at fault as `NAME=VALUE`. Not for `UnknownName`.

        Example:
            >>> error = BadData.of("digits", "the training split contains no image", train=0)
            >>> print(error, error.option, error.value)
            digits: the training split contains no image train 0
        """
        ((name, value),) = option.items()
        return cls(f"{owner}: {problem}", owner=owner, option=name, value=value, choices=choices)


class UnknownName(SaccadeError, KeyError):
    """A mechanism, option, task or key that does not exist. The message suggests the nearest names.

    Args:
        kind: What was looked up, for example "mechanism".
        value: The name that does not exist.
        choices: The names that do.
        owner: What the names belong to.

    Example:
        >>> print(UnknownName("mechanism", "cbm", ["cbam", "se"]))
        unknown mechanism 'cbm'; did you mean 'cbam'?
        >>> print(UnknownName("task", "zebra", ["white-patch"]))
        unknown task 'zebra'; choose from 'white-patch'
    """

    def __init__(self, kind: str, value: str, choices: Iterable[str], *, owner: str | None = None) -> None:
        known = sorted(choices)
        near = difflib.get_close_matches(value[:_LONGEST], known, n=3, cutoff=0.5)
        if near:
            hint = f"did you mean {' or '.join(map(repr, near))}?"
        elif len(known) > _MOST_CHOICES:
            nearest = difflib.get_close_matches(value[:_LONGEST], known, n=10, cutoff=0)
            hint = f"the nearest of {len(known)} names are {', '.join(map(repr, nearest))}"
        elif known:
            hint = f"choose from {', '.join(map(repr, known))}"
        else:
            hint = "none exist"
        super().__init__(f"unknown {kind} {value!r}; {hint}", owner=owner, value=value, choices=known)
        self.kind = kind

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors cross process boundaries; the default would call the class with the message alone.
        return functools.partial(type(self), owner=self.owner), (self.kind, self.value, self.choices)

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would put it into quotes


class BadOption(SaccadeError):
    """An option whose value is out of range, of the wrong type, or inconsistent with another option."""


class BadShape(SaccadeError):
    """A tensor whose shape a mechanism, a map or a metric does not accept."""


class NothingRecorded(SaccadeError):
    """`record` finds no attention, or none of it ran."""


class BadData(SaccadeError):
    """Images or labels that cannot be used: missing, unreadable, too few, or of a single class."""


class BadRecipe(SaccadeError):
    """A recipe that cannot be read, has an unknown key, or holds an invalid value."""


class BadRun(SaccadeError):
    """A run folder that cannot be used: it belongs to another recipe, is read-only, full, or damaged."""


def check_choice(owner: str, option: str, value: object, choices: Sequence[object]) -> None:
    """Raise `BadOption` unless `value` is one of `choices`."""
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        problem = f"{option}={value!r} is not one of {', '.join(map(repr, choices))}"
        raise BadOption.of(owner, problem, choices, **{option: value})


def check_positive(owner: str, **values: object) -> None:
    """Raise `BadOption` unless every value is an integer of at least 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise bad_option(owner, "must be an integer of at least 1", **{name: value})


def check_positive_number(owner: str, **values: object) -> None:
    """Raise `BadOption` unless every value is a finite positive number."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise bad_option(owner, "must be a positive number", **{name: value})


def check_pair(owner: str, **option: object) -> tuple[int, int]:
    """Return an option as (height, width); one number stands for both.

    Raises:
        BadOption: The option is neither a positive integer nor a pair of them.

    Example:
        >>> check_pair("glimpse", size=7), check_pair("glimpse", size=[8, 6])
        ((7, 7), (8, 6))
    """
    ((name, value),) = option.items()
    pair = tuple(value) if isinstance(value, Sequence) else (value, value)
    if value is None or len(pair) != 2:
        raise bad_option(owner, "must be a number or a pair (height, width)", **option)
    for extent in pair:
        check_positive(owner, **{name: extent})
    height, width = pair
    return height, width


def check_reduction(owner: str, channels: int, **reductions: int) -> None:
    """Raise `BadOption` unless every reduction ratio is an integer from 1 to `channels`."""
    check_positive(owner, **reductions)
    for name, reduction in reductions.items():
        if channels < reduction:
            raise bad_option(owner, f"must be at least {name}={reduction}", channels=channels)


def check_multiple(owner: str, channels: int, **counts: int) -> None:
    """Raise `BadOption` unless every count is an integer of at least 1 that divides `channels`."""
    check_positive(owner, **counts)
    for name, count in counts.items():
        if channels % count:
            raise bad_option(owner, f"must be a multiple of {name}={count}", channels=channels)


def check_shape(owner: str, x: Tensor, pattern: str, **sizes: int) -> None:
    """Raise `BadShape` unless `x` has the axes that `pattern` names, none of them empty.

    Args:
        owner: Name for the message.
        x: The tensor.
        pattern: Axis names, for example `"B C H W"`. A trailing `...` stands for one to three spatial axes.
        **sizes: The expected extent of named axes.

    Example:
        >>> import torch
        >>> check_shape("cbam", torch.zeros(2, 3, 8, 8), "B C H W", C=64)
        Traceback (most recent call last):
        saccade.errors.BadShape: cbam: expected (B, C=64, H, W), got (2, 3, 8, 8)
    """
    if not hasattr(x, "ndim"):
        kind = type(x).__name__
        raise BadShape.of(owner, f"expected a tensor, got an object of type {kind}", shape=kind)
    axes = pattern.removesuffix(" ...").split()
    spatial = (1, 2, 3) if pattern.endswith(" ...") else (0,)
    fits = x.ndim - len(axes) in spatial
    if fits and all(x.shape[axes.index(axis)] == size for axis, size in sizes.items()) and 0 not in x.shape:
        return
    expected = ", ".join(f"{a}={sizes[a]}" if a in sizes else a for a in pattern.split())
    empty = ", which is empty" if 0 in x.shape else ""
    shape = tuple(x.shape)
    raise BadShape.of(owner, f"expected ({expected}), got {shape}{empty}", shape=shape)


def bad_option(owner: str, expected: str, **option: object) -> BadOption:
    """Return the error for one option whose value is not as expected.

    Example:
        >>> print(bad_option("eca", "must be odd", kernel_size=4))
        eca: kernel_size=4 must be odd
    """
    ((name, value),) = option.items()
    return BadOption.of(owner, f"{name}={value!r} {expected}", **option)


def bad_shape(owner: str, expected: str, x: Tensor) -> BadShape:
    """Return the error for a tensor whose shape is not as expected.

    Example:
        >>> import torch
        >>> print(bad_shape("sk", "training needs a batch of at least 2", torch.zeros(1, 32, 8, 8)))
        sk: training needs a batch of at least 2, got (1, 32, 8, 8)
    """
    shape = tuple(x.shape)
    return BadShape.of(owner, f"{expected}, got {shape}", shape=shape)


def bad_recipe(problem: str, *, owner: Any = None, choices: Any = None, **key: object) -> BadRecipe:
    """Return the error for one key of a recipe, written as in YAML.

    Example:
        >>> print(bad_recipe("needs a ResNet", cifar_stem=True))
        cifar_stem=true needs a ResNet
    """
    ((name, value),) = key.items()
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    return BadRecipe(f"{name}={shown} {problem}", owner=owner, option=name, value=value, choices=choices)


def bad_run(
    path: object,
    problem: str,
    option: str | None = None,
    value: object = None,
    choices: Iterable[Any] | None = None,
) -> BadRun:
    """Return the error of a file or folder that cannot be used: `'PATH' problem`.

    Example:
        >>> print(bad_run("runs/se-seed0", "is not the folder of a run"))
        'runs/se-seed0' is not the folder of a run
    """
    owner = str(path)
    return BadRun(f"{owner!r} {problem}", owner=owner, option=option, value=value, choices=choices)
