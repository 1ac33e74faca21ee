"""saccade demo: the first experiment, without a checkout of the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from saccade import experiments
from saccade.cli import main
from saccade.experiments import FIRST_EXPERIMENT, Comparison


class Asked(Exception):
    """Carries what the command asked for."""


@pytest.mark.parametrize("live", [[], ["--serve"]])
def test_it_is_the_first_comparison(
    live: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(comparison: Comparison, out: Path, *_: Any) -> None:
        raise Asked(comparison, out)

    monkeypatch.setattr(experiments, "compare", asked)
    monkeypatch.setattr("sys.argv", ["saccade", "demo", "--out", str(tmp_path / "demo"), *live])
    with pytest.raises(Asked) as stop:
        main()
    comparison, out = stop.value.args
    assert comparison == Comparison.from_mapping(
        {"task": "white-patch", "attentions": list(FIRST_EXPERIMENT)}
    )
    assert out == tmp_path / "demo"
    assert ("live page: http" in capsys.readouterr().out) == bool(live)


def test_it_looks_at_photographs_with_the_weights_of_imagenet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from saccade.cli import app

    command = typer.main.get_command(app)
    compared: list[list[str]] = []

    class Compare:
        def main(self, arguments: list[str], **_: Any) -> None:
            compared.append(arguments)

    command.commands["compare"] = Compare()  # type: ignore[attr-defined]
    command.main(["demo", "--out", str(tmp_path)], standalone_mode=False)
    printed = capsys.readouterr().out
    assert compared == [["white-patch", "--out", str(tmp_path)]]
    assert re.search(r"^cat: (tabby|tiger cat|Egyptian cat)", printed, re.M)
    assert "coffee: espresso" in printed
    assert (tmp_path / "pretrained" / "look.html").exists()


def test_a_path_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("sys.argv", ["saccade", "demo", "--out", str(tmp_path / "file")])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert str(tmp_path / "file") in capsys.readouterr().err
