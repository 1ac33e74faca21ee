"""Tasks: deterministic, balanced, split by photograph, with clear errors for unusable input."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.data import Split, Task, load_folder, load_task, load_white_patch, resolve_task
from saccade.data.images import BadImage, read_image
from saccade.data.white_patch import BUNDLED, bundled_photographs, enlarge
from saccade.errors import BadData, BadOption, UnknownName
from support.errors import raises

SMALL: dict[str, Any] = {"size": 32, "patch": (4, 8), "train": 20, "validation": 10, "test": 10}


def photograph(path: Path, seed: int, size: tuple[int, int] = (40, 30)) -> Path:
    """Write a photograph of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 200, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_bundled_photographs_serve_one_split_each() -> None:
    for one, other in combinations(BUNDLED.values(), 2):
        assert not set(one) & set(other)
    photographs = bundled_photographs()
    for split, names in BUNDLED.items():
        assert len(photographs[split]) == len(names)
        assert all(p.ndim == 3 and p.shape[2] == 3 and min(p.shape[:2]) >= 300 for p in photographs[split])


def test_same_seed_same_task_and_another_seed_another() -> None:
    one, again, other = (
        load_white_patch(**SMALL),
        load_white_patch(**SMALL),
        load_white_patch(**SMALL, seed=1),
    )
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(one, part).images, getattr(again, part).images)
        assert torch.equal(getattr(one, part).labels, getattr(again, part).labels)
        assert not torch.equal(getattr(one, part).images, getattr(other, part).images)


def test_generation_leaves_global_generators_alone() -> None:
    np.random.seed(3)
    torch.manual_seed(3)
    expected = np.random.random(), torch.rand(1)
    np.random.seed(3)
    torch.manual_seed(3)
    load_white_patch(**SMALL)
    assert (np.random.random(), torch.rand(1)) == expected


def test_half_of_the_crops_hold_a_white_square_where_the_mask_says() -> None:
    task = load_white_patch(size=48, patch=(5, 9), train=60, validation=10, test=10)
    split = task.train
    assert split.masks is not None
    assert split.images.dtype == torch.uint8
    assert split.images.shape == (60, 3, 48, 48)
    assert split.labels.sum() == 30
    sides = set()
    for image, label, mask in zip(split.images, split.labels, split.masks, strict=True):
        rows, columns = mask.any(1).sum().item(), mask.any(0).sum().item()
        if label:
            assert rows == columns
            assert mask.sum() == rows * columns  # one solid square
            assert (image[:, mask] == 255).all()
            sides.add(rows)
        else:
            assert not mask.any()
    assert sides == {5, 6, 7, 8, 9}


def test_contrast_and_level_make_it_harder() -> None:
    plain = load_white_patch(**SMALL)
    gray = load_white_patch(**SMALL, level=100, contrast=0.5)
    assert plain.train.masks is not None
    mask = plain.train.masks.unsqueeze(1).expand_as(plain.train.images)
    assert torch.equal(plain.train.images[~mask], gray.train.images[~mask])
    assert gray.train.images[mask].float().std() > 5  # the photograph shows through
    assert gray.train.images[mask].max() < 180


def test_normalization_is_that_of_the_training_images() -> None:
    mean, std = (task := load_white_patch(**SMALL)).normalization()
    pixels = task.train.images.double() / 255
    torch.testing.assert_close(mean.double(), pixels.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(std.double(), pixels.std((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert task.chance_error() == 0.5


def test_white_patch_over_a_folder_never_shares_a_photograph(tmp_path: Path) -> None:
    for index in range(6):  # one gray level per photograph identifies its crops
        Image.fromarray(np.full((40, 40, 3), 20 * index, np.uint8)).save(tmp_path / f"{index}.png")
    task = load_white_patch(source=str(tmp_path), **SMALL)
    levels = [
        set(split.images[:, 0].unique().tolist()) - {255}
        for split in (task.train, task.validation, task.test)
    ]
    assert set.union(*levels) == {0, 20, 40, 60, 80, 100}
    assert sum(map(len, levels)) == 6


def test_small_photographs_are_enlarged(tmp_path: Path) -> None:
    for index in range(3):
        photograph(tmp_path / f"{index}.png", index, (10, 20))
    assert load_white_patch(source=str(tmp_path), **SMALL).train.images.shape == (20, 3, 32, 32)
    assert enlarge(np.zeros((10, 20, 3), np.uint8), 32).shape == (32, 64, 3)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "CMYK"])
def test_images_of_every_mode_become_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "tif" if mode == "CMYK" else "png"
    image = (
        Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)
        if mode == "I;16"
        else Image.new(mode, (8, 8))
    )
    image.save(tmp_path / f"image.{suffix}")
    assert read_image(tmp_path / f"image.{suffix}").shape == (8, 8, 3)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16)).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png")[0, :, 0].tolist() == [0, 128, 255]


