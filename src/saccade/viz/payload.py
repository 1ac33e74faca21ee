"""Payload of the pages: images and attention maps as the numbers from which heatmap.js draws."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from saccade import maps
from saccade.data import Photograph, heat_sheet
from saccade.maps import AttentionMap, normalize
from saccade.viz import overlay

_TILE = 64  # maximum side of the maps of heads and channels
_LOSSLESS = 200  # images of at most this side are PNG, larger ones JPEG
#: Maps whose rows heatmap.js computes from the factors, and how. Of other maps it gets all weights.
_ROWS = {
    maps.PairwiseMap: "softmax",
    maps.TokenMap: "softmax",
    maps.ClassTokenMap: "softmax",
    maps.DotProductMap: "product",
    maps.RectifiedSumMap: "rectified sum",
}

Payload = dict[str, Any]
_Map = TypeVar("_Map", bound=AttentionMap)


#: Maps whose positions attend to all others, so that sinks can be told from windows.
_GLOBAL = (maps.PairwiseMap, maps.TokenMap, maps.ClassTokenMap)


def pack_maps(
    attentions: Mapping[str, AttentionMap],
    saliency: Mapping[str, Tensor],
    display_images: Sequence[Photograph],
    names: Sequence[str],
    budget: int,
    *,
    image_side: int = 800,
    map_side: int = 256,
    with_channels: bool = True,
    outliers: Mapping[str, Tensor] | None = None,
) -> Payload:
    """Return images and maps as JSON values: per layer the heat map and the data of its kind.

    Factors of pairwise attention and features of channels share `budget`. The first image of every layer
    is packed first, then the second, and so on.

    Args:
        attentions: Attention maps by path, for B images.
        saliency: Saliency of each map, (B, h, w), finite.
        display_images: The B images, (H, W, 3) uint8.
        names: Names of the images.
        budget: Maximum size of factors and features in bytes, before base64.
        image_side: Maximum side of an image in pixels; larger images are reduced.
        map_side: Maximum side of a heat map; larger maps are averaged.
        with_channels: Whether to include the features of the strongest channels.
        outliers: Tokens of outlying norm by path, (B, N).
    """
    layers = [
        _layer(path, attention, saliency[path].detach().float().cpu(), map_side)
        for path, attention in attentions.items()
    ]
    for layer, (path, attention) in zip(layers, attentions.items(), strict=True):
        tokens = (outliers or {}).get(path)
        if tokens is not None and isinstance(attention, maps.PairwiseMap) and len(attention.key_shape) == 2:
            layer["outliers"] = [_round(points) for points in overlay.token_points(attention, tokens)]
            layer["outlier_count"] = tokens.sum(1).tolist()
            layer["outlier_share"] = [round(value, 3) for value in attention.share(tokens).tolist()]
    costs = [_cost(attention, with_channels) for attention in attentions.values()]
    spent, packed = 0, [0] * len(costs)
    for image in range(len(names)):
        for index, cost in enumerate(costs):
            if cost and packed[index] == image and spent + cost <= budget:
                packed[index], spent = image + 1, spent + cost
    for layer, attention, cost, count in zip(layers, attentions.values(), costs, packed, strict=True):
        if cost and isinstance(attention, maps.PairwiseMap):
            layer["pairs"] = _pairs(attention, count)
        elif cost and isinstance(attention, maps.ChannelMap):
            layer["channels"] |= _strongest(attention, count)
    images = [
        {"name": name, **_encode_image(image, image_side)}
        for name, image in zip(names, display_images, strict=True)
    ]
    return {"images": images, "layers": layers}


def select_images(attention: _Map, images: slice | Sequence[int]) -> _Map:
    """Return the map of some images of the batch."""
    tensors = {
        field.name: getattr(attention, field.name)
        for field in fields(attention)  # type: ignore[arg-type]
        if field.name not in attention.shared_fields and isinstance(getattr(attention, field.name), Tensor)
    }
    batch = max(map(len, tensors.values()))  # a bias may have one entry for all images
    chosen: Any = {name: value[images] for name, value in tensors.items() if len(value) == batch}
    return replace(attention, **chosen)  # type: ignore[type-var]


def sheet_map(attention: AttentionMap, frames: tuple[int, ...]) -> AttentionMap:
    """Return the map of clips of `frames` (T, H, W) on contact sheets of their frames."""
    weights = attention.saliency()
    return maps.SpatialMap(heat_sheet(weights, frames)) if weights.ndim in (2, 4) else attention


def _layer(path: str, attention: AttentionMap, saliency: Tensor, side: int) -> Payload:
    layer: Payload = {"path": path, "kind": attention.kind, "heat": _encode_maps(_reduce(saliency, side))}
    images = range(len(saliency))
    match attention:
        case maps.PairwiseMap():
            heads = attention.queries.shape[1]
            of_head = attention.attention_received
            if isinstance(attention, maps.ClassTokenMap):
                of_head, layer["variant"] = attention.class_row, "class token"
            elif isinstance(attention, maps.WindowMap):
                layer["variant"] = "window"
            if type(attention) in _GLOBAL and len(attention.key_shape) == 2:
                points, share = overlay.sink_points(attention)
                if any(len(of_image) for of_image in points):
                    layer["sinks"] = [_round(of_image) for of_image in points]
                    layer["sink_share"] = [round(value, 3) for value in share]
            if heads > 1:
                each = torch.stack([of_head(head) for head in range(heads)], 1)
                layer["heads"] = _encode_maps(_reduce(each, _TILE))
        case maps.ChannelMap():
            weights = attention.weights
            layer["channels"] = {"images": 0, "weights": _encode_halves(weights), "count": weights.shape[1]}
        case maps.BranchMap():
            layer["branches"] = _round(attention.weights.mean(2))
        case maps.GridMap():
            lines = [overlay.grid_lines(attention, image) for image in images]
            layer["grid"] = [[[_round(line) for line in group] for group in groups] for groups in lines]
            height, width = (
                extent / size for extent, size in zip(attention.grid.shape[1:3], attention.size, strict=True)
            )
            layer["aspect"] = width / height  # aspect ratio of the output relative to that of the image
        case maps.FixationMap():
            layer["fixations"] = [_round(overlay.fixation_points(attention, image)) for image in images]
            layer["extents"] = attention.extents
        case _:
            pass
    return layer


def _cost(attention: AttentionMap, with_channels: bool) -> int:
    """Return the bytes of the factors or features of one image; 0 if the map has none to pack."""
    match attention:
        case maps.PairwiseMap() if len(attention.query_shape) == len(attention.key_shape) == 2:
            heads, width = attention.queries.shape[1], attention.queries.shape[-1]
            queries, keys = math.prod(attention.query_shape), math.prod(attention.key_shape)
            if isinstance(attention, maps.WindowMap):
                return 2 * heads * attention.places.numel() * attention.keys.shape[3]
            if _row_rule(attention) is None:
                return 2 * heads * queries * keys
            extra = attention.extra_keys.shape[2] if isinstance(attention, maps.TokenMap) else 0
            return 2 * heads * (queries + extra + keys) * width
        case maps.ChannelMap(top_channels=Tensor(), features=Tensor() as features) if with_channels:
            return 2 * _reduce(features[:1], _TILE).numel()
        case _:
            return 0


def _row_rule(attention: maps.PairwiseMap) -> str | None:
    """Return how rows are computed from the factors; None if all weights are needed."""
    has_bias = isinstance(attention, maps.TokenMap) and attention.bias is not None
    return None if has_bias else _ROWS.get(type(attention))


def _pairs(attention: maps.PairwiseMap, images: int) -> Payload:
    """Pack the first images: factors, with the keys of extra tokens first, or weights."""
    packed: Payload = {
        "images": images,
        "heads": attention.queries.shape[1],
        "query_shape": attention.query_shape,
        "key_shape": attention.key_shape,
    }
    first = select_images(attention, slice(images))
    if isinstance(first, maps.WindowMap):
        weights = _encode_halves(first.window_weights()) if images else ""
        of_keys = first.places if first.key_places is None else first.key_places
        places = {"places": first.places.tolist(), "key_places": of_keys.tolist()}
        return packed | {"how": "windows", "weights": weights} | places
    rule = _row_rule(attention)
    if rule is None:
        return packed | {"how": "weights", "weights": _encode_halves(first.weights()) if images else ""}
    keys = torch.cat([first.extra_keys, first.keys], 2) if isinstance(first, maps.TokenMap) else first.keys
    return packed | {
        "how": rule,
        "extra": keys.shape[2] - first.keys.shape[2],
        "scale": attention.scale,
        "width": keys.shape[3],
        "queries": _encode_halves(first.queries),
        "keys": _encode_halves(keys),
    }


def _strongest(attention: maps.ChannelMap, images: int) -> Payload:
    """Pack the strongest channels of the first images: their indices and their weighted features."""
    assert attention.top_channels is not None
    assert attention.features is not None
    weights = attention.weights.gather(1, attention.top_channels)[:images, :, None, None]
    passed = weights * attention.features[:images].abs()
    return {
        "images": images,
        "top_channels": attention.top_channels[:images].tolist(),
        "features": _encode_maps(_reduce(passed.float().cpu(), _TILE)) if images else None,
    }


def _reduce(heat: Tensor, side: int) -> Tensor:
    """Average heat maps (..., h, w) over areas, so that no axis is longer than `side`."""
    height, width = heat.shape[-2:]
    if max(height, width) <= side:
        return heat
    scale = side / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    reduced = F.interpolate(heat.reshape(-1, 1, height, width).float(), size, mode="area")
    return reduced.reshape(*heat.shape[:-2], *size)


def _encode_maps(heat: Tensor) -> Payload:
    """Encode heat maps (..., h, w), each scaled to [0, 1] in half precision, with their ranges."""
    flat = heat.detach().float().cpu().reshape(-1, *heat.shape[-2:])
    return {
        "shape": list(heat.shape),
        "unit": _encode_halves(normalize(flat)),
        "low": flat.amin((1, 2)).tolist(),
        "high": flat.amax((1, 2)).tolist(),
    }


def _encode_halves(values: Tensor) -> str:
    limit = torch.finfo(torch.float16).max
    halves = values.detach().float().clamp(-limit, limit).half().cpu().numpy()
    return encode_bytes(np.ascontiguousarray(halves, dtype="<f2").tobytes())


def _round(values: Tensor | NDArray[np.floating]) -> list[Any]:
    array = values.detach().float().cpu().numpy() if isinstance(values, Tensor) else values
    rounded: list[Any] = array.round(4).tolist()
    return rounded


def _encode_image(pixels: Photograph, side: int) -> Payload:
    image = Image.fromarray(pixels)
    width, height = image.size
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    if max(image.size) <= _LOSSLESS:
        image.save(file, "png", optimize=True)
        kind = "png"
    else:
        image.save(file, "jpeg", quality=88, subsampling=0)
        kind = "jpeg"
    return {
        "source": f"data:image/{kind};base64,{encode_bytes(file.getvalue())}",
        "width": width,
        "height": height,
    }


def encode_bytes(raw: bytes) -> str:
    """Return bytes as base64 text."""
    return base64.b64encode(raw).decode()
