"""Test the objective `segment`: loss, error, augmentation, and a whole run, stopped and resumed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from saccade.config import Recipe, resolve
from saccade.data import IGNORED, TaskInfo, load_task
from saccade.errors import BadOption, BadRecipe, BadShape
from saccade.metrics import confusion_matrix, mean_iou
from saccade.results import read_gallery
from saccade.training import attention_paths, evaluate_run, measure, prepare, restore, train
from saccade.training.evaluate import build_gallery
from saccade.training.objectives.registry import create_objective
from saccade.training.objectives.segment import Segment, dice_loss
from support.errors import raises
from support.segmentation import write_discs

INFO = TaskInfo(("ground", "disc"), (3, 32, 32), torch.full((3,), 0.4), torch.full((3,), 0.2), True)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"segmentation:{write_discs(tmp_path_factory.mktemp('data') / 'discs', 12)},size=32"


def recipe(task: str, **changes: object) -> Recipe:
    values = {"task": task, "backbone": "unet:width=4,levels=2", "batch_size": 4, "epochs": 6}
    return Recipe.from_mapping(values | {"learning_rate": 0.02} | changes)


def segment(**changes: object) -> Segment:
    classifier = create_objective(resolve(recipe("segmentation:nowhere", **changes)), INFO)
    assert isinstance(classifier, Segment)
    return classifier


def test_the_task_chooses_objective_and_network() -> None:
    chosen = Recipe.from_mapping({"task": "segmentation:nowhere"})
    assert (chosen.objective, chosen.backbone, chosen.batch_size) == ("segment", "unet", 4)
    other = Recipe.from_mapping({"task": "segmentation:nowhere", "backbone": "smp:Unet:resnet18"})
    assert (other.objective, other.backbone) == ("segment", "smp:Unet:resnet18")


def test_the_dice_loss_equals_its_formula_in_loops() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randint(3, (2, 4, 5))
    labels[0, 0] = IGNORED
    scores = []
    for image, truth in zip(logits.softmax(1), labels, strict=True):
        for number in range(3):
            p = image[number][truth != IGNORED]
            y = (truth[truth != IGNORED] == number).double()
            scores.append((2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1))
    torch.testing.assert_close(dice_loss(logits, labels.to(torch.uint8)), 1 - torch.stack(scores).mean())


def test_ignored_pixels_change_neither_loss_nor_gradient_nor_error() -> None:
    torch.manual_seed(0)
    model, labels = segment(), torch.randint(2, (2, 8, 8))
    labels[:, 3] = IGNORED
    logits = torch.randn(2, 2, 8, 8, requires_grad=True)
    measured = model.measure(logits, labels.to(torch.uint8))
    (gradient,) = torch.autograd.grad(measured["loss"], logits)
    assert not gradient[:, :, 3].any()
    assert gradient[:, :, 2].all()
    changed = logits.detach().clone()
    changed[:, :, 3] = 7 * torch.randn(2, 2, 8)
    other = model.measure(changed, labels.to(torch.uint8))
    torch.testing.assert_close(other["loss"], measured["loss"].detach())
    assert torch.equal(other["confusion"], measured["confusion"])
    nothing = model.measure(logits, torch.full((2, 8, 8), IGNORED, dtype=torch.uint8))
    assert nothing["loss"].isfinite()


@pytest.mark.parametrize("augment", ["crop", "flip", "crop-flip", "scale", "none"])
def test_images_and_labels_move_alike(augment: str) -> None:
    torch.manual_seed(0)
    labels = torch.zeros(6, 32, 32, dtype=torch.uint8)
    labels[:, 8:24, 4:20] = 1
    labels[:, 28:] = IGNORED
    shades = torch.where(labels == 1, 200, torch.where(labels == IGNORED, 90, 20)).to(torch.uint8)
    images, moved = segment(augment=augment).augment_both(shades[:, None].repeat(1, 3, 1, 1), labels)
    assert (moved.dtype, moved.shape) == (torch.uint8, labels.shape)
    assert set(moved.unique().tolist()) <= {0, 1, IGNORED}
    assert torch.equal(moved, labels) == (augment == "none")
    for number, shade in ((1, 200), (0, 20)):
        found = images[:, 0][moved == number].float()
        assert ((found - shade).abs() < 5).float().mean() > 0.85  # "scale" blends the pixels of an edge
        if augment != "scale":
            assert (found == shade).all()


def test_a_run_learns_and_its_error_is_one_minus_the_mean_iou(task: str, tmp_path: Path) -> None:
    result = train(recipe(task, attention="attention_gate", augment="flip"), tmp_path / "run")
    data = load_task(task)
    assert result["error"] < 0.25 < result["task"]["chance_error"]
    assert result["task"]["segmentation"] is True
    classifier = restore(tmp_path / "run")
    predicted = torch.stack([classifier(image[None]).argmax(1)[0] for image in data.test.images])
    confusion = confusion_matrix(predicted, data.test.labels, 2)
    assert result["error"] == pytest.approx(1 - mean_iou(confusion))
    assert result["segmentation"]["mean_iou"] == pytest.approx(1 - result["error"])
    assert result["segmentation"]["boundary_f1"] > 0.5
    curve = [value for value in result["curves"]["val_error"] if value is not None]
    assert curve[-1] == pytest.approx(measure(classifier, data.validation).error)
    assert result["localization"] is not None
    assert result["localization"]["path"] == "gates.1"
    gallery = read_gallery(tmp_path / "run")
    assert torch.equal(gallery.truth, data.test.labels)  # type: ignore[arg-type]
    assert torch.equal(gallery.segments, predicted.to(torch.uint8))  # type: ignore[arg-type]
    evaluation = evaluate_run(tmp_path / "run")
    assert evaluation["error"]["mean"] == pytest.approx(result["error"])
    assert evaluation["error"]["low"] is evaluation["error"]["high"] is None
    assert evaluation["confusion"] == confusion.tolist()
    json.dumps(evaluation)


def test_a_resumed_run_has_the_same_history(task: str, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(progress: object) -> None:
        if progress.epoch >= 2 and progress.fraction > 0.5:  # type: ignore[attr-defined]
            raise Stop

    chosen = recipe(task, epochs=3, augment="crop-flip")
    whole = train(chosen, tmp_path / "whole")
    with pytest.raises(Stop):
        train(chosen, tmp_path / "stopped", report=stop)
    resumed = train(chosen, tmp_path / "stopped", resume=True)
    assert resumed["curves"] == whole["curves"]
    assert resumed["error"] == whole["error"]


def test_attention_that_takes_no_gating_follows_the_blocks_of_the_decoder(task: str) -> None:
    classifier = create_objective(prepare(recipe(task, attention="se:reduction=2")), INFO)
    assert attention_paths(classifier.model) == ["decoder.0.5.attention", "decoder.1.5.attention"]


class TestRefusals:
    def test_another_objective(self, task: str) -> None:
        with raises(BadRecipe, option="objective", value="classify"):
            prepare(recipe(task, objective="classify"))

    def test_labels_of_images(self) -> None:
        with raises(BadRecipe, option="objective", value="segment"):
            prepare(
                Recipe.from_mapping(
                    {"task": "white-patch:train=20,validation=4,test=4,size=32", "objective": "segment"}
                )
            )

    def test_a_classifier(self, task: str) -> None:
        with raises(BadRecipe, option="backbone", value="small"):
            prepare(recipe(task, backbone="small"))

    def test_mixup(self, task: str) -> None:
        with raises(BadRecipe, option="mixup", value=0.2):
            prepare(recipe(task, mixup=0.2))

    def test_a_negative_weight(self, task: str) -> None:
        with raises(BadOption, option="dice_weight", value=-1):
            prepare(recipe(task, objective="segment:dice_weight=-1"))

    def test_images_smaller_than_the_levels(self, task: str) -> None:
        with raises(BadShape):
            prepare(recipe(task, backbone="unet:levels=6"))


def test_torchvision_models_return_their_scores_in_a_mapping(task: str) -> None:
    chosen = recipe(task, backbone="torchvision:lraspp_mobilenet_v3_large")
    classifier = create_objective(prepare(chosen), replace(INFO))
    assert classifier.eval()(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape == (1, 2, 32, 32)


def test_the_head_of_another_run_is_replaced(task: str, tmp_path: Path) -> None:
    train(recipe(task, epochs=1), tmp_path / "first")
    second = recipe(task, epochs=1, seed=1, init_from=str(tmp_path / "first"), freeze=True)
    train(second, tmp_path / "second")
    first, other = (restore(tmp_path / name).model for name in ("first", "second"))
    assert isinstance(first, nn.Module)
    weights: dict[str, Tensor] = dict(other.named_parameters())
    for name, weight in first.named_parameters():
        assert torch.equal(weight, weights[name]) == (not name.startswith("head."))


class Background(nn.Module):
    """Answers with the first class everywhere, but for the first pixel of the second image."""

    def forward(self, x: Tensor) -> Tensor:
        scores = torch.stack([torch.ones_like(x[:, 0]), torch.zeros_like(x[:, 0])], 1)
        if len(x) > 1:
            scores[1, 1, 0, 0] = 2
        return scores


def test_the_main_class_of_a_prediction_with_few_classes(task: str) -> None:
    """As after few steps: no pixel, or one, is another class than the background."""
    classifier, test = segment(), load_task(task).test
    classifier.model = Background()
    one = build_gallery(classifier.eval(), test.select(torch.tensor([0])))
    assert one.predictions.tolist() == [0]
    assert build_gallery(classifier.eval(), test).predictions.tolist() == [0, 1]
