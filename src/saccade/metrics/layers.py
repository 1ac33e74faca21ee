"""The layers of a model in the order in which they run, and weights that are lent and given back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saccade.errors import BadOption


@dataclass(frozen=True, eq=False)
class Layer:
    """Modules that lose their weights together; `reaches` says whether they run before the map is made."""

    path: str
    modules: tuple[nn.Module, ...]
    reaches: bool


def find_layers(
    model: nn.Module, run: Callable[[], Tensor], at: str | None, paths: Sequence[str] | None
) -> tuple[Tensor, list[Layer]]:
    """Return what `run` returns and the layers of the model, the one that runs last first.

    A module that is not called itself, as when a parent uses its weights, goes with its nearest ancestor that
    is; the input is nearer to a parent than to its children.
    """
    called: dict[str, int] = {}
    ended: list[int] = []

    def begins(path: str) -> None:
        called.setdefault(path, len(called))

    handles = [
        module.register_forward_pre_hook(lambda _module, _inputs, path=path: begins(path))
        for path, module in model.named_modules()
    ]
    if at is not None:
        handles.append(model.get_submodule(at).register_forward_hook(lambda *_: ended.append(len(called))))
    try:
        result = run()
    finally:
        for handle in handles:
            handle.remove()
    if at is not None and not ended:
        raise BadOption(f"sanity: the module {at!r} does not run when the heat map is made")

    def start(path: str) -> int:
        while path and path not in called:
            path = path.rpartition(".")[0]
        return called.get(path, 0)

    def layer(path: str, members: Mapping[str, nn.Module]) -> Layer:
        reaches = not ended or any(start(member) < ended[-1] for member in members)
        return Layer(path, tuple(members.values()), reaches)

    owners = {path: module for path, module in model.named_modules() if [*module.parameters(recurse=False)]}
    if paths is None:
        # A stable order: modules that are not called stand as they are registered.
        found = [layer(path, {path: owners[path]}) for path in sorted(owners, key=start)[::-1]]
    else:
        found = [layer(path, _below(owners, path)) for path in paths]
    for its in found:
        if not its.modules:
            raise BadOption(f"sanity: layer {its.path!r} holds no parameters that could be randomized")
    if not found:
        raise BadOption(f"sanity: {type(model).__name__} holds no parameters that could be randomized")
    return result, found


@torch.no_grad()
def randomize(layer: Layer) -> None:
    """Draw the weights of a layer anew."""
    for module in layer.modules:
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        else:
            for parameter in module.parameters(recurse=False):
                scale = parameter.square().mean().sqrt()
                parameter.normal_().mul_(scale)


@contextmanager
def given_back(model: nn.Module) -> Iterator[None]:
    """Give parameters and their gradients back as they were; `borrowed` does so with everything else."""
    saved = [
        (module, name, parameter, parameter.detach().clone(), parameter.grad)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
    ]
    for _, _, parameter, _, _ in saved:
        parameter.grad = None  # new gradients are added to new tensors
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, parameter, values, gradient in saved:
                setattr(module, name, parameter)
                parameter.copy_(values)
                parameter.grad = gradient


def _below(modules: Mapping[str, nn.Module], path: str) -> dict[str, nn.Module]:
    """Return the module of a path and those below it, of the given ones."""
    return {its: m for its, m in modules.items() if not path or its == path or its.startswith(path + ".")}
