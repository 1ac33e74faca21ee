"""Train a small network with and without a spatial transformer on digits rotated by up to 90 degrees.

    python benchmarks/stn_mnist.py --data mnist.tar.gz [--epochs 20] [--seeds 3]

The network is a multilayer perceptron with two hidden layers, and so is the localization network, as in the
paper for digits. The network without the transformer is wider, so that both have about the same number of
parameters. Training images get a new rotation in each epoch, test images have a fixed one. Writes
benchmarks/results/stn-mnist.json: the errors on all 10,000 test images after the last epoch, per seed, and
the ratio of their sums.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import saccade as sc
from mnist import load
from saccade.files import write_json
from saccade.results import hardware_info

WIDTH, WIDER = 64, 92
NETWORKS = ("with", "without")


def network(name: str) -> nn.Module:
    """Build the network with a spatial transformer, or the wider one without."""
    width, first = WIDER, []
    if name == "with":
        localization = nn.Sequential(
            nn.Flatten(), nn.Linear(28 * 28, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU()
        )
        width, first = WIDTH, [sc.create("spatial_transformer", 1, localization=localization)]
    model = nn.Sequential(
        *first,
        nn.Flatten(),
        nn.Linear(28 * 28, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 10),
    )
    model(torch.zeros(1, 1, 28, 28))  # initializes the lazy last layer of the transformer
    return model


def rotated(images: Tensor) -> Tensor:
    """Rotate each image by a random angle between -90 and 90 degrees."""
    angle = (torch.rand(len(images)) - 0.5) * math.pi
    zero = torch.zeros_like(angle)
    rows = torch.stack([angle.cos(), -angle.sin(), zero], 1), torch.stack([angle.sin(), angle.cos(), zero], 1)
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def train(name: str, seed: int, data: tuple[Tensor, Tensor], options: argparse.Namespace) -> nn.Module:
    torch.manual_seed(seed)
    model, (images, labels) = network(name), data
    optimizer = torch.optim.Adam(model.parameters(), lr=options.rate)
    steps = options.epochs * math.ceil(len(labels) / options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.rate, total_steps=steps)
    for epoch in range(options.epochs):
        total = 0.0
        for index in torch.randperm(len(labels)).split(options.batch):
            loss = F.cross_entropy(model(rotated(images[index])), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(index) / len(labels)
        print(f"  {name}, seed {seed}, epoch {epoch + 1}: training loss {total:.4f}", flush=True)
    return model


@torch.no_grad()
def count_errors(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Return the number of misclassified images."""
    model.eval()
    return sum(
        int((model(x).argmax(1) != y).sum())
        for x, y in zip(images.split(1000), labels.split(1000), strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="tarball of train/CLASS/*.png, test/...")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/stn-mnist.json")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rate", type=float, default=5e-3, help="maximum learning rate")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    digits = load(options.data, options.out.parent / "mnist.npz")
    torch.manual_seed(1_000_000)  # seeds the rotation of the test images
    test = rotated(digits.test), digits.test_labels
    words = (Path(word).name if "/" in word else word for word in sys.argv[1:])
    result: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/stn_mnist.py", *words]),
        "hardware": hardware_info(),
        "test_images": len(digits.test),
        "parameters": {name: sum(p.numel() for p in network(name).parameters()) for name in NETWORKS},
        "errors": {name: [] for name in NETWORKS},
        "seconds": dict.fromkeys(NETWORKS, 0.0),
    }
    errors, parameters = result["errors"], result["parameters"]
    assert abs(parameters["without"] / parameters["with"] - 1) < 0.1
    for seed in range(options.seeds):
        for name in NETWORKS:
            start = time.perf_counter()
            model = train(name, seed, (digits.train, digits.train_labels), options)
            result["seconds"][name] += round(time.perf_counter() - start, 1)
            errors[name].append(count_errors(model, *test))
            print(f"{name}, seed {seed}: {errors[name][-1]} errors of {len(digits.test)}", flush=True)
        result["ratio"] = round(sum(errors["with"]) / sum(errors["without"]), 4)
        write_json(options.out, result)
    print(result, f"written: {options.out}")


if __name__ == "__main__":
    main()
