"""The modules of a model that run at the moment, by hooks."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from saccade._torch import FEATURE_LAYERS, has_torch_fast_path, register_forward_hook_of_all
from saccade.maps import Tap
from saccade.model_state import Handle
from saccade.recording.adapters.tokens import AttentionSite, FeatureShapes

_HEADS = ("num_heads", "heads", "num_attention_heads", "n_heads", "nhead")  # attributes of modules
_NAME = re.compile("attention|attn|attend", re.IGNORECASE)


def is_within(path: str, other: str) -> bool:
    """Return whether a module is another one, or below it. `other` may end with the number of a call."""
    other = other.partition("#")[0]
    return not other or path == other or path.startswith(f"{other}.")


def is_named_attention(kind: type[nn.Module]) -> bool:
    """Return whether the name of a class says that it attends."""
    return _NAME.search(kind.__name__) is not None


def _is_plain_layer(kind: type[nn.Module]) -> bool:
    """Return whether a class is a layer of torch, or derived from one, that neither attends nor convolves."""
    modules = (cls.__module__ for cls in kind.__mro__ if cls is not nn.Module)
    is_layer = any(name.startswith("torch.nn.modules") for name in modules)
    return is_layer and not is_named_attention(kind) and not issubclass(kind, FEATURE_LAYERS)


class RunningModules:
    """Follows which modules of a model run, and which feature maps they return.

    Args:
        modules: All modules of the model by path, the model itself first.
        features: Shapes of the feature maps that the model has computed.

    Attributes:
        paths: Path of each module.
        stack: Modules that run, the outermost first. Layers of torch, such as `nn.Linear`, are left out.
        calls: How many attentions each module has run in its latest call, by path.
        batch: Number of images, or 0 if it is unknown.
        another_ran: Whether layers of another network ran, such as a copy of the model.
        failed: Paths of modules whose attention ran and could not be captured.
    """

    def __init__(self, modules: Mapping[str, nn.Module], features: FeatureShapes) -> None:
        self.model, self.features = modules[""], features
        self.paths: dict[nn.Module, str] = {module: path for path, module in modules.items()}
        self.stack: list[nn.Module] = []
        self.calls: dict[str, int] = {}
        self.batch = 0
        self.another_ran = False
        self.failed: dict[str, None] = {}  # paths in order
        self._guards: list[tuple[nn.Module, Any]] = []
        self._sites: dict[nn.Module, tuple[str, AttentionSite]] = {}  # by the innermost module that runs

    def __deepcopy__(self, memo: dict[int, Any]) -> RunningModules:
        """Return the same object, which knows that a copy of a recorded model is another model."""
        return self

    def unseen(self, recorded: Iterable[str]) -> list[str]:
        """Return the paths of modules whose attention ran and has no map.

        These are modules that are named as attention, and modules whose attention could not be captured.
        """
        seen = [*recorded]
        kinds = {kind for kind in {*map(type, self.paths)} if is_named_attention(kind)}
        named = [
            path
            for module, path in self.paths.items()
            if path in self.calls and type(module) in kinds and next(module.parameters(), None) is not None
        ]
        return [path for path in self.failed if path not in named and path not in seen] + [
            path
            for path in named
            if not any(is_within(path, other) or is_within(other, path) for other in seen)
            and not any(other != path and is_within(other, path) for other in named)
        ]

    def register_hooks(self) -> Iterator[Handle]:
        """Register the hooks of modules that may attend or return feature maps.

        A hook of its own would end a fast path of torch, or the fused gates of a mechanism of this package.
        Hooks of all modules at once do not, but every module calls them.
        """
        if any(isinstance(module, Tap) or self.has_fast_path(module) for module in self.paths):
            hooks = torch.nn.modules.module
            yield hooks.register_module_forward_pre_hook(self._enter_module)
            yield register_forward_hook_of_all(self._leave_module)
            return
        plain = {kind for kind in {*map(type, self.paths)} if _is_plain_layer(kind)}
        for module in self.paths:
            if module._modules or type(module) not in plain:
                yield module.register_forward_pre_hook(self._enter_module)
                yield module.register_forward_hook(self._leave_module, with_kwargs=True, always_call=True)

    def has_fast_path(self, module: nn.Module, /) -> bool:
        """Return whether torch runs the module as one operation, which the capture must not disturb."""
        return has_torch_fast_path(module)

    def _enter_module(self, module: nn.Module, inputs: Any) -> None:
        if module not in self.paths:
            self.another_ran |= type(module) is type(self.model)
            return
        if not self.stack:
            self.batch = 0
        if not self.batch:  # the model itself may have keyword arguments alone, which hooks do not receive
            self.batch = next((len(x) for x in inputs if isinstance(x, Tensor) and x.ndim), 0)
        self.stack.append(module)
        self.features.captured.discard(module)
        self.calls[self.paths[module]] = 0
        if self.has_fast_path(module):  # it would leave its fast path, and its attention is known
            guard = torch._C.DisableTorchFunction()
            guard.__enter__()
            self._guards.append((module, guard))

    def _leave_module(self, module: nn.Module, args: Any, *given: Any) -> None:
        # After an error, torch calls hooks of all modules without keyword arguments.
        kwargs, output = given if len(given) == 2 else ({}, None)
        if self._guards and self._guards[-1][0] is module:
            self._guards.pop()[1].__exit__(None, None, None)
        if module in self.stack:
            if isinstance(module, FEATURE_LAYERS) and output is not None:  # None after an error
                self.features.keep(output)
            self.features.sets.leave(args, kwargs, output)
            while self.stack.pop() is not module:
                pass

    def has_windows(self, x: Tensor, module: Any) -> bool:
        """Return whether queries, or weights, (..., N, D) hold several groups of tokens for each image."""
        if not self.batch:
            return False
        if x.ndim == 3:  # images and heads in one axis
            heads = next((n for name in _HEADS if isinstance(n := getattr(module, name, None), int)), None)
            return heads is not None and x.shape[0] not in (self.batch, self.batch * heads)
        return x.ndim > 3 and (x.shape[0] != self.batch or math.prod(x.shape[2:-2]) > 1)

    def site(self) -> tuple[str, AttentionSite]:
        """Return the innermost module with parameters that runs, by its path and as an attention."""
        if self.stack[-1] not in self._sites:
            running = (
                module for module in reversed(self.stack) if next(module.parameters(), None) is not None
            )
            path = self.paths[next(running, self.stack[0])]
            parts = [part for part in path.split(".") if part]
            owners = [*accumulate(parts, nn.Module.get_submodule, initial=self.model)]
            self._sites[self.stack[-1]] = path, AttentionSite.from_owners(owners, self.features)
        return self._sites[self.stack[-1]]
