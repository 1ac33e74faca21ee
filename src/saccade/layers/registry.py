"""The registry: mechanisms by name. Names come from file names; a file is loaded when it is asked for."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, get_args

from torch import nn

from saccade.errors import BadOption, UnknownName, check_choice
from saccade.layers import __path__ as _FOLDERS
from saccade.layers.spec import Domain, Spec

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
    module = importlib.import_module(f"saccade.layers.{_built_in()[name]}.{name}")
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
