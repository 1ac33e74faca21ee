"""The recipe's network: the small one of the first experiment, or any of torchvision's and timm's."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from saccade.attach import Attached, attach
from saccade.errors import BadRecipe
from saccade.models import ClipCNN, SmallCNN
from saccade.models.backbone import load_backbone
from saccade.models.clip_cnn import pools_time
from saccade.registry import parse
from saccade.train.recipe import Recipe


def build(recipe: Recipe, classes: int, shape: tuple[int, ...]) -> nn.Module:
    """Build the recipe's network for images (3, H, W) or clips (3, T, H, W), with its attention in it."""
    if recipe.backbone == "small" and len(shape) == 4:
        return ClipCNN(classes, attention=_slot_of_clips(recipe))
    if recipe.backbone == "small":
        attention = {} if recipe.attention == "none" else {recipe.stage: recipe.attention}
        return SmallCNN(classes, attention=attention)
    model = load_backbone(recipe.backbone, classes=classes)
    if recipe.stem == "small":
        _keep_small_images(model, recipe.backbone)
    if recipe.attention != "none":
        example = torch.zeros(2, *shape)
        attach(model, recipe.attention, where=recipe.where, example=example, identity=recipe.identity)
    return model


def attention_path(model: nn.Module) -> str:
    """Return the path of the network's attention: of several the last, which is nearest to the answer."""
    if isinstance(model, SmallCNN | ClipCNN):
        return "attention"
    paths: list[str] = [path for path, module in model.named_modules() if isinstance(module, Attached)]
    return paths[-1]


def _slot_of_clips(recipe: Recipe) -> dict[int | Literal["time"], str]:
    """Return the recipe's attention by its slot: one that pools a sequence replaces the mean over time."""
    if recipe.attention == "none":
        return {}
    return {"time" if pools_time(parse(recipe.attention)[0]) else recipe.stage: recipe.attention}


def _keep_small_images(model: nn.Module, name: str) -> None:
    """Let a ResNet begin at the full size of its images, as He et al. 2016 do on CIFAR."""
    first = getattr(model, "conv1", None)
    if not isinstance(first, nn.Conv2d) or not hasattr(model, "maxpool"):
        raise BadRecipe(f"stem='small' is for ResNets, which begin with conv1 and maxpool; {name!r} does not")
    model.conv1 = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=first.bias is not None)
    model.maxpool = nn.Identity()
