"""Watching a module run, without changing what it computes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import nn

from saccade.maps import AttentionMap

#: Makes a map of a module, its inputs by name and its output, without gradients.
Adapter = Callable[[nn.Module, Mapping[str, Any], Any], AttentionMap]
Publish = Callable[[AttentionMap], None]


class Handle(Protocol):
    """What takes a watcher away again."""

    def remove(self) -> None: ...


class Watcher:
    """A forward hook that hands the inputs, by name, and the output of a module to `see`."""

    def __init__(self, module: nn.Module, see: Callable[[nn.Module, Mapping[str, Any], Any], None]) -> None:
        self.signature = inspect.signature(module.forward)
        self.see = see

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        with torch.no_grad():
            self.see(module, self.signature.bind(*args, **kwargs).arguments, output)


def watch(module: nn.Module, see: Callable[[nn.Module, Mapping[str, Any], Any], None]) -> Handle:
    """Call `see(module, inputs, output)` after every call of `module`, until the handle is removed."""
    return module.register_forward_hook(Watcher(module, see), with_kwargs=True)


class OwnForward:
    """A module's `forward` that tells a watcher, for modules that compute otherwise when they have hooks."""

    def __init__(self, module: nn.Module, see: Callable[[nn.Module, Mapping[str, Any], Any], None]) -> None:
        self.module, self.plain, self.watcher = module, module.forward, Watcher(module, see)
        vars(module)["forward"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self.plain(*args, **kwargs)
        self.watcher(self.module, args, kwargs, output)
        return output

    def remove(self) -> None:
        del vars(self.module)["forward"]


def is_watched(module: nn.Module) -> bool:
    """Whether a watcher is installed."""
    own = isinstance(vars(module).get("forward"), OwnForward)
    return own or any(isinstance(hook, Watcher) for hook in module._forward_hooks.values())
