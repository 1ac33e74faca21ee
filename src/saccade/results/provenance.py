"""Provenance of a run: versions, Git state, hardware, and the command that repeats it."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from dataclasses import fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import saccade
from saccade.results.schema import SCHEMA, GitState, Hardware, RunInfo

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PACKAGES = ("torch", "torchvision", "lightning", "timm", "numpy", "numba")  # null: not installed


def run_info(folder: Path, options: DataclassInstance) -> RunInfo:
    """Collect the provenance of a run that starts now.

    Args:
        folder: Folder of the run.
        options: Options of `saccade train` that are not in the recipe. Those that differ from their default
            become part of the command that repeats the run.

    Example:
        >>> from saccade.training import Hardware
        >>> run_info(Path("runs/train"), Hardware(devices=2))["repeat"]
        'saccade train --recipe runs/train/recipe.yaml --out runs/train-again --devices 2'
    """
    again = f"{folder}-again" if folder.name else f"{folder.resolve()}-again"
    command = ["saccade", "train", "--recipe", str(folder / "recipe.yaml"), "--out", str(again)]
    for field in fields(options):
        value = getattr(options, field.name)
        if value != field.default:
            command += [f"--{field.name}", str(value)]
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "schema": SCHEMA,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["saccade", *sys.argv[1:]]),
        "repeat": shlex.join(command),
        "working_folder": os.getcwd(),
        "versions": {"saccade": saccade.__version__, "python": platform.python_version(), **versions},
        "git": git_state(Path.cwd()),
        "hardware": {**hardware_info(), "threads": torch.get_num_threads()},
    }


def git_state(folder: Path) -> GitState | None:
    """Return the Git state of a folder; None outside a repository or without a commit."""
    try:
        commit = _git(folder, "rev-parse", "HEAD").strip()
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain").strip())}
    except (OSError, subprocess.SubprocessError):
        return None


def hardware_info() -> Hardware:
    """Return the machine and the versions that affect timings."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu(),
        "cores": cores or 1,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.system(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # installed as part of another distribution
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
