"""Watching a module run, without changing what it computes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import nn

from saccade.maps import AttentionMap

#: Makes a map of a module, its inputs by name and its output; it is called without gradients.
Adapter = Callable[[nn.Module, Mapping[str, Any], Any], AttentionMap]
See = Callable[[nn.Module, Mapping[str, Any], Any], None]
Publish = Callable[[AttentionMap], None]


class Handle(Protocol):
    """What takes a watcher away again."""

    def remove(self) -> None: ...


class Watcher:
    """A forward hook that hands the inputs, by name, and the output of a module to `see`."""

    def __init__(self, module: nn.Module, see: See) -> None:
        self.signature = inspect.signature(module.forward)
        self.see = see
        self.active = True

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self.active:
            with torch.no_grad():
                self.see(module, self.signature.bind(*args, **kwargs).arguments, output)

    def __deepcopy__(self, memo: dict[int, Any]) -> Watcher:
        """A network copied while it is recorded has the same watchers: they stop when recording ends."""
        return self


class Hook:
    """A watcher as a forward hook."""

    def __init__(self, module: nn.Module, see: See) -> None:
        self.watcher = Watcher(module, see)
        self.handle = module.register_forward_hook(self.watcher, with_kwargs=True)

    def remove(self) -> None:
        self.watcher.active = False
        self.handle.remove()


class ForwardWrapper:
    """A watcher in a module's `forward`, for modules that compute otherwise when they have hooks."""

    def __init__(self, module: nn.Module, see: See) -> None:
        self.watcher = Watcher(module, see)
        self.module, self.plain = module, module.forward
        vars(module)["forward"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self.plain(*args, **kwargs)
        self.watcher(self.module, args, kwargs, output)
        return output

    def remove(self) -> None:
        self.watcher.active = False
        del vars(self.module)["forward"]


def is_watched(module: nn.Module) -> bool:
    """Whether a watcher is at work."""
    forward = vars(module).get("forward")
    watchers = [forward.watcher] if isinstance(forward, ForwardWrapper) else []
    watchers += [hook for hook in module._forward_hooks.values() if isinstance(hook, Watcher)]
    return any(watcher.active for watcher in watchers)
