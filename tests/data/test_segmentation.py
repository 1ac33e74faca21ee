"""Test the task `segmentation`: how images and masks are read, split and cut, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.data import IGNORED, load_segmentation, load_task
from saccade.errors import BadData, BadOption
from support.errors import raises
from support.segmentation import disc, write_discs, write_pair


@pytest.fixture
def discs(tmp_path: Path) -> Path:
    return write_discs(tmp_path / "discs")


def test_images_and_masks_are_read_and_split_by_share(discs: Path) -> None:
    task = load_task(f"segmentation:{discs},size=32,val_fraction=0.2")
    assert task.classes == ("background", "foreground")
    assert task.segmentation
    assert [len(split) for split in (task.train, task.validation, task.test)] == [6, 2, 2]
    seen = 0
    for split in (task.train, task.validation, task.test):
        assert split.masks is not None
        for image, labels, mask in zip(split.images, split.labels, split.masks, strict=True):
            numbers = [n for n in range(10) if np.array_equal(image.permute(1, 2, 0), disc(n)[0])]
            assert len(numbers) == 1
            assert np.array_equal(labels, disc(numbers[0])[1])
            assert torch.equal(mask, labels == 1)
            seen += 1
    assert seen == 10
    again = load_task(f"segmentation:{discs},size=32,val_fraction=0.2,seed=1")
    assert not torch.equal(again.test.images, task.test.images)


def test_folders_of_the_parts_are_kept(tmp_path: Path) -> None:
    for part, count in {"train": 4, "val": 2, "test": 3}.items():
        write_discs(tmp_path / part, count)
    task = load_segmentation(str(tmp_path), size=16)
    assert [len(split) for split in (task.train, task.validation, task.test)] == [4, 2, 3]
    assert task.shape == (3, 16, 16)


def test_palettes_hold_classes_by_index_not_by_color(tmp_path: Path) -> None:
    for number in range(4):
        image, mask = disc(number)
        write_pair(tmp_path, str(number), image, mask)
        indexed = Image.fromarray(np.where(mask == 1, 2, 0).astype(np.uint8), mode="P")
        indexed.putpalette([200, 10, 10, 0, 0, 0, 5, 250, 5])
        indexed.save(tmp_path / "masks" / f"{number}.png")
    task = load_segmentation(str(tmp_path), size=32)
    assert task.train.labels.unique().tolist() == [0, 2]
    assert task.classes == ("class 0", "class 1", "class 2")


def test_masks_of_0_and_255_have_two_classes(tmp_path: Path) -> None:
    for number in range(4):
        image, mask = disc(number)
        write_pair(tmp_path, str(number), image, mask * 255)
    task = load_segmentation(str(tmp_path), size=32, classes=["ground", "disc"])
    assert task.train.labels.unique().tolist() == [0, 1]
    assert task.classes == ("ground", "disc")
    assert "255 is taken for a class" in task.notes[0]


@pytest.mark.parametrize("ignore", [255, 7])
def test_ignored_pixels_are_labels_of_no_class(tmp_path: Path, ignore: int) -> None:
    for number in range(4):
        image, mask = disc(number)
        mask[0] = ignore
        write_pair(tmp_path, str(number), image, mask)
    task = load_segmentation(str(tmp_path), size=32, ignore=ignore)
    assert task.classes == ("background", "foreground")
    assert (task.train.labels[:, 0] == IGNORED).all()
    assert not task.train.masks[:, 0].any()  # type: ignore[index]
    assert set(task.train.counted().tolist()) == {0, 1}


def test_tiles_cover_every_pixel_once(tmp_path: Path) -> None:
    for number in range(3):
        image, mask = disc(number, side=40)
        write_pair(tmp_path, str(number), image[:, :35], mask[:, :35])
    task = load_segmentation(str(tmp_path), size=16, tiles=True)
    tiles, labels = task.test.images, task.test.labels
    assert tiles.shape == (9, 3, 16, 16)
    whole = tiles.view(3, 3, 3, 16, 16).permute(2, 0, 3, 1, 4).reshape(3, 48, 48)
    classes = labels.view(3, 3, 16, 16).permute(0, 2, 1, 3).reshape(48, 48)
    match = [
        n for n in range(3) if np.array_equal(whole[:, :40, :35].permute(1, 2, 0), disc(n, 40)[0][:, :35])
    ]
    assert len(match) == 1
    assert np.array_equal(classes[:40, :35], disc(match[0], 40)[1][:, :35])
    assert (classes[40:] == IGNORED).all()
    assert (classes[:, 35:] == IGNORED).all()


def test_chance_is_the_error_of_the_most_frequent_class(discs: Path) -> None:
    task = load_segmentation(str(discs), size=32)
    background = (task.test.labels == 0).double().mean().item()
    assert task.chance_error() == pytest.approx(1 - (background + 0) / 2)


def test_unreadable_images_can_be_skipped(discs: Path) -> None:
    (discs / "images" / "03.png").write_bytes(b"no image")
    with pytest.raises(BadData, match=r"03\.png"):
        load_segmentation(str(discs))
    task = load_segmentation(str(discs), on_bad_image="skip")
    assert sum(len(split) for split in (task.train, task.validation, task.test)) == 9
    assert "03.png" in task.skipped[0]


class TestRefusals:
    def test_an_image_without_its_mask(self, discs: Path) -> None:
        (discs / "masks" / "04.png").unlink()
        with raises(BadData, option="masks", value="04.png"):
            load_segmentation(str(discs))

    def test_a_mask_of_another_size(self, discs: Path) -> None:
        Image.new("L", (32, 20)).save(discs / "masks" / "04.png")
        with raises(BadData, option="size", value=(20, 32)):
            load_segmentation(str(discs))

    def test_a_class_out_of_range(self, discs: Path) -> None:
        Image.new("L", (32, 32), 5).save(discs / "masks" / "04.png")
        with raises(BadData, option="value", value=5):
            load_segmentation(str(discs), classes=["ground", "disc"])

    def test_colors(self, discs: Path) -> None:
        Image.new("RGB", (32, 32), (0, 200, 0)).save(discs / "masks" / "04.png")
        with raises(BadData, option="mode", value="RGB"):
            load_segmentation(str(discs))

    def test_lossy_masks(self, discs: Path) -> None:
        (discs / "masks" / "04.png").unlink()
        Image.new("L", (32, 32)).save(discs / "masks" / "04.jpg")
        with raises(BadData, option="masks", value="JPEG"):
            load_segmentation(str(discs))

    def test_masks_without_a_class(self, tmp_path: Path) -> None:
        for number in range(3):
            write_pair(tmp_path, str(number), disc(number)[0], np.full((32, 32), 9, np.uint8))
        with raises(BadData, option="ignore", value=9):
            load_segmentation(str(tmp_path), ignore=9)

    def test_a_single_class(self, tmp_path: Path) -> None:
        for number in range(3):
            write_pair(tmp_path, str(number), disc(number)[0], np.zeros((32, 32), np.uint8))
        with raises(BadData, option="classes", value="background"):
            load_segmentation(str(tmp_path))

    def test_folders_that_are_missing(self, tmp_path: Path) -> None:
        with raises(BadData, option="folder", value="images"):
            load_segmentation(str(tmp_path))
        with raises(BadData, option="path", value="nowhere"):
            load_segmentation("nowhere")

    @pytest.mark.parametrize(("option", "value"), [("ignore", 256), ("classes", ["one"]), ("size", 0)])
    def test_options_out_of_range(self, discs: Path, option: str, value: object) -> None:
        with raises(BadOption, option=option, value=value):
            load_segmentation(str(discs), **{option: value})  # type: ignore[arg-type]

    def test_too_few_images(self, tmp_path: Path) -> None:
        with raises(BadData, option="train", value=0):
            load_segmentation(str(write_discs(tmp_path, 2)))
