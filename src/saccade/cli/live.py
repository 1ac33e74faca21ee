"""The display of a comparison that is also a live page: `saccade compare --serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from saccade.cli.display import ComparisonDisplay, clock
from saccade.cli.terminal import echo
from saccade.config import Comparison, Recipe, folder_name
from saccade.errors import SaccadeError
from saccade.results import RUN_RESULT, RunResult, summarize
from saccade.training import Progress
from saccade.viz import LivePage, write_report


class LiveDisplay(ComparisonDisplay):
    """Shows the progress in the terminal and on a live page, and writes the report of the runs so far.

    A report is written after each run that was trained, and before each run that will be, so that the runs
    that an earlier command has completed are shown at once.

    Args:
        comparison: The comparison.
        out: Its folder.
        port: Port of the page; 0 for a free one.
        to_stderr: Whether to print to standard error.

    Raises:
        BadOption: The port cannot be used.
    """

    def __init__(self, comparison: Comparison, out: Path, port: int, *, to_stderr: bool = False) -> None:
        super().__init__(comparison.training.task, to_stderr=to_stderr)
        self.page = LivePage(comparison.training.task, out / "report.html", port)
        self.comparison, self.out, self.to_stderr = comparison, out, to_stderr
        self.results: list[RunResult] = []
        self.reported, self.now, self.problem = 0, "", ""

    def __enter__(self) -> Self:
        self.page.__enter__()
        echo(f"live page: {self.page.address}", err=self.to_stderr)
        return super().__enter__()

    def __exit__(self, *raised: object) -> None:
        super().__exit__(*raised)
        if not any(raised):
            done = f"All {len(self.results)} runs are done in {clock(self.pace.elapsed)}."
            file = f"The server has ended; this page remains as {(self.out / 'report.html').resolve()}."
            self.page.finish(text=f"{done} {file}", report=len(self.results) + 1)
        self.page.__exit__(*raised)

    def started(self, recipe: Recipe, number: int, of: int) -> None:
        super().started(recipe, number, of)
        self.now = f"{recipe.attention}, seed {recipe.seed}"
        if not (self._folder(recipe) / RUN_RESULT).exists():
            self._report()
        self._update()

    def progressed(self, progress: Progress) -> None:
        super().progressed(progress)
        self._update(f", epoch {progress.epoch} of {progress.epochs}")

    def finished(self, results: list[RunResult]) -> None:
        trained = self.pace.trained
        super().finished(results)
        self.results = results
        if self.pace.trained > trained and len(results) < self.of:
            self._report()
        self._update()

    def _report(self) -> None:
        """Write the report of the runs so far. A problem is shown on the page, and the comparison goes on."""
        if len(self.results) == self.reported:
            return
        recipes = self.comparison.runs()
        found = {(result["attention"], result["seed"]): result for result in self.results}
        ordered = {
            f"runs/{folder_name(recipe)}": found[recipe.attention, recipe.seed]
            for recipe in recipes
            if (recipe.attention, recipe.seed) in found
        }
        self.problem = ""
        try:
            write_report(self.out, summarize(self.comparison.to_mapping(), ordered), planned=len(recipes))
        except SaccadeError as error:
            self.problem = f" {error}"
        else:
            self.reported = len(self.results)

    def _update(self, position: str = "") -> None:
        done, left = len(self.results), self.pace.seconds_left(self.of - len(self.results))
        about = f", about {clock(left)} left" if left else ""
        now = f" Now: {self.now}{position}." if done < self.of else ""
        self.page.update(
            text=f"{done} of {self.of} runs are done{about}.{now}{self.problem}",
            fraction=(done + self.pace.fraction) / self.of,
            done=done,
            runs=self.of,
            seconds_left=left,
            report=self.reported,
        )

    def _folder(self, recipe: Recipe) -> Path:
        return self.out / "runs" / folder_name(recipe)
