"""Memory of a training step, from the tensors that the forward pass keeps for the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from saccade.model_state import preserve_state


def training_memory(model: nn.Module, *inputs: Any) -> int:
    """Estimate the memory of one training step in bytes.

        2 P + B + S

    with the parameters P, whose gradients take the same memory, the buffers B, and the tensors S that the
    forward pass saves for the backward pass. A storage that several operations save counts once. The state
    of the optimizer, and tensors that live within one operation, are left out.

    Models and inputs on the meta device are accepted, so that no memory is needed. The model is not changed.

    Args:
        model: The model.
        *inputs: The inputs of `model`, a batch of the size that is trained.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False), torch.nn.Sigmoid())
        >>> training_memory(model, torch.zeros(10, 4))  # 2 * 16 weights, the input, and the output
        448
    """
    weights = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]
    known = {id(storage) for storage in weights}
    saved: dict[int, torch.UntypedStorage] = {}  # keeps them, so that no id is used again

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in known:
            saved[id(storage)] = storage
        return tensor

    with (
        preserve_state(model, inputs),
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor),
    ):
        for module in model.modules():
            module.training = True
        result = model(*inputs)
    del result
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    return 2 * parameters + buffers + sum(storage.nbytes() for storage in saved.values())
