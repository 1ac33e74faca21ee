"""The study: Optuna chooses candidates and stops them early. Processes share it through a file in its folder.

Its storage is SQLite, its sampler TPE, and its pruner successive halving. A trial is one training of one
candidate. Several processes can work on a study, and each can be killed at any moment: the trial of a process
that is gone is given to another one, which resumes the run from its checkpoint.
"""

from __future__ import annotations

import random
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.pruners import BasePruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from saccade.errors import BadRun
from saccade.results import BASELINE, SearchRun, SearchSpace, lock_folder
from saccade.search.finalists import best_candidates
from saccade.search.limits import Budget
from saccade.search.storage import open_storage, storage_errors

STORAGE = "study.db"
_WORKERS = "workers"
_REDUCTION = 3  # of the number of candidates from one rung to the next
_ATTEMPTS = 5  # suggestions of the sampler, before a candidate is drawn at random
_TIMEOUT = 60.0  # seconds until another process must release the storage


def tpe(seed: int) -> BaseSampler:
    """Return the sampler of a study: TPE, which models mechanism and place jointly."""
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        return TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)


class Study:
    """Candidates that are chosen one after another; see `open_study`.

    Attributes:
        candidates: The candidates that are trained, by their attention.
        rungs: The epochs after which candidates can be stopped.

    Args:
        folder: Folder of the search.
        space: The space, of which the candidates without a reason against them are trained.
        epochs: Epochs of a complete run.
        worker: Number of this process.
        timeout: Seconds until another process must release the storage.
        sampler: Returns the sampler of Optuna for a seed.
        pruner: The pruner of Optuna; successive halving by default.
    """

    def __init__(
        self,
        folder: Path,
        space: SearchSpace,
        epochs: int,
        worker: int,
        *,
        timeout: float = _TIMEOUT,
        sampler: Callable[[int], BaseSampler] = tpe,
        pruner: BasePruner | None = None,
    ) -> None:
        self.folder, self.epochs, self.worker = folder, epochs, worker
        self.first_rung = max(1, epochs // _REDUCTION**2)
        self.rungs = [rung for rung in (self.first_rung * _REDUCTION**k for k in range(3)) if rung < epochs]
        allowed = [one for one in space["candidates"] if one["refused"] is None]
        self.candidates = {one["attention"]: one for one in allowed}
        self._by_factors = {(one["mechanism"], one["place"]): one["attention"] for one in allowed}
        self._levels = {
            "mechanism": [*dict.fromkeys(one["mechanism"] for one in allowed), BASELINE],
            "place": [*dict.fromkeys(one["place"] for one in allowed)],
        }
        self._path = folder / STORAGE
        self._lock = FileLock(folder / ".study.lock", timeout=timeout)
        self._sampler = sampler
        self._live: dict[int, Trial] = {}
        with self._exclusively():
            self._study = optuna.create_study(
                storage=open_storage(self._path, timeout),
                study_name="search",
                direction="minimize",
                pruner=pruner or SuccessiveHalvingPruner(self.first_rung, _REDUCTION),
                load_if_exists=True,
            )
            for trial in self._trials(TrialState.RUNNING):
                if trial.user_attrs.get("worker") == worker:
                    self._release(trial)

    def ask(self) -> tuple[int, str] | None:
        """Choose the next candidate; the first is the model without attention.

        Returns:
            The number of the trial and the attention, or None if every candidate has been chosen.
        """
        with self._exclusively():
            for running in self._trials(TrialState.RUNNING):
                if running.user_attrs.get("worker") != self.worker and not self._is_alive(running):
                    self._release(running)
            taken = {run["attention"] for run in self._runs()}
            untried = [name for name in (BASELINE, *self.candidates) if name not in taken]
            if not untried:
                return None
            seed = 1000 * len(taken) + self.worker  # the same after an interruption
            self._study.sampler = self._sampler(seed)
            trial, name = self._choose(untried)
            trial.set_user_attr("worker", self.worker)
            trial.set_user_attr("attention", name)
            self._live[trial.number] = trial
            return trial.number, name

    def report(self, number: int, epoch: int, error: float, seconds: float) -> bool:
        """Record the validation error of an epoch.

        Returns:
            Whether to stop, because other candidates are better at this rung.
        """
        trial = self._live[number]
        with storage_errors(self._path):
            trial.report(error, epoch)
            trial.set_user_attr("seconds", seconds)
            if epoch == self.first_rung:
                trial.set_user_attr("first_error", error)
            is_baseline = trial.user_attrs["attention"] == BASELINE
            return not is_baseline and epoch < self.epochs and trial.should_prune()

    def finish(self, number: int, reason: str | None = None, *, refused: bool = False) -> SearchRun:
        """End a trial: complete or stopped by its last epoch, or refused or failed for a reason."""
        trial = self._live.pop(number)
        with self._exclusively():
            values = self._study.trials[number].intermediate_values
            if reason is not None:
                trial.set_user_attr("refused" if refused else "failed", reason)
                self._study.tell(trial, state=TrialState.FAIL)
            elif values and max(values) == self.epochs:
                self._study.tell(trial, values[self.epochs])
            else:
                self._study.tell(trial, state=TrialState.PRUNED)
            return self._run(self._study.trials[number])

    def runs(self) -> list[SearchRun]:
        """Return the candidates that were chosen so far, each once."""
        with storage_errors(self._path):
            return self._runs()

    def others_train(self) -> bool:
        """Return whether other processes train candidates."""
        with self._exclusively():
            running = [t for t in self._trials(TrialState.RUNNING) if t.number not in self._live]
            return any(self._is_alive(trial) for trial in running)

    def spent(self, unit: str) -> float:
        """Return what candidates have taken: seconds of training, or the number of complete runs.

        A candidate that is stopped after a third of its epochs is a third of a run.
        """
        with storage_errors(self._path):
            if unit == "seconds":
                return float(sum(trial.user_attrs.get("seconds", 0.0) for trial in self._trials()))
            return sum(run["epochs"] for run in self._runs()) / self.epochs

    def rung_after(self, epochs: int) -> int:
        """Return the next rung of a candidate, or all epochs after the last one."""
        return next((rung for rung in self.rungs if rung > epochs), self.epochs)

    def is_within(self, budget: Budget, reserved: float) -> bool:
        """Return whether the budget covers the running candidates, another one, and what is reserved."""
        runs, spent = self.runs(), self.spent(budget.unit)
        running = [run["epochs"] for run in runs if run["state"] == "running"]
        if budget.unit == "seconds":
            expected = (1 + len(running)) * spent / max(1, len(runs))
        else:
            ahead = sum(self.rung_after(epochs) - epochs for epochs in running)
            expected = (self.first_rung + ahead) / self.epochs
        return spent + expected + reserved <= budget.amount

    def seconds_of_finalists(self, finalists: int, seeds: int) -> float:
        """Estimate the time of all runs of the finalists, from that of the best candidates so far."""
        runs = self.runs()
        best = [BASELINE, *best_candidates(runs, self.candidates)[:finalists]]
        times = [run["seconds"] / run["epochs"] for run in runs if run["epochs"] and run["attention"] in best]
        return seeds * (finalists + 1) * self.epochs * statistics.fmean(times) if times else 0.0

    def finalists(self, number: int) -> list[str]:
        """Return the finalists. They are chosen once, and more are only added when the study has grown."""
        with self._exclusively():
            kept: list[str] = self._study.user_attrs.get("finalists", [])
            chosen = best_candidates(self._runs(), self.candidates)[:number]
            finalists = [*kept, *(name for name in chosen if name not in kept)]
            self._study.set_user_attr("finalists", finalists)
            return finalists

    def _choose(self, untried: Sequence[str]) -> tuple[Trial, str]:
        """Ask the sampler until it suggests an untried candidate; else draw one at random."""
        if BASELINE in untried:
            self._study.enqueue_trial(self._parameters(BASELINE))
        for _ in range(_ATTEMPTS):
            trial = self._study.ask()
            name = self._suggest(trial)
            if name in untried:
                return trial, str(name)
            self._study.tell(trial, state=TrialState.FAIL)  # tried before, or not possible together
        name = random.Random(len(untried)).choice(untried)
        self._study.enqueue_trial(self._parameters(name))
        trial = self._study.ask()
        self._suggest(trial)
        return trial, name

    def _parameters(self, name: str) -> dict[str, Any]:
        if name == BASELINE:
            return {"mechanism": BASELINE}
        return {factor: self.candidates[name][factor] for factor in ("mechanism", "place")}

    def _suggest(self, trial: Trial) -> str | None:
        mechanism = trial.suggest_categorical("mechanism", self._levels["mechanism"])
        if mechanism == BASELINE:
            return BASELINE
        place = trial.suggest_categorical("place", self._levels["place"])
        return self._by_factors.get((str(mechanism), str(place)))

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def _runs(self) -> list[SearchRun]:
        """Return one run per candidate. A trial that was released counts only until it is tried again."""
        runs: dict[str, SearchRun] = {}
        seconds: dict[str, float] = {}
        for trial in self._trials():
            name = trial.user_attrs.get("attention")
            if name is not None:
                seconds[name] = seconds.get(name, 0.0) + trial.user_attrs.get("seconds", 0.0)
                has_reason = {"refused", "failed"} & {*trial.user_attrs}
                if trial.state != TrialState.FAIL or has_reason:
                    runs[name] = self._run(trial)
        return [run | {"seconds": seconds[name]} for name, run in runs.items()]

    def _run(self, trial: FrozenTrial) -> SearchRun:
        values, attributes = trial.intermediate_values, trial.user_attrs
        states = {"COMPLETE": "complete", "PRUNED": "stopped", "RUNNING": "running"}
        state: Any = states.get(trial.state.name, "refused" if "refused" in attributes else "failed")
        return {
            "attention": attributes["attention"],
            "state": state,
            "epochs": max(values, default=0),
            "error": values[max(values)] if values else None,
            "first_error": attributes.get("first_error"),
            "seconds": attributes.get("seconds", 0.0),
            "reason": attributes.get("refused", attributes.get("failed")),
        }

    def _is_alive(self, trial: FrozenTrial) -> bool:
        """Return whether the process of a running trial exists: it holds the lock of its folder."""
        worker = trial.user_attrs.get("worker")
        if worker is None:
            return False  # it was killed between two statements of `ask`
        try:
            with lock_folder(self.folder / _WORKERS / str(worker)):
                return False
        except BadRun:
            return True

    def _release(self, trial: FrozenTrial) -> None:
        """Give the trial of a process that is gone to the next one that asks."""
        if trial.params:
            self._study.enqueue_trial(trial.params)
        self._study.tell(trial.number, state=TrialState.FAIL)

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Exclude other processes that choose or end a trial."""
        with storage_errors(self._path), self._lock:
            yield


@contextmanager
def open_study(folder: Path, space: SearchSpace, epochs: int, **options: Any) -> Iterator[Study]:
    """Open or create the study in a folder, as one of the processes that work on it.

    Raises:
        BadRun: The storage is locked, or is not one.
    """
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with ExitStack() as stack:
        stack.callback(optuna.logging.set_verbosity, verbosity)
        for worker in count(1):
            with suppress(BadRun):
                stack.enter_context(lock_folder(folder / _WORKERS / str(worker)))
                break
        yield Study(folder, space, epochs, worker, **options)
