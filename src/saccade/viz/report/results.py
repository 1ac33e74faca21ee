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


class Localization(TypedDict):
    """How well the maps of all seeds point at the target, bright or dark."""

    polarity: Literal["positive", "negative"]
    agree: int
    chance: float
    pointing: Interval
    energy: Interval
    precision: Interval


class MapScores(TypedDict):
    """What the maps of all scored seeds are worth, under one sign."""

    runs: int
    polarity: Literal["positive", "negative"]
    faithfulness: Interval
    deletion: Interval
    insertion: Interval
    spearman: Interval
    ssim: Interval
    precision: Interval | None


class Scores(TypedDict, total=False):
    """The scores of the attention, if there is one, and of Grad-CAM."""

    attention: MapScores
    grad_cam: MapScores


class _Row(TypedDict, total=False):
    scores: Scores | None
    p_value: float | None


class Row(_Row):
    """One attention of the leaderboard. `difference` is its error less that of "none", paired by seed.

    `p_value` is how likely the difference would be as far from 0 by chance.
    """

    attention: str
    seeds: int
    error: Interval
    difference: Interval | None
    localization: Localization | None
    parameters: int
    flops: int
    latency_ms: float
    train_seconds: float


class Score(TypedDict):
    """How well the maps of one run point at the target, as they are or inverted."""

    pointing: float
    energy: float
    precision: float


class MapLocalization(TypedDict):
    """How well some maps of one run point at the target, bright and dark."""

    chance: float
    positive: Score
    negative: Score


class RunLocalization(MapLocalization):
    """How well the attention of one run points at the target."""

    path: str
    kind: str


class Ranking(TypedDict):
    """The answer of a network while pixels are deleted and inserted in some order; areas and curves."""

    deletion: float
    insertion: float
    deletion_curve: list[float]
    insertion_curve: list[float]


class MapRanking(Ranking):
    """The same in the order of a map, and by how much it is better than a random order."""

    auc_gain: float


class Similarity(TypedDict):
    """How like the original a map is after a layer, and all before it, lost their weights."""

    path: str
    reaches: bool
    spearman: float
    ssim: float


class Sanity(TypedDict):
    """How like the original a map is after all layers lost their weights, and after each."""

    spearman: float
    ssim: float
    layers: list[Similarity]


class RunMap(TypedDict):
    """The scores of one map of a run, as it is and inverted."""

    path: str | None
    kind: str
    localization: MapLocalization | None
    positive: MapRanking
    negative: MapRanking
    sanity: Sanity


class _RunScores(TypedDict, total=False):
    attention: RunMap
    grad_cam: RunMap


class RunScores(_RunScores):
    """What `saccade score` found about a run."""

    images: int
    steps: int
    shares: list[float]
    random: Ranking
    center_prior: Ranking


class _Run(TypedDict, total=False):
    scores: RunScores | None


class Run(_Run):
    """One training: an attention and a seed."""

    attention: str
    seed: int
    folder: str
    error: float
    loss: float
    localization: RunLocalization | None
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
    for row in results["leaderboard"]:
        row.setdefault("scores", None)  # those of `saccade score`, if it has been called
    for run in results["runs"]:
        run.setdefault("scores", None)
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
            if key in value:
                _check(path, f"{where}.{key}" if where else key, value[key], its)
            elif key in form.__required_keys__:
                raise BadRun(f"{path}: {where or 'the file'} lacks {key!r}")
    elif kind is list:
        for number, item in enumerate(value):
            _check(path, f"{where}[{number}]", item, parts[0])
    elif kind is dict:
        for key, item in value.items():
            _check(path, f"{where}.{key}", item, parts[1])
