"""Measure peak memory and time of every pairwise mechanism and of its naive form with all N x N weights.

    python benchmarks/pairwise.py [--only non_local ...]

Forward and backward pass of a map (1, 256, side, side) in float32. Writes
benchmarks/results/pairwise-cpu.json. Times are medians of interleaved passes of both forms in one process.
Memory is measured in a separate process for each form: the peak of the resident set minus its size after
imports, a pass of a tiny map, and the allocation of the input and of the gradient of the output; the output
and the gradients are included. The naive form is the same module with materialized attention weights, see
`textbook_attention.py`. It is skipped if the weights would take more than 6 GB. Additive attention takes time
N * N * C in any form, so at side 128 it is measured with 64 queries and all 16,384 keys.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

import saccade as sc
import textbook_attention as textbook
from quiet import Machine
from rows import write_rows
from saccade.ops import chunks
from saccade.results import hardware_info

RESULT = Path(__file__).parent / "results" / "pairwise-cpu.json"
CHANNELS = 256
SIDES = (28, 56, 128)
LIMIT = 6e9  # bytes
REPEATS, SECONDS = 51, 10.0  # limits of timing, whichever is reached first
FILES, CHANNEL = "saccade.layers.pairwise", "saccade.layers.channel"


@dataclass(frozen=True)
class Contender:
    """A mechanism with options, the function that its naive form replaces, and the size of its weights."""

    mechanism: str
    target: str
    naive: Callable[..., Any]
    options: dict[str, Any] = field(default_factory=dict)
    weights: int = 1  # per pair of positions, in each of about four tensors; 0: no pair has one
    sized: str = ""  # option that is the size of the map
    sequence: int = 0  # number of heads, for inputs (B, L, heads, D)

    @property
    def name(self) -> str:
        options = ",".join(f"{option}={value}" for option, value in self.options.items())
        return f"{self.mechanism}:{options}" if options else self.mechanism

    def build(self, side: int) -> nn.Module:
        torch.manual_seed(0)
        size = {self.sized: side} if self.sized else {}
        module = sc.create(self.mechanism, CHANNELS // max(1, self.sequence), **self.options, **size)
        with torch.no_grad():
            for parameter in module.parameters():  # attention may have no effect at initialization
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
        return module

    def form(self, form: str) -> AbstractContextManager[object]:
        return patch(self.target, self.naive) if form == "naive" else nullcontext()

    def inputs(self, side: int) -> list[Tensor]:
        if not self.sequence:
            return [torch.randn(1, CHANNELS, side, side)]
        key = torch.randn(1, side * side, self.sequence, CHANNELS // self.sequence)
        return [torch.randn_like(key[:, : self.queries(side)]), key]

    def queries(self, side: int) -> int:
        return 64 if self.mechanism == "additive" and side == 128 else side * side


FUSED = "torch.nn.functional.scaled_dot_product_attention"
CONTENDERS = (
    Contender("scaled_dot_product", FUSED, textbook.softmax, weights=8, sequence=8),
    Contender("multi_head", FUSED, textbook.softmax, {"heads": 1}),
    Contender("multi_head", FUSED, textbook.softmax, {"heads": 8}, weights=8),
    Contender("additive", f"{FILES}.additive.additive", textbook.additive, weights=CHANNELS, sequence=1),
    Contender("self_attention", f"{FILES}.self_attention.softmax_attention", textbook.softmax),
    *(
        Contender("non_local", f"{FILES}.non_local.non_local", textbook.non_local, {"pairwise": pairwise})
        for pairwise in ("embedded_gaussian", "gaussian", "dot_product", "concatenation")
    ),
    # The textbook form of these holds weights of rows, columns, windows, channels or memories.
    Contender("criss_cross", f"{FILES}.criss_cross.criss_cross", textbook.criss_cross, weights=0),
    Contender("axial", f"{FILES}.axial._by_chunks", textbook.axial, weights=0, sized="size"),
    Contender("window", f"{FILES}.window.window", textbook.window, weights=0),
    Contender("halo", f"{FILES}.halo.halo", textbook.halo, {"block_size": 4}, weights=0),
    Contender("neighborhood", f"{FILES}.neighborhood.neighborhood", textbook.neighborhood, weights=0),
    Contender("efficient", f"{FILES}.efficient.efficient", textbook.efficient, weights=0),
    Contender("external", f"{FILES}.external.external", textbook.external, weights=0),
    Contender("xca", f"{CHANNEL}.xca.xca", textbook.xca, weights=0),
)


def resident(kind: str) -> float:
    """Return VmRSS, the current resident memory, or VmHWM, its peak, in MB."""
    match = re.search(rf"^{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024 / 1e6


def leaves_of(contender: Contender, side: int) -> tuple[list[Tensor], Tensor]:
    """Return the inputs, which need gradients, and the gradient of the output."""
    leaves = [x.requires_grad_() for x in contender.inputs(side)]
    return leaves, torch.randn(leaves[0].shape)


def measure_memory(contender: Contender, side: int, form: str) -> float:
    """Return the megabytes of a pass. The process must be new."""
    small, module = (contender.build(s) for s in (8, side))
    with contender.form(form):
        for most in (chunks._FEW, 0):  # what either form loads stays
            with patch.object(chunks, "_FEW", most):
                leaves, grad = leaves_of(contender, 8)
                small(*leaves).backward(grad)
        leaves, grad = leaves_of(contender, side)
        before = resident("VmRSS")
        module(*leaves).backward(grad)
    return round(resident("VmHWM") - before, 1)


def measure_time(contender: Contender, side: int, forms: Sequence[str]) -> dict[str, float]:
    """Return the median seconds of a pass in each form."""
    module = contender.build(side)
    leaves, grad = leaves_of(contender, side)
    times: dict[str, list[float]] = {form: [] for form in forms}
    while len(times["ours"]) <= REPEATS and sum(map(sum, times.values())) < SECONDS * len(forms):
        for form in forms:
            with contender.form(form):
                start = time.perf_counter()
                module(*leaves).backward(grad)
                times[form].append(time.perf_counter() - start)
    return {form: round(statistics.median(passes[1:] or passes), 5) for form, passes in times.items()}


def in_new_process(*arguments: object) -> Any:
    command = [sys.executable, __file__, "--measure", *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(index: int, side: int) -> dict[str, Any]:
    """Measure both forms of a contender at one size."""
    contender = CONTENDERS[index]
    pairs = contender.queries(side) * side * side * contender.weights
    is_too_large = 4 * 4 * pairs > LIMIT
    forms = ["ours"] if is_too_large else ["ours", "naive"]
    megabytes = {form: in_new_process(index, side, form) for form in forms}
    seconds = in_new_process(index, side, *forms, "time")
    row: dict[str, Any] = {form: {"megabytes": megabytes[form], "seconds": seconds[form]} for form in forms}
    if is_too_large:
        row["naive"] = {"skipped": f"about {4 * 4 * pairs / 1e9:.0f} GB: four tensors of {pairs:,} numbers"}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [contender.name for contender in CONTENDERS]
    parser.add_argument("--only", nargs="+", default=names, help="the rows of others stay")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        index, side, *forms = arguments.measure
        contender = CONTENDERS[int(index)]
        if forms[-1] == "time":
            print(json.dumps(measure_time(contender, int(side), forms[:-1])))
        else:
            print(json.dumps(measure_memory(contender, int(side), *forms)))
        return
    machine = Machine()
    rows: list[dict[str, Any]] = []
    for index, contender in enumerate(CONTENDERS):
        if not any(contender.name.startswith(name) for name in arguments.only):
            continue
        for side in SIDES:
            forms = measure(index, side)
            rows.append(
                {
                    "mechanism": contender.name,
                    "side": side,
                    "queries": contender.queries(side),
                    "keys": side * side,
                    **forms,
                }
            )
            print(f"{contender.name} {side} x {side}: {forms}", flush=True)
    result = {
        "command": "python benchmarks/pairwise.py",
        "hardware": hardware_info(),
        "threads": torch.get_num_threads(),
        "others": machine.check(),
        "what": f"forward + backward of (1, {CHANNELS}, side, side), float32: "
        "peak megabytes beyond the input and the gradient of the output, median seconds",
        "rows": rows,
    }
    write_rows(RESULT, result, names)
    print(f"written: {RESULT}")


if __name__ == "__main__":
    main()
