"""Clips: the task of moving digits, the model for clips, and a comparison on clips."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close
from typer.testing import CliRunner

import saccade
from saccade.cli import app
from saccade.config import Recipe, resolve
from saccade.data import Split, Task, load_moving_digits, load_task
from saccade.data.clips import contact_sheet, heat_sheet
from saccade.data.digits import read_digits
from saccade.data.moving_digits import _path
from saccade.errors import BadOption, BadShape, SaccadeError
from saccade.maps import SpatialMap
from saccade.models import ClipCNN, SmallCNN
from saccade.results import read_gallery
from saccade.training import Classifier, augmentation, error_and_loss, examples, prepare, restore
from saccade.training import record_attention as looked
from saccade.training.evaluate import _on_one_grid
from saccade.viz import look
from support.errors import raises

TASK = "moving-digits:train=40,validation=10,test=20"


@pytest.fixture(scope="module")
def task() -> Task:
    return load_moving_digits(train=60, validation=10, test=20)


def trimmed(image: Tensor) -> bytes:
    """The ink of an image with its shape, without what is around it."""
    rows, columns = (image.any(axis).nonzero()[:, 0] for axis in (1, 0))
    ink = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return bytes(ink.shape) + ink.contiguous().numpy().tobytes()


# --------------------------------------------------------------------------------------------- the task


def test_the_label_is_the_digit_of_the_moment(task: Task) -> None:
    source = read_digits("scikit-learn", "", seed=0)
    for part in ("train", "validation", "test"):
        split: Split = getattr(task, part)
        images, labels = source[part]  # of no other split
        small = [np.asarray(Image.fromarray(image).resize((16, 16), 2)) for image in images]
        known = {trimmed(torch.tensor(image)): label for image, label in zip(small, labels, strict=True)}
        assert split.masks is not None
        for clip, label, mask in zip(split.images, split.labels, split.masks, strict=True):
            seen = [known[trimmed(frame)] for frame in clip[0]]
            rare = mask.flatten(1).any(1)
            assert {digit for digit, is_rare in zip(seen, rare, strict=True) if is_rare} == {int(label)}
            usual = {digit for digit, is_rare in zip(seen, rare, strict=True) if not is_rare}
            assert len(usual) == 1
            assert usual != {int(label)}


def test_the_mask_is_a_tight_box_in_successive_frames(task: Task) -> None:
    split = task.train
    assert split.masks is not None
    in_moment = split.masks.flatten(2).any(2)
    assert in_moment.sum(1).eq(2).all()
    assert in_moment.int().diff(dim=1).abs().sum(1).le(2).all()
    assert in_moment.any(0).all()  # at any time
    ink = (split.images[:, 0] > 0) & in_moment[..., None, None]
    assert torch.equal(split.masks.any(3), ink.any(3))
    assert torch.equal(split.masks.any(2), ink.any(2))
    assert torch.equal(split.masks, ink.any(3, keepdim=True) & ink.any(2, keepdim=True))


def test_digits_are_never_cut_off() -> None:
    split = load_moving_digits(frames=12, size=40, moment=1, train=30, validation=2, test=2).train
    assert split.masks is not None
    usual = ~split.masks.flatten(2).any(2)
    ink = split.images[:, 0].sum((2, 3))
    assert [counts[frames].unique().numel() for counts, frames in zip(ink, usual, strict=True)] == [1] * 30


def test_digits_move_on_straight_lines_and_bounce() -> None:
    bounces = 0
    for seed in range(20):
        path = _path(30, 16, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(1.6, 4)
        place, velocity = rng.uniform(0, 16, 2), speed * np.array([np.sin(angle), np.cos(angle)])
        for t in range(30):
            assert np.abs(path[t] - place).max() < 0.5 + 1e-9
            place = place + velocity
            for axis in range(2):
                if not 0 <= place[axis] <= 16:
                    place[axis] = -place[axis] if place[axis] < 0 else 32 - place[axis]
                    velocity[axis], bounces = -velocity[axis], bounces + 1
    assert bounces > 50


def test_the_same_arguments_give_the_same_clips(task: Task) -> None:
    again, other = (load_moving_digits(train=60, validation=10, test=20, seed=seed) for seed in (0, 1))
    assert torch.equal(again.train.images, task.train.images)
    assert not torch.equal(other.train.images, task.train.images)
    few = load_moving_digits(classes=[7, 3, 1], train=9, validation=3, test=3)
    assert few.classes == ("7", "3", "1")
    assert few.train.labels.bincount().tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("moment", 4),
        ("frames", 0),
        ("size", 6),
        ("classes", [1, 2]),
        ("classes", [1, 2, 2]),
        ("classes", [1, 2, 10]),
        ("classes", 3),
        ("seed", -1),
    ],
)
def test_bad_options(option: str, value: Any) -> None:
    with raises(BadOption, owner="moving-digits", option=option, value=value):
        load_moving_digits(**{option: value})


def test_a_sheet_holds_each_frame_in_its_place() -> None:
    for count, (rows, columns) in {1: (1, 1), 7: (1, 7), 8: (2, 4), 9: (3, 3), 12: (3, 4)}.items():
        frames = torch.rand(2, 3, count, 5, 6)
        sheet = contact_sheet(frames)
        assert sheet.shape == (2, 3, rows * 5, columns * 6)
        for t in range(count):
            y, x = divmod(t, columns)
            assert torch.equal(sheet[..., 5 * y : 5 * y + 5, 6 * x : 6 * x + 6], frames[:, :, t])


def test_heat_stays_in_its_frame() -> None:
    volumes = torch.zeros(1, 8, 3, 3)
    volumes[0, 5] = 1
    frames = torch.zeros(8, 6, 6)
    frames[5] = 1
    assert torch.equal(heat_sheet(volumes, (8, 6, 6))[0], contact_sheet(frames))
    assert torch.equal(heat_sheet(volumes[:, :, 0, 0], (8, 6, 6))[0], contact_sheet(frames))


# ------------------------------------------------------------------------------------------ the network


def in_use(model: nn.Module) -> nn.Module:
    """With statistics of batch norm other than 0 and 1, and no weight at 0."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model(torch.randn(8, 3, 4, 16, 16))
    return model.double().eval()


