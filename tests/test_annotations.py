"""Options against annotations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import pytest
from torch import nn

from saccade.annotations import check_annotations, convert
from saccade.errors import BadOption
from support.errors import raises


def mechanism(
    reduction: int = 16,
    bias: bool = True,
    rate: float = 0.1,
    pools: Sequence[str] = (),
    dims: Literal[1, 2] = 1,
    name: str | None = None,
    module: nn.Module | None = None,
    kernel_size: int | tuple[int, int] = 3,
    **rest: Any,
) -> None: ...


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("reduction", "4"),
        ("reduction", 4.0),
        ("reduction", True),
        ("reduction", None),
        ("reduction", 2**20),
        ("bias", "maybe"),
        ("bias", 2),
        ("bias", None),
        ("rate", "0.1"),
        ("rate", float("nan")),
        ("rate", float("inf")),
        ("pools", "avg"),
        ("pools", [1]),
        ("pools", {"avg"}),
        ("dims", 3),
        ("dims", True),
        ("dims", "1"),
        ("name", 3),
        ("name", ""),
        ("module", "Linear"),
        ("kernel_size", 1001),
        ("kernel_size", (3, 1001)),
        ("kernel_size", (3, 3, 3)),
    ],
)
def test_values_of_another_type_are_refused(option: str, value: Any) -> None:
    with raises(BadOption, owner="gate", option=option, value=value):
        check_annotations("gate", mechanism, {option: value})


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("bias", "no", False),
        ("bias", "ON", True),
        ("bias", 0, False),
        ("rate", 1, 1),
        ("pools", ["avg"], ["avg"]),
        ("kernel_size", (3, 5), (3, 5)),
        ("name", None, None),
        ("unknown", object, object),
    ],
)
def test_values_that_fit_are_kept_or_converted(option: str, value: Any, expected: Any) -> None:
    assert check_annotations("gate", mechanism, {option: value}) == {option: expected}


def test_a_number_is_a_number_where_a_boolean_may_be_too() -> None:
    assert convert(1, bool | int) is not True
