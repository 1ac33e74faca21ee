"""Time whole networks with attention, and measure what each mechanism adds to the memory of a training step.

    python benchmarks/whole_networks.py [--repeats 15] [--threads 2] [--only none se ...]
    python benchmarks/whole_networks.py --memory [--only se lka ...]

A ResNet-50 of timm, 8 images of 224 x 224, float32: a training step (forward, backward and SGD) and a
forward pass in evaluation mode, with ours in every residual branch, `sc.attach(model, name)`, and with timm's
own attention at the same places. Also a ViT-S: ours and timm's. Times are medians of interleaved repeats,
with the least beside. Writes benchmarks/results/whole-networks.json.

With --memory, the peak of the resident set in a training step with every drop-in, minus that of the network
without attention; each in a process of its own. Writes benchmarks/results/step-memory.json.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

import saccade as sc
from mechanism_table import ALLOCATOR
from mechanisms import KEEPING_MEMORY, RESULTS, milliseconds
from pairwise import resident
from quiet import Machine
from rows import write_rows
from saccade.files import write_json
from saccade.models import ViT
from saccade.results import hardware_info

BATCH, SIDE = 8, 224
#: Names of timm's mechanisms that are ours with the same arithmetic.
PEERS = {"se": "se", "eca": "eca", "cbam": "cbam", "coordinate": "coord"}
ATTENTION = ("none", "se", "eca", "cbam", "bam", "coordinate")


def resnet(ours: str | None = None, theirs: str | None = None) -> nn.Module:
    """Return a ResNet-50 with an attention of saccade, or of timm."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"block_args": {"attn_layer": theirs}} if theirs else {}
    # Some mechanisms are refused behind a batch norm that is zero at initialization.
    model: nn.Module = timm.create_model("resnet50", zero_init_last=False, **options)
    if ours:
        sc.attach(model, ours, example_inputs=torch.randn(2, 3, SIDE, SIDE), identity=False)
    return model


def vits() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    ours = ViT(SIDE, width=384, depth=12, heads=6, mlp_width=1536, classes=1000)
    return {"ours": ours, "timm": timm.create_model("vit_small_patch16_224")}


def training_step(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], object]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def run() -> None:
        model.train()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return run


def inference(model: nn.Module, images: Tensor) -> Callable[[], object]:
    def run() -> None:
        model.eval()
        with torch.inference_mode():
            model(images)

    return run


def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(BATCH, 3, SIDE, SIDE), torch.randint(1000, (BATCH,))


def measure(names: list[str], repeats: int) -> list[dict[str, Any]]:
    images, labels = batch()
    networks = {f"resnet50 {name}, ours": resnet(None if name == "none" else name) for name in names}
    networks |= {f"resnet50 {name}, timm": resnet(theirs=PEERS[name]) for name in names if name in PEERS}
    networks |= {f"ViT-S, {form}": model for form, model in vits().items()}
    rows: list[dict[str, Any]] = []
    for phase in ("training", "inference"):
        calls: dict[str, Callable[[], object]] = {}
        for key, model in networks.items():
            is_training = phase == "training"
            calls[key] = training_step(model, images, labels) if is_training else inference(model, images)
        for key, values in milliseconds(calls, repeats, torch.device("cpu")).items():
            network, form = key.split(", ")
            row = {"network": network, "form": form, "phase": phase}
            rows.append(row | {"milliseconds": statistics.median(values), "least": min(values)})
            print(rows[-1], flush=True)
    return rows


def peak(name: str) -> dict[str, float]:
    """Measure the peak of one training step, beyond the model, in a new process."""
    model = resnet(None if name == "none" else name)
    step = training_step(model, *batch())
    step()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak becomes the present size
    step()
    return {"megabytes": round(resident("VmHWM"), 1)}


def measure_memory(names: list[str]) -> list[dict[str, Any]]:
    rows = []
    for name in names:
        command = [sys.executable, __file__, "--peak", name]
        run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **ALLOCATOR})
        if run.returncode:
            reason = run.stderr.strip().splitlines()[-1] if run.stderr.strip() else f"exit {run.returncode}"
            rows.append({"mechanism": name, "megabytes": None, "reason": reason})
        else:
            rows.append({"mechanism": name, **json.loads(run.stdout)})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--only", nargs="+", help=f"default: {' '.join(ATTENTION)}; of --memory, all drop-ins"
    )
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(json.dumps(peak(options.peak)))
        return
    if not options.memory and not KEEPING_MEMORY.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEPING_MEMORY})
    machine = Machine()
    facts = {"hardware": hardware_info(), "threads": options.threads}
    if options.memory:
        drop_ins = ["none", *(name for name in sc.mechanisms() if sc.spec(name).drop_in)]
        rows = measure_memory(options.only or drop_ins)
        result = {"command": "python benchmarks/whole_networks.py --memory", **facts, "rows": rows}
        write_rows(RESULTS / "step-memory.json", result, drop_ins)  # other programs take none of this memory
    else:
        rows = measure(options.only or [*ATTENTION], options.repeats)
        result = {"command": "python benchmarks/whole_networks.py", **facts, "rows": rows}
        write_json(RESULTS / "whole-networks.json", result | {"others": machine.check()})


if __name__ == "__main__":
    main()
