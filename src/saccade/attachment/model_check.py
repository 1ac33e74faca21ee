"""The check that a model can be changed."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from saccade._torch import is_compiled
from saccade.errors import BadOption


def check_model(model: nn.Module, owner: str, advice: str) -> None:
    """Raise `BadOption` unless a model is a module that uses submodules and hooks added later."""
    name = type(model).__name__
    if not isinstance(model, nn.Module):
        raise BadOption(f"{owner}: {name} is not an nn.Module", owner=owner, option="model", value=name)
    if isinstance(model, torch.jit.ScriptModule):
        problem = f"{name} is scripted and cannot be changed; use the module it was scripted from"
    elif any(map(is_compiled, model.modules())):
        problem = f"{name} is compiled, and compiled code does not see changes; {advice}"
    elif isinstance(model, DistributedDataParallel):
        problem = f"{name} has already collected the parameters; {advice}"
    else:
        return
    raise BadOption(f"{owner}: {problem}", owner=owner, option="model", value=name)
