"""Terminal output of a search: its progress, and its answer."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from saccade.cli.display import ComparisonDisplay
from saccade.cli.live import LiveDisplay
from saccade.cli.terminal import echo
from saccade.config import Comparison
from saccade.results import BASELINE, SearchResults, SearchRun
from saccade.search import Budget, Study, format_amount

_LEVELS = 3  # of a factor that are printed


class SearchDisplay(ComparisonDisplay):
    """Candidates so far, the best of them and the budget, then the leaderboard of the finalists."""

    def __init__(self, title: str, *, to_stderr: bool = False) -> None:
        self.runs: list[SearchRun] = []
        self.study: Study | None = None
        self.spent = 0.0  # of the budget
        self.left: float | None = None  # seconds to its end
        super().__init__(title, to_stderr=to_stderr)

    def exploring(self, step: str, fraction: float) -> None:
        """Show that the cost of candidates is measured."""
        self.show_stage(step, fraction)

    def opened(self, study: Study, budget: Budget) -> None:
        """Show the state of a study that continues."""
        self.study, self.budget = study, budget
        self._update()

    def chosen(self, attention: str) -> None:
        """Show that a candidate starts."""
        description = f"candidate {len(self.runs) + 1}: {attention}"
        self.bar.reset(self.task, description=description, numbers="")
        self.refresh()

    def trained(self, run: SearchRun) -> None:
        """Show the result of a candidate."""
        self._update()
        if not self.console.is_terminal:
            error = f", validation error {run['error']:.2%}" if run["error"] is not None else ""
            reason = f": {run['reason']}" if run["reason"] else ""
            line = f"{run['attention']}: {run['state']} after {run['epochs']} epochs{error}{reason}"
            self.console.print(line, style=None)

    def selected(self, finalists: Comparison) -> None:
        """Show which candidates are tested."""
        if not self.console.is_terminal:
            self.console.print(f"finalists: {', '.join(finalists.attentions[1:])}", style=None)

    def render(self) -> RenderableType:
        return super().render() if self.rows else Group(self.total, *self._bar())

    def _bar(self) -> tuple[RenderableType, ...]:
        return Text(self.bar.tasks[0].description), self.bar

    def _update(self) -> None:
        if self.study is None:
            return
        self.runs = self.study.runs()
        complete = [run for run in self.runs if run["state"] == "complete" and run["error"] is not None]
        self.spent = self.study.spent(self.budget.unit)
        self.left = self._seconds_left(self.study)
        left = "" if self.left is None else f", about {format_amount(self.left, 'seconds')} left"
        lines = [
            f"{len(self.runs)} of {1 + len(self.study.candidates)} candidates, {len(complete)} of them to "
            f"the end; rungs after epochs {', '.join(map(str, self.study.rungs))} of {self.study.epochs}",
            f"{format_amount(self.spent, self.budget.unit)} of {self.budget.text}{left}",
        ]
        if complete:
            best = min(complete, key=lambda run: run["error"] or 0.0)
            base = next((run["error"] for run in complete if run["attention"] == BASELINE), None)
            than = f", none {base:.2%}" if base is not None else ""
            lines.append(f"lowest validation error: {best['attention']} {best['error']:.2%}{than}")
        self.total = Text("\n".join(lines))
        self.refresh()

    def _seconds_left(self, study: Study) -> float | None:
        """Return the estimated time to the end of the budget, once a candidate has been trained."""
        left = self.budget.amount - self.spent
        if self.budget.unit == "runs":
            left *= study.seconds_of_finalists(1, 1) / 2
        return max(left, 0.0) if self.runs else None


class LiveSearchDisplay(LiveDisplay, SearchDisplay):
    """Shows the candidates so far on the live page, and then the report of the finalists."""

    runs_are = "runs of the finalists are"

    def done(self) -> str:
        return f"The search is done: {len(self.runs)} candidates were trained."

    def exploring(self, step: str, fraction: float) -> None:
        super().exploring(step, fraction)
        self.page.update(text=f"{step[:1].upper()}{step[1:]}.")

    def opened(self, study: Study, budget: Budget) -> None:
        super().opened(study, budget)
        self._publish()

    def chosen(self, attention: str) -> None:
        super().chosen(attention)
        self.now = attention
        self._publish()

    def trained(self, run: SearchRun) -> None:
        super().trained(run)
        self._publish()

    def selected(self, finalists: Comparison) -> None:
        super().selected(finalists)
        self.comparison = finalists

    def _publish(self, position: str = "") -> None:
        if self.comparison is not None:
            super()._publish(position)
            return
        sentences = [*self.total.plain.split("\n"), *([f"Now: {self.now}{position}"] if self.now else [])]
        self.before = min(1.0, self.spent / self.budget.amount)
        self.page.update(
            text=". ".join(f"{sentence[:1].upper()}{sentence[1:]}" for sentence in sentences) + ".",
            fraction=self.before,
            seconds_left=self.left,
            table=_table(self.runs) if self.runs else None,
        )


def _table(runs: list[SearchRun]) -> list[list[str]]:
    """Return the candidates as rows of texts, those with the lowest error after the most epochs first."""
    ordered = sorted(runs, key=lambda run: (-run["epochs"], run["error"] or 0.0))
    rows = (
        [
            run["attention"],
            "" if run["error"] is None else f"{run['error']:.2%}",
            str(run["epochs"]),
            ": ".join(filter(None, (run["state"], run["reason"]))),
        ]
        for run in ordered
    )
    return [["Candidate", "Validation error", "Epochs", "State"], *rows]


def print_answer(results: SearchResults) -> None:
    """Print the recommendation, with the code, the Pareto front and the factors."""
    advice = results["advice"]
    for factor in ("mechanism", "place"):
        levels = [level for level in results["factors"] if level["factor"] == factor]
        shown = ", ".join(
            f"{level['level']} {100 * level['difference']:+.1f} ({level['candidates']})"
            for level in levels[:_LEVELS]
        )
        if len(levels) > 1:
            echo(f"{factor}: {shown}  (points of validation error at the first rung; number of candidates)")
    for cost, names in advice["pareto"].items():
        echo(f"Pareto front of test error and {cost.removesuffix('_ms')}: {', '.join(names)}")
    echo(advice["sentence"].replace("\N{MINUS SIGN}", "-"))  # terminals may lack the character
    if advice["code"]:
        echo(advice["code"])
