"""Plugins: what other packages add through entry points.

A package that declares, for example,

    [project.entry-points."saccade.mechanisms"]
    mean_gate = "their_package.mean_gate:SPEC"

adds a mechanism to the command line, to every worker process and to restored runs alike, because each process
reads the entry points of the installed packages. The groups:

- `saccade.mechanisms`: a `saccade.Spec`
- `saccade.tasks`: a function that returns a `saccade.data.Task`
- `saccade.objectives`: a subclass of `saccade.training.Classifier`
- `saccade.adapters`: a mapping from full class names to adapters, see `saccade.recording`
"""

from __future__ import annotations

import functools
from importlib.metadata import EntryPoint, entry_points

from saccade.errors import BadOption


@functools.cache
def _entries(group: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=group)}


def names(group: str) -> list[str]:
    """Return the names that installed packages add to a group. Imports none of these packages."""
    return sorted(_entries(group))


@functools.cache
def load(group: str, name: str) -> object:
    """Import and return the object of an entry point.

    Raises:
        BadOption: Its package cannot be imported. The message names the package and the cause.
    """
    entry = _entries(group)[name]
    try:
        return entry.load()
    except Exception as error:  # whatever the module of a third party raises
        package = entry.dist.name if entry.dist else entry.module
        message = f"plugin {name!r} of {package!r} cannot be loaded: {type(error).__name__}: {error}"
        raise BadOption(message, owner=package, option=group, value=entry.value) from error
