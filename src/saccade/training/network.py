"""The recipe's network: the small one of the first experiment, one of ours, or torchvision's and timm's."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from saccade.attachment import Attached, attach
from saccade.attachment.site import KINDS
from saccade.config.recipe import Recipe
from saccade.errors import BadOption, BadRecipe
from saccade.grammar import check_options, parse, parse_placed
from saccade.models import ClipCNN, RecurrentAttention, SmallCNN, ViT
from saccade.models.backbone import load_backbone
from saccade.models.slots import pools


def build(recipe: Recipe, classes: int, shape: tuple[int, ...]) -> nn.Module:
    """Build the recipe's network for images (3, H, W) or clips (3, T, H, W), with its attention in it.

    Its weights are random: see `saccade.training.initial_weights` for others.
    """
    if recipe.backbone == "small" and len(shape) == 4:
        return ClipCNN(classes, attention=_slots(recipe, "time", "B L C"))
    if recipe.backbone == "small":
        return SmallCNN(classes, attention=_slots(recipe, "places", "B C H W"))
    if is_own(recipe.backbone):
        model = _own(recipe.backbone, classes, shape)
    else:
        model = load_backbone(recipe.backbone, classes=classes)
    if recipe.cifar_stem:
        _keep_small_images(model, recipe.backbone)
    attention, places = parse_placed(recipe.attention)
    if attention != "none":
        kind = next((kind for kind in KINDS if places == [kind]), None)
        where = (kind or places) if places else recipe.where
        example = torch.zeros(2, *shape)
        attach(model, attention, where=where, example_inputs=example, identity=recipe.identity)
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


def is_own(backbone: str) -> bool:
    """Whether a backbone is a network of ours, for which no library has weights."""
    return backbone.partition(":")[0] in ("small", *OWN)


def _own(text: str, classes: int, shape: tuple[int, ...]) -> nn.Module:
    name, options = parse(text)
    make, its = OWN[name]
    known = [option for option in inspect.signature(its).parameters if option not in _GIVEN]
    check_options(name, options, known)
    return make(classes, shape, **options)


def _slots(recipe: Recipe, pool: str, shape: str) -> dict[Any, str]:
    """Return the attention of each slot of a small network, by its name or the number of its stage.

    In the slot `pool` stands what pools features of this shape: it replaces the mean over them.
    """
    name, places = parse_placed(recipe.attention)
    if name == "none":
        return {}
    if not places:
        return {pool if pools(parse(name)[0], shape) else recipe.stage: name}
    for place in places:
        if place not in ("1", "2", "3", pool):
            raise BadOption(
                f"attention={recipe.attention!r}: {place!r} is no stage of the small network; "
                f"use 1, 2, 3 or {pool}"
            )
    return {int(place) if place.isdigit() else place: name for place in places}


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
