"""The grammar of names with options: what is written is read back, and unknown options are refused once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import saccade as sc
from saccade.errors import BadOption, UnknownName
from saccade.grammar import check_options, format_value, merge_options, parse, parse_placed, shorten
from support.errors import raises

VALUES = st.one_of(
    st.integers(-1000, 1000),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12),
    st.lists(st.integers(0, 99), max_size=4),
)


@given(st.dictionaries(st.sampled_from("abcdef"), VALUES, max_size=4))
def test_what_is_formatted_is_parsed(options: dict[str, Any]) -> None:
    text = ",".join(f"{name}={format_value(value)}" for name, value in options.items())
    assert parse(f"name:{text}" if text else "name") == ("name", options)


def test_quotes_hold_commas_and_brackets() -> None:
    assert parse("a:x='b,c',y=\"d]\"") == ("a", {"x": "b,c", "y": "d]"})
    assert parse("a:x=['b,c', d]") == ("a", {"x": ["b,c", "d"]})


def test_an_option_in_text_and_as_keyword_is_refused_everywhere() -> None:
    fields = {"owner": "cbam", "option": "reduction", "value": 8}
    with raises(BadOption, **fields):
        merge_options("cbam:reduction=4", {"reduction": 8})
    with raises(BadOption, **fields):
        sc.create("cbam:reduction=4", 32, reduction=8)


def test_create_takes_text() -> None:
    module = sc.create("cbam:reduction=4,spatial=false", 32)
    assert sum(p.numel() for p in module.parameters()) == sum(
        p.numel() for p in sc.create("cbam", 32, reduction=4, spatial=False).parameters()
    )
    with raises(UnknownName, owner="cbam", value="reductoin"):
        sc.create("cbam:reductoin=4", 32)


def test_unknown_options_carry_the_known_ones() -> None:
    with raises(UnknownName, owner="se", value="bais", choices=("bias", "reduction")):
        check_options("se", {"bais": True}, ["reduction", "bias"])


def test_an_empty_place_is_refused() -> None:
    with raises(BadOption, owner="se", option="place", value="layer1+"):
        parse_placed("se@layer1+")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["none", "se", "cbam:reduction=4"], ["none", "se", "cbam"]),
        (["cbam", "cbam:reduction=4"], ["cbam", "cbam reduction=4"]),
        (["sk:reach=2,norm=off", "sk:reach=3,norm=on"], ["sk reach=2, norm=off", "sk reach=3, norm=on"]),
        (
            ["spatial_transformer:size=[5,9]", "spatial_transformer:size=[7,9]"],
            ["spatial_transformer size=[5,9]", "spatial_transformer size=[7,9]"],
        ),
        (["a:x=[1,2],y=3", "a:x=[1,2],y=4"], ["a y=3", "a y=4"]),
    ],
)
def test_short_names_differ_where_the_texts_differ(texts: list[str], expected: list[str]) -> None:
    assert shorten(texts) == expected
