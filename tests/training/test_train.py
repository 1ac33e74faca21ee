"""One run: deterministic, resumable, protective of its folder, with localized attention."""

from __future__ import annotations

import json
import math
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from saccade.config import Recipe, read_yaml
from saccade.errors import BadOption, BadRecipe, BadRun, BadShape, SaccadeError, UnknownName
from saccade.maps import PairwiseMap, RectifiedSumMap, SpatialMap
from saccade.results import read_gallery
from saccade.training import Batches, Progress, load_checkpoint, prepare, record_attention, restore, train
from support.errors import raises

TASK = "white-patch:size=32,patch=[6,12],train=40,validation=20,test=20"
RECIPE = Recipe(task=TASK, attention="cbam", epochs=4, batch_size=20)


class Stopped(Exception):
    """Raised in the middle of a run, to simulate a kill."""


def stop_in_epoch(epoch: int) -> Any:
    def report(progress: Progress) -> None:
        if progress.epoch == epoch:
            raise Stopped

    return report


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    train(RECIPE, folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
    return state


def lasting(folder: Path) -> dict[str, Any]:
    """A result without its times."""
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return {key: value for key, value in result.items() if key not in ("latency_ms", "train_seconds")}


def test_a_run_leaves_what_the_documents_say(whole: Path) -> None:
    result = lasting(whole)
    assert 0 <= result["error"] <= 1
    assert result["attention"] == "cbam"
    assert result["task"]["classes"] == ["without", "with"]
    assert result["curves"]["epoch"] == [1, 2, 3, 4]
    assert result["localization"]["path"] == "attention.2.spatial"
    assert result["localization"]["kind"] == "spatial"
    rows = (whole / "metrics.csv").read_text().splitlines()
    assert rows[0] == "epoch,train_loss,train_error,val_loss,val_error"
    assert len(rows) == 5
    assert Recipe.from_mapping(read_yaml(whole / "recipe.yaml")) == RECIPE
    assert not list(whole.glob(".*"))  # no temporary file remains


def test_the_gallery_shows_both_classes_and_the_map(whole: Path) -> None:
    gallery = read_gallery(whole)
    assert gallery.images.shape == (20, 3, 32, 32)
    assert isinstance(gallery.map, SpatialMap)
    assert gallery.map.weights.shape == (20, 8, 8)
    assert gallery.kind == "spatial"
    assert set(gallery.labels.tolist()) == {0, 1}
    assert gallery.probabilities.argmax(1).equal(gallery.predictions)


def test_a_pairwise_gallery_holds_factors(tmp_path: Path) -> None:
    train(replace(RECIPE, attention="multi_head:heads=2", epochs=1), tmp_path)
    pairs = read_gallery(tmp_path).map
    assert type(pairs) is PairwiseMap
    assert pairs.queries.shape == pairs.keys.shape == (20, 2, 64, 16)
    assert pairs.query_shape == (8, 8)
    classifier = restore(tmp_path)
    _, exact, _ = record_attention(classifier, read_gallery(tmp_path).images)
    torch.testing.assert_close(pairs.heatmap(), exact.heatmap(), atol=0.02, rtol=0)


def test_factors_whose_rows_are_no_softmax_keep_their_type(tmp_path: Path) -> None:
    train(replace(RECIPE, attention="non_local:pairwise=concatenation", epochs=1), tmp_path)
    gallery = read_gallery(tmp_path)
    assert gallery.kind == "pairwise"
    assert type(gallery.map) is RectifiedSumMap
    assert gallery.map.saliency().shape == (20, 8, 8)


def test_the_same_seed_gives_the_same_run_and_leaves_global_generators_alone(
    whole: Path, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(RECIPE, tmp_path)
    assert torch.equal(torch.rand(3), expected)
    assert lasting(tmp_path) == lasting(whole)
    for key, value in weights(tmp_path).items():
        assert torch.equal(value, weights(whole)[key])


def test_another_seed_gives_another_run(whole: Path, tmp_path: Path) -> None:
    train(replace(RECIPE, seed=1, epochs=1), tmp_path)
    assert not torch.equal(weights(tmp_path)["model.head.weight"], weights(whole)["model.head.weight"])


def test_a_resumed_run_equals_an_uninterrupted_one(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(RECIPE, tmp_path, report=stop_in_epoch(3))
    assert not (tmp_path / "result.json").exists()
    train(RECIPE, tmp_path, resume=True)
    assert lasting(tmp_path) == lasting(whole)
    for key, value in weights(tmp_path).items():
        assert torch.equal(value, weights(whole)[key]), key


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not moved from another file system, which would leave a part of it on a full disk."""
    replaced: list[str] = []

    def full(source: str | Path, target: str | Path) -> None:
        replaced.append(Path(target).name)
        if replaced.count("last.ckpt") == 3:
            raise OSError(28, "No space left on device")
        rename(source, target)

    rename = os.rename
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(BadRun, match="cannot be written: No space left on device"):
            train(RECIPE, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
    assert load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["epoch"] == 1
    train(RECIPE, tmp_path, resume=True)
    assert lasting(tmp_path) == lasting(whole)


def test_a_complete_run_is_not_repeated(whole: Path) -> None:
    before = (whole / "result.json").stat().st_mtime_ns
    assert train(RECIPE, whole, resume=True)["error"] == lasting(whole)["error"]
    assert (whole / "result.json").stat().st_mtime_ns == before


def test_early_stopping_stops_and_keeps_the_best(tmp_path: Path) -> None:
    result = train(replace(RECIPE, learning_rate=0.0, epochs=30, early_stopping_patience=2), tmp_path)
    assert len(result["curves"]["epoch"]) < 10
    assert (tmp_path / "checkpoints" / "best.ckpt").exists()


def test_progress_is_reported(tmp_path: Path) -> None:
    seen: list[Progress] = []
    train(replace(RECIPE, epochs=2), tmp_path, report=seen.append)
    assert [progress.epoch for progress in seen][-1] == 2
    assert seen[-1].fraction == 1.0
    assert seen[-1].seconds_left == 0.0
    assert all(0 <= progress.error <= 1 and progress.loss > 0 for progress in seen)


def test_a_folder_of_another_recipe_or_of_any_run_is_refused(whole: Path) -> None:
    with raises(BadRun, owner=str(whole), option="recipe") as caught:
        train(replace(RECIPE, seed=7), whole, resume=True)
    assert str(caught.value).endswith(": seed 0, not 7")
    with raises(BadRun, owner=str(whole), option="resume", value=False):
        train(RECIPE, whole)


def test_training_sees_every_image_once_but_for_an_incomplete_batch() -> None:
    epoch = [index for batch in Batches(11, 5, seed=3) for index in batch]
    assert len(epoch) == len(set(epoch)) == 10
    shuffled = Batches(10, 5, seed=3)
    first = list(shuffled)
    shuffled.set_epoch(1)
    assert sorted(index for batch in shuffled for index in batch) == list(range(10))
    assert list(shuffled) != first
    shuffled.set_epoch(0)
    assert list(shuffled) == first
    assert list(Batches(11, 5)) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10]]


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["text", "empty", "pickle", "tensor"])
def test_a_checkpoint_that_is_none_is_refused_and_never_executed(tmp_path: Path, kind: str) -> None:
    checkpoint, touched = tmp_path / "checkpoints" / "last.ckpt", tmp_path / "touched"
    checkpoint.parent.mkdir()
    contents = {"text": b"hello", "empty": b"", "pickle": pickle.dumps(Bomb(touched)), "tensor": b""}
    checkpoint.write_bytes(contents[kind])
    if kind == "tensor":
        torch.save(torch.zeros(3), checkpoint)
    RECIPE.write(tmp_path / "recipe.yaml")
    with raises(BadRun, owner=str(checkpoint)):
        train(RECIPE, tmp_path, resume=True)
    assert not touched.exists()


def test_a_result_that_is_none_is_refused(tmp_path: Path) -> None:
    RECIPE.write(tmp_path / "recipe.yaml")
    (tmp_path / "result.json").write_text("{")
    with raises(BadRun, owner=str(tmp_path / "result.json")):
        train(RECIPE, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("epochs", 2.5),
        ("seed", -1),
        ("early_stopping_patience", 0),
        ("learning_rate", -1.0),
        ("learning_rate", math.nan),
        ("attention", 3),
    ],
)
def test_bad_recipes_are_named(key: str, value: Any) -> None:
    with raises(BadRecipe, option=key, value=value):
        Recipe.from_mapping({key: value})


def test_unknown_keys_of_a_recipe_are_named() -> None:
    with raises(UnknownName, owner="recipe", value="epoch") as caught:
        Recipe.from_mapping({"epoch": 3})
    assert "did you mean 'epochs'" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "error", "fields", "words"),
    [
        ({"attention": "cbma"}, UnknownName, {"value": "cbma"}, "did you mean 'cbam'"),
        ({"attention": "cbam:reductoin=4"}, UnknownName, {"owner": "cbam"}, "did you mean 'reduction'"),
        ({"attention": "multi_head:heads=5"}, BadOption, {}, "heads=5"),
        ({"attention": "multi_head:position=learned,tokens=9"}, BadShape, {}, "9 tokens"),
        ({"attention": "scaled_dot_product"}, BadOption, {}, "SmallCNN"),
        ({"attention": "sk", "backbone": "timm:resnet18"}, BadOption, {}, "SK"),
        ({"task": "blue-patch"}, UnknownName, {"value": "blue-patch"}, "task"),
        ({"batch_size": 41}, BadRecipe, {"option": "batch_size", "value": 41}, "40 training images"),
    ],
)
def test_what_would_stop_a_run_is_refused_before_anything_is_written(
    values: dict[str, Any], error: type[SaccadeError], fields: dict[str, Any], words: str, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, **values)
    with raises(error, **fields) as caught:
        prepare(recipe)
    assert words in str(caught.value)
    with raises(error, **fields):
        train(recipe, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_test_split_without_a_target_has_no_localization(tmp_path: Path) -> None:
    task = "white-patch:size=32,patch=[6,12],train=40,validation=20,test=1"
    assert train(replace(RECIPE, task=task, epochs=1), tmp_path)["localization"] is None


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(BadRun) as caught:  # whether it is inf or nan, and when, depends on the CPU
        train(replace(RECIPE, attention="none", learning_rate=1e30), tmp_path)
    assert caught.value.option == "loss"
    assert not math.isfinite(caught.value.value)
    assert not (tmp_path / "result.json").exists()


def test_files_that_are_no_recipe_are_named(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- 1")
    (tmp_path / "broken.yaml").write_text("a: [")
    for name in ("missing.yaml", "list.yaml", "broken.yaml"):
        with raises(BadRecipe, owner=str(tmp_path / name)):
            read_yaml(tmp_path / name)


def test_a_recipe_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    RECIPE.write(tmp_path / "recipe.yaml")
    text = (tmp_path / "recipe.yaml").read_text()
    assert text.startswith("schema: 2\n")
    (tmp_path / "recipe.yaml").write_text(text.replace("schema: 2", "schema: 1").replace("grad_clip", "clip"))
    with raises(BadRun, owner=str(tmp_path / "recipe.yaml"), option="schema", value=1):
        read_yaml(tmp_path / "recipe.yaml")
