"""Attention that is already in a network, and how `saccade.record` sees it.

| what                                                                      | map             |
|---------------------------------------------------------------------------|-----------------|
| `torch.nn.MultiheadAttention` and what is built of it: torchvision's ViT, | `PairwiseMap`,  |
| `nn.Transformer`, CLIP, DETR, a network of your own                       | see below       |
| timm's `Attention`, `AttentionRope`, `EvaAttention` and that of BEiT:     | the same        |
| ViT, DeiT, DINOv2 and 3, EVA-02, BEiT; registers, norms, rotary and       |                 |
| relative positions                                                        |                 |
| Swin transformer, versions 1 and 2, of torchvision and timm               | `WindowMap`, on |
|                                                                           | the whole grid  |
| squeeze-and-excitation: torchvision's `SqueezeExcitation`, timm's         | `ChannelMap`    |
| `SqueezeExcite`, `SEModule`, `EffectiveSEModule`, `EcaModule`,            |                 |
| `CecaModule`                                                              |                 |

A `PairwiseMap` is a `ClassTokenMap` if there is a class token, a `TokenMap` if there are other tokens without
a place, a mask, or weights of relative positions.

Attention of any other class is passed over, also in a network of which parts are seen.

A module is known by the full name of the class whose `forward` it runs: neither library is imported here,
and a class of the same name, or one that computes otherwise than its base, is left alone. Classes of your own
are added by `record(adapters=...)`.

Queries and keys are computed again from the module's inputs, with its own weights, without gradients and
under the same autocast; the gate of a channel is taken as it was computed. The weights are those before
dropout. Nothing is stored but the factors, whether attention is fused or not.

The grid of the tokens is that of the feature map, made by a convolution or a pooling in the network, that
has as many places; a square if the network made none; else a row. Tokens without a place are those that
`num_prefix_tokens`, or a class token, of the network announce, and they come first; if nothing is announced,
one token more than a feature map has places is taken for a class token. A network that folds parts of an
image into the batch (MobileViT) has maps of as many images.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from saccade.errors import BadOption
from saccade.maps import AttentionMap, Tap
from saccade.recording.adapters.multihead import multihead
from saccade.recording.adapters.observe import Adapter, Handle, Hook, Publish
from saccade.recording.adapters.squeeze import squeeze
from saccade.recording.adapters.swin import timm_swin, torchvision_swin
from saccade.recording.adapters.tokens import FeatureShapes, Layout, Site
from saccade.recording.adapters.vit import beit, vit

COMPILED = "_orig_mod"  # the level that torch.compile inserts into module paths

Family = Callable[[Site, Publish], list[Handle]]

#: How the modules that run the `forward` of each class are watched.
ADAPTERS: Mapping[str, Family] = {
    "torch.nn.modules.activation.MultiheadAttention": multihead,
    "torchvision.models.swin_transformer.ShiftedWindowAttention": torchvision_swin,
    "torchvision.models.swin_transformer.ShiftedWindowAttentionV2": torchvision_swin,
    "torchvision.ops.misc.SqueezeExcitation": squeeze,
    "timm.layers.attention.Attention": vit,
    "timm.models.vision_transformer.Attention": vit,
    "timm.layers.attention.AttentionRope": vit,
    "timm.models.eva.EvaAttention": vit,
    "timm.models.beit.Attention": beit,
    "timm.models.swin_transformer.WindowAttention": timm_swin,
    "timm.models.swin_transformer_v2.WindowAttention": timm_swin,
    "timm.models._efficientnet_blocks.SqueezeExcite": squeeze,
    "timm.layers.squeeze_excite.SEModule": squeeze,
    "timm.layers.squeeze_excite.EffectiveSEModule": squeeze,
    "timm.layers.eca.EcaModule": squeeze,
    "timm.layers.eca.CecaModule": squeeze,
}


def find(
    model: nn.Module, adapters: Mapping[type[nn.Module], Adapter], features: FeatureShapes
) -> dict[str, Callable[[Publish], list[Handle]]]:
    """Return how to watch each attention of `model` that does not publish its map itself, by its name.

    Inside a module that owns a tap none is looked for: it speaks for all that it holds.

    Raises `BadOption` if an attention lies in a compiled module, which calls no hooks.
    """
    found: dict[str, Callable[[Publish], list[Handle]]] = {}
    for name, module in model.named_modules():
        family = _family(module, adapters)
        owners = list(_owners(model, name)) if family else []
        if family is None or any(isinstance(child, Tap) for owner in owners for child in owner.children()):
            continue
        _check_plain(model, owners, name)
        parent = owners[-2] if len(owners) > 1 else None
        found[name] = functools.partial(family, Site(module, parent, Layout.of(owners, features)))
    return found


def _family(module: nn.Module, adapters: Mapping[type[nn.Module], Adapter]) -> Family | None:
    for kind, adapter in adapters.items():
        if isinstance(module, kind):
            return functools.partial(_adapted, adapter)
    computes = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
    return ADAPTERS.get(f"{computes.__module__}.{computes.__qualname__}")


def _adapted(adapter: Adapter, site: Site, publish: Publish) -> list[Handle]:
    def see(module: nn.Module, inputs: Mapping[str, Any], output: Any) -> None:
        attention = adapter(module, inputs, output)
        if not isinstance(attention, AttentionMap):
            raise BadOption(
                f"the adapter of {type(module).__name__} returned {attention!r}, not an AttentionMap"
            )
        publish(attention)

    return [Hook(site.module, see)]


def _owners(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """The modules from the model down to the one of this name."""
    yield model
    for part in name.split(".") if name else ():
        model = model.get_submodule(part)
        yield model


def _check_plain(model: nn.Module, owners: list[nn.Module], name: str) -> None:
    """Raise `BadOption` if a part of the way to an attention is compiled."""
    parts = name.split(".")
    if COMPILED in parts or any(owner._compiled_call_impl is not None for owner in owners):
        path = ".".join(part for part in parts if part != COMPILED)
        raise BadOption(
            f"{type(model).__name__} is compiled, and compiled code calls no hooks, by which "
            f"{type(owners[-1]).__name__} {path!r} would be seen; record the network before it is compiled "
            "(`model._orig_mod`, or a `copy.deepcopy` of one that was compiled in place)"
        )
