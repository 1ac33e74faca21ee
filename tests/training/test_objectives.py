"""Objectives other than cross-entropy, initial weights, and the built-in recipes."""

from __future__ import annotations

import json
import math
import runpy
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

from saccade.cli import app
from saccade.config import Recipe, builtin_recipes, read_recipe, resolve
from saccade.data import TASKS, Split, TaskInfo, load_task
from saccade.errors import BadOption, BadRecipe, BadRun, UnknownName
from saccade.experiments import Comparison, compare
from saccade.models import RecurrentAttention, head_path, load_backbone
from saccade.recording import record
from saccade.training import (
    Progress,
    attention_path,
    build,
    load_checkpoint,
    prepare,
    record_attention,
    restore,
    train,
)
from saccade.training.initial_weights import freeze, load_initial_weights
from saccade.training.module import select_labeled
from saccade.training.objectives.contrastive import UNKNOWN, Contrastive
from saccade.training.objectives.hard import Hard, hard_items, record_draws
from saccade.training.objectives.recurrent import Recurrent
from saccade.training.objectives.registry import create_objective
from support.errors import raises

TASK = "digits:max_samples=60"
RECIPES = {
    "recurrent": Recipe(
        task=TASK,
        objective="recurrent:num_samples=2,samples_per_image=2",
        backbone="ram:glimpses=3,hidden=32",
        batch_size=20,
    ),
    "contrastive": Recipe(
        task=TASK, objective="contrastive:width=16,color=0", label_fraction=0.3, grad_clip=1.0, batch_size=20
    ),
    "hard": Recipe(
        task=TASK,
        objective="hard:num_samples=2,samples_per_image=2",
        attention="hard_item",
        augment="crop",
        batch_size=20,
    ),
    "frozen": Recipe(task=TASK, freeze=["stages.0.*", "stages.1.*"], batch_size=20),
}


