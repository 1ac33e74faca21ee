"""The live page of a command, `--serve`. That of a search is in `search_display.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from saccade.cli.display import ComparisonDisplay, clock
from saccade.cli.terminal import echo
from saccade.config import Comparison, Recipe, folder_name
from saccade.errors import SaccadeError, bad_option
from saccade.results import RUN_RESULT, RunResult, summarize
from saccade.training import Progress
from saccade.viz import LivePage, write_report


def page_port(command: str, serve: bool, port: int | None) -> int | None:
    """Return the port of the live page, 0 for a free one; None without `--serve`.

    Raises:
        BadOption: There is a port, but no page.
    """
    if port is not None and not serve:
        raise bad_option(command, "applies to --serve", port=port)
    return (port or 0) if serve else None


class LiveDisplay(ComparisonDisplay):
    """Shows the progress in the terminal and on a live page, and writes the report of the runs so far.

    A report is written after each run that was trained, and before each run that will be, so that the runs
    that an earlier command has completed are shown at once.

    Args:
        title: Title of the page.
        out: Folder of the comparison.
        port: Port of the page; 0 for a free one.
        comparison: The comparison, if it is known.
        to_stderr: Whether to print to standard error.

    Raises:
        BadOption: The port cannot be used.
    """

    runs_are = "runs are"

    def __init__(
        self,
        title: str,
        out: Path,
        port: int,
        comparison: Comparison | None = None,
        *,
        to_stderr: bool = False,
    ) -> None:
        super().__init__(title, to_stderr=to_stderr)
        self.page = LivePage(title, out / "report.html", port)
        self.comparison, self.out, self.to_stderr = comparison, out, to_stderr
        self.results: list[RunResult] = []
        self.before = 0.0  # fraction of the command that is done before the first run
        self.reports, self.reported, self.now, self.problem = 0, 0, "", ""

    def __enter__(self) -> Self:
        self.page.__enter__()
        echo(f"live page: {self.page.address}", err=self.to_stderr)
        return super().__enter__()

    def __exit__(self, *raised: object) -> None:
        super().__exit__(*raised)
        if not any(raised):
            file = f"The server has ended; this page remains as {(self.out / 'report.html').resolve()}."
            self.page.finish(text=f"{self.done()} {file}", report=self.reports + 1)
        self.page.__exit__(*raised)

    def done(self) -> str:
        """Return the sentence about a command that has ended."""
        return f"All {len(self.results)} {self.runs_are} done in {clock(self.pace.elapsed)}."

    def started(self, recipe: Recipe, number: int, of: int) -> None:
        super().started(recipe, number, of)
        self.now = f"{recipe.attention}, seed {recipe.seed}"
        if not (self.out / "runs" / folder_name(recipe) / RUN_RESULT).exists():
            self._report()
        self._publish()

    def progressed(self, progress: Progress) -> None:
        super().progressed(progress)
        self._publish(f", epoch {progress.epoch} of {progress.epochs}")

    def finished(self, results: list[RunResult]) -> None:
        trained = self.pace.trained
        super().finished(results)
        self.results = results
        if self.pace.trained > trained and len(results) < self.of:
            self._report()
        self._publish()

    def _report(self) -> None:
        """Write the report of the runs so far. A problem is shown on the page, and the command goes on."""
        if self.comparison is None or len(self.results) == self.reported:
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
            self.reports, self.reported = self.reports + 1, len(self.results)

    def _publish(self, position: str = "") -> None:
        """Show the progress on the page."""
        done, left = len(self.results), self.pace.seconds_left(self.of - len(self.results))
        about = f", about {clock(left)} left" if left else ""
        now = f" Now: {self.now}{position}." if done < self.of else ""
        self.page.update(
            text=f"{done} of {self.of} {self.runs_are} done{about}.{now}{self.problem}",
            fraction=self.before + (1 - self.before) * (done + self.pace.fraction) / self.of,
            done=done,
            runs=self.of,
            seconds_left=left,
            report=self.reports,
        )
