"""Example inputs of a model: its arguments, the images among them, and a description without values."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from saccade.errors import BadOption


def call_arguments(example_inputs: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a model: of a tuple or mapping its elements, else the example inputs alone."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    return (example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)), {}


def images_of(example_inputs: object) -> tuple[list[Tensor], int]:
    """Return the images among the example inputs and their number, the batch size.

    The images are the first tensor that can be a batch of images, sequences or clips, or the first list of
    images `(C, H, W)`, as detectors of torchvision take it; else the first batch of waves `(B, L)`.

    Raises:
        BadOption: If there are none.
    """
    args, kwargs = call_arguments(example_inputs)
    for argument in (*args, *kwargs.values()):
        if isinstance(argument, list) and argument and all(_is_image(x, 3, 3) for x in argument):
            return argument, len(argument)
        for batch in tensors_within(argument):
            if _is_image(batch, 3, 5):
                return [batch], batch.shape[0]
    for batch in tensors_within([args, kwargs]):
        if _is_image(batch, 2, 2):
            return [batch], batch.shape[0]
    described = describe_inputs(example_inputs)
    expected = "images (B, C, H, W), sequences (B, C, L), (B, L) or clips (B, C, T, H, W)"
    message = f"example_inputs hold no batch of {expected} and no list of images (C, H, W), got {described}"
    raise BadOption(message, option="example_inputs", value=described)


def tensors_within(value: object) -> Iterator[Tensor]:
    """Yield the tensors in nested containers of any class: mappings, sequences, data classes."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_within(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_within(item)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors_within(getattr(value, field.name))


def describe_inputs(value: object) -> str:
    """Return a text with the shapes of tensors and arrays in place of their values."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {describe_inputs(item)}' for key, item in value.items())}}}"
    if isinstance(value, (list, tuple)):
        items = ", ".join(map(describe_inputs, value))
        return f"[{items}]" if isinstance(value, list) else f"({items}{',' * (len(value) == 1)})"
    if hasattr(value, "shape"):
        return repr(tuple(value.shape))
    is_plain = value is None or isinstance(value, (bool, int, float, str))
    return repr(value) if is_plain else f"a {type(value).__name__}"


def _is_image(value: object, least: int, most: int) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and least <= value.ndim <= most
