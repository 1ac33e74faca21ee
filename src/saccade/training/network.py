"""The network of a plan: a small CNN or another model of this package, or one of torchvision or timm."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from saccade.annotations import check_annotations
from saccade.attachment import KINDS, Attached, attach
from saccade.config import Choice, Plan
from saccade.errors import BadOption, bad_recipe
from saccade.grammar import check_options
from saccade.layers.registry import spec
from saccade.models import ClipCNN, RecurrentAttention, SmallCNN, UNet, ViT, load_backbone, pools


def build(plan: Plan, classes: int, shape: tuple[int, ...]) -> nn.Module:
    """Build the network of a plan with its attention, with random weights.

    Args:
        plan: The plan.
        classes: Number of classes.
        shape: Shape of an image, `(3, H, W)`, or clip, `(3, T, H, W)`.

    Raises:
        UnknownName: The backbone, an option of it, or a place of the attention does not exist.
        BadOption: An option is out of range, or the attention does not fit.
        BadRecipe: `cifar_stem` is set for a backbone that is not a ResNet.
    """
    recipe, backbone, attention = plan.recipe, plan.backbone, plan.attention
    if backbone.name == "small":
        network = ClipCNN if len(shape) == 4 else SmallCNN
        return network(classes, attention=_slots(plan, network.pool, network.pooled))
    gated = backbone.name == "unet" and attention is not None and takes_gating(attention.name)
    if is_built_in(backbone):
        gate = {"gate": attention.name, "gate_options": attention.options} if attention and gated else {}
        model = _built_in(backbone, classes, shape, **gate)
    else:
        model = load_backbone(backbone.name, classes=classes, **backbone.options)
    if recipe.cifar_stem:
        _use_cifar_stem(model, backbone.text)
    if attention and not gated:
        places = list(attention.places or _PLACES.get(backbone.name, ()))
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
    """Return the paths of all attention that was inserted into a network."""
    if isinstance(model, SmallCNN | ClipCNN):
        return [f"attention.{slot}" for slot in sorted(model.attention)]  # stages, then places and time
    if isinstance(model, UNet) and model.gates:
        return [f"gates.{step}" for step in range(len(model.gates))]
    return [path for path, module in model.named_modules() if isinstance(module, Attached)]


def attention_path(model: nn.Module) -> str | None:
    """Return the path of a network's main attention, or None if it has no attention.

    That is the last attention that was inserted, which is closest to the output, or otherwise the attention
    of a model of this package. The path of a recurrent attention model is empty: it is the model itself.
    """
    if paths := attention_paths(model):
        return paths[-1]
    if isinstance(model, RecurrentAttention):
        return ""
    return f"blocks.{len(model.blocks) - 1}.attn" if isinstance(model, ViT) else None


def takes_gating(name: str) -> bool:
    """Return whether a mechanism takes a gating signal as its second input, as on the skips of a U-Net."""
    return "gating_channels" in [option.name for option in spec(name).options]


def _unet(classes: int, shape: tuple[int, ...], **options: Any) -> nn.Module:
    return UNet(classes, shape[0], **options)


def _ram(classes: int, _shape: tuple[int, ...], **options: Any) -> nn.Module:
    return RecurrentAttention(classes, **options)


def _vit(classes: int, shape: tuple[int, ...], **options: Any) -> nn.Module:
    """A ViT over patches of the image, or over groups of the final channels of a small CNN."""
    if options.get("tokens") != "channels":
        return ViT((shape[1], shape[2]), classes=classes, channels=shape[0], **options)
    stages = SmallCNN(classes, shape[0]).stages
    height, width = (-(-extent // 2 ** len(stages)) for extent in shape[1:])
    vit = ViT((height, width), classes=classes, channels=64, **options)
    return nn.Sequential(OrderedDict(features=nn.Sequential(*stages), vit=vit))


#: Models of this package other than "small": the function that builds one, and the class with its options.
BUILT_IN: Mapping[str, tuple[Callable[..., nn.Module], type[nn.Module]]] = {
    "ram": (_ram, RecurrentAttention),
    "vit": (_vit, ViT),
    "unet": (_unet, UNet),
}
#: Arguments that the task or the attention determines.
_FROM_PLAN = ("classes", "image_size", "channels", "head", "gate", "gate_options")
#: Where attention goes in a model of this package, if neither `where` nor the attention names a place.
_PLACES = {"unet": ("decoder.*",)}


def is_built_in(backbone: Choice) -> bool:
    """Return whether a backbone is a model of this package, which no library has weights for."""
    return backbone.name in ("small", *BUILT_IN)


def _built_in(backbone: Choice, classes: int, shape: tuple[int, ...], **more: Any) -> nn.Module:
    create, model_class = BUILT_IN[backbone.name]
    known = [option for option in inspect.signature(model_class).parameters if option not in _FROM_PLAN]
    check_options(backbone.name, backbone.options, known)
    return create(classes, shape, **check_annotations(backbone.name, model_class, backbone.options), **more)


def _slots(plan: Plan, pool: str, shape: str) -> dict[Any, tuple[str, Mapping[str, Any]]]:
    """Return the attention of each slot of a small CNN, by the number of its stage or by its name.

    The slot `pool` takes attention that pools features of the given shape, in place of their mean.
    """
    attention = plan.attention
    if attention is None:
        return {}
    mechanism = attention.name, attention.options
    if not attention.places:
        return {pool if pools(attention.name, shape) else plan.recipe.stage: mechanism}
    choices = ("1", "2", "3", pool)
    for place in attention.places:
        if place not in choices:
            problem = f"{place!r} is not a stage of the small CNN; use 1, 2, 3 or {pool}"
            message = f"attention={attention.text!r}: {problem}"
            raise BadOption(message, owner=attention.name, option="place", value=place, choices=choices)
    return {int(place) if place.isdigit() else place: mechanism for place in attention.places}


def _use_cifar_stem(model: nn.Module, name: str) -> None:
    """Adapt the stem of a ResNet to small images: a 3x3 convolution without stride or pooling (He 2016)."""
    first = getattr(model, "conv1", None)
    if isinstance(first, nn.Sequential) and isinstance(first[0], nn.Conv2d) and hasattr(model, "maxpool"):
        first[0].stride = (1, 1)  # the first of three small convolutions, as in timm's resnet18d
    elif isinstance(first, nn.Conv2d) and hasattr(model, "maxpool"):
        width = first.out_channels
        model.conv1 = nn.Conv2d(first.in_channels, width, 3, padding=1, bias=first.bias is not None)
    else:
        expected = f"needs a ResNet, which begins with conv1 and maxpool, not {name!r}"
        raise bad_recipe(expected, cifar_stem=True)
    model.maxpool = nn.Identity()
