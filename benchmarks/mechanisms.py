"""Time each mechanism, its textbook form, its best peer and the memory floor in one process.

    python benchmarks/mechanisms.py [--repeats 15] [--threads 2] [--only cbam ...] [--dtype float32]
        [--layout contiguous] [--allocator keeping] [--out FILE]

Writes benchmarks/results/mechanisms-DEVICE.json, with the layout or allocator in its name if it is another.
Times are medians of interleaved repeats of a forward and backward pass, with the least in brackets, and of a
forward pass alone. *Saved* is the memory that a form keeps for the backward pass, parameters aside, as a
multiple of the map. Compare the columns of a row with each other, not with those of another machine. *Ours*
has native loops where `saccade[fast]` is installed, *ours, plain* has none. The floor reads and writes the
map and its gradient once: two scalings.

The allocator of the C library is configured to keep freed memory. With `--allocator default` it may return
large blocks to the system and request them again, depending on earlier calls, and identical computations then
differ in time by a factor of up to four.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

import torch
import torchvision
from timm.layers.cbam import CbamModule
from timm.layers.coord_attn import CoordAttn
from timm.layers.eca import EcaModule
from timm.layers.selective_kernel import SelectiveKernel
from timm.layers.split_attn import SplitAttn
from torch import Tensor, nn

import saccade as sc
from quiet import Machine
from rows import write_rows
from saccade.ops import explain, implementation
from saccade.results import hardware_info
from textbook import (
    PeerMultiHead,
    TextbookBAM,
    TextbookCBAM,
    TextbookCoordinate,
    TextbookMultiHead,
    TextbookSE,
)

RESULTS = Path(__file__).parent / "results"
KEEPING_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "8000000000"}  # of glibc
LARGE, MIDDLE, SMALL = (8, 256, 56, 56), (32, 64, 32, 32), (32, 512, 7, 7)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
HUGE = (64, 256, 56, 56)
SHAPES = {
    "se": (HUGE, LARGE, MIDDLE, SMALL),
    "eca": (HUGE, LARGE, MIDDLE, SMALL),
    "cbam": (HUGE, LARGE, MIDDLE, SMALL),
    "bam": (LARGE, MIDDLE, SMALL),
    "coordinate": (HUGE, LARGE, MIDDLE, SMALL),
    "split_attention": (LARGE, MIDDLE, SMALL),
    "sk": (LARGE,),
    "multi_head": ((8, 64, 28, 28),),
}


def implementations(channels: int) -> dict[str, dict[str, nn.Module]]:
    """Return the implementations of each mechanism that are timed."""
    return {
        "se": {
            "ours": sc.create("se", channels),
            "textbook": TextbookSE(channels),
            "peer": torchvision.ops.SqueezeExcitation(channels, channels // 16),
        },
        "eca": {"ours": sc.create("eca", channels), "peer": EcaModule(channels)},
        "cbam": {
            "ours": sc.create("cbam", channels),
            "textbook": TextbookCBAM(channels),
            "peer": CbamModule(channels),
        },
        "bam": {"ours": sc.create("bam", channels), "textbook": TextbookBAM(channels)},
        "split_attention": {
            "ours": sc.create("split_attention", channels),
            "peer": SplitAttn(channels, norm_layer=nn.BatchNorm2d),
        },
        "coordinate": {
            "ours": sc.create("coordinate", channels),
            "textbook": TextbookCoordinate(channels),
            "peer": CoordAttn(channels),
        },
        "sk": {
            "ours": sc.create("sk", channels),
            "peer": SelectiveKernel(channels, groups=32, rd_channels=32, split_input=False),
        },
        "multi_head": {
            "ours": sc.create("multi_head", channels),
            "textbook": TextbookMultiHead(channels),
            "peer": PeerMultiHead(channels),
        },
    }


def step(call: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> Callable[[], object]:
    """Return a forward and backward pass through `call`."""

    def run() -> None:
        x.grad = None
        call(x).backward(grad)

    return run


def forward(call: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    """Return a forward pass through `call`, without gradients."""

    def run() -> None:
        with torch.no_grad():
            call(x)

    return run


def saved(call: nn.Module, x: Tensor) -> float:
    """Return the memory that a forward pass keeps for the backward pass, as a multiple of x."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in call.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = call(x)  # alive until all storages are counted: none is used twice
    del y
    return sum(kept.values()) / x.untyped_storage().nbytes()


