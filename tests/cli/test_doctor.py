"""saccade doctor: what is installed, and self-tests that can fail."""

from __future__ import annotations

import json

import pytest
import torch

import saccade as sc
from saccade.cli import doctor as command
from saccade.cli import main


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["saccade", "doctor", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


class _ReturnsQueries(torch.nn.Module):
    def forward(self, q: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return q


def test_a_sound_installation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["saccade"] == sc.__version__
    assert report["hardware"]["torch"] == torch.__version__
    assert report["devices"][0] == "cpu"
    assert report["extras"]["report"] == []
    assert [*report["tests"].values()] == [None] * 2 * len(report["devices"])
    assert call(monkeypatch) == 0
    printed = capsys.readouterr().out
    assert f"saccade {sc.__version__}" in printed
    assert "attach, record, train on cpu" in printed
    listed = {line.split()[0] for line in printed.splitlines()}
    assert report["extras"].keys() - listed == {"all", "dev", "docs"}


def test_a_failure_is_shown_and_ends_with_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sc, "detach", lambda _: None)
    assert call(monkeypatch) == 1
    printed = capsys.readouterr().out
    assert (
        "FAILED       attach, record, train on cpu: RuntimeError: attention has no effect, or the model"
        in printed
    )
    assert "ok           attend on cpu" in printed


def test_wrong_attention_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sc, "create", lambda *_: _ReturnsQueries())
    with pytest.raises(RuntimeError, match="differs from its formula"):
        command._attend("cpu")


def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    requirements = ["torch", "no-such-package>=1; extra == 'cluster'", "saccade[train]; extra == 'cluster'"]
    monkeypatch.setattr(command, "requires", lambda _: requirements)
    assert call(monkeypatch) == 0
    assert "cluster      lacks no-such-package; pip install 'saccade[cluster]'" in capsys.readouterr().out
