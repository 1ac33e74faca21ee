"""The reference of the file formats is generated from the schema, and its links lead somewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

import file_formats
from saccade.results import schema


def test_the_page_is_what_the_schema_says() -> None:
    assert file_formats.PAGE.read_text() == file_formats.page(), "old page: python docs/file_formats.py"


def test_every_type_has_a_section() -> None:
    text = file_formats.page()
    sections = {title.lower() for title in re.findall(r"^## (\w+)$", text, re.MULTILINE)}
    assert set(re.findall(r"\(#(\w+)\)", text)) == sections
    assert {"interval", "row", "runmap"} <= sections
    for name in file_formats.FILES:
        assert f"\n## `{name}`\n" in text
    assert "| `attention` (optional) | [RunMap](#runmap) |" in text
    assert f"schema number {schema.SCHEMA}" in text
