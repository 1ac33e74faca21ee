"""What the terminal shows while something trains."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from saccade.config import Recipe
from saccade.experiments import leaderboard
from saccade.training import Progress as RunProgress

_SCORED = (
    "faithful: how much better than at random the map orders the pixels that the answer rests on; "
    "sanity: rank correlation with the map of random weights, where 1 means that nothing learned shows"
)


class RunDisplay:
    """A progress bar with loss, error and time left. Where there is no terminal, it stays silent."""

    def __init__(self, *, to_stderr: bool = True) -> None:
        self.console = Console(stderr=to_stderr, highlight=False)
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
        numbers = (
            f"epoch {progress.epoch}/{progress.epochs}  loss {progress.loss:.3f}  "
            f"error {progress.error:.1%}  {progress.images_per_second:,.0f} images/s  "
            f"{_clock(progress.seconds_left)} left"
        )
        self.bar.update(self.task, completed=progress.fraction, numbers=numbers)
        self.refresh()

    def told(self, what: str, share: float) -> None:
        self.bar.update(self.task, description=what, completed=share)
        self.refresh()

    def render(self) -> RenderableType:
        return self.bar

    def refresh(self) -> None:
        if self.console.is_terminal:
            self.live.update(self.render(), refresh=True)


class ComparisonDisplay(RunDisplay):
    """The leaderboard so far, above the progress of the present run. Without a terminal: a line per run."""

    def __init__(self, title: str, *, to_stderr: bool = False) -> None:
        self.title, self.rows, self.total = title, [], Text("")
        self.began = time.monotonic()
        super().__init__(to_stderr=to_stderr)

    rows: list[dict[str, Any]]

    def started(self, recipe: Recipe, number: int, of: int) -> None:
        self.number, self.of = number, of
        self.bar.reset(
            self.task, description=f"run {number}/{of}: {recipe.attention}, seed {recipe.seed}", numbers=""
        )
        self.refresh()

    def finished(self, results: list[dict[str, Any]]) -> None:
        self.rows = leaderboard(results)
        elapsed = time.monotonic() - self.began
        done = len(results)
        left = elapsed / done * (self.of - done)
        self.total = Text(f"{done}/{self.of} runs in {_clock(elapsed)}, about {_clock(left)} left")
        self.refresh()
        if not self.console.is_terminal:
            last = results[-1]
            self.console.print(
                f"{last['attention']} seed {last['seed']}: test error {last['error']:.2%}", style=None
            )

    def render(self) -> RenderableType:
        return Group(table(self.title, self.rows), self.total, self.bar)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self.rows:
            self.console.print(table(self.title, self.rows))


def table(title: str, rows: list[dict[str, Any]]) -> Table:
    """Return the leaderboard as the terminal shows it, the smallest error first."""
    chance = {row["localization"]["chance"] for row in rows if row["localization"]}
    caption = "± half of a 95% interval over seeds; vs none: paired difference, in points"
    if chance:
        caption += f"; on target: average precision of the map, chance {max(chance):.2f}"
    scored = any(row.get("scores") for row in rows)
    if scored:
        caption += f"; {_SCORED}"
    out = Table(
        title=title, caption=caption, title_justify="left", caption_justify="left", box=None, pad_edge=False
    )
    out.add_column("attention", overflow="fold", ratio=1)
    scores = ("faithful", "sanity") if scored else ()
    for column in ("error %", "vs none", "on target", *scores, "params", "MFLOPs", "ms", "train"):
        out.add_column(column, justify="right", no_wrap=True)
    for row in sorted(rows, key=lambda row: row["error"]["mean"]):
        out.add_row(
            row["attention"],
            _points(row["error"]),
            _points(row["difference"], signed=True),
            ""
            if row["localization"] is None
            else "{precision[mean]:.2f} {polarity}".format(**row["localization"]),
            *(_scores(row["scores"]) if scored else ()),
            f"{row['parameters'] / 1e3:.1f}k",
            f"{row['flops'] / 1e6:.1f}",
            f"{row['latency_ms']:.2f}",
            f"{row['train_seconds']:.0f}s",
        )
    return out


def scores_table(rows: list[dict[str, Any]]) -> Table:
    """Return the scores of all maps as the terminal shows them."""
    out = Table(caption=_SCORED, caption_justify="left", box=None, pad_edge=False)
    out.add_column("attention", overflow="fold", ratio=1)
    for column in ("map", "faithful", "on target", "sanity", "ssim"):
        out.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        for name, its in (row["scores"] or {}).items():
            out.add_row(
                row["attention"],
                f"{'Grad-CAM' if name == 'grad_cam' else 'its own'}, {its['polarity']}",
                f"{its['faithfulness']['mean']:+.2f}",
                *(
                    "" if its[key] is None else f"{its[key]['mean']:.2f}"
                    for key in ("precision", "spearman", "ssim")
                ),
            )
    return out


def _scores(scores: dict[str, Any] | None) -> tuple[str, str]:
    """Return faithfulness and sanity of the attention's map or, where there is none, of Grad-CAM's."""
    if not scores:
        return "", ""
    its = scores.get("attention") or scores["grad_cam"]
    return f"{its['faithfulness']['mean']:+.2f}", f"{its['spearman']['mean']:.2f}"


def _points(interval: dict[str, float | None] | None, *, signed: bool = False) -> str:
    if interval is None or interval["mean"] is None:
        return ""
    mean = f"{100 * interval['mean']:{'+' if signed else ''}.1f}"
    if interval["low"] is None or interval["high"] is None:
        return mean
    return f"{mean}±{100 * max(interval['high'] - interval['mean'], interval['mean'] - interval['low']):.1f}"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
