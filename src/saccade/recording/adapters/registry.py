"""The table of adapters: how `saccade.record` observes attention of other libraries.

| modules                                                                   | map             |
|---------------------------------------------------------------------------|-----------------|
| `torch.nn.MultiheadAttention` and models that use it: torchvision's ViT,  | `PairwiseMap`,  |
| `nn.Transformer`, CLIP, DETR, custom models                               | see below       |
| timm's `Attention`, `AttentionRope`, `EvaAttention` and that of BEiT:     | the same        |
| ViT, DeiT, DINOv2 and 3, EVA-02, BEiT; registers, norms, rotary and       |                 |
| relative positions                                                        |                 |
| Swin transformer, versions 1 and 2, of torchvision and timm; GC ViT       | `WindowMap`, on |
|                                                                           | the whole grid  |
| outlook attention of timm's VOLO                                          | `SpatialMap`    |
| squeeze-and-excitation and its kin in torchvision, timm, transformers,    | `ChannelMap`    |
| MONAI and ultralytics: SE, effective SE, ECA, the channel gate of CBAM    |                 |
| spatial gates: CBAM, coordinate attention and its kin, gather-excite and  | `SpatialMap`    |
| global context of timm and ultralytics, MONAI's attention gate,           |                 |
| ultralytics' similarity to a text                                         |                 |
| selective kernels and split attention (ResNeSt) of timm                   | `BranchMap`     |
| deformable attention of detectors: RT-DETR of ultralytics and             | `SpatialMap`    |
| transformers, Deformable DETR, Grounding DINO                             |                 |
| scSE of segmentation_models_pytorch: its parts `cSE` and `sSE`; the gates | both            |
| and the position attention of its MAnet                                   |                 |

A `PairwiseMap` is a `ClassTokenMap` if there is a class token, and a `TokenMap` if there are other tokens
without a place, a mask, or weights of relative positions.

Attention of any other class is caught by its operations, see `saccade.recording.capture`.

A module is identified by the full name of the class that defines its `forward`. Neither library is imported,
and a class of the same name, or a subclass with another `forward`, is ignored. `record(adapters=...)` and
entry points of the group `saccade.adapters` add classes. The name of an entry point is free. Its object is a
mapping from classes, or their full names, to adapters:

    [project.entry-points."saccade.adapters"]
    my_package = "my_package.attention:ADAPTERS"

Queries and keys of timm's vision transformers are those of the model. Elsewhere, and around compiled code,
they are computed again from the inputs of the module, with its weights, without gradients and under the same
autocast. The gate of a channel is not computed again. The weights are those before dropout.
Only the factors are stored, with fused attention or without.

The grid of the tokens is that of a feature map of the model (the output of a convolution or a pooling) with
the same number of positions; a square if the model computed no feature map; else a row. The model announces
tokens without a place by `num_prefix_tokens` or a class token, and they come first. If nothing is announced,
one token more than a feature map has positions is a class token. Adapters do not know parts of an image that
a model has folded into the batch (MobileViT). There the capture by operations publishes the map.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from torch import nn

from saccade import plugins
from saccade._torch import is_compiled, without_compiled
from saccade.errors import BadOption
from saccade.maps import Tap
from saccade.model_state import Handle
from saccade.recording.adapters import gates
from saccade.recording.adapters.deformable import observe_deformable
from saccade.recording.adapters.gcvit import observe_gcvit
from saccade.recording.adapters.multihead import observe_multihead
from saccade.recording.adapters.observe import Adapter, Observer, Publish
from saccade.recording.adapters.outlook import observe_outlook
from saccade.recording.adapters.swin import observe_timm_swin, observe_torchvision_swin
from saccade.recording.adapters.tokens import AttentionSite, FeatureShapes
from saccade.recording.adapters.vit import observe_beit, observe_vit

GROUP = "saccade.adapters"

Key = str | type[nn.Module]
Observe = Callable[[AttentionSite, Publish], list[Handle]]

#: How to observe the modules that run the `forward` of each class, by its full name.
ADAPTERS: Mapping[str, Observe] = {
    "torch.nn.modules.activation.MultiheadAttention": observe_multihead,
    "torchvision.models.swin_transformer.ShiftedWindowAttention": observe_torchvision_swin,
    "torchvision.models.swin_transformer.ShiftedWindowAttentionV2": observe_torchvision_swin,
    "timm.layers.attention.Attention": observe_vit,
    "timm.models.vision_transformer.Attention": observe_vit,
    "timm.layers.attention.AttentionRope": observe_vit,
    "timm.models.eva.EvaAttention": observe_vit,
    "timm.models.beit.Attention": observe_beit,
    "timm.models.swin_transformer.WindowAttention": observe_timm_swin,
    "timm.models.swin_transformer_v2.WindowAttention": observe_timm_swin,
    "timm.models.gcvit.WindowAttentionGlobal": observe_gcvit,
    "timm.models.volo.OutlookAttention": observe_outlook,
    **dict.fromkeys(
        (
            "ultralytics.nn.modules.transformer.MSDeformAttn",
            "transformers.models.deformable_detr.modeling_deformable_detr."
            "DeformableDetrMultiscaleDeformableAttention",
            "transformers.models.rt_detr.modeling_rt_detr.RTDetrMultiscaleDeformableAttention",
            "transformers.models.grounding_dino.modeling_grounding_dino."
            "GroundingDinoMultiscaleDeformableAttention",
        ),
        observe_deformable,
    ),
    **dict.fromkeys(
        (
            "torchvision.ops.misc.SqueezeExcitation",
            "timm.models._efficientnet_blocks.SqueezeExcite",
            "timm.layers.squeeze_excite.SEModule",
            "timm.layers.squeeze_excite.EffectiveSEModule",
            "timm.layers.eca.EcaModule",
            "timm.layers.eca.CecaModule",
            "timm.layers.cbam.ChannelAttn",
            "timm.layers.cbam.SpatialAttn",
            "timm.layers.cbam.LightSpatialAttn",
            "timm.layers.gather_excite.GatherExcite",
            "timm.layers.coord_attn.CoordAttn",
            "timm.layers.coord_attn.SimpleCoordAttn",
            "timm.layers.coord_attn.EfficientLocalAttn",
            "timm.layers.coord_attn.StripAttn",
            "transformers.models.efficientnet.modeling_efficientnet.EfficientNetSqueezeExciteLayer",
        ),
        gates.observe_gate,
    ),
    "timm.layers.cbam.LightChannelAttn": gates.observe_light_gate,
    "timm.layers.global_context.GlobalContext": gates.observe_context,
    "timm.layers.selective_kernel.SelectiveKernelAttn": gates.observe_branches,
    "timm.layers.split_attn.SplitAttn": gates.observe_split,
    "transformers.models.regnet.modeling_regnet.RegNetSELayer": gates.observe_attention,
    "segmentation_models_pytorch.decoders.manet.decoder.PABBlock": gates.observe_pairs,
    "monai.networks.nets.attentionunet.AttentionBlock": gates.observe_psi,
    "monai.networks.blocks.squeeze_and_excitation.ChannelSELayer": gates.observe_excitation,
    "ultralytics.nn.modules.conv.ChannelAttention": gates.observe_activation,
    "ultralytics.nn.modules.conv.SpatialAttention": gates.observe_activation,
    "ultralytics.nn.modules.block.MaxSigmoidAttnBlock": gates.observe_similarity,
}

#: Modules that hold several gates, and the parts of each that return one.
PARTS: Mapping[str, Mapping[str, Observe]] = {
    "segmentation_models_pytorch.base.modules.SCSEModule": {
        "cSE": gates.observe_output,
        "sSE": gates.observe_output,
    },
    "segmentation_models_pytorch.decoders.manet.decoder.MFABBlock": {
        "SE_ll": gates.observe_output,
        "SE_hl": gates.observe_output,
    },
}


@functools.cache  # installed packages do not change while the process runs
def plugin_adapters() -> dict[Key, Adapter]:
    """Return the adapters of all entry points. One that cannot be loaded is left out, with a warning.

    Raises:
        BadOption: If an entry point is no mapping from classes or full class names to functions.
    """
    adapters: dict[Key, Adapter] = {}
    for name in plugins.names(GROUP):
        try:
            table = plugins.load(GROUP, name)
        except BadOption as error:
            warnings.warn(str(error), stacklevel=2)
            continue
        pairs: Any = table.items() if isinstance(table, Mapping) else [(None, None)]
        if not all(isinstance(key, str | type) and callable(adapter) for key, adapter in pairs):
            message = f"{GROUP}: {name} is {table!r}, expected a mapping from classes to adapter functions"
            raise BadOption(message, owner=GROUP, option=name, value=table)
        adapters.update(pairs)
    return adapters


def find_attention(
    modules: Mapping[str, nn.Module], adapters: Mapping[type[nn.Module], Adapter], features: FeatureShapes
) -> dict[str, functools.partial[list[Handle]]]:
    """Return how to observe each attention of a model that publishes no map itself, by its path.

    `modules` holds all modules of the model by path, the model itself first.

    The adapters of the caller precede the built-in ones, and these the adapters of entry points. A module
    that owns a tap publishes the map of everything inside it, so nothing inside is observed.

    Raises:
        BadOption: If an attention is inside a compiled module, which calls no hooks.
    """
    observers = [*_observers(adapters), *ADAPTERS.items(), *_observers(plugin_adapters())]
    recorded = {path.rpartition(".")[0] for path, module in modules.items() if isinstance(module, Tap)}
    attention: dict[str, functools.partial[list[Handle]]] = {}
    of_class: dict[type[nn.Module], Observe | None] = {}
    parts_of: dict[type[nn.Module], Mapping[str, Observe]] = {}
    model = modules[""]
    for path, module in modules.items():
        if type(module) not in of_class:
            definer = _definer(type(module))
            of_class[type(module)] = next((f for key, f in observers if _applies(key, module, definer)), None)
            parts_of[type(module)] = PARTS.get(definer, {})
        parent, _, name = path.rpartition(".")
        observe = of_class[type(module)] or parts_of[type(modules[parent])].get(name)
        if observe is None:
            continue
        place = without_compiled(path)
        if recorded and not recorded.isdisjoint(["", *accumulate(path.split("."), "{}.{}".format)]):
            continue
        owners = [*accumulate(filter(None, path.split(".")), nn.Module.get_submodule, initial=model)]
        if any(map(is_compiled, owners)):
            problem = f"torch.compile bypasses the forward hook on {type(module).__name__} {place!r}"
            advice = "record the original (`model._orig_mod`, or a `copy.deepcopy` of one compiled in place)"
            message = f"cannot record {type(model).__name__}: {problem}; {advice}"
            raise BadOption(message, owner="record", option="model", value=place)
        attention[place] = functools.partial(observe, AttentionSite.from_owners(owners, features))
    return attention


def _applies(key: Key, module: nn.Module, definer: str) -> bool:
    """Return whether a module is of a class, or runs the `forward` of the class with a full name."""
    return key == definer if isinstance(key, str) else isinstance(module, key)


def _definer(kind: type[nn.Module]) -> str:
    """Return the full name of the class that defines the `forward` of a class."""
    definer = next(cls for cls in kind.__mro__ if "forward" in vars(cls))
    return f"{definer.__module__}.{definer.__qualname__}"


def _observers(adapters: Mapping[Any, Adapter]) -> Iterator[tuple[Key, Observe]]:
    """Return how to observe modules with adapter functions."""

    def observe(adapter: Adapter, site: AttentionSite, publish: Publish) -> list[Handle]:
        return [Observer(site.module, adapter, publish)]

    return ((key, functools.partial(observe, adapter)) for key, adapter in adapters.items())
