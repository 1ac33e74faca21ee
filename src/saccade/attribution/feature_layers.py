"""Feature layers: modules whose output has an image grid, with the axis of its channels."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from saccade.attachment import Call, Node, trace_forward
from saccade.attribution.attention_pass import AttentionPass
from saccade.attribution.forward import ForwardPass
from saccade.attribution.targets import Target, describe, find_scores, target_scores
from saccade.errors import BadOption, BadShape, UnknownName
from saccade.model_state import temporary_hooks
from saccade.recording import AttentionSite, FeatureShapes, is_within

_MOST_CANDIDATES = 48  # modules at the end of the forward pass among which the default layer is chosen
_HEAD = re.compile(r"(^|[._])(heads?|classifier|predictor|rpn)([._]|$)")  # modules that predict
_SAME = ("dropout", "identity")  # operations after which attention weights are still attention weights


@dataclass(frozen=True)
class FeatureLayer:
    """A module that returns features with a grid.

    Attributes:
        path: Path of the module.
        axis: Axis of the channels in its output.
        grid: Image positions, (h, w).
        extra: Number of tokens before the positions, such as class tokens.
    """

    path: str
    axis: int
    grid: tuple[int, ...]
    extra: int = 0

    def to_grid(self, x: Tensor) -> Tensor:
        """Return an output of the module, or its gradient, as (B, C, h, w)."""
        x = x.movedim(self.axis, 1)
        return x[:, :, self.extra :].reshape(*x.shape[:2], *self.grid) if x.ndim == 3 else x


@dataclass(frozen=True, eq=False)
class Features:
    """Features A of a layer and the gradient G of the scores, both (B, C, h, w)."""

    layer: FeatureLayer
    values: Tensor
    gradient: Tensor


def features_with_gradient(forward: ForwardPass, layer: str | None, target: Target) -> Features:
    """Run a model and return the features of a layer with their gradient.

    Args:
        forward: The model and its inputs.
        layer: Path of the module. Default: the last module with a grid on whose positions the score depends.
            For a transformer with a class token, that is the norm before the last attention.
        target: What to explain; see `target_scores`.

    Raises:
        UnknownName: No module has the path.
        BadShape: The output of the module, or of every module, has no grid.
        BadOption: The module does not run, or the score does not depend on it.
    """
    owner = forward.owner
    candidates = _candidates(forward, target) if layer is None else [_named_layer(forward, layer)]
    if not candidates:
        raise _no_layer(forward)
    outputs: dict[str, Tensor] = {}

    def keep(path: str, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        outputs[path] = output.clone()  # later operations may change the original in place
        return outputs[path]

    modules = {c.path: forward.model.get_submodule(c.path) for c in candidates}
    hooks = (m.register_forward_hook(functools.partial(keep, path)) for path, m in modules.items())
    with temporary_hooks(hooks):
        output = forward.run()
        score = target_scores(owner, output, target, forward.images)
    live = [c for c in candidates if outputs[c.path].requires_grad]
    gradients = torch.autograd.grad(score.sum(), [outputs[c.path] for c in live], allow_unused=True)
    found = [
        Features(c, c.to_grid(outputs[c.path].detach()), c.to_grid(gradient))
        for c, gradient in zip(live, gradients, strict=True)
        if gradient is not None
    ]
    if not found:
        path = candidates[-1].path
        message = f"{owner}: the scores do not depend on layer {path!r}; choose another layer"
        raise BadOption(message, owner=owner, option="layer", value=path)
    is_classifier = not _predicts_maps(output, target)
    return next((f for f in reversed(found) if _is_active(f, is_classifier)), found[-1])


def _predicts_maps(output: Any, target: Target) -> bool:
    """Return whether the score is one of many at places of the image: of a segmentation or a detection."""
    scores = find_scores(output)
    return callable(target) or not (isinstance(scores, Tensor) and scores.ndim == 2)


def _is_active(features: Features, is_classifier: bool) -> bool:
    """Return whether the score depends on the positions of a layer.

    The features of a detector's other scales can have a gradient, but increase the score nowhere.
    """
    if is_classifier:
        return bool(features.gradient.any())
    weights = features.gradient.mean((2, 3), keepdim=True)
    return bool(((weights * features.values).sum(1) > 0).any())


def last_features(forward: ForwardPass, layer: str | None) -> tuple[FeatureLayer, Tensor]:
    """Return a layer, by default the last one with a grid, and its features (B, C, h, w)."""
    candidates = [_named_layer(forward, layer)] if layer else _candidates(forward, find_scores)
    if not candidates:
        raise _no_layer(forward)
    chosen, outputs = candidates[-1], []
    hook = forward.model.get_submodule(chosen.path).register_forward_hook(
        lambda _module, _inputs, output: outputs.append(output.detach().clone())
    )
    with torch.no_grad(), temporary_hooks([hook]):
        forward.run()
    return chosen, chosen.to_grid(outputs[-1])


def _no_layer(forward: ForwardPass) -> BadShape:
    message = f"{forward.owner}: no module of {forward.name} returns features with an image grid"
    return BadShape(message, owner=forward.owner, option="model", value=forward.name)


def _candidates(forward: ForwardPass, target: Target) -> list[FeatureLayer]:
    """Return the last feature layers of a forward pass outside attention, in the order of their ends.

    The outputs of the heads of a segmentation or detection are scores and no features.
    """
    trace, shapes = _trace(forward)
    attention = AttentionPass(forward)
    with torch.no_grad(), attention:
        skip_heads = _predicts_maps(forward.run(), target)
    inside = [path for path, calls in attention.calls.items() if calls and path]
    layers = [
        layer
        for call in {call.path: call for call in trace}.values()
        if call.path  # the model itself returns scores
        and not any(call.path != path and is_within(call.path, path) for path in inside)
        and not (skip_heads and _HEAD.search(call.path))
        and (layer := _feature_layer(forward, call, shapes))
    ]
    return layers[-_MOST_CANDIDATES:]


def _named_layer(forward: ForwardPass, path: str) -> FeatureLayer:
    owner, modules = forward.owner, dict(forward.model.named_modules())
    if path not in modules:
        raise UnknownName("module", path, modules, owner=owner)
    trace, shapes = _trace(forward)
    call = next((call for call in reversed(trace) if call.path == path), None)
    if call is None:
        message = f"{owner}: layer {path!r}, a {type(modules[path]).__name__}, does not run"
        raise BadOption(message, owner=owner, option="layer", value=path)
    layer = _feature_layer(forward, call, shapes)
    if layer is None:
        returned = "no tensor" if call.output_node is None else _describe_node(call.output_node)
        message = f"{owner}: layer {path!r} returns {returned}, expected features with an image grid"
        raise BadShape(message, owner=owner, option="layer", value=path)
    return layer


def _trace(forward: ForwardPass) -> tuple[list[Call], FeatureShapes]:
    """Return the calls of modules in the order of their ends, and the shapes of feature maps."""
    shapes = FeatureShapes()
    with temporary_hooks(shapes.register(forward.model.modules())):
        trace = trace_forward(forward.model, forward.kwargs or forward.args)
    return trace.calls, shapes


def _feature_layer(forward: ForwardPass, call: Call, shapes: FeatureShapes) -> FeatureLayer | None:
    """Return the layout of a module's output, or None if it is no feature map."""
    node = call.output_node
    if node is None or node.shape[0] != forward.batch or _is_attention(node):
        return None
    image = tuple(forward.images.shape[-2:])
    if len(node.shape) == 4 and node.axis in (1, 3):
        is_known = node.spatial in shapes.values() or _is_reduced(node.spatial, image)
        return FeatureLayer(call.path, node.axis, node.spatial) if is_known and node.positions > 1 else None
    if len(node.shape) == 3 and node.axis == 2 and forward.images.ndim == 4:
        parts = [part for part in call.path.split(".") if part]
        owners = [*accumulate(parts, nn.Module.get_submodule, initial=forward.model)]
        extra, _, grid = AttentionSite.from_owners(owners, shapes).split(node.shape[1])
        if len(grid) == 1:  # of a grid that no convolution or pooling has computed
            grid = next((g for g in _grids(grid[0]) if _is_reduced(g, image)), grid)
        return FeatureLayer(call.path, 2, grid, extra) if len(grid) == 2 else None
    return None


def _is_attention(node: Node) -> bool:
    """Return whether a tensor holds attention weights."""
    current: Node | None = node
    while current is not None and current.operation in _SAME:
        current = current.parent
    return current is not None and "softmax" in current.operation


def _grids(count: int) -> Iterator[tuple[int, int]]:
    """Yield the grids of `count` positions."""
    return ((count // width, width) for width in range(2, count) if count % width == 0)


def _is_reduced(grid: tuple[int, ...], image: tuple[int, ...]) -> bool:
    """Return whether a grid is that of an image reduced by one factor."""
    factor = max(1, round(image[0] / grid[0]))
    return all(math.floor(n / factor) <= g <= math.ceil(n / factor) for g, n in zip(grid, image, strict=True))


def _describe_node(node: Node) -> str:
    return (
        "attention weights" if _is_attention(node) else str(describe(torch.empty(node.shape, device="meta")))
    )
