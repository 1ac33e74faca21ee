"""`torch.nn.MultiheadAttention`, alone and inside `torch.nn.TransformerEncoderLayer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.maps import PairwiseMap
from saccade.recording.adapters.observe import ForwardWrapper, Handle, Hook, Publish
from saccade.recording.adapters.tokens import Layout, Site, bias_of


def multihead(site: Site, publish: Publish) -> list[Handle]:
    """Watch an attention.

    An encoder layer has a fast path, which skips its attention and is left as soon as it has a hook; so that
    results are the same to the last bit, it is watched by its `forward` instead.
    """
    attention, layer, layout = site.module, site.parent, site.layout
    if layer is not None and _has_fast_path(layer, attention):

        def see_layer(layer: Any, inputs: Mapping[str, Any], _output: Any) -> None:
            x = inputs["src"]
            x = layer.norm1.forward(x) if layer.norm_first else x
            masks = inputs.get("src_mask"), inputs.get("src_key_padding_mask")
            publish(pairs(attention, x, x, *masks, layout))

        return [ForwardWrapper(layer, see_layer)]

    def see(module: Any, inputs: Mapping[str, Any], _output: Any) -> None:
        masks = inputs.get("attn_mask"), inputs.get("key_padding_mask")
        publish(pairs(module, inputs["query"], inputs["key"], *masks, layout))

    return [Hook(attention, see)]


def _has_fast_path(layer: nn.Module, attention: nn.Module) -> bool:
    """Whether this is an encoder layer whose computation is torch's own."""
    plain: Any = nn.TransformerEncoderLayer
    return (
        isinstance(layer, plain)
        and layer.self_attn is attention
        and "forward" not in vars(layer)
        and (type(layer).forward, type(layer)._sa_block) == (plain.forward, plain._sa_block)
    )


def pairs(
    attention: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    attn_mask: Tensor | None,
    key_padding_mask: Tensor | None,
    layout: Layout,
) -> PairwiseMap:
    """Return the map of one call, from the inputs and the attention's own weights."""
    if query.is_nested:  # the encoder's way to leave padding out
        key_padding_mask = _padding(query)
        query = key = query.to_padded_tensor(0.0)
    elif query.ndim == 2:
        query, key = query.unsqueeze(0), key.unsqueeze(0)
    elif not attention.batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    heads, head_dim = attention.num_heads, attention.head_dim
    q, k = (x.unflatten(2, (heads, head_dim)).transpose(1, 2) for x in _project(attention, query, key))
    bias = _bias(attn_mask, key_padding_mask, heads, query.dtype)
    more = 0
    if attention.add_zero_attn:
        k, more = F.pad(k, (0, 0, 1, 0)), 1
    if attention.bias_k is not None:  # a learned key
        learned = attention.bias_k.reshape(1, heads, 1, head_dim).expand(len(k), -1, -1, -1)
        k, more = torch.cat([learned.to(k), k], 2), more + 1
    if bias is not None:
        bias = F.pad(bias, (more, 0))
    return layout.map(q, k, head_dim**-0.5, bias, more_keys=more)


def _project(attention: nn.MultiheadAttention, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    if attention._qkv_same_embed_dim:
        wq, wk, _ = attention.in_proj_weight.chunk(3)
    else:
        wq, wk = attention.q_proj_weight, attention.k_proj_weight
    bias = attention.in_proj_bias
    bq, bk, _ = (None, None, None) if bias is None else bias.chunk(3)
    return F.linear(query, wq, bq), F.linear(key, wk, bk)


def _bias(
    attn_mask: Tensor | None, key_padding_mask: Tensor | None, heads: int, dtype: torch.dtype
) -> Tensor | None:
    """Return what both masks add to the logits; the axes of heads and of queries may be 1."""
    pairs = bias_of(attn_mask, dtype, visible=False)
    if pairs is not None:
        pairs = pairs.unflatten(0, (-1, heads)) if pairs.ndim == 3 else pairs[None, None]
    padding = bias_of(key_padding_mask, dtype, visible=False)
    if padding is None:
        return pairs
    padding = padding.reshape(-1, 1, 1, padding.shape[-1])
    return padding if pairs is None else pairs + padding


def _padding(nested: Tensor) -> Tensor:
    lengths = torch.tensor([len(x) for x in nested.unbind()], device=nested.device)
    return torch.arange(int(lengths.max()), device=nested.device) >= lengths[:, None]
