"""gallery.npz: every kind of map is restored, and damaged or hostile files are refused with one sentence."""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from saccade.errors import BadRun
from saccade.maps import (
    AdditiveMap,
    AttentionMap,
    BranchMap,
    ChannelMap,
    ClassTokenMap,
    CrissCrossMap,
    DotProductMap,
    FixationMap,
    GridMap,
    HaloMap,
    NeighborhoodMap,
    OffsetMap,
    PairwiseMap,
    RectifiedSumMap,
    SpatialMap,
    TemporalMap,
    TokenMap,
    WindowMap,
)
from saccade.results import GALLERY, Gallery, gallery, read_gallery, write_gallery
from support.errors import raises

K = 3


def every_map() -> dict[str, AttentionMap]:
    """One map of each type, of K images on 3 x 4 positions."""
    torch.manual_seed(0)
    q, k = torch.randn(K, 2, 12, 4), torch.randn(K, 2, 12, 4)
    factors: tuple[Any, ...] = (q, k, 0.5, (3, 4), (3, 4))
    extra: tuple[Any, ...] = torch.randn(K, 2, 1, 4), torch.randn(K, 2, 1, 4)
    windows = torch.randn(K, 2, 2, 6, 4)
    places = torch.tensor([[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]])
    x = torch.randn(K, 10, 3, 4)
    bias = torch.randn(1, 2, 13, 13)
    bias[..., 2] = -torch.inf
    maps: list[AttentionMap] = [
        PairwiseMap(*factors),
        DotProductMap(*factors),
        RectifiedSumMap(q[..., :1], k[..., :1], 0.5, (3, 4), (3, 4)),
        AdditiveMap(*(*factors, torch.randn(K, 4))),
        TokenMap(*(*factors, *extra, bias)),
        ClassTokenMap(*(*factors, *extra)),
        WindowMap(windows, windows, 0.5, (3, 4), (3, 4), places=places, bias=torch.randn(2, 1, 6, 6)),
        CrissCrossMap(*(*factors, (3, 4))),
        HaloMap(*(*factors, torch.randn(K, 2, 12, 3), torch.randn(K, 2, 12, 3), 1, 1)),
        OffsetMap(*(*factors, torch.randn(K, 2, 4, 3, 3))),
        NeighborhoodMap(*(*factors, (3, 4), 2)),
        ChannelMap.of(torch.rand(K, 10), x),
        BranchMap.of(torch.rand(K, 2, 10), [x, x + 1]),
        SpatialMap(torch.rand(K, 3, 4)),
        GridMap(torch.rand(K, 5, 6, 2) * 2 - 1, size=(3, 4), align_corners=True),
        TemporalMap.of(torch.rand(K, 10, 5), torch.rand(K, 10, 3), torch.randn(K, 10, 5, 3, 4)),
        FixationMap(torch.rand(K, 3, 2), extents=((0.5, 0.25), (1.0, 0.5)), size=(6, 8)),
    ]
    pooled = WindowMap(
        windows[:, :, :, :1],
        windows,
        0.5,
        (1, 2),
        (3, 4),
        torch.tensor([[0], [1]]),
        bias[:, :, :1, :6],
        places,
    )
    return {type(each).__name__: each for each in maps} | {"pooled WindowMap": pooled}


def make(attention: AttentionMap | None, **other: Any) -> Gallery:
    probabilities = torch.tensor([[0.9, 0.1]] * K)
    return replace(
        Gallery(
            torch.randint(0, 256, (K, 3, 6, 8), dtype=torch.uint8),
            torch.tensor([0, 1, 0]),
            torch.zeros(K, dtype=torch.int64),
            probabilities,
            torch.rand(K, 6, 8) > 0.5,
            attention,
        ),
        **other,
    )


def rewrite(folder: Path, **changes: Any) -> None:
    """Replace arrays of a gallery; None removes one."""
    with np.load(folder / GALLERY) as archive:
        arrays = {name: archive[name] for name in archive.files} | {
            name.replace("__", "."): value for name, value in changes.items()
        }
    kept = {name: value for name, value in arrays.items() if value is not None}
    np.savez(folder / GALLERY, **kept)


