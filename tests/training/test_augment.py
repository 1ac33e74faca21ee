"""Augmentation of whole batches equals torchvision's, image by image, with the same draws."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from saccade.config import Augment, Recipe, resolve
from saccade.data import Split, TaskInfo, load_task
from saccade.training import Batches, Classifier, make_loader, train
from saccade.training.augment.basic import Crop, Scale, augmentation, crop, flip
from saccade.training.augment.random_resized_crop import random_boxes, resize_boxes
from saccade.training.augment.simclr import (
    Views,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    to_gray,
)
from saccade.training.loader import free_bytes, move_to_device_if_fits
from saccade.training.objectives.registry import create_objective

OUTLINE = TaskInfo(("a", "b"), (3, 16, 16), torch.zeros(3), torch.ones(3))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


# --------------------------------------------------------------------------------------- crops and flips


@pytest.mark.parametrize("shape", [(16, 16), (17, 9), (5, 24, 24)], ids=str)
def test_crops_and_flips_are_those_of_torchvision(shape: tuple[int, ...]) -> None:
    images = noise(12, 3, *shape)
    padding, (height, width) = 3, shape[-2:]
    top, left = torch.randint(2 * padding + 1, (2, 12))
    mirrored = torch.arange(12) % 3 == 0
    found = flip(crop(images, top, left, padding), mirrored)
    assert found.dtype == torch.uint8
    for image, y, x, is_mirrored, its in zip(images, top, left, mirrored, found, strict=True):
        expected = TF.crop(TF.pad(image, [padding] * 4), int(y), int(x), height, width)
        assert torch.equal(its, TF.horizontal_flip(expected) if is_mirrored else expected)


def test_crops_take_every_place_equally_often_and_flips_every_other_image() -> None:
    count, side = 20_000, 16
    ramp = torch.arange(side, dtype=torch.uint8)
    image = (16 * ramp[:, None] + ramp).expand(3, -1, -1)
    torch.manual_seed(0)
    middle = Crop()(image.expand(count, -1, -1, -1))[:, 0, 8, 8]
    moves = torch.stack([middle // 16, middle % 16]).long() - 8
    assert [int(most) for most in moves.aminmax()] == [-2, 2]  # an eighth
    places = torch.bincount(5 * (moves[0] + 2) + moves[1] + 2, minlength=25)
    assert (places / count - 1 / 25).abs().max() < 5 * math.sqrt(1 / 25 / count)
    flipped = augmentation("flip")(image.expand(count, -1, -1, -1))[:, 0, 0, 0] == side - 1
    assert abs(flipped.double().mean() - 0.5) < 5 * math.sqrt(0.25 / count)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("none", True),
        ("flip", False),
        ("crop", False),
        ("crop-flip", False),
        ("scale", False),
        ("scale-flip", False),
    ],
)
def test_the_recipe_says_what_is_changed(name: Augment, kept: bool) -> None:
    images = noise(8, 3, 16, 16)
    torch.manual_seed(1)
    changed = augmentation(name)(images)
    assert torch.equal(changed, images) == kept
    torch.manual_seed(1)
    assert torch.equal(augmentation(name)(images), changed)
    torch.manual_seed(2)
    assert torch.equal(augmentation(name)(images), changed) == kept
    if name == "flip":
        assert all(torch.equal(*pair) for pair in zip(changed.sort(-1)[0], images.sort(-1)[0], strict=True))


@pytest.mark.parametrize("shape", [(24, 30), (5, 20, 20)], ids=str)
def test_parts_of_other_scales_are_those_of_torchvision(shape: tuple[int, ...]) -> None:
    images = noise(16, 3, *shape)
    torch.manual_seed(4)
    found = Scale()(images)
    assert found.dtype == torch.uint8
    torch.manual_seed(4)
    height, width = shape[-2:]
    boxes = random_boxes(16, height, width, least=0.08)
    assert 0.07 < (boxes[:, 2] * boxes[:, 3]).min() / (height * width) < 0.2
    for image, box, its in zip(images, boxes, found, strict=True):
        expected = TF.resized_crop(image.float(), *map(int, box), [height, width], antialias=True)
        torch.testing.assert_close(its.float(), expected, rtol=0, atol=0.51)
    torch.manual_seed(4)
    torch.testing.assert_close(Scale()(images.float()), found.float(), rtol=0, atol=0.5)


def test_a_smallest_image_is_cropped_too() -> None:
    images = noise(64, 3, 1, 1) | 1
    seen = augmentation("crop")(images)
    assert ((seen == images) | (seen == 0)).all()
    assert 0 < (seen == images).all(1).sum() < 32


@pytest.mark.parametrize("method", ["classify", "recurrent", "hard"])
def test_every_method_learns_from_changed_images(method: str) -> None:
    recipe = Recipe.from_mapping({"objective": method, "augment": "crop-flip"})
    classifier = create_objective(resolve(recipe), OUTLINE)
    seen: list[Tensor] = []
    original = classifier.normalize
    classifier.normalize = lambda images: seen.append(images) or original(images)  # type: ignore[func-returns-value,method-assign]
    images, labels = noise(6, 3, 16, 16), torch.tensor([0, 1] * 3)
    torch.manual_seed(3)
    classifier.training_step((images, labels), 0)
    torch.manual_seed(3)
    assert torch.equal(seen[0], augmentation("crop-flip")(images))
    assert not torch.equal(seen[0], images)
    classifier.validation_step((images, labels), 0)
    assert torch.equal(seen[1], images)


def test_draws_are_a_function_of_seed_epoch_batch_and_process() -> None:
    def draw(seed: int = 0, epoch: int = 0, batch: int = 0, rank: int = 0) -> Tensor:
        classifier = Classifier(resolve(Recipe(seed=seed)), OUTLINE)
        loop = type("Loop", (), {"epoch_progress": None})
        trainer = type("Trainer", (), {"current_epoch": epoch, "global_rank": rank, "fit_loop": loop})
        classifier._trainer = trainer()
        torch.rand(3)  # earlier draws have no influence
        classifier.on_train_batch_start((torch.empty(0), torch.empty(0)), batch)
        return torch.rand(4)

    first = draw()
    assert torch.equal(draw(), first)
    others = [draw(seed=1), draw(epoch=1), draw(batch=1), draw(rank=1)]
    assert not any(torch.equal(other, first) for other in others)


# --------------------------------------------------------------------------------------------- the views


def test_parts_are_resized_as_torchvision_does() -> None:
    images = noise(20, 3, 24, 30).float()
    boxes = random_boxes(20, 24, 30)
    boxes[0], boxes[1] = torch.tensor([0, 0, 24, 30]), torch.tensor([23, 29, 1, 1])
    mirrored = torch.arange(20) % 2 == 1
    for image, box, is_mirrored, its in zip(
        images, boxes, mirrored, resize_boxes(images, boxes, mirrored), strict=True
    ):
        top, left, height, width = (int(extent) for extent in box)
        expected = TF.resized_crop(image, top, left, height, width, [24, 30], antialias=True)
        expected = TF.horizontal_flip(expected) if is_mirrored else expected
        torch.testing.assert_close(its, expected, rtol=0, atol=2e-3)  # of 255
    assert torch.equal(resize_boxes(images[:1], boxes[:1], mirrored[:1]).round(), images[:1])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 60)])
def test_parts_are_drawn_as_torchvision_draws_them(height: int, width: int) -> None:
    count = 4000
    torch.manual_seed(0)
    ours = random_boxes(count, height, width)
    draw = v2.RandomResizedCrop(32, scale=(0.2, 1.0))
    image = torch.empty(3, height, width)
    theirs = [draw.make_params([image]) for _ in range(count)]
    assert ours.shape == (count, 4)
    for index, key in enumerate(("top", "left", "height", "width")):
        found = ours[:, index].double()
        expected = torch.tensor([its[key] for its in theirs]).double()
        both = torch.cat([found, expected])
        steps = both.unique()
        gap = (torch.searchsorted(found.sort()[0], steps, right=True) / count) - (
            torch.searchsorted(expected.sort()[0], steps, right=True) / count
        )
        assert gap.abs().max() < 1.95 * math.sqrt(2 / count), key  # Kolmogorov and Smirnov: p = 0.001
    top, left, its_height, its_width = ours.T
    assert ((top + its_height <= height) & (left + its_width <= width) & (ours[:, 2:] >= 1).all(1)).all()


CHANGES: list[tuple[Any, Any, float, float]] = [
    (adjust_brightness, TF.adjust_brightness, 0.0, 2.0),
    (adjust_contrast, TF.adjust_contrast, 0.0, 2.0),
    (adjust_saturation, TF.adjust_saturation, 0.0, 2.0),
    (adjust_hue, TF.adjust_hue, -0.5, 0.5),
]


@pytest.mark.parametrize(
    ("ours", "theirs", "low", "high"), CHANGES, ids=lambda it: getattr(it, "__name__", "")
)
def test_colors_change_as_torchvision_changes_them(ours: Any, theirs: Any, low: float, high: float) -> None:
    images = noise(40, 3, 12, 10).float()
    images[0], images[1, 1], images[2, 2], images[3, 0] = 7.0, images[1, 0], images[2, 0], images[3, 1]
    images[4], images[5] = 0.0, 255.0
    values = torch.linspace(low, high, 40).roll(7)
    for image, value, its in zip(images, values.tolist(), ours(images.clone(), values), strict=True):
        torch.testing.assert_close(its / 255, theirs(image / 255, value), rtol=0, atol=1e-5)
    nothing = torch.full((40,), 0.0 if ours is adjust_hue else 1.0)
    torch.testing.assert_close(ours(images.clone(), nothing), images, rtol=0, atol=1e-3)


def test_grey_is_that_of_torchvision_and_clips_change_as_their_frames() -> None:
    clips = noise(6, 3, 4, 8, 8).float()
    for frame in range(4):
        torch.testing.assert_close(to_gray(clips)[:, :, frame], TF.rgb_to_grayscale(clips[:, :, frame]))
        for change, value in ((adjust_saturation, 0.3), (adjust_hue, 0.2), (adjust_brightness, 1.3)):
            values = torch.full((6,), value)
            torch.testing.assert_close(change(clips, values)[:, :, frame], change(clips[:, :, frame], values))


def test_views_are_two_and_differ() -> None:
    ramp = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(20, 3, -1, -1)
    torch.manual_seed(0)
    views = Views(color=0)(ramp)
    assert views.shape == (40, 3, 16, 16)
    assert len(views.flatten(1).unique(dim=0)) > 35  # each has its own draws

    def falls(views: Tensor) -> Tensor:
        return views.mean((1, 2)).diff().mean(1) < 0

    assert not falls(views).any()
    assert 5 < falls(Views(flip=True, color=0)(ramp)).sum() < 35
    assert (views[:, 0] == views[:, 1]).all()


def test_a_fifth_of_the_views_is_grey_and_four_fifths_change_color() -> None:
    count = 3000
    images = torch.tensor([200, 100, 50], dtype=torch.uint8).view(1, 3, 1, 1).expand(count, 3, 4, 4)
    torch.manual_seed(0)
    views = Views(color=0.5)(images)
    grays = (views.amax(1) - views.amin(1)).flatten(1).amax(1) < 1e-2
    unchanged = (views - images.repeat(2, 1, 1, 1)).abs().flatten(1).amax(1) < 1e-2
    for share, expected in ((grays, 0.2), (unchanged, 0.2 * 0.8)):
        deviation = math.sqrt(expected * (1 - expected) / (2 * count))
        assert abs(share.double().mean() - expected) < 5 * deviation
    assert views.amin() >= 0
    assert views.amax() <= 255


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_draws_and_views_do_not_depend_on_the_precision(dtype: torch.dtype) -> None:
    """Lightning sets the default dtype to that of the training."""
    images, change, view = noise(6, 3, 16, 16), augmentation("crop-flip"), Views(flip=True)
    found = []
    for default in (torch.float32, dtype):
        torch.set_default_dtype(default)
        try:
            torch.manual_seed(0)
            found.append((change(images), view(images)))
        finally:
            torch.set_default_dtype(torch.float32)
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_a_clip_is_seen_alike_in_all_its_frames() -> None:
    clips = noise(4, 3, 1, 16, 16).expand(-1, -1, 5, -1, -1)
    views = Views(flip=True)(clips)
    assert views.shape == (8, 3, 5, 16, 16)
    assert torch.equal(views, views[:, :, :1].expand_as(views))


# --------------------------------------------------------------------------------- where the images lie


def test_a_set_moves_to_the_device_if_it_takes_half_of_what_is_free() -> None:
    images, labels = noise(6, 3, 8, 8), torch.arange(6) % 2
    split = Split(images, labels, torch.ones(6, 8, 8, dtype=torch.bool))
    bytes_of_both = 2 * (6 * 3 * 8 * 8 + 6 * 8)
    device = torch.device("meta")
    for free, there in ((2 * bytes_of_both, True), (2 * bytes_of_both - 1, False), (0, False)):
        found = move_to_device_if_fits([split, split], device, free)
        assert [its.images.is_meta for its in found] == [its.labels.is_meta for its in found] == [there] * 2
        assert [len(its) for its in found] == [6, 6]
    assert free_bytes(torch.device("cpu")) == 0
    (moved,) = move_to_device_if_fits([split], device, 10**6)
    batches = list(make_loader(moved, Batches(6, 4, seed=0), device))
    assert [(batch.shape, batch.is_meta, its.is_meta) for batch, its in batches] == [
        ((4, 3, 8, 8), True, True)
    ]


def test_batches_reach_a_gpu_by_locked_pages_unless_they_are_there() -> None:
    split, batches, gpu = Split(noise(6, 3, 8, 8), torch.arange(6)), Batches(6, 3), torch.device("cuda", 0)
    assert make_loader(split, batches, gpu).pin_memory
    assert not make_loader(split, batches).pin_memory
    there = type("There", (), {"device": gpu, "size": split.images.size})()
    assert not make_loader(Split(there, split.labels), batches, gpu).pin_memory


def test_a_run_asks_the_device_for_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The run keeps its images on its device, here a CPU that pretends to have its own memory."""
    recipe = Recipe(task="digits:max_samples=40", epochs=1, batch_size=10, augment="crop")
    kept: list[list[Split]] = []

    def noted(*arguments: Any) -> list[Split]:
        kept.append(move_to_device_if_fits(*arguments))
        return kept[-1]

    monkeypatch.setattr("saccade.training.run.move_to_device_if_fits", noted)
    first = train(recipe, tmp_path / "a")
    monkeypatch.setattr("saccade.training.run.free_bytes", lambda _device: 10**9)
    second = train(recipe, tmp_path / "b")
    task = load_task(recipe.task)
    assert kept[0][0].images is task.train.images
    assert [its.masks for its in kept[1]] == [None, None]  # moved without masks, which training does not need
    assert kept[1][1].images.shape == task.validation.images.shape
    assert first["curves"] == second["curves"]


