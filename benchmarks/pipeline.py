"""Compare `saccade train` with a plain PyTorch loop: the same network, data, optimizer, schedule and steps.

    python benchmarks/pipeline.py [--rounds 9] [--threads 2] [--only small]

Both train for some epochs and evaluate the validation images after each. The plain loop is the shortest that
does this: a `DataLoader` of tensors, no checkpoint, no file and no curve. The rounds are interleaved, and the
ratio is the median of those of the rounds. The time of the checkpoints is a part of that of saccade. Writes
benchmarks/results/pipeline-cpu.json.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from quiet import Machine
from saccade.config import Plan, Recipe
from saccade.data import Split, load
from saccade.files import write_json
from saccade.results import hardware_info
from saccade.training import prepare, train
from saccade.training.checkpoint import AtomicCheckpoints
from saccade.training.network import build

RESULT = Path(__file__).parent / "results" / "pipeline-cpu.json"


@dataclass(frozen=True)
class Case:
    """A network, and data for it."""

    name: str
    backbone: str
    size: int
    images: int
    epochs: int

    def plan(self) -> Plan:
        task = f"white-patch:size={self.size},train={self.images},validation=200,test=100"
        recipe = Recipe(task=task, backbone=self.backbone, epochs=self.epochs, batch_size=50)
        return prepare(recipe)


CASES = (
    Case("SmallCNN, 64 x 64", "small", 64, 1000, 4),
    Case("ResNet-18, 32 x 32", "resnet18", 32, 6000, 1),
    Case("ViT, 64 x 64", "vit:patch_size=8,width=192,depth=6,heads=3,mlp_width=768", 64, 1000, 1),
)


def plain_loop(plan: Plan) -> float:
    """Train a plan in plain PyTorch; return the seconds of the loop."""
    recipe, task = plan.recipe, load(plan.task)
    torch.manual_seed(0)
    model = build(plan, len(task.classes), task.shape)
    mean, std = (x.view(3, 1, 1) for x in (task.info().mean, task.info().std))
    loader = DataLoader(tensors(task.train), recipe.batch_size, shuffle=True, drop_last=True)
    validation = DataLoader(tensors(task.validation), 100)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    steps = recipe.epochs * len(loader)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps)
    begin = time.perf_counter()
    for _ in range(recipe.epochs):
        model.train()
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model((images / 255 - mean) / std), labels).backward()
            optimizer.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            for images, labels in validation:
                float((model((images / 255 - mean) / std).argmax(1) != labels).sum())
    return time.perf_counter() - begin


def tensors(split: Split) -> TensorDataset:
    return TensorDataset(split.images, split.labels)


def with_saccade(plan: Plan, checkpoints: list[float]) -> float:
    """Train a plan with `train`; return the seconds of the training, and append those of its checkpoints."""
    save = AtomicCheckpoints.save_checkpoint

    def timed(*arguments: Any, **options: Any) -> None:
        begin = time.perf_counter()
        save(*arguments, **options)
        checkpoints.append(time.perf_counter() - begin)

    with tempfile.TemporaryDirectory() as folder, patch.object(AtomicCheckpoints, "save_checkpoint", timed):
        return train(plan, Path(folder) / "run", logger="none")["train_seconds"]


def measure(case: Case, rounds: int) -> dict[str, Any]:
    plan = case.plan()
    steps = case.epochs * (case.images // plan.recipe.batch_size)
    times: dict[str, list[float]] = {"saccade": [], "plain": []}
    checkpoints: list[float] = []
    for turn in range(rounds + 1):
        for name in times:
            seconds = plain_loop(plan) if name == "plain" else with_saccade(plan, checkpoints)
            if turn:  # the first warms up
                times[name].append(1e3 * seconds / steps)
    medians = {name: statistics.median(values) for name, values in times.items()}
    row = {
        "network": case.name,
        "backbone": case.backbone,
        "steps": steps,
        "milliseconds": medians,
        "least": {name: min(values) for name, values in times.items()},
        "checkpoint": 1e3 * statistics.median(checkpoints),
        # of neighbors in time: the speed of a machine drifts
        "ratio": statistics.median(a / b for a, b in zip(times["saccade"], times["plain"], strict=True)),
    }
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="+", choices=[case.backbone.partition(":")[0] for case in CASES])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases = [c for c in CASES if not options.only or c.backbone.partition(":")[0] in options.only]
    machine = Machine()
    result = {
        "command": "python benchmarks/pipeline.py",
        "hardware": hardware_info(),
        "threads": options.threads,
        "rows": [measure(case, options.rounds) for case in cases],
        "others": machine.check(),
    }
    write_json(RESULT, result)
    print(f"written: {RESULT}")


if __name__ == "__main__":
    main()
