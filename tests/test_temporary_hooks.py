"""`temporary_hooks` removes hooks at the end of the block, after an error and after a failed registration."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from torch import nn

from saccade._torch import forward_hooks
from saccade.model_state import Handle, temporary_hooks


def register(model: nn.Module, fail: bool = False) -> Iterator[Handle]:
    for module in model.modules():
        yield module.register_forward_hook(print)
    if fail:
        raise MemoryError


def count(model: nn.Module) -> int:
    return sum(len(forward_hooks(module)) for module in model.modules())


def test_hooks_are_removed_when_the_block_ends_or_fails() -> None:
    model = nn.Sequential(nn.ReLU(), nn.ReLU())
    with temporary_hooks(register(model)):
        assert count(model) == 3
    assert count(model) == 0
    with pytest.raises(ZeroDivisionError), temporary_hooks(register(model)):
        raise ZeroDivisionError
    assert count(model) == 0


def test_hooks_are_removed_when_their_registration_fails() -> None:
    model = nn.Sequential(nn.ReLU(), nn.ReLU())
    entered = False
    with pytest.raises(MemoryError), temporary_hooks(register(model, fail=True)):
        entered = True
    assert not entered
    assert count(model) == 0