def test_a_contrastive_run_with_colors_repeats_itself(tmp_path: Path) -> None:
    recipe = Recipe(
        task="digits:max_samples=40", objective="contrastive:width=8", augment="flip", epochs=1, batch_size=10
    )
    curves = [
        train(replace(recipe, seed=seed), tmp_path / name)["curves"]
        for seed, name in ((0, "a"), (0, "b"), (1, "c"))
    ]
    assert curves[0] == curves[1] != curves[2]


def test_images_are_drawn_anew_for_each_epoch() -> None:
    def redraw(epoch: int) -> torch.Tensor:
        return torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1) + 10 * epoch

    split = Split(noise(6, 1, 1, 1), torch.arange(6), redraw=redraw)
    batches = Batches(6, 2, seed=0)
    loader = make_loader(split, batches)
    for epoch in (0, 1, 4):
        batches.set_epoch(epoch)
        seen = [
            (int(image) - 10 * epoch, int(label))
            for images, labels in loader
            for image, label in zip(images, labels, strict=True)
        ]
        assert sorted(seen) == [(k, k) for k in range(6)]
    assert isinstance(make_loader(split, Batches(6, 2)).dataset, TensorDataset)  # not in evaluation
    (moved,) = move_to_device_if_fits([split], torch.device("cpu"), 10**6)
    assert moved.redraw is redraw
