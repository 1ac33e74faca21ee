"""Checks of published maps, and that recording has no side effects."""

from __future__ import annotations

import contextlib
import copy
import math

import torch
from torch import Tensor, nn

from saccade._torch import HOOKS
from saccade.maps import AttentionMap, ChannelMap, PairwiseMap, Tap
from saccade.recording import record
from saccade.testing.case import Case, sweep

_EXACT = 1e-5  # for maps, which are computed in float32


@sweep("publishes its attention maps when it is recorded")
def check_maps(case: Case) -> None:
    """The first example publishes the types of `spec.maps`, in order; every map has a valid shape."""
    module = case.build().eval()
    inputs = case.inputs()
    with record(module) as maps:
        module(*inputs)  # with gradients, to detect a map that is attached to the graph
    if case.is_first:
        expected = [kind.__name__ for kind in case.spec.maps]
        got = [type(attention).__name__ for attention in maps.values()]
        case.expect(got == expected, f"expected the maps {expected}, as in the spec, got {got}")
    for path, attention in maps.items():
        _check_map(case, path or "the map", attention, inputs)


def tensors(attention: AttentionMap) -> dict[str, Tensor]:
    """Return the tensors of a map, by name."""
    return {name: value for name, value in vars(attention).items() if isinstance(value, Tensor)}


def _check_map(case: Case, path: str, attention: AttentionMap, inputs: tuple[Tensor, ...]) -> None:
    batch = inputs[0].shape[0]
    for name, value in tensors(attention).items():
        case.expect(not value.requires_grad, f"{path}.{name} must be detached from the graph")
        has_batch = name in attention.shared_fields or value.shape[0] == batch
        case.expect(has_batch, f"{path}.{name} must have a batch of {batch}")
    if isinstance(attention, ChannelMap):
        case.expect(attention.weights.ndim == 2, f"{path}.weights must be (B, C)")
    if isinstance(attention, PairwiseMap):
        _check_pairs(case, path, attention)
    heat = attention.heatmap()
    places = tuple(heat.shape[1:])
    _check_places(case, f"{path}, its heat map", places)
    _check_heat(case, path, heat, (batch, *places))
    larger = tuple(2 * extent for extent in places)
    _check_heat(case, path, attention.heatmap(size=larger), (batch, *larger))


def _check_places(case: Case, what: str, shape: tuple[int, ...]) -> None:
    """Fail unless `shape` is a valid shape of positions for an input of this example.

    It may be coarser than the input, but has the same number of axes and does not swap height and width.
    If no input has positions, every shape is valid.
    """
    letters = [text.split() for text in case.example.shapes.split(",")]
    extents = [
        tuple(size for letter, size in zip(axes, x.shape, strict=True) if letter not in ("B", "C", "h"))
        for axes, x in zip(letters, case.inputs(), strict=True)
    ]
    if not any(extents):
        return
    case.expect(len(shape) in map(len, extents), f"{what}: expected the places {extents[0]}, got {shape}")
    swapped = shape not in extents and sorted(shape) in map(sorted, extents)
    case.expect(not swapped, f"{what}: expected the places {extents[0]}, got {shape}, axes swapped")


def _check_heat(case: Case, path: str, heat: Tensor, expected: tuple[int, ...]) -> None:
    case.expect(heat.shape == expected, f"{path}: expected a heat map {expected}, got {tuple(heat.shape)}")
    within = bool(((heat >= 0) & (heat <= 1)).all())  # false for NaN
    case.expect(within, f"{path}: the heat map must be in [0, 1]")


def _check_pairs(case: Case, path: str, pairs: PairwiseMap) -> None:
    weights = pairs.weights()
    batch, heads, queries, keys = weights.shape
    case.expect(
        (queries, keys) == (math.prod(pairs.query_shape), math.prod(pairs.key_shape)),
        f"{path}: {queries} queries and {keys} keys do not fill {pairs.query_shape} and {pairs.key_shape}",
    )
    _check_places(case, f"{path}, its queries", pairs.query_shape)
    _check_places(case, f"{path}, its keys", pairs.key_shape)
    if pairs.sums_to_one:
        ones = torch.ones(batch, heads, queries)
        case.expect_equal(f"{path}: the sum of each row of weights", weights.sum(-1), ones, _EXACT)
    mean = weights.mean((1, 2)).reshape(batch, *pairs.key_shape)
    received = pairs.attention_received()
    case.expect_equal(f"{path}: the weight received, against all weights", received, mean, _EXACT)


@sweep("can be recorded without a trace")
def check_recording(case: Case) -> None:
    """Recording keeps results and gradients bit-identical and is undone, also after an error."""
    for training in (True, False):
        plain = case.build(dtype=torch.float64).train(training)
        recorded = copy.deepcopy(plain)
        inputs = case.inputs(dtype=torch.float64)
        expected, gradients = case.forward_backward(plain, inputs)
        with record(recorded) as maps:
            output, recorded_gradients = case.forward_backward(recorded, inputs)
        case.expect(len(maps) >= 1, "it must publish at least one map")
        case.expect_equal("the result while recorded", output, expected)
        case.expect_gradients("recorded", recorded_gradients, gradients)
        _check_no_trace(case, plain, recorded)
    with contextlib.suppress(InterruptedError), record(recorded):
        case.forward(recorded, inputs)
        raise InterruptedError
    _check_no_trace(case, plain, recorded)


def _check_no_trace(case: Case, plain: nn.Module, recorded: nn.Module) -> None:
    """Fail unless the recorded module has the attributes, hooks and idle taps of an unrecorded module."""
    for (path, one), other in zip(plain.named_modules(), recorded.modules(), strict=True):
        where = path or "the module"
        if isinstance(other, Tap):
            idle = not other.recording and other.latest is None
            case.expect(idle, f"the tap {where} must be off and empty")
        case.expect(vars(one).keys() == vars(other).keys(), f"{where} must have no new attributes")
        for hooks in HOOKS:
            case.expect(len(vars(one)[hooks]) == len(vars(other)[hooks]), f"{where} must have no new {hooks}")
    case.expect(plain.state_dict().keys() == recorded.state_dict().keys(), "the state_dict must be the same")