def test_exif_orientation_is_obeyed(tmp_path: Path) -> None:
    image = Image.new("RGB", (20, 10))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by a quarter
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (20, 10, 3)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("size", 0),
        ("train", -1),
        ("patch", (9, 8)),
        ("patch", (4, 33)),
        ("patch", (4,)),
        ("level", 256),
        ("contrast", 0),
        ("seed", -1),
    ],
)
def test_bad_options_are_named(option: str, value: object) -> None:
    with raises(BadOption, owner="white-patch", option=option, value=value):
        load_white_patch(**{**SMALL, option: value})


def test_bad_folders_are_named(tmp_path: Path) -> None:
    with raises(BadData, value="/nowhere"):
        load_white_patch(source="/nowhere", **SMALL)
    with raises(BadData, owner=str(tmp_path)):
        load_white_patch(source=str(tmp_path), **SMALL)
    photograph(tmp_path / "one.png", 1)
    with raises(BadData, owner="white-patch", option="source", value=str(tmp_path)):
        load_white_patch(source=str(tmp_path), **SMALL)
    for name in ("two", "three"):
        (tmp_path / f"{name}.jpg").write_bytes(b"not an image")
    with raises(BadImage) as caught:
        load_white_patch(source=str(tmp_path), **SMALL)
    assert caught.value.value in {repr(str(tmp_path / name)) for name in ("two.jpg", "three.jpg")}


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    path = photograph(tmp_path / "cut.png", 0, (200, 200))
    path.write_bytes(path.read_bytes()[:5000])
    with raises(BadImage, value=repr(str(path))):
        read_image(path)


@pytest.mark.parametrize("source", ["cifar10", "stl10"])
def test_offline_is_one_clear_sentence(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils.urllib.request.urlopen", refuse)
    with raises(BadData, owner=source, option="root", value=str(tmp_path)):
        load_white_patch(source=source, root=str(tmp_path), **SMALL)


def test_cifar10_splits_follow_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        """Twenty images of one gray level each, those for training dark, those for testing bright."""

        classes = ("any",)

        def __init__(self, _root: Path, *, train: bool, download: bool) -> None:
            assert download
            levels = np.arange(20, dtype=np.uint8) + (0 if train else 128)
            self.data = np.broadcast_to(levels[:, None, None, None], (20, 32, 32, 3))
            self.targets = [0] * 20

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Fake)
    task = load_white_patch(source="cifar10", **SMALL)
    assert task.train.masks is not None
    levels = [
        set(split.images[:, 0].unique().tolist()) - {255}
        for split in (task.train, task.validation, task.test)
    ]
    assert max(levels[0] | levels[1]) < 128 <= min(levels[2])
    assert not levels[0] & levels[1]