def weights(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = load_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
    return state


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def outline(classes: int = 10, side: int = 28) -> TaskInfo:
    names = tuple(map(str, range(classes)))
    return TaskInfo(names, (3, side, side), torch.full((3,), 0.2), torch.full((3,), 0.3))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A contrastive run."""
    folder = tmp_path_factory.mktemp("pretrained")
    train(replace(RECIPES["contrastive"], epochs=2), folder)
    return folder


# ------------------------------------------------------------------------------------------- all methods


class Stopped(Exception):
    """Raised in the middle of a run, to simulate a kill."""


def stop(progress: Progress) -> None:
    if progress.epoch == 2:
        raise Stopped


@pytest.mark.parametrize("name", RECIPES)
def test_a_resumed_run_equals_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    recipe = replace(RECIPES[name], epochs=3)
    whole = train(recipe, tmp_path / "whole")
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "parts", report=stop)
    parts = train(recipe, tmp_path / "parts", resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    for key in ("error", "loss", "curves", "localization"):
        assert parts[key] == whole[key]


@pytest.mark.parametrize(
    ("method", "backbone", "attention"),
    [
        ("recurrent:num_samples=1", "ram:hidden=64,glimpses=4", "none"),
        ("recurrent:num_samples=1,reward=step", "ram:hidden=64,glimpses=4,detach=false", "none"),
        ("contrastive:color=0", "small", "none"),
        ("hard:num_samples=2", "small", "hard_item"),
        ("hard:num_samples=2", "small", "hard_item:estimator=gumbel"),
    ],
)
def test_the_loss_falls(method: str, backbone: str, attention: str, tmp_path: Path) -> None:
    recipe = Recipe(
        task="digits:max_samples=600",
        objective=method,
        backbone=backbone,
        attention=attention,
        epochs=6,
        batch_size=50,
    )
    result = train(recipe, tmp_path)
    loss: Any = result["curves"]["train_loss"]
    assert loss[-1] < 0.9 * loss[0]
    assert result["error"] < 0.7  # of ten classes


def test_what_a_method_cannot_do_is_said_before_a_run(tmp_path: Path) -> None:
    for values, error, fields in (
        ({"objective": "constrastive"}, UnknownName, {"owner": "objective", "value": "constrastive"}),
        ({"objective": "recurrent:num_sample=3"}, UnknownName, {"owner": "recurrent", "value": "num_sample"}),
        ({"objective": "classify:num_samples=3"}, UnknownName, {"owner": "classify", "value": "num_samples"}),
        ({"objective": "recurrent:num_samples=0"}, BadOption, {"option": "num_samples", "value": 0}),
        ({"objective": "recurrent:reward=last"}, BadOption, {"option": "reward", "value": "last"}),
        (
            {"objective": "recurrent", "backbone": "small"},
            BadRecipe,
            {"option": "backbone", "value": "small"},
        ),
        ({"objective": "recurrent", "attention": "se"}, BadRecipe, {"option": "attention", "value": "se"}),
        ({"objective": "recurrent", "mixup": 0.2}, BadRecipe, {"owner": "recurrent", "option": "mixup"}),
        ({"attention": "hard_item"}, BadRecipe, {"option": "objective", "value": "classify"}),
        ({"objective": "hard", "compile": True}, BadRecipe, {"owner": "hard", "option": "compile"}),
        ({"objective": "hard:samples_per_image=0"}, BadOption, {"option": "samples_per_image", "value": 0}),
        ({"objective": "hard:entropy=-1"}, BadRecipe, {"option": "entropy", "value": -1}),
        ({"objective": "hard:baseline=1"}, BadRecipe, {"option": "baseline", "value": 1}),
        ({"objective": "hard:policy_weight=x"}, BadOption, {"option": "policy_weight", "value": "x"}),
        ({"objective": "contrastive", "label_smoothing": 0.1}, BadRecipe, {"option": "label_smoothing"}),
        ({"objective": "contrastive:color=2"}, BadOption, {"option": "color", "value": 2}),
        ({"objective": "contrastive:temperature=0"}, BadOption, {}),
        ({"objective": "contrastive", "backbone": "squeezenet1_0"}, BadOption, {}),
        ({"objective": 3}, BadRecipe, {"option": "objective", "value": 3}),
        ({"backbone": "ram:glimpse=3"}, UnknownName, {"owner": "ram", "value": "glimpse"}),
        ({"backbone": "ram:classes=3"}, UnknownName, {"owner": "ram", "value": "classes"}),
        ({"backbone": "vit:patch_size=5"}, BadOption, {}),
        ({"pretrained": True}, BadRecipe, {"option": "pretrained", "value": True}),
        ({"pretrained": 1}, BadRecipe, {"option": "pretrained", "value": 1}),
        ({"pretrained": True, "init_from": "x"}, BadRecipe, {"option": "init_from", "value": "x"}),
        (
            {"pretrained": True, "backbone": "resnet18", "cifar_stem": True},
            BadRecipe,
            {"option": "pretrained"},
        ),
        ({"init_from": str(tmp_path / "nothing")}, BadRun, {"owner": str(tmp_path / "nothing")}),
        ({"init_from": str(tmp_path)}, BadRun, {"owner": str(tmp_path), "option": "recipe.yaml"}),
        ({"layer_decay": 0.5}, BadRecipe, {"option": "layer_decay", "value": 0.5}),
        ({"layer_decay": -1}, BadRecipe, {"option": "layer_decay", "value": -1}),
        ({"freeze": ["layer9.*"]}, BadRecipe, {"option": "freeze", "value": "layer9.*"}),
        ({"freeze": ["*"]}, BadRecipe, {"option": "freeze", "value": ["*"]}),
        ({"freeze": []}, BadRecipe, {"option": "freeze", "value": []}),
        ({"label_fraction": 0}, BadRecipe, {"option": "label_fraction", "value": 0}),
        ({"label_fraction": 0.2}, BadRecipe, {"option": "batch_size", "value": 50}),
    ):
        with raises(error, **fields):
            prepare(Recipe.from_mapping({"task": TASK, **values}))


# --------------------------------------------------------------------------------------------- recurrent


def test_the_recurrent_method_brings_its_network() -> None:
    assert Recipe.from_mapping({"objective": "recurrent:num_samples=3"}).backbone == "ram"
    assert Recipe.from_mapping({"objective": "recurrent", "backbone": "ram:size=6"}).backbone == "ram:size=6"
    assert Recipe.from_mapping({}).backbone == "small"


def test_answers_are_means_over_looks_and_repeat() -> None:
    recipe = RECIPES["recurrent"]
    classifier = create_objective(
        resolve(replace(recipe, objective="recurrent:num_samples=3")), outline()
    ).eval()
    images = torch.randint(0, 256, (4, 3, 28, 28), dtype=torch.uint8)
    with torch.no_grad():
        torch.manual_seed(5)
        found = classifier(images)
        assert torch.equal(found, classifier(images))  # the draws are seeded by the recipe
        after = torch.rand(1)
        torch.manual_seed(5)
        assert torch.equal(after, torch.rand(1))  # the global generator is unchanged
        torch.manual_seed(recipe.seed)
        gray = images.double().div(255).mean(1, keepdim=True).float()
        expected = sum(classifier.model(gray).softmax(1) for _ in range(3)) / 3
    torch.testing.assert_close(found.exp(), expected)
    torch.testing.assert_close(found.softmax(1), expected)


def test_color_reaches_a_network_of_three_channels() -> None:
    recipe = Recipe(objective="recurrent", backbone="ram:in_channels=3")
    classifier = create_objective(resolve(recipe), outline())
    images = torch.randint(0, 256, (2, 3, 28, 28), dtype=torch.uint8)
    torch.testing.assert_close(classifier.normalize(images), images / 255)
    assert classifier(images).shape == (2, 10)


def test_copies_are_looked_at_in_different_ways() -> None:
    classifier = create_objective(resolve(RECIPES["recurrent"]), outline())
    assert isinstance(classifier, Recurrent)
    assert isinstance(classifier.model, RecurrentAttention)
    seen: list[Tensor] = []
    original = classifier.model.look
    classifier.model.look = lambda images: seen.append(images) or original(images)  # type: ignore[func-returns-value,method-assign]
    labels = torch.tensor([1, 2, 3])
    outputs = classifier.training_step((torch.zeros(3, 3, 28, 28), labels), 0)
    assert seen[0].shape == (6, 1, 28, 28)
    assert 0 <= outputs["wrong"] <= 3


def test_fixations_are_recorded_localized_and_shown(tmp_path: Path) -> None:
    recipe = replace(RECIPES["recurrent"], task="digits:variant=translated,size=40,max_samples=30", epochs=1)
    result: Any = train(recipe, tmp_path / "runs" / "a")
    where = result["localization"]
    assert (where["path"], where["kind"]) == ("", "fixation")
    assert 0 < where["positive"]["precision"] < 1
    classifier = restore(tmp_path / "runs" / "a")
    images = load_task(recipe.task).test.images[:5]
    _, fixations, logits = record_attention(classifier, images)
    assert fixations.heatmap((40, 40)).shape == (5, 40, 40)
    assert logits.shape == (5, 10)
    done = CliRunner().invoke(
        app, ["look", str(tmp_path / "runs" / "a"), "--images", "2", "--out", str(tmp_path / "look")]
    )
    assert done.exit_code == 0, done.output
    assert "fixation" in (tmp_path / "look" / "look.html").read_text()


def test_recurrent_runs_are_compared_and_scored(tmp_path: Path) -> None:
    recipe = replace(RECIPES["recurrent"], task="digits:variant=translated,size=40,max_samples=30", epochs=1)
    comparison = Comparison(("none",), 1, recipe)
    summary: Any = compare(comparison, tmp_path)
    assert summary["leaderboard"][0]["localization"]["chance"] > 0
    from saccade.experiments import score
    from saccade.viz import write_report

    score(tmp_path, images=4, steps=2)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["leaderboard"][0]["scores"]["attention"]["faithfulness"]
    assert "grad_cam" not in results["leaderboard"][0]["scores"]  # the model has no feature map for Grad-CAM
    assert write_report(tmp_path).stat().st_size > 10_000


# -------------------------------------------------------------------------------------------------- hard


def hard(options: str = "", attention: str = "hard_item", classes: int = 3) -> Hard:
    """A classifier of images with 2 x 2 positions and non-trivial batch norm statistics."""
    torch.manual_seed(0)
    recipe = Recipe(objective=f"hard{options}", attention=attention)
    classifier = create_objective(resolve(recipe), outline(classes, 16))
    assert isinstance(classifier, Hard)
    with torch.no_grad():
        for item in hard_items(classifier.model):
            item.score.weight.mul_(40)  # makes the probabilities differ
        classifier.model(torch.randn(20, 3, 16, 16))
    return classifier.eval()


def draw_always(monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    """Make the noise of the Gumbel-max trick select one position, whatever its probability."""

    def noise(empty: Tensor) -> Tensor:
        empty.fill_(1.0)
        empty[:, place] = 1e-30
        return empty

    monkeypatch.setattr(Tensor, "exponential_", noise)


def gradients(loss: Tensor, classifier: Hard) -> dict[str, Tensor]:
    named = dict(classifier.model.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


@pytest.mark.parametrize("baseline", [-2.0, 0.7])
def test_in_the_mean_over_draws_the_gradient_is_that_of_the_bound(
    baseline: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradients of all four draws, weighted by their probabilities, equal that of the explicit bound."""
    classifier = hard(":entropy=0.3")
    images = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    label = torch.tensor([2])
    x = classifier.normalize(images)
    for stage in classifier.model.get_submodule("stages").children():
        x = stage(x)
    items = x.flatten(2).transpose(1, 2)[0]
    (item,) = hard_items(classifier.model)
    p = item.score(items)[:, 0].softmax(0)
    assert p.detach().amin() > 0.01
    assert p.detach().amax() - p.detach().amin() > 0.1
    likelihoods = classifier.model.get_submodule("head")(items).log_softmax(1)[:, 2]
    bound = -(p * likelihoods).sum() + 0.3 * (p * p.log()).sum()
    exact = gradients(bound, classifier)
    mean: dict[str, Tensor] = {name: torch.zeros_like(its) for name, its in exact.items()}
    for place, chance in enumerate(p.tolist()):
        classifier.expected.fill_(baseline)
        draw_always(monkeypatch, place)
        outputs = classifier.training_step((images, label), 0)
        torch.testing.assert_close(outputs["loss"], -likelihoods[place])  # its value is the cross-entropy
        torch.testing.assert_close(
            classifier.expected, torch.tensor(0.9 * baseline) + 0.1 * likelihoods[place].detach()
        )
        for name, its in gradients(outputs["loss"], classifier).items():
            mean[name] += chance * its
    for name, its in exact.items():
        assert its.abs().max() > 0, name
        torch.testing.assert_close(mean[name], its, rtol=1e-4, atol=1e-6, msg=name)


def test_the_item_itself_carries_the_gradient_of_the_gumbel_estimator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    classifier = hard(":entropy=0", "hard_item:estimator=gumbel")
    images, labels = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8), torch.tensor([0, 1, 2, 0])
    draw_always(monkeypatch, 1)
    outputs = classifier.training_step((images, labels), 0)
    expected = F.cross_entropy(classifier.model(classifier.normalize(images)), labels)
    theirs = gradients(expected, classifier)
    assert theirs["attention.places.score.weight"].abs().max() > 0
    for name, its in gradients(outputs["loss"], classifier).items():
        torch.testing.assert_close(its, theirs[name])


