"""Smoke test of an installed saccade: `python smoke.py library commands`, from any folder.

`library` needs saccade alone, `commands` needs saccade[report].
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

import saccade as sc


def library() -> None:
    """Create, attach, record and detach."""
    assert Path(sc.__file__).is_relative_to(sys.prefix)  # not a source tree
    assert version("saccade") == sc.__version__
    x = torch.randn(2, 16, 8, 8)
    assert sc.create("se", 16)(x).shape == x.shape
    model, images = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU()), torch.rand(2, 3, 32, 32)
    before = model(images)
    sc.attach(model, "cbam", where=["0"], example_inputs=images)
    assert torch.equal(model(images), before)
    with sc.record(model) as maps:
        model(images)
    assert maps["0.attention.mechanism.spatial"].heatmap((32, 32)).shape == (2, 32, 32)
    sc.detach(model)
    assert torch.equal(model(images), before)


def commands() -> None:
    """List the mechanisms, check the installation, and compare two attentions on tiny data."""
    assert "cbam" in saccade("list")
    assert "FAILED" not in saccade("doctor")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "runs")
        task = ["digits:max_samples=60", "-a", "none", "-a", "se", "--seeds", "1"]
        saccade("compare", *task, "--set", "epochs=1", "--set", "batch_size=20", "--out", str(out))
        assert (out / "results.json").is_file()
        assert (out / "report.html").stat().st_size > 10_000


def saccade(*arguments: str) -> str:
    """Run the installed command; return what it prints."""
    command = [str(Path(sys.executable).with_name("saccade")), *arguments]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, f"{' '.join(command)}\n{run.stdout}\n{run.stderr}"
    return run.stdout


if __name__ == "__main__":
    parts = {"library": library, "commands": commands}
    for name in sys.argv[1:] or parts:
        parts[name]()
        print(f"{name}: ok")
