"""The backbone of a saved model: found out, built by its name, and compared with the model."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from saccade.annotations import check_annotations
from saccade.errors import BadOption, UnknownName
from saccade.grammar import check_options, parse

_PLAIN = (bool, int, float, str, type(None))
#: Arguments of `load_backbone` that are no options of a constructor; `pretrained` downloads.
_RESERVED = {"classes", "name", "pretrained"}
_RESERVED_REASON = "the weights come from the folder, and num_classes sets the outputs"
#: Attributes of modules that change no result in evaluation mode, or that differ between equal modules.
_IGNORED = {"training", "grad_checkpointing", "is_removed"}


@dataclass(frozen=True)
class Backbone:
    """A model by its name, `timm:NAME`, `torchvision:NAME` or `saccade:CLASS`, and the options it takes."""

    name: str
    options: Mapping[str, Any]

    def build(self) -> nn.Module:
        """Build the model with random weights.

        Raises:
            UnknownName: If the model or an option does not exist.
            BadOption: If the name has no source, or the model does not accept the options.
        """
        source, _, bare = self.name.partition(":")
        if source == "saccade":
            return _own_model(bare, self.options)
        from saccade.models import SOURCES, load_backbone

        if source not in SOURCES:
            expected = f"begins with neither {', '.join(f'{name}:' for name in SOURCES)} nor saccade:"
            raise BadOption.of("backbone", f"{self.name!r} {expected}", backbone=self.name)
        for option in _RESERVED & self.options.keys():
            message = f"{self.name}: the option {option} is not supported; {_RESERVED_REASON}"
            raise BadOption(message, owner=self.name, option=option, value=self.options[option])
        return load_backbone(self.name, **self.options)


def parse_backbone(text: str) -> Backbone:
    """Return the backbone that `SOURCE:NAME[:option=value,...]` names.

    Example:
        >>> parse_backbone("torchvision:resnet18:num_classes=5")
        Backbone(name='torchvision:resnet18', options={'num_classes': 5})
    """
    source, colon, rest = text.partition(":")
    name, options = parse(rest)
    return Backbone(f"{source}{colon}{name}", options)


def find_backbone(model: nn.Module) -> Backbone | None:
    """Return the backbone of a model of timm, from what the model says of itself, or None for another model.

    Example:
        >>> import timm
        >>> find_backbone(timm.create_model("resnet18", num_classes=5, in_chans=1))
        Backbone(name='timm:resnet18', options={'num_classes': 5, 'in_chans': 1})
    """
    config: Any = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if not isinstance(config, Mapping) or not isinstance(architecture := config.get("architecture"), str):
        return None
    options = {}
    if isinstance(classes := getattr(model, "num_classes", None), int):
        options["num_classes"] = classes
    first = config.get("first_conv")  # a path, or several
    path = first if isinstance(first, str) else next(iter(first or ()), "")
    convolution = dict(model.named_modules()).get(path) if path else None
    if isinstance(channels := getattr(convolution, "in_channels", None), int):
        options["in_chans"] = channels
    return Backbone(f"timm:{architecture}", options)


def difference(model: nn.Module, rebuilt: nn.Module) -> str | None:
    """Return where a model differs from the one that was rebuilt for it, or None.

    Classes, plain attributes (strides, rates, sizes) and shapes of the state are compared, values are not.

    Example:
        >>> difference(nn.Sequential(nn.Conv2d(3, 8, 3, stride=2)), nn.Sequential(nn.Conv2d(3, 8, 3)))
        "'0' has stride=(2, 2), not (1, 1)"
    """
    modules, expected = dict(model.named_modules()), dict(rebuilt.named_modules())
    for path in {**expected, **modules}:
        if path not in expected or path not in modules:
            return f"{path!r} is {'added' if path in modules else 'missing'}"
        mine, other = modules[path], expected[path]
        if type(mine) is not type(other):
            return f"{path!r} is a {type(mine).__name__}, not a {type(other).__name__}"
        own, theirs = _attributes(mine), _attributes(other)
        for name in {**theirs, **own}:
            if own.get(name) != theirs.get(name):
                return f"{path!r} has {name}={own.get(name)!r}, not {theirs.get(name)!r}"
    shapes, other_shapes = (
        {name: tuple(x.shape) for name, x in each.state_dict().items()} for each in (model, rebuilt)
    )
    for name in {**other_shapes, **shapes}:
        if shapes.get(name) != other_shapes.get(name):
            return f"{name!r} has shape {shapes.get(name)}, not {other_shapes.get(name)}"
    return None


def is_json(value: Any) -> bool:
    """Return whether a value survives JSON: tuples may return as lists, nothing else may change.

    Example:
        >>> is_json({"size": (7, 7)}), is_json({"layer": nn.ReLU}), is_json({"rate": float("nan")})
        (True, False, False)
    """
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, Mapping) or all(isinstance(key, str) for key in value)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Return the attributes of a module that are numbers, texts or tuples of them."""
    return {name: value for name, value in vars(module).items() if name not in _IGNORED and _is_plain(value)}


def _is_plain(value: object) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, tuple) else isinstance(value, _PLAIN)


def _own_model(name: str, options: Mapping[str, Any]) -> nn.Module:
    """Build a model of this package by the name of its class."""
    from saccade import models

    classes = (
        models.ClipCNN,
        models.RecurrentAttention,
        models.ResidualAttentionNetwork,
        models.SimpleViT,
        models.SmallCNN,
        models.ViT,
    )
    known: dict[str, type[nn.Module]] = {each.__name__: each for each in classes}
    if name not in known:
        raise UnknownName("model of saccade", name, known, owner="backbone")
    check_options(name, options, inspect.signature(known[name]).parameters)
    try:
        return known[name](**check_annotations(name, known[name], options))
    except TypeError as error:  # an argument without a default is missing
        raise BadOption.of(name, f"cannot be built with {dict(options)}: {error}", options=options) from error
