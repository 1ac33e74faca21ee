"""What a run was: versions, git state, hardware, and the command that repeats it."""

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
from typing import Any

import torch

import saccade
from saccade.training.hardware import Hardware

SCHEMA = 1
PACKAGES = ("torch", "torchvision", "lightning", "timm", "numpy")


def provenance(folder: Path, devices: Hardware) -> dict[str, Any]:
    """Return what is written to the run.json of a folder, as docs/architecture.md describes it.

    >>> provenance(Path("runs/train"), Hardware(devices=2))["repeat"]
    'saccade train --recipe runs/train/recipe.yaml --out runs/train-again --devices 2'
    """
    again = folder.with_name(f"{folder.name}-again")
    words = ["saccade", "train", "--recipe", str(folder / "recipe.yaml"), "--out", str(again)]
    for field in fields(devices):
        value = getattr(devices, field.name)
        if value != field.default:
            words += [f"--{field.name}", str(value)]
    return {
        "schema": SCHEMA,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["saccade", *sys.argv[1:]]),
        "repeat": shlex.join(words),
        "working_folder": os.getcwd(),
        "versions": {"saccade": saccade.__version__, "python": platform.python_version(), **_versions()},
        "git": git(Path.cwd()),
        "hardware": hardware() | {"threads": torch.get_num_threads()},
    }


def git(folder: Path) -> dict[str, Any] | None:
    """Return the commit of a folder's repository, and whether all of it is committed; None without one."""
    try:
        commit = _git(folder, "rev-parse", "HEAD").strip()
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain").strip())}
    except (OSError, subprocess.SubprocessError):
        return None


def hardware() -> dict[str, Any]:
    """Name the machine and the versions that matter for timings."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.system(),
    }


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # as part of another distribution
            found[name] = None
    return found


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
