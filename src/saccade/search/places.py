"""The places of a search: kinds of sites, the sites of one stage, and those of the last stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from torch import nn

from saccade.attachment import KINDS, Site, Sites
from saccade.errors import UnknownName

Key = tuple[str, bool]  # the path of a site, and whether it is the input of this module


def find_places(network: nn.Module, all_sites: Sites, where: Sequence[str]) -> dict[str, list[Key]]:
    """Return the places that attention can go to, each with the keys of its sites.

    A kind of sites is a place. If its features have several shapes, so are the sites of each shape, and those
    of the last two, three, ... shapes. Of two names for the same sites, the first is kept.

    Raises:
        UnknownName: A place is neither a kind nor made of the paths of sites.

    Example:
        >>> from saccade.models import SmallCNN
        >>> network = SmallCNN(2)
        >>> [*find_places(network, sites(network, torch.zeros(1, 3, 32, 32)), ["stage"])]
        ['stage', 'stages.0.2', 'stages.1.2', 'stages.2.2', 'stages.1.2+stages.2.2']
    """
    places: dict[str, list[Key]] = {}
    for name in where:
        of_name = _of_kind(network, all_sites, name) if name in KINDS else _of_paths(all_sites, name)
        for place, chosen in of_name:
            keys = [site_key(site) for site in chosen]
            if keys and keys not in places.values():
                places[place] = keys
    return places


def site_key(site: Site) -> Key:
    """Return what identifies a site: two kinds of sites can share a path."""
    return site.path, site.kind == "input"


def _of_kind(network: nn.Module, all_sites: Sites, kind: str) -> list[tuple[str, list[Site]]]:
    chosen = [site for site in all_sites if site.kind == kind]
    groups: dict[tuple[int, ...], list[Site]] = {}
    for site in chosen:
        groups.setdefault(site.shape, []).append(site)
    parts = [*groups.values()]
    is_numbered = all(site.path.isdigit() for site in chosen)
    name = _text(network, chosen) if is_numbered else kind  # a small CNN knows no kinds
    if len(parts) <= 1:
        return [(name, chosen)]
    last = [[site for part in parts[first:] for site in part] for first in range(len(parts) - 2, 0, -1)]
    return [(name, chosen), *((_text(network, part), part) for part in (*parts, *last))]


def _of_paths(all_sites: Sites, place: str) -> list[tuple[str, list[Site]]]:
    known = {site.path: site for site in all_sites if site.kind != "input"}
    for path in place.split("+"):
        if path not in known:
            raise UnknownName("place", path, [*KINDS, *known], owner="search")
    return [(place, [known[path] for path in place.split("+")])]


def _text(network: nn.Module, chosen: Sequence[Site]) -> str:
    """Return the paths of sites joined by `+`, with `*` for the numbers of the blocks of a stage."""
    paths = [site.path for site in chosen]
    all_paths = [path for path, _ in network.named_modules()]
    shortened: dict[str, list[str]] = {}
    for path in paths:
        head, _, tail = path.rpartition(".")
        stem, _, block = head.rpartition(".")
        pattern = f"{stem}.*.{tail}" if block.isdigit() else path
        matching = [p for p in all_paths if p.count(".") == pattern.count(".") and fnmatchcase(p, pattern)]
        is_exact = len(matching) > 1 and set(matching) <= set(paths)
        shortened.setdefault(pattern if is_exact else path, []).append(path)
    return "+".join(shortened)


def numbered_stages(all_sites: Sites) -> Sites:
    """Return the sites of a small CNN by the paths that recipes use: its stages have numbers."""
    stages = all_sites.of("stage")
    return Sites(replace(site, path=str(number)) for number, site in enumerate(stages, start=1))
