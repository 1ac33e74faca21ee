"""Attention modules of timm as mechanisms, with their weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.errors import BadOption
from saccade.layers.registry import create
from saccade.models.timm_modules import CONVERTERS, Counterpart, difference


def from_timm(module: nn.Module, channels: int | None = None) -> nn.Module:
    """Return the mechanism that computes what an attention module of timm computes, with its weights.

    The module is one that `timm.layers.create_attn` builds. The result has the same output and the same
    gradients, takes part in `sc.record`, and is independent of the module: weights are copied. It has the
    module's data type, device, mode and frozen parameters, and the epsilon and momentum of its norms.

    Args:
        module: An attention module of timm.
        channels: Number of channels. Needed for `eca`, `ecam`, `ceca`, and `ge` without layers, whose modules
            do not hold it.

    Returns:
        The mechanism.

    Raises:
        BadOption: The module is not one of timm's attention modules; it has a setting that no mechanism
            has, such as another gate or a stride, which the message names; or `channels` is missing.

    Note:
        The gradient of `F.hardsigmoid` in float64, which timm's `ese` uses, has the precision of float32;
        that of `ese` here is exact.

    Example:
        >>> import torch
        >>> from timm.layers import create_attn
        >>> theirs = create_attn("gca", 32)
        >>> ours, x = from_timm(theirs), torch.randn(2, 32, 7, 5)
        >>> type(ours).__name__, torch.allclose(ours(x), theirs(x), atol=1e-6)
        ('GlobalContext', True)
    """
    path = f"{type(module).__module__}.{type(module).__qualname__}"
    if path not in CONVERTERS:
        message = f"from_timm: module={path} must be of a class that timm.layers.create_attn builds"
        raise BadOption(message, owner="from_timm", option="module", value=path, choices=tuple(CONVERTERS))
    equal = CONVERTERS[path](module)
    channels = equal.channels or channels
    if channels is None:
        message = (
            f"from_timm: timm's {type(module).__name__} does not hold its number of channels; pass channels"
        )
        raise BadOption(message, owner="from_timm", option="channels", value=None)
    ours = create(equal.name, channels, **equal.options)
    parameter = next(module.parameters(), None)
    if parameter is not None:
        ours.to(parameter.device, parameter.dtype)
    _copy(module, ours, equal)
    return ours.train(module.training)


def _copy(theirs: nn.Module, ours: nn.Module, equal: Counterpart) -> None:
    """Copy parameters, buffers and the settings of norms. Shapes differ in axes of size 1 alone."""
    sources = {**dict(theirs.named_parameters()), **dict(theirs.named_buffers())}
    targets = {**dict(ours.named_parameters()), **dict(ours.named_buffers())}
    for name, target in targets.items():
        layer, _, kind = name.rpartition(".")
        source = sources.pop(f"{equal.layers.get(layer, layer)}.{kind}".lstrip("."))
        with torch.no_grad():
            target.copy_(_arranged(equal.name, name, source).reshape(target.shape))
        if isinstance(target, nn.Parameter):
            target.requires_grad_(source.requires_grad)
    for path, norm in ours.named_modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
            original = theirs.get_submodule(equal.layers.get(path, path))
            for setting in {"eps", "momentum"} & vars(norm).keys():
                setattr(norm, setting, getattr(original, setting))
    left = [name for name in sources if name != "rel_pos_indices"]  # which are computed here
    if left:
        raise difference(theirs, equal.name, left[0], "weights")


def _arranged(mechanism: str, name: str, weight: Tensor) -> Tensor:
    """Return weights in the order of channels here: cbam has the maximum first, timm the mean."""
    return weight.flip(1) if mechanism == "cbam" and name == "spatial.conv.weight" else weight
