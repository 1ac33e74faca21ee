"""What is put into a network: a child module of its host and a hook without a state of its own.

Nothing of a network is replaced, so its keys, classes and references stay as they are. The hooks are
functions of this module that look for `Attached` children, so a copied, pickled or replicated network
carries its attention with it, and `remove` finds everything by looking at the modules.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import torch
from torch import Tensor, nn

from saccade.model_state import preserve_state

Place = Literal["input", "output"]


class Attached(nn.Module):
    """A mechanism A in its place, with a strength s that starts at 0 or with none.

        y = x + s (A(x) - x)        y = A(x) without strength

    x is any features; with `moved` their last axis is the second of what A takes and returns, as Swin's
    (B, H, W, C) and tokens (B, N, C) need it. y has the shape, dtype and memory format of x.
    """

    gate: nn.Parameter | None

    def __init__(
        self, mechanism: nn.Module, *, gate: bool, place: Place = "output", moved: bool = False
    ) -> None:
        super().__init__()
        self.mechanism = mechanism
        self.gate = nn.Parameter(torch.zeros(1)) if gate else None  # fully_shard takes no scalars
        self.place = place
        self.moved = moved

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.mechanism(x.movedim(-1, 1) if self.moved else x)
        y = (y.movedim(1, -1) if self.moved else y).to(x.dtype)
        if self.gate is not None:
            return torch.lerp(x, y, self.gate.to(x.dtype))
        return y if y.stride() == x.stride() else torch.empty_like(x).copy_(y)

    def extra_repr(self) -> str:
        return f"place={self.place!r}, moved={self.moved}"


def attend_to_output(host: nn.Module, _: Any, output: Tensor) -> Tensor:
    """Pass what a host returns through the attention attached to it; a forward hook."""
    for child in host.children():
        if isinstance(child, Attached) and child.place == "output":
            output = child(output)
    return output


def attend_to_input(host: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Pass the first thing that a host is given through the attention attached to it; a forward pre-hook."""
    x, *rest = inputs
    for child in host.children():
        if isinstance(child, Attached) and child.place == "input":
            x = child(x)
    return (x, *rest)


def is_dead(attached: Attached, zeros: Tensor) -> bool:
    """Whether neither its parameters nor features of zero get a gradient: then both stay as they are."""
    with preserve_state(attached, (zeros,)), torch.enable_grad():
        attached.train()
        x = torch.zeros_like(zeros, requires_grad=True)
        y = attached(x)
        weights = [p for p in attached.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(y, [x, *weights], torch.randn_like(y), allow_unused=True)
    return not any(gradient is not None and gradient.any() for gradient in gradients)


def runs_children_in_order(module: nn.Module) -> bool:
    """Whether a module's forward is that of `nn.Sequential`, which calls an appended child without a hook."""
    return type(module).forward is nn.Sequential.forward


def attached_to(host: nn.Module, place: Place | None = None) -> list[str]:
    """Return the names of the attached children of a module, at one place or at both."""
    return [
        name
        for name, child in host.named_children()
        if isinstance(child, Attached) and place in (None, child.place)
    ]


def put(host: nn.Module, attached: Attached) -> str:
    """Attach to a host; return the child's name, `attention`, or `attention_2` ... if that is taken."""
    is_first = not attached_to(host, attached.place)
    name, number = "attention", 1
    while hasattr(host, name):
        number += 1
        name = f"attention_{number}"
    host.add_module(name, attached.train(host.training))
    if is_first and attached.place == "input":
        host.register_forward_pre_hook(attend_to_input)
    elif is_first and not runs_children_in_order(host):
        host.register_forward_hook(attend_to_output)
    return name


def remove(host: nn.Module, keep: Collection[str] = ()) -> list[str]:
    """Remove what is attached to a host but for the children named; return the names of the others."""
    names = [name for name in attached_to(host) if name not in keep]
    for name in names:
        delattr(host, name)
    for hooks, ours, place in _hooks(host):
        if not attached_to(host, place):
            for key in [key for key, hook in hooks.items() if hook is ours]:
                del hooks[key]  # as the handle does that registering returned
    return names


def _hooks(host: nn.Module) -> tuple[tuple[dict[int, Any], Any, Place], ...]:
    return (
        (host._forward_hooks, attend_to_output, "output"),
        (host._forward_pre_hooks, attend_to_input, "input"),
    )
