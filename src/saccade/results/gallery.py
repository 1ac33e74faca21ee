"""gallery.npz: test images of a run with predictions and the attention map, of any kind."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saccade import maps
from saccade.errors import BadRun, bad_run
from saccade.files import atomic_write, check_regular, check_schema
from saccade.maps import AttentionMap, SpatialMap
from saccade.results.schema import SCHEMA

GALLERY = "gallery.npz"
_MAP_BYTES = 48 << 20  # larger maps are stored as their saliency
_MAX_BYTES = 1 << 30  # decompressed size of a file
_MAX_SIDE = 4096  # of the heat map that a sampling map computes
_HALF = 1 << 16  # tensors with at least this many values are stored in half precision
_TENSORS = ("images", "labels", "predictions", "probabilities", "masks", "truth", "segments")
_MAPS: dict[str, type[Any]] = {
    name: cls for name, cls in vars(maps).items() if isinstance(cls, type) and issubclass(cls, AttentionMap)
}
#: Axes of the fields of maps. A name has one extent in all fields of a map; K is the number of images.
_FORMS: dict[type, dict[str, str]] = {
    maps.PairwiseMap: {"queries": "K heads Q D", "keys": "K heads N D"},
    maps.TokenMap: {"extra_queries": "K heads T D", "extra_keys": "K heads U D"},
    maps.WindowMap: {
        "queries": "K heads windows n D",
        "keys": "K heads windows m D",
        "places": "windows n",
        "key_places": "windows m",
    },
    maps.OffsetMap: {"offsets": "K heads D height width"},
    maps.HaloMap: {"row_logits": "K heads Q window", "column_logits": "K heads Q window"},
    maps.GridMap: {"grid": "K H W 2"},
    maps.FixationMap: {"locations": "K steps 2"},
    maps.ChannelMap: {"weights": "K C", "top_channels": "K top", "features": "K top ..."},
    maps.BranchMap: {"weights": "K M C"},
    maps.TemporalMap: {"gates": "K C T", "kernels": "K C k", "energy": "K T H W"},
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
        truth: For segmentation, the true class of each pixel, (K, H, W), uint8, 255 without a class; `labels`
            and `predictions` are then the classes of most pixels but the first class, the background.
        segments: For segmentation, the predicted class of each pixel, (K, H, W), uint8.
        map: Attention map of the K images; None for a model without attention. The map is a `SpatialMap` of
            the saliency if its factors exceed the size limit or its type is not one of `saccade.maps`.
        kind: Kind of the map of the model.
    """

    images: Tensor
    labels: Tensor
    predictions: Tensor
    probabilities: Tensor
    masks: Tensor | None = None
    truth: Tensor | None = field(default=None, kw_only=True)
    segments: Tensor | None = field(default=None, kw_only=True)
    map: AttentionMap | None = None
    kind: str | None = None


def write_gallery(folder: Path, gallery: Gallery) -> None:
    """Write the gallery of a run, atomically.

    Tensors of a map with many values are stored in half precision.

    Raises:
        BadRun: The file cannot be written.
    """
    arrays: Arrays = {"schema": np.asarray(SCHEMA)}
    for name in _TENSORS:
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
            problem = f"holds {size} bytes: expected at most {_MAX_BYTES}"
            raise bad_run(path, problem, value=size)
        with np.load(path, allow_pickle=False) as archive:
            arrays: Arrays = {name: archive[name] for name in archive.files}
    except (FileNotFoundError, BadRun):
        raise
    except Exception as error:  # NumPy and zipfile raise almost any error for damaged files
        raise bad_run(path, f"cannot be read: {error}") from None
    check_schema(path, arrays["schema"].tolist() if "schema" in arrays else None, SCHEMA)
    count = _check(path, arrays)
    tensors = {name: torch.from_numpy(arrays[name]) for name in _TENSORS if name in arrays}
    attention = kind = None
    if "map" in arrays:
        kind = str(arrays["kind"])
        try:
            attention = _decode_map(arrays)
            _check_map(attention, count)
        except Exception as error:  # the fields of a damaged map fail in any way
            raise bad_run(path, f"has no usable attention map: {error}", "map") from None
    return Gallery(**tensors, map=attention, kind=kind)


def _check(path: Path, arrays: Arrays) -> int:
    """Check every array but those of the map, and return the number of images."""
    required = {"images", "labels", "predictions", "probabilities"} | ({"kind"} if "map" in arrays else set())
    for name in sorted(required - arrays.keys()):
        raise bad_run(path, f"lacks {name}", name)
    images = arrays["images"]
    count = int(images.shape[0]) if images.ndim else 0
    if not count or images.size == 0:
        raise bad_run(path, "holds no images", "images", images.shape)
    axes = "T H W" if images.ndim == 5 else "H W"
    forms = {
        "images": ("u1", f"K 3 {axes}"),
        "labels": ("i8", "K"),
        "predictions": ("i8", "K"),
        "probabilities": ("f4", "K classes"),
        "masks": ("b1", f"K {axes}"),
        "truth": ("u1", f"K {axes}"),
        "segments": ("u1", f"K {axes}"),
    }
    sizes = {"K": count}
    for name, (dtype, form) in forms.items():
        array = arrays.get(name)
        if array is not None and (array.dtype != dtype or not _fits(array.shape, form, sizes)):
            misfit = f"shape {array.shape} and type {array.dtype}, which do not fit {count} images"
            raise bad_run(path, f"has {name} of {misfit}", name, array.shape)
    for name in ("labels", "predictions"):
        if arrays[name].min() < 0 or arrays[name].max() >= sizes["classes"]:
            raise bad_run(path, f"has {name} outside the {sizes['classes']} classes", name)
    return count


