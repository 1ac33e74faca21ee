"""Attach attention to a trained network, initialized as an identity or as in its paper, and fine-tune.

    python benchmarks/fine_tune.py --data cifar10 [--seeds 3]

`cifar10` is a folder of images, train/CLASS/* and test/CLASS/*. A ResNet-20 for CIFAR (He et al. 2016) is
trained without augmentation. Then it is fine-tuned without attention, and with each attention on every
residual branch: initialized as an exact identity (`identity=True`) and as in the paper (`identity=False`).
All variants of a seed train on the same images in the same order. Writes benchmarks/results/fine-tune.json.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import saccade as sc
from saccade.data import Split, load_folder
from saccade.files import write_json
from saccade.results import hardware_info

RESULT = Path(__file__).parent / "results" / "fine-tune.json"
ATTENTIONS = ("se", "eca", "cbam")
TRAIN_IMAGES, BATCH = 10_000, 100
EPOCHS, FINE_TUNING = 8, 2
RATE, FINE_RATE = 0.1, 0.01


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut, which is strided and zero-padded where the width grows."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.stride = out // width
        self.conv1 = nn.Conv2d(width, out, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return F.relu(branch + F.pad(shortcut, (0, 0, 0, 0, 0, branch.shape[1] - x.shape[1])))


class ResNet20(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
        self.blocks = nn.Sequential(*map(Block, widths, widths[1:]))
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return logits


def pixels(images: Tensor) -> Tensor:
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def error(model: nn.Module, split: Split) -> float:
    """Return the test error, with the running statistics of batch norm."""
    model.eval()
    wrong = sum(
        int((model(pixels(images)).argmax(1) != labels).sum())
        for images, labels in zip(split.images.split(500), split.labels.split(500), strict=True)
    )
    return wrong / len(split)


def train(model: nn.Module, split: Split, epochs: int, rate: float, seed: int) -> None:
    """Train with SGD and a one-cycle schedule. The seed determines the order of the images."""
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = epochs * (len(split) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(split), generator=generator)[: steps // epochs * BATCH].split(BATCH):
            loss = F.cross_entropy(model(pixels(split.images[batch])), split.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def fine_tuned(
    trained: nn.Module, attention: str, identity: bool, data: dict[str, Split], seed: int
) -> dict[str, Any]:
    """Return the test error before and after fine-tuning, and the learned gates."""
    model = copy.deepcopy(trained)
    if attention != "none":
        torch.manual_seed(seed)
        sc.attach(
            model, attention, where="residual", example_inputs=torch.zeros(1, 3, 32, 32), identity=identity
        )
    before = error(model, data["test"])
    train(model, data["train"], FINE_TUNING, FINE_RATE, seed)
    gates = [parameter.item() for name, parameter in model.named_parameters() if name.endswith("gate")]
    return {
        "attention": attention,
        "identity": identity,
        "seed": seed,
        "before": before,
        "after": error(model, data["test"]),
        "gates": [round(gate, 4) for gate in gates],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    task = load_folder(arguments.data, size=32, val_fraction=0.05)
    subset = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(0))[:TRAIN_IMAGES]
    data = {"train": Split(task.train.images[subset], task.train.labels[subset]), "test": task.test}
    start, rows = time.perf_counter(), []
    for seed in range(arguments.seeds):
        torch.manual_seed(seed)
        model = ResNet20(len(task.classes)).to(memory_format=torch.channels_last)
        train(model, data["train"], EPOCHS, RATE, seed)
        variants = [("none", True), *((name, identity) for name in ATTENTIONS for identity in (True, False))]
        for attention, identity in variants:
            rows.append(fine_tuned(model, attention, identity, data, seed))
            print({key: value for key, value in rows[-1].items() if key != "gates"}, flush=True)
    result = {
        "command": f"python benchmarks/fine_tune.py --data cifar10 --seeds {arguments.seeds}",
        "hardware": hardware_info(),
        "train_images": len(data["train"]),
        "test_images": len(data["test"]),
        "epochs": EPOCHS,
        "fine_tuning": FINE_TUNING,
        "seconds": round(time.perf_counter() - start),
        "rows": rows,
    }
    write_json(RESULT, result)
    print(f"written: {RESULT}")


if __name__ == "__main__":
    main()
