"""Images per second: what the loader serves against what a training step learns from.

python benchmarks/loader.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from saccade.config import Recipe
from saccade.config.recipe import Augment
from saccade.data import Task, load_task
from saccade.data.task import Split
from saccade.results import hardware_info
from saccade.training.augment.basic import augmentation
from saccade.training.augment.simclr import Views
from saccade.training.module import Batches, Classifier, loader

RESULT = Path(__file__).parent / "results" / "loader-cpu.json"


@dataclass(frozen=True)
class Case:
    """A task, what learns from it, and over how many batches is measured."""

    name: str
    task: Callable[[], Task]
    backbone: str
    batch_size: int
    batches: int


def noise(count: int, side: int) -> Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(count) % 10)


def as_cifar() -> Task:
    """Noise of the size of CIFAR-10's images: what they show does not matter here."""
    return Task("cifar10-sized", tuple("0123456789"), noise(10_000, 32), noise(10, 32), noise(10, 32))


def as_folder() -> Task:
    """JPEGs of 256 x 256, read as 224 x 224."""
    with tempfile.TemporaryDirectory() as place:
        for index, image in enumerate(noise(200, 256).images):
            file = Path(place) / "ab"[index % 2] / f"{index}.jpg"
            file.parent.mkdir(exist_ok=True)
            smooth = F.avg_pool2d(image[None].float(), 8).byte()[0]  # noise is larger than a photograph
            pixels = np.ascontiguousarray(smooth.permute(1, 2, 0).numpy())
            Image.fromarray(pixels).resize((256, 256), Image.Resampling.BICUBIC).save(file)
        return load_task(f"folder:{place},size=224")


CASES = (
    Case("digits", lambda: load_task("digits"), "small", 50, 20),
    Case("cifar10-sized", as_cifar, "small", 50, 20),
    Case("cifar10-sized", as_cifar, "resnet18", 50, 5),
    Case("folder, 224 x 224", as_folder, "resnet18", 16, 3),
)
AUGMENTS: tuple[Augment, ...] = ("none", "crop-flip")


def rate(function: Callable[[], object], images: int, repeats: int = 3) -> float:
    """Return images per second, the median after a warm-up."""
    seconds = []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - begin)
    return images / statistics.median(seconds[1:])


def measure(case: Case) -> dict[str, Any]:
    begin = time.perf_counter()
    task = case.task()
    reading = time.perf_counter() - begin
    count = sum(len(split) for split in (task.train, task.validation, task.test))
    images = case.batches * case.batch_size
    served = loader(task.train, Batches(len(task.train), case.batch_size, seed=0))

    def load(change: nn.Module) -> float:
        def serve() -> None:
            for batch, _ in islice(cycle(served), case.batches):
                change(batch)

        return rate(serve, images)

    torch.manual_seed(0)
    classifier = Classifier(Recipe(backbone=case.backbone), task.info()).train()
    optimizer = torch.optim.AdamW(classifier.parameters())
    batch, labels = next(iter(served))

    def step() -> None:
        for _ in range(case.batches):
            optimizer.zero_grad()
            F.cross_entropy(classifier(batch), labels).backward()
            optimizer.step()

    return {
        "task": case.name,
        "backbone": case.backbone,
        "batch_size": case.batch_size,
        "read_once": count / reading if case.name.startswith("folder") else None,
        "loader": {augment: load(augmentation(augment)) for augment in AUGMENTS},
        "views": load(Views(flip=True)),
        "step": rate(step, images),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    rows = []
    for case in CASES:
        rows.append(measure(case))
        print(json.dumps(rows[-1]), flush=True)
    if arguments.dry_run:
        return
    result = {
        "command": "python benchmarks/loader.py",
        "hardware": hardware_info(),
        "threads": torch.get_num_threads(),
        "load": load,
        "rows": rows,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {RESULT}")


if __name__ == "__main__":
    main()
