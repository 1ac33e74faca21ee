"""Capture of attention by its operations: fused kernels, and softmaxes that are multiplied with values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from saccade._torch import FLEX_ATTENTION, WeakTensorKeyDictionary, run_as_written, tensors_in
from saccade.maps import AttentionMap, PairwiseMap, SpatialMap
from saccade.ops.narrow_attention import as_fused
from saccade.recording.adapters.token_sets import begins_set
from saccade.recording.adapters.tokens import AttentionSite, FeatureShapes
from saccade.recording.captured_maps import (
    agrees,
    channel_map,
    factors_of,
    functional_map,
    fused_logits,
    grouped_bias,
    linear_map,
    window_map,
)
from saccade.recording.flex_attention import FlexCall
from saccade.recording.operations import (
    ADD,
    DIVIDE,
    EINSUM,
    FOLLOWED,
    FUSED,
    MATMUL,
    SOFTMAX,
    STARTS,
    Contexts,
    Keys,
    Logits,
    Weights,
    change_logits,
)
from saccade.recording.positions import Route, Routes, is_cut
from saccade.recording.running import RunningModules
from saccade.recording.windows import Partition

#: Parameters of `F.scaled_dot_product_attention`, which is built in and has no signature.
_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
_FUNCTIONAL = inspect.signature(F.multi_head_attention_forward)
_LAYERS = {F.linear, F.conv1d, F.conv2d, F.conv3d}
_UNUSUAL = (RuntimeError, ValueError, TypeError, IndexError, KeyError)  # noted; the model goes on
_MOST_WEIGHTS = 1 << 26  # larger matrices of weights are kept as their column means


class Capture(RunningModules, TorchFunctionMode):
    """Publishes a map for each attention that runs in a model and that no adapter observes.

    Args:
        modules: All modules of the model by path, the model itself first.
        known: Paths of modules whose attention is observed otherwise.
        features: Shapes of the feature maps that the model has computed.
        publish: Called with the path of the module that runs the attention, and its map.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        known: Iterable[str],
        features: FeatureShapes,
        publish: Callable[[str, AttentionMap], None],
    ) -> None:
        TorchFunctionMode.__init__(self)
        RunningModules.__init__(self, modules, features)
        self.publish = publish
        self.known = {self.model.get_submodule(path) for path in known}
        self.is_following = False  # whether a tensor has a tag or a route
        self.tags: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self.routes, self.sets = Routes(features), features.sets
        self.flex_calls: tuple[tuple[Any, ...], ...] = ()  # of compiled code, since the last look
        self.is_hidden = False
        self.is_paused = False

    def __enter__(self) -> Capture:
        self.handles = [*self.register_hooks()]
        TorchFunctionMode.__enter__(self)
        return self

    def __exit__(self, *error: object) -> None:
        TorchFunctionMode.__exit__(self, *error)
        for handle in self.handles:
            handle.remove()

    @run_as_written
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.compiler.is_compiling():
            # The compiled code repeats what is assigned here each time that it runs.
            if func is FLEX_ATTENTION:
                self.flex_calls = (*self.flex_calls, args[:6])
            elif func in FUSED:
                self.is_hidden = True
            return func(*args, **kwargs) if kwargs else func(*args)
        self._publish_compiled()
        output = func(*args, **kwargs) if kwargs else func(*args)
        func, args, kwargs = as_fused(func, args, kwargs or {})
        if self.is_paused:
            pass
        elif not self.stack:
            self.another_ran |= func in _LAYERS
        elif (self.is_following or self._begins(func, args, output)) and self.known.isdisjoint(self.stack):
            try:
                with torch.no_grad():
                    if self.routes or is_cut(func, args, output, self.batch):
                        self.routes.follow(func, args, kwargs, output, self.batch)
                    if self.sets or begins_set(func, args, output):
                        self.sets.follow(func, args, kwargs, output)
                    self._follow(func, args, kwargs, output)
            except _UNUSUAL:
                self.failed[self.site()[0]] = None
            self.is_following = bool(self.tags or self.routes or self.sets)
        return output

    @run_as_written
    def _enter_module(self, module: nn.Module, inputs: Any) -> None:
        self._publish_compiled()
        super()._enter_module(module, inputs)

    @run_as_written
    def _leave_module(self, module: nn.Module, args: Any, *given: Any) -> None:
        self._publish_compiled()
        super()._leave_module(module, args, *given)

    def _publish_compiled(self) -> None:
        """Publish or name the attention of compiled code that ran in the innermost module."""
        if self.is_paused or not (self.flex_calls or self.is_hidden):
            return
        calls, is_hidden = self.flex_calls, self.is_hidden
        self.flex_calls, self.is_hidden = (), False
        if not self.stack or not self.known.isdisjoint(self.stack):
            return
        if is_hidden:
            self.failed[self.site()[0]] = None
        self.is_paused = True
        try:
            with torch.no_grad():
                for call in calls:
                    self._publish(partial(self._flex_map, call=FlexCall(*call)))
        except _UNUSUAL:
            self.failed[self.site()[0]] = None
        finally:
            self.is_paused = False

    def _begins(self, func: Any, args: tuple[Any, ...], output: Any) -> bool:
        """Return whether an operation may begin an attention, windows or a set of tokens."""
        return func in STARTS or is_cut(func, args, output, self.batch) or begins_set(func, args, output)

    def _follow(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Publish an attention, or pass the tag of an input on to the output."""
        if func is F.scaled_dot_product_attention:
            given = dict(zip(_ARGUMENTS, args, strict=False)) | kwargs
            self._publish(lambda site: self._fused_map(site, given))
        elif func is F.multi_head_attention_forward:
            given = _FUNCTIONAL.bind(*args, **kwargs).arguments
            self._publish(lambda site: functional_map(site, given))
        elif func in MATMUL or func in EINSUM:
            operands = tensors_in((args, kwargs))
            if len(operands) != 2:
                return
            for weights, values in (operands, operands[::-1]):
                tag = self.tags.get(weights)
                if isinstance(tag, Weights) and not tag.is_published:
                    tag.is_published = True
                    self._publish(partial(self._softmax_map, tag=tag, values=values))
            if func in MATMUL and all(x.ndim > 2 for x in operands):
                queries, keys = operands
                sets = queries in self.sets, keys in self.sets
                self.tags[output] = Logits(queries.detach(), keys.detach().transpose(-2, -1), sets=sets)
            self._follow_linear(operands, output)
        elif func in SOFTMAX:
            self._tag_softmax(args[0], args[1] if len(args) > 1 else kwargs.get("dim"), output)
        elif args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            tagged = next((x for x in args if isinstance(x, Tensor) and x in self.tags), None)
            tag = None if tagged is None else self.tags[tagged]
            if isinstance(tag, Weights | Keys) and func in FOLLOWED:
                self.tags[output] = tag
            elif isinstance(tag, Weights) and self._mixes_weights(func, args):
                self.tag_weights(output, None)
            elif isinstance(tag, Logits) and tagged is not None:
                changed = change_logits(tag, tagged, func, args, kwargs, output)
                if changed is not None:
                    self.tags[output] = changed
                elif output is args[0]:  # changed in place, in an unknown way
                    del self.tags[output]

    def _follow_linear(self, operands: list[Tensor], output: Tensor) -> None:
        """Follow linear attention: the product of keys and values, and that of queries and the result."""
        for factor, other in (operands, operands[::-1]):
            tag = self.tags.get(factor)
            if isinstance(tag, Keys) and tag.are(factor):
                self.tags[output] = Contexts(tag.keys)
            elif isinstance(tag, Contexts) and tag.fit(other):
                queries = other if other.shape[-1] == tag.keys.shape[-1] else other.mT
                factors = self._heads(queries.detach()), self._heads(tag.keys)
                self._publish(partial(linear_map, queries=factors[0], keys=factors[1]))

    def _mixes_weights(self, func: Any, args: tuple[Any, ...]) -> bool:
        """Return whether a result is weights because its operands are: a sum, or weights that are divided."""
        operands = args[:1] if func in DIVIDE else args[:2]
        are_weights = (isinstance(x, Tensor) and isinstance(self.tags.get(x), Weights) for x in operands)
        return (func in ADD or func in DIVIDE) and all(are_weights)

    def _tag_softmax(self, logits: Tensor, dim: int | None, weights: Tensor) -> None:
        tag = self.tags.get(logits)
        if tag is None and weights.ndim > 2 and dim in (-2, weights.ndim - 2):
            self.tags[weights] = Keys(weights.detach())
        if weights.ndim < 3 or dim not in (-1, weights.ndim - 1):
            return
        self.tag_weights(weights, tag if isinstance(tag, Logits) else None)

    def tag_weights(self, weights: Tensor, logits: Logits | None) -> None:
        """Tag a tensor as attention weights, of these logits if they are known."""
        sets = (weights in self.sets, False) if logits is None else logits.sets
        self.tags[weights] = Weights(weights.detach(), logits, sets, self.routes.of_weights(weights))

    def _publish(self, build: Callable[[AttentionSite], AttentionMap]) -> None:
        """Publish the map of the innermost module with parameters that runs."""
        path, site = self.site()
        attention = build(site)
        self.calls[path] = self.calls.get(path, 0) + 1
        number = self.calls[path]
        self.publish(path if number == 1 else f"{path}#{number}", attention)
        self.features.captured.add(site.module)

    def _fused_map(self, site: AttentionSite, given: dict[str, Any]) -> AttentionMap:
        routes = self.routes.get(given["query"])[:1] + self.routes.get(given["key"])[:1]
        logits = fused_logits(site, given)
        return self._map(site, logits, None, given["value"], routes, logits.sets)

    def _flex_map(self, site: AttentionSite, call: FlexCall) -> AttentionMap:
        routes = self.routes.get(call.query)[:1] + self.routes.get(call.key)[:1]
        logits = call.logits(site.are_sets(call.query, call.key))
        return self._map(site, logits, None, call.value, routes, logits.sets)

    def _softmax_map(self, site: AttentionSite, tag: Weights, values: Tensor) -> AttentionMap:
        return self._map(site, tag.logits, tag.weights, values, tag.routes, tag.sets)

    def _map(
        self,
        site: AttentionSite,
        logits: Logits | None,
        weights: Tensor | None,
        values: Tensor,
        routes: tuple[Route, ...],
        sets: tuple[bool, ...],
    ) -> AttentionMap:
        """Return the map of an attention from its factors or, if these are unknown, from its weights."""
        partition = self.find_partition(routes)
        if partition is not None and (weights is None or weights.numel() <= _MOST_WEIGHTS):
            return partition.build_map(logits, weights)
        attention: PairwiseMap | None = None
        operand = weights if logits is None else logits.queries
        has_windows = operand is not None and self.has_windows(operand, site.module)
        build = window_map if has_windows else partial(site.build_map, sets=sets)
        if logits is not None:
            queries, keys = (self._heads(x) for x in (logits.queries, logits.keys))
            if keys.shape[1] == 1:  # multi-query attention: all heads share the keys
                keys = keys.expand(-1, queries.shape[1], -1, -1)
            if queries.shape[:2] == keys.shape[:2] and queries.shape[-1] == keys.shape[-1]:
                bias = None if logits.bias is None else grouped_bias(logits, queries)
                attention = build(queries, keys, logits.scale, bias)
        if weights is not None:
            known = self._heads(weights)
            if attention is None or not agrees(attention, known):
                if known.numel() > _MOST_WEIGHTS:
                    extra, _, grid = site.split(known.shape[3], is_set=sets[1])
                    if has_windows:
                        extra, grid = 0, known.shape[3:]
                    return SpatialMap(known.mean((1, 2))[:, extra:].reshape(-1, *grid))
                attention = build(*factors_of(known))
        if attention is None:
            raise ValueError("queries and keys do not fit together")
        return channel_map(attention, values, site) or attention

    def find_partition(self, routes: tuple[Route, ...]) -> Partition | None:
        """Return how the tokens of an attention with these routes cover the image, if this is known."""
        return Partition.find(*routes, self.batch) if len(routes) == 2 and self.batch else None

    def _heads(self, x: Tensor) -> Tensor:
        """Return a tensor (..., N, D) as (B, heads, N, D): windows and heads in the batch become heads."""
        if x.ndim == 4 and x.shape[0] == self.batch:
            return x
        if x.ndim == 2:
            return x[None, None]
        batch = self.batch if self.batch and x.shape[0] % self.batch == 0 else x.shape[0]
        return x.reshape(batch, -1, *x.shape[-2:])
