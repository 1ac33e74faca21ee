"""Every option of every mechanism refuses values of another type, without a stack trace or a hang."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

import saccade as sc
from saccade.annotations import convert
from saccade.layers import registry

_VALUES: tuple[Any, ...] = (
    "maybe",
    "",
    "5",
    5,
    -1,
    0,
    1.5,
    10**9,
    10**30,
    float("nan"),
    float("inf"),
    None,
    True,
    [],
    [1, 2],
    ["avg"],
    {"a": 1},
    {},
    torch.zeros(2),
    object,
    b"bytes",
)


OPTIONS = [(spec.name, option.name) for spec in registry.specs() for option in spec.options]


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_a_value_is_refused_or_has_the_type_of_the_option(name: str, option: str) -> None:
    spec = sc.spec(name)
    annotation = {one.name: one.annotation for one in spec.options}[option]
    for value in _VALUES:
        options = {**spec.examples[0].options, option: value}
        refused = None
        try:
            with torch.device("meta"):
                sc.create(name, 32, **options)
        except sc.SaccadeError as error:
            refused = error
        if refused is None:
            converted = convert(value, annotation)  # raises TypeError if the type is another
            assert isinstance(converted, bool) or converted == value, value
        else:
            assert refused.option is not None, value
            assert len(str(refused)) <= 1000, value


@pytest.mark.parametrize("name", sc.mechanisms())
@pytest.mark.parametrize("channels", [0, -1, 1.5, "x", None, True, 10**30])
def test_channels_are_a_number(name: str, channels: Any) -> None:
    with pytest.raises(sc.SaccadeError) as error, torch.device("meta"):
        sc.create(name, channels, **sc.spec(name).examples[0].options)
    assert error.value.option == "channels"


@pytest.mark.parametrize(
    ("word", "expected"), [("no", False), ("off", False), (0, False), ("YES", True), (1, True)]
)
def test_words_for_booleans(word: Any, expected: bool) -> None:
    gate = sc.create("se", 32, bias=word)
    assert (gate.reduce.bias is not None) is expected  # type: ignore[union-attr]
    written = sc.create(f"se:bias={word}", 32)
    assert (written.reduce.bias is not None) is expected  # type: ignore[union-attr]


def test_every_option_is_annotated() -> None:
    for spec in registry.specs():
        for parameter in [*inspect.signature(spec.module).parameters.values()][1:]:
            assert parameter.annotation is not inspect.Parameter.empty, (spec.name, parameter.name)