def test_copies_are_drawn_separately_and_their_mean_is_the_loss() -> None:
    images, labels = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8), torch.arange(6) % 3
    losses = []
    for classifier, batch in (
        (hard(":samples_per_image=4"), (images, labels)),
        (hard(), (images.repeat_interleave(4, 0), labels.repeat_interleave(4))),
    ):
        torch.manual_seed(2)
        losses.append(classifier.training_step(batch, 0))
    torch.testing.assert_close(losses[0]["loss"], losses[1]["loss"])
    torch.testing.assert_close(4 * losses[0]["wrong"], losses[1]["wrong"].float())


def test_nothing_of_the_training_stays_in_the_network() -> None:
    classifier = hard()
    (item,) = hard_items(classifier.model)
    with pytest.raises(ValueError, match="stop"), record_draws(classifier.model):
        raise ValueError("stop")
    classifier.training_step((torch.zeros(2, 3, 16, 16), torch.tensor([0, 1])), 0)
    assert not item._forward_hooks


def test_a_network_that_draws_nothing_is_trained_by_cross_entropy(tmp_path: Path) -> None:
    recipe = Recipe(task=TASK, epochs=1, batch_size=20)
    plain = train(recipe, tmp_path / "classify")
    other = train(replace(recipe, objective="hard:num_samples=7"), tmp_path / "hard")
    assert same(
        weights(tmp_path / "classify"),
        {name: its for name, its in weights(tmp_path / "hard").items() if name != "expected"},
    )
    assert other["error"] == plain["error"]
    assert other["flops"] == pytest.approx(plain["flops"], rel=1e-3)  # one forward pass


