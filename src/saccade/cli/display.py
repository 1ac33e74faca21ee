"""Terminal output of training and comparisons: progress bars and tables."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from saccade.cli.terminal import console
from saccade.config import Recipe
from saccade.results import Interval, Row, RunResult, compute_leaderboard, main_map
from saccade.training import Progress as RunProgress

_SCORED = (
    "faithful: gain of the map's pixel order over a random order, in area under the deletion and insertion "
    "curves; sanity: rank correlation with the map of random weights, where 1 means that the map ignores "
    "what was learned"
)


class RunDisplay:
    """Progress bar with loss, error and remaining time. Silent without a terminal."""

    def __init__(self, *, to_stderr: bool = True) -> None:
        self.console = console(stderr=to_stderr)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[numbers]}"),
            console=self.console,
            auto_refresh=False,
        )
        self.task = self.bar.add_task("training", total=1.0, numbers="")
        self.live = Live(self.render(), console=self.console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.stop()

    def progressed(self, progress: RunProgress) -> None:
        """Show the progress of training."""
        numbers = (
            f"epoch {progress.epoch}/{progress.epochs}  loss {progress.loss:.3f}  "
            f"error {progress.error:.1%}  {progress.images_per_second:,.0f} images/s  "
            f"{_clock(progress.seconds_left)} left"
        )
        self.bar.update(self.task, completed=progress.fraction, numbers=numbers)
        self.refresh()

    def show_stage(self, description: str, fraction: float) -> None:
        """Show a stage of other work and the completed fraction of all of it."""
        self.bar.update(self.task, description=description, completed=fraction)
        self.refresh()

    def render(self) -> RenderableType:
        return self.bar

    def refresh(self) -> None:
        if self.console.is_terminal:
            self.live.update(self.render(), refresh=True)


class ComparisonDisplay(RunDisplay):
    """Current leaderboard above the progress of the current run. Without a terminal: one line per run."""

    def __init__(self, title: str, *, to_stderr: bool = False) -> None:
        self.title, self.total = title, Text("")
        self.rows: list[Row] = []
        self.start = time.monotonic()
        super().__init__(to_stderr=to_stderr)

    def started(self, recipe: Recipe, number: int, of: int) -> None:
        """Show that a run starts."""
        self.number, self.of = number, of
        description = f"run {number}/{of}: {recipe.attention}, seed {recipe.seed}"
        self.bar.reset(self.task, description=description, numbers="")
        self.refresh()

    def finished(self, results: list[RunResult]) -> None:
        """Show the leaderboard of the completed runs."""
        self.rows = compute_leaderboard(results)
        elapsed, done = time.monotonic() - self.start, len(results)
        left = elapsed / done * (self.of - done)
        self.total = Text(f"{done}/{self.of} runs in {_clock(elapsed)}, about {_clock(left)} left")
        self.refresh()
        if not self.console.is_terminal:
            last = results[-1]
            line = f"{last['attention']} seed {last['seed']}: test error {last['error']:.2%}"
            self.console.print(line, style=None)

    def render(self) -> RenderableType:
        return Group(leaderboard_table(self.title, self.rows), self.total, self.bar)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self.rows:
            self.console.print(leaderboard_table(self.title, self.rows))


def leaderboard_table(title: str, rows: Sequence[Row]) -> Table:
    """Return the leaderboard as a table, with the smallest error first."""
    chance = [row["localization"]["chance"] for row in rows if row["localization"]]
    scored = any(row["scores"] for row in rows)
    caption = "brackets: 95% interval over seeds; vs none: paired difference in percentage points"
    if chance:
        caption += f"; on target: average precision of the map, chance {max(chance):.2f}"
    if scored:
        caption += f"; {_SCORED}"
    scores = ["faithful\nsanity"] if scored else []
    table = _table(
        ["error %", "vs none", "on target", *scores, "params", "MFLOPs", "ms", "train"], caption, title
    )
    for row in sorted(rows, key=lambda row: row["error"]["mean"]):
        localization, maps = row["localization"], main_map(row)
        faithful = f"{maps['faithfulness']['mean']:+.2f}\n{_mean(maps['spearman'])}" if maps else ""
        table.add_row(
            row["attention"],
            _percent(row["error"]),
            _percent(row["difference"], sign="+"),
            f"{_mean(localization['precision'])}\n{localization['polarity']}" if localization else "",
            *([faithful] if scored else []),
            f"{row['parameters'] / 1e3:.1f}k",
            f"{row['flops'] / 1e6:.1f}",
            f"{row['latency_ms']:.2f}",
            f"{row['train_seconds']:.0f}s",
        )
    return table


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
    table.add_column("attention", overflow="fold", ratio=1)
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


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
