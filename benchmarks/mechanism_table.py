"""Measure parameters, FLOPs, latency, peak memory and the start of each mechanism, at three sizes of the map.

    OMP_NUM_THREADS=1 python benchmarks/mechanism_table.py [--only se] [--sides 14 28 56] [--seconds 3]

One image with 64 channels, or as many positions in a sequence, in float32; each measurement in a process of
its own, since the peak of a process never falls. FLOPs and latency (median) are those of a forward pass in
evaluation mode. Memory is the peak of the resident set in a second forward and backward pass minus its size
before; the output and the gradients are included, the input is not, nor is what the first pass loads. The
start compares the output of a new module with its input. Writes benchmarks/results/catalog-cpu.json, from
which `docs/results.py` makes the table; the rows of mechanisms that are not measured stay.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from timm.layers.create_attn import create_attn, get_attn
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import saccade as sc
from pairwise import resident
from quiet import Machine
from rows import write_rows
from saccade.models import from_timm
from saccade.profiling import flops, latency
from saccade.results import hardware_info

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "catalog-cpu.json"
CHANNELS = 64
SIDES = (14, 28, 56)
#: Options that hold the size of the map, and options without which a map of these sizes does not fit.
SIZES = {"attention_pool": "size", "axial": "size", "bottleneck": "feat_size", "deformable": "size"}
OPTIONS: dict[str, dict[str, Any]] = {"halo": {"block_size": 7}}
#: Settings of the allocator of the C library under which freed tensors leave the resident set at once.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
PEERS = ("timm", "torchvision")


def prepared(name: str, side: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return a mechanism as initialized, in evaluation mode, and inputs for a map of this size."""
    torch.manual_seed(0)
    spec = sc.spec(name)
    example = spec.examples[0]
    options = {**example.options, **OPTIONS.get(name, {})}
    if name in SIZES:
        options[SIZES[name]] = side
    # an example of a fixed map ends with its height and width
    shapes = re.sub(r"\b\d+ \d+$", f"{side} {side}", example.shapes)
    sizes: dict[str, Any] = {
        "B": 1,
        "C": CHANNELS,
        "H": side,
        "W": side,
        "I": side // 2,
        "J": side // 2,
        "h": 1,
    }
    sizes |= dict.fromkeys("LQK", side * side)
    inputs = type(example)(shapes, options).inputs(**sizes)
    return sc.create(name, CHANNELS, **options).eval(), inputs


def start(name: str, side: int) -> str | float | None:
    """Return "identity", or the standard deviation of the output relative to that of the input.

    None if the shape of the output is another one.
    """
    module, inputs = prepared(name, side)
    with torch.no_grad():
        output = module(*inputs)
    if not isinstance(output, Tensor) or output.shape != inputs[0].shape:
        return None
    return "identity" if torch.equal(output, inputs[0]) else round((output.std() / inputs[0].std()).item(), 3)


def measure_memory(name: str, side: int) -> dict[str, float]:
    """Measure the peak of memory of one mechanism at one size. The process must be new."""
    module, inputs = prepared(name, side)
    backward(module, inputs)  # loads and allocates what stays
    module.zero_grad()
    inputs = tuple(x.detach() for x in inputs)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak becomes the present size
    before = resident("VmRSS")
    backward(module, inputs)
    return {"megabytes": round(max(0.0, resident("VmHWM") - before), 1)}


def measure(name: str, side: int, seconds: float) -> dict[str, float]:
    """Measure FLOPs and latency of one mechanism at one size. The process must be new."""
    module, inputs = prepared(name, side)
    begin = time.perf_counter()
    with torch.no_grad():
        module(*inputs)
        repeats = int(seconds / (time.perf_counter() - begin))
        milliseconds = latency(module, *inputs, repeats=min(50, max(3, repeats)), warmup=1)
    return {
        "flops": flops(module, *inputs),
        "milliseconds": round(milliseconds, 4),
    }


