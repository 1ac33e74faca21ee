"""Layers of a model in the order in which they run, and the randomization of their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saccade.errors import BadOption
from saccade.model_state import Handle, temporary_hooks


@dataclass(frozen=True, eq=False)
class Layer:
    """Modules that are randomized together; `reaches` says whether they run before the map is computed."""

    path: str
    modules: tuple[nn.Module, ...]
    reaches: bool


def find_layers(
    model: nn.Module, run: Callable[[], Tensor], at: str | None, paths: Sequence[str] | None
) -> tuple[Tensor, list[Layer]]:
    """Return the result of `run` and the layers of the model, the one that runs last first.

    A module that is not called itself, because its parent uses its weights, takes the position of its nearest
    ancestor that is called. A parent starts before its children.
    """
    called: dict[str, int] = {}
    ended: list[int] = []

    def register() -> Iterator[Handle]:
        for path, module in model.named_modules():
            yield module.register_forward_pre_hook(lambda *_, path=path: begins(path))
        if at is not None:
            yield model.get_submodule(at).register_forward_hook(lambda *_: ended.append(len(called)))

    def begins(path: str) -> None:
        called.setdefault(path, len(called))

    with temporary_hooks(register()):
        result = run()
    if at is not None and not ended:
        problem = f"module {at!r} does not run when the heat map is computed"
        raise BadOption.of("sanity_check", problem, at=at)

    def start(path: str) -> int:
        while path and path not in called:
            path = path.rpartition(".")[0]
        return called.get(path, 0)

    def layer(path: str, members: Mapping[str, nn.Module]) -> Layer:
        reaches = not ended or any(start(member) < ended[-1] for member in members)
        return Layer(path, tuple(members.values()), reaches)

    owners = {path: module for path, module in model.named_modules() if [*module.parameters(recurse=False)]}
    if paths is None:
        # The sort is stable: modules that are not called keep the order of their registration.
        layers = [layer(path, {path: owners[path]}) for path in sorted(owners, key=start)[::-1]]
    else:
        layers = [layer(path, _below(owners, path)) for path in paths]
    empty = [f"layer {layer.path!r}" for layer in layers if not layer.modules]
    if empty or not layers:
        name = empty[0] if empty else type(model).__name__
        raise BadOption.of("sanity_check", f"{name} holds no parameters to randomize", layers=paths)
    return result, layers


@torch.no_grad()
def randomize(layer: Layer) -> None:
    """Draw new weights for a layer."""
    for module in layer.modules:
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        else:
            for parameter in module.parameters(recurse=False):
                scale = parameter.square().mean().sqrt()
                parameter.normal_().mul_(scale)


@contextmanager
def preserve_parameters(model: nn.Module) -> Iterator[None]:
    """Restore parameters and their gradients when the block ends; `preserve_state` restores the rest."""
    saved = [
        (module, name, parameter, parameter.detach().clone(), parameter.grad)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
    ]
    for _, _, parameter, _, _ in saved:
        parameter.grad = None  # new gradients go into new tensors
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, parameter, values, gradient in saved:
                setattr(module, name, parameter)
                parameter.copy_(values)
                parameter.grad = gradient


def _below(modules: Mapping[str, nn.Module], path: str) -> dict[str, nn.Module]:
    """Return the modules at a path and below it."""
    return {p: m for p, m in modules.items() if not path or p == path or p.startswith(path + ".")}