@pytest.mark.parametrize("name", every_map())
def test_every_kind_of_map_is_read_as_it_was_written(name: str, tmp_path: Path) -> None:
    attention = every_map()[name]
    written = make(attention)
    write_gallery(tmp_path, written)
    found = read_gallery(tmp_path)
    for field in ("images", "labels", "predictions", "probabilities", "masks"):
        assert torch.equal(getattr(found, field), getattr(written, field)), field
    assert found.kind == attention.kind
    assert type(found.map) is type(attention)
    for each in fields(attention):  # type: ignore[arg-type]
        value, expected = getattr(found.map, each.name), getattr(attention, each.name)
        if isinstance(expected, Tensor):
            assert torch.equal(value, expected), each.name
        else:
            assert value == expected, each.name
            assert type(value) is type(expected), each.name
    torch.testing.assert_close(found.map.saliency(), attention.saliency())


def test_clips_masks_and_models_without_attention(tmp_path: Path) -> None:
    clips = torch.randint(0, 256, (K, 3, 4, 6, 8), dtype=torch.uint8)
    write_gallery(
        tmp_path, make(SpatialMap(torch.rand(K, 4, 6, 8)), images=clips, masks=torch.rand(K, 4, 6, 8) > 0.5)
    )
    found = read_gallery(tmp_path)
    assert torch.equal(found.images, clips)
    assert found.map is not None
    assert found.map.saliency().shape == (K, 4, 6, 8)
    write_gallery(tmp_path, make(None, masks=None))
    found = read_gallery(tmp_path)
    assert (found.map, found.kind, found.masks) == (None, None, None)


