"""What a shell completes beyond commands and options. It must be fast, so torch is not imported."""

from __future__ import annotations

from saccade import plugins
from saccade.layers.built_in import built_in_mechanisms


def complete_mechanism(incomplete: str) -> list[str]:
    """Return the mechanisms whose name begins with the given text, of this package and of plugins.

    Example:
        >>> complete_mechanism("cb")
        ['cbam']
    """
    names = {"none", *built_in_mechanisms(), *plugins.names("saccade.mechanisms", built_in_mechanisms())}
    return sorted(name for name in names if name.startswith(incomplete))
