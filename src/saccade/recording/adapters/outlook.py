"""Outlook attention of the VOLO of timm, which generates the weights of each window from its center."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.maps import SpatialMap
from saccade.recording.adapters.gates import watch


def _received(attention: Any, inputs: Mapping[str, Any], outputs: list[Tensor]) -> SpatialMap:
    """Return the weight that each position receives, summed over windows and their positions.

    It is the mean over heads. Results outside of the map are left out.
    """
    (logits,) = outputs  # (B, rows, columns, heads k^4)
    places = attention.kernel_size**2
    weights = (logits.unflatten(3, (-1, places, places)) * attention.scale).softmax(5).mean(3)
    size = inputs["x"].shape[1:3]
    window = {key: getattr(attention, key) for key in ("kernel_size", "padding", "stride")}
    has_result = F.unfold(weights.new_ones(1, 1, *size), **window)
    received = torch.einsum("bnij,in->bjn", weights.flatten(1, 2), has_result[0])
    return SpatialMap(F.fold(received, size, **window)[:, 0])


#: A block with a linear layer `attn` that returns the logits of the weights.
observe_outlook = watch(_received, "attn")