def test_hard_attention_is_compared_localized_shown_and_scored(tmp_path: Path) -> None:
    from saccade.experiments import score
    from saccade.viz import write_report

    task = "white-patch:size=32,patch=[8,12],train=40,validation=10,test=20"
    recipe = Recipe(task=task, objective="hard:num_samples=2", epochs=1, batch_size=20)
    summary: Any = compare(
        Comparison(("none", "hard_item", "hard_item:estimator=gumbel"), 1, recipe), tmp_path
    )
    for row in summary["leaderboard"][1:]:
        assert row["localization"]["chance"] > 0
    run = summary["runs"][1]
    assert (run["localization"]["path"], run["localization"]["kind"]) == ("attention.places", "spatial")
    score(tmp_path, images=4, steps=2)
    results = json.loads((tmp_path / "results.json").read_text())
    for row in results["leaderboard"][1:]:
        assert row["scores"]["attention"]["faithfulness"]["mean"] is not None
        assert row["scores"]["grad_cam"]["faithfulness"]["mean"] is not None
    assert write_report(tmp_path).stat().st_size > 10_000
    words = ["look", str(tmp_path / run["folder"]), "--images", "2", "--out", str(tmp_path / "look")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    _, probabilities, _ = record_attention(restore(tmp_path / run["folder"]), load_task(task).test.images[:5])
    assert probabilities.saliency().shape == (5, 4, 4)
    torch.testing.assert_close(probabilities.saliency().sum((1, 2)), torch.ones(5))


def test_one_frame_of_a_clip_is_drawn(tmp_path: Path) -> None:
    task = "moving-digits:frames=4,moment=1,size=16,train=40,validation=10,test=10"
    recipe = Recipe(task=task, objective="hard:num_samples=2", attention="hard_item", epochs=1, batch_size=20)
    result: Any = train(recipe, tmp_path)
    assert result["localization"]["path"] == "attention.time"
    _, probabilities, _ = record_attention(restore(tmp_path), load_task(task).test.images[:3])
    assert probabilities.saliency().shape == (3, 4)


# ------------------------------------------------------------------------------------------- contrastive


def test_labels_are_a_share_of_each_class() -> None:
    labels = torch.tensor([0] * 40 + [1] * 20 + [2] * 3)
    kept = select_labeled(labels, 0.1, seed=1)
    assert torch.bincount(labels[kept]).tolist() == [4, 2, 1]
    assert torch.equal(kept, select_labeled(labels, 0.1, seed=1))
    assert not torch.equal(kept, select_labeled(labels, 0.1, seed=2))
    assert select_labeled(labels, 1.0, seed=1).all()


def test_a_share_of_labels_is_all_that_training_is_given() -> None:
    split = load_task(TASK).train
    kept = select_labeled(split.labels, 0.3, seed=0)
    supervised = create_objective(resolve(Recipe(task=TASK, label_fraction=0.3)), outline()).training_subset(
        split
    )
    assert torch.equal(supervised.images, split.images[kept])
    assert torch.equal(supervised.labels, split.labels[kept])
    unsupervised = create_objective(resolve(RECIPES["contrastive"]), outline()).training_subset(split)
    assert torch.equal(unsupervised.images, split.images)
    assert torch.equal(unsupervised.labels[kept], split.labels[kept])
    assert (unsupervised.labels[~kept] == UNKNOWN).all()


@pytest.mark.parametrize("labels", [0.3, 1.0])
def test_labels_teach_the_probe_and_nothing_else(
    labels: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With active gradient clipping, and labels that are all wrong."""
    recipe = replace(RECIPES["contrastive"], label_fraction=labels, grad_clip=0.01, epochs=2)
    train(recipe, tmp_path / "right")
    original = Contrastive.training_subset

    def wrong(self: Contrastive, split: Split) -> Split:
        shown = original(self, split)
        known = shown.labels != UNKNOWN
        return Split(shown.images, torch.where(known, (shown.labels + 1) % 10, UNKNOWN))

    monkeypatch.setattr(Contrastive, "training_subset", wrong)
    train(recipe, tmp_path / "wrong")
    right, others = weights(tmp_path / "right"), weights(tmp_path / "wrong")
    probe = [name for name in right if ".probe." in name]
    assert len(probe) == 2
    assert not any(torch.equal(right.pop(name), others.pop(name)) for name in probe)
    assert same(right, others)


def test_the_step_is_nt_xent_of_two_views() -> None:
    torch.manual_seed(0)
    classifier = create_objective(resolve(RECIPES["contrastive"]), outline())
    images = torch.randint(0, 256, (5, 3, 28, 28), dtype=torch.uint8)
    labels = torch.tensor([3, UNKNOWN, 7, UNKNOWN, UNKNOWN])
    torch.manual_seed(1)
    outputs = classifier.training_step((images, labels), 0)
    torch.manual_seed(1)
    views = classifier.augment(images)
    head = classifier.model.get_submodule("head")
    features: list[Tensor] = []
    head.register_forward_pre_hook(lambda _head, inputs: features.append(inputs[0]))
    classifier.model(classifier.normalize(views))
    z = F.normalize(head.get_submodule("projection")(features[0]), dim=1)
    s = (z @ z.T / 0.5).fill_diagonal_(-torch.inf)
    terms = [-s[i, (i + 5) % 10] + s[i].logsumexp(0) for i in range(10)]
    torch.testing.assert_close(outputs["loss"], sum(terms) / 10)
    assert outputs["answers"] == 4
    outputs["loss"].backward()
    logits = head.get_submodule("probe")(features[0].detach())
    known = [0, 2, 5, 7]
    taught = F.cross_entropy(logits[known], torch.tensor([3, 7, 3, 7]))
    (expected,) = torch.autograd.grad(taught, [head.get_parameter("probe.weight")])
    torch.testing.assert_close(head.get_parameter("probe.weight").grad, expected)


def test_a_batch_without_labels_teaches_all_the_same() -> None:
    classifier = create_objective(resolve(RECIPES["contrastive"]), outline())
    images = torch.randint(0, 256, (5, 3, 28, 28), dtype=torch.uint8)
    outputs = classifier.training_step((images, torch.full((5,), UNKNOWN)), 0)
    outputs["loss"].backward()
    assert outputs["answers"] == outputs["wrong"] == 0
    assert outputs["loss"].isfinite()
    assert not classifier.model.get_parameter("head.probe.weight").grad.any()  # type: ignore[union-attr]


def test_after_training_the_probe_answers(pretrained: Path) -> None:
    classifier = restore(pretrained)
    images = load_task(TASK).test.images[:4]
    with torch.no_grad():
        answers = classifier(images)
    assert answers.shape == (4, 10)
    result = json.loads((pretrained / "result.json").read_text())
    curves = result["curves"]
    assert all(0 <= error <= 1 for error in curves["train_error"] + curves["val_error"])


# ------------------------------------------------------------------------------------- starts and frozen


@pytest.mark.parametrize("chosen", [True, ["stages.0.*", "stages.2.1.*"]])
def test_frozen_weights_stay_bit_for_bit(chosen: Any, pretrained: Path, tmp_path: Path) -> None:
    recipe = Recipe(
        task=TASK, init_from=str(pretrained), freeze=chosen, batch_size=20, epochs=2, ema_decay=0.5
    )
    train(recipe, tmp_path)
    before, after = weights(pretrained), weights(tmp_path)
    prefixes = ["model.stages."] if chosen is True else ["model.stages.0.", "model.stages.2.1."]
    fixed = [name for name in after if name.startswith(tuple(prefixes))]
    assert any(name.endswith("running_mean") for name in fixed)
    assert all(torch.equal(before[name], after[name]) for name in fixed)
    if chosen is not True:
        loose = [name for name in after if name.startswith("model.stages.") and name not in fixed]
        assert loose
        assert not any(torch.equal(before[name], after[name]) for name in loose)


def test_a_run_starts_from_the_weights_of_another(pretrained: Path) -> None:
    recipe = Recipe(task=TASK, init_from=str(pretrained), attention="cbam", freeze=True)
    torch.manual_seed(0)
    fresh = create_objective(resolve(recipe), outline())
    torch.manual_seed(0)
    classifier = create_objective(resolve(recipe), outline())
    load_initial_weights(classifier)
    freeze(classifier)
    theirs = weights(pretrained)
    for name, ours in classifier.model.state_dict().items():
        is_new = name.startswith(("head", "attention"))
        assert torch.equal(ours, fresh.model.state_dict()[name] if is_new else theirs[f"model.{name}"])
    assert torch.equal(classifier.mean, theirs["mean"])
    trained = {name for name, p in classifier.model.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith(("head", "attention")) for name in trained)


def test_a_run_that_started_from_another_needs_it_no_more(pretrained: Path, tmp_path: Path) -> None:
    shutil.copytree(pretrained, tmp_path / "first")
    recipe = Recipe(task=TASK, init_from=str(tmp_path / "first"), batch_size=20, epochs=1)
    result = train(recipe, tmp_path / "second")
    shutil.rmtree(tmp_path / "first")
    assert restore(tmp_path / "second").recipe == recipe
    assert train(recipe, tmp_path / "second", resume=True) == result


def test_weights_that_do_not_fit_are_named(pretrained: Path, tmp_path: Path) -> None:
    for values in ({"backbone": "timm:test_resnet"}, {"objective": "recurrent", "backbone": "ram"}):
        with raises(BadRecipe, option="init_from", value=str(pretrained)) as caught:
            prepare(Recipe.from_mapping({"task": TASK, "init_from": str(pretrained), **values}))
        assert "the model has no weight 'stages.0.0.weight'" in str(caught.value)
    wide = tmp_path / "wide.ckpt"
    checkpoint = load_checkpoint(pretrained / "checkpoints" / "last.ckpt")
    checkpoint["state_dict"]["model.stages.0.0.weight"] = torch.zeros(2, 3, 3, 3)
    torch.save(checkpoint, wide)
    with raises(BadRecipe, option="init_from", value=str(wide)) as caught:
        prepare(Recipe(task=TASK, init_from=str(wide)))
    assert "'stages.0.0.weight' has the shape (2, 3, 3, 3), not (16, 3, 3, 3)" in str(caught.value)
    del checkpoint["state_dict"]["model.stages.0.0.weight"]
    torch.save(checkpoint, wide)
    with raises(BadRecipe, option="init_from", value=str(wide)) as caught:
        prepare(Recipe(task=TASK, init_from=str(wide)))
    assert "it has no weight 'stages.0.0.weight'" in str(caught.value)


def test_the_rates_of_layers_fall_towards_the_image() -> None:
    recipe = Recipe(backbone="timm:test_resnet", layer_decay=0.5, learning_rate=0.1, schedule="constant")
    classifier = create_objective(resolve(recipe), outline())
    classifier._trainer = type("Trainer", (), {"estimated_stepping_batches": 4})()
    for schedule in ("constant", "one-cycle"):
        classifier.recipe = replace(recipe, schedule=schedule)
        configured: Any = classifier.configure_optimizers()
        optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
        rates = {}
        for group in optimizer.param_groups:
            for weight in group["params"]:
                rates[id(weight)] = group["max_lr"] if schedule == "one-cycle" else group["lr"]
        named = {name: rates[id(p)] for name, p in classifier.model.named_parameters()}
        assert named["fc.weight"] == pytest.approx(0.1)
        assert named["conv1.0.weight"] < named["layer1.0.conv1.weight"] < named["layer4.0.conv1.weight"] < 0.1
        steps = [round(math.log2(0.1 / rate), 6) for rate in named.values()]
        assert all(step == int(step) for step in steps)
        assert scheduler is not None


def random_weights(*_: Any, **__: Any) -> dict[str, Tensor]:
    torch.manual_seed(9)
    return torchvision.models.shufflenet_v2_x0_5().state_dict()  # type: ignore[no-any-return]


def test_pretrained_networks_get_a_head_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", random_weights)
    theirs = random_weights()
    model = load_backbone("shufflenet_v2_x0_5", classes=7, pretrained=True)
    assert head_path(model, 7) == "fc"
    assert model.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 7)
    ours = model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs if not name.startswith("fc."))
    same_head = load_backbone("shufflenet_v2_x0_5", classes=1000, pretrained=True).state_dict()
    assert same(same_head, theirs)
    recipe = Recipe(
        task="digits:max_samples=20",
        backbone="shufflenet_v2_x0_5",
        pretrained=True,
        freeze=True,
        epochs=1,
        batch_size=10,
    )
    train(recipe, tmp_path)
    found = weights(tmp_path)
    body = [name for name in theirs if not name.startswith("fc.")]
    assert all(torch.equal(found[f"model.{name}"], theirs[name]) for name in body)
    torch.testing.assert_close(found["mean"].flatten(), torch.tensor([0.485, 0.456, 0.406]))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", None)
    restore(tmp_path)  # without a download


# ----------------------------------------------------------------------------------------------- recipes


def test_vision_transformers_of_patches_and_of_channels() -> None:
    sizes = "width=32,depth=2,heads=2,mlp_width=32"
    patches = build(resolve(Recipe(backbone=f"vit:patch_size=7,{sizes}")), 10, (3, 28, 28))
    channels = build(resolve(Recipe(backbone=f"vit:tokens=channels,group_size=8,{sizes}")), 10, (3, 30, 28))
    for model, side, path in ((patches, 28, "blocks.1.attn"), (channels, 30, "vit.blocks.1.attn")):
        with record(model) as maps:
            assert model(torch.zeros(2, 3, side, 28)).shape == (2, 10)
        assert path in maps
    assert attention_path(patches) == "blocks.1.attn"
    assert attention_path(channels) is None  # a group of channels is not a position in the image


@pytest.mark.parametrize("name", builtin_recipes())
def test_every_recipe_starts(name: str, tmp_path: Path, pretrained: Path) -> None:
    recipe, values = builtin_recipes()[name], read_recipe(name)
    assert len(recipe.summary) > 20
    task = (
        values["task"].replace("source=mnist", "max_samples=20")
        if "digits" in values["task"]
        else "digits:max_samples=20"
    )
    if "moving-digits" in values["task"]:
        task = "moving-digits:frames=6,size=16,train=20,validation=10,test=10"
    if "white-patch" in values["task"]:
        task = "white-patch:size=96,train=20,validation=10,test=10"
    tiny = {"task": task, "epochs": 1, "batch_size": 10, "label_fraction": 1.0}
    if "init_from" in values:
        tiny["init_from"] = str(pretrained)
    if "num_samples=10" in values.get("objective", ""):
        tiny["objective"] = values["objective"].replace("num_samples=10", "num_samples=1")
    if recipe.command == "train":
        train(Recipe.from_mapping(values | tiny), tmp_path)
    else:
        comparison = Comparison.from_mapping(values | tiny)
        for attention in comparison.attentions:
            prepare(replace(comparison.training, attention=attention))
        compare(replace(comparison, attentions=comparison.attentions[-1:], seeds=1), tmp_path)


def test_a_recipe_is_a_name_or_a_file(tmp_path: Path) -> None:
    assert read_recipe("ram-mnist")["task"] == "mnist"
    (tmp_path / "own.yaml").write_text("task: digits\n")
    assert read_recipe(str(tmp_path / "own.yaml")) == {"task": "digits"}
    with raises(UnknownName, owner="recipe", value="ram-mnits"):
        read_recipe("ram-mnits")
    with raises(BadRecipe, owner="none.yaml"):
        read_recipe("none.yaml")
    with raises(BadRecipe, option="attentions"):
        Recipe.from_mapping(read_recipe("cifar10"))


def test_the_command_line_knows_recipes_and_methods(tmp_path: Path) -> None:
    listed = CliRunner().invoke(app, ["list", "--recipes"])
    assert listed.output.count("--recipe ") == len(builtin_recipes())
    words = ["train", "digits:max_samples=20", "--set", "objective=recurrent:num_samples=1", "--epochs", "1"]
    done = CliRunner().invoke(app, [*words, "--batch-size", "10", "--out", str(tmp_path / "run"), "--json"])
    assert done.exit_code == 0, done.output
    assert restore(tmp_path / "run").recipe.backbone == "ram"
    compared = CliRunner().invoke(app, ["compare", "--recipe", "cifar10", "--seeds", "2", "--print-recipe"])
    assert "- non_local" in compared.output
    assert "seeds: 2" in compared.output


def test_the_tables_of_the_documentation_are_those_of_the_code() -> None:
    path = Path(__file__).parent.parent.parent / "docs" / "training.py"
    page = runpy.run_path(str(path))
    text = page["PAGE"].read_text()
    assert page["page"](text) == text
    assert all(f"`{name}`" in text for name in TASKS)