def _fits(shape: Sequence[int], form: str, sizes: dict[str, int]) -> bool:
    """Return whether a shape has a form such as "K 3 H W"; `sizes` collects the extents of named axes."""
    axes = form.removesuffix(" ...").split()
    if len(shape) < len(axes) or (len(shape) > len(axes) and not form.endswith("...")):
        return False
    named = zip(axes, shape, strict=False)
    return all(
        extent == (int(axis) if axis.isdigit() else sizes.setdefault(axis, extent)) for axis, extent in named
    )


def _encode_map(attention: AttentionMap) -> Arrays:
    """Return the fields of a map as arrays, `map.FIELD`, and the name of its type."""
    encoded = _encode_fields(attention) if _MAPS.get(type(attention).__name__) is type(attention) else {}
    if not encoded or sum(array.nbytes for array in encoded.values()) > _MAP_BYTES:
        attention = SpatialMap(attention.saliency())
        encoded = _encode_fields(attention)
    return encoded | {"map": np.asarray(type(attention).__name__)}


def _encode_fields(attention: AttentionMap) -> Arrays:
    values = {field.name: getattr(attention, field.name) for field in fields(attention)}  # type: ignore[arg-type]
    return {f"map.{name}": _encode(value) for name, value in values.items() if value is not None}


def _encode(value: Any) -> NDArray[Any]:
    """Convert a value; of tensors, finite values beyond half precision are clipped, infinite ones kept."""
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        if value.is_floating_point() and value.numel() >= _HALF:
            limit = torch.finfo(torch.float16).max
            value = torch.where(value.isfinite(), value.clamp(-limit, limit), value).half()
        elif value.is_floating_point():
            value = value.float()
    return np.asarray(value)


def _decode_map(arrays: Mapping[str, NDArray[Any]]) -> AttentionMap:
    name = str(arrays["map"])
    if name not in _MAPS:
        raise ValueError(f"unknown type {name!r}")
    cls = _MAPS[name]
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for part in fields(cls):
        array = arrays.get(f"map.{part.name}")
        if array is None:
            continue  # a missing field without a default is a TypeError
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{part.name} of type {array.dtype}")
        if Tensor in (hints[part.name], *get_args(hints[part.name])):
            dtype = np.float32 if array.dtype.kind == "f" else np.int64
            values[part.name] = torch.from_numpy(array.astype(dtype))
        else:
            values[part.name] = _tuple(array.tolist())
    attention: AttentionMap = cls(**values)
    return attention


def _tuple(value: Any) -> Any:
    return tuple(map(_tuple, value)) if isinstance(value, list) else value


def _check_map(attention: AttentionMap, count: int) -> None:
    """Raise `ValueError` or an error of torch unless the fields of a map fit together and `count` images."""
    sizes = {"K": count}
    forms = {
        name: form for cls in type(attention).__mro__[::-1] for name, form in _FORMS.get(cls, {}).items()
    }
    for name, form in forms.items():
        tensor = getattr(attention, name)
        fits = tensor is None or _fits(tensor.shape, form, sizes)
        _require(fits, f"{name} must have the axes ({', '.join(form.split())})")
    match attention:
        case maps.PairwiseMap():
            _check_pairs(attention, sizes)
        case maps.GridMap() | maps.FixationMap():
            _require(max(attention.size) <= _MAX_SIDE, "a size that is too large")
        case maps.ChannelMap(top_channels=Tensor() as top):
            _require(0 <= int(top.min()) <= int(top.max()) < sizes["C"], "unknown channels")
        case _:
            pass
    _require(len(attention.saliency()) == count, f"a map of other than {count} images")


def _check_pairs(attention: maps.PairwiseMap, sizes: Mapping[str, int]) -> None:
    queries, keys = math.prod(attention.query_shape), math.prod(attention.key_shape)
    is_pooled = isinstance(attention, maps.WindowMap) and attention.key_places is not None
    if isinstance(attention, maps.WindowMap | maps.OffsetMap | maps.HaloMap) and not is_pooled:
        _require(attention.query_shape == attention.key_shape, "queries and keys on different grids")
    if isinstance(attention, maps.OffsetMap):
        _require(sizes["height"] % 2 == sizes["width"] % 2 == 1, "an even window")
    if isinstance(attention, maps.HaloMap):
        window = attention.block + 2 * attention.halo
        _require(attention.block >= 1 and attention.halo >= 0 and window == sizes["window"], "bad windows")
    if isinstance(attention, maps.WindowMap):
        of_keys = attention.places if attention.key_places is None else attention.key_places
        _require(of_keys.shape[1] == sizes["m"], "keys without places")
        for places, count in ((attention.places, queries), (of_keys, keys)):
            inside = places[places >= 0].sort().values
            covers = len(inside) == count and torch.equal(inside, torch.arange(count))
            _require(covers, "places that do not cover the grid once")
        full = torch.Size(sizes[axis] for axis in ("heads", "windows", "n", "m"))
    else:
        _require((queries, keys) == (sizes["Q"], sizes["N"]), "queries or keys off their grid")
        tokens = sizes.get("T", 0) + queries, sizes.get("U", 0) + keys
        full = torch.Size([sizes["K"], sizes["heads"], *tokens])
    bias = getattr(attention, "bias", None)
    fits = bias is None or (bias.ndim == 4 and torch.broadcast_shapes(bias.shape, full) == full)
    _require(fits, "a bias of another shape")


def _require(condition: bool, fault: str) -> None:
    if not condition:
        raise ValueError(fault)
