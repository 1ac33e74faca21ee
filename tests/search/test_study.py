"""The study: choosing, stopping, surviving, and the errors of its storage. Nothing is trained."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest

from saccade.errors import BadRun
from saccade.results import BASELINE, SearchRun
from saccade.search import Budget, Study, open_study
from saccade.search.finalists import best_candidates
from support.errors import raises
from support.spaces import make_space

EPOCHS = 9
ROOT = Path(__file__).parents[2]
#: A process that asks for the first trial and is killed.
KILLED = """
    import os, sys
    from pathlib import Path
    sys.path.insert(0, "tests")
    from search.test_study import EPOCHS, make_space, open_study
    with open_study(Path(sys.argv[1]), make_space(2, 1), EPOCHS) as study:
        assert study.worker == 2
        study.ask()
        os.kill(os.getpid(), 9)
"""


def error_of(name: str) -> float:
    """The best candidate is the last mechanism at place 1."""
    return 0.5 if name == BASELINE else 0.5 - 0.02 * int(name[1]) * (name[3] == "1")


def run_one(study: Study, error: Callable[[str], float] = error_of) -> str | None:
    trial = study.ask()
    if trial is None:
        return None
    number, name = trial
    for epoch in range(1, EPOCHS + 1):
        if study.report(number, epoch, error(name) + 0.1 / epoch, float(epoch)):
            break
    study.finish(number)
    return name


def test_every_candidate_is_chosen_once_and_the_baseline_first(tmp_path: Path) -> None:
    with open_study(tmp_path, make_space(4, 3), EPOCHS) as study:
        names = []
        while (name := run_one(study)) is not None:
            names.append(name)
        runs = {run["attention"]: run for run in study.runs()}
    assert names[0] == BASELINE
    assert sorted(names[1:]) == [f"m{m}@{p}" for m in (1, 2, 3) for p in range(3)]
    assert runs[BASELINE]["state"] == "complete"
    assert {run["state"] for run in runs.values()} == {"complete", "stopped"}
    assert best_candidates([*runs.values()], study.candidates)[0] == "m3@1"
    for run in runs.values():
        is_complete = run["state"] == "complete"
        assert (run["epochs"] == EPOCHS) == is_complete
        assert run["error"] == pytest.approx(error_of(run["attention"]) + 0.1 / run["epochs"])
        assert run["first_error"] == pytest.approx(error_of(run["attention"]) + 0.1)


def test_the_budget_counts_epochs_or_seconds(tmp_path: Path) -> None:
    with open_study(tmp_path, make_space(4, 3), EPOCHS) as study:
        for _ in range(4):
            run_one(study)
        epochs = sum(run["epochs"] for run in study.runs())
        assert study.spent("runs") == pytest.approx(epochs / EPOCHS)
        assert study.spent("seconds") == epochs  # run_one reports a second per epoch
        assert study.seconds_of_finalists(3, 5) == pytest.approx(20 * EPOCHS)
        rest = 1000 - study.spent("seconds")
        assert study.is_within(Budget.parse("1000s"), reserved=rest - 60)
        assert not study.is_within(Budget.parse("1000s"), reserved=rest - 0.1)
        assert study.is_within(Budget.parse("30runs"), reserved=20)
        assert not study.is_within(Budget.parse("20runs"), reserved=20)


def test_finalists_are_chosen_once_and_a_larger_study_only_adds_some(tmp_path: Path) -> None:
    with open_study(tmp_path, make_space(4, 3), EPOCHS) as study:
        for _ in range(3):
            run_one(study)
        first = study.finalists(2)
        assert len(first) == 2
        assert study.finalists(2) == first
        while run_one(study) is not None:
            pass
        later = study.finalists(2)
    assert later[:2] == first
    assert "m3@1" in later


def test_a_candidate_with_an_error_is_not_chosen_again(tmp_path: Path) -> None:
    with open_study(tmp_path, make_space(2, 2), EPOCHS) as study:
        run_one(study)
        number, name = study.ask() or (0, "")
        assert study.finish(number, "it does not fit", refused=True)["state"] == "refused"
        number, other = study.ask() or (0, "")
        study.report(number, 1, 0.5, 1.0)
        assert study.finish(number, "the loss is nan")["state"] == "failed"
        assert {name, other} == {"m1@0", "m1@1"}
        assert study.ask() is None
        assert study.finalists(2) == []
        assert [run["reason"] for run in study.runs()] == [None, "it does not fit", "the loss is nan"]


def test_a_trial_of_a_process_that_is_gone_is_given_to_the_next(tmp_path: Path) -> None:
    code = """
        import os, sys
        from pathlib import Path
        sys.path.insert(0, "tests")
        from search.test_study import EPOCHS, make_space, open_study, run_one
        with open_study(Path(sys.argv[1]), make_space(4, 3), EPOCHS) as study:
            run_one(study)
            number, name = study.ask()
            study.report(number, 1, 0.3, 5.0)
            print(name, flush=True)
            os.kill(os.getpid(), 9)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    name = killed.stdout.split()[-1]
    with open_study(tmp_path, make_space(4, 3), EPOCHS) as study:
        assert [run["attention"] for run in study.runs()] == [BASELINE]
        number, again = study.ask() or (0, "")
        assert again == name
        study.report(number, 1, 0.3, 2.0)
        study.finish(number)
        (run,) = [run for run in study.runs() if run["attention"] == name]
        assert run["seconds"] == 7.0  # with those of the killed process
        assert study.spent("runs") == pytest.approx((EPOCHS + 1) / EPOCHS)