def backward(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    outputs = tree_leaves(module(*(x.requires_grad_() for x in inputs)))
    torch.stack([y.sum() for y in outputs if y.requires_grad]).sum().backward()


def measure_in_new_process(name: str, side: int, seconds: float) -> dict[str, Any]:
    measured: dict[str, Any] = {"side": side}
    for kind, environment in (("--measure", {}), ("--measure-memory", ALLOCATOR)):
        command = [sys.executable, __file__, kind, name, str(side), "--seconds", str(seconds)]
        run = subprocess.run(
            command, check=True, capture_output=True, text=True, env={**os.environ, **environment}
        )
        measured |= json.loads(run.stdout)
    return measured


def sources() -> dict[str, list[str]]:
    """Return what the tests compare each mechanism with, values and gradients.

    The formula, if a test of the mechanism compares with it; the classes of other libraries that its test
    file imports; the modules of timm that `from_timm` turns into it, which a test compares one by one.
    """
    texts = {path: path.read_text() for path in sorted(ROOT.glob("tests/layers/*/test_*.py"))}
    proven: dict[str, list[str]] = {}
    for name in sc.mechanisms():
        own = {
            path: text for path, text in texts.items() if re.search(rf'\b(build|create)\(\s*"{name}"', text)
        }
        is_compared = any("assert_parity(" in text or "_formula" in text for text in own.values())
        proven[name] = ["formula"] if is_compared else []
        text = next((text for path, text in own.items() if path.stem == f"test_{name}"), "")
        for library, imported in re.findall(rf"^from ({'|'.join(PEERS)})\S* import (.+)$", text, re.M):
            proven[name] += [f"{library} {kind}" for kind in imported.split(", ")]
    names = {spec.module: spec.name for spec in map(sc.spec, sc.mechanisms())}
    for module in timm_modules():
        theirs = f"timm {type(module).__name__}"
        listed = proven[names[type(from_timm(module, CHANNELS))]]
        if theirs not in listed:
            listed.append(theirs)
    return proven


def timm_modules() -> list[nn.Module]:
    """Return the modules of timm's factory."""
    needed: dict[str, Any] = {"bottleneck": {"feat_size": (8, 8)}, "ge": {"use_mlp": False}}
    names = re.findall(r"attn_type == '(\w+)'", inspect.getsource(get_attn))
    factory: Any = create_attn
    return [factory(name, CHANNELS, **needed.get(name, {})) for name in names]


def row(name: str, sides: list[int], seconds: float, proven: list[str]) -> dict[str, Any]:
    spec = sc.spec(name)
    module, _ = prepared(name, sides[0])
    return {
        "mechanism": name,
        "options": OPTIONS.get(name, {}),
        "parameters": sum(p.numel() for p in module.parameters()),
        "start": start(name, sides[0]),
        "maps": [kind.__name__ for kind in spec.maps],
        "dims": list(spec.dims),
        "proven": proven,
        "sizes": [measure_in_new_process(name, side, seconds) for side in sides],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=sc.mechanisms(), help="names of mechanisms")
    parser.add_argument("--sides", type=int, nargs="+", default=list(SIDES), help="heights of the map")
    parser.add_argument("--seconds", type=float, default=3.0, help="time of each measurement of latency")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--measure-memory", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, side = arguments.measure
        print(json.dumps(measure(name, int(side), arguments.seconds)))
        return
    if arguments.measure_memory:
        name, side = arguments.measure_memory
        print(json.dumps(measure_memory(name, int(side))))
        return
    machine, proven, rows = Machine(), sources(), []
    for name in arguments.only:
        rows.append(row(name, arguments.sides, arguments.seconds, proven[name]))
        print(json.dumps(rows[-1]), flush=True)
    result = {
        "command": "OMP_NUM_THREADS=1 python benchmarks/mechanism_table.py",
        "hardware": hardware_info(),
        "threads": torch.get_num_threads(),
        "channels": CHANNELS,
        "rows": rows,
        "others": machine.check(),
    }
    write_rows(arguments.out, result, sc.mechanisms() if arguments.out == RESULT else arguments.only)
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
