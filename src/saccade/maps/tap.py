"""The tap: the one way in which a mechanism publishes its weights."""

from __future__ import annotations

from torch import nn

from saccade.maps.base import AttentionMap


class Tap(nn.Module):
    """A submodule without parameters through which a mechanism publishes its attention map.

    It does nothing until `saccade.record` turns it on, so a mechanism builds its map only if asked:

        if self.tap.recording:
            self.tap.publish(SpatialMap(gate))

    Only the latest map is kept. Writing an attribute, rather than appending to a list, is what lets
    `torch.compile(fullgraph=True)` trace a forward pass that is being recorded without compiling
    again at every call.

    >>> import torch
    >>> from saccade import SpatialMap
    >>> tap = Tap()
    >>> tap.recording
    False
    >>> tap.publish(SpatialMap(torch.rand(1, 4, 4)))   # nobody records: nothing is kept
    >>> tap.latest is None
    True
    """

    recording: bool
    latest: AttentionMap | None

    def __init__(self) -> None:
        super().__init__()
        self.recording = False
        self.latest = None

    def publish(self, attention: AttentionMap) -> None:
        """Keep `attention` if somebody records."""
        if self.recording:
            self.latest = attention
