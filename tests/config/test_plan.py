"""A recipe is resolved once: names and options become typed values, and no text is parsed later."""

from __future__ import annotations

import pickle
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from saccade import grammar
from saccade.config import AttentionChoice, Comparison, Recipe, resolve
from saccade.data import load_white_patch
from saccade.errors import BadOption, UnknownName
from saccade.experiments import compare
from saccade.training import network, prepare, train
from support.errors import raises

TINY = "white-patch:size=32,train=40,validation=20,test=20"


def test_every_text_becomes_typed_values() -> None:
    plan = resolve(
        Recipe(
            task=TINY,
            attention="cbam:reduction=4@1+2",
            backbone="timm:resnet18:channels=[8,16,24,32]",
            objective="hard:num_samples=2",
        )
    )
    assert plan.task.load is load_white_patch
    assert plan.task.options == {"size": 32, "train": 40, "validation": 20, "test": 20}
    assert plan.attention == AttentionChoice("cbam", {"reduction": 4}, "cbam:reduction=4@1+2", ("1", "2"))
    assert (plan.backbone.name, plan.backbone.options) == ("timm:resnet18", {"channels": [8, 16, 24, 32]})
    assert (plan.objective.name, plan.objective.options) == ("hard", {"num_samples": 2})
    assert resolve(Recipe(attention="none")).attention is None


def test_a_plan_can_be_sent_to_another_process() -> None:
    plan = resolve(Recipe(task="mnist:max_samples=3", attention="se:reduction=4"))
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_plans_of_other_seeds_differ_in_nothing_else() -> None:
    plan = resolve(Recipe(task=TINY, attention="se"))
    other = plan.with_seed(3)
    assert other.recipe == replace(plan.recipe, seed=3)
    assert replace(other, recipe=plan.recipe) == plan


@pytest.mark.parametrize(
    ("values", "error", "fields"),
    [
        ({"task": "white-path"}, UnknownName, {"value": "white-path"}),
        ({"task": "white-patch:sise=3"}, UnknownName, {"owner": "white-patch", "value": "sise"}),
        ({"attention": "cbma"}, UnknownName, {"value": "cbma"}),
        ({"attention": "cbam:reductoin=4"}, UnknownName, {"owner": "cbam", "value": "reductoin"}),
        ({"attention": "cbam@layer1+"}, BadOption, {"owner": "cbam", "option": "place"}),
    ],
)
def test_unknown_names_are_refused_before_anything_is_built(
    values: dict[str, Any], error: type[BadOption], fields: dict[str, Any]
) -> None:
    with raises(error, **fields):
        resolve(Recipe(**values))


def test_a_comparison_builds_each_network_once_and_checks_each_attention_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[tuple[str, int, bool]] = []
    build = network.build

    def counting(plan: Any, *arguments: Any) -> Any:
        model = build(plan, *arguments)
        is_meta = next(model.parameters()).is_meta
        built.append((plan.recipe.attention, plan.recipe.seed, is_meta))
        return model

    monkeypatch.setattr("saccade.training.module.build", counting)
    training = Recipe(task=TINY, epochs=1, batch_size=20)
    comparison = Comparison(("none", "se"), 2, training)
    compare(comparison, tmp_path)
    assert sorted(run for run in built if run[2]) == [("none", 0, True), ("se", 0, True)]
    assert sorted(run for run in built if not run[2]) == [
        ("none", 0, False),
        ("none", 1, False),
        ("se", 0, False),
        ("se", 1, False),
    ]
    built.clear()
    compare(comparison, tmp_path)
    assert not built  # all runs are complete
    compare(Comparison(("none", "se", "eca"), 2, training), tmp_path)
    assert built == [("eca", 0, True), ("eca", 0, False), ("eca", 1, False)]


def test_training_a_plan_parses_no_text(tmp_path: Path) -> None:
    """Bare names still pass through the grammar, because `create` and `attach` accept text from users."""
    parsers = {function.__code__ for function in (grammar.parse, grammar.parse_placed, grammar.split_options)}
    texts: list[str] = []

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code in parsers and set(frame.f_locals["text"]) & set(":=@"):
            texts.append(frame.f_locals["text"])

    recipe = Recipe(
        task=TINY, attention="cbam:reduction=4@2", objective="hard:entropy=0.1", epochs=1, batch_size=20
    )
    sys.setprofile(profile)
    try:
        plan = prepare(recipe)
        assert {recipe.task, recipe.attention, recipe.objective} <= {*texts}
        texts.clear()
        train(plan, tmp_path)
    finally:
        sys.setprofile(None)
    assert not texts
