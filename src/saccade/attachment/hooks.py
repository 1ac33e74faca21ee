"""The module that `attach` inserts: a child of its host, which a hook without state calls.

`attach` replaces nothing in a model, so its keys, classes and references stay. The hooks are functions of
this module that look for `Attached` children. A copied, pickled or replicated model therefore carries its
attention with it, and `detach` finds everything by looking at the modules.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.parallel import DistributedDataParallel

from saccade._torch import forward_hooks, forward_pre_hooks, is_compiled
from saccade.errors import BadOption, BadShape
from saccade.model_state import preserve_state

Place = Literal["input", "output"]


@dataclass(frozen=True)
class Construction:
    """The arguments of `saccade.create` that build a mechanism."""

    name: str
    channels: int
    options: Mapping[str, Any]


class Attached(nn.Module):
    """A mechanism A at its place, with or without a gate s that starts at 0.

        y = x + s (A(x) - x)        y = A(x) without a gate

    The output y has the shape, the dtype and the memory format of x. In a graph of torch.fx it is one node.

    Args:
        mechanism: The mechanism A.
        gate: Whether there is a gate s.
        place: Whether the hook passes the input or the output of the host through this module.
        move_last_axis: Whether the last axis of x is the second axis of what A takes and returns, as for a
            mechanism of maps `(B, C, H, W)` on the features `(B, H, W, C)` of Swin.
        grid: The grid of tokens x for a mechanism of maps, or one of the same proportions.
        extra: The number of first tokens that have no place in the grid and that A does not see.
        construction: How the mechanism was built, for `describe_attachments`; None if that is unknown.
    """

    def __init__(
        self,
        mechanism: nn.Module,
        *,
        gate: bool,
        place: Place = "output",
        move_last_axis: bool = False,
        grid: tuple[int, ...] | None = None,
        extra: int = 0,
        construction: Construction | None = None,
    ) -> None:
        super().__init__()
        self.mechanism = mechanism
        # Not a scalar, which fully_shard does not take.
        self.gate: nn.Parameter | None = nn.Parameter(torch.zeros(1)) if gate else None
        self.place = place
        self.move_last_axis = move_last_axis
        self.grid = grid
        self.extra = extra
        self.construction = construction
        self.is_removed = False  # `detach` removed it, so that its guard does not miss it

    def forward(self, x: Any) -> Any:
        if isinstance(x, Proxy):  # mechanisms check shapes, which torch.fx cannot trace
            tracer: Any = x.tracer
            return tracer.create_proxy("call_module", tracer.path_of_module(self), (x,), {})
        if x.is_quantized:  # a host that quantization has left in a graph
            y = self(x.dequantize())
            return torch.quantize_per_tensor(y, x.q_scale(), x.q_zero_point(), x.dtype)
        y = x.movedim(-1, 1) if self.move_last_axis else x
        y = self.mechanism(y) if self.grid is None else self._on_grid(y, self.grid)
        y = (y.movedim(1, -1) if self.move_last_axis else y).to(x.dtype)
        if self.gate is not None:
            return torch.lerp(x, y, self.gate.to(x.dtype))
        return y if y.stride() == x.stride() else torch.empty_like(x).copy_(y)

    def _on_grid(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Apply the mechanism to the map of the tokens `(B, C, N)` that have a place; the others pass by."""
        extra, places = tokens.tensor_split([self.extra], dim=2)
        y = self.mechanism(places.unflatten(2, same_shape(grid, places.shape[2]))).flatten(2)
        return torch.cat([extra, y.to(tokens.dtype)], 2)

    def extra_repr(self) -> str:
        grid = "" if self.grid is None else f", grid={self.grid}, extra={self.extra}"
        return f"place={self.place!r}, move_last_axis={self.move_last_axis}{grid}"

    def __prepare_scriptable__(self) -> nn.Module:
        """Refuse `torch.jit.script`, which calls this method of every module."""
        advice = "use torch.export.export or torch.jit.trace, or detach it first"
        message = f"torch.jit.script cannot compile attached attention; {advice}"
        raise BadOption(message, owner="attach", option="model", value=type(self.mechanism).__name__)


