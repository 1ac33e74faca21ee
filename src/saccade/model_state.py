"""Borrowing: run a user's model and give it back as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from saccade._torch import tree_leaves


def gpus_of(model: nn.Module, inputs: tuple[Any, ...]) -> list[int]:
    """Return the numbers of the GPUs on which a model and its inputs lie."""
    tensors = [
        *model.parameters(),
        *model.buffers(),
        *(t for t in tree_leaves(inputs) if isinstance(t, Tensor)),
    ]
    return sorted({t.device.index for t in tensors if t.is_cuda})


@contextmanager
def preserve_state(model: nn.Module, inputs: tuple[Any, ...]) -> Iterator[None]:
    """Run a model in evaluation mode, without gradients, and give it back as it was.

    Flags are set one by one, since `train` and `eval` may be overridden to do more. Inference mode is off:
    what a model caches on its first call would be an inference tensor, and training it would fail.
    """
    flags = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    gpus = gpus_of(model, inputs)
    with torch.random.fork_rng(devices=gpus), torch.inference_mode(False), torch.no_grad():
        for module, _ in flags:
            module.training = False
        try:
            yield
        finally:
            for module, training in flags:
                module.training = training
            for module, name, buffer, values in buffers:
                setattr(module, name, buffer.copy_(values))


class Handle(Protocol):
    """The handle of a hook."""

    def remove(self) -> None: ...


@contextmanager
def temporary_hooks(handles: Iterable[Handle]) -> Iterator[None]:
    """Remove hooks when the block ends.

    `handles` may be a generator that registers the hooks: if it fails, those registered so far are removed.
    """
    with ExitStack() as stack:
        for handle in handles:
            stack.callback(handle.remove)
        yield
