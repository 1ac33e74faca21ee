"""Squeeze-and-excitation and similar blocks of torchvision and timm: one gate per channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from saccade.maps import ChannelMap
from saccade.model_state import Handle
from saccade.recording.adapters.observe import Observer, Publish
from saccade.recording.adapters.tokens import AttentionSite


def observe_squeeze(site: AttentionSite, publish: Publish) -> list[Handle]:
    """Observe a block and the activation inside it that computes the gate.

    The gate is not computed again: the block may hold a batch normalization, whose statistics a second pass
    would change.
    """
    block = site.module
    gate = block.scale_activation if hasattr(block, "scale_activation") else block.gate
    latest: list[Tensor] = []

    def observe_gate(_module: nn.Module, _args: Any, output: Tensor) -> None:
        latest[:] = [output.flatten(1)]

    def adapter(_block: Any, inputs: Mapping[str, Any], _output: Any) -> ChannelMap:
        (features,) = inputs.values()
        return ChannelMap.of(latest.pop(), features)

    return [gate.register_forward_hook(observe_gate), Observer(block, adapter, publish)]
