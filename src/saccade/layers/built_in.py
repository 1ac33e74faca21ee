"""Names of the built-in mechanisms, for which neither a mechanism nor torch is imported."""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Mapping

from saccade.layers import __path__ as _FOLDERS


@functools.cache
def built_in_mechanisms() -> Mapping[str, str]:
    """Map the name of each built-in mechanism to its domain: its file and its folder."""
    return {
        module.name: package.name
        for package in pkgutil.iter_modules(_FOLDERS)
        if package.ispkg
        for module in pkgutil.iter_modules([f"{folder}/{package.name}" for folder in _FOLDERS])
    }
