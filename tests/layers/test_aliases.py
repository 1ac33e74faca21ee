"""Names of timm's factory: each is a mechanism or an alias, and an alias has the options that timm has."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import torch
from timm.layers.create_attn import create_attn, get_attn
from typer.testing import CliRunner

import saccade as sc
from saccade.cli import app
from saccade.config import Recipe, resolve
from saccade.layers.aliases import ALIASES

factory: Any = create_attn

#: Names of timm's factory that are no mechanism here, each with the reason.
MISSING: dict[str, str] = {}


def test_every_name_of_timm_is_known_or_listed_as_missing() -> None:
    source = inspect.getsource(get_attn)
    names = {*re.findall(r"attn_type == '(\w+)'", source)}
    assert len(names) == 21
    assert names - {*sc.mechanisms(), *ALIASES} == {*MISSING}


@pytest.mark.parametrize(
    ("alias", "name", "options"),
    [
        ("ceca", "eca", {"padding": "circular"}),
        ("coord", "coordinate", {}),
        ("ecam", "eca", {"hidden": "auto"}),
        ("gc", "global_context", {"fusion": "multiply"}),
        ("gca", "global_context", {"fusion": "add"}),
        ("lambda", "lambda_layer", {}),
        ("lcbam", "cbam", {"pools": ("avgmax",), "bias": False, "spatial_pools": ("avgmax",)}),
        ("nl", "non_local", {"scale": True}),
        ("scoord", "coordinate", {"reduction": 6, "variant": "simple"}),
        ("splat", "split_attention", {}),
        ("strip", "strip_pooling", {"variant": "timm"}),
    ],
)
def test_an_alias_is_its_mechanism_with_options(alias: str, name: str, options: dict[str, Any]) -> None:
    assert ALIASES[alias] == (name, options)
    assert alias not in sc.mechanisms()
    assert sc.spec(alias) is sc.spec(name)
    torch.manual_seed(0)
    ours = sc.create(alias, 32).eval()
    torch.manual_seed(0)
    expected = sc.create(name, 32, **options).eval()
    x = torch.randn(2, 32, 8, 6)
    assert torch.equal(ours(x), expected(x))
    choice = resolve(Recipe(attention=alias)).attention
    assert choice is not None
    assert (choice.name, choice.options) == (name, options)


def test_attach_stores_the_canonical_name() -> None:
    model, x = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3)), torch.randn(1, 3, 8, 8)
    sc.attach(model, "gca:reduction=4", where=["0"], example_inputs=x)
    assert [a.mechanism for a in sc.attached(model)] == ["global_context"]


def test_a_given_option_replaces_that_of_the_alias() -> None:
    changed, expected = sc.create("gca", 32, fusion="multiply"), sc.create("gc", 32)
    assert [*changed.state_dict()] == [*expected.state_dict()] != [*sc.create("gca", 32).state_dict()]


def test_the_list_finds_and_shows_aliases() -> None:
    result = CliRunner().invoke(app, ["list", "--contains", "gca"])
    assert result.exit_code == 0
    assert "global_context" in result.output
    assert "alias gca = global_context:fusion=add" in result.output


#: Names whose defaults here are not those of timm, with the reason: `from_timm` sets the options.
OTHER_DEFAULTS = {
    "cbam": "timm has no biases",
    "coord": "timm has no biases and a strip of C / 24 channels",
    "ela": "timm has an experiment with separate convolutions",
    "gc": "timm has a reduction of 8",
    "gca": "timm has a reduction of 8",
    "nl": "timm has C / 8 inner channels",
    "scoord": "timm rounds the strip to a multiple of 8",
    "se": "timm rounds the hidden layer to a multiple of 8",
    "sk": "timm splits the input",
    "splat": "timm has no batch norm unless it is told",
}


def test_names_have_the_parameters_of_timm_or_a_reason() -> None:
    source = inspect.getsource(get_attn)
    names = {*re.findall(r"attn_type == '(\w+)'", source)} - {"ge"}  # which timm cannot build
    different = set()
    for name in sorted(names):
        sized = {"feat_size": (8, 8)} if name == "bottleneck" else {}
        modules = sc.create(name, 64, **sized), factory(name, 64, **sized)
        ours, theirs = (sum(p.numel() for p in module.parameters()) for module in modules)
        if ours != theirs:
            different.add(name)
    assert different == {*OTHER_DEFAULTS}
