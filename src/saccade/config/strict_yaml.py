"""YAML as recipes are written in it: the core schema of YAML 1.2, and nothing that surprises."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

MAX_CHARACTERS = 100_000
_MAX_DEPTH = 20

_TAGS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


class _Loader(yaml.SafeLoader):
    """PyYAML with the scalars of YAML 1.2, unique keys, and neither aliases, tags nor deep nesting."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = super().peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.YAMLError("anchors and aliases are not supported")
        if getattr(event, "tag", None):
            raise yaml.YAMLError(f"the tag {event.tag!r} is not supported")
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise yaml.YAMLError(f"it is nested more than {_MAX_DEPTH} levels deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if not isinstance(key, str):
                raise yaml.YAMLError("a key must be a word")
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key!r} occurs twice")
        return super().construct_mapping(node, deep)

    def construct_integer(self, node: Any) -> int:
        if len(node.value) > 20:
            raise yaml.YAMLError(f"the number {node.value[:20]}... is too large")
        return int(node.value, 0 if node.value[:2] in ("0o", "0x") else 10)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_integer)


class _Dumper(yaml.SafeDumper):
    """PyYAML that quotes the texts which `_Loader` would read as something else."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _name, _pattern in _TAGS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), None)


def format_yaml(values: Mapping[str, Any]) -> str:
    """Return a mapping as YAML that `parse_yaml` reads back.

    Example:
        >>> print(format_yaml({"task": "1e-3", "seed": 3}), end="")
        task: '1e-3'
        seed: 3
    """
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False)
    return text


def parse_yaml(text: str) -> Any:
    """Parse YAML with the core schema of YAML 1.2.

    Unlike in YAML 1.1, `1e-3` is a number, `010` is ten, and `yes`, `1:30` and dates are text.

    Args:
        text: The text.

    Returns:
        Mappings, lists, texts, numbers, booleans and None.

    Raises:
        yaml.YAMLError: The text is no YAML, too long or too deep; a key occurs twice; or there is an alias or
            a tag.

    Example:
        >>> parse_yaml("{learning_rate: 1e-3, epochs: 010, start: 2026-01-02}")
        {'learning_rate': 0.001, 'epochs': 10, 'start': '2026-01-02'}
    """
    if len(text) > MAX_CHARACTERS:
        raise yaml.YAMLError(f"it has {len(text)} characters; at most {MAX_CHARACTERS} are read")
    return yaml.load(text, Loader=_Loader)  # a subclass of SafeLoader
