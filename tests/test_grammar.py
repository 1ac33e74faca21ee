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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("se", ("se", {})),
        (" se ", ("se", {})),
        ("none", ("none", {})),
        ("se:reduction=8", ("se", {"reduction": 8})),
        ("se: reduction = 8 , bias = false", ("se", {"reduction": 8, "bias": False})),
        ("se:bias=True", ("se", {"bias": True})),
        ("a:x=-1,y=0.5,z=1e-3", ("a", {"x": -1, "y": 0.5, "z": 1e-3})),
        ("multi_head:position=none", ("multi_head", {"position": "none"})),
        ("multi_head:tokens=None", ("multi_head", {"tokens": None})),
        ("multi_head:projection='conv1d'", ("multi_head", {"projection": "conv1d"})),
        ("channel_gate:pools=[avg,max]", ("channel_gate", {"pools": ["avg", "max"]})),
        ("a:pools=['avg', 'max'],reduction=4", ("a", {"pools": ["avg", "max"], "reduction": 4})),
        ("channel_gate:pools=(avg,)", ("channel_gate", {"pools": ["avg"]})),
        ("a:x=[]", ("a", {"x": []})),
        ("a:x=[1, 2],y=[[3], 4]", ("a", {"x": [1, 2], "y": [[3], 4]})),
        ("a:x=[true, none, 1]", ("a", {"x": [True, "none", 1]})),
        ("a:file=weights=1", ("a", {"file": "weights=1"})),
        ("a:x='b c'", ("a", {"x": "b c"})),
    ],
)  # fmt: skip
def test_parse(text: str, expected: tuple[str, dict[str, Any]]) -> None:
    got = parse(text)
    assert got == expected
    assert [type(value) for value in got[1].values()] == [type(value) for value in expected[1].values()]


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("se:", {"owner": "se", "option": None, "value": ""}),
        ("se:reduction", {"owner": "se", "option": None, "value": "reduction"}),
        ("se:reduction=8,", {"owner": "se", "option": None, "value": ""}),
        ("se:=8", {"owner": "se", "option": None, "value": "=8"}),
        ("se:reduction=", {"owner": "se", "option": "reduction", "value": ""}),
        ("se:2x=8", {"owner": "se", "option": None, "value": "2x=8"}),
        ("se:reduction=8,reduction=4", {"owner": "se", "option": "reduction", "value": "4"}),
        ("a:x=[1,2", {"owner": "a", "option": "x", "value": "[1,2"}),
        ("a:x=1],y=2", {"owner": "a", "option": "x", "value": "1],y=2"}),
        ("a:x=[b,,c]", {"owner": "a", "option": "x", "value": "[b,,c]"}),
        ("a:x='b", {"owner": "a", "option": "x", "value": "'b"}),
        ("a:x={[1]:2}", {"owner": "a", "option": "x", "value": "{[1]:2}"}),
    ],
)
def test_parse_refuses(text: str, fields: dict[str, Any]) -> None:
    with raises(BadOption, **fields) as caught:
        parse(text)
    assert repr(text) in str(caught.value)


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


@pytest.mark.parametrize("text", ["se@", "se@layer1+", "se@+layer1", "se:reduction=4@"])
def test_an_empty_place_is_refused(text: str) -> None:
    name, _, places = text.partition("@")
    with raises(BadOption, owner=name, option="place", value=places):
        parse_placed(text)


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
        (["se:reduction=4,bias=false", "se: reduction=8, bias=false"], ["se reduction=4", "se reduction=8"]),
        (["se@layer1", "se@layer2"], ["se@layer1", "se@layer2"]),
        (["se@layer1", "se:reduction=4@layer1"], ["se@layer1", "se reduction=4@layer1"]),
        (["se:reduction=4@layer1", "se:reduction=4@layer2+layer3"], ["se@layer1", "se@layer2+layer3"]),
        ([], []),
    ],
)
def test_short_names_differ_where_the_texts_differ(texts: list[str], expected: list[str]) -> None:
    assert shorten(texts) == expected
