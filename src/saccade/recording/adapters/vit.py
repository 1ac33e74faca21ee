"""Attention of the vision transformers of timm: ViT, DeiT, EVA-02, DINOv3 and BEiT.

These adapters compute queries and keys again. They run where the capture by operation does not see those of
the model: around compiled code.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.maps import PairwiseMap
from saccade.model_state import Handle
from saccade.recording.adapters.observe import Observer, Publish
from saccade.recording.adapters.tokens import AttentionSite, mask_to_bias


def observe_vit(site: AttentionSite, publish: Publish) -> list[Handle]:
    """Observe the `Attention` of ViT and DeiT, and its variants with rotary positions: EVA-02, DINOv3."""

    def adapter(module: Any, inputs: Mapping[str, Any], _output: Any) -> PairwiseMap:
        x = inputs["x"]
        queries, keys = _queries_and_keys(module, x, inputs.get("rope"))
        mask = inputs.get("attn_mask")
        if inputs.get("is_causal"):
            mask = x.new_ones(2 * x.shape[1:2], dtype=torch.bool).tril()
        bias = mask_to_bias(mask, x.dtype, visible=True)
        if bias is not None:
            bias = bias.reshape((1,) * (4 - bias.ndim) + bias.shape)
        return site.build_map(queries, keys, module.scale, bias)

    return [Observer(site.module, adapter, publish, is_captured=site.is_captured)]


def observe_beit(site: AttentionSite, publish: Publish) -> list[Handle]:
    """Observe the `Attention` of BEiT, which has no key bias and a weight for each relative position."""

    def adapter(module: Any, inputs: Mapping[str, Any], _output: Any) -> PairwiseMap:
        queries, keys = _heads(qkv(module, inputs["x"]), module.num_heads)
        bias = inputs.get("shared_rel_pos_bias")
        if module.relative_position_bias_table is not None:
            relative = module._get_rel_pos_bias()  # private in timm; seen in timm 1.0
            bias = relative if bias is None else relative + bias
        return site.build_map(queries, keys, module.scale, bias)

    return [Observer(site.module, adapter, publish, is_captured=site.is_captured)]


#: Adapters of attention that the capture by operation sees, too, without computing anything again.
FALLBACKS: frozenset[Any] = frozenset({observe_vit, observe_beit})


def qkv(module: Any, x: Tensor) -> Tensor:
    """Return queries, keys and values side by side, with biases inside or outside the projection.

    It calls `forward` directly, since the hooks of the projection have run already.
    """
    if getattr(module, "q_bias", None) is None:
        projected: Tensor = module.qkv.forward(x)
        return projected
    bias = torch.cat((module.q_bias, module.k_bias, module.v_bias))
    return F.linear(x, module.qkv.weight, bias)


def _queries_and_keys(module: Any, x: Tensor, rope: Tensor | None) -> tuple[Tensor, Tensor]:
    if module.qkv is not None:
        queries, keys = _heads(qkv(module, x), module.num_heads)
    else:
        projected = (layer.forward(x) for layer in (module.q_proj, module.k_proj))
        queries, keys = (p.unflatten(2, (-1, module.head_dim)).transpose(1, 2) for p in projected)
    queries, keys = module.q_norm.forward(queries), module.k_norm.forward(keys)
    if rope is not None:
        rotate = sys.modules["timm.layers.pos_embed_sincos"].apply_rot_embed_cat  # imported with the module
        half = {"half": True} if getattr(module, "rotate_half", False) else {}
        parts = (part.tensor_split([module.num_prefix_tokens], dim=2) for part in (queries, keys))
        queries, keys = (torch.cat([a, rotate(b, rope, **half)], 2).to(x.dtype) for a, b in parts)
    groups = queries.shape[1] // keys.shape[1]  # query heads may share key heads
    return queries, keys.repeat_interleave(groups, 1) if groups > 1 else keys


def _heads(projected: Tensor, heads: int) -> tuple[Tensor, ...]:
    """Return queries and keys `(B, heads, N, D)`, copied: views would keep the values in memory."""
    batch, count, _ = projected.shape
    parts = projected.reshape(batch, count, 3, heads, -1)[:, :, :2]
    return parts.permute(2, 0, 3, 1, 4).contiguous().unbind(0)
