"""Choosing places: by their kind, by module paths, by a function."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

from saccade.attachment.site import KINDS, Kind, Site
from saccade.attachment.site_detection import Candidate, SiteFinder
from saccade.errors import BadOption, UnknownName

Where: TypeAlias = Kind | Sequence[str] | Callable[[Site], bool]


def chosen(anatomy: SiteFinder, where: Where) -> list[Candidate]:
    """Return the places that are asked for, in the order in which features pass them, each once."""
    if callable(where):
        spots = [spot for spot in anatomy.spots() if where(spot.site)]
        asked = "that the function `where` accepts"
    elif isinstance(where, str):
        if where not in KINDS:
            kinds = ", ".join(map(repr, KINDS))
            raise BadOption(
                f"where={where!r} is not one of {kinds}, a list of module paths or a function of a Site"
            )
        spots = [spot for spot in anatomy.spots() if spot.site.kind == where]
        asked = f"of kind {where!r}"
    else:
        spots = [spot for pattern in where for spot in _matching(anatomy, pattern)]
        asked = "in an empty list"
    if not spots:
        counts = Counter(spot.site.kind for spot in anatomy.spots())
        there = (
            ", ".join(f"{kind} ({n})" for kind, n in counts.items()) or "none that saccade finds by itself"
        )
        raise BadOption(f"there is no place {asked}; this network has {there}, and modules by their paths")
    unique = {(spot.host, spot.place): spot for spot in reversed(spots)}
    return sorted(unique.values(), key=lambda spot: spot.node.index)


def _matching(anatomy: SiteFinder, pattern: str) -> list[Candidate]:
    """Return the places of the modules whose path matches; each must be able to hold attention."""
    known = [path for paths in anatomy.trace.paths.values() for path in paths if path]
    matching = [path for path in known if _matches(path, pattern)]
    if not matching:
        near = difflib.get_close_matches(pattern, known, cutoff=0.5)
        raise UnknownName("module path", pattern, near or [path for path in known if "." not in path])
    return [anatomy.at(path) for path in matching]


def _matches(path: str, pattern: str) -> bool:
    parts, patterns = path.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))
