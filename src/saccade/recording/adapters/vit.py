"""The attention of timm's vision transformers: ViT, DeiT, EVA-02, DINOv3 and BEiT."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.recording.adapters.observe import Handle, Hook, Publish
from saccade.recording.adapters.tokens import Site, bias_of


def vit(site: Site, publish: Publish) -> list[Handle]:
    """Watch timm's `Attention` of ViT and DeiT, and its kin with rotary positions: EVA-02, DINOv3."""

    def see(module: Any, inputs: Mapping[str, Any], _output: Any) -> None:
        x = inputs["x"]
        queries, keys = _queries_and_keys(module, x, inputs.get("rope"))
        bias = bias_of(inputs.get("attn_mask"), x.dtype, visible=True)
        if inputs.get("is_causal"):
            count = x.shape[1]
            bias = torch.full((count, count), -torch.inf, dtype=x.dtype, device=x.device).triu(1)
        if bias is not None:
            bias = bias.reshape((1,) * (4 - bias.ndim) + bias.shape)
        publish(site.layout.map(queries, keys, module.scale, bias))

    return [Hook(site.module, see)]


def beit(site: Site, publish: Publish) -> list[Handle]:
    """Watch timm's `Attention` of BEiT: no bias of keys, and a weight for each relative position."""

    def see(module: Any, inputs: Mapping[str, Any], _output: Any) -> None:
        queries, keys = _heads(qkv(module, inputs["x"]), module.num_heads)
        bias = inputs.get("shared_rel_pos_bias")
        if module.relative_position_bias_table is not None:
            own = module._get_rel_pos_bias()
            bias = own if bias is None else own + bias
        publish(site.layout.map(queries, keys, module.scale, bias))

    return [Hook(site.module, see)]


def qkv(module: Any, x: Tensor) -> Tensor:
    """Return queries, keys and values side by side, whether their biases lie in the projection or apart.

    `forward`, not a call: the hooks that others have there have run once already.
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
        queries, keys = (
            layer.forward(x).unflatten(2, (-1, module.head_dim)).transpose(1, 2)
            for layer in (module.q_proj, module.k_proj)
        )
    queries, keys = module.q_norm.forward(queries), module.k_norm.forward(keys)
    if rope is not None:
        rotate = sys.modules["timm.layers.pos_embed_sincos"].apply_rot_embed_cat  # loaded with the module
        half = {"half": True} if getattr(module, "rotate_half", False) else {}
        first = module.num_prefix_tokens
        queries, keys = (
            torch.cat([part[:, :, :first], rotate(part[:, :, first:], rope, **half)], 2).to(x.dtype)
            for part in (queries, keys)
        )
    groups = queries.shape[1] // keys.shape[1]  # several heads of queries may share one of keys
    return queries, keys.repeat_interleave(groups, 1) if groups > 1 else keys


def _heads(projected: Tensor, heads: int) -> tuple[Tensor, ...]:
    """Return queries and keys `(B, heads, N, D)`; copied, since a view of them would keep the values, too."""
    batch, count, _ = projected.shape
    parts = projected.reshape(batch, count, 3, heads, -1)[:, :, :2]
    return parts.permute(2, 0, 3, 1, 4).contiguous().unbind(0)
