"""Packing maps as the numbers from which the page's script draws."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from saccade.data.images import Photograph
from saccade.maps import (
    AttentionMap,
    BranchMap,
    ChannelMap,
    ClassTokenMap,
    DotProductMap,
    FixationMap,
    GridMap,
    PairwiseMap,
    RectifiedSumMap,
    TokenMap,
    WindowMap,
)
from saccade.viz import overlay

if TYPE_CHECKING:
    from saccade.viz.figure import Look

SHOWN = 24  # images at most
_SIDE = 800  # pixels of a picture at most; larger ones are shrunk for the page
_GRID = 256  # places of a map along an axis at most; larger ones are averaged
_TILE = 64  # places of a channel's features along an axis at most
_LOSSLESS = 200  # a picture whose longer side measures at most this is kept bit for bit
#: Maps whose rows the script computes from their factors, and how; of others it gets all weights.
_ROWS = {
    PairwiseMap: "softmax",
    TokenMap: "softmax",
    ClassTokenMap: "softmax",
    DotProductMap: "product",
    RectifiedSumMap: "rectified sum",
}

Packed = dict[str, Any]


def pack(look: Look, budget: int) -> Packed:
    """Return the page's data: pictures, and of each layer its heat and what its kind has to show.

    Rows of pairwise attention and features of channels take up to `budget` bytes before base64. They go
    to the first image in all layers, then to the second, and so on.
    """
    count = min(len(look.shots.names), SHOWN)
    layers = [_layer(path, attention, look.saliency[path][:count]) for path, attention in look.maps.items()]
    maps = list(look.maps.values())
    spent, packed = 0, [0] * len(maps)
    for image in range(count):
        for place, attention in enumerate(maps):
            cost = _cost(attention)
            if cost and packed[place] == image and spent + cost <= budget:
                packed[place], spent = image + 1, spent + cost
    for layer, attention, fitting in zip(layers, maps, packed, strict=True):
        match attention:
            case PairwiseMap() if _cost(attention):
                layer["pairs"] = _pairs(attention, fitting)
            case ChannelMap(top_channels=Tensor() as top_channels, features=Tensor() as features):
                layer["channels"] |= _channels(attention.weights, top_channels, features, fitting)
    names, pictures = look.shots.names[:count], look.shots.display_images[:count]
    images = [{"name": name, **_picture(picture)} for name, picture in zip(names, pictures, strict=True)]
    return {"images": images, "layers": layers, "shown": count}


def _layer(path: str, attention: AttentionMap, saliency: Tensor) -> Packed:
    packed: Packed = {"path": path, "kind": attention.kind, "heat": _fields(_reduced(saliency, _GRID))}
    images = range(len(saliency))
    match attention:
        case PairwiseMap():
            heads = range(attention.queries.shape[1])
            one = (
                attention.class_row if isinstance(attention, ClassTokenMap) else attention.attention_received
            )
            if len(heads) > 1:
                each = torch.stack([one(head)[: len(saliency)] for head in heads], 1)
                packed["heads"] = _fields(_reduced(each, _TILE))
            if isinstance(attention, ClassTokenMap | WindowMap):
                packed["variant"] = "class token" if isinstance(attention, ClassTokenMap) else "window"
        case ChannelMap():
            packed["channels"] = {"weights": _halves(attention.weights[: len(saliency)])}
            packed["channels"]["count"] = attention.weights.shape[1]
        case BranchMap():
            packed["branches"] = _rounded(attention.weights[: len(saliency)].mean(2))
        case GridMap():
            packed["grid"] = [
                [[_rounded(line) for line in lines] for lines in overlay.grid_lines(attention, i)]
                for i in images
            ]
            across, down = (
                attention.grid.shape[2] / attention.size[1],
                attention.grid.shape[1] / attention.size[0],
            )
            packed["aspect"] = across / down  # of what is passed on, to that of the picture
        case FixationMap():
            packed["fixations"] = [_rounded(overlay.fixations(attention, i)) for i in images]
            packed["extents"] = attention.extents
        case _:
            pass
    return packed


def _cost(attention: AttentionMap) -> int:
    """The bytes of what one image adds to a layer's heat."""
    match attention:
        case PairwiseMap() if len(attention.query_shape) == 2:
            heads, width = attention.queries.shape[1], attention.queries.shape[-1]
            queries, keys = math.prod(attention.query_shape), math.prod(attention.key_shape)
            if isinstance(attention, WindowMap):
                return 2 * heads * len(attention.places) * attention.places.shape[1] ** 2
            if _how(attention) is None:
                return 2 * heads * queries * keys
            extra = attention.extra_keys.shape[2] if isinstance(attention, TokenMap) else 0
            return 2 * heads * (queries + extra + keys) * width
        case ChannelMap(features=Tensor() as features):
            return 2 * _reduced(features[:1], _TILE).numel()
        case _:
            return 0


