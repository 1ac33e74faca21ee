"""Attention rollout: relevance of the input positions for the output of a stack of attention layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from saccade.errors import BadOption
from saccade.maps.base import SpatialMap
from saccade.maps.pairwise import PairwiseMap
from saccade.maps.tokens import ClassTokenMap, TokenMap


def attention_rollout(maps: Sequence[PairwiseMap]) -> SpatialMap:
    """Propagate relevance through a stack of attention layers, from the output to the input positions.

        R = A'_L ... A'_2 A'_1        A'_l = (mean over heads of A_l + I) / 2

    A_l holds the weights of layer l; the identity I stands for the residual connection. The result is the row
    of R that belongs to the class token or, without a class token, the mean of the rows of the positions,
    restricted to the columns of positions. A vector is propagated, so no token-by-token matrix is built.

    References:
        Abnar, Zuidema: Quantifying Attention Flow in Transformers, ACL 2020 (section 3).

    Args:
        maps: Maps of all layers, in the order of the layers.

    Returns:
        The relevance of each position of the query grid.

    Raises:
        BadOption: If there are no maps, the weights are not a softmax over all tokens, or the layers differ
            in their tokens.

    Example:
        >>> import torch, saccade as sc
        >>> layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        >>> model = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
        >>> with sc.record(model) as maps:
        ...     y = model(torch.randn(2, 16, 32))
        >>> maps.rollout().heatmap((8, 8)).shape
        torch.Size([2, 8, 8])
    """
    if not maps:
        raise _bad("rollout needs at least one pairwise map, got none", [])
    others = [type(m).__name__ for m in maps if not (m.sums_to_one or isinstance(m, TokenMap))]
    if others:
        raise _bad(f"rollout needs weights that sum to 1 over all tokens, got a {others[0]}", others[0])
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
    for layer in reversed(layers):
        relevance = (layer.propagate(relevance) + relevance) / 2
    return SpatialMap(relevance[:, extra:].reshape(-1, *last.query_shape))


def _bad(message: str, value: object) -> BadOption:
    return BadOption(message, owner="rollout", option="maps", value=value)
