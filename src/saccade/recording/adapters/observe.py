"""Observation of a module while it runs, without changing what it computes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from saccade._torch import forward_hooks
from saccade.maps import AttentionMap

#: Computes a map from a module, its inputs by name and its output. It is called without gradients.
Adapter = Callable[[nn.Module, Mapping[str, Any], Any], AttentionMap]
ObserveFn = Callable[[nn.Module, Mapping[str, Any], Any], None]
Publish = Callable[[AttentionMap], None]


class Observer:
    """A forward hook that passes the inputs, by name, and the output of a module to a function."""

    def __init__(self, module: nn.Module, observe: ObserveFn) -> None:
        self.signature = inspect.signature(module.forward)
        self.observe = observe
        self.active = True

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self.active:
            with torch.no_grad():
                self.observe(module, self.signature.bind(*args, **kwargs).arguments, output)

    def __deepcopy__(self, memo: dict[int, Any]) -> Observer:
        """Return the same observer: in a copy of a recorded model it stops when the recording ends."""
        return self


class ObserverHook:
    """An observer as a forward hook."""

    def __init__(self, module: nn.Module, observe: ObserveFn) -> None:
        self.observer = Observer(module, observe)
        self.handle = module.register_forward_hook(self.observer, with_kwargs=True)

    def remove(self) -> None:
        self.observer.active = False
        self.handle.remove()


class ForwardWrapper:
    """An observer in the `forward` of a module, for modules that compute differently if they have hooks."""

    def __init__(self, module: nn.Module, observe: ObserveFn) -> None:
        self.observer = Observer(module, observe)
        self.module, self.original = module, module.forward
        vars(module)["forward"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self.original(*args, **kwargs)
        self.observer(self.module, args, kwargs, output)
        return output

    def remove(self) -> None:
        self.observer.active = False
        del vars(self.module)["forward"]


def is_observed(module: nn.Module) -> bool:
    """Return whether a module has an active observer."""
    forward = vars(module).get("forward")
    observers = [forward.observer] if isinstance(forward, ForwardWrapper) else []
    observers += [hook for hook in forward_hooks(module).values() if isinstance(hook, Observer)]
    return any(observer.active for observer in observers)
