"""Other names of mechanisms, as timm's `create_attn` has them, with the options that a name sets."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from saccade.grammar import format_value

#: Each alias with its mechanism and options. This table is read without importing any mechanism.
ALIASES: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "ceca": ("eca", {"padding": "circular"}),
        "coord": ("coordinate", {}),
        "ecam": ("eca", {"hidden": "auto"}),
        "gc": ("global_context", {"fusion": "multiply"}),
        "gca": ("global_context", {"fusion": "add"}),
        "lambda": ("lambda_layer", {}),
        "lcbam": ("cbam", {"pools": ("avgmax",), "bias": False, "spatial_pools": ("avgmax",)}),
        "nl": ("non_local", {"scale": True}),
        "scoord": ("coordinate", {"reduction": 6, "variant": "simple"}),
        "splat": ("split_attention", {}),
        "strip": ("strip_pooling", {"variant": "timm"}),
    }
)


def aliases_of(name: str) -> list[str]:
    """Return the aliases of a mechanism and what each stands for.

    Example:
        >>> aliases_of("global_context")
        ['gc = global_context:fusion=multiply', 'gca = global_context:fusion=add']
    """
    return [
        f"{alias} = {name}"
        + ":" * bool(options)
        + ",".join(f"{key}={format_value(value)}" for key, value in options.items())
        for alias, (canonical, options) in ALIASES.items()
        if canonical == name
    ]


def resolve_alias(name: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the canonical name and the options of a mechanism. Given options replace those of the alias.

    Example:
        >>> resolve_alias("gca", {"reduction": 8})
        ('global_context', {'fusion': 'add', 'reduction': 8})
        >>> resolve_alias("se", {})
        ('se', {})
    """
    canonical, preset = ALIASES.get(name, (name, {}))
    return canonical, {**preset, **options}
