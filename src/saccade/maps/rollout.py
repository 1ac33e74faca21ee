"""Attention rollout: relevance of the input positions for the output of a stack of attention layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from saccade.errors import BadOption, bad_option, check_choice
from saccade.maps.base import SpatialMap
from saccade.maps.pairwise import PairwiseMap, chunks
from saccade.maps.tokens import ClassTokenMap, TokenMap, UnplacedWindowMap

HeadFusion = Literal["mean", "max", "min"]


def attention_rollout(
    maps: Sequence[PairwiseMap],
    *,
    head_fusion: HeadFusion = "mean",
    discard_ratio: float = 0.0,
    start_layer: int = 0,
) -> SpatialMap:
    """Propagate relevance through a stack of attention layers, from the output to the input positions.

        R = A'_L ... A'_2 A'_1        A'_l = normalized rows of (fusion over heads of A_l) + I

    A_l holds the weights of layer l; the identity I stands for the residual connection. The result is the row
    of R that belongs to the class token or, without a class token, the mean of the rows of the positions,
    restricted to the columns of positions. A vector is propagated, so no token-by-token matrix is held.

    References:
        Abnar, Zuidema: Quantifying Attention Flow in Transformers, ACL 2020 (section 3).

    Args:
        maps: Maps of all layers, in the order of the layers.
        head_fusion: How to fuse the heads: their mean, as the paper, their maximum or their minimum.
        discard_ratio: Share of the weights of each row, the lowest ones, that are set to zero after the
            fusion. The first token, the class token, is kept.
        start_layer: Number of layers to leave out at the input; negative numbers count from the end.

    Returns:
        The relevance of each position of the query grid.

    Raises:
        BadOption: If there are no maps, the weights are not a softmax over all tokens, the layers differ in
            their tokens, or an option is out of range.

    Example:
        >>> import torch, saccade as sc
        >>> layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        >>> model = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
        >>> with sc.record(model) as maps:
        ...     y = model(torch.randn(2, 16, 32))
        >>> maps.rollout(head_fusion="max", discard_ratio=0.5).heatmap((8, 8)).shape
        torch.Size([2, 8, 8])
    """
    if not maps:
        raise _bad("rollout needs at least one pairwise map, got none", [])
    others = [type(m).__name__ for m in maps if not (m.sums_to_one or _is_whole(m))]
    if others:
        raise _bad(f"rollout needs weights that sum to 1 over all tokens, got {others[0]}", others[0])
    check_choice("rollout", "head_fusion", head_fusion, get_args(HeadFusion))
    if not 0 <= discard_ratio < 1:
        raise bad_option("rollout", "must be at least 0 and below 1", discard_ratio=discard_ratio)
    if not -len(maps) <= start_layer < len(maps):
        raise bad_option("rollout", f"is not among the {len(maps)} layers", start_layer=start_layer)
    layers = [attention.tokens() for attention in maps]
    shapes = {(len(layer.queries), *layer.query_shape, *layer.key_shape) for layer in layers}
    if len(shapes) > 1 or layers[0].query_shape != layers[0].key_shape:
        sizes = [f"{layer.query_shape[0]} x {layer.key_shape[0]}" for layer in layers]
        raise _bad(f"rollout needs the same tokens in every layer, got weights of {', '.join(sizes)}", sizes)
    last, count = maps[-1], layers[-1].query_shape[0]
    extra = count - math.prod(last.query_shape)
    dtype = torch.promote_types(last.queries.dtype, torch.float32)
    relevance = torch.zeros(len(last.queries), count, dtype=dtype, device=last.queries.device)
    if isinstance(last, ClassTokenMap):
        relevance[:, 0] = 1
    else:
        relevance[:, extra:] = 1 / (count - extra)
    discarded = int(discard_ratio * count)
    for layer in reversed(layers[start_layer:]):
        relevance = _propagate(layer, relevance, head_fusion, discarded)
    return SpatialMap(relevance[:, extra:].reshape(-1, *last.query_shape))


def _is_whole(attention: PairwiseMap) -> bool:
    """Return whether weights are a softmax over all tokens of the image, of which some have no position."""
    return isinstance(attention, TokenMap) and not isinstance(attention, UnplacedWindowMap)


def _propagate(layer: PairwiseMap, relevance: Tensor, head_fusion: HeadFusion, discarded: int) -> Tensor:
    """Return the relevance of the tokens before a layer, (B, N), from that of the tokens behind it."""
    if head_fusion == "mean" and not discarded:  # rows of weights sum to 1
        return (layer.propagate(relevance) + relevance) / 2
    total = torch.zeros_like(relevance)
    for rows in chunks(layer.query_shape[0], layer.keys[..., 0].numel()):
        weights = _fuse(layer.rows_at(rows), head_fusion)  # (B, n, N)
        lowest = weights.topk(discarded, largest=False).indices
        first = weights[..., :1].clone()
        weights = weights.scatter(2, lowest, 0)
        weights[..., :1] = first
        share = relevance[:, rows] / (weights.sum(2) + 1)
        total += torch.einsum("bn,bnk->bk", share, weights)
        total[:, rows] += share
    return total


def _fuse(weights: Tensor, head_fusion: HeadFusion) -> Tensor:
    if head_fusion == "mean":
        return weights.mean(1)
    return weights.amax(1) if head_fusion == "max" else weights.amin(1)


def _bad(message: str, value: object) -> BadOption:
    return BadOption(message, owner="rollout", option="maps", value=value)