def test_without_attention_it_is_the_mean_of_the_small_network_over_frames() -> None:
    model = in_use(ClipCNN(5))
    image_model = SmallCNN(5).double().eval()
    image_model.load_state_dict(model.state_dict())
    clips = torch.randn(2, 3, 7, 20, 18, dtype=torch.float64)
    assert_close(model(clips), torch.stack([image_model(clips[:, :, t]) for t in range(7)]).mean(0))


def test_attention_over_time_weighs_the_frames() -> None:
    model = in_use(ClipCNN(5, attention={"time": "temporal_pool:score=dot_product"}))
    clips = torch.randn(2, 3, 7, 20, 18, dtype=torch.float64)
    with torch.no_grad(), saccade.record(model) as maps:
        logits = model(clips)
    frames = torch.stack([features(model, clips[:, :, t]) for t in range(7)], 1)
    weights = (frames @ model.get_parameter("attention.time.context.weight")[0]).softmax(1)
    pooled = torch.einsum("bt,btc->bc", weights, frames)
    head = model.get_submodule("head")
    assert_close(logits, head(pooled))
    assert_close(maps["attention"].saliency(), weights.detach())


def features(model: nn.Module, x: Tensor) -> Tensor:
    for stage in model.get_submodule("stages").children():
        x = stage(x)
    return x.mean((2, 3))


def test_attention_in_a_stage_sees_the_whole_clip() -> None:
    model = in_use(ClipCNN(5, attention={2: "non_local:dims=3"}))
    clips = torch.randn(2, 3, 4, 16, 20, dtype=torch.float64)
    first, second, third = model.get_submodule("stages").children()
    volume = torch.stack([second(first(clips[:, :, t])) for t in range(4)], 2)
    mixed = model.get_submodule("attention.2")(volume)
    frames = torch.stack([third(mixed[:, :, t]).mean((2, 3)) for t in range(4)], 1)
    assert_close(model(clips), model.get_submodule("head")(frames.mean(1)))
    with torch.no_grad(), saccade.record(model) as maps:
        model(clips)
    assert maps["attention"].heatmap().shape == (2, 4, 4, 5)