def _how(attention: PairwiseMap) -> str | None:
    """How the script computes rows from factors; None if it needs the weights."""
    biased = isinstance(attention, TokenMap) and attention.bias is not None
    return None if biased else _ROWS.get(type(attention))


def _pairs(attention: PairwiseMap, images: int) -> Packed:
    """The factors of the first images, keys of tokens without a place before those of places; or weights."""
    packed: Packed = {
        "images": images,
        "heads": attention.queries.shape[1],
        "query_shape": attention.query_shape,
        "key_shape": attention.key_shape,
    }
    first = _first(attention, images)
    if isinstance(first, WindowMap):
        weights = _halves(first.window_weights()) if images else ""
        return packed | {"how": "windows", "weights": weights, "places": first.places.tolist()}
    how = _how(attention)
    if how is None:
        return packed | {"how": "weights", "weights": _halves(first.weights()) if images else ""}
    keys = torch.cat([first.extra_keys, first.keys], 2) if isinstance(first, TokenMap) else first.keys
    return packed | {
        "how": how,
        "extra": keys.shape[2] - first.keys.shape[2],
        "scale": attention.scale,
        "width": keys.shape[3],
        "queries": _halves(first.queries),
        "keys": _halves(keys),
    }


def _first(attention: PairwiseMap, images: int) -> PairwiseMap:
    """The map of the first images alone."""
    shared = ("places", "bias") if isinstance(attention, WindowMap) else ()
    tensors: dict[str, Any] = {
        field.name: value[:images]
        for field in fields(attention)
        if isinstance(value := getattr(attention, field.name), Tensor)
        and field.name not in shared
        and len(value) == len(attention.queries)
    }
    return replace(attention, **tensors)


def _channels(weights: Tensor, top_channels: Tensor, features: Tensor, images: int) -> Packed:
    """The top_channels channels of the first images: their numbers, and what of them passes the gate."""
    passed = weights.gather(1, top_channels)[:images, :, None, None] * features[:images].abs()
    return {
        "images": images,
        "top_channels": top_channels[:images].tolist(),
        "features": _fields(_reduced(passed.float().cpu(), _TILE)) if images else None,
    }


def _reduced(maps: Tensor, side: int) -> Tensor:
    """Average maps (..., h, w) over areas so that no axis is longer than `side`."""
    height, width = maps.shape[-2:]
    if max(height, width) <= side:
        return maps
    scale = side / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return F.interpolate(maps.reshape(-1, 1, height, width).float(), size, mode="area").reshape(
        *maps.shape[:-2], *size
    )


def _fields(maps: Tensor) -> Packed:
    """Pack maps (..., h, w): each scaled to [0, 1] as half precision, with its own range beside it."""
    maps = maps.detach().float().cpu()
    low, high = maps.amin((-2, -1)), maps.amax((-2, -1))
    span = (high - low)[..., None, None]
    unit = (maps - low[..., None, None]) / torch.where(span > 0, span, torch.ones_like(span))
    return {
        "shape": list(maps.shape),
        "unit": _halves(unit),
        "low": low.flatten().tolist(),
        "high": high.flatten().tolist(),
    }


def _halves(values: Tensor) -> str:
    limit = torch.finfo(torch.float16).max
    halves = values.detach().float().clamp(-limit, limit).half().cpu().numpy()
    return _base64(np.ascontiguousarray(halves, dtype="<f2").tobytes())


def _rounded(values: Tensor | NDArray[np.floating]) -> list[Any]:
    found: list[Any] = np.asarray(values.cpu() if isinstance(values, Tensor) else values).round(4).tolist()
    return found


def _picture(picture: Photograph) -> Packed:
    image = Image.fromarray(picture)
    width, height = image.size
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    if max(image.size) <= _LOSSLESS:
        image.save(file, "png", optimize=True)
        kind = "png"
    else:
        image.save(file, "jpeg", quality=88, subsampling=0)
        kind = "jpeg"
    return {
        "source": f"data:image/{kind};base64,{_base64(file.getvalue())}",
        "width": width,
        "height": height,
    }


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
