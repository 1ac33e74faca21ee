"""Compare the throughput of the data loader with that of the training step, in images per second.

python benchmarks/loader.py
"""

from __future__ import annotations

import argparse
import json
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

from quiet import Machine
from saccade.config import Augment, Recipe, resolve
from saccade.data import Task, load_task
from saccade.data.task import Split
from saccade.files import write_json
from saccade.results import hardware_info
from saccade.training import Batches, Classifier, Views, augmentation, make_loader

RESULT = Path(__file__).parent / "results" / "loader-cpu.json"


@dataclass(frozen=True)
class Case:
    """A task, the backbone that trains on it, and the number of measured batches."""

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
    """Return noise images of the size of CIFAR-10; their content does not affect the throughput."""
    return Task("cifar10-sized", tuple("0123456789"), noise(10_000, 32), noise(10, 32), noise(10, 32))


def as_folder() -> Task:
    """Return JPEG images of 256 x 256 pixels, read as 224 x 224."""
    with tempfile.TemporaryDirectory() as place:
        for index, image in enumerate(noise(200, 256).images):
            file = Path(place) / "ab"[index % 2] / f"{index}.jpg"
            file.parent.mkdir(exist_ok=True)
            smooth = F.avg_pool2d(image[None].float(), 8).byte()[
                0
            ]  # a JPEG of noise is larger than that of a photograph
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
    """Return the median number of images per second after one warm-up call."""
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
    served = make_loader(task.train, Batches(len(task.train), case.batch_size, seed=0))

    def load(transform: nn.Module) -> float:
        def serve() -> None:
            for batch, _ in islice(cycle(served), case.batches):
                transform(batch)

        return rate(serve, images)

    torch.manual_seed(0)
    classifier = Classifier(resolve(Recipe(backbone=case.backbone)), task.info()).train()
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
    parser.add_argument("--dry-run", action="store_true", help="do not write the result file")
    arguments = parser.parse_args()
    machine = Machine()
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
        "rows": rows,
        "others": machine.check(),
    }
    write_json(RESULT, result)
    print(f"written: {RESULT}")


if __name__ == "__main__":
    main()
