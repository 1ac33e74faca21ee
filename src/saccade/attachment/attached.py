"""The module that `attach` inserts: a child of its host, called by a hook that holds no state.

`attach` replaces nothing in a model, so its keys, classes and references stay. The hooks are functions of
this module that look for `Attached` children. A copied, pickled or replicated model therefore carries its
attention with it, and `detach` finds everything by looking at the modules.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from saccade.model_state import preserve_state

Place = Literal["input", "output"]


class Attached(nn.Module):
    """A mechanism A at its place, with or without a gate s that starts at 0.

        y = x + s (A(x) - x)        y = A(x) without a gate

    The output y has the shape, the dtype and the memory format of x.

    Args:
        mechanism: The mechanism A.
        gate: Whether there is a gate s.
        place: Whether the hook passes the input or the output of the host through this module.
        move_last_axis: Whether the last axis of x is the second axis of what A takes and returns, as for a
            mechanism of maps `(B, C, H, W)` on the features `(B, H, W, C)` of Swin.
    """

    gate: nn.Parameter | None

    def __init__(
        self, mechanism: nn.Module, *, gate: bool, place: Place = "output", move_last_axis: bool = False
    ) -> None:
        super().__init__()
        self.mechanism = mechanism
        self.gate = nn.Parameter(torch.zeros(1)) if gate else None  # fully_shard takes no scalars
        self.place = place
        self.move_last_axis = move_last_axis

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.mechanism(x.movedim(-1, 1) if self.move_last_axis else x)
        y = (y.movedim(1, -1) if self.move_last_axis else y).to(x.dtype)
        if self.gate is not None:
            return torch.lerp(x, y, self.gate.to(x.dtype))
        return y if y.stride() == x.stride() else torch.empty_like(x).copy_(y)

    def extra_repr(self) -> str:
        return f"place={self.place!r}, move_last_axis={self.move_last_axis}"


def attend_to_output(host: nn.Module, _: Any, output: Tensor) -> Tensor:
    """Pass the output of a host through its attached attention; a forward hook."""
    for child in host.children():
        if isinstance(child, Attached) and child.place == "output":
            output = child(output)
    return output


def attend_to_input(host: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Pass the first input of a host through its attached attention; a forward pre-hook."""
    x, *rest = inputs
    for child in host.children():
        if isinstance(child, Attached) and child.place == "input":
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


def attached_to(host: nn.Module, place: Place | None = None) -> list[str]:
    """Return the names of the attached children of a module, at one place or at both."""
    return [
        name
        for name, child in host.named_children()
        if isinstance(child, Attached) and place in (None, child.place)
    ]


def insert(host: nn.Module, attached: Attached) -> str:
    """Add attention to a host; return the name of the child, `attention` or, if taken, `attention_2`."""
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
