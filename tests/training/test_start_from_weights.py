"""A run starts from the weights that `pretrained` names: a file, or an installed package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saccade.config import Recipe, read_settings
from saccade.errors import BadOption, BadRecipe
from saccade.models import load_backbone
from saccade.training import prepare, restore, train
from saccade.training.checkpoint import load_checkpoint
from support.errors import raises

TASK = "digits:max_samples=20"
NETWORK = "timm:test_resnet"


def written(path: Path, classes: int, name: str = NETWORK) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        weights: dict[str, Tensor] = load_backbone(name, classes=classes).state_dict()
    torch.save(weights, path)
    return weights


def start(path: Path, folder: Path, **values: Any) -> dict[str, Tensor]:
    """The weights after a run in which the body is frozen."""
    recipe = Recipe(
        task=TASK, backbone=NETWORK, pretrained=str(path), freeze=True, epochs=1, batch_size=10, **values
    )
    train(recipe, folder)
    state: dict[str, Tensor] = load_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
    return state


def equal(state: dict[str, Tensor], weights: dict[str, Tensor], head: bool) -> bool:
    names = [name for name in weights if name.startswith("fc.") == head]
    return all(torch.equal(state[f"model.{name}"], weights[name]) for name in names)


def test_a_run_starts_from_a_file_and_needs_it_no_more(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    weights = written(path, classes=5)
    with pytest.warns(UserWarning, match=r"'fc.weight' has the shape \(5, 96\), not \(10, 96\)"):
        state = start(path, tmp_path / "run", attention="eca@residual")
    assert equal(state, weights, head=False)
    assert state["mean"].flatten().tolist() == [0.5, 0.5, 0.5]  # of the library
    path.unlink()
    assert restore(tmp_path / "run").recipe.pretrained == str(path)


def test_a_head_of_the_same_classes_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    weights = written(path, classes=10)
    state = start(path, tmp_path / "run", learning_rate=0.0)
    assert equal(state, weights, head=False)
    assert equal(state, weights, head=True)


def test_an_objective_with_a_head_of_its_own_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    weights = written(path, classes=10)
    state = start(path, tmp_path / "run", objective="contrastive:width=8")
    assert equal(state, weights, head=False)
    assert not {"model.fc.weight", "model.fc.bias"} & state.keys()


def test_versioned_models_are_loaded_as_they_are(tmp_path: Path) -> None:
    """MNASNet rebuilds its stem for weights without the version of its module."""
    weights = written(tmp_path / "weights.pth", 5, "mnasnet0_5")
    values = {"backbone": "mnasnet0_5", "pretrained": str(tmp_path / "weights.pth")}
    recipe = Recipe(task=TASK, freeze=True, epochs=1, batch_size=10, **values)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="which is initialized randomly"):
        train(recipe, tmp_path / "run")
    state = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["state_dict"]
    body = [name for name in weights if not name.startswith("classifier.")]
    assert all(torch.equal(state[f"model.{name}"], weights[name]) for name in body)


def test_weights_that_do_not_fit_are_refused_before_the_run(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    written(path, 10, "timm:test_vit")
    random = torch.get_rng_state()
    for pretrained in (str(path), str(tmp_path / "nothing.pth"), "wheel"):
        with raises(BadOption, owner=NETWORK, option="pretrained", value=pretrained):
            prepare(Recipe(task=TASK, backbone=NETWORK, pretrained=pretrained, batch_size=10))
    assert torch.equal(torch.get_rng_state(), random)
    values: tuple[dict[str, Any], ...] = (
        {"pretrained": "wheel"},
        {"pretrained": "wheel", "backbone": "resnet18", "cifar_stem": True},
        {"pretrained": ""},
        {"pretrained": ["wheel"]},
        {"pretrained": None},
    )
    for bad in values:
        with raises(BadRecipe, option="pretrained", value=bad["pretrained"]):
            prepare(Recipe.from_mapping({"task": TASK, "batch_size": 10, **bad}))
    with raises(BadRecipe, option="init_from", value="x"):
        Recipe(pretrained="wheel", init_from="x")


def test_the_command_line_sets_the_source() -> None:
    for text, value in (("true", True), ("false", False), ("wheel", "wheel"), ("a/b.pth", "a/b.pth")):
        recipe = Recipe.from_mapping(read_settings([f"pretrained={text}"]))
        assert recipe.pretrained == value
        assert f"pretrained: {text}\n" in recipe.to_yaml()
