"""Adapters of other packages, published as entry points of the group `saccade.adapters`.

The name of an entry point is free. Its object is a mapping from classes, or their full names, to adapters:

    [project.entry-points."saccade.adapters"]
    my_package = "my_package.attention:ADAPTERS"
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping

from torch import nn

from saccade import plugins
from saccade.errors import BadOption
from saccade.recording.adapters.observe import Adapter

GROUP = "saccade.adapters"


@functools.cache  # installed packages do not change while the process runs
def plugin_adapters() -> dict[str | type[nn.Module], Adapter]:
    """Return the adapters of all entry points. One that cannot be loaded is left out, with a warning.

    Raises:
        BadOption: If an entry point is no mapping from classes or full class names to functions.
    """
    adapters: dict[str | type[nn.Module], Adapter] = {}
    for name in plugins.names(GROUP):
        try:
            table = plugins.load(GROUP, name)
        except BadOption as error:
            warnings.warn(str(error), stacklevel=2)
            continue
        if not isinstance(table, Mapping) or not all(
            isinstance(key, str | type) and callable(adapter) for key, adapter in table.items()
        ):
            message = f"{GROUP}: {name} is {table!r}, expected a mapping from classes to adapter functions"
            raise BadOption(message, owner=GROUP, option=name, value=table)
        adapters.update(table)
    return adapters
