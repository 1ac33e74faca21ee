"""Maps of attention that was captured by its operations."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from saccade.maps import AttentionMap, ChannelMap, DotProductMap, PairwiseMap, UnplacedWindowMap
from saccade.recording.adapters.multihead import multihead_map
from saccade.recording.adapters.tokens import AttentionSite, mask_to_bias
from saccade.recording.operations import Logits

_TOLERANCE = 1e-2  # of factors, relative to the largest weight of a row


def window_map(queries: Tensor, keys: Tensor, scale: float, bias: Tensor | None) -> UnplacedWindowMap:
    """Return the map of windows, whose places in the image are unknown: one row of positions per window."""
    shapes = queries.shape[2:3], keys.shape[2:3]
    return UnplacedWindowMap(queries, keys, scale, *shapes, queries[:, :, :0], keys[:, :, :0], bias)


def linear_map(site: AttentionSite, queries: Tensor, keys: Tensor) -> DotProductMap:
    """Return the map of linear attention, with weights q k^T, of the queries and keys that have places."""
    shapes = []
    for tokens in (queries, keys):
        extra, _, grid = site.split(tokens.shape[2])
        shapes.append((tokens[:, :, extra:], grid))
    (queries, query_shape), (keys, key_shape) = shapes
    return DotProductMap(queries, keys, 1.0, query_shape, key_shape)


def factors_of(weights: Tensor) -> tuple[Tensor, Tensor, float, Tensor]:
    """Return queries, keys, scale and bias of weights (B, heads, Nq, Nk): softmax(0 + log a) = a."""
    queries, keys = (
        weights.new_zeros(()).expand_as(weights)[..., :1],
        weights.new_zeros(()).expand_as(weights.mT),
    )
    return queries, keys[..., :1], 1.0, weights.log()


def agrees(attention: PairwiseMap, weights: Tensor) -> bool:
    """Return whether factors give the weights that the model has computed, in three rows of several heads."""
    tokens, (heads, count) = attention.tokens(), weights.shape[1:3]
    rows = ((0, 0), (count // 2, heads - 1), (count - 1, heads // 2))
    return all(
        bool((tokens.attention_from(x=x, head=head) - row).abs().max() <= _TOLERANCE * row.max())
        for x, head in rows
        for row in [weights[:, head, x]]
    )


def channel_map(attention: PairwiseMap, values: Tensor, site: AttentionSite) -> ChannelMap | None:
    """Return the map of attention between channels, whose values are (..., channels, positions)."""
    channels, positions = values.shape[-2:]
    if channels in site.features or positions not in site.features:
        return None
    tokens = attention.tokens()
    batch, heads = tokens.queries.shape[:2]
    widths = {parameter.shape[1] for parameter in site.module.parameters() if parameter.ndim > 1}
    is_square = tokens.query_shape == tokens.key_shape == (channels,)
    if not is_square or heads * channels not in widths - {heads * positions}:
        return None
    received = torch.stack([tokens.attention_received(head) for head in range(heads)], 1)
    features = values.detach().reshape(batch, heads * channels, *site.features.grid(positions))
    return ChannelMap.of(received.reshape(batch, -1).to(features), features)


def fused_logits(site: AttentionSite, given: dict[str, Any]) -> Logits:
    """Return the logits of a call of `F.scaled_dot_product_attention`, from its arguments."""
    sets = site.are_sets(given["query"], given["key"])
    query, key = given["query"].detach(), given["key"].detach()
    bias = mask_to_bias(given.get("attn_mask"), query.dtype, visible=True)
    if given.get("is_causal"):
        extents = query.shape[-2], key.shape[-2]
        bias = torch.full(extents, -torch.inf, dtype=query.dtype, device=query.device).triu(1)
    if given.get("enable_gqa") and key.shape[-3] != query.shape[-3]:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scale = given.get("scale")
    return Logits(query, key, query.shape[-1] ** -0.5 if scale is None else scale, bias, sets)


def grouped_bias(logits: Logits, queries: Tensor) -> Tensor:
    """Return the bias of logits so that it is broadcast over the queries as (B, heads, Nq, Nk)."""
    leading, bias = logits.queries.shape[:-2], logits.bias
    if bias is None:
        raise ValueError("the logits have no bias")
    bias = bias.detach().reshape((1,) * (len(leading) + 2 - bias.ndim) + bias.shape)
    if leading == queries.shape[:2]:
        return bias
    return bias.expand(*leading, *bias.shape[-2:]).reshape(*queries.shape[:2], *bias.shape[-2:])


def functional_map(site: AttentionSite, given: dict[str, Any]) -> AttentionMap:
    """Return the map of a call of `F.multi_head_attention_forward`, from its arguments."""
    heads = given["num_heads"]
    module = SimpleNamespace(
        num_heads=heads,
        head_dim=given["embed_dim_to_check"] // heads,
        batch_first=False,
        in_proj_weight=None if given.get("use_separate_proj_weight") else given["in_proj_weight"],
        in_proj_bias=given["in_proj_bias"],
        q_proj_weight=given.get("q_proj_weight"),
        k_proj_weight=given.get("k_proj_weight"),
        bias_k=given["bias_k"],
        add_zero_attn=given["add_zero_attn"],
    )
    masks = given.get("attn_mask"), given.get("key_padding_mask")
    return multihead_map(module, given["query"], given["key"], masks, site)
