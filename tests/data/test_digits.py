"""Digits and data sets of torchvision: position, clutter, and data sets that are missing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.data import load_digits, load_task, load_torchvision
from saccade.errors import BadData, BadOption
from support.errors import raises


def test_the_same_arguments_give_the_same_digits() -> None:
    one, again, other = (load_digits("cluttered", max_samples=20, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.train.images, again.train.images)
    assert not torch.equal(one.train.images, other.train.images)


def test_splits_share_no_digit() -> None:
    task = load_digits()
    images = torch.cat([split.images[:, 0].flatten(1) for split in (task.train, task.validation, task.test)])
    assert len(images) == 1797
    assert len(images.unique(dim=0)) == 1797
    assert task.train.labels.bincount().min() > 80


def test_a_translated_digit_lies_in_its_box_whole() -> None:
    plain, task = load_digits(), load_digits("translated", size=50)
    split = task.train
    assert split.masks is not None
    assert split.images.shape[1:] == (3, 50, 50)
    ink = split.images[:, 0] > 0
    assert torch.equal(ink.flatten(1).sum(1), (plain.train.images[:, 0] > 0).flatten(1).sum(1))
    assert not (ink & ~split.masks).any()
    rows, columns = split.masks.any(2).sum(1), split.masks.any(1).sum(1)
    assert torch.equal(rows * columns, split.masks.flatten(1).sum(1))  # a box
    assert torch.equal(rows, ink.any(2).sum(1))  # a tight one, ink having no gap from top to bottom
    tops = split.masks.any(2).int().argmax(1)
    assert tops.unique().numel() > 15


def test_clutter_adds_ink_outside_the_box() -> None:
    clean, task = load_digits("cluttered", clutter=0), load_digits("cluttered", clutter=8)
    assert torch.equal(clean.train.images, load_digits("translated").train.images)
    assert task.train.masks is not None
    outside = (task.train.images[:, 0] > 0) & ~task.train.masks
    assert (outside.flatten(1).sum(1) > 0).float().mean() > 0.95
    assert outside.flatten(1).sum(1).max() <= 8 * 64


@pytest.mark.parametrize("variant", ["rotated", "translated", "cluttered"])
def test_fresh_digits_are_drawn_by_seed_and_epoch(variant: Any) -> None:
    task, again = (load_digits(variant, max_samples=40, fresh=True, seed=3) for _ in range(2))
    assert task.train.redraw is not None
    assert again.train.redraw is not None
    first, second = task.train.redraw(0), task.train.redraw(1)
    assert (first.shape, first.dtype) == (task.train.images.shape, torch.uint8)
    assert not torch.equal(first, second)
    assert torch.equal(again.train.redraw(1), second)
    assert task.validation.redraw is task.test.redraw is None
    other = load_digits(variant, max_samples=40, fresh=True, seed=4).train.redraw
    assert other is not None
    assert not torch.equal(other(0), first)
    fixed = load_digits(variant, max_samples=40, seed=3)
    assert fixed.train.redraw is None
    assert torch.equal(fixed.train.images, task.train.images)
    if variant == "translated":  # the same digits with the same labels, elsewhere
        assert torch.equal(first.flatten(1).long().sum(1), second.flatten(1).long().sum(1))
    index = torch.tensor([5, 2])
    selected = task.train.select(index).redraw
    assert selected is not None
    assert torch.equal(selected(1), second[index])


def test_rotated_digits_are_turned_about_their_center() -> None:
    assert torch.equal(load_digits("rotated", angle=0).train.images, load_digits().train.images)
    turned = load_digits("rotated", angle=90).train.images[:, 0].double()
    plain = load_digits().train.images[:, 0].double()
    ratio = turned.sum((1, 2)) / plain.sum((1, 2))
    assert ((ratio - 1).abs() < 0.15).double().mean() > 0.95  # the ink stays
    assert (turned != plain).flatten(1).any(1).double().mean() > 0.95


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"variant": "upside"}, "variant"),
        ({"variant": "translated", "size": 20}, "size"),
        ({"size": 60}, "size"),
        ({"variant": "rotated", "angle": 200}, "angle"),
        ({"variant": "cluttered", "clutter": -1}, "clutter"),
        ({"max_samples": 0}, "max_samples"),
        ({"source": "cifar10"}, "source"),
        ({"fresh": True}, "fresh"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_options(options: dict[str, Any], option: str) -> None:
    with raises(BadOption, owner="digits", option=option, value=options[option]):
        load_digits(**options)


def test_a_folder_of_digits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", 3), ("test", 1)):
        for digit in range(10):
            (tmp_path / part / str(digit)).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 255, (28, 28), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / str(digit) / f"{index}.png")
    task = load_task(f"digits:variant=translated,source={tmp_path}")
    assert (len(task.train), len(task.validation), len(task.test)) == (20, 10, 10)
    (tmp_path / "train" / "ten").mkdir()
    (tmp_path / "test" / "ten").mkdir()
    for part in ("train", "test"):
        for index in range(2):
            Image.new("L", (28, 28)).save(tmp_path / part / "ten" / f"{index}.png")
    with raises(BadOption, owner="digits", option="source", value=str(tmp_path)):
        load_digits(source=str(tmp_path))


class Gray:
    """A data set of torchvision's, in which the label is the gray level."""

    classes = ("0 - zero", "1 - one")

    def __init__(self, _folder: Path, train: bool, **_options: bool) -> None:
        self.targets = torch.arange(20 if train else 6) % 2
        self.data = self.targets[:, None, None].expand(-1, 28, 28) * 100


