"""YAML 1.2: numbers are numbers, words are words, and nothing surprises."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from saccade.config.strict_yaml import format_yaml, parse_yaml


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("010", 10),
        ("0x10", 16),
        ("0o17", 15),
        ("-.5", -0.5),
        ("1:30", "1:30"),
        ("2026-01-02", "2026-01-02"),
        ("yes", "yes"),
        ("off", "off"),
        ("true", True),
        ("~", None),
        ("", None),
        ("1_000", "1_000"),
        ("{a: [1, x]}", {"a": [1, "x"]}),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, expected: Any) -> None:
    parsed = parse_yaml(text)
    assert parsed == expected
    assert type(parsed) is type(expected)


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\na: 2",
        "&a [1]",
        "a: &x 1\nb: *x",
        "!!python/object/apply:os.system ['true']",
        "!tag x",
        "[" * 30 + "]" * 30,
        "[" * 3000 + "]" * 3000,
        "a: " + "1" * 5000,
        "x" * 100_001,
        "? [a]\n: b",
        "a: [",
        "a: 1\n---\nb: 2",
        "\x00",
    ],
)
def test_what_surprises_is_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        parse_yaml(text)


@pytest.mark.parametrize(
    "value", ["1e-3", "010", "true", "null", "~", "", "2026-01-02", "a: b", "- x", 1e-5, 3, None]
)
def test_what_is_written_is_read(value: Any) -> None:
    assert parse_yaml(format_yaml({"key": value})) == {"key": value}
