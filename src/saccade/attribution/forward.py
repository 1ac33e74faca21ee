"""A forward pass with gradients: any model, any inputs, nothing changed."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from saccade._torch import tensors_in, tree_map, uncompiled
from saccade.attachment import call_arguments, describe_inputs
from saccade.errors import BadOption, SaccadeError
from saccade.model_state import preserve_state

#: Images, or all inputs of a model: a tuple of positional or a mapping of keyword arguments. Detectors take a
#: list of images.
Inputs: TypeAlias = Tensor | Sequence[Any] | Mapping[str, Any]


class ForwardPass:
    """A model and its inputs, ready to run with gradients; see `with_gradients`.

    Attributes:
        model: The model; if `torch.compile` wraps it, the module inside, since compiled code calls no hooks.
        args: Positional inputs.
        kwargs: Keyword inputs.
        images: The first floating-point tensor of the inputs, which requires gradients. Detectors take a list
            of images (C, H, W); then it is the first of them.
        batch: Number of images.
    """

    def __init__(self, owner: str, model: nn.Module, inputs: Inputs) -> None:
        self.owner, self.model, self.name = owner, uncompiled(model), type(uncompiled(model)).__name__
        if isinstance(self.model, torch.jit.ScriptModule):
            message = f"{owner}: {self.name} is scripted and calls no hooks; use the module it was made from"
            raise BadOption(message, owner=owner, option="model", value=self.name)
        if isinstance(inputs, Tensor) and not inputs.is_floating_point():
            inputs = inputs.float()
        self.args, self.kwargs = tree_map(_leaf, call_arguments(inputs))
        images = next((x for x in tensors_in((self.args, self.kwargs)) if x.requires_grad), None)
        if images is None:
            shapes = describe_inputs(inputs)
            message = f"{owner}: the inputs hold no floating-point tensor, got {shapes}"
            raise BadOption(message, owner=owner, option="images", value=shapes)
        self.images = images
        first = self.args[0] if self.args else None
        self.batch = len(first if isinstance(first, list) else images)

    def run(self) -> Any:
        """Return the output of the model; see `run_model`."""
        return run_model(self.owner, self.model, self.kwargs or self.args)


def run_model(owner: str, model: nn.Module, inputs: Inputs) -> Any:
    """Return the output of a model.

    Args:
        owner: Name of the function that runs it, for messages.
        model: The model.
        inputs: Images, a tuple of positional or a mapping of keyword arguments.

    Raises:
        BadOption: The forward pass fails. The cause is the error of the model.
    """
    args, kwargs = call_arguments(inputs)
    try:
        return model(*args, **kwargs)
    except SaccadeError:
        raise
    except Exception as error:
        cause, shapes, name = (
            f"{type(error).__name__}: {error}",
            describe_inputs(inputs),
            type(model).__name__,
        )
        message = f"{owner}: the forward pass of {name} fails on inputs {shapes}: {cause}"
        raise BadOption(message, owner=owner, option="images", value=shapes) from error


def model_inputs(model: nn.Module, images: Tensor, more: Mapping[str, Any] | None = None) -> Inputs:
    """Return the inputs of a model from images and further keyword arguments.

    Args:
        model: The model. If its `forward` has a parameter `pixel_values`, as in transformers, the images are
            passed by this name, otherwise first.
        images: Images.
        more: Further keyword arguments.
    """
    names = list(inspect.signature(model.forward).parameters)
    if "pixel_values" in names:
        return {"pixel_values": images, **(more or {})}
    return {names[0]: images, **more} if more and names else images


def _leaf(x: Any) -> Any:
    """Return an input that requires gradients if it can, and that no caller sees."""
    if not isinstance(x, Tensor):
        return x
    x = x.detach().clone()  # an inference tensor cannot require gradients
    return x.requires_grad_() if x.is_floating_point() else x


@contextmanager
def with_gradients(owner: str, model: nn.Module, inputs: Inputs) -> Iterator[ForwardPass]:
    """Prepare a model and its inputs for passes with gradients, in evaluation mode.

    When the block ends, the modes and buffers of the model and the random state are restored. The gradients
    of its parameters are never touched: use `torch.autograd.grad`.

    Args:
        owner: Name of the function, for messages.
        model: The model.
        inputs: Images or all inputs of the model.
    """
    with preserve_state(model, tuple(tensors_in(inputs))), torch.inference_mode(False), torch.enable_grad():
        yield ForwardPass(owner, model, inputs)
