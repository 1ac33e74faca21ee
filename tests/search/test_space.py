"""The space: which candidates there are, and that their costs are those of the built networks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from saccade.attachment import KINDS, sites
from saccade.config import Recipe, resolve
from saccade.errors import BadOption, BadRecipe, UnknownName
from saccade.models import load_backbone
from saccade.profiling import flops, training_memory
from saccade.search import Limit, explore
from saccade.search.places import find_places
from saccade.search.space import default_mechanisms
from saccade.training import build
from support.errors import raises

SMALL = Recipe(task="white-patch:size=32,train=60,validation=20,test=20")
NARROW = replace(SMALL, backbone="timm:resnet18:channels=[16,32,64,128]")


def test_stages_of_a_residual_network_and_the_last_of_them_are_places() -> None:
    network, example = load_backbone("timm:resnet18:channels=[8,16,24,32]"), torch.zeros(1, 3, 64, 64)
    places = find_places(network, sites(network, example), KINDS)
    assert [*places] == [
        "input",
        "stem",
        "residual",
        "layer1.*.bn2",
        "layer2.*.bn2",
        "layer3.*.bn2",
        "layer4.*.bn2",
        "layer3.*.bn2+layer4.*.bn2",
        "layer2.*.bn2+layer3.*.bn2+layer4.*.bn2",
        "stage",
        "layer1.1",
        "layer2.1",
        "layer3.1",
        "layer4.1",
        "layer3.1+layer4.1",
        "layer2.1+layer3.1+layer4.1",
    ]
    assert [path for path, _ in places["layer3.*.bn2"]] == ["layer3.0.bn2", "layer3.1.bn2"]
    named = find_places(network, sites(network, example), ["stem", "layer2.1+layer4.1"])
    assert [*named] == ["stem", "layer2.1+layer4.1"]


def test_every_place_can_be_written_in_a_recipe() -> None:
    for recipe in (SMALL, NARROW):
        space = explore(recipe, ["eca"], [], [])
        assert len(space["candidates"]) > 4
        for candidate in space["candidates"]:
            assert candidate["refused"] is None, candidate
            plan = resolve(replace(recipe, attention=candidate["attention"]))
            network = build(plan, 2, (3, 32, 32))
            example = torch.zeros(1, 3, 32, 32)
            costs = candidate["costs"]
            assert costs is not None
            assert costs["parameters"] == sum(p.numel() for p in network.parameters()), candidate
            assert costs["flops"] == pytest.approx(flops(network, example), rel=1e-3), candidate


def test_a_candidate_that_does_not_fit_says_why() -> None:
    space = explore(NARROW, ["se"], ["input", "stem"], [])
    at_input, at_stem = space["candidates"]
    assert at_input["costs"] is None
    assert at_input["refused"] == "se: channels=3 must be at least reduction=16"
    assert at_stem["refused"] is None


def test_the_default_mechanisms_take_and_return_maps() -> None:
    images, clips = default_mechanisms(2), default_mechanisms(3)
    assert {"se", "se:reduction=4", "cbam", "eca", "simam"} <= {*images}
    assert not {"hard_item", "temporal_pool", "attention_gate", "scse:reduction=4"} & {*images}
    assert {"se", "eca"} <= {*clips}
    assert "cbam" in clips
    assert "coordinate" not in clips


def test_limits_refuse_what_costs_too_much_before_training() -> None:
    limits = [Limit.parse("max_flops", "+1%"), Limit.parse("max_parameters", "+1%")]
    space = explore(SMALL, ["se", "cbam"], ["stage"], limits)
    refused = {one["attention"]: one["refused"] for one in space["candidates"]}
    assert refused["cbam@1"] == "flops +5.32%, the limit is +1%"
    assert refused["se@3"] == "parameters +2.43%, the limit is +1%"
    assert refused["se@1"] is None
    assert space["limits"] == {"flops": "+1%", "parameters": "+1%"}


def test_latency_and_memory_are_measured_if_they_are_limited() -> None:
    limits = [Limit.parse("max_latency", "10s"), Limit.parse("max_memory", "+1%")]
    space = explore(SMALL, ["se"], ["1", "3"], limits)
    first, last = space["candidates"]
    baseline = space["baseline"]
    assert baseline["latency_ms"] is not None
    assert baseline["latency_ms"] > 0
    network = build(resolve(SMALL), 2, (3, 32, 32))
    assert baseline["memory"] == training_memory(network, torch.zeros(50, 3, 32, 32))
    assert first["refused"] is not None
    assert first["refused"].startswith("memory +")
    assert last["refused"] is None
    assert last["costs"] is not None
    assert last["costs"]["latency_ms"] is not None
    assert explore(SMALL, ["se"], ["1"], [])["baseline"]["memory"] is None


def test_a_limit_that_no_mechanism_meets_names_the_nearest() -> None:
    with raises(BadOption, owner="search", option="max_flops", value="+0.01%", choices=("eca@3",)):
        explore(SMALL, ["se", "eca"], [], [Limit.parse("max_flops", "+0.01%")])


def test_without_a_mechanism_that_fits_there_is_no_space() -> None:
    with raises(BadOption, owner="search", option="attention"):
        explore(NARROW, ["se"], ["input"], [])


def test_mistakes_in_mechanisms_and_places_are_named() -> None:
    with raises(BadOption, option="attention", value="se@stage"):
        explore(SMALL, ["se@stage"], [], [])
    with raises(BadOption, option="attention", value="se"):
        explore(SMALL, ["se", "se"], [], [])
    with raises(UnknownName, value="sse"):
        explore(SMALL, ["sse"], [], [])
    with raises(UnknownName, owner="search", value="layer9"):
        explore(NARROW, ["se"], ["layer9"], [])
    with raises(BadOption, option="where", value="residual"):
        explore(SMALL, ["se"], ["residual"], [])


def test_a_network_that_cannot_take_the_images_is_refused_before_anything_is_measured() -> None:
    with raises(BadRecipe, option="backbone", value="timm:vit_tiny_patch16_224"):
        explore(replace(SMALL, backbone="timm:vit_tiny_patch16_224"), ["se"], [], [])
