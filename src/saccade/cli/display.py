"""Terminal output of training and comparisons: progress bars and tables."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from saccade.cli.terminal import console
from saccade.config import Recipe
from saccade.errors import printable
from saccade.results import (
    Interval,
    JoinedLocalization,
    JoinedMap,
    Row,
    RunResult,
    compute_leaderboard,
    main_map,
)
from saccade.training import Progress as RunProgress

_NAME = 24  # characters of a name that are not folded
_SCORED = (
    "faithful: gain of the map's pixel order over a random order, in area under the deletion and insertion "
    "curves; sanity: rank correlation with the map of random weights, where 1 means that the map ignores "
    "what was learned"
)


class RunDisplay:
    """Progress bar with loss, error and remaining time. Silent without a terminal."""

    def __init__(self, description: str = "training", *, to_stderr: bool = True) -> None:
        self.console = console(stderr=to_stderr)
        self.bar = Progress(
            BarColumn(bar_width=12),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[numbers]}", markup=False),
            console=self.console,
            auto_refresh=False,
        )
        self.task = self.bar.add_task(description, total=1.0, numbers="")
        self.live = Live(self.render(), console=self.console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def progressed(self, progress: RunProgress) -> None:
        """Show the progress of training."""
        numbers = (
            f"{clock(progress.seconds_left)} left  epoch {progress.epoch}/{progress.epochs}  error "
            f"{progress.error:.1%}  loss {progress.loss:.3f}  {progress.images_per_second:,.0f} images/s"
        )
        self.bar.update(self.task, completed=progress.fraction, numbers=numbers)
        self.refresh()

    def show_stage(self, description: str, fraction: float) -> None:
        """Show a stage of other work and the completed fraction of all of it."""
        self.bar.update(self.task, description=description, completed=fraction)
        self.refresh()

    def render(self) -> RenderableType:
        return Group(Text(self.bar.tasks[0].description), self.bar)

    def refresh(self) -> None:
        if self.console.is_terminal:
            self.live.update(self.render(), refresh=True)


class Pace:
    """Estimates the time that the remaining runs take. Runs that were complete before cost no time."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.starts: dict[tuple[str, int], float] = {}
        self.trained, self.fraction = 0, 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since the first run started."""
        return time.monotonic() - self.start

    def started(self, recipe: Recipe) -> None:
        """A run starts."""
        if not self.starts:
            self.start = time.monotonic()
        self.starts[recipe.attention, recipe.seed] = time.monotonic()
        self.fraction = 0.0

    def progressed(self, progress: RunProgress) -> None:
        """The current run has progressed."""
        self.fraction = progress.fraction

    def finished(self, result: RunResult) -> bool:
        """A run has finished; return whether it was trained now, and not before."""
        start = self.starts.get((result["attention"], result["seed"]), self.start)
        is_trained = time.monotonic() - start >= result["train_seconds"]
        self.trained, self.fraction = self.trained + is_trained, 0.0
        return is_trained

    def seconds_left(self, runs: int) -> float | None:
        """Return the seconds that the last `runs` runs take; None if nothing has been trained so far."""
        done = self.trained + self.fraction
        return self.elapsed / done * (runs - self.fraction) if done else None


class ComparisonDisplay(RunDisplay):
    """Current leaderboard above the progress of the current run. Without a terminal: one line per run."""

    def __init__(self, title: str, *, to_stderr: bool = False) -> None:
        self.title, self.total = title, Text("")
        self.rows: list[Row] = []
        self.pace = Pace()
        super().__init__(to_stderr=to_stderr)

    def started(self, recipe: Recipe, number: int, of: int) -> None:
        """Show that a run starts."""
        self.number, self.of = number, of
        self.pace.started(recipe)
        description = f"run {number}/{of}: {recipe.attention}, seed {recipe.seed}"
        self.bar.reset(self.task, description=description, numbers="")
        self.refresh()

    def progressed(self, progress: RunProgress) -> None:
        self.pace.progressed(progress)
        super().progressed(progress)

    def finished(self, results: list[RunResult]) -> None:
        """Show the leaderboard of the completed runs."""
        self.rows = compute_leaderboard(results)
        self.pace.finished(results[-1])
        done, left = len(results), self.pace.seconds_left(self.of - len(results))
        about = "" if left is None else f", about {clock(left)} left"
        self.total = Text(f"{done}/{self.of} runs in {clock(self.pace.elapsed)}{about}")
        self.refresh()
        if not self.console.is_terminal:
            last = results[-1]
            self.console.print(f"{last['attention']} seed {last['seed']}: test error {last['error']:.2%}")

    def render(self) -> RenderableType:
        table = leaderboard_table(self.title, self.rows, self.console.width)
        return Group(table, self.total, super().render())

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        if self.rows:
            self.console.print(leaderboard_table(self.title, self.rows, self.console.width))


def leaderboard_table(title: str, rows: Sequence[Row], width: int = 80) -> Table:
    """Return the leaderboard as a table, with the smallest error first.

    Names are always shown: in a narrow terminal, the columns that matter least are left out.

    Args:
        title: Title of the table.
        rows: Rows of the leaderboard.
        width: Width of the terminal in characters.
    """
    rows = sorted(rows, key=lambda row: row["error"]["mean"])
    columns = _columns(rows)
    names = [printable(row["attention"], 200) for row in rows]
    longest = max(map(len, names), default=0)
    for column in ("train", "ms", "MFLOPs", "params", "faithful\nsanity", "on target", "Dice %", "vs none"):
        needed = sum(
            max(map(len, "\n".join([title, *cells]).split("\n"))) + 2 for title, cells in columns.items()
        )
        if needed + min(longest, _NAME) <= width:
            break
        columns.pop(column, None)
    parts = ["brackets: 95% interval over seeds"]
    if "vs none" in columns:
        parts.append("vs none: paired difference in percentage points")
    if any("segmentation" in row for row in rows):
        parts.append("error: one minus the mean IoU")
    chance = [row["localization"]["chance"] for row in rows if row["localization"]]
    if chance and "on target" in columns:
        parts.append(f"on target: average precision of the map, chance {max(chance):.2f}")
    if "faithful\nsanity" in columns:
        parts.append(_SCORED)
    table = _table([*columns], "; ".join(parts), title)
    for name, *cells in zip(names, *columns.values(), strict=True):
        table.add_row(name, *cells)
    return table


def _columns(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return the cells of each column by its title."""
    columns = {
        "error %": [_percent(row["error"]) for row in rows],
        "vs none": [_percent(row["difference"], sign="+") for row in rows],
        "Dice %": [_percent(row["segmentation"]["dice"]) if "segmentation" in row else "" for row in rows],
        "on target": [_on_target(row["localization"]) for row in rows],
        "faithful\nsanity": [_faithful(main_map(row)) for row in rows],
        "params": [f"{row['parameters'] / 1e3:.1f}k" for row in rows],
        "MFLOPs": [f"{row['flops'] / 1e6:.1f}" for row in rows],
        "ms": [f"{row['latency_ms']:.2f}" for row in rows],
        "train": [f"{row['train_seconds']:.0f}s" for row in rows],
    }
    optional = ("Dice %", "faithful\nsanity")
    return {title: cells for title, cells in columns.items() if any(cells) or title not in optional}


