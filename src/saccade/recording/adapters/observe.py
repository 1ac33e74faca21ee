"""Observation of a module while it runs, without changing what it computes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from saccade._torch import forward_hooks
from saccade.errors import BadOption
from saccade.maps import AttentionMap
from saccade.model_state import Handle

#: Computes a map from a module, its inputs by name and its output. It is called without gradients.
Adapter = Callable[[Any, Mapping[str, Any], Any], AttentionMap]
Publish = Callable[[AttentionMap], None]


class Observer:
    """A forward hook that publishes the map of an adapter. `remove` ends it.

    Args:
        module: The module.
        adapter: The adapter.
        publish: Where the map goes.
        wrap: Whether to wrap the `forward` of the module instead of registering a hook, for modules that
            compute differently if they have hooks.
    """

    def __init__(self, module: nn.Module, adapter: Adapter, publish: Publish, *, wrap: bool = False) -> None:
        self.signature = inspect.signature(module.forward)
        self.adapter, self.publish, self.active = adapter, publish, True
        self.handle: Handle = (
            ForwardWrapper(module, self) if wrap else module.register_forward_hook(self, with_kwargs=True)
        )

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not self.active:
            return
        with torch.no_grad():
            attention: object = self.adapter(module, self.signature.bind(*args, **kwargs).arguments, output)
        if not isinstance(attention, AttentionMap):
            name = type(module).__name__
            message = f"the adapter of {name} returned {attention!r}, expected an AttentionMap"
            raise BadOption(message, owner=name, option="adapters", value=attention)
        self.publish(attention)

    def remove(self) -> None:
        self.active = False
        self.handle.remove()

    def __deepcopy__(self, memo: dict[int, Any]) -> Observer:
        """Return the same observer: in a copy of a recorded model it stops when the recording ends."""
        return self


class ForwardWrapper:
    """An observer in the `forward` of a module."""

    def __init__(self, module: nn.Module, observer: Observer) -> None:
        self.module, self.original, self.observer = module, module.forward, observer
        vars(module)["forward"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self.original(*args, **kwargs)
        self.observer(self.module, args, kwargs, output)
        return output

    def remove(self) -> None:
        del vars(self.module)["forward"]


def is_observed(module: nn.Module) -> bool:
    """Return whether a module has an active observer."""
    forward = vars(module).get("forward")
    observers = [*forward_hooks(module).values(), getattr(forward, "observer", None)]
    return any(isinstance(observer, Observer) and observer.active for observer in observers)
