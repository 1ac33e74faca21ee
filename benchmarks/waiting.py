"""Measure how long a user waits: imports, the first line of a command, a photograph, the demo.

    python benchmarks/waiting.py

Each command runs in a process of its own, as a user starts it. Times are the least of five, or of one for the
demo and its scores. Writes benchmarks/results/waiting-cpu.json.
"""

from __future__ import annotations

import argparse
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn

import saccade as sc
from mechanisms import KEEPING_MEMORY, milliseconds
from quiet import Machine
from saccade.files import write_json
from saccade.models import ViT
from saccade.results import hardware_info, read_run_result

RESULT = Path(__file__).parent / "results" / "waiting-cpu.json"
SACCADE = Path(sys.executable).with_name("saccade")
_IMPORT = (
    "import time, torch; began = time.perf_counter(); import saccade; print(time.perf_counter() - began)"
)
_RESTORING = """
import time; began = time.perf_counter(); import torch, saccade.training; print(time.perf_counter() - began)
"""
_MEMORY = """
import resource, saccade.training; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)
"""
_SITES = """
import time, torch, torchvision, saccade as sc
model, images = torchvision.models.resnet50(), torch.zeros(1, 3, 224, 224)
began = time.perf_counter()
sc.sites(model, images, "cbam")
print(time.perf_counter() - began)
"""


def of_command(*arguments: object) -> tuple[float, float]:
    """Return the seconds of a command, and the peak of its memory in MB."""
    began = time.perf_counter()
    command = [str(SACCADE), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return seconds, usage.ru_maxrss * 1024 / 1e6


def least(measure: Callable[[], float], repeats: int = 5) -> float:
    return min(measure() for _ in range(repeats))


def printed(code: str) -> float:
    """Return the number that a program prints."""
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)


def first_sign(folder: str) -> float:
    """Return the seconds until `compare` writes something to a terminal."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        terminal, other = pty.openpty()
        began = time.perf_counter()
        command = [str(SACCADE), "compare", "white-patch", "--out", f"{out}/runs"]
        process = subprocess.Popen(command, stdout=other, stderr=other)
        os.read(terminal, 1)
        seconds = time.perf_counter() - began
        process.terminate()
        process.wait()
        os.close(terminal)
        os.close(other)
    return seconds


def recording(name: str) -> float:
    """Return the time of a recorded forward pass as a multiple of a plain one: 8 images of 224 x 224."""
    images = torch.randn(8, 3, 224, 224)
    model: nn.Module = ViT(224, width=192, depth=12, heads=3, classes=1000).eval()
    if name != "vit":
        model = torchvision.models.resnet18().eval()
        sc.attach(model, name, example_inputs=images, identity=False)

    def plain() -> None:
        with torch.no_grad():
            model(images)

    def recorded() -> None:
        with torch.no_grad(), sc.record(model):
            model(images)

    times = milliseconds({"plain": plain, "recorded": recorded}, 15, torch.device("cpu"))
    return statistics.median(times["recorded"]) / statistics.median(times["plain"])


def in_new_process(name: str, environment: Mapping[str, str]) -> float:
    command = [sys.executable, __file__, "--record", name]
    run = subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment})
    return float(run.stdout)


def rows(folder: str) -> Iterator[dict[str, Any]]:
    def row(what: str, aim: float | None, measured: float, unit: str = "s") -> dict[str, Any]:
        measured = round(measured, 3)
        print(f"{what}: {measured} {unit}, aim {aim}", flush=True)
        return {"what": what, "aim": aim, "measured": measured, "unit": unit}

    yield row("`import saccade` after torch", 0.1, least(lambda: printed(_IMPORT)))
    yield row("`saccade --help`", 0.4, least(lambda: of_command("--help")[0]))
    yield row("`saccade list`", 0.4, least(lambda: of_command("list")[0]))
    yield row("`sc.sites` of a ResNet-50", 2, least(lambda: printed(_SITES)))
    yield row("first sign of `saccade compare`", 2, least(lambda: first_sign(folder)))
    for name, network in (
        ("se", "ResNet-18 with `se`"),
        ("cbam", "ResNet-18 with `cbam`"),
        ("vit", "ViT-Tiny"),
    ):
        for environment, memory in (({}, ""), (KEEPING_MEMORY, " in memory that the allocator keeps")):
            what = f"`sc.record` of a {network}{memory}, as a multiple of the forward pass"
            yield row(what, 1.05, in_new_process(name, environment), "times")
    demo = Path(folder) / "demo"
    yield row("`saccade demo`", 150, of_command("demo", "--out", demo)[0])
    runs = sorted((demo / "runs").iterdir())
    pairwise = (read_run_result(run)["train_seconds"] for run in runs if run.name.startswith("multi_head"))
    yield row("of this, the training of the six runs with `multi_head`", None, sum(pairwise))
    words = ("compare", "white-patch", "--executor", "processes", "--out", f"{folder}/processes")
    yield row("the runs of the demo with `--executor processes`", 150, of_command(*words)[0])
    yield row("`saccade score` of a run of the demo", 10, of_command("score", demo)[0] / len(runs))
    photograph = Path(folder) / "photograph.jpg"
    pixels = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((4000, 3000)).save(photograph)
    run = next(path for path in runs if path.name.startswith("cbam"))
    yield row("imports of a command that restores a run", None, least(lambda: printed(_RESTORING)))
    yield row("memory of these imports", None, printed(_MEMORY), "MB")
    looks = [of_command("look", run, photograph, "--out", f"{folder}/look{i}") for i in range(5)]
    yield row("`saccade look RUN` at 12 megapixels", 3, min(seconds for seconds, _ in looks))
    yield row("memory of this look", 400, min(megabytes for _, megabytes in looks), "MB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", help=argparse.SUPPRESS)
    name = parser.parse_args().record
    if name:
        print(recording(name))
        return
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has compiled modules
    machine = Machine()
    with tempfile.TemporaryDirectory() as folder:
        measured = [*rows(folder)]
    result = {
        "command": "python benchmarks/waiting.py",
        "hardware": hardware_info(),
        "rows": measured,
        "others": machine.check(),
    }
    write_json(RESULT, result)
    print(f"written: {RESULT}")


if __name__ == "__main__":
    main()
