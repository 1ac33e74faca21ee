"""The grammar `NAME[:option=value,...][@PLACE[+PLACE...]]`: parsed, formatted and bound here alone."""

from __future__ import annotations

import ast
from typing import Any

from saccade.errors import BadOption


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Read `NAME[:option=value[,option=value]]`, as the command line and recipes write it.

    Values are Python literals; `true`, `false` and bare words are understood. Raises `BadOption` for
    text that is not of this form. Names are not looked up here.

    >>> parse("multi_head:heads=4,projection=conv1d")
    ('multi_head', {'heads': 4, 'projection': 'conv1d'})
    >>> parse("channel_gate:pools=['avg', 'max']")
    ('channel_gate', {'pools': ['avg', 'max']})
    """
    name, colon, rest = text.partition(":")
    options: dict[str, Any] = {}
    for part in split_options(rest) if colon else ():
        option, equals, value = part.partition("=")
        if not (equals and option.strip().isidentifier()):
            raise BadOption(f"{text!r}: {part!r} is not of the form option=value")
        if option.strip() in options:
            raise BadOption(f"{text!r}: {option.strip()!r} is given twice")
        options[option.strip()] = _literal(value.strip())
    return name.strip(), options


def split_options(text: str) -> list[str]:
    """Split options at the commas that stand outside brackets.

    >>> split_options("size=32,patch=[4, 8]")
    ['size=32', 'patch=[4, 8]']
    """
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def as_value(value: object) -> str:
    """Write a value as `parse` reads it.

    >>> as_value("photos"), as_value("7"), as_value([4, 8])
    ('photos', "'7'", '[4, 8]')
    """
    if isinstance(value, str) and value and not set(value) & set(" ,()[]'\"") and _literal(value) == value:
        return value
    return repr(value)


def _literal(text: str) -> Any:
    lowered = {"true": True, "false": False}
    if text.lower() in lowered:
        return lowered[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if text[:1] in ("[", "(") and text[-1:] in ("]", ")"):
            return [_literal(part.strip()) for part in split_options(text[1:-1].removesuffix(","))]
        if not text or any(letter in "[]()'\"" for letter in text):
            raise BadOption(f"the value {text!r} is neither a Python literal nor a bare word") from None
        return text
