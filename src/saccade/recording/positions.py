"""Positions of tokens: from which place of a feature map a model has taken them, to put windows back.

A model cuts a map into windows by operations that move values and change none: reshapes, shifts, padding.
Repeated with the numbers of the positions in place of the features, they tell where each token comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade._torch import WeakTensorKeyDictionary
from saccade.recording.adapters.tokens import FeatureShapes
from saccade.recording.labels import (
    agreed_labels,
    channel_labels,
    column_labels,
    einsum_labels,
    expand_labels,
    mixed_labels,
    number_positions,
    pooled_labels,
    replay,
    replay_part,
    row_labels,
    unfolded_labels,
)
from saccade.recording.operations import ADD, DIVIDE, EINSUM, FILL, MATMUL, ORDERED, PASS, SCALE, SOFTMAX

_SHIFTED = {Tensor.roll, torch.roll, F.pad, F.unfold}
_MOVED = _SHIFTED | {
    *(Tensor.transpose, torch.transpose, Tensor.permute, torch.permute, Tensor.swapaxes, torch.swapaxes),
    *(Tensor.movedim, torch.movedim, Tensor.flip, torch.flip, Tensor.__getitem__, Tensor.narrow),
    *(Tensor.unbind, torch.unbind, Tensor.chunk, torch.chunk, Tensor.split, torch.split, torch.narrow),
    *(Tensor.tensor_split, torch.tensor_split, Tensor.select, torch.select),
    *(Tensor.amax, torch.amax, Tensor.max, torch.max),  # the pooling of blocks: the last place stands for all
    Tensor.mT.__get__,  # type: ignore[attr-defined]
}
_ELEMENTWISE = {
    *(*PASS, *SCALE, *DIVIDE, *ADD, *FILL, *SOFTMAX, Tensor.sub, torch.sub, Tensor.__sub__, Tensor.neg),
    *(torch.neg, Tensor.__neg__, Tensor.relu, torch.relu, torch.sigmoid, Tensor.sigmoid, torch.tanh),
    *(Tensor.tanh, F.relu, F.gelu, F.silu, F.mish, F.hardswish, F.leaky_relu, F.elu, F.layer_norm),
    *(F.rms_norm, F.group_norm, F.batch_norm, F.normalize),
}
#: Operations that begin a route, if their shapes show a partition.
_CUTS = ORDERED | _SHIFTED


class Route:
    """The label of each value of a tensor, computed when it is needed.

    A label is the number of a position in the batch of feature maps where the route starts: b H W + y W + x
    for row y and column x of image b. It is -1 for padding.

    Args:
        move: Computes the labels from those of the sources.
        sources: Routes of the tensors that the operation takes; none at the start.
        grid: Shape of the feature maps where the route starts.
        is_flat: Whether the positions are in one axis when it starts. Such a route matters if they are cut
            into parts next, and ends otherwise.
    """

    def __init__(
        self, move: Callable[..., Tensor], *sources: Route, grid: tuple[int, ...], is_flat: bool = False
    ) -> None:
        self.move, self.sources, self.grid, self.is_flat = move, sources, grid, is_flat
        self.start: Route = sources[0].start if sources else self
        self._labels: Tensor | None = None

    def labels(self) -> Tensor:
        if self._labels is not None:
            return self._labels
        labels = self.move(*(source.labels() for source in self.sources))
        if len(self.sources) != 1 or labels.stride(-1) == 0:  # one label for a row takes little memory
            self.keep(labels)
        return labels

    def keep(self, labels: Tensor) -> None:
        """Keep the labels for the routes that go on from here, and forget how they were computed."""
        self._labels, self.sources = labels, ()


class Routes:
    """The routes of tensors: one for their rows and, after a product of queries and keys, one for columns.

    Args:
        features: Shapes of the feature maps that the model has computed.
    """

    def __init__(self, features: FeatureShapes) -> None:
        self.features = features
        self.of: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def __bool__(self) -> bool:
        return bool(self.of)

    def get(self, x: Any) -> tuple[Route, ...]:
        routes: tuple[Route, ...] = self.of.get(x, ()) if self.of and isinstance(x, Tensor) else ()
        return routes

    def of_weights(self, weights: Tensor) -> tuple[Route, ...]:
        """Return the routes of the queries and of the keys of attention weights (..., Nq, Nk)."""
        rows, columns = self.get(weights)[:1], self.get(weights)[1:]
        return rows + _then(columns, partial(torch.transpose, dim0=-2, dim1=-1))

    def follow(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, batch: int
    ) -> None:
        """Pass the routes of the inputs of an operation on to its output, or begin one."""
        first = args[0] if args else None
        routes = self.get(first)
        if not routes and isinstance(first, Tensor) and is_cut(func, args, output, batch):
            routes = self._start(func, first.shape, output.shape)
        elif routes and not _goes_on(routes[0].start, func, first, batch):
            return
        if func in EINSUM:
            self._follow_einsum(args, output)
        elif func is F.scaled_dot_product_attention and routes:
            values = self.get(args[2] if len(args) > 2 else kwargs.get("value"))
            self.of[output] = _mix(routes, values, output)
        elif func in MATMUL and routes and len(args) > 1:
            right = self.get(args[1])
            columns = _then(right[:1], column_labels, output) if len(routes) == 1 else ()
            self.of[output] = _mix(routes, right, output) + columns
        elif func in _ELEMENTWISE and isinstance(output, Tensor):
            self._follow_elementwise(args, output)
        elif routes and func in _MOVED and not isinstance(output, Tensor):
            for number, part in enumerate(output):
                self.of[part] = _then(routes, partial(replay_part, number, func, args[1:], kwargs))
        elif routes and isinstance(output, Tensor):
            move = _move(func, args, kwargs, output, batch)
            if move is not None:
                self.of[output] = _then(routes, move)
            elif output is first:  # changed in place, in an unknown way
                del self.of[output]
        elif routes and func in (Tensor.__setitem__, Tensor.copy_):
            del self.of[first]

    def _start(self, func: Any, shape: torch.Size, cut: torch.Size) -> tuple[Route, ...]:
        """Begin a route at feature maps, if their shape, or the cut, shows which axis is that of channels."""
        last, first = shape[1:-1], shape[2:]
        is_last, is_first = self.features.holds(last), self.features.holds(first)
        if func is F.unfold:
            is_last, is_first = False, True
        if is_last and is_first:
            is_last, is_first = cut[-1] == shape[-1], cut[1] == shape[1]
        grid = tuple(last if is_last else first)
        is_flat = func is not F.unfold and len(cut) == 3 and cut[0] == shape[0]
        if is_last == is_first or (is_flat and self.features.get(math.prod(grid)) != grid):
            return ()
        return (Route(partial(number_positions, shape, is_last), grid=grid, is_flat=is_flat),)

    def _follow_elementwise(self, args: tuple[Any, ...], output: Tensor) -> None:
        """Operands with routes have to agree; one without a route, such as a bias, changes no position."""
        operands = [self.get(x) for x in args[:2] if isinstance(x, Tensor) and x.shape == output.shape]
        operands = [routes for routes in operands if routes]
        if len(operands) == 2:
            pairs = [(a, b) for a, b in zip(*operands, strict=False) if a.start is b.start]
            operands = [tuple(a if a is b else Route(agreed_labels, a, b, grid=a.grid) for a, b in pairs)]
        if operands and operands[0]:
            self.of[output] = operands[0]
        elif output in self.of:
            del self.of[output]

    def _follow_einsum(self, args: tuple[Any, ...], output: Tensor) -> None:
        equation, *operands = args
        if len(operands) != 2 or not isinstance(equation, str) or "->" not in equation or "." in equation:
            return
        inputs, _, result = equation.replace(" ", "").partition("->")
        terms = inputs.split(",")
        rows, columns = (self.get(x) for x in operands)
        if rows:
            found = _then(rows[:1], partial(einsum_labels, terms[0], result), output)
            more = _then(columns[:1], partial(einsum_labels, terms[1], result), output)
            self.of[output] = found + (more if len(rows) == 1 else ())


def is_cut(func: Any, args: tuple[Any, ...], output: Any, batch: int) -> bool:
    """Return whether an operation pads or shifts a feature map, or cuts it into parts."""
    if func not in _CUTS:
        return False
    x = args[0] if args else None
    if not isinstance(x, Tensor) or x.ndim < 4 or len(x) != batch:
        return False
    is_flattened = output.ndim == 3 and output.shape[-1] in (x.shape[-1], x.shape[2:].numel())
    return func in _SHIFTED or output.ndim > 5 or len(output) != batch or is_flattened


def _goes_on(start: Route, func: Any, x: Any, batch: int) -> bool:
    """Return whether a route goes on: while its positions are in one axis, they are only moved."""
    return not start.is_flat or x.ndim > 3 or len(x) != batch or func in _MOVED or func in ORDERED


def _mix(routes: tuple[Route, ...], values: tuple[Route, ...], output: Tensor) -> tuple[Route, ...]:
    """Return the route of a product of rows and values."""
    if not values or values[0].start is not routes[0].start:
        return _then(routes[:1], row_labels, output)
    return (Route(partial(mixed_labels, output.shape), routes[0], values[0], grid=routes[0].grid),)


def _then(
    routes: tuple[Route, ...], move: Callable[..., Tensor], output: Tensor | None = None
) -> tuple[Route, ...]:
    move = move if output is None else partial(move, output.shape)
    return tuple(Route(move, route, grid=route.grid) for route in routes)


def _move(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor, batch: int
) -> Callable[..., Tensor] | None:
    """Return what an operation does with labels, or None if this is not known."""
    shape = output.shape
    if func in ORDERED:
        return partial(torch.reshape, shape=shape)
    if func in (Tensor.expand, Tensor.expand_as):
        return partial(expand_labels, shape)
    if func is F.unfold:
        return partial(unfolded_labels, shape, args[1:], kwargs)
    if func in _MOVED:
        return partial(replay, func, args[1:], kwargs)
    if func is F.linear:
        return partial(row_labels, shape)
    if func is F.max_pool2d:
        return partial(pooled_labels, shape, args[1:], kwargs)
    if func in (F.conv2d, F.conv3d):  # padded alike on both sides
        sizes = [*zip(args[0].shape[2:], shape[2:], strict=True)]
        steps = [-(-extent // of_output) for extent, of_output in sizes]
        is_whole = len(args[0]) == batch  # behind a layer with steps, another route begins
        fits = all(-(-size[0] // step) == size[1] for size, step in zip(sizes, steps, strict=True))
        if fits and not (is_whole and any(step > 1 for step in steps)):
            return partial(channel_labels, shape, steps)
    return None
