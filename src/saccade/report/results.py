"""The result file of a comparison, as the report reads it (schema 1, see docs/architecture.md)."""

from __future__ import annotations

import json
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypedDict, cast, get_args, get_origin, get_type_hints, is_typeddict

from saccade.errors import BadRun

SCHEMA = 1


class Interval(TypedDict):
    """A mean over seeds with its 95% confidence interval; no interval with one seed."""

    mean: float
    low: float | None
    high: float | None


class Localisation(TypedDict):
    """How well the maps of all seeds point at the target, bright or dark."""

    sign: Literal["bright", "dark"]
    agree: int
    chance: float
    pointing: Interval
    energy: Interval
    precision: Interval


class Row(TypedDict):
    """One attention of the leaderboard. `difference` is its error less that of "none", paired by seed."""

    attention: str
    seeds: int
    error: Interval
    difference: Interval | None
    localisation: Localisation | None
    parameters: int
    flops: int
    latency_ms: float
    train_seconds: float


class Score(TypedDict):
    """How well the maps of one run point at the target, as they are or inverted."""

    pointing: float
    energy: float
    precision: float


class RunLocalisation(TypedDict):
    """The scores of one run's maps, bright and dark."""

    path: str
    kind: str
    chance: float
    bright: Score
    dark: Score


class Run(TypedDict):
    """One training: an attention and a seed."""

    attention: str
    seed: int
    folder: str
    error: float
    loss: float
    localisation: RunLocalisation | None
    curves: dict[str, list[float | None]]


class Task(TypedDict):
    """The images that were learnt."""

    name: str
    classes: list[str]
    train: int
    validation: int
    test: int
    chance_error: float
    masks: bool


class Hardware(TypedDict):
    """What the runs were computed on."""

    cpu: str
    cores: int
    gpu: str | None
    python: str
    torch: str
    platform: str


class Results(TypedDict):
    """All of `results.json`."""

    schema: int
    saccade: str
    command: str
    recipe: dict[str, Any]
    hardware: Hardware
    task: Task
    leaderboard: list[Row]
    runs: list[Run]


def read(folder: Path) -> Results:
    """Return the results of a comparison, the most accurate attention first.

    Raises `BadRun` if the file is missing, unreadable, incomplete or of another schema.
    """
    path = folder / "results.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadRun(f"{folder} holds no results.json; is it the folder of a finished comparison?") from None
    except (OSError, ValueError) as error:
        raise BadRun(f"{path} cannot be read: {error}") from None
    schema = found.get("schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise BadRun(f"{path} has schema {schema!r}; this version of saccade reads schema {SCHEMA}")
    _check(path, "", found, Results)
    for section in ("leaderboard", "runs"):
        if not found[section]:
            raise BadRun(f"{path}: {section} is empty")
    results = cast(Results, found)
    results["leaderboard"].sort(key=lambda row: row["error"]["mean"])
    return results


def _check(path: Path, where: str, value: Any, form: Any) -> None:
    """Raise `BadRun` unless `value` has the form of a type: typed dictionary, list, union or scalar."""
    origin, parts = get_origin(form), get_args(form)
    if origin is UnionType:
        if value is not None:
            _check(path, where, value, parts[0])
        return
    if origin is Literal:
        if value not in parts:
            raise BadRun(f"{path}: {where}={value!r} is not one of {', '.join(map(repr, parts))}")
        return
    kind = dict if is_typeddict(form) else origin or form
    if kind is not Any and not isinstance(value, (int, float) if kind is float else kind):
        raise BadRun(f"{path}: {where}={value!r} must be of type {kind.__name__}")
    if is_typeddict(form):
        for key, its in get_type_hints(form).items():
            if key not in value:
                raise BadRun(f"{path}: {where or 'the file'} lacks {key!r}")
            _check(path, f"{where}.{key}" if where else key, value[key], its)
    elif kind is list:
        for number, item in enumerate(value):
            _check(path, f"{where}[{number}]", item, parts[0])
    elif kind is dict:
        for key, item in value.items():
            _check(path, f"{where}.{key}", item, parts[1])
