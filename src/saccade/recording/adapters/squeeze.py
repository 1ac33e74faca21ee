"""Squeeze-and-excitation and its kin: a gate of each channel, in torchvision and timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from saccade.maps import ChannelMap
from saccade.recording.adapters.observe import Handle, Hook, Publish
from saccade.recording.adapters.tokens import Site


def squeeze(site: Site, publish: Publish) -> list[Handle]:
    """Watch a block and, inside it, the activation that makes the gate.

    The gate is taken as it was computed, not computed again: a block may hold batch normalization, whose
    statistics a second pass would change.
    """
    block = site.module
    gate = block.scale_activation if hasattr(block, "scale_activation") else block.gate
    latest: list[Tensor] = []

    def see_gate(_module: nn.Module, _args: Any, output: Tensor) -> None:
        latest[:] = [output.flatten(1)]

    def see(_block: Any, inputs: Mapping[str, Any], _output: Any) -> None:
        (features,) = inputs.values()
        publish(ChannelMap.of(latest.pop(), features))

    return [gate.register_forward_hook(see_gate), Hook(block, see)]
