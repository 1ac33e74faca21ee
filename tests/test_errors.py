"""Errors carry fields, survive a process boundary, and read as one sentence."""

from __future__ import annotations

import pickle

import pytest
import torch

from saccade import errors
from saccade.errors import (
    BadOption,
    BadShape,
    SaccadeError,
    UnknownName,
    check_choice,
    check_positive,
    check_shape,
)
from support.errors import raises

CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, SaccadeError)]


@pytest.mark.parametrize("kind", [c for c in CLASSES if c is not UnknownName], ids=lambda c: c.__name__)
def test_fields_survive_pickling(kind: type[SaccadeError]) -> None:
    error = kind("se: wrong", owner="se", option="reduction", value=0, choices=iter([1, 2]))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == "se: wrong"
    assert (copy.owner, copy.option, copy.value, copy.choices) == ("se", "reduction", 0, (1, 2))


def test_an_unknown_name_survives_pickling() -> None:
    error = UnknownName("option of se", "reductoin", ["reduction", "bias"], owner="se")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) == "unknown option of se 'reductoin'; did you mean 'reduction'?"
    assert (copy.kind, copy.owner, copy.value, copy.choices) == (
        "option of se", "se", "reductoin", ("bias", "reduction"),
    )  # fmt: skip


def test_an_unknown_name_is_a_key_error_and_a_value_error() -> None:
    assert issubclass(UnknownName, KeyError)
    assert all(issubclass(kind, ValueError) for kind in CLASSES)


def test_an_unknown_name_where_none_exists() -> None:
    with raises(UnknownName, value="a", choices=(), owner=None):
        raise UnknownName("plugin", "a", [])


def test_a_choice() -> None:
    check_choice("se", "mode", "a", ["a", "b"])
    with raises(BadOption, owner="se", option="mode", value="c", choices=("a", "b")):
        check_choice("se", "mode", "c", ["a", "b"])


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None], ids=repr)
def test_a_positive_integer(value: object) -> None:
    check_positive("se", reduction=1)
    with raises(BadOption, owner="se", option="reduction", value=value):
        check_positive("se", bias=3, reduction=value)


@pytest.mark.parametrize(
    ("shape", "pattern", "sizes", "fits"),
    [
        ((2, 3, 8, 8), "B C H W", {"C": 3}, True),
        ((2, 3, 8, 8), "B C H W", {"C": 4}, False),
        ((2, 3, 8), "B C H W", {}, False),
        ((0, 3, 8, 8), "B C H W", {}, False),
        ((2, 3), "B C ...", {}, False),
        ((2, 3, 8), "B C ...", {"C": 3}, True),
        ((2, 3, 8, 8, 8), "B C ...", {}, True),
        ((2, 3, 8, 8, 8, 8), "B C ...", {}, False),
    ],
)
def test_a_shape(shape: tuple[int, ...], pattern: str, sizes: dict[str, int], fits: bool) -> None:
    if fits:
        check_shape("se", torch.zeros(shape), pattern, **sizes)
        return
    with raises(BadShape, owner="se", option="shape", value=shape):
        check_shape("se", torch.zeros(shape), pattern, **sizes)
