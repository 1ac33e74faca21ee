"""gallery.npz: test images of a run with predictions and the attention map, of any kind."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saccade import maps
from saccade.errors import BadRun
from saccade.files import atomic_write, check_regular, check_schema
from saccade.maps import AttentionMap, SpatialMap
from saccade.results.schema import SCHEMA

GALLERY = "gallery.npz"
_MAP_BYTES = 48 << 20  # larger maps are stored as their saliency
_MAX_BYTES = 1 << 30  # decompressed size of a file
_MAX_SIDE = 4096  # of the heat map that a sampling map computes
_HALF = 1 << 16  # tensors with at least this many values are stored in half precision
_TYPES = (getattr(maps, name) for name in maps.__all__)
_MAPS: dict[str, type[Any]] = {
    t.__name__: t for t in _TYPES if isinstance(t, type) and issubclass(t, AttentionMap)
}

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Gallery:
    """K test images of a run.

    Attributes:
        images: Images (K, 3, H, W), or clips (K, 3, T, H, W), uint8.
        labels: True classes, (K,).
        predictions: Predicted classes, (K,).
        probabilities: Predicted probabilities, (K, classes).
        masks: Target masks (K, H, W) or (K, T, H, W), bool; None if the task has none.
        map: Attention map of the K images; None for a model without attention. The map is a `SpatialMap` of
            the saliency if its factors exceed the size limit or its type is not one of `saccade.maps`.
        kind: Kind of the map of the model.
    """

    images: Tensor
    labels: Tensor
    predictions: Tensor
    probabilities: Tensor
    masks: Tensor | None = None
    map: AttentionMap | None = None
    kind: str | None = None


def write_gallery(folder: Path, gallery: Gallery) -> None:
    """Write the gallery of a run, atomically.

    Tensors of a map with many values are stored in half precision.

    Raises:
        BadRun: The file cannot be written.
    """
    arrays: Arrays = {"schema": np.asarray(SCHEMA)}
    for name in ("images", "labels", "predictions", "probabilities", "masks"):
        if (tensor := getattr(gallery, name)) is not None:
            arrays[name] = tensor.cpu().numpy()
    if gallery.map is not None:
        arrays |= _encode_map(gallery.map)
        arrays["kind"] = np.asarray(gallery.kind or gallery.map.kind)
    with atomic_write(folder / GALLERY) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_gallery(folder: Path) -> Gallery:
    """Read the gallery of a run.

    Raises:
        FileNotFoundError: The run has no gallery.
        BadRun: The file is damaged, has another schema, or its arrays do not fit together.
    """
    path = folder / GALLERY
    try:
        check_regular(path)
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _MAX_BYTES:
            raise _bad(path, None, size, f"holds {size} bytes: expected at most {_MAX_BYTES}")
        with np.load(path, allow_pickle=False) as archive:
            arrays: Arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise
    except BadRun:
        raise
    except Exception as error:  # NumPy and zipfile raise almost any error for damaged files
        raise _bad(path, None, None, f"cannot be read: {error}") from None
    check_schema(path, _scalar(arrays.get("schema")), SCHEMA)
    count = _check(path, arrays)
    masks = torch.from_numpy(arrays["masks"]) if "masks" in arrays else None
    attention = kind = None
    if "map" in arrays:
        kind = str(arrays["kind"])
        try:
            attention = _decode_map(arrays)
            _check_map(attention, count)
        except Exception as error:  # the fields of a damaged map fail in any way
            raise _bad(path, "map", None, f"has no usable attention map: {error}") from None
    images, labels, predictions = (
        torch.from_numpy(arrays[name]) for name in ("images", "labels", "predictions")
    )
    return Gallery(
        images, labels, predictions, torch.from_numpy(arrays["probabilities"]), masks, attention, kind
    )


def _check(path: Path, arrays: Arrays) -> int:
    """Check every array but those of the map, and return the number of images."""
    required = {"images", "labels", "predictions", "probabilities"} | ({"kind"} if "map" in arrays else set())
    for name in sorted(required - arrays.keys()):
        raise _bad(path, name, None, f"lacks {name}")
    images = arrays["images"]
    count = int(images.shape[0]) if images.ndim else 0
    if not count or images.size == 0:
        raise _bad(path, "images", images.shape, "holds no images")
    forms: dict[str, tuple[str, list[tuple[int | None, ...]]]] = {  # dtype and shape; None is any extent
        "images": ("u1", [(count, 3, None, None), (count, 3, None, None, None)]),
        "labels": ("i8", [(count,)]),
        "predictions": ("i8", [(count,)]),
        "probabilities": ("f4", [(count, None)]),
        "masks": ("b1", [(count, *images.shape[2:])]),
    }
    for name, (dtype, shapes) in forms.items():
        array = arrays.get(name)
        if array is None:
            continue
        fits = any(
            len(shape) == array.ndim and all(a in (b, None) for a, b in zip(shape, array.shape, strict=True))
            for shape in shapes
        )
        if not fits or array.dtype != np.dtype(dtype):
            message = f"{name} of shape {array.shape} and type {array.dtype} does not fit {count} images"
            raise _bad(path, name, array.shape, message)
    classes = arrays["probabilities"].shape[1]
    for name in ("labels", "predictions"):
        if arrays[name].min() < 0 or arrays[name].max() >= classes:
            raise _bad(path, name, None, f"{name} is outside the {classes} classes")
    return count


def _encode_map(attention: AttentionMap) -> Arrays:
    """Return the fields of a map as arrays, `map.FIELD`, and the name of its type."""
    encoded = _encode_fields(attention) if _MAPS.get(type(attention).__name__) is type(attention) else {}
    if not encoded or sum(array.nbytes for array in encoded.values()) > _MAP_BYTES:
        attention = SpatialMap(attention.saliency())
        encoded = _encode_fields(attention)
    return encoded | {"map": np.asarray(type(attention).__name__)}


def _encode_fields(attention: AttentionMap) -> Arrays:
    values = {field.name: getattr(attention, field.name) for field in fields(attention)}  # type: ignore[arg-type]
    return {
        f"map.{name}": _encode(value) if isinstance(value, Tensor) else np.asarray(value)
        for name, value in values.items()
        if value is not None
    }


def _encode(tensor: Tensor) -> NDArray[Any]:
    """Convert a tensor; finite values beyond half precision are clipped, infinite ones are kept."""
    tensor = tensor.detach().cpu()
    if not tensor.is_floating_point():
        return np.asarray(tensor.numpy())
    if tensor.numel() >= _HALF:
        limit = torch.finfo(torch.float16).max
        return np.asarray(torch.where(tensor.isfinite(), tensor.clamp(-limit, limit), tensor).half().numpy())
    return np.asarray(tensor.float().numpy())


def _decode_map(arrays: Mapping[str, NDArray[Any]]) -> AttentionMap:
    name = str(arrays["map"])
    if name not in _MAPS:
        raise ValueError(f"unknown type {name!r}")
    cls = _MAPS[name]
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for field in fields(cls):
        array = arrays.get(f"map.{field.name}")
        if array is None:
            continue  # a missing field without a default is a TypeError
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{field.name} of type {array.dtype}")
        is_tensor = Tensor in (hints[field.name], *get_args(hints[field.name]))
        values[field.name] = _tensor(array) if is_tensor else _tuple(array.tolist())
    attention: AttentionMap = cls(**values)
    return attention


def _tensor(array: NDArray[Any]) -> Tensor:
    if array.dtype.kind == "f":
        return torch.from_numpy(array.astype(np.float32))
    return torch.from_numpy(array.astype(np.int64))


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def _check_map(attention: AttentionMap, count: int) -> None:
    """Raise `ValueError` or an error of torch unless the fields of a map fit together and `count` images."""
    match attention:
        case maps.WindowMap(queries=queries, places=places, bias=bias):
            _require(attention.query_shape == attention.key_shape, "queries and keys on different grids")
            positions = math.prod(attention.query_shape)
            _require(places.shape == queries.shape[2:4], "places of another shape than the windows")
            inside = places[places >= 0]
            _require(
                len(inside) == positions and torch.equal(inside.sort().values, torch.arange(positions)),
                "places that do not cover the grid once",
            )
            full = torch.Size([queries.shape[1], *places.shape, places.shape[1]])
            _require(torch.broadcast_shapes(bias.shape, full) == full, "a bias of another shape")
            _require(bias.ndim == 4, "a bias of another shape")
            _require(attention.keys.shape == queries.shape, "keys of another shape than the queries")
        case maps.PairwiseMap(queries=queries, keys=keys):
            _require(queries.ndim == keys.ndim == 4, "queries and keys that are not (B, heads, N, D)")
            _require(queries.shape[:2] == keys.shape[:2], "queries and keys of different batches")
            _require(math.prod(attention.query_shape) == queries.shape[2], "queries off their grid")
            _require(math.prod(attention.key_shape) == keys.shape[2], "keys off their grid")
            if isinstance(attention, maps.OffsetMap):
                shape = attention.offsets.shape
                _require(attention.query_shape == attention.key_shape, "queries and keys on different grids")
                _require(shape[:3] == (*queries.shape[:2], queries.shape[3]), "offsets of another shape")
                _require(len(shape) == 5 and shape[3] % 2 == shape[4] % 2 == 1, "an even window")
            if isinstance(attention, maps.HaloMap):
                window = attention.block + 2 * attention.halo
                _require(attention.query_shape == attention.key_shape, "queries and keys on different grids")
                _require(attention.block >= 1 <= window <= _MAX_SIDE and attention.halo >= 0, "bad windows")
                for logits in (attention.row_logits, attention.column_logits):
                    _require(logits.shape == (*queries.shape[:3], window), "logits of another shape")
            if isinstance(attention, maps.TokenMap) and attention.bias is not None:
                tokens = (m.shape[2] for m in (attention.extra_queries, attention.extra_keys))
                extents = (a + b for a, b in zip(tokens, (queries.shape[2], keys.shape[2]), strict=True))
                full = torch.Size([*queries.shape[:2], *extents])
                _require(attention.bias.ndim == 4, "a bias of another shape")
                _require(
                    torch.broadcast_shapes(attention.bias.shape, full) == full, "a bias of another shape"
                )
        case maps.GridMap(grid=grid):
            _require(grid.ndim == 4 and grid.shape[3] == 2, "a grid that is not (B, H, W, 2)")
            _require(max(attention.size) <= _MAX_SIDE, "a size that is too large")
        case maps.FixationMap(locations=locations):
            _require(locations.ndim == 3 and locations.shape[2] == 2, "locations that are not (B, steps, 2)")
            _require(max(attention.size) <= _MAX_SIDE, "a size that is too large")
        case maps.ChannelMap(weights=weights, top_channels=top, features=features):
            _require(weights.ndim == 2 and len(weights) == count, "weights that are not (B, channels)")
            if top is not None and features is not None:
                _require(
                    features.shape[:2] == top.shape == (count, top.shape[1]), "features of other channels"
                )
                _require(0 <= int(top.min()) <= int(top.max()) < weights.shape[1], "unknown channels")
        case maps.BranchMap(weights=weights):
            _require(
                weights.ndim == 3 and len(weights) == count, "weights that are not (B, branches, channels)"
            )
        case _:
            pass
    _require(len(attention.saliency()) == count, f"a map of other than {count} images")


def _require(condition: bool, fault: str) -> None:
    if not condition:
        raise ValueError(fault)


def _scalar(array: NDArray[Any] | None) -> Any:
    return None if array is None else array.tolist()


def _bad(path: Path, option: str | None, value: Any, message: str) -> BadRun:
    return BadRun(f"{str(path)!r} {message}", owner=str(path), option=option, value=value)
