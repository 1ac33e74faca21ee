"""Spaces of a search that need no network."""

from __future__ import annotations

from saccade.results import SCHEMA, SearchSpace


def make_space(mechanisms: int, places: int) -> SearchSpace:
    """Return a space of mechanisms `m0`, `m1`, ... at places `0`, `1`, ...; `m0` is refused."""
    return {
        "schema": SCHEMA,
        "recipe": {},
        "mechanisms": [],
        "places": [],
        "limits": {},
        "baseline": {"parameters": 1, "flops": 1, "latency_ms": None, "memory": None},
        "candidates": [
            {
                "attention": f"m{m}@{p}",
                "mechanism": f"m{m}",
                "place": str(p),
                "costs": {"parameters": 1, "flops": 1 + m, "latency_ms": None, "memory": None},
                "refused": "too slow" if m == 0 else None,
            }
            for m in range(mechanisms)
            for p in range(places)
        ],
    }
