"""Decoding in threads, the cache of decoded folders, and normalization in little memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import sys
import time
import tracemalloc
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from saccade.config import Recipe
from saccade.data import Split, Task, load_folder, load_task
from saccade.data.decoding import Sample, _map_file, available_cpus, cache_key, decode_samples
from saccade.data.images import BadImage, read_image
from saccade.data.task import moments
from saccade.errors import BadData, BadOption
from saccade.training import train
from support.errors import raises

# --------------------------------------------------------------------------------------------- threads


def read(number: int) -> Sample:
    """Return an image whose gray level is its number, after a random delay; every fifth is unreadable."""
    time.sleep(random.Random(number).random() * 0.004)
    if number % 5 == 4:
        raise BadImage(f"image {number} is bad", value=number)
    return Sample(np.full((2, 2, 3), number, np.uint8), number)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_order_and_errors_are_those_of_one_thread(workers: int) -> None:
    bad: list[str] = []
    samples = [*decode_samples(read, range(120), workers, "skip", bad)]
    assert [sample.label for sample in samples] == [number for number in range(120) if number % 5 != 4]
    assert all((sample.image == sample.label).all() for sample in samples)
    assert bad == [f"image {number} is bad" for number in range(4, 120, 5)]
    before = []
    with raises(BadImage, value=4):
        before += [sample.label for sample in decode_samples(read, range(120), workers, "fail", [])]


@pytest.mark.parametrize("workers", [1, 3])
def test_another_error_ends_it_at_once(workers: int) -> None:
    begun = []

    def fail(number: int) -> Sample:
        begun.append(number)
        if number == 3:
            raise ZeroDivisionError
        return Sample(np.zeros((1, 1, 3), np.uint8), 0)

    with pytest.raises(ZeroDivisionError):
        [*decode_samples(fail, range(10_000), workers, "skip", [])]
    assert len(begun) < 100


def test_threads_run_at_the_same_time_and_no_further_ahead_than_asked() -> None:
    begun: list[int] = []

    def wait(number: int) -> Sample:
        begun.append(number)
        time.sleep(0.01)
        return Sample(np.zeros((1, 1, 3), np.uint8), number)

    samples = decode_samples(wait, range(200), 10, "fail", [])
    next(samples)
    time.sleep(0.2)  # enough for all of them
    assert len(begun) <= 80
    begin = time.perf_counter()
    assert len([*samples]) == 199
    assert time.perf_counter() - begin < 0.9  # those that are left take 1.2 s one after another


def test_as_many_threads_as_this_process_may_use() -> None:
    assert available_cpus() == len(os.sched_getaffinity(0))


# ----------------------------------------------------------------------------------------------- folders


def write(place: Path, count: int = 20, side: int = 40) -> Path:
    """Write a folder of two classes with images of noise."""
    for index in range(count):
        file = place / "ab"[index % 2] / f"{index}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (side, side + 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    return place


def splits(task: Task) -> tuple[Split, Split, Split]:
    return task.train, task.validation, task.test


def same(one: Task, other: Task) -> bool:
    pairs = zip(splits(one), splits(other), strict=True)
    return all(
        torch.equal(a.images, b.images)
        and torch.equal(a.labels, b.labels)
        and (a.masks is None) == (b.masks is None)
        and (a.masks is None or b.masks is None or torch.equal(a.masks, b.masks))
        for a, b in pairs
    )


def refuse(*_: object) -> Any:
    raise AssertionError("an image was decoded")


def test_a_folder_read_by_several_threads(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "a" / "2.jpg").write_bytes(b"none")
    (tmp_path / "b" / "9.jpg").write_bytes(b"none")
    one, more = (load_folder(str(tmp_path), size=16, on_bad_image="skip", workers=n) for n in (1, 4))
    assert same(one, more)
    assert len(one.skipped) == 2
    assert one.skipped == more.skipped
    for option, value in {"workers": 0, "seed": -1}.items():
        with raises(BadOption, owner="folder", option=option, value=value):
            load_folder(str(tmp_path), **{option: value})  # type: ignore[arg-type]


def test_a_cached_folder_is_the_folder_and_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, cache = str(write(tmp_path / "images")), str(tmp_path / "cache")
    plain = load_folder(place, size=16)
    first = load_folder(place, size=16, cache=cache)
    assert same(plain, first)
    monkeypatch.setattr(sys.modules["saccade.data.folder"], "read_image", refuse)
    again = load_task(f"folder:{place},size=16,cache={cache}")
    assert same(plain, again)
    for one, other in zip(plain.normalization(), again.normalization(), strict=True):
        assert torch.equal(one, other)
    monkeypatch.setattr("saccade.data.task.moments", refuse)
    again = load_folder(place, size=16, cache=cache)
    assert torch.equal(again.normalization()[0], plain.normalization()[0])


def more(place: Path) -> None:
    (place / "a" / "20.jpg").write_bytes((place / "a" / "0.jpg").read_bytes())


def other(place: Path) -> None:
    (place / "a" / "0.jpg").write_bytes((place / "a" / "2.jpg").read_bytes())


def label(place: Path) -> None:
    (place / "a" / "0.jpg").rename(place / "b" / "0.jpg")


def masks(place: Path) -> None:
    write(place.with_name("masks"))


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"size": 17}, None),
        ({"seed": 1}, None),
        ({"max_samples": 5}, None),
        ({"val_fraction": 0.4}, None),
        ({}, more),
        ({}, other),
        ({}, label),
        ({"masks": "masks"}, masks),
    ],
)
def test_what_determines_a_split_names_its_cache(
    options: dict[str, Any],
    change: Callable[[Path], None] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    place = write(Path("images"))
    load_folder("images", size=16, cache="cache")
    if change is not None:
        change(place)
    options = {"size": 16, **options}
    cached, plain = load_folder("images", cache="cache", **options), load_folder("images", **options)
    assert same(cached, plain)
    assert all(map(torch.equal, cached.normalization(), plain.normalization()))


def test_labels_and_masks_are_part_of_the_name(tmp_path: Path) -> None:
    one, other = (tmp_path / name for name in ("one", "other"))
    one.write_text("")
    items: list[tuple[Path | None, Path | None, int]] = [
        (one, None, 0),
        (one, None, 1),
        (one, other, 0),
        (one, one, 0),
        (other, None, 0),
    ]
    keys = {cache_key("name", 16, [item]) for item in items}
    assert len(keys) == 5
    other.write_text("")  # it was not there
    assert cache_key("name", 16, items[2:3]) not in keys


def test_images_that_the_cache_lacks_are_named_again(tmp_path: Path) -> None:
    place, cache = write(tmp_path / "images"), str(tmp_path / "cache")
    (place / "a" / "2.jpg").write_bytes(b"none")
    with raises(BadImage, value=repr(str(place / "a" / "2.jpg"))):
        load_folder(str(place), size=16, cache=cache)
    assert len([path for path in Path(cache).iterdir() if path.is_dir()]) < 3
    assert not [*Path(cache).glob(".*.partial")]
    first, again = (load_folder(str(place), size=16, cache=cache, on_bad_image="skip") for _ in range(2))
    assert len(first.skipped) == 1
    assert first.skipped == again.skipped
    assert same(first, again)
    with raises(BadImage, option="on_bad_image", value="fail") as caught:
        load_folder(str(place), size=16, cache=cache)
    assert "a/2.jpg' cannot be read" in str(caught.value)


def test_caches_that_cannot_be_used(tmp_path: Path) -> None:
    place, cache = write(tmp_path / "images"), tmp_path / "cache"
    (tmp_path / "file").write_text("")
    with raises(BadData, option="cache", value=str(tmp_path / "file")):
        load_folder(str(place), cache=str(tmp_path / "file"))
    load_folder(str(place), size=16, cache=str(cache))
    (train_images,) = cache.glob("*-train-*/images")
    os.truncate(train_images, 100)
    fields = {"owner": str(train_images.parent), "option": "cache", "value": str(cache)}
    with pytest.raises(
        BadData
    ) as caught:  # the sentence names the folder, which depends on the times of files
        load_folder(str(place), size=16, cache=str(cache))
    assert {name: getattr(caught.value, name) for name in fields} == fields
    assert str(caught.value).endswith("(images holds 100 bytes, not 9216); remove it")


FORK = multiprocessing.get_context("fork")


def read_slowly(place: Path, cache: Path, pipe: Connection) -> None:
    """Read a folder slowly, with a cache; send the name of each file, then the number of images."""

    def slow(file: Path) -> Any:
        pipe.send(file.name)
        time.sleep(0.05)
        return read_image(file)

    vars(sys.modules["saccade.data.folder"])["read_image"] = slow
    pipe.send(len(load_folder(str(place), size=16, cache=str(cache), workers=1).train))


def start(place: Path, cache: Path) -> tuple[ForkProcess, Connection]:
    """Start a process that reads slowly."""
    here, there = FORK.Pipe(duplex=False)
    process = FORK.Process(target=read_slowly, args=(place, cache, there))
    process.start()
    there.close()
    return process, here


def received(pipe: Connection) -> list[Any]:
    """Return what a process sends until its end."""
    messages = []
    with contextlib.suppress(EOFError):
        while True:
            messages.append(pipe.recv())
    return messages


def test_a_process_that_is_killed_leaves_no_half_of_a_cache(tmp_path: Path) -> None:
    place, cache = write(tmp_path / "images", 30), tmp_path / "cache"
    process, pipe = start(place, cache)
    assert all(pipe.recv().endswith(".jpg") for _ in range(8))
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (half,) = (path for path in cache.iterdir() if path.is_dir())
    assert half.name.endswith(".partial")
    assert same(load_folder(str(place), size=16, cache=str(cache)), load_folder(str(place), size=16))
    names = sorted(path.name.split("-")[1] for path in cache.iterdir() if path.is_dir())
    assert names == ["test", "train", "validation"]


def test_of_several_processes_one_decodes(tmp_path: Path) -> None:
    place, cache = write(tmp_path / "images", 20), tmp_path / "cache"
    started = [start(place, cache) for _ in range(2)]
    messages = [received(pipe) for _, pipe in started]
    for process, _ in started:
        process.join()
        assert process.exitcode == 0
    assert [count for *_, count in messages] == [12, 12]
    assert sum(len(files) for *files, _ in messages) == 20


def test_a_cache_is_not_held_in_memory(tmp_path: Path) -> None:
    number = 160  # images that outweigh what a process needs for anything else
    place, cache = write(tmp_path / "images", number, 64), str(tmp_path / "cache")
    used = {}
    for name, where in (("plain", None), ("write", cache), ("read", cache)):
        tracemalloc.start()
        load_folder(str(place), size=128, cache=where, workers=1)
        used[name] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    whole = number * 3 * 128 * 128
    assert used["plain"] > whole * 0.6  # that of the training images
    assert used["write"] < whole / 8
    assert used["read"] < whole / 8


def test_a_file_larger_than_memory_can_be_mapped(tmp_path: Path) -> None:
    shape = (2**20, 3, 640, 640)  # 1.3 TB, of which the file system keeps a hole and a byte
    size = int(np.prod(shape))
    with (tmp_path / "images").open("wb") as file:
        file.seek(size - 1)
        file.write(b"\7")
    images = _map_file(tmp_path / "images", shape, np.uint8)
    assert images.shape == shape
    assert images[-1, -1, -1, -3:].tolist() == [0, 0, 7]
    assert images[[5, 2**19]].sum() == 0


def test_a_run_from_a_cache_is_that_from_memory(tmp_path: Path) -> None:
    place = write(tmp_path / "images", 30)
    tasks = (f"folder:{place},size=16", f"folder:{place},size=16,cache={tmp_path / 'cache'}")
    one, other = (
        train(Recipe(task=task, epochs=1, batch_size=6), tmp_path / str(number))
        for number, task in enumerate(tasks)
    )
    assert one["curves"] == other["curves"]
    assert one["loss"] == other["loss"]


# ---------------------------------------------------------------------------------------- normalization


@pytest.mark.parametrize("shape", [(50, 3, 9, 7), (20, 3, 4, 9, 7), (1, 3, 1, 2)])
def test_moments_are_those_of_the_plain_formula(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "saccade.data.task._CHUNK", 1000
    )  # so that there are several chunks, the last one short
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, 1] //= 100
    pixels = (images.double() / 255).transpose(0, 1).flatten(1)
    mean, std = moments(images)
    torch.testing.assert_close(mean.double(), pixels.mean(1), rtol=0, atol=1e-6)
    torch.testing.assert_close(std.double(), pixels.std(1).clamp_min(1e-3), rtol=0, atol=1e-6)
    assert mean.dtype == std.dtype == torch.float32


def test_moments_of_one_grey_level() -> None:
    mean, std = moments(torch.full((1000, 3, 8, 8), 200, dtype=torch.uint8))
    assert mean.tolist() == pytest.approx([200 / 255] * 3)
    assert std.tolist() == pytest.approx([1e-3] * 3)


def test_the_normalization_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def count(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        calls.append(len(images))
        return moments(images)

    monkeypatch.setattr("saccade.data.task.moments", count)
    task = load_task("digits:max_samples=30")
    task.__dict__.pop("_moments", None)  # another test may have loaded it
    one, other = task.normalization(), task.normalization()
    assert calls == [30]
    one[0].zero_()  # what a network does with its buffers
    assert torch.equal(task.normalization()[0], other[0])
    assert other[0].min() > 0


class Largest(TorchDispatchMode):
    """Notes the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result._base is None:
            self.bytes = max(self.bytes, result.numel() * result.element_size())
        return result


def test_the_normalization_needs_little_memory() -> None:
    images = torch.zeros(400, 3, 256, 256, dtype=torch.uint8)
    with Largest() as largest:
        moments(images)
    assert 2**20 < largest.bytes < images.numel() / 4
