"""Where the candidates of a study are trained: in this process, or on a Ray cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from saccade.config import Comparison, Plan, Recipe, folder_name
from saccade.errors import BadRun, SaccadeError
from saccade.experiments import Observer as ComparisonObserver
from saccade.experiments import Ray
from saccade.results import BASELINE, SearchRun
from saccade.search.candidate import remove_checkpoints, train_candidate, train_to_rung
from saccade.search.finalists import PAUSE
from saccade.search.limits import Budget
from saccade.search.study import Study
from saccade.training import prepare


class Observer(ComparisonObserver, Protocol):
    """Receives the progress of a search; the inherited methods receive that of the finalists."""

    def exploring(self, step: str, fraction: float) -> None:
        """The cost of candidates is measured."""

    def opened(self, study: Study, budget: Budget) -> None:
        """The study has been opened."""

    def chosen(self, attention: str) -> None:
        """A candidate starts."""

    def trained(self, run: SearchRun) -> None:
        """A candidate has ended."""

    def selected(self, finalists: Comparison) -> None:
        """The finalists have been selected; the runs of this comparison follow."""


@dataclass
class Candidate:
    """A candidate that is trained.

    Attributes:
        number: Number of its trial.
        plan: The plan.
        folder: Folder of the run.
        epochs: Completed epochs.
        seconds: Seconds of training.
    """

    number: int
    plan: Plan
    folder: Path
    epochs: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)


@dataclass(frozen=True)
class Candidates:
    """The candidates of a study, which are chosen and trained until the budget is used up.

    Attributes:
        study: The study.
        base: Recipe of all candidates.
        out: Folder of the search.
        may_start: Returns whether the budget covers another candidate.
        observer: Receives the progress.
    """

    study: Study
    base: Recipe
    out: Path
    may_start: Callable[[], bool]
    observer: Observer | None

    def train(self) -> None:
        """Train candidates one after another in this process."""
        while True:
            if self.may_start() and (candidate := self._choose()):
                self._train(candidate)
            elif not self._wait_for_others():
                return

    def train_on(self, ray: Ray) -> None:
        """Train as many candidates at a time as the cluster has room for.

        A task of Ray trains a candidate from one rung to the next. The next task continues from its
        checkpoint, on any node.
        """
        with ray.connect() as cluster:
            running: dict[Path, Candidate] = {}
            while True:
                while len(running) < cluster.slots and self.may_start() and (candidate := self._choose()):
                    running[candidate.folder] = candidate
                    cluster.submit(candidate.folder, train_to_rung, candidate.plan, self.study.rung_after(0))
                if running:
                    folder, result = cluster.wait()
                    candidate = running[folder]
                    if self._is_promoted(candidate, result):
                        rung = self.study.rung_after(candidate.epochs)
                        cluster.submit(folder, train_to_rung, candidate.plan, rung)
                    else:
                        del running[folder]
                elif not self._wait_for_others():
                    return

    def _choose(self) -> Candidate | None:
        """Choose the next candidate; those that cannot be trained are refused."""
        while (trial := self.study.ask()) is not None:
            number, attention = trial
            if self.observer:
                self.observer.chosen(attention)
            recipe = replace(self.base, attention=attention)
            try:
                return Candidate(number, prepare(recipe), self.out / "candidates" / folder_name(recipe))
            except SaccadeError as error:
                if attention == BASELINE:
                    raise
                self._end(number, str(error), refused=True)
        return None

    def _train(self, candidate: Candidate) -> None:
        def finished(epoch: int, error: float, seconds: float) -> bool:
            return self.study.report(candidate.number, epoch, error, seconds)

        report = self.observer.progressed if self.observer else None
        try:
            train_candidate(candidate.plan, candidate.folder, finished, report)
        except BadRun as error:
            self._fail(candidate, error)
        else:
            self._end(candidate.number)

    def _is_promoted(self, candidate: Candidate, result: Any) -> bool:
        """Report the epochs of a rung; return whether the candidate is trained to the next one."""
        if isinstance(result, Exception):
            self._fail(candidate, result)
            return False
        errors, seconds = result
        candidate.seconds += seconds
        is_stopped = False
        for error in errors[candidate.epochs :]:
            candidate.epochs += 1
            is_stopped |= self.study.report(candidate.number, candidate.epochs, error, candidate.seconds)
        if not is_stopped and candidate.epochs < self.study.epochs:
            return True
        remove_checkpoints(candidate.folder)
        self._end(candidate.number)
        return False

    def _fail(self, candidate: Candidate, error: Exception) -> None:
        """End a candidate that diverged, or whose workers died; raise any other error."""
        can_fail = isinstance(error, BadRun) and error.option in ("loss", "workers")
        if not can_fail or candidate.plan.attention is None:
            raise error
        self._end(candidate.number, str(error))

    def _end(self, number: int, reason: str | None = None, *, refused: bool = False) -> None:
        run = self.study.finish(number, reason, refused=refused)
        if self.observer:
            self.observer.trained(run)

    def _wait_for_others(self) -> bool:
        """Wait if other processes train candidates, which may become finalists; else return False."""
        if not self.study.others_train():
            return False
        time.sleep(PAUSE)
        return True
