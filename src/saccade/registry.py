"""The registry: mechanisms by name. Names come from file names; a file is loaded when it is asked for."""

from __future__ import annotations

import ast
import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, get_args

from torch import nn

from saccade.errors import BadOption, UnknownName, check_choice
from saccade.mechanisms import __path__ as _FOLDERS
from saccade.spec import Domain, Spec

_registered: dict[str, Spec] = {}


@functools.cache
def _built_in() -> Mapping[str, str]:
    """Map the name of each built-in mechanism to its domain, without importing any."""
    return {
        module.name: domain.name
        for domain in pkgutil.iter_modules(_FOLDERS)
        for module in pkgutil.iter_modules([f"{folder}/{domain.name}" for folder in _FOLDERS])
    }


def mechanisms(domain: Domain | None = None) -> list[str]:
    """Return the names of all mechanisms, or of one domain's, sorted. Imports none of them.

    Raises `BadOption` for a domain that does not exist.

    >>> import saccade as sc
    >>> "cbam" in sc.mechanisms()
    True
    >>> sc.mechanisms(domain="spatial")
    ['attention_gate', 'spatial_gate']
    """
    domains = {**_built_in(), **{name: spec.domain for name, spec in _registered.items()}}
    if domain is not None:
        check_choice("mechanisms", "domain", domain, get_args(Domain))
    return sorted(name for name, its in domains.items() if domain in (None, its))


def spec(name: str) -> Spec:
    """Return the spec of a mechanism; its file is imported at the first time.

    Raises `UnknownName`, with the nearest names, if there is none.

    >>> import saccade as sc
    >>> sc.spec("cbam").paper.year
    2018
    >>> [option.name for option in sc.spec("se").options]
    ['reduction', 'bias']
    """
    if name in _registered:
        return _registered[name]
    if name not in _built_in():
        raise UnknownName("mechanism", name, mechanisms())
    module = importlib.import_module(f"saccade.mechanisms.{_built_in()[name]}.{name}")
    found: Spec = module.SPEC
    return found


def register(spec: Spec) -> None:
    """Add a mechanism of your own, so that `create`, the command line and the contract suite know it.

    Raises `BadOption` if the name is taken.

    >>> import saccade as sc
    >>> sc.register(sc.spec("se"))
    Traceback (most recent call last):
    saccade.errors.BadOption: a mechanism named 'se' exists already; choose another name
    """
    if spec.name in mechanisms():
        raise BadOption(f"a mechanism named {spec.name!r} exists already; choose another name")
    check_choice(spec.name, "domain", spec.domain, get_args(Domain))
    _registered[spec.name] = spec


def create(name: str, channels: int, **options: Any) -> nn.Module:
    """Build a mechanism for maps of `channels` channels.

    Raises `UnknownName` for an unknown mechanism or option, `BadOption` for a value it cannot take.

    >>> import torch, saccade as sc
    >>> gate = sc.create("cbam", 256, reduction=16)
    >>> gate(torch.randn(2, 256, 14, 14)).shape
    torch.Size([2, 256, 14, 14])
    """
    found = spec(name)
    known = {option.name: option for option in found.options}
    for option, value in options.items():
        if option not in known:
            raise UnknownName(f"option of {name}", option, known)
        if known[option].choices:
            check_choice(name, option, value, known[option].choices)
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise BadOption(f"{name}: channels={channels!r} must be an integer of at least 1")
    return found.module(channels, **options)


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
