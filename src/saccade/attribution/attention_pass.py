"""The attention of a model in one forward pass, with the gradient of every weight and fused kernels on."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.attribution.forward import ForwardPass
from saccade.errors import BadShape, NothingRecorded
from saccade.maps import AttentionMap, PairwiseMap, chunks
from saccade.recording import AttentionSite, Capture, FeatureShapes, FlexCall, Logits, Route, Weights

_SIGNATURE = inspect.signature(F.multi_head_attention_forward)


@dataclass(eq=False)
class AttentionLayer:
    """One attention of a forward pass: its weights A and, after `differentiate`, their gradient.

    For o = A v, the gradient of the weights is dA_ij = <do_i, v_j>. So the gradient of the output is enough,
    and neither A nor dA is held as a whole.

    Attributes:
        path: Path of the module.
        attention: The weights between all tokens.
        grid: The image positions of the keys. The tokens before them have no position.
        values: Values v, (B, heads, Nk, D); None if `output` is A itself.
        output: Output o, which has a graph: (B, heads, Nq, D), or A.
        projection: Weight of the projection of the heads' outputs, if `output` is projected already.
    """

    path: str
    attention: PairwiseMap
    grid: tuple[int, ...]
    values: Tensor | None
    output: Tensor
    projection: Tensor | None = None
    gradient: Tensor | None = None

    @property
    def queries(self) -> int:
        return self.attention.query_shape[0]

    @property
    def keys(self) -> int:
        return self.attention.key_shape[0]

    def rows(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Yield rows of the weights and of their gradient, each (B, heads, n, Nk), with the rows' range."""
        gradient = self._head_gradient()
        for rows in chunks(self.queries, self.attention.keys[..., 0].numel()):
            part = gradient[:, :, rows]
            if self.values is None:
                yield rows, self.output.detach().reshape(gradient.shape)[:, :, rows], part
            else:
                yield rows, self.attention.rows_at(rows).to(part), part @ self.values.mT

    def active_queries(self) -> Tensor:
        """Return which queries the score depends on, (B, Nq)."""
        return self._head_gradient().abs().amax((1, 3)) > 0

    def _head_gradient(self) -> Tensor:
        """Return the gradient of the output of each head, (B, heads, Nq, D)."""
        if self.gradient is None:
            raise RuntimeError("differentiate() has not been called")
        batch, heads = self.attention.queries.shape[:2]
        if self.projection is None:
            return self.gradient.reshape(batch, heads, self.queries, -1)
        gradient = (self.gradient @ self.projection).reshape(self.queries, batch, heads, -1)
        return gradient.permute(1, 2, 0, 3)