def profile(call: Callable[[], object], passes: int = 10) -> list[dict[str, object]]:
    """Return the operations of a call by time, which the profiler itself makes longer, and their number."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(passes):
            call()
    events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    return [
        {
            "operation": event.key,
            "calls": event.count / passes,
            "milliseconds": round(event.self_cpu_time_total / passes / 1000, 3),
        }
        for event in events
        if event.count >= passes
    ]


def in_plain_form(call: Callable[[], object]) -> Callable[[], object]:
    """Return the call in plain operations."""

    def run() -> None:
        with implementation("plain"):
            call()

    return run


def milliseconds(
    calls: dict[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Return the times of each call.

    Calls are interleaved, so that noise affects all equally, in an order that changes: what a call finds in
    the caches depends on the one before.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = random.Random(0)
    for repeat in range(repeats + 2):
        for name in order.sample(list(calls), len(calls)):
            call = calls[name]
            start = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if repeat >= 2:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def measure(
    names: Collection[str],
    repeats: int,
    device: torch.device,
    dtype: torch.dtype,
    layout: torch.memory_format,
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for mechanism, shape in ((key, shape) for key in names for shape in SHAPES[key]):
        torch.compiler.reset()
        x, grad = (torch.randn(shape, device=device, dtype=dtype).to(memory_format=layout) for _ in range(2))
        x.requires_grad_()
        forms = {key: form.to(device, dtype) for key, form in implementations(shape[1])[mechanism].items()}
        compiled = {f"{key}, compiled": torch.compile(form) for key, form in forms.items()}
        calls: dict[str, Callable[[], object]] = {
            key: step(form, x, grad) for key, form in (forms | compiled).items()
        }
        calls["ours, plain"] = in_plain_form(calls["ours"])
        calls["floor"] = scalings(x.detach(), grad)
        times = milliseconds(calls, repeats, device)
        forwards = {key: forward(form, x) for key, form in (forms | compiled).items()}
        of_forward = milliseconds(forwards, repeats, device)
        rows.append(
            {
                "mechanism": mechanism,
                "shape": shape,
                "milliseconds": {key: statistics.median(values) for key, values in times.items()},
                "least": {key: min(values) for key, values in times.items()},
                "forward": {key: statistics.median(values) for key, values in of_forward.items()},
                "saved": {key: round(saved(form, x), 2) for key, form in forms.items()},
                "ran": [*map(str, explain(forms["ours"], x))],
                "profile": profile(calls["ours"]),
            }
        )
        columns = (f"{key} {statistics.median(t):.1f} ({min(t):.1f})" for key, t in times.items())
        print(f"{mechanism} {shape}: {', '.join(columns)} ms", flush=True)
    return rows


def scalings(x: Tensor, grad: Tensor) -> Callable[[], object]:
    """Return the least work of a gate: the map and its gradient are read, scaled and written."""
    gate = torch.rand(*x.shape[:2], 1, 1, device=x.device, dtype=x.dtype)

    def run() -> None:
        torch.mul(x, gate)
        torch.mul(grad, gate)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="+", choices=SHAPES, default=[*SHAPES])
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--layout", choices=LAYOUTS, default="contiguous")
    parser.add_argument("--allocator", choices=["keeping", "default"], default="keeping")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    keeps = options.allocator == "keeping"
    if keeps and not KEEPING_MEMORY.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEPING_MEMORY})
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(options.threads)
    dtype, layout = getattr(torch, options.dtype), LAYOUTS[options.layout]
    machine = Machine()
    memory = "in memory that the allocator keeps" if keeps else "with the default allocator"
    result = {
        "command": " ".join(["python benchmarks/mechanisms.py", *sys.argv[1:]]),
        "hardware": hardware_info(),
        "what": f"forward + backward, {options.dtype}, {options.layout}, median milliseconds, {memory}; "
        "floor: two scalings",
        "threads": options.threads,
        "rows": measure(options.only, options.repeats, device, dtype, layout),
        "others": machine.check(),
    }
    usual = {"float32", "contiguous", "keeping"}
    variant = "".join(
        f"-{value}" for value in (options.dtype, options.layout, options.allocator) if value not in usual
    )
    path = options.out or RESULTS / f"mechanisms-{device.type}{variant}.json"
    write_rows(path, result, [*SHAPES] if path.exists() else options.only)
    print(f"written: {path}")


if __name__ == "__main__":
    main()
