"""Networks of torchvision and timm by their names."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from saccade.errors import BadOption, UnknownName
from saccade.grammar import parse

SOURCES = ("torchvision", "timm")


def load_backbone(
    name: str, *, classes: int | None = None, pretrained: bool = False, **options: Any
) -> nn.Module:
    """Build a network by its name in torchvision or, where it is not there, in timm.

    name        [torchvision:|timm:]NAME[:option=value,...]: as these libraries list it, with the library
                where both have it, and options of its function, such as timm's `drop_path_rate`
    classes     outputs of a new head; by default as many as the library gives the network
    pretrained  load the library's default weights, which it may have to download, but for a new head
    options     more of the library's function

    Raises `UnknownName`, with the nearest names, if there is no such network; `BadOption` for a source that
    is neither library and for options that the network does not take.

    >>> load_backbone("resnet18", classes=5).fc.out_features
    5
    >>> narrow = load_backbone("timm:resnet18:channels=[16,32,64,128]", classes=5)
    >>> narrow.fc.in_features
    128
    >>> load_backbone("timm:resnet1O")
    Traceback (most recent call last):
    saccade.errors.UnknownName: unknown network of timm 'resnet1O'; did you mean 'resnet18' or ...?
    """
    source, colon, rest = name.partition(":")
    if colon and source not in SOURCES and "=" not in rest:
        raise BadOption(f"{name!r}: {source!r} is neither 'torchvision' nor 'timm'")
    sources = (source,) if source in SOURCES else SOURCES
    bare, its = parse(rest if source in SOURCES else name)
    options = its | options
    for library in sources:
        if bare in _names(library):
            heads = {} if classes is None else {"num_classes": classes}
            build = _torchvision if library == "torchvision" else _timm
            try:
                return build(bare, pretrained, **heads, **options)
            except (TypeError, ValueError, RuntimeError) as error:
                raise BadOption(f"{name} cannot be built with {options}: {error}") from error
    known = {network for library in sources for network in _names(library)}
    raise UnknownName(f"network of {' or '.join(sources)}", bare, known)


def input_of(model: nn.Module) -> tuple[int, Tensor, Tensor]:
    """Return what a library's network is given: height and width, and the mean and deviation of each channel.

    mean, deviation (3, 1, 1), of pixels from 0 to 1. Where the library does not say: 224, and ImageNet's.

    >>> size, mean, _ = input_of(load_backbone("timm:vit_tiny_patch16_384"))
    >>> size, mean.flatten().tolist()
    (384, [0.5, 0.5, 0.5])
    """
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    known = getattr(model, "pretrained_cfg", {})
    size: int = known["input_size"][-1] if "input_size" in known else getattr(model, "image_size", 224)
    mean, std = known.get("mean", IMAGENET_DEFAULT_MEAN), known.get("std", IMAGENET_DEFAULT_STD)
    return size, torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]


def head_path(model: nn.Module, classes: int) -> str:
    """Return the path of a classifier's head: its last linear layer with as many outputs as classes.

    Raises `BadOption` if there is no such layer.

    >>> head_path(load_backbone("vgg11", classes=5), 5)
    'classifier.6'
    """
    paths: list[str] = [
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == classes
    ]
    if not paths:
        raise BadOption(f"{type(model).__name__} has no head: no linear layer of {classes} outputs")
    return paths[-1]


def _names(library: str) -> list[str]:
    if library == "torchvision":
        import torchvision

        return list(torchvision.models.list_models())
    import timm

    return list(timm.list_models())


def _torchvision(name: str, pretrained: bool, **options: Any) -> nn.Module:
    import torchvision

    builder = torchvision.models.get_model_builder(name)
    if "weights_backbone" in inspect.signature(builder).parameters:  # which would be downloaded by default
        options = {"weights_backbone": None, **options}
    model: nn.Module = builder(weights=None, **options)
    if not pretrained:
        return model
    options.pop("num_classes", None)  # with weights, torchvision takes no other number than theirs
    trained: nn.Module = builder(weights="DEFAULT", **options)
    for path, module in list(trained.named_modules()):
        its = dict(module.named_parameters(recurse=False))
        ours = dict(model.get_submodule(path).named_parameters(recurse=False)) if its else its
        if any(ours[name].shape != weight.shape for name, weight in its.items()):
            trained.set_submodule(path, model.get_submodule(path))  # a head of as many classes as asked for
    return trained


def _timm(name: str, pretrained: bool, **options: Any) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    return model