class AttentionPass(Capture):
    """Collects the attention of a model whose gradients are needed, in the order of computation."""

    def __init__(self, forward: ForwardPass) -> None:
        self.layers: list[AttentionLayer] = []
        self._live: tuple[Tensor | None, Tensor, Tensor | None] | None = None  # of the next map
        self._softmax: dict[Weights, Tensor] = {}
        self.windows: dict[str, None] = {}  # paths of attention within windows, in order
        self.seen: list[str] = []  # paths of all attention, also between channels
        self.images = forward.batch
        self._is_cut = False
        super().__init__(dict(forward.model.named_modules()), (), FeatureShapes(), self._keep)

    def has_fast_path(self, _module: nn.Module, /) -> bool:
        return False  # torch leaves its fast paths, since gradients are needed

    def _enter_module(self, module: nn.Module, inputs: Any) -> None:
        super()._enter_module(module, inputs)
        self.batch = self.images

    def _follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Remember the tensors whose gradients are needed, then build the map as `record` does."""
        if func is F.scaled_dot_product_attention:
            values = args[2] if len(args) > 2 else kwargs["value"]
            if kwargs.get("enable_gqa") and values.shape[-3] != output.shape[-3]:
                values = values.repeat_interleave(output.shape[-3] // values.shape[-3], -3)
            self._live = self._heads(values.detach()), output, None
        elif func is F.multi_head_attention_forward:
            self._live = _functional(args, kwargs, output)
        super()._follow(func, args, kwargs, output)

    def find_partition(self, routes: tuple[Route, ...]) -> None:
        """Note that the tokens are in windows or in another order; the map keeps the tokens of the model."""
        partition = super().find_partition(routes)
        self._is_cut = partition is not None and not partition.is_plain

    def site(self) -> tuple[str, AttentionSite]:
        """Return the attention that runs; the map keeps the order of the tokens."""
        path, site = super().site()
        return path, replace(site, trailing=0)

    def tag_weights(self, weights: Tensor, logits: Logits | None) -> None:
        super().tag_weights(weights, logits)
        self._softmax[self.tags[weights]] = weights

    def _flex_map(self, site: AttentionSite, call: FlexCall) -> AttentionMap:
        raise ValueError(f"{site.module} attends to {call.key.shape} in compiled code, without gradients")

    def _softmax_map(self, site: AttentionSite, tag: Weights, values: Tensor) -> AttentionMap:
        self._live = None, self._softmax[tag], None
        return super()._softmax_map(site, tag, values)

    def _keep(self, path: str, attention: AttentionMap) -> None:
        """Keep an attention whose map has just been built."""
        live, self._live = self._live, None
        self.seen.append(path)
        if live is None or not isinstance(attention, PairwiseMap):
            return
        values, output, projection = live
        owner = self.model.get_submodule(path.partition("#")[0])
        if projection is None and (self._is_cut or self.has_windows(output, owner)):
            self.windows[path] = None
        self.layers.append(
            AttentionLayer(path, attention.tokens(), attention.key_shape, values, output, projection)
        )


def attention_layers(forward: ForwardPass) -> tuple[list[AttentionLayer], Any]:
    """Run a model and return its attention layers and its output, with their graph.

    Raises:
        NothingRecorded: No attention with queries and keys ran.
    """
    attention = AttentionPass(forward)
    with attention:
        output = forward.run()
    for paths, problem in (
        (attention.failed, "cannot be followed"),
        (attention.windows, "is within windows"),
    ):
        if paths:
            message = f"{forward.owner}: the attention of {next(iter(paths))!r} {problem}; use `grad_cam`"
            raise NothingRecorded(message, owner=forward.owner, value=next(iter(paths)))
    if not attention.layers:
        message = f"{forward.owner}: {forward.name} ran no attention with queries and keys; use `grad_cam`"
        raise NothingRecorded(message, owner=forward.owner, value=forward.name)
    return attention.layers, output


def differentiate(
    owner: str, score: Tensor, layers: list[AttentionLayer], *, retain_graph: bool = False
) -> list[AttentionLayer]:
    """Set the gradients of a score, and return the layers that it depends on.

    Raises:
        BadShape: The score depends on none of the layers.
    """
    outputs = [layer.output for layer in layers]
    gradients = torch.autograd.grad(score.sum(), outputs, allow_unused=True, retain_graph=retain_graph)
    for layer, gradient in zip(layers, gradients, strict=True):
        layer.gradient = gradient
    used = [layer for layer in layers if layer.gradient is not None]
    if not used:
        message = f"{owner}: the score depends on no attention layer; choose another target"
        raise BadShape(message, owner=owner, option="target", value=tuple(score.shape))
    return used


def _functional(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return values, output and projection of a call of `F.multi_head_attention_forward`."""
    given = _SIGNATURE.bind(*args, **kwargs).arguments
    weight, bias, heads = given["in_proj_weight"], given["in_proj_bias"], given["num_heads"]
    weight = given["v_proj_weight"] if given.get("use_separate_proj_weight") else weight.chunk(3)[2]
    with torch.no_grad():
        values = F.linear(given["value"], weight, None if bias is None else bias.chunk(3)[2])
        values = values if values.ndim == 3 else values[:, None]  # (Nk, B, C)
        if given["add_zero_attn"]:
            values = torch.cat([torch.zeros_like(values[:1]), values])
        if given["bias_v"] is not None:
            values = torch.cat([given["bias_v"].expand_as(values[:1]), values])
        values = values.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)
    return values, output[0], given["out_proj_weight"].detach()