def test_a_process_takes_the_trial_of_another_that_was_killed_beside_it(tmp_path: Path) -> None:
    space = make_space(2, 1)
    with open_study(tmp_path, space, EPOCHS) as study:
        killed = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert killed.returncode == -9, killed.stderr
        assert not study.others_train()
        assert study.ask() == (1, BASELINE)  # 0 was the trial of the other process


def test_a_trial_that_belongs_to_no_process_is_released(tmp_path: Path) -> None:
    """As after a kill between two statements of `ask`."""
    with open_study(tmp_path, make_space(2, 1), EPOCHS) as study:
        optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'study.db'}").ask()
        assert not study.others_train()
        assert [run_one(study), run_one(study), run_one(study)] == [BASELINE, "m1@0", None]


def test_candidates_are_ranked_by_epochs_then_error_then_flops() -> None:
    space = make_space(4, 1)
    candidates = {one["attention"]: one for one in space["candidates"]}
    results = {"m0@0": (3, 0.1), "m1@0": (9, 0.3), "m2@0": (9, 0.2), "m3@0": (9, 0.3)}
    runs: list[SearchRun] = [
        {
            "attention": name,
            "state": "complete" if epochs == 9 else "stopped",
            "epochs": epochs,
            "error": error,
            "first_error": error,
            "seconds": 1.0,
            "reason": None,
        }
        for name, (epochs, error) in reversed(results.items())
    ]
    assert best_candidates(runs, candidates) == ["m2@0", "m1@0", "m3@0", "m0@0"]


def test_two_studies_in_one_folder_never_choose_the_same(tmp_path: Path) -> None:
    space = make_space(4, 3)
    with open_study(tmp_path, space, EPOCHS) as first, open_study(tmp_path, space, EPOCHS) as second:
        assert (first.worker, second.worker) == (1, 2)
        chosen = [study.ask() for _ in range(5) for study in (first, second)]
        names = [trial[1] for trial in chosen if trial is not None]
        assert len(names) == 10 == len({*names})
        assert first.ask() is None
        assert len(second.runs()) == 10  # none was taken from the other, which lives
        assert first.others_train()
        for number in [trial[0] for trial in chosen[1::2] if trial is not None]:
            second.finish(number, "it ends")
        assert not first.others_train()


def test_a_locked_storage_is_one_sentence(tmp_path: Path) -> None:
    with open_study(tmp_path, make_space(2, 2), EPOCHS):
        pass
    other = sqlite3.connect(tmp_path / "study.db")
    other.execute("BEGIN EXCLUSIVE")
    with (
        raises(BadRun, owner=str(tmp_path / "study.db"), option="storage", value="locked"),
        open_study(tmp_path, make_space(2, 2), EPOCHS, timeout=0.2),
    ):
        pass
    other.close()
    with open_study(tmp_path, make_space(2, 2), EPOCHS, timeout=0.2) as study:
        assert study.ask() is not None


def test_a_storage_that_is_locked_while_a_candidate_trains_is_one_sentence(tmp_path: Path) -> None:
    with open_study(tmp_path, make_space(2, 2), EPOCHS, timeout=0.2) as study:
        number, _ = study.ask() or (0, "")
        other = sqlite3.connect(tmp_path / "study.db")
        other.execute("BEGIN EXCLUSIVE")
        with raises(BadRun, owner=str(tmp_path / "study.db"), option="storage", value="locked"):
            study.report(number, 1, 0.5, 1.0)
        other.close()
        assert not study.report(number, 1, 0.5, 1.0)


def test_a_storage_that_is_released_in_time_is_waited_for(tmp_path: Path) -> None:
    with open_study(tmp_path, make_space(2, 2), EPOCHS) as study:
        other = sqlite3.connect(tmp_path / "study.db", check_same_thread=False)
        other.execute("BEGIN EXCLUSIVE")
        release = threading.Timer(0.5, other.close)
        release.start()
        start = time.monotonic()
        assert study.ask() == (0, BASELINE)
        assert time.monotonic() - start > 0.2
        release.join()


def test_a_file_that_is_no_storage_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("not a database, but longer than the header of one" * 40)
    with (
        raises(BadRun, owner=str(tmp_path / "study.db"), option="storage", value="damaged"),
        open_study(tmp_path, make_space(2, 2), EPOCHS),
    ):
        pass


@pytest.mark.parametrize("name", ["a b", "50%", "{SCHEMA_VERSION}", "what?x=1", "ü#"])
def test_the_folder_of_a_study_can_have_any_name(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    with open_study(folder, make_space(2, 1), EPOCHS) as study:
        assert study.ask() == (0, BASELINE)
    assert (folder / "study.db").is_file()
    assert "study.db" not in os.listdir(tmp_path)