def test_large_tensors_take_half_precision_and_larger_maps_their_saliency(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = every_map()["PairwiseMap"]
    monkeypatch.setattr(gallery, "_HALF", 1)
    huge = make(SpatialMap(torch.tensor([1e9, -torch.inf, 0.1]).reshape(K, 1, 1)))
    write_gallery(tmp_path, huge)
    found = read_gallery(tmp_path).map
    assert isinstance(found, SpatialMap)
    assert found.weights.flatten().tolist() == pytest.approx([65504, -torch.inf, 0.1], rel=1e-3)
    assert found.weights.dtype == torch.float32
    monkeypatch.setattr(gallery, "_MAP_BYTES", 2 * 2 * K * 2 * 12 * 4 - 1)
    write_gallery(tmp_path, make(attention))
    stored = read_gallery(tmp_path)
    assert type(stored.map) is SpatialMap
    assert stored.kind == "pairwise"
    torch.testing.assert_close(stored.map.saliency(), attention.saliency(), atol=1e-3, rtol=1e-2)


def test_maps_of_other_packages_are_stored_as_their_saliency(tmp_path: Path) -> None:
    class PairwiseMap(SpatialMap):  # the name alone does not decide
        kind = "own"

    write_gallery(tmp_path, make(PairwiseMap(torch.rand(K, 3, 4))))
    found = read_gallery(tmp_path)
    assert (type(found.map), found.kind) == (SpatialMap, "own")


def test_a_missing_gallery_is_no_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_gallery(tmp_path)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"labels": None}, "labels"),
        ({"kind": None}, "kind"),
        ({"images": np.zeros((0, 3, 6, 8), np.uint8)}, "images"),
        ({"images": np.zeros((K, 3, 6, 8), np.float32)}, "images"),
        ({"images": np.zeros((K, 6, 8, 3), np.uint8)}, "images"),
        ({"labels": np.zeros(K + 1, np.int64)}, "labels"),
        ({"labels": np.array([0, 1, 7])}, "labels"),
        ({"predictions": np.full(K, -1)}, "predictions"),
        ({"probabilities": np.zeros((K,), np.float32)}, "probabilities"),
        ({"masks": np.zeros((K, 6, 9), bool)}, "masks"),
        ({"schema": np.asarray(1)}, "schema"),
        ({"schema": None}, "schema"),
        ({"map": np.asarray("Path")}, "map"),
        ({"map__queries": None}, "map"),
        ({"map__keys": np.zeros((K, 2, 12, 5), np.float32)}, "map"),
        ({"map__keys": np.array([["a"]])}, "map"),
        ({"map__queries": np.zeros((K - 1, 2, 12, 4), np.float32)}, "map"),
        ({"map__query_shape": np.array([10**9, 10**9])}, "map"),
        ({"map__scale": np.array([[0.5]])}, "map"),
    ],
)
def test_arrays_that_do_not_fit_together(tmp_path: Path, changes: dict[str, Any], option: str) -> None:
    write_gallery(tmp_path, make(every_map()["PairwiseMap"]))
    rewrite(tmp_path, **changes)
    with raises(BadRun, owner=str(tmp_path / GALLERY), option=option):
        read_gallery(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("WindowMap", {"map__places": np.full((2, 6), 11)}),
        ("WindowMap", {"map__places": np.arange(12).reshape(2, 6) + 10**9}),
        ("WindowMap", {"map__bias": np.zeros((2, 1, 7, 6), np.float32)}),
        ("TokenMap", {"map__bias": np.zeros((1, 2, 12, 13), np.float32)}),
        ("AdditiveMap", {"map__direction": np.zeros((K, 5), np.float32)}),
        ("ChannelMap", {"map__top_channels": np.full((K, 8), 10)}),
        ("ChannelMap", {"map__weights": np.zeros((1, 10), np.float32)}),
        ("BranchMap", {"map__weights": np.zeros((K, 10), np.float32)}),
        ("GridMap", {"map__size": np.array([10**6, 10**6])}),
        ("GridMap", {"map__grid": np.zeros((K, 5, 6, 3), np.float32)}),
        ("FixationMap", {"map__size": np.array([10**6, 10**6])}),
        ("FixationMap", {"map__locations": np.zeros((K, 3), np.float32)}),
        ("SpatialMap", {"map__weights": np.zeros((K + 1, 3, 4), np.float32)}),
        ("TemporalMap", {"map__gates": np.zeros((K, 10, 4), np.float32)}),
        ("TemporalMap", {"map__kernels": np.zeros((K, 9, 3), np.float32)}),
        ("TemporalMap", {"map__kernels": np.zeros((K, 10), np.float32)}),
        ("OffsetMap", {"map__offsets": np.zeros((K, 2, 4, 2, 2), np.float32)}),
        ("OffsetMap", {"map__offsets": np.zeros((K, 2, 5, 3, 3), np.float32)}),
        ("HaloMap", {"map__block": np.asarray(2)}),
        ("HaloMap", {"map__row_logits": np.zeros((K, 2, 11, 3), np.float32)}),
        ("pooled WindowMap", {"map__key_places": np.full((2, 6), 11)}),
        ("pooled WindowMap", {"map__key_places": None}),
    ],
)
def test_fields_of_maps_that_do_not_fit_together(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    write_gallery(tmp_path, make(every_map()[name]))
    rewrite(tmp_path, **changes)
    with raises(BadRun, owner=str(tmp_path / GALLERY), option="map"):
        read_gallery(tmp_path)


def test_files_that_are_damaged_or_hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / GALLERY
    for content in (b"", b"PK\3\4", b"no archive", pickle.dumps(_Evil())):
        path.write_bytes(content)
        with raises(BadRun, owner=str(path)):
            read_gallery(tmp_path)
    write_gallery(tmp_path, make(every_map()["PairwiseMap"]))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with raises(BadRun, owner=str(path)):
        read_gallery(tmp_path)
    path.write_bytes(whole)
    with np.load(path) as archive:
        arrays: dict[str, Any] = dict(archive)
    np.savez(path, **(arrays | {"labels": np.array([_Evil()] * K, object)}))
    with raises(BadRun, owner=str(path)):
        read_gallery(tmp_path)
    path.write_bytes(whole)
    monkeypatch.setattr(gallery, "_MAX_BYTES", 1000)
    with raises(BadRun, owner=str(path)):
        read_gallery(tmp_path)


def test_an_array_whose_header_lies_about_its_size(tmp_path: Path) -> None:
    path = tmp_path / GALLERY
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000,), }"
    header = header.ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "images.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0"
        )
    with raises(BadRun, owner=str(path)):
        read_gallery(tmp_path)
