"""Gates of other libraries: squeeze-and-excitation, CBAM, coordinate attention, attention gates, branches.

A gate is not computed again, since a second pass would change the statistics of a batch norm in the block.
It is the output of a module inside of the block.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from saccade.maps import AttentionMap, BranchMap, ChannelMap, SpatialMap
from saccade.model_state import Handle
from saccade.recording.adapters.observe import Observer, Publish
from saccade.recording.adapters.tokens import AttentionSite

#: Computes a map from a block, its first input and the outputs of the modules that it watches, in order.
Build = Callable[[Any, Mapping[str, Any], list[Tensor]], AttentionMap]
Observe = Callable[[AttentionSite, Publish], list[Handle]]


def watch(build: Build, *names: str) -> Observe:
    """Return how to observe a block by the outputs of the modules that it holds under one of these names."""

    def observe(site: AttentionSite, publish: Publish) -> list[Handle]:
        block, outputs = site.module, list[Tensor]()
        watched = (getattr(block, name, None) for name in names)

        def adapter(block: Any, inputs: Mapping[str, Any], _output: Any) -> AttentionMap:
            return build(block, inputs, outputs)

        return [
            block.register_forward_pre_hook(lambda *_: outputs.clear()),
            *(
                module.register_forward_hook(lambda *call: outputs.append(call[-1].detach()))
                for module in watched
                if isinstance(module, nn.Module)
            ),
            Observer(block, adapter, publish),
        ]

    return observe


def gate_map(gate: Tensor, features: Tensor) -> ChannelMap | SpatialMap:
    """Return the map of a gate of the channels or the positions of features (B, C, S...).

    A gate of channels and positions is the mean over its channels at each position.
    """
    is_of_positions = gate.shape[1:2] < features.shape[1:2] or math.prod(gate.shape[2:]) > 1
    if gate.ndim == features.ndim and is_of_positions:
        return SpatialMap(gate.detach().mean(1))
    return ChannelMap.of(gate.flatten(1), features)


def _gate(_block: Any, inputs: Mapping[str, Any], outputs: list[Tensor]) -> AttentionMap:
    """The product of all outputs, such as a gate of rows and one of columns, multiplies the features."""
    features = inputs["x"] if "x" in inputs else next(iter(inputs.values()))
    return gate_map(functools.reduce(operator.mul, outputs), features)


def _sigmoid_of_last(_block: Any, inputs: Mapping[str, Any], outputs: list[Tensor]) -> AttentionMap:
    return gate_map(outputs[-1].sigmoid(), inputs["x"])


def _context(block: Any, inputs: Mapping[str, Any], outputs: list[Tensor]) -> AttentionMap:
    """The context of timm's `GlobalContext` is a weighted mean of positions; without weights, a gate."""
    if block.conv_attn is None:
        return gate_map(outputs[-1] if block.mlp_scale else torch.ones_like(outputs[-1]), inputs["x"])
    return SpatialMap(outputs[0].flatten(1).softmax(1).reshape_as(outputs[0][:, 0]))


def _of_all_pairs(_block: Any, inputs: Mapping[str, Any], outputs: list[Tensor]) -> AttentionMap:
    """One softmax over all pairs of positions: the weight that each position receives in all."""
    size = inputs["x"].shape[2:]
    return SpatialMap(outputs[0].unflatten(1, (-1, size.numel())).sum(1).unflatten(1, size))


def _split(block: Any, _inputs: Mapping[str, Any], outputs: list[Tensor]) -> AttentionMap:
    """The branches of ResNeSt are groups of channels."""
    features, weights = outputs
    if block.radix == 1:
        return ChannelMap.of(weights.flatten(1), features)
    branches = features.unflatten(1, (block.radix, -1))
    return BranchMap.of(weights.reshape(branches.shape[:3]), branches.unbind(1))


def _largest_similarity(block: Any, inputs: Mapping[str, Any], outputs: list[Tensor]) -> AttentionMap:
    """The gate of ultralytics' `MaxSigmoidAttnBlock` is the similarity to the nearest embedding of a text."""
    guide, embedded = outputs[0], (inputs["x"], *outputs)[-1 if block.ec is not None else 0]
    queries = embedded.unflatten(1, (block.nh, block.hc)).flatten(3).transpose(2, 3)
    keys = guide.unflatten(2, (block.nh, block.hc)).permute(0, 2, 3, 1)
    logits = (queries @ keys).amax(3) / block.hc**0.5 + block.bias[:, None]
    gate = logits.unflatten(2, embedded.shape[2:]).sigmoid() * block.scale
    return SpatialMap(gate.detach().mean(1))


#: A block with a module `scale_activation` (torchvision), `gate` (timm) or another that returns the gate.
observe_gate = watch(_gate, "scale_activation", "gate", "act_expand")
observe_activation = watch(_gate, "act")
observe_psi = watch(_gate, "psi")
observe_attention = watch(_gate, "attention")
observe_excitation = watch(_gate, "fc")
observe_light_gate = watch(_sigmoid_of_last, "fc2")
observe_context = watch(_context, "conv_attn", "gate")
observe_pairs = watch(_of_all_pairs, "map_softmax")
observe_split = watch(_split, "act0", "rsoftmax")
observe_similarity = watch(_largest_similarity, "gl", "ec")


def observe_branches(site: AttentionSite, publish: Publish) -> list[Handle]:
    """Observe a module that returns the weights (B, M, C, 1, 1) of branches (B, M, C, H, W)."""

    def adapter(_module: Any, inputs: Mapping[str, Any], output: Tensor) -> BranchMap:
        return BranchMap.of(output.flatten(2), inputs["x"].unbind(1))

    return [Observer(site.module, adapter, publish)]


def observe_output(site: AttentionSite, publish: Publish) -> list[Handle]:
    """Observe a module that returns a gate of its input."""

    def adapter(_module: Any, inputs: Mapping[str, Any], output: Tensor) -> AttentionMap:
        return gate_map(output, next(iter(inputs.values())))

    return [Observer(site.module, adapter, publish)]
