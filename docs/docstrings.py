"""Name the sections of docstrings as the documentation site knows them. mkdocs.yml names this file."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object


class Sections(Extension):
    """Read `Example:` as the section `Examples:`, whose prompts are highlighted as code."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
