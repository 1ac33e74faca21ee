"""Observation of a module while it runs, without changing what it computes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from saccade._torch import forward_hooks
from saccade.errors import BadOption
from saccade.maps import AttentionMap

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
        is_captured: Whether the map of this call is known already, so that the adapter is not needed.
    """

    def __init__(
        self,
        module: nn.Module,
        adapter: Adapter,
        publish: Publish,
        *,
        wrap: bool = False,
        is_captured: Callable[[], bool] = lambda: False,
    ) -> None:
        self.signature = inspect.signature(module.forward)  # here, because torch.compile cannot trace it
        self.is_captured = is_captured
        self.adapter, self.publish, self.active = adapter, publish, True
        if wrap:
            vars(module)["forward"] = functools.partial(_observed_forward, self, module, module.forward)
            self.undo: Callable[[], object] = functools.partial(vars(module).pop, "forward")
        else:
            self.undo = module.register_forward_hook(self, with_kwargs=True).remove

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if not self.active or self.is_captured():
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
        self.undo()

    def __deepcopy__(self, memo: dict[int, Any]) -> Observer:
        """Return the same observer: in a copy of a recorded model it stops when the recording ends."""
        return self


def _observed_forward(observer: Observer, module: nn.Module, forward: Any, *args: Any, **kwargs: Any) -> Any:
    output = forward(*args, **kwargs)
    observer(module, args, kwargs, output)
    return output


def is_observed(module: nn.Module) -> bool:
    """Return whether a module has an active observer."""
    hooks, wrapped = forward_hooks(module), vars(module).get("forward")
    if not hooks and wrapped is None:
        return False
    observers = (*hooks.values(), *getattr(wrapped, "args", ()))
    return any(isinstance(observer, Observer) and observer.active for observer in observers)