def same_shape(grid: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Return the grid of `count` tokens that has the proportions of another grid.

    Raises:
        BadShape: If there is none.
    """
    scaled = scale_grid(grid, count)
    if scaled is None:
        expected = f"expected tokens on a grid of the proportions of {grid}"
        raise BadShape.of("attach", f"{expected}, got {count} tokens", shape=count)
    return scaled


def scale_grid(grid: tuple[int, ...], count: int) -> tuple[int, ...] | None:
    """Return the grid of `count` tokens that has the proportions of another grid, or None."""
    scaled = tuple(round(n * (count / math.prod(grid)) ** (1 / len(grid))) for n in grid)
    same = all(n * grid[0] == scaled[0] * m for n, m in zip(scaled, grid, strict=True))
    return scaled if same and math.prod(scaled) == count else None


def attend_to_output(host: nn.Module, _: Any, output: Tensor) -> Tensor:
    """Pass the output of a host through its attached attention; a forward hook."""
    for child in attached_to(host, "output").values():
        output = child(output)
    return output


def attend_to_input(host: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Pass the first input of a host through its attached attention; a forward pre-hook."""
    x, *rest = inputs
    for child in attached_to(host, "input").values():
        x = child(x)
    return (x, *rest)


def is_dead(attached: Attached, zeros: Tensor) -> bool:
    """Return whether features of zero and the parameters get no gradient, so that neither ever changes."""
    with preserve_state(attached, (zeros,)), torch.enable_grad():
        attached.train()
        x = torch.zeros_like(zeros, requires_grad=True)
        y = attached(x)
        weights = [p for p in attached.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(y, [x, *weights], torch.randn_like(y), allow_unused=True)
    return not any(gradient is not None and gradient.any() for gradient in gradients)


def runs_children_in_order(module: nn.Module) -> bool:
    """Return whether the forward is that of `nn.Sequential`, which calls an appended child without a hook."""
    return type(module).forward is nn.Sequential.forward


def attached_to(host: nn.Module, place: Place | None = None) -> dict[str, Attached]:
    """Return the attached children of a module by name, at one place or at both."""
    children = {name: child for name, child in host.named_children() if isinstance(child, Attached)}
    return {name: child for name, child in children.items() if place in (None, child.place)}


def is_called(host: nn.Module, place: Place) -> bool:
    """Return whether a host calls the attention attached to its input or its output."""
    if place == "input":
        return attend_to_input in forward_pre_hooks(host).values()
    return runs_children_in_order(host) or attend_to_output in forward_hooks(host).values()


def add_hook(host: nn.Module, place: Place) -> None:
    """Make a host call the attention attached to its input or its output, if it does not."""
    if is_called(host, place):
        return
    if place == "input":
        host.register_forward_pre_hook(attend_to_input)
    else:
        host.register_forward_hook(attend_to_output)


def insert(host: nn.Module, attached: Attached) -> str:
    """Add attention to a host; return the name of the child, `attention` or, if taken, `attention_2`."""
    names = itertools.chain(["attention"], map("attention_{}".format, itertools.count(2)))
    name = next(name for name in names if not hasattr(host, name))
    host.add_module(name, attached.train(host.training))
    add_hook(host, attached.place)
    return name


def remove(host: nn.Module, keep: Collection[str] = ()) -> list[str]:
    """Remove the attached children of a host except those in `keep`; return the names of the removed ones."""
    names = [name for name in attached_to(host) if name not in keep]
    for name in names:
        attached_to(host)[name].is_removed = True
        delattr(host, name)
    hooks = {"output": forward_hooks(host), "input": forward_pre_hooks(host)}
    for place in hooks.keys() - {child.place for child in attached_to(host).values()}:
        for key in [key for key, hook in hooks[place].items() if hook in (attend_to_output, attend_to_input)]:
            del hooks[place][key]  # like the handle that the registration returned
    return names


def check_model(model: object, owner: str, advice: str) -> None:
    """Raise `BadOption` unless a model is a module that uses submodules and hooks added later."""
    if not isinstance(model, nn.Module):
        problem = "is not an nn.Module"
    elif isinstance(model, torch.jit.ScriptModule):
        problem = "is scripted and cannot be changed; use the module it was scripted from"
    elif any(map(is_compiled, model.modules())):
        problem = f"is compiled, and compiled code does not see changes; {advice}"
    elif isinstance(model, DistributedDataParallel):
        problem = f"has already collected the parameters; {advice}"
    else:
        return
    name = type(model).__name__
    raise BadOption(f"{owner}: {name} {problem}", owner=owner, option="model", value=name)
