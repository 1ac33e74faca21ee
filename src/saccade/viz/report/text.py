"""Names and quantities as the page shows them."""

from __future__ import annotations

import math


def count(value: float) -> str:
    """Format a large count with three digits and a unit.

    Example:
        >>> count(870), count(11_180_000), count(1_824_000_000)
        ('870', '11.2 M', '1.82 G')
    """
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit * 0.9995:
            scaled = value / limit
            return f"{scaled:.{max(0, 2 - math.floor(math.log10(scaled) + 0.001))}f} {unit}"
    return f"{value:g}"


def duration(seconds: float) -> str:
    """Format a duration in a suitable unit.

    Example:
        >>> duration(4.2), duration(75), duration(8000)
        ('4.2 s', '1 min 15 s', '2 h 13 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
