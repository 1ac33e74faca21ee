"""The table of adapters: how `saccade.record` observes attention of other libraries.

| modules                                                                   | map             |
|---------------------------------------------------------------------------|-----------------|
| `torch.nn.MultiheadAttention` and models that use it: torchvision's ViT,  | `PairwiseMap`,  |
| `nn.Transformer`, CLIP, DETR, custom models                               | see below       |
| timm's `Attention`, `AttentionRope`, `EvaAttention` and that of BEiT:     | the same        |
| ViT, DeiT, DINOv2 and 3, EVA-02, BEiT; registers, norms, rotary and       |                 |
| relative positions                                                        |                 |
| Swin transformer, versions 1 and 2, of torchvision and timm               | `WindowMap`, on |
|                                                                           | the whole grid  |
| squeeze-and-excitation: torchvision's `SqueezeExcitation`, timm's         | `ChannelMap`    |
| `SqueezeExcite`, `SEModule`, `EffectiveSEModule`, `EcaModule`,            |                 |
| `CecaModule`                                                              |                 |

A `PairwiseMap` is a `ClassTokenMap` if there is a class token, and a `TokenMap` if there are other tokens
without a place, a mask, or weights of relative positions.

Attention of any other class is ignored, also if other parts of the model are recorded.

A module is identified by the full name of the class that defines its `forward`. Neither library is imported,
and a class of the same name, or a subclass with another `forward`, is ignored. `record(adapters=...)` and
entry points of the group `saccade.adapters` add classes.

Queries and keys are computed again from the inputs of the module, with its weights, without gradients and
under the same autocast. The gate of a channel is not computed again. The weights are those before dropout.
Only the factors are stored, with fused attention or without.

The grid of the tokens is that of a feature map of the model (the output of a convolution or a pooling) with
the same number of positions; a square if the model computed no feature map; else a row. The model announces
tokens without a place by `num_prefix_tokens` or a class token, and they come first. If nothing is announced,
one token more than a feature map has positions is a class token. A model that folds parts of an image into
the batch (MobileViT) has maps of as many images.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from saccade._torch import COMPILED, is_compiled
from saccade.errors import BadOption
from saccade.maps import AttentionMap, Tap
from saccade.model_state import Handle
from saccade.recording.adapters.entry_points import plugin_adapters
from saccade.recording.adapters.multihead import observe_multihead
from saccade.recording.adapters.observe import Adapter, ObserverHook, Publish
from saccade.recording.adapters.squeeze import observe_squeeze
from saccade.recording.adapters.swin import observe_timm_swin, observe_torchvision_swin
from saccade.recording.adapters.tokens import AttentionSite, FeatureShapes, Layout
from saccade.recording.adapters.vit import observe_beit, observe_vit

RegisterFn = Callable[[AttentionSite, Publish], list[Handle]]

#: How to observe the modules that run the `forward` of each class.
ADAPTERS: Mapping[str, RegisterFn] = {
    "torch.nn.modules.activation.MultiheadAttention": observe_multihead,
    "torchvision.models.swin_transformer.ShiftedWindowAttention": observe_torchvision_swin,
    "torchvision.models.swin_transformer.ShiftedWindowAttentionV2": observe_torchvision_swin,
    "torchvision.ops.misc.SqueezeExcitation": observe_squeeze,
    "timm.layers.attention.Attention": observe_vit,
    "timm.models.vision_transformer.Attention": observe_vit,
    "timm.layers.attention.AttentionRope": observe_vit,
    "timm.models.eva.EvaAttention": observe_vit,
    "timm.models.beit.Attention": observe_beit,
    "timm.models.swin_transformer.WindowAttention": observe_timm_swin,
    "timm.models.swin_transformer_v2.WindowAttention": observe_timm_swin,
    "timm.models._efficientnet_blocks.SqueezeExcite": observe_squeeze,
    "timm.layers.squeeze_excite.SEModule": observe_squeeze,
    "timm.layers.squeeze_excite.EffectiveSEModule": observe_squeeze,
    "timm.layers.eca.EcaModule": observe_squeeze,
    "timm.layers.eca.CecaModule": observe_squeeze,
}


def find_attention(
    model: nn.Module, adapters: Mapping[type[nn.Module], Adapter], features: FeatureShapes
) -> dict[str, Callable[[Publish], list[Handle]]]:
    """Return how to observe each attention of a model that publishes no map itself, by its module name.

    A module that owns a tap publishes the map of everything inside it, so nothing inside is observed.

    Raises:
        BadOption: If an attention is inside a compiled module, which calls no hooks.
    """
    attention: dict[str, Callable[[Publish], list[Handle]]] = {}
    plugins = plugin_adapters()
    for name, module in model.named_modules():
        register = _register_fn(module, adapters, plugins)
        owners = list(_owners(model, name)) if register else []
        if register is None or any(isinstance(child, Tap) for owner in owners for child in owner.children()):
            continue
        _check_not_compiled(model, owners, name)
        parent = owners[-2] if len(owners) > 1 else None
        site = AttentionSite(module, parent, Layout.from_owners(owners, features))
        attention[name] = functools.partial(register, site)
    return attention


def _register_fn(
    module: nn.Module,
    adapters: Mapping[type[nn.Module], Adapter],
    plugins: Mapping[str | type[nn.Module], Adapter],
) -> RegisterFn | None:
    """Return the function that observes a module, if there is one: of the caller, built in or of a plugin."""
    definer = next(cls for cls in type(module).__mro__ if "forward" in vars(cls))
    name = f"{definer.__module__}.{definer.__qualname__}"
    for cls, adapter in adapters.items():
        if isinstance(module, cls):
            return functools.partial(_observe_with, adapter)
    if name in ADAPTERS:
        return ADAPTERS[name]
    for key, adapter in plugins.items():
        if name == key if isinstance(key, str) else isinstance(module, key):
            return functools.partial(_observe_with, adapter)
    return None


def _observe_with(adapter: Adapter, site: AttentionSite, publish: Publish) -> list[Handle]:
    """Observe a module with an adapter function."""

    def observe(module: nn.Module, inputs: Mapping[str, Any], output: Any) -> None:
        attention = adapter(module, inputs, output)
        if not isinstance(attention, AttentionMap):
            raise BadOption(
                f"the adapter of {type(module).__name__} returned {attention!r}, expected an AttentionMap",
                owner=type(module).__name__,
                option="adapters",
                value=attention,
            )
        publish(attention)

    return [ObserverHook(site.module, observe)]


def _owners(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """Yield the modules from the model down to the one with this name."""
    yield model
    for part in name.split(".") if name else ():
        model = model.get_submodule(part)
        yield model


def _check_not_compiled(model: nn.Module, owners: list[nn.Module], name: str) -> None:
    """Raise `BadOption` if a module from the model down to an attention is compiled."""
    if any(map(is_compiled, owners)):
        path = ".".join(part for part in name.split(".") if part != COMPILED)
        raise BadOption(
            f"cannot record {type(model).__name__}: torch.compile bypasses the forward hook on "
            f"{type(owners[-1]).__name__} {path!r}; record the model before compilation (`model._orig_mod`, "
            "or a `copy.deepcopy` of a model compiled in place)",
            owner="record",
            option="model",
            value=path,
        )
