"""Selection of places: by their kind, by module paths or by a function."""

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


def select_candidates(finder: SiteFinder, where: Where) -> list[Candidate]:
    """Return the selected places in the order of the forward pass, each once.

    Raises:
        UnknownName: If no module matches a path.
        BadOption: If `where` is no kind, selects no place, or selects one that cannot take attention.
    """
    if callable(where):
        candidates = [candidate for candidate in finder.candidates() if where(candidate.site)]
        selection = "that the function `where` accepts"
    elif isinstance(where, str):
        if where not in KINDS:
            expected = f"one of {', '.join(map(repr, KINDS))}, a list of module paths or a function of a Site"
            message = f"attach: where={where!r} is not {expected}"
            raise BadOption(message, owner="attach", option="where", value=where, choices=KINDS)
        candidates = [candidate for candidate in finder.candidates() if candidate.site.kind == where]
        selection = f"of kind {where!r}"
    else:
        candidates = [candidate for pattern in where for candidate in _matching(finder, pattern)]
        selection = "in an empty list"
    if not candidates:
        counts = Counter(candidate.site.kind for candidate in finder.candidates())
        kinds = ", ".join(f"{kind} ({n})" for kind, n in counts.items()) or "no places of any kind"
        message = f"attach: there is no place {selection}; this model has {kinds}, and modules by their paths"
        raise BadOption(message, owner="attach", option="where", value=where)
    unique = {(candidate.host, candidate.place): candidate for candidate in reversed(candidates)}
    return sorted(unique.values(), key=lambda candidate: candidate.node.index)


def _matching(finder: SiteFinder, pattern: str) -> list[Candidate]:
    """Return the places of the modules whose path matches; each must be able to take attention."""
    known = [path for paths in finder.trace.paths.values() for path in paths if path]
    levels = pattern.count(".")
    matching = [path for path in known if path.count(".") == levels and fnmatchcase(path, pattern)]
    if not matching:
        near = difflib.get_close_matches(pattern, known, cutoff=0.5)
        choices = near or [path for path in known if "." not in path]
        raise UnknownName("module path", pattern, choices, owner="attach")
    return [finder.candidate_at(path) for path in matching]
