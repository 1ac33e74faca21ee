"""The axes of exported inputs that may have any size, and inputs of other sizes to verify with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from saccade.errors import BadOption

Inputs = tuple[Tensor, ...]
#: Another size of height and time, and of width: quarters of the size, and positions to add.
Change = tuple[tuple[int, int], tuple[int, int]]

#: Position of each named axis in images (B, C, H, W) and clips (B, C, T, H, W).
AXES: Mapping[str, int] = MappingProxyType({"batch": 0, "time": -3, "height": -2, "width": -1})
_LEAST_NDIM = {"batch": 1, "time": 5, "height": 4, "width": 4}
_NDIM = 5
_UNSEEN = 2  # sizes to verify with
#: Networks with a stride of 32 often take multiples of 32 alone.
_CHANGES: tuple[Change, ...] = (
    ((4, 5), (4, 3)),
    ((3, 0), (5, 1)),
    ((4, 32), (4, 64)),
    ((8, 0), (4, 0)),
    ((4, 0), (8, 0)),
    ((8, 0), (8, 0)),
)


def named_axes(x: Tensor, dynamic: Sequence[str]) -> dict[int, str]:
    """Return the axes of an input that may have any size, by their position.

    Example:
        >>> named_axes(torch.zeros(2, 3, 8, 6), ("batch", "height", "width"))
        {0: 'batch', 2: 'height', 3: 'width'}
    """
    return {
        position % x.ndim: name
        for name, position in AXES.items()
        if name in dynamic and _LEAST_NDIM[name] <= x.ndim <= _NDIM
    }


def check_dynamic(inputs: Inputs, dynamic: Sequence[str]) -> None:
    """Raise `BadOption` unless every dynamic axis exists in an input."""
    known = {name for x in inputs for name in named_axes(x, tuple(AXES)).values()}
    for name in dynamic:
        if name not in known:
            shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
            has = f"have the axes {', '.join(map(repr, sorted(known)))}" if known else "have no named axis"
            message = f"export: dynamic={name!r} is not possible: example_inputs of shape {shapes} {has}"
            raise BadOption(message, owner="export", option="dynamic", value=name, choices=sorted(known))


def repeat_single(inputs: Inputs, dynamic: Sequence[str]) -> Inputs:
    """Return the inputs with a batch of 1 repeated, because torch.export takes a size of 1 for a constant."""
    if "batch" not in dynamic:
        return inputs
    return tuple(torch.cat([x, x]) if x.ndim and len(x) == 1 else x for x in inputs)


def other_inputs(
    inputs: Inputs, dynamic: Sequence[str], run: Callable[[Inputs], Any]
) -> Iterator[tuple[Inputs, Any]]:
    """Yield inputs of two sizes and batches that the export has not seen, and what `run` returns for them.

    Raises:
        BadOption: If height, width or time are dynamic, and `run` fails for all other sizes.
    """
    batches = (1, len(inputs[0]) + 1)
    sizes = [name for name in dynamic if name != "batch"]
    if not sizes:
        for batch in batches if dynamic else ():
            other = tuple(_resized(x, dynamic, batch) for x in inputs)
            yield other, run(other)
        return
    seen, reason = {tuple(x.shape[1:] for x in inputs)}, ""
    for change in _CHANGES:
        other = tuple(_resized(x, dynamic, batches[len(seen) - 1], change) for x in inputs)
        shapes = tuple(x.shape[1:] for x in other)
        if shapes in seen:
            continue
        try:
            expected = run(other)
        except Exception as error:  # models raise errors of any type
            reason = reason or str(error).partition("\n")[0]
            continue
        seen.add(shapes)
        yield other, expected
        if len(seen) > _UNSEEN:
            return
    shape, fixed = tuple(inputs[0].shape), tuple(name for name in dynamic if name == "batch")
    problem = f"cannot be dynamic: the model accepts fewer than {_UNSEEN} other sizes than {shape}"
    message = f"export: {', '.join(sizes)} {problem} ({reason}); pass dynamic={fixed}"
    raise BadOption(message, owner="export", option="dynamic", value=tuple(dynamic), choices=fixed)


def _resized(x: Tensor, dynamic: Sequence[str], batch: int, change: Change | None = None) -> Tensor:
    """Return values drawn from an input, with another batch size and other extents."""
    shape = list(x.shape)
    for axis, name in named_axes(x, dynamic).items():
        if name == "batch":
            shape[axis] = batch
        elif change is not None:
            quarters, more = change[name == "width"]
            shape[axis] = max(1, shape[axis] * quarters // 4 + more)
    index = torch.randint(x.numel(), shape, device=x.device)
    return x.flatten()[index]
