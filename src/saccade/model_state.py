"""Run a user's model without changing it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from saccade._torch import tensors_in


def gpus_of(model: nn.Module, inputs: tuple[Any, ...]) -> list[int]:
    """Return the indices of the GPUs that hold parameters, buffers or inputs of a model."""
    tensors = [*model.parameters(), *model.buffers(), *tensors_in(inputs)]
    return sorted({t.device.index for t in tensors if t.is_cuda})


@contextmanager
def preserve_state(model: nn.Module, inputs: tuple[Any, ...]) -> Iterator[None]:
    """Set a model to evaluation mode without gradients; restore modes, buffers and random state at the end.

    The `training` flags are set directly, since a model can override `train` and `eval`. Inference mode is
    disabled: a tensor that the model caches in its first call would be an inference tensor, and training
    would fail.

    Args:
        model: The model.
        inputs: The inputs of `model`. The random state of their GPUs is restored, too.
    """
    flags = [(module, module.training) for module in model.modules()]
    buffers = [(m, name, b, b.clone()) for m in model.modules() for name, b in m.named_buffers(recurse=False)]
    with torch.random.fork_rng(devices=gpus_of(model, inputs)), torch.inference_mode(False), torch.no_grad():
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

    `handles` may be a generator that registers the hooks. If it fails, the registered hooks are removed.
    """
    with ExitStack() as stack:
        for handle in handles:
            stack.callback(handle.remove)
        yield