def test_a_standard_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchvision.datasets.MNIST", Gray)
    task = load_torchvision("mnist", val_fraction=0.2, size=14)
    assert (len(task.train), len(task.validation), len(task.test)) == (16, 4, 6)
    assert task.classes == Gray.classes
    for split in (task.train, task.validation, task.test):
        assert split.images.shape[1:] == (3, 14, 14)
        assert torch.equal(split.images[:, 1, 5, 5].long(), split.labels * 100)
    limited = load_task("mnist:max_samples=3")
    assert (len(limited.train), len(limited.test)) == (3, 3)


def test_colored_and_channels_first_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(8) % 2
    wide = SimpleNamespace(data=pixels, targets=labels.tolist(), classes=["a", "b"])
    first = SimpleNamespace(data=pixels.transpose(0, 3, 1, 2), labels=labels, classes=["a", "b"])
    monkeypatch.setattr("torchvision.datasets.CIFAR10", lambda *_, **__: wide)
    monkeypatch.setattr("torchvision.datasets.STL10", lambda *_, **__: first)
    one, other = load_torchvision("cifar10"), load_torchvision("stl10")
    assert torch.equal(one.train.images, other.train.images)
    assert torch.equal(one.test.images, torch.from_numpy(pixels).permute(0, 3, 1, 2))


def test_a_set_that_is_not_there(tmp_path: Path) -> None:
    with raises(BadData, owner="mnist", option="root", value=str(tmp_path)):
        load_torchvision("mnist", root=str(tmp_path), download=False)


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"name": "imagenet"}, "name"),
        ({"name": "mnist", "val_fraction": 0.7}, "val_fraction"),
        ({"name": "mnist", "size": 0}, "size"),
        ({"name": "mnist", "seed": -1}, "seed"),
    ],
)
def test_bad_options_of_a_set(options: dict[str, Any], option: str) -> None:
    with raises(BadOption, option=option, value=options[option]):
        load_torchvision(**options)


def test_canvases_are_those_of_a_plain_loop() -> None:
    """Digits at random positions, and pieces of other digits above them, one image after the other."""
    images = load_digits(max_samples=40).train.images[:, 0].numpy()
    rng = np.random.default_rng((0, 4, 7))  # of seed 0 and epoch 7
    expected = np.zeros((40, 60, 60), np.uint8)
    for image, canvas in zip(images, expected, strict=True):
        top, left = rng.integers(60 - 28 + 1, size=2)
        canvas[top : top + 28, left : left + 28] = image
        for _ in range(4):
            other = images[rng.integers(40)]
            y, x = rng.integers(28 - 8 + 1, size=2)
            piece = other[y : y + 8, x : x + 8]
            y, x = rng.integers(60 - 8 + 1, size=2)
            canvas[y : y + 8, x : x + 8] = np.maximum(canvas[y : y + 8, x : x + 8], piece)
    redraw = load_digits("cluttered", max_samples=40, fresh=True).train.redraw
    assert redraw is not None
    np.testing.assert_array_equal(redraw(7)[:, 0].numpy(), expected)
