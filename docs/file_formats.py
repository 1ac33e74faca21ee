"""Write docs/file-formats.md, the reference of all JSON files, from `saccade.results.schema`.

python docs/file_formats.py
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from saccade.results import SCHEMA, evaluation_schema, schema, search_schema

PAGE = Path(__file__).parent / "file-formats.md"

HEAD = f"""# File formats

<!-- written by docs/file_formats.py from saccade.results.schema -->

All formats are JSON with schema number {SCHEMA}. Files with another number are refused. A file is replaced
atomically, so a reader never sees an incomplete one. Errors and other shares are fractions, not percentages.

The leaderboard of `results.json` is also written to `leaderboard.csv`: nested keys are joined with `_`, for
example `error_low`. `saccade.results.read_run_info`, `read_run_result`, `read_comparison`, `read_search` and
`read_space` read and validate the files.
"""

FILES = {
    "run.json": schema.RunInfo,
    "result.json": schema.RunResult,
    "results.json": schema.ComparisonResults,
    "saccade evaluate --json": evaluation_schema.Evaluation,
    "search.json": search_schema.SearchResults,
    "space.json": search_schema.SearchSpace,
}


def page() -> str:
    lines, known = [HEAD], {form: name for name, form in FILES.items()}
    for name, form in FILES.items():
        lines += section(f"`{name}`", form)
    for form in nested(FILES.values()):
        if form not in known:
            lines += section(form.__name__, form)
    return "\n".join(lines)


def nested(forms: typing.Iterable[Any]) -> list[Any]:
    """Return the typed dictionaries inside of others, in the order of first use."""
    queue, seen = list(forms), []
    while queue:
        form = queue.pop(0)
        if form not in seen:
            seen.append(form)
            queue += [part for hint in get_type_hints(form).values() for part in parts(hint)]
    return seen


def parts(hint: Any) -> Iterator[Any]:
    """Yield the typed dictionaries of a type."""
    if typing.is_typeddict(hint):
        yield hint
    for argument in get_args(hint):
        yield from parts(argument)


def section(title: str, form: Any) -> list[str]:
    rows = (
        f"| `{name}`{'' if name in form.__required_keys__ else ' (optional)'} | {written(get_args(hint)[0])} "
        f"| {get_args(hint)[1]} |"
        for name, hint in get_type_hints(form, include_extras=True).items()
    )
    return [
        f"## {title}",
        "",
        inspect.getdoc(form) or "",
        "",
        "| field | type | |",
        "|---|---|---|",
        *rows,
        "",
    ]


def written(hint: Any) -> str:
    """Return a type as the page shows it, with links to the sections of typed dictionaries."""
    origin, arguments = get_origin(hint), get_args(hint)
    if typing.is_typeddict(hint):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    if origin is UnionType:
        return f"{written(arguments[0])} or null"
    if origin is typing.Literal:
        return " or ".join(f'`"{value}"`' for value in arguments)
    if origin is list:
        return f"list of {written(arguments[0])}"
    if origin is dict:
        return f"object of {written(arguments[1])}"
    return {str: "string", int: "integer", float: "number", bool: "boolean", Any: "any"}[hint]


if __name__ == "__main__":
    PAGE.write_text(page())
