"""Values and annotations: the only place that checks an option against the type of its parameter."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from saccade.errors import BadOption, bad_option, check_choice

#: Words for booleans, as the command line and recipes write them.
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
#: Largest integer of options with a limit of their own: larger values would take hours or all memory.
_LARGEST = {
    "kernel_size": 127,
    "seed": 2**63 - 1,
    "depth": 256,
    "dilated_convs": 64,
    "branches": 64,
    "glimpses": 256,
}


def check_annotations(
    owner: str, function: Callable[..., Any], options: Mapping[str, Any], largest: int = 2**16
) -> dict[str, Any]:
    """Check options against the annotations of a function, and convert the words for booleans.

    Options without an annotated parameter are returned unchanged.

    Args:
        owner: Name of the mechanism, task, objective or model, for messages.
        function: Function or class that takes the options.
        options: The options by name.
        largest: Largest integer that an option may have. Options that count layers have a lower limit.

    Returns:
        The options; where a boolean is expected, "yes", "on" and 1 become True, "no", "off" and 0 False.

    Raises:
        BadOption: A value does not have the type of its parameter, is not finite, or is too large.

    Example:
        >>> def gate(reduction: int = 16, bias: bool = True) -> None: ...
        >>> check_annotations("gate", gate, {"bias": "no"})
        {'bias': False}
        >>> check_annotations("gate", gate, {"reduction": "all"})
        Traceback (most recent call last):
        saccade.errors.BadOption: gate: reduction='all' must be an integer
    """
    hints = parameter_types(function)
    checked = {}
    for option, value in options.items():
        annotation = hints.get(option, Any)
        try:
            checked[option] = convert(value, annotation)
        except TypeError:
            if get_origin(annotation) is Literal:
                check_choice(owner, option, value, get_args(annotation))
            raise bad_option(owner, f"must be {describe(annotation)}", **{option: value}) from None
        limit = _LARGEST.get(option, largest)
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, int) and number > limit:
                raise bad_option(owner, f"must be at most {limit}", **{option: value})
    return checked


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Raise `BadOption` for an argument of a public function that does not have the annotated type.

    Args:
        function: The function.
        arguments: Its arguments by name, for example `locals()` in its first line.

    Example:
        >>> def scale(x: float, size: int | None = None) -> None:
        ...     check_arguments(scale, locals())
        >>> scale("large")
        Traceback (most recent call last):
        saccade.errors.BadOption: scale: x='large' must be a finite number
    """
    hints = parameter_types(function)
    for argument, value in arguments.items():
        annotation = hints.get(argument, Any)
        try:
            convert(value, annotation)
        except TypeError:
            is_short = isinstance(value, str | int | float | list | tuple | dict | None)
            shown = repr(value) if is_short else f"an object of type {type(value).__name__}"
            problem = f"{argument}={shown} must be {describe(annotation)}"
            raise BadOption.of(function.__name__, problem, **{argument: value}) from None


@functools.cache
def parameter_types(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a function's parameters, or of those of a class. Empty if unknown."""
    function = inspect.unwrap(getattr(function, "func", function))  # of functools.partial
    try:
        return get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except (NameError, TypeError, AttributeError):  # third-party code may annotate with anything
        return {}


def convert(value: Any, annotation: Any) -> Any:
    """Return a value as its annotation demands it, with words for booleans converted.

    Raises:
        TypeError: The value does not fit.

    Example:
        >>> convert("off", bool), convert(1, float), convert([4, 8], int | tuple[int, int])
        (False, 1, [4, 8])
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (UnionType, Union):
        for member in sorted(arguments, key=lambda member: member is bool):  # 1 is an integer first
            with suppress(TypeError):
                return convert(value, member)
    elif origin is Literal:
        if any(type(value) is type(choice) and value == choice for choice in arguments):
            return value
    elif annotation is bool:
        if isinstance(value, bool | int | str) and str(value).lower() in _TRUE + _FALSE:
            return str(value).lower() in _TRUE
    elif annotation in (int, float):
        accepted = int if annotation is int else (int, float)
        if isinstance(value, accepted) and not isinstance(value, bool) and math.isfinite(value):
            return value
    elif origin is type:
        if inspect.isclass(value):
            return value
    elif origin in _SEQUENCES:
        if isinstance(value, list | tuple):
            members = (
                arguments[:1] * len(value) if origin is not tuple or Ellipsis in arguments else arguments
            )
            if len(members) == len(value):
                converted = map(convert, value, members)
                return [*converted] if isinstance(value, list) else (*converted,)
    elif annotation in (None, NoneType):
        if value is None:
            return value
    elif annotation is str:
        if isinstance(value, str) and value:
            return value
    else:
        kind = origin or annotation
        if not inspect.isclass(kind) or kind is Any or isinstance(value, kind):
            return value
    raise TypeError


_SEQUENCES = (Sequence, list, tuple)
#: One value and several values of a type, in words.
_WORDS = {
    int: ("an integer", "integers"),
    float: ("a finite number", "finite numbers"),
    bool: ("true or false", "booleans"),
    str: ("a non-empty text", "non-empty texts"),
    None: ("none", "nones"),
    NoneType: ("none", "nones"),
}


def describe(annotation: Any) -> str:
    """Return what an annotation expects, in words.

    Example:
        >>> describe(int | None), describe(bool), describe(Literal["mul", "add"])
        ('an integer or none', 'true or false', "'mul' or 'add'")
        >>> describe(Sequence[int]), describe(Mapping[str, Any])
        ('a list of integers', 'a Mapping')
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (UnionType, Union, Literal):
        *first, last = map(repr if origin is Literal else describe, arguments)
        return f"{', '.join(first)} or {last}" if first else last
    if origin in _SEQUENCES:
        return f"a list of {_WORDS.get(arguments[0], ('', 'values'))[1]}"
    if annotation in _WORDS:
        return _WORDS[annotation][0]
    return f"a {getattr(origin or annotation, '__name__', annotation)}"
