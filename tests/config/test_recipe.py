"""Keys of a recipe: optimizers, schedules, augmentation, weight averaging, precision, backbones."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import yaml
from torch import nn

from saccade.cli import main
from saccade.config import Recipe, resolve
from saccade.errors import BadOption, BadRecipe, BadRun, SaccadeError, UnknownName
from saccade.training import (
    Batches,
    Classifier,
    Hardware,
    Progress,
    attention_paths,
    build,
    load_checkpoint,
    prepare,
    train,
)
from saccade.training.module import create_schedule
from support.compiler import needs_compiler
from support.errors import raises

TASK = "white-patch:size=32,patch=[6,12],train=40,validation=20,test=20"
PLAIN = Recipe(task=TASK, attention="se", epochs=2, batch_size=20)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
    return state


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("plain")
    train(PLAIN, folder)
    return weights(folder)


@pytest.mark.parametrize(
    "changed",
    [
        {"optimizer": "sgd"},
        {"schedule": "cosine"},
        {"augment": "crop-flip"},
        {"label_smoothing": 0.1},
        {"mixup": 0.2},
        {"ema_decay": 0.9},
        {"grad_clip": 0.01},
        {"grad_accum_steps": 2},
        {"precision": "bf16-mixed"},
        {"precision": "64-true"},
    ],
    ids=str,
)
def test_every_setting_trains_and_matters(
    changed: dict[str, Any], plain: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    result = train(replace(PLAIN, **changed), tmp_path)
    assert 0 <= result["error"] <= 1
    found = weights(tmp_path)
    assert found.keys() == plain.keys()
    assert any(not torch.equal(found[name].float(), plain[name].float()) for name in plain)


@needs_compiler
def test_a_compiled_network_trains_alike(plain: dict[str, torch.Tensor], tmp_path: Path) -> None:
    train(replace(PLAIN, compile=True), tmp_path)
    found = weights(tmp_path)
    assert found.keys() == plain.keys()
    for name, its in plain.items():
        torch.testing.assert_close(found[name], its, rtol=1e-3, atol=1e-4)


DIGITS = "digits:max_samples=20"


@pytest.mark.parametrize(
    ("backbone", "attention", "where", "stem"),
    [
        ("timm:resnet10t", "eca", "residual", False),
        ("timm:test_resnet", "cbam:reduction=4", "stage", False),
        ("mobilenet_v3_small", "none", "residual", False),
    ],
)
def test_backbones(backbone: str, attention: str, where: Any, stem: Any, tmp_path: Path) -> None:
    recipe = Recipe(
        task=DIGITS,
        backbone=backbone,
        attention=attention,
        where=where,
        cifar_stem=stem,
        epochs=1,
        batch_size=10,
    )
    result = train(recipe, tmp_path)
    assert 0 <= result["error"] <= 1
    names = [name for name in weights(tmp_path) if ".attention." in name]
    assert bool(names) == (attention != "none")


@pytest.mark.parametrize(
    ("attention", "expected"),
    [
        ("se@head", ["layer4.0"]),
        ("se@layer2+layer1.0", ["layer1.0", "layer2.0"]),
        ("eca", [f"layer{i}.0.bn2" for i in (1, 2, 3, 4)]),
    ],
)
def test_attention_goes_to_its_place(attention: str, expected: list[str]) -> None:
    backbone = "timm:resnet10t:layers=[1,1,1,1]"
    recipe = Recipe(backbone=backbone, attention=attention)
    model = build(resolve(recipe), 10, (3, 64, 64))
    assert [path.removesuffix(".attention") for path in attention_paths(model)] == expected


def test_attention_goes_to_stages_of_the_small_network() -> None:
    model = build(resolve(Recipe(attention="se:reduction=4@3+1", stage=2)), 2, (3, 32, 32))
    assert sorted(model.get_submodule("attention")._modules) == ["1", "3"]
    clips = build(resolve(Recipe(attention="temporal_pool@time")), 2, (3, 4, 24, 24))
    assert list(clips.get_submodule("attention")._modules) == ["time"]
    stages = ("1", "2", "3")
    for attention, value, choices in (
        ("se@4", "4", (*stages, "places")),
        ("se@1+", "1+", None),
        ("se@", "", None),
    ):
        with raises(BadOption, owner="se", option="place", value=value, choices=choices):
            build(resolve(Recipe(attention=attention)), 2, (3, 32, 32))
    with raises(BadOption, owner="se", option="place", value="late", choices=(*stages, "time")):
        build(resolve(Recipe(attention="se@late")), 2, (3, 4, 24, 24))
    with raises(UnknownName, value="layer9"):
        build(resolve(Recipe(backbone="resnet18", attention="se@layer9")), 2, (3, 64, 64))


def test_of_attention_in_several_stages_the_last_is_looked_at(tmp_path: Path) -> None:
    result: Any = train(replace(PLAIN, attention="cbam@2+1", epochs=1), tmp_path)
    assert result["localization"]["path"] == "attention.2.spatial"


def test_options_of_a_backbone() -> None:
    model = build(
        resolve(Recipe(backbone="timm:resnet18:channels=[8,16,24,32],layers=[1,1,1,1]")), 5, (3, 32, 32)
    )
    assert model.get_submodule("fc").in_features == 32
    for backbone in ("timm:resnet18:chanels=[8,16,24,32]", "resnet18:num_classes=3"):
        with pytest.raises(BadOption, match="cannot be built with"):
            build(resolve(Recipe(backbone=backbone)), 5, (3, 32, 32))


@pytest.mark.parametrize("identity", [True, False])
def test_attention_in_a_backbone_starts_as_asked(identity: bool) -> None:
    recipe = Recipe(
        task=DIGITS, backbone="timm:test_resnet", attention="eca", where="stage", identity=identity
    )
    x = torch.randn(2, 3, 32, 32)
    outputs = []
    for its in (recipe, replace(recipe, attention="none")):
        torch.manual_seed(0)
        outputs.append(build(resolve(its), 10, (3, 32, 32)).eval()(x))
    assert torch.equal(*outputs) == identity


def test_a_small_stem_keeps_the_size() -> None:
    recipe = Recipe(backbone="resnet18", cifar_stem=True)
    with torch.device("meta"):
        model = build(resolve(recipe), 10, (3, 32, 32))
        sizes: list[torch.Size] = []
        model.get_submodule("layer1").register_forward_hook(lambda _module, _inputs, y: sizes.append(y.shape))
        assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
        deep = build(resolve(replace(recipe, backbone="timm:resnet18d")), 10, (3, 32, 32))
        deep.get_submodule("layer1").register_forward_hook(lambda _module, _inputs, y: sizes.append(y.shape))
        assert deep(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert sizes == [(1, 64, 32, 32)] * 2
    with raises(BadRecipe, option="cifar_stem", value=True):
        build(resolve(Recipe(backbone="vgg11", cifar_stem=True)), 10, (3, 32, 32))


@pytest.mark.parametrize(
    ("changed", "error", "fields"),
    [
        ({"backbone": "resnet81"}, UnknownName, {"value": "resnet81"}),
        ({"backbone": "timm:test_vit"}, BadOption, {"option": "example_inputs"}),
        (
            {"backbone": "timm:test_resnet", "where": "input"},
            BadOption,
            {},
        ),  # 3 channels, fewer than reduction
    ],
)
def test_what_cannot_be_built_is_said_before_a_run(
    changed: dict[str, Any], error: type[SaccadeError], fields: dict[str, Any], tmp_path: Path
) -> None:
    recipe = replace(Recipe(task=DIGITS, attention="se"), **changed)
    with raises(error, **fields):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Stopped(Exception):
    """Raised in the middle of a run, to simulate a kill."""


def test_a_resumed_run_repeats_all_that_is_random(tmp_path: Path) -> None:
    recipe = replace(PLAIN, epochs=3, augment="crop-flip", mixup=0.3, ema_decay=0.9, attention="none")

    def stop(progress: Progress) -> None:
        if progress.epoch == 2:
            raise Stopped

    train(recipe, tmp_path / "whole")
    with pytest.raises(Stopped):
        train(recipe, tmp_path / "parts", report=stop)
    train(recipe, tmp_path / "parts", resume=True)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("cosine", [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]),
        ("step", [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
        ("constant", [1] * 8),
    ],
)
def test_schedules(schedule: Any, expected: list[float]) -> None:
    recipe = Recipe(schedule=schedule, learning_rate=0.5)
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), recipe.learning_rate)
    its = create_schedule(recipe, optimizer, 8)
    rates = []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"] / 0.5)
        optimizer.step()
        its.step()
    assert rates == pytest.approx(expected)


def test_the_average_of_the_weights_is_what_is_tested(tmp_path: Path) -> None:
    """With a decay close to 1, the average stays at the initial weights."""
    for ema in (0.0, 0.999999):
        for epochs in (1, 3):
            recipe = replace(PLAIN, ema_decay=ema, epochs=epochs, attention="none", schedule="constant")
            train(recipe, tmp_path / f"{ema}-{epochs}")

    def moved(ema: float) -> float:
        one, other = (weights(tmp_path / f"{ema}-{epochs}")["model.head.weight"] for epochs in (1, 3))
        return (one - other).abs().max().item()

    assert moved(0.0) > 1e-3
    assert moved(0.999999) < 1e-5


def test_a_loss_that_is_no_number_stops_at_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Classifier.training_step

    def broken(self: Classifier, batch: Any, index: int) -> Any:
        outputs = original(self, batch, index)
        if self.current_epoch == 1 and index == 1:
            outputs["loss"] = outputs["loss"] * float("nan")
        return outputs

    monkeypatch.setattr(Classifier, "training_step", broken)
    with raises(BadRun, option="loss") as caught:
        train(PLAIN, tmp_path)
    assert math.isnan(caught.value.value)
    assert "(epoch 2, batch 2); the checkpoint of epoch 1 is usable" in str(caught.value)
    assert load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["epoch"] == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schedule", "linear"),
        ("cifar_stem", "large"),
        ("where", "middle"),
        ("identity", "yes"),
        ("backbone", 18),
        ("augment", "rotate"),
        ("precision", 16),
        ("label_smoothing", 1.0),
        ("ema_decay", -0.1),
        ("mixup", "yes"),
        ("grad_clip", -1),
        ("grad_accum_steps", 0),
        ("compile", 1),
        ("optimizer", None),
    ],
)
def test_bad_values(key: str, value: Any) -> None:
    with raises(BadRecipe, option=key, value=value) as caught:
        Recipe(**{key: value})
    choices = {"schedule": ("one-cycle", "cosine", "step", "constant")}
    if key in choices:
        assert caught.value.choices == choices[key]


def test_an_unknown_optimizer_has_near_names() -> None:
    with raises(UnknownName, owner="timm", value="adamww") as caught:
        prepare(replace(PLAIN, optimizer="adamww"))
    assert "did you mean 'adamw'" in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_half_precision_needs_a_gpu() -> None:
    with raises(BadRecipe, option="precision", value="16-mixed"):
        prepare(replace(PLAIN, precision="16-mixed"))


@pytest.fixture
def run_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs a command in this process: exit code, output, error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["saccade", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        return (int(stop.value.code or 0), *capsys.readouterr())

    return run


def test_the_printed_recipe_is_whole_and_can_be_used(
    tmp_path: Path, run_here: Callable[..., tuple[int, str, str]]
) -> None:
    options = ("--set", "optimizer=sgd", "--set", "grad_clip=0.5", "--epochs", "3", "--print-recipe")
    code, printed, error = run_here("train", TASK, *options)
    assert code == 0, error
    values = yaml.safe_load(printed)
    assert set(values) == {"schema", *(field.name for field in fields(Recipe))}
    assert (values["task"], values["optimizer"], values["grad_clip"], values["epochs"]) == (
        TASK,
        "sgd",
        0.5,
        3,
    )
    (tmp_path / "recipe.yaml").write_text(printed)
    _, again, _ = run_here("train", "--recipe", str(tmp_path / "recipe.yaml"), "--print-recipe")
    assert again == printed
    _, compared, _ = run_here("compare", TASK, "-a", "none", "--set", "augment=flip", "--print-recipe")
    assert yaml.safe_load(compared)["augment"] == "flip"


def test_settings_that_are_none(run_here: Callable[..., tuple[int, str, str]]) -> None:
    for setting, said in (
        ("optimizer", "does not have the form KEY=VALUE"),
        ("optimiser=sgd", "did you mean 'optimizer'"),
    ):
        code, _, error = run_here("train", TASK, "--set", setting, "--print-recipe")
        assert code == 2
        assert said in error


def test_lightning_is_given_what_the_recipe_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    class Noted(Exception):
        pass

    def note(**options: Any) -> None:
        given.update(options)
        raise Noted

    monkeypatch.setattr(lightning, "Trainer", note)
    with pytest.raises(Noted):
        train(replace(PLAIN, grad_clip=0.5, grad_accum_steps=3, precision="bf16-mixed"), tmp_path)
    assert (given["gradient_clip_val"], given["accumulate_grad_batches"], given["precision"]) == (
        0.5,
        3,
        "bf16-mixed",
    )
    assert given["max_epochs"] == 2


def test_two_processes_train_as_one_does(
    tmp_path: Path, run_here: Callable[..., tuple[int, str, str]]
) -> None:
    """The model has no batch norm, whose statistics would differ between processes."""
    task = "white-patch:size=160,train=32,validation=8,test=8"
    settings = ("backbone=timm:test_vit", "optimizer=sgd", "schedule=constant", "learning_rate=0.1")
    chosen = [word for setting in settings for word in ("--set", setting)]
    words = ("train", task, *chosen, "--epochs", "2", "--batch-size", "8")
    code, _, error = run_here(*words, "--out", str(tmp_path / "1"))
    assert code == 0, error
    command = [sys.executable, "-m", "saccade", *words, "--devices", "2", "--out", str(tmp_path / "2")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test error") == 1  # only one process prints and writes
    one, two = weights(tmp_path / "1"), weights(tmp_path / "2")
    for name, its in one.items():
        torch.testing.assert_close(two[name], its, rtol=1e-4, atol=1e-6)
    results = [json.loads((tmp_path / devices / "result.json").read_text()) for devices in "12"]
    assert results[0]["error"] == results[1]["error"]
    for name, curve in results[0]["curves"].items():
        assert results[1]["curves"][name] == pytest.approx(curve, abs=1e-5), name


def test_the_shares_of_two_processes_make_the_batches_of_one() -> None:
    whole = list(Batches(11, 4, seed=1))
    shares = [list(Batches(11, 4, seed=1, rank=rank, world=2)) for rank in (0, 1)]
    assert [sorted(a + b) for a, b in zip(*shares, strict=True)] == [sorted(batch) for batch in whole]
    assert all(len(batch) == 2 for share in shares for batch in share)


def test_hardware_that_cannot_share() -> None:
    with raises(BadRecipe, option="batch_size", value=20):
        train(PLAIN, Path("nowhere"), hardware=Hardware(devices=3))
    with raises(BadRecipe, option="devices", value=0):
        Hardware(devices=0)
