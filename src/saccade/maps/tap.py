"""The tap: the submodule through which a mechanism publishes its attention map."""

from __future__ import annotations

from torch import nn

from saccade.maps.base import AttentionMap


class Tap(nn.Module):
    """A submodule without parameters through which a mechanism publishes its attention map.

    The tap is inactive until `saccade.record` sets `recording`, so a mechanism builds its map only on demand:

        if self.tap.recording:
            self.tap.publish(SpatialMap(gate))

    Only the latest map is kept. Assigning an attribute instead of appending to a list lets
    `torch.compile(fullgraph=True)` trace a recorded forward pass without recompiling at every call.

    Attributes:
        recording: Whether maps are kept.
        latest: The latest published map.

    Example:
        >>> import torch
        >>> from saccade import SpatialMap
        >>> tap = Tap()
        >>> tap.recording
        False
        >>> tap.publish(SpatialMap(torch.rand(1, 4, 4)))   # not recording: the map is discarded
        >>> tap.latest is None
        True
    """

    def __init__(self) -> None:
        super().__init__()
        self.recording = False
        self.latest: AttentionMap | None = None

    def publish(self, attention: AttentionMap) -> None:
        """Keep `attention` if the tap is recording."""
        if self.recording:
            self.latest = attention