@pytest.mark.parametrize(
    ("attention", "value"),
    [
        ({4: "se"}, 4),
        ({2: "cbam"}, "cbam"),
        ({2: "temporal_pool"}, "temporal_pool"),
        ({"time": "se"}, "se"),
    ],
)
def test_what_does_not_fit_is_named(attention: dict[Any, str], value: object) -> None:
    with raises(BadOption, owner="ClipCNN", option="attention", value=value):
        ClipCNN(5, attention=attention)
    with raises(BadShape, owner="ClipCNN", option="shape", value=(2, 3, 8, 8)):
        ClipCNN(5)(torch.zeros(2, 3, 8, 8))


# ------------------------------------------------------------------------------------------- in training


def test_normalization_is_by_channel(task: Task) -> None:
    assert task.shape == (3, 8, 32, 32)
    mean, std = task.normalization()
    pixels = task.train.images.numpy().transpose(1, 0, 2, 3, 4).reshape(3, -1) / 255
    np.testing.assert_allclose(mean.numpy(), pixels.mean(1), rtol=1e-4)
    np.testing.assert_allclose(std.numpy(), pixels.std(1), rtol=1e-4)
    classifier = Classifier(resolve(Recipe(task=TASK)), task.info()).eval()
    whole = (task.test.images.double() / 255 - pixels.mean()) / pixels.std()  # all channels are alike
    with torch.no_grad():
        assert_close(classifier(task.test.images), classifier.model(whole.float()), rtol=1e-3, atol=1e-4)


def test_all_frames_of_a_clip_are_augmented_alike() -> None:
    images = torch.randint(256, (4, 3, 1, 16, 16), dtype=torch.uint8).expand(-1, -1, 6, -1, -1)
    clips = augmentation("crop-flip")(images)
    assert clips.shape == images.shape
    assert torch.equal(clips, clips[:, :, :1].expand(-1, -1, 6, -1, -1))
    assert not any(torch.equal(clip, image) for clip, image in zip(clips, images, strict=True))


def test_mixup_mixes_whole_clips(task: Task) -> None:
    classifier = Classifier(resolve(Recipe(task=TASK, mixup=1.0)), task.info())
    seen: list[Tensor] = []
    classifier.model.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    torch.manual_seed(0)
    batch = task.train.images[:6], task.train.labels[:6]
    assert classifier.training_step(batch, 0)["loss"].isfinite()
    mixed = seen[0] * classifier.std + classifier.mean
    pixels = batch[0].float() / 255
    others = pixels.roll(1, 0)  # as torchvision pairs them
    share = ((mixed - others) * (pixels - others)).sum() / (pixels - others).square().sum()
    assert 0.01 < share < 0.99
    assert_close(mixed, share * pixels + (1 - share) * others, rtol=0, atol=1e-5)


def test_a_map_is_scored_in_space_and_time_or_in_time_alone() -> None:
    mask = torch.zeros(1, 4, 8, 8, dtype=torch.bool)
    mask[0, 2, 4:, :4] = True
    heat, target = _on_one_grid(SpatialMap(torch.tensor([[0.1, 0.2, 0.6, 0.1]])), mask)
    assert target.flatten().tolist() == [False, False, True, False]
    assert heat.flatten().argmax() == 2
    volume = torch.zeros(1, 4, 2, 2)
    volume[0, 2, 1, 0] = 1
    heat, target = _on_one_grid(SpatialMap(volume), mask)
    assert heat.shape == target.shape == (1, 32, 8)
    assert torch.equal(target.reshape(mask.shape), mask)
    assert target.flatten()[heat.flatten().argmax()]


@pytest.mark.parametrize(
    "values",
    [
        {"backbone": "resnet18"},
        {"backbone": "resnet18", "attention": "se"},
        {"attention": "cbam"},
        {"attention": "non_local"},
        {"attention": "se", "stage": 4},
    ],
)
def test_what_cannot_read_clips_is_named_before_training(values: dict[str, Any]) -> None:
    with raises(SaccadeError):
        prepare(replace(Recipe(task=TASK, batch_size=20), **values))


