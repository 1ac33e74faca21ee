"""Provenance: the command that repeats a run, and the Git state."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from saccade.results import read_run_info, run_info, write_run_info
from saccade.results.provenance import git_state


@dataclass
class Options:
    devices: int = 1
    strategy: str = "auto"


def test_what_is_written_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["saccade", "train", "a b"])
    monkeypatch.chdir(tmp_path)
    write_run_info(tmp_path, run_info(Path("out"), Options(devices=2)))
    info = read_run_info(tmp_path)
    assert info["command"] == "saccade train 'a b'"
    assert info["repeat"] == "saccade train --recipe out/recipe.yaml --out out-again --devices 2"
    assert info["versions"]["lightning"] == version("lightning")
    assert info["versions"]["numba"] == (version("numba") if find_spec("numba") else None)
    assert info["working_folder"] == str(tmp_path)
    assert info["hardware"]["torch"] == torch.__version__
    assert info["hardware"]["threads"] == torch.get_num_threads()
    assert info["git"] is None


def test_the_git_state_is_that_of_the_repository(tmp_path: Path) -> None:
    def call(*words: str) -> str:
        name = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", "-C", str(tmp_path), *name, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert git_state(tmp_path) is None
    call("init")
    assert git_state(tmp_path) is None  # without a commit
    call("commit", "--allow-empty", "-m", "first")
    assert git_state(tmp_path) == {"commit": call("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "new.py").touch()
    assert git_state(tmp_path) == {"commit": call("rev-parse", "HEAD"), "dirty": True}
