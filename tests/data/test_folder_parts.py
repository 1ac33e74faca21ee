"""Folders that the user has split: ImageNet's layout and others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NoReturn

import pytest

from saccade.data import load_task
from saccade.errors import BadData, BadOption
from support.errors import raises
from support.images import write_images


def load(root: Path) -> tuple[tuple[str, ...], list[int], tuple[str, ...]]:
    task = load_task(f"folder:{root},size=16")
    return task.classes, [len(split) for split in (task.train, task.validation, task.test)], task.notes


def parts(*names: str) -> list[str]:
    return [f"{part}/{name}" for part in names for name in ("cat", "dog")]


@pytest.mark.parametrize(
    ("names", "counts", "is_noted"),
    [
        (("train", "val"), [20, 4, 24], True),
        (("train", "valid"), [20, 4, 24], True),
        (("train", "test"), [20, 4, 24], False),
        (("train", "val", "test"), [24, 24, 24], False),
        (("training", "validation", "testing"), [24, 24, 24], False),
        (("Train", "Val"), [20, 4, 24], True),
        (("train",), [16, 4, 4], False),
    ],
)
def test_parts(names: tuple[str, ...], counts: list[int], is_noted: bool, tmp_path: Path) -> None:
    classes, found, notes = load(write_images(tmp_path / "x", parts(*names)))
    assert classes == ("cat", "dog")
    assert found == counts
    assert bool(notes) == is_noted


def test_classes_without_parts(tmp_path: Path) -> None:
    assert load(write_images(tmp_path / "x", ["cat", "dog"])) == (("cat", "dog"), [16, 4, 4], ())


@pytest.mark.parametrize("names", [("val", "test"), ("val",), ("test",)])
def test_parts_are_never_classes(names: tuple[str, ...], tmp_path: Path) -> None:
    root = write_images(tmp_path / "x", [*parts(*names), "control"])
    with raises(BadData, owner=str(root), option="classes"):
        load(root)


def test_a_path_with_a_comma_and_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_images(tmp_path / "one, two", ["cat", "dog"])
    assert load_task("folder:'~/one, two',size=16").classes == ("cat", "dog")
    assert load_task('folder:"~/one, two",size=16').classes == ("cat", "dog")


def test_an_unreadable_subfolder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_images(tmp_path / "x", ["cat", "dog/brown", "dog/black"])
    scan = os.scandir

    def scandir(path: Any) -> Any:
        def refuse() -> NoReturn:
            raise PermissionError(13, "Permission denied", str(path))

        return refuse() if str(path).endswith("brown") else scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with raises(BadData, owner=str(root / "dog"), value=str(root / "dog" / "brown")):
        load(root)


def test_a_pipe_in_place_of_an_image(tmp_path: Path) -> None:
    root = write_images(tmp_path / "x", ["cat", "dog"])
    os.mkfifo(root / "cat" / "pipe.png")
    with raises(BadData):
        load(root)
    task = load_task(f"folder:{root},size=16,on_bad_image=skip")
    assert len(task.skipped) == 1
    assert "pipe.png" in task.skipped[0]


def test_images_that_exceed_the_memory(tmp_path: Path) -> None:
    root = write_images(tmp_path / "x", ["cat", "dog"])
    with raises(BadOption, option="size", value=1_000_000):
        load_task(f"folder:{root},size=1000000")
