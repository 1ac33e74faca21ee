"""Checks of heat maps that several metrics share."""

from __future__ import annotations

import torch
from torch import Tensor

from saccade.errors import BadOption


def check_finite(owner: str, heatmap: Tensor, when: str = "") -> None:
    """Raise `BadOption` unless a heat map holds finite real numbers."""
    if heatmap.is_complex():
        problem = f"the heat map is {heatmap.dtype}, expected real numbers"
        raise BadOption.of(owner, problem, heatmap=heatmap.dtype)
    if wrong := int((~torch.isfinite(heatmap)).sum()):
        raise BadOption.of(owner, f"{wrong} values of the heat map are not finite{when}", heatmap=wrong)
