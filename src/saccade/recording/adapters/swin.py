"""Window attention of the Swin transformers of torchvision and timm, versions 1 and 2."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.errors import BadOption
from saccade.maps import WindowMap
from saccade.model_state import Handle
from saccade.ops.windows import Extents, cut_windows
from saccade.recording.adapters.observe import Observer, Publish
from saccade.recording.adapters.tokens import AttentionSite
from saccade.recording.adapters.vit import qkv


def observe_torchvision_swin(site: AttentionSite, publish: Publish) -> list[Handle]:
    """Observe the `ShiftedWindowAttention` of torchvision, version 1 or 2."""

    def adapter(module: Any, inputs: Mapping[str, Any], _output: Any) -> WindowMap:
        x, window = inputs["x"], module.window_size
        sizes = zip(window, module.shift_size, x.shape[1:3], strict=True)
        shift = [0 if step >= extent else offset for step, offset, extent in sizes]
        return _map(module, x, window, shift, pad_first=True)

    return [Observer(site.module, adapter, publish)]


def observe_timm_swin(site: AttentionSite, publish: Publish) -> list[Handle]:
    """Observe the block around the `WindowAttention` of timm, version 1 or 2: the block cuts the windows.

    Raises:
        BadOption: If the attention has no block around it.
    """

    def adapter(block: Any, inputs: Mapping[str, Any], _output: Any) -> WindowMap:
        x = inputs["x"]
        if not _is_cosine(block.attn):  # version 1 normalizes before its attention, version 2 after it
            x = block.norm1.forward(x)
        return _map(block.attn, x, block.window_size, block.shift_size, pad_first=False)

    return [Observer(block_of(site), adapter, publish)]


def block_of(site: AttentionSite) -> nn.Module:
    """Return the module around an attention, which cuts its windows.

    Raises:
        BadOption: If there is none.
    """
    if site.parent is None:
        name = type(site.module).__name__
        message = f"cannot record {name} alone, without the positions of its windows; record its block"
        raise BadOption(message, owner="record", option="model", value=name)
    return site.parent


def _map(attention: Any, x: Tensor, window: Extents, shift: Extents, *, pad_first: bool) -> WindowMap:
    """Return the map of an attention for the input `(B, H, W, C)`."""
    size, batch, heads = tuple(x.shape[1:3]), len(x), attention.num_heads
    places, mask = cut_windows(size, window, shift, x.device, pad_first=pad_first)
    inside = F.pad(x.flatten(1, 2), (0, 0, 0, 1))[:, places]  # padding, -1, is the row of zeros at the end
    projected = _project(attention, inside.flatten(0, 1))
    parts = projected.reshape(batch, *places.shape, 3, heads, -1)[:, :, :, :2]  # without the values
    queries, keys = parts.permute(3, 0, 4, 1, 2, 5).contiguous()
    scale = (projected.shape[-1] // (3 * heads)) ** -0.5
    if _is_cosine(attention):
        factor = attention.logit_scale.clamp(max=math.log(100)).exp()[:, None]
        queries, keys, scale = F.normalize(queries, dim=-1) * factor, F.normalize(keys, dim=-1), 1.0
    return WindowMap(queries, keys, scale, size, size, places=places, bias=_relative(attention) + mask)


def _project(attention: Any, x: Tensor) -> Tensor:
    """Return queries, keys and values side by side. Keys have no bias in torchvision's version 2."""
    if not _is_cosine(attention) or hasattr(attention, "q_bias") or attention.qkv.bias is None:
        return qkv(attention, x)
    q_bias, k_bias, v_bias = attention.qkv.bias.chunk(3)
    return F.linear(x, attention.qkv.weight, torch.cat([q_bias, torch.zeros_like(k_bias), v_bias]))


def _relative(attention: Any) -> Tensor:
    """Return the weight of each relative position, `(heads, 1, n, n)`."""
    if _is_cosine(attention):
        table: Tensor = attention.relative_coords_table
        for layer in attention.cpb_mlp:
            table = layer.forward(table)
        table = 16 * table.reshape(-1, attention.num_heads).sigmoid()
    else:
        table = attention.relative_position_bias_table
    n = math.prod(attention.window_size)
    index = attention.relative_position_index.flatten()
    return table[index].reshape(n, n, -1).permute(2, 0, 1).unsqueeze(1)


def _is_cosine(attention: nn.Module) -> bool:
    """Return whether it is version 2, whose logits are cosines scaled per head."""
    return hasattr(attention, "logit_scale")