def test_folder_with_and_without_a_test_part(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        for index in range(10):
            photograph(tmp_path / "all" / label / f"{index}.png", index)
            photograph(tmp_path / "split" / "train" / label / f"{index}.png", index)
        photograph(tmp_path / "split" / "test" / label / "0.png", 99)
    task = load_folder(str(tmp_path / "all"), size=16)
    assert task.classes == ("cat", "dog")
    assert [len(split) for split in (task.train, task.validation, task.test)] == [12, 4, 4]
    assert task.train.images.shape[1:] == (3, 16, 16)
    assert task.train.masks is None
    task = load_folder(str(tmp_path / "split"), size=16)
    assert [len(split) for split in (task.train, task.validation, task.test)] == [16, 4, 2]


def test_a_folder_with_a_validation_part_is_left_as_it_is_split(tmp_path: Path) -> None:
    counts = {"train": 5, "val": 3, "test": 2}
    for offset, (part, count) in enumerate(counts.items()):
        for label in ("cat", "dog"):
            for index in range(count):
                level = 80 * offset + 10 * index
                (tmp_path / part / label).mkdir(parents=True, exist_ok=True)
                Image.new("L", (20, 20), level).save(tmp_path / part / label / f"{index}.png")
    task = load_folder(str(tmp_path), size=16)
    levels = [split.images.unique().tolist() for split in (task.train, task.validation, task.test)]
    assert levels == [[0, 10, 20, 30, 40], [80, 90, 100], [160, 170]]
    assert len(load_folder(str(tmp_path), size=16, max_samples=3).train) == 3


def test_masks_from_a_parallel_folder(tmp_path: Path) -> None:
    for index in range(10):
        for label in ("cat", "dog"):
            path = photograph(tmp_path / "images" / label / f"{index}.png", index, (64, 32))
        drawn = np.zeros((32, 64), np.uint8)
        drawn[8:16, 24 : 24 + 8] = 1  # any number but 0
        path = tmp_path / "masks" / "cat" / f"{index}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn).save(path)
    task = load_folder(str(tmp_path / "images"), size=16, masks=str(tmp_path / "masks"))
    for split in (task.train, task.validation, task.test):
        assert split.masks is not None
        expected = torch.zeros(16, 16, dtype=torch.bool)
        expected[4:8, 4:8] = True  # the center of the image, halved
        for mask, label in zip(split.masks, split.labels, strict=True):
            assert torch.equal(mask, expected & (label == 0))
    (tmp_path / "other").mkdir()
    Image.fromarray(drawn).save(tmp_path / "other" / "cat.png")
    with raises(BadData, owner="folder", option="masks", value=str(tmp_path / "other")):
        load_folder(str(tmp_path / "images"), masks=str(tmp_path / "other"))


def test_unreadable_images_are_fatal_or_skipped_by_name(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        for index in range(6):
            path = photograph(tmp_path / label / f"{index}.png", index)
    path.write_bytes(path.read_bytes()[:60])
    with raises(BadImage, value=repr(str(tmp_path / "dog" / "5.png"))):
        load_folder(str(tmp_path), size=16)
    task = load_folder(str(tmp_path), size=16, on_bad_image="skip")
    assert len(task.train) + len(task.validation) + len(task.test) == 11
    (skipped,) = task.skipped
    assert "dog/5.png" in skipped
    with raises(BadOption, option="on_bad_image", value="ignore", choices=("fail", "skip")):
        load_folder(str(tmp_path), on_bad_image="ignore")  # type: ignore[arg-type]


def test_bad_class_folders_are_named(tmp_path: Path) -> None:
    with raises(BadData, owner=str(tmp_path), option="classes", value=None):
        load_folder(str(tmp_path))
    photograph(tmp_path / "cat" / "0.png", 0)
    with raises(BadData, owner=str(tmp_path), option="classes", value="cat"):
        load_folder(str(tmp_path))
    (tmp_path / "dog").mkdir()
    with raises(BadData, owner=str(tmp_path / "dog")):
        load_folder(str(tmp_path))
    for part, label in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "c")):
        for index in range(3):
            photograph(tmp_path / "apart" / part / label / f"{index}.png", index)
    with raises(BadData, option="classes", value=["a", "c"], choices=("a", "b")):
        load_folder(str(tmp_path / "apart"))


def test_a_task_needs_images_and_two_classes() -> None:
    one = Split(torch.zeros(3, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    with raises(BadData, owner="t", option="classes", value="a"):
        Task("t", ("a", "b"), one, one, one)
    none = Split(one.images[:0], one.labels[:0])
    two = Split(one.images, torch.tensor([0, 1, 1]))
    with raises(BadData, owner="t", option="train", value=0):
        Task("t", ("a", "b"), none, one, one)
    with raises(BadData, owner="t", option="test", value=(3, 2)):
        Task("t", ("a", "b"), two, one, Split(one.images, one.labels[:2]))
    with raises(BadData, owner="t", option="train", value=(0, 2)):
        Task("t", ("a", "b"), Split(one.images, torch.tensor([0, 1, 2])), one, one)


def test_tasks_by_text(tmp_path: Path) -> None:
    task = load_task("white-patch:size=24,patch=[3,5],train=4,validation=2,test=2")
    assert task.train.images.shape == (4, 3, 24, 24)
    choice = resolve_task(f"folder:{tmp_path},size=8")
    assert choice.load is load_folder
    assert choice.options == {"path": str(tmp_path), "size": 8}
    with raises(UnknownName, kind="task", value="white-path"):
        resolve_task("white-path")
    with raises(UnknownName, kind="option of white-patch", owner="white-patch", value="sise"):
        resolve_task("white-patch:sise=3")
    with raises(BadOption, owner="folder", option="path"):
        resolve_task("folder")
    with raises(BadOption, owner="white-patch", value="size"):
        resolve_task("white-patch:size")