def _on_target(localization: JoinedLocalization | None) -> str:
    return f"{_mean(localization['precision'])}\n{localization['polarity']}" if localization else ""


def _faithful(scores: JoinedMap | None) -> str:
    return f"{scores['faithfulness']['mean']:+.2f}\n{_mean(scores['spearman'])}" if scores else ""


def scores_table(rows: Sequence[Row]) -> Table:
    """Return the scores of all maps as a table."""
    table = _table(("map", "faithful", "on target", "sanity", "ssim"), _SCORED)
    for row in rows:
        scores = row["scores"] or {}
        for name, maps in (("attention", scores.get("attention")), ("Grad-CAM", scores.get("grad_cam"))):
            if maps:
                table.add_row(
                    row["attention"],
                    f"{name}, {maps['polarity']}",
                    f"{maps['faithfulness']['mean']:+.2f}",
                    *map(_mean, (maps["precision"], maps["spearman"], maps["ssim"])),
                )
    return table


def _table(columns: Sequence[str], caption: str, title: str | None = None) -> Table:
    table = Table(
        title=title,
        caption=caption,
        title_justify="left",
        caption_justify="left",
        box=None,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("attention", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _mean(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval['mean']:.2f}"


def _percent(interval: Interval | None, sign: str = "") -> str:
    """Return a mean in percent and, on a second line, its interval from low to high."""
    if interval is None:
        return ""
    mean = f"{100 * interval['mean']:{sign}.1f}"
    if interval["low"] is None or interval["high"] is None:
        return mean
    return f"{mean}\n[{100 * interval['low']:{sign}.1f}, {100 * interval['high']:{sign}.1f}]"


def clock(seconds: float) -> str:
    """Format a duration in minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
