"""Plugins: what other packages add through entry points.

A package that declares, for example,

    [project.entry-points."saccade.mechanisms"]
    mean_gate = "my_package.mean_gate:SPEC"

adds a mechanism to the command line, to every worker process and to restored runs alike, because each process
reads the entry points of the installed packages. The groups:

- `saccade.mechanisms`: a `saccade.Spec`
- `saccade.tasks`: a function that returns a `saccade.data.Task`
- `saccade.objectives`: a subclass of `saccade.training.Classifier`
- `saccade.adapters`: a mapping from classes or full class names to adapters, see `saccade.recording`
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Collection, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar, cast

from saccade.errors import BadOption, UnknownName

_T = TypeVar("_T")


def names(group: str, builtin: Collection[str] = ()) -> list[str]:
    """Return the names that installed packages add to a group, sorted. Imports none of these packages.

    Args:
        group: The group of entry points, for example `"saccade.tasks"`.
        builtin: Names of the built-in objects. A plugin with such a name is left out, with a warning.

    Example:
        >>> names("saccade.no_such_group")
        []
    """
    entries = _entries(group)
    for name in sorted(entries.keys() & {*builtin}):
        message = f"{group}: {name!r} of {_package(entries[name])!r} is ignored, since {name!r} is built in"
        warnings.warn(message, stacklevel=2)
    return sorted(entries.keys() - {*builtin})


def find(kind: str, name: str, builtin: Mapping[str, _T], group: str, owner: str | None = None) -> _T:
    """Return a built-in object by its name, or the object of an entry point.

    Args:
        kind: What is looked up, for the message.
        name: The name.
        builtin: The built-in objects, which take precedence.
        group: The group of entry points.
        owner: Owner of the error.

    Raises:
        UnknownName: Neither has this name.
        BadOption: The package of the entry point cannot be imported.

    Example:
        >>> find("task", "zebra", {"white-patch": 1}, "saccade.no_such_group")
        Traceback (most recent call last):
        saccade.errors.UnknownName: unknown task 'zebra'; choose from 'white-patch'
    """
    if name in builtin:
        return builtin[name]
    if name in names(group):
        return cast(_T, load(group, name))
    raise UnknownName(kind, name, [*builtin, *names(group, builtin)], owner=owner)


@functools.cache
def load(group: str, name: str) -> object:
    """Import and return the object of an entry point.

    Raises:
        UnknownName: No installed package declares this name.
        BadOption: Its package cannot be imported. The message names the package and the cause.

    Example:
        >>> load("saccade.tasks", "zebra")
        Traceback (most recent call last):
        saccade.errors.UnknownName: unknown entry point of saccade.tasks 'zebra'; ...
    """
    entries = _entries(group)
    if name not in entries:
        raise UnknownName(f"entry point of {group}", name, entries, owner=group)
    entry = entries[name]
    try:
        return entry.load()
    except Exception as error:  # a third-party module can raise anything
        package = _package(entry)
        message = f"plugin {name!r} of {package!r} cannot be loaded: {type(error).__name__}: {error}"
        raise BadOption(message, owner=package, option=group, value=entry.value) from error


@functools.cache
def _entries(group: str) -> dict[str, EntryPoint]:
    """Map names to entry points. The first package on `sys.path` that declares a name provides it."""
    entries: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        first = entries.setdefault(entry.name, entry)
        if first.value != entry.value:
            message = (
                f"{group}: {entry.name!r} of {_package(entry)!r} is ignored, since {_package(first)!r} has it"
            )
            warnings.warn(message, stacklevel=3)
    return entries


def _package(entry: EntryPoint) -> str:
    """Return the name of the distribution that declares an entry point."""
    return entry.dist.name if entry.dist else entry.module
