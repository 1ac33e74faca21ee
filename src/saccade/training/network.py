"""The recipe's network: the small one of the first experiment, one of ours, or torchvision's and timm's."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from saccade.attachment import KINDS, Attached, attach
from saccade.config import Choice, Plan
from saccade.errors import BadOption, BadRecipe
from saccade.grammar import check_options
from saccade.models import ClipCNN, RecurrentAttention, SmallCNN, ViT
from saccade.models.backbone import load_backbone
from saccade.models.slots import pools


def build(plan: Plan, classes: int, shape: tuple[int, ...]) -> nn.Module:
    """Build the recipe's network for images (3, H, W) or clips (3, T, H, W), with its attention in it.

    Its weights are random: see `saccade.training.initial_weights` for others.
    """
    recipe, backbone, attention = plan.recipe, plan.backbone, plan.attention
    if backbone.name == "small" and len(shape) == 4:
        return ClipCNN(classes, attention=_slots(plan, "time", "B L C"))
    if backbone.name == "small":
        return SmallCNN(classes, attention=_slots(plan, "places", "B C H W"))
    if is_own(backbone):
        model = _own(backbone, classes, shape)
    else:
        model = load_backbone(backbone.name, classes=classes, **backbone.options)
    if recipe.cifar_stem:
        _keep_small_images(model, backbone.text)
    if attention:
        places = list(attention.places)
        kind = next((kind for kind in KINDS if places == [kind]), None)
        attach(
            model,
            attention.name,
            where=(kind or places) if places else recipe.where,
            example_inputs=torch.zeros(2, *shape),
            identity=recipe.identity,
            **attention.options,
        )
    return model


def attention_paths(model: nn.Module) -> list[str]:
    """Return the paths of all attention that was put into a network."""
    if isinstance(model, SmallCNN | ClipCNN):
        return [f"attention.{slot}" for slot in sorted(model.attention)]  # stages, then places and time
    return [path for path, module in model.named_modules() if isinstance(module, Attached)]


def attention_path(model: nn.Module) -> str | None:
    """Return the path of the network's attention: of several the last, which is nearest to the answer.

    It is what was put into the network, or else the network's own, if it is one of ours. None: there is none.
    """
    if paths := attention_paths(model):
        return paths[-1]
    if isinstance(model, RecurrentAttention):
        return ""
    return f"blocks.{len(model.blocks) - 1}.attn" if isinstance(model, ViT) else None


def _ram(classes: int, _shape: tuple[int, ...], **options: Any) -> nn.Module:
    return RecurrentAttention(classes, **options)


def _vit(classes: int, shape: tuple[int, ...], **options: Any) -> nn.Module:
    """A ViT of the patches of an image, or of groups of the channels that the small network ends with."""
    if options.get("tokens") != "channels":
        return ViT((shape[1], shape[2]), classes=classes, channels=shape[0], **options)
    stages = SmallCNN(classes, shape[0]).stages
    height, width = (-(-extent // 2 ** len(stages)) for extent in shape[1:])
    vit = ViT((height, width), classes=classes, channels=64, **options)
    return nn.Sequential(OrderedDict(features=nn.Sequential(*stages), vit=vit))


#: Networks of ours, but for the small one: how they are built, and the class whose options they take.
OWN: Mapping[str, tuple[Callable[..., nn.Module], type[nn.Module]]] = {
    "ram": (_ram, RecurrentAttention),
    "vit": (_vit, ViT),
}
_GIVEN = ("classes", "image_size", "channels", "head")  # by the task


def is_own(backbone: Choice) -> bool:
    """Return whether a backbone is a model of this package, for which no library has weights."""
    return backbone.name in ("small", *OWN)


def _own(backbone: Choice, classes: int, shape: tuple[int, ...]) -> nn.Module:
    make, model_class = OWN[backbone.name]
    known = [option for option in inspect.signature(model_class).parameters if option not in _GIVEN]
    check_options(backbone.name, backbone.options, known)
    return make(classes, shape, **backbone.options)


def _slots(plan: Plan, pool: str, shape: str) -> dict[Any, tuple[str, Mapping[str, Any]]]:
    """Return the attention of each slot of a small CNN, by the number of its stage or by its name.

    The slot `pool` holds what pools features of this shape. It replaces the mean over them.
    """
    attention = plan.attention
    if attention is None:
        return {}
    mechanism = attention.name, attention.options
    if not attention.places:
        return {pool if pools(attention.name, shape) else plan.recipe.stage: mechanism}
    for place in attention.places:
        if place not in ("1", "2", "3", pool):
            message = (
                f"attention={attention.text!r}: {place!r} is no stage of the small network; "
                f"use 1, 2, 3 or {pool}"
            )
            raise BadOption(message, owner=attention.name, option="place", value=place)
    return {int(place) if place.isdigit() else place: mechanism for place in attention.places}


def _keep_small_images(model: nn.Module, name: str) -> None:
    """Let a ResNet begin at the full size of its images, as He et al. 2016 do on CIFAR."""
    first = getattr(model, "conv1", None)
    if isinstance(first, nn.Sequential) and isinstance(first[0], nn.Conv2d) and hasattr(model, "maxpool"):
        first[0].stride = (1, 1)  # of three small convolutions, as in timm's resnet18d
    elif isinstance(first, nn.Conv2d) and hasattr(model, "maxpool"):
        width = first.out_channels
        model.conv1 = nn.Conv2d(first.in_channels, width, 3, padding=1, bias=first.bias is not None)
    else:
        raise BadRecipe(
            f"cifar_stem=true is for ResNets, which begin with conv1 and maxpool; {name!r} does not"
        )
    model.maxpool = nn.Identity()
