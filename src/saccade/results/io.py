"""Reading and writing of the result files. Readers validate, so that every error names file and field."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, TypeVar, cast, get_args, get_origin, get_type_hints, is_typeddict

from saccade.errors import bad_run
from saccade.files import check_schema, read_text, write_json, write_text
from saccade.results.schema import SCHEMA, ComparisonResults, Row, RunInfo, RunResult
from saccade.results.search_schema import SearchResults, SearchSpace

RUN_INFO, RUN_RESULT = "run.json", "result.json"
COMPARISON, LEADERBOARD = "results.json", "leaderboard.csv"
SPACE, SEARCH = "space.json", "search.json"

_T = TypeVar("_T")
_LARGEST = 1e18  # of a number: 1e999 in JSON is infinite


def read_run_info(folder: Path) -> RunInfo:
    """Read the provenance of a run. Raises `BadRun` for an unusable file."""
    return _read(folder, RUN_INFO, RunInfo, "a run")


def write_run_info(folder: Path, info: RunInfo) -> None:
    """Write the provenance of a run."""
    write_json(folder / RUN_INFO, info)


def read_run_result(folder: Path) -> RunResult:
    """Read the result of a run. Raises `BadRun` for an unusable file."""
    return _read(folder, RUN_RESULT, RunResult, "a complete run")


def write_run_result(folder: Path, result: RunResult) -> None:
    """Write the result of a run, atomically: its presence means that the run is complete."""
    write_json(folder / RUN_RESULT, result)


def read_comparison(folder: Path) -> ComparisonResults:
    """Read the results of a comparison, with the most accurate attention first.

    Raises:
        BadRun: The file is missing, unreadable, incomplete, or has another schema.
    """
    results = _read(folder, COMPARISON, ComparisonResults, "a finished comparison")
    for section in ("leaderboard", "runs"):
        if not results[section]:
            raise bad_run(folder / COMPARISON, f"has {section}=[], which is empty", section, [])
    results["leaderboard"].sort(key=lambda row: row["error"]["mean"])
    return results


def write_comparison(folder: Path, results: ComparisonResults) -> None:
    """Write the results of a comparison, and its leaderboard as a CSV table."""
    write_json(folder / COMPARISON, results)
    write_text(folder / LEADERBOARD, to_csv(results["leaderboard"]))


def read_space(folder: Path) -> SearchSpace:
    """Read the space of a search. Raises `BadRun` for an unusable file."""
    return _read(folder, SPACE, SearchSpace, "a search")


def write_space(folder: Path, space: SearchSpace) -> None:
    """Write the space of a search."""
    write_json(folder / SPACE, space)


def read_search(folder: Path) -> SearchResults:
    """Read the results of a search. Raises `BadRun` for an unusable file."""
    return _read(folder, SEARCH, SearchResults, "a finished search")


def write_search(folder: Path, results: SearchResults) -> None:
    """Write the results of a search, atomically: their presence means that it is finished."""
    write_json(folder / SEARCH, results)


def to_csv(rows: Sequence[Row]) -> str:
    """Return the leaderboard as CSV. Nested keys are joined by "_", for example `error_low`."""
    flat = [_flatten(row) for row in rows]
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(key for row in flat for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return out.getvalue()


def _flatten(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}_")
        elif value is not None or prefix:
            flat[f"{prefix}{key}"] = value
    return flat


def _read(folder: Path, name: str, form: type[_T], owner: str) -> _T:
    path = folder / name
    if not path.exists():
        raise bad_run(folder, f"has no {name}, so it is not the folder of {owner}", name)
    try:
        value = json.loads(read_text(path), parse_constant=_refuse)
    except (RecursionError, json.JSONDecodeError) as error:
        raise bad_run(path, f"is not JSON: {error}") from error
    if isinstance(value, dict):
        check_schema(path, value.get("schema", 1), SCHEMA)
    validate(path, value, form)
    return cast(_T, value)


def _refuse(constant: str) -> NoReturn:
    raise json.JSONDecodeError(f"{constant} is not a finite number", constant, 0)


def validate(path: Path, value: Any, form: Any, field: str = "") -> None:
    """Raise `BadRun` unless a value of a file has the type that the schema demands.

    Args:
        path: The file, for the message.
        value: The value.
        form: The type: a typed dictionary, list, dictionary, optional type, literal or scalar.
        field: Path of the value in the file, for example `leaderboard[0].error`.
    """
    origin, arguments = get_origin(form), get_args(form)
    shown = f"has {field}={value!r}, which" if field else "has content that"
    if origin is UnionType:  # all unions of the schema are of a type and None
        if value is not None:
            validate(path, value, arguments[0], field)
    elif origin is Literal:
        if value not in arguments:
            problem = f"{shown} is not one of {', '.join(map(repr, arguments))}"
            raise bad_run(path, problem, field, value, arguments)
    elif form is not Any:
        kind = dict if is_typeddict(form) else origin or form
        accepted: Any = (int, float) if kind is float else kind
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise bad_run(path, f"{shown} must be of type {kind.__name__}", field, value)
        if kind in (int, float) and not -_LARGEST <= value <= _LARGEST:
            raise bad_run(path, f"{shown} is out of range", field, value)
        if is_typeddict(form):
            for key, kind in get_type_hints(form).items():
                inner = f"{field}.{key}".lstrip(".")
                if key in value:
                    validate(path, value[key], kind, inner)
                elif key in form.__required_keys__:
                    raise bad_run(path, f"lacks {inner}", inner)
        elif kind is list:
            for index, item in enumerate(value):
                validate(path, item, arguments[0], f"{field}[{index}]")
        elif kind is dict:
            for key, item in value.items():
                validate(path, item, arguments[1], f"{field}.{key}")
