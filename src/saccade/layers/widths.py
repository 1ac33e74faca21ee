"""Widths of layers."""

from __future__ import annotations

from saccade.errors import check_positive, check_reduction


def hidden_width(owner: str, channels: int, reduction: int, hidden: int | None) -> int:
    """Return the width of a hidden layer: `hidden` if it is given, else C // reduction.

    Raises:
        BadOption: The width is below 1.

    Example:
        >>> hidden_width("se", 64, 16, None), hidden_width("se", 64, 16, 6)
        (4, 6)
    """
    if hidden is None:
        check_reduction(owner, channels, reduction=reduction)
        return channels // reduction
    check_positive(owner, reduction=reduction, hidden=hidden)
    return hidden


def make_divisible(width: float, divisor: int = 8) -> int:
    """Round a width to a multiple of a divisor, at least the divisor, and not below 90% of the width.

    This is the rule of timm and torchvision.

    Example:
        >>> make_divisible(20), make_divisible(11), make_divisible(1)
        (24, 16, 8)
    """
    rounded = max(divisor, int(width + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * width else rounded + divisor
