"""`detach`: remove all attention that `attach` inserted."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from saccade._torch import forward_hooks, forward_pre_hooks
from saccade.attachment.attached import Place, attached_to, attend_to_input, attend_to_output
from saccade.attachment.model_check import check_model


def detach(model: nn.Module) -> list[str]:
    """Remove everything that `attach` inserted into a model, which restores the original model exactly.

    Args:
        model: The model, changed in place.

    Returns:
        The paths of the removed modules.

    Raises:
        BadOption: If the model is compiled, scripted or wrapped.

    Example:
        >>> import torch, saccade as sc
        >>> model, x = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3)), torch.randn(1, 3, 8, 8)
        >>> plan = sc.attach(model, "se", where=["0"], example_inputs=x)
        >>> sc.detach(model), sc.detach(model)
        (['0.attention'], [])
    """
    check_model(model, "detach", "call detach on the original model")
    hosts = [(path, module) for path, module in model.named_modules() if attached_to(module)]
    return [f"{path}.{name}" for path, host in hosts for name in remove(host)]


def remove(host: nn.Module, keep: Collection[str] = ()) -> list[str]:
    """Remove the attached children of a host except those in `keep`; return the names of the removed ones."""
    names = [name for name in attached_to(host) if name not in keep]
    for name in names:
        delattr(host, name)
    places: tuple[Place, ...] = ("output", "input")
    registries = (forward_hooks(host), forward_pre_hooks(host))
    for place, hooks, own in zip(places, registries, (attend_to_output, attend_to_input), strict=True):
        if not attached_to(host, place):
            for key in [key for key, hook in hooks.items() if hook is own]:
                del hooks[key]  # like the handle that the registration returned
    return names
