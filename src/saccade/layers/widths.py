"""Widths of layers."""

from __future__ import annotations


def make_divisible(width: float, divisor: int = 8) -> int:
    """Round a width to a multiple of a divisor, at least the divisor, and not below 90% of the width.

    This is the rule of timm and torchvision.

    Example:
        >>> make_divisible(20), make_divisible(11), make_divisible(1)
        (24, 16, 8)
    """
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * width else rounded + divisor
