"""The grammar `NAME[:option=value,...][@PLACE[+PLACE...]]`: the only place that parses and formats it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from saccade.errors import BadOption, UnknownName

_CLOSING = {"[": "]", "(": ")"}
_TOO_DEEP = tuple(bracket * 20 for bracket in _CLOSING)
_LONGEST = 2000  # characters of a text


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """Parse `NAME[:option=value[,option=value]]`, as the command line and recipes write it.

    Values are Python literals, `true`, `false`, or bare words. Names are not looked up here.

    Args:
        text: The text.

    Returns:
        The name and the options.

    Raises:
        BadOption: The text does not have this form, or an option occurs twice.

    Example:
        >>> parse("multi_head:heads=4,projection=conv1d")
        ('multi_head', {'heads': 4, 'projection': 'conv1d'})
        >>> parse("channel_gate:pools=['avg', 'max']")
        ('channel_gate', {'pools': ['avg', 'max']})
    """
    if len(text) > _LONGEST:
        raise BadOption(f"{text!r} has {len(text)} characters; at most {_LONGEST} are read", value=text)
    name, colon, rest = (piece.strip() for piece in text.partition(":"))
    options: dict[str, Any] = {}
    for part in split_options(rest) if colon else ():
        option, equals, value = (word.strip() for word in part.partition("="))
        if not (equals and option.isidentifier()):
            raise BadOption(f"{text!r}: {part!r} does not have the form option=value", owner=name, value=part)
        if option in options:
            message = f"{text!r}: option {option!r} occurs twice"
            raise BadOption(message, owner=name, option=option, value=value)
        try:
            options[option] = _literal(value)
        except ValueError as error:
            message = f"{text!r}: {option}: {error} is neither a Python literal nor a bare word"
            raise BadOption(message, owner=name, option=option, value=value) from None
    return name, options


def parse_placed(text: str) -> tuple[str, list[str]]:
    """Split `NAME[:option=value,...][@PLACE[+PLACE...]]` into the mechanism and its places.

    Raises:
        BadOption: A place after the `@` is empty.

    Example:
        >>> parse_placed("non_local:dims=2@layer3.0"), parse_placed("bam@layer1+layer2"), parse_placed("se")
        (('non_local:dims=2', ['layer3.0']), ('bam', ['layer1', 'layer2']), ('se', []))
    """
    name, at, rest = text.partition("@")
    places = rest.split("+") if at else []
    if not all(places):
        message = f"{text!r} names no place after the @; write NAME@PLACE or NAME@PLACE+PLACE"
        raise BadOption(message, owner=name, option="place", value=rest)
    return name, places


def split_options(text: str) -> list[str]:
    """Split text at the commas that are outside of brackets and quotes.

    Example:
        >>> split_options("size=32,patch=[4, 8],name='a, b'")
        ['size=32', 'patch=[4, 8]', "name='a, b'"]
    """
    parts, depth, quote = [""], 0, ""
    before = ","
    for letter in text:
        if quote:
            quote = "" if letter == quote and before != "\\" else quote
            before = "" if before == "\\" else letter  # an escaped backslash escapes nothing
        else:
            quote = letter if letter in "'\"" and before in "=,[( " else ""
            depth += (letter in _CLOSING) - (letter in _CLOSING.values())
            before = letter
        if letter == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def format_value(value: object) -> str:
    """Format a value so that `parse` reads it back.

    Example:
        >>> format_value("photos"), format_value("7"), format_value([4, 8])
        ('photos', "'7'", '[4, 8]')
    """
    if isinstance(value, str) and value and not set(value) & set(" ,()[]'\"") and _literal(value) == value:
        return value
    return repr(value)


def check_options(owner: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Raise `UnknownName` for the first option that `owner` does not have.

    Example:
        >>> check_options("se", {"reductoin": 4}, ["reduction", "bias"])
        Traceback (most recent call last):
        saccade.errors.UnknownName: unknown option of se 'reductoin'; did you mean 'reduction'?
    """
    names = list(known)
    for option in options:
        if option not in names:
            raise UnknownName(f"option of {owner}", option, names, owner=owner)


def merge_options(text: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Parse `NAME[:option=value,...]` and add further options to those in the text.

    Raises:
        BadOption: An option occurs in both.

    Example:
        >>> merge_options("cbam:reduction=4", {"spatial": False})
        ('cbam', {'reduction': 4, 'spatial': False})
    """
    name, written = parse(text)
    if twice := written.keys() & options.keys():
        option = min(twice)
        message = f"{text!r} and {option}={options[option]!r} give the same option"
        raise BadOption(message, owner=name, option=option, value=options[option])
    return name, {**written, **options}


def shorten(texts: Sequence[str]) -> list[str]:
    """Shorten the texts of several mechanisms for tables: drop the options that all variants of one share.

    Args:
        texts: Texts of the form `NAME[:option=value,...][@PLACE[+PLACE...]]`.

    Returns:
        A label for each text, in the same order, with its places.

    Example:
        >>> shorten(["se", "multi_head:heads=1", "multi_head:heads=1,projection=conv1d"])
        ['se', 'multi_head', 'multi_head projection=conv1d']
        >>> shorten(["spatial_transformer:size=[5,9]", "spatial_transformer:size=[7,9]"])
        ['spatial_transformer size=[5,9]', 'spatial_transformer size=[7,9]']
    """
    variants = []
    for text in texts:
        mechanism, at, places = text.partition("@")
        name, colon, rest = (piece.strip() for piece in mechanism.partition(":"))
        options = [option.strip() for option in split_options(rest)] if colon else []
        variants.append((name, options, at + places))
    shared = {
        name: set.intersection(*({*options} for other, options, _ in variants if other == name))
        for name, _, _ in variants
    }
    return [
        f"{name} {', '.join(option for option in options if option not in shared[name])}".strip() + places
        for name, options, places in variants
    ]


def _literal(text: str) -> Any:
    """Return the value of a literal, of a list of literals or of a bare word, or raise `ValueError`."""
    try:
        return ast.literal_eval(text.title() if text.lower() in ("true", "false") else text)
    except (RecursionError, MemoryError):
        raise ValueError(f"{text[:20]}..., which is nested too deeply,") from None
    except (ValueError, SyntaxError, TypeError):  # TypeError: an unhashable key, as in {[1]: 2}
        if text[:1] in _CLOSING and text[-1:] == _CLOSING[text[:1]]:
            if text.startswith(_TOO_DEEP):
                raise ValueError(f"{text[:20]}..., which is nested too deeply,") from None
            return [_literal(part.strip()) for part in split_options(text[1:-1].removesuffix(","))]
        if not text or any(letter in "[]()'\"" for letter in text):
            raise ValueError(repr(text)) from None
        return text
