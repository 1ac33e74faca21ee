"""The schema: every field is described once, and one number covers all files."""

from __future__ import annotations

import typing
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from saccade.results import evaluation_schema, schema

FORMS = [value for value in vars(schema).values() if typing.is_typeddict(value)]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_every_field_is_described(form: Any) -> None:
    assert form.__name__.startswith("_") or (form.__doc__ or "").endswith(".")
    for name, hint in get_type_hints(form, include_extras=True).items():
        assert get_origin(hint) is typing.Annotated, name
        _, text = get_args(hint)
        assert text[0].isupper() or text[0] == "`", name
        assert text.endswith("."), name


def test_every_file_has_the_schema_number() -> None:
    for form in (schema.RunInfo, schema.RunResult, schema.ComparisonResults, evaluation_schema.Evaluation):
        assert form.__annotations__["schema"]
    assert schema.SCHEMA == 2
