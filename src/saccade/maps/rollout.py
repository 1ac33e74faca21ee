"""Attention rollout: where the answer of a stack of attention layers comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from saccade.errors import BadOption
from saccade.maps.base import SpatialMap
from saccade.maps.pairwise import PairwiseMap
from saccade.maps.tokens import ClassTokenMap, TokenMap


def attention_rollout(maps: Sequence[PairwiseMap]) -> SpatialMap:
    """Follow attention through a stack of layers, from the answer down to the places of the image.

        R = A'_L ... A'_2 A'_1        A'_l = (mean over heads of A_l + I) / 2

    Abnar, Zuidema: Quantifying Attention Flow in Transformers, ACL 2020 (section 3). I stands for the
    residual connection. The result is the row of R that belongs to the class token or, without one, the mean
    of the rows of places; of it, what comes from places. `maps` are those of the layers in order.

    A vector is carried down through the layers: no matrix of tokens by tokens is built.

    Raises `BadOption` if the maps are no stack: none, weights that are no softmax over all tokens, or
    tokens that are not the same in all layers.

    >>> import torch, saccade as sc
    >>> layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    >>> model = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    >>> with sc.record(model) as maps:
    ...     y = model(torch.randn(2, 16, 32))
    >>> maps.rollout().heatmap((8, 8)).shape
    torch.Size([2, 8, 8])
    """
    if not maps:
        raise BadOption("rollout needs the pairwise maps of a stack of layers, and there are none")
    for attention in maps:
        if not (attention.sums_to_one or isinstance(attention, TokenMap)):
            raise BadOption(
                f"rollout needs rows over all tokens that sum to 1, not a {type(attention).__name__}"
            )
    layers = [attention.tokens() for attention in maps]
    shapes = {(len(m.queries), *m.query_shape, *m.key_shape) for m in layers}
    if len(shapes) > 1 or layers[0].query_shape != layers[0].key_shape:
        described = ", ".join(f"{m.query_shape[0]} x {m.key_shape[0]}" for m in layers)
        raise BadOption(f"rollout needs the same tokens in every layer, not weights of {described}")
    last, count = maps[-1], layers[-1].query_shape[0]
    extra = count - math.prod(last.query_shape)
    dtype = torch.promote_types(last.queries.dtype, torch.float32)
    shares = torch.zeros(len(last.queries), count, dtype=dtype, device=last.queries.device)
    if isinstance(last, ClassTokenMap):
        shares[:, 0] = 1
    else:
        shares[:, extra:] = 1 / (count - extra)
    for layer in reversed(layers):
        shares = (layer.propagate(shares) + shares) / 2
    return SpatialMap(shares[:, extra:].reshape(-1, *last.query_shape))
