"""Sets of tokens without places in the image: learned queries of a decoder, and tokens that are selected.

A set may have as many tokens as a feature map has positions, so their number does not tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade._torch import WeakTensorKeyDictionary, tensors_in
from saccade.recording.operations import ADD, DIVIDE, RESHAPE, SCALE

#: Operations that turn a parameter into tokens.
_OF_PARAMETERS = RESHAPE | {
    *(Tensor.__getitem__, Tensor.expand_as, Tensor.repeat, Tensor.tile, torch.tile, torch.zeros_like),
    *(Tensor.split, torch.split, Tensor.chunk, torch.chunk, F.layer_norm, F.linear),
}
_CONSTANTS = {torch.zeros, torch.ones, Tensor.new_zeros, Tensor.new_ones}
_SELECTIONS = {
    *(Tensor.gather, torch.gather, Tensor.index_select, torch.index_select, torch.take_along_dim),
    *(Tensor.__getitem__, Tensor.take_along_dim),
}
_JOINED = {torch.cat, torch.concat, torch.stack}
_BINARY = ADD | SCALE | DIVIDE | {Tensor.sub, torch.sub, Tensor.__sub__, torch.where}
#: Operations that may begin a set.
_BEGINNINGS = _OF_PARAMETERS | _CONSTANTS | _SELECTIONS | _JOINED


class TokenSets:
    """Which tensors hold tokens of a set.

    The result of an operation is a set if its first operand is one, and of a sum, a product or a
    concatenation, if all operands are sets or parameters: an image plus learned positions is none. An
    attention has as many results as queries, so its result is a set if its queries are one.
    """

    def __init__(self) -> None:
        self.of: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def __bool__(self) -> bool:
        return bool(self.of)

    def __contains__(self, x: object) -> bool:
        return bool(self.of) and isinstance(x, Tensor) and x in self.of

    def follow(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        """Tag the results of an operation if they are sets, and remove the tags of others."""
        operands = tensors_in((args, kwargs))
        is_set = begins_set(func, args, output) or self._is_set(func, args, operands, output)
        results = tensors_in(output)
        if func is Tensor.__setitem__ and not is_set:
            results = operands[:1]
        for result in results:
            if is_set:
                self.of[result] = True
            elif result in self.of:
                del self.of[result]

    def leave(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        """Tag the output of a module whose first input is a set of as many tokens."""
        if not self.of:
            return
        inputs, outputs = tensors_in((args, kwargs))[:1], tensors_in(output)[:1]
        for x, y in zip(inputs, outputs, strict=False):
            if x in self.of and x.ndim > 2 and x.shape[:2] == y.shape[:2]:
                self.of[y] = True

    def _is_set(self, func: Any, args: tuple[Any, ...], operands: list[Tensor], output: Any) -> bool:
        if _selects(func, args) and output.numel() == operands[0].numel():
            return False  # put back in their order, as in MAE
        if func in _JOINED:
            needed = operands
        elif func in _BINARY and isinstance(output, Tensor):
            of_tokens = [x for x in operands if x.ndim > 2]
            needed = [x for x in operands if x.shape == output.shape] or of_tokens or operands
        elif operands and (output is operands[0] or func is Tensor.__setitem__):  # changed in place
            needed = [x for x in operands if x.ndim > 2] or operands[:1]
        else:
            needed = operands[:1]
        are_sets = [x in self.of for x in needed if not isinstance(x, nn.Parameter)]
        return bool(are_sets) and all(are_sets)


def begins_set(func: Any, args: tuple[Any, ...], output: Any) -> bool:
    """Return whether an operation makes tokens of a parameter or a constant, or selects some tokens."""
    if func not in _BEGINNINGS:
        return False
    if func in _CONSTANTS:
        is_of_tokens: bool = output.ndim == 3
        return is_of_tokens
    first = args[0] if args else None
    if func in _JOINED:
        return isinstance(first, list | tuple) and all(isinstance(x, nn.Parameter) for x in first)
    if type(first) is not Tensor and isinstance(first, nn.Parameter):
        return func in _OF_PARAMETERS and first.ndim in (2, 3)
    if not _selects(func, args) or not isinstance(first, Tensor) or first.ndim < 3:
        return False
    return isinstance(output, Tensor) and output.numel() < first.numel()


def _selects(func: Any, args: tuple[Any, ...]) -> bool:
    """Return whether an operation selects tokens by a tensor of their numbers, or a mask."""
    return func in _SELECTIONS and (func is not Tensor.__getitem__ or bool(tensors_in(args[1])))
