"""Names of timm's factory: each is a mechanism or an alias, except for those that saccade does not have."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import torch
from timm.layers.create_attn import get_attn
from typer.testing import CliRunner

import saccade as sc
from saccade.cli import app
from saccade.config import Recipe, resolve
from saccade.layers.aliases import ALIASES

MISSING = {"ecam", "ceca", "lcbam", "scoord", "strip"}


def test_every_name_of_timm_is_known_or_listed_as_missing() -> None:
    source = inspect.getsource(get_attn)
    names = {*re.findall(r"attn_type == '(\w+)'", source)}
    assert len(names) == 21
    assert names - {*sc.mechanisms(), *ALIASES} == MISSING


@pytest.mark.parametrize(
    ("alias", "name", "options"),
    [
        ("coord", "coordinate", {}),
        ("gc", "global_context", {"fusion": "multiply"}),
        ("gca", "global_context", {"fusion": "add"}),
        ("lambda", "lambda_layer", {}),
        ("nl", "non_local", {"scale": True}),
        ("splat", "split_attention", {}),
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
