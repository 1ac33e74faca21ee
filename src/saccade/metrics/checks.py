"""Checks of heat maps that several metrics share."""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.errors import BadOption


def check_finite(owner: str, heatmap: Tensor, when: str = "") -> None:
    """Raise `BadOption` unless a heat map holds finite real numbers."""
    if heatmap.is_complex():
        message = f"{owner}: the heat map is {heatmap.dtype}, expected real numbers"
        raise BadOption(message, owner=owner, option="heatmap", value=heatmap.dtype)
    if wrong := int((~torch.isfinite(heatmap)).sum()):
        message = f"{owner}: {wrong} values of the heat map are not finite{when}"
        raise BadOption(message, owner=owner, option="heatmap", value=wrong)
