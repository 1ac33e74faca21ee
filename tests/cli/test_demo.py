"""saccade demo: the first experiment, without a checkout of the repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from saccade import experiments
from saccade.cli import main
from saccade.experiments import FIRST_EXPERIMENT, Comparison


class Asked(Exception):
    """Carries what the command asked for."""


def test_it_is_the_first_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(comparison: Comparison, out: Path, *_: Any) -> None:
        raise Asked(comparison, out)

    monkeypatch.setattr(experiments, "compare", asked)
    monkeypatch.setattr("sys.argv", ["saccade", "demo", "--out", str(tmp_path / "demo")])
    with pytest.raises(Asked) as stop:
        main()
    comparison, out = stop.value.args
    assert comparison == Comparison.from_mapping(
        {"task": "white-patch", "attentions": list(FIRST_EXPERIMENT)}
    )
    assert out == tmp_path / "demo"


def test_a_path_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("sys.argv", ["saccade", "demo", "--out", str(tmp_path / "file")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert str(tmp_path / "file") in capsys.readouterr().err