def test_a_network_for_clips_of_torchvision_will_do() -> None:
    prepare(Recipe(task=TASK, batch_size=20, backbone="r3d_18"))


# -------------------------------------------------------------------------------- from the command line


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clips") / "out"
    names = ("none", "temporal_pool", "non_local:dims=3")
    options = [text for name in names for text in ("-a", name)]
    options += ["--seeds", "1", "--epochs", "1", "--batch-size", "20", "--set", "augment=crop"]
    result = CliRunner().invoke(app, ["compare", TASK, *options, "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out


def test_a_comparison_of_clips(compared: Path) -> None:
    summary = json.loads((compared / "results.json").read_text())
    runs = {run["attention"]: run for run in summary["runs"]}
    assert runs["none"]["localization"] is None
    time = runs["temporal_pool"]["localization"]
    assert (time["path"], time["chance"]) == ("attention.time", 0.25)
    volume = runs["non_local:dims=3"]["localization"]
    masks = load_task(TASK).test.masks
    assert masks is not None
    assert (volume["path"], volume["kind"]) == ("attention.2", "pairwise")
    assert volume["chance"] == pytest.approx(masks.double().mean().item())
    page = (compared / "report.html").read_text()
    assert "moving-digits" in page
    assert "temporal_pool" in page


@pytest.mark.parametrize("name", ["temporal_pool", "non_local-dims=3"])
def test_the_gallery_holds_raw_clips(compared: Path, name: str) -> None:
    folder = compared / "runs" / f"{name}-seed0"
    gallery = read_gallery(folder)
    clips = gallery.images
    assert clips.shape[1:] == (3, 8, 32, 32)
    assert gallery.masks is not None
    assert gallery.masks.shape == (len(clips), 8, 32, 32)
    assert gallery.masks.sum() > 0
    _, attention, logits = looked(restore(folder), clips)
    assert gallery.map is not None
    assert type(gallery.map) is type(attention)
    assert_close(gallery.map.heatmap(), attention.heatmap(), atol=5e-3, rtol=0)
    assert gallery.predictions.equal(logits.argmax(1))


def test_a_run_on_clips_comes_back_and_can_be_looked_at(compared: Path, tmp_path: Path) -> None:
    folder = compared / "runs" / "non_local-dims=3-seed0"
    classifier = restore(folder)
    result = json.loads((folder / "result.json").read_text())
    test = load_task(TASK).test
    assert error_and_loss(classifier, test)[0] == result["error"]
    clips, labels = examples(folder, classifier.plan)
    assert torch.equal(clips, test.images)  # two of each class, which is all there are
    assert torch.equal(labels, test.labels)
    seen = look(classifier, clips[:2].float())
    heat = seen.heatmaps("model.attention.2")
    assert [picture.shape for picture in seen.inputs.display_images] == [(64, 128, 3)] * 2
    with torch.no_grad(), saccade.record(classifier) as maps:
        classifier(clips[:2])
    expected = heat_sheet(maps["model.attention"].saliency(), (8, 32, 32))
    assert heat[0].shape == (64, 128)
    assert_close(seen.saliency["model.attention.2"], expected)
    result = CliRunner().invoke(app, ["look", str(folder), "--images", "2", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert len(list(tmp_path.glob("*.png"))) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["score", "{run}"], "is a run on clips; only maps of images can be scored"),
        (["look", "{run}", "--grad-cam"], "Grad-CAM needs images (B, C, H, W), not clips"),
        (["look", "{run}", "some.png"], "IMAGE is not supported, only its test clips"),
    ],
)
def test_what_is_of_images_alone_says_so(compared: Path, arguments: list[str], sentence: str) -> None:
    run = str(compared / "runs" / "temporal_pool-seed0")
    result = CliRunner().invoke(app, [argument.format(run=run) for argument in arguments])
    assert isinstance(result.exception, SaccadeError)
    assert sentence in str(result.exception)
