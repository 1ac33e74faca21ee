"""Train the recurrent attention model on MNIST: 6 glimpses of 8 x 8 (Mnih et al. 2014, table 1: 1.12%).

    python benchmarks/ram_mnist.py --data mnist.tar.gz [--epochs 220] [--seed 0]

Writes benchmarks/results/ram-mnist.json: the validation error of each epoch on 5,000 held-out training
images, and the final error on all 10,000 test images, for one look and for the mean over several looks. The
test images are not used for any choice. The file is updated during training, so that an interrupted run
leaves its curve. The checkpoint and the decoded images are in the same folder.
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
from torch import Tensor

from mnist import load
from saccade.files import atomic_write, write_json
from saccade.models import RecurrentAttention, hybrid_loss
from saccade.results import hardware_info

VALIDATION_IMAGES = 5_000


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="tarball of train/CLASS/*.png, test/...")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/ram-mnist.json")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=220)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument(
        "--rate", type=float, default=1e-3, help="initial learning rate of the cosine schedule"
    )
    parser.add_argument("--std", type=float, default=0.1, help="standard deviation of the location policy")
    parser.add_argument("--weight", type=float, default=1.0, help="weight of the policy term of the loss")
    parser.add_argument("--core", choices=("relu", "lstm"), default="relu")
    parser.add_argument("--start", choices=("random", "center"), default="random")
    parser.add_argument("--samples-per-image", type=int, default=1, help="looks per training image")
    parser.add_argument("--num-samples", type=int, default=10, help="looks averaged in evaluation")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def command() -> str:
    """Return the command line, with paths reduced to file names."""
    arguments = (Path(word).name if "/" in word else word for word in sys.argv[1:])
    return shlex.join(["python", "benchmarks/ram_mnist.py", *arguments])


def error(model: RecurrentAttention, images: Tensor, labels: Tensor, samples_per_image: int) -> float:
    """Return the fraction of misclassified images."""
    model.eval()
    chunks = zip(images.split(500), labels.split(500), strict=True)
    wrong = sum(int((model.predict(x, samples_per_image).argmax(1) != y).sum()) for x, y in chunks)
    return wrong / len(labels)


def train_epoch(
    model: RecurrentAttention,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    data: tuple[Tensor, Tensor],
    options: argparse.Namespace,
) -> float:
    """Train for one epoch and return the mean loss."""
    model.train()
    images, labels = data
    total = 0.0
    batches = torch.randperm(len(labels)).split(options.batch)
    for index in batches:
        x, y = (t[index].repeat_interleave(options.samples_per_image, 0) for t in (images, labels))
        loss = hybrid_loss(model.look(x), y, options.weight)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        total += loss.item()
    return total / len(batches)


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    digits = load(options.data, options.out.parent / "mnist.npz")
    order = torch.randperm(len(digits.train))
    held_out, kept = order[:VALIDATION_IMAGES], order[VALIDATION_IMAGES:]
    train = digits.train[kept], digits.train_labels[kept]
    validation = digits.train[held_out], digits.train_labels[held_out]
    model = RecurrentAttention(10, std=options.std, core=options.core, start=options.start)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate, weight_decay=1e-4)
    steps = options.epochs * math.ceil(len(kept) / options.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    result: dict[str, Any] = {
        "command": command(),
        "seed": options.seed,
        "model": "6 glimpses of 8 x 8, one scale, core of 256",
        "parameters": sum(p.numel() for p in model.parameters()),
        "paper": 0.0112,
        "hardware": hardware_info(),
        "complete": False,
        "curve": {"epoch": [], "loss": [], "validation_error": [], "seconds": []},
    }
    curve = result["curve"]
    start = time.perf_counter()
    for epoch in range(1, options.epochs + 1):
        loss = train_epoch(model, optimizer, schedule, train, options)
        row = {
            "epoch": epoch,
            "loss": round(loss, 5),
            "validation_error": error(model, *validation, samples_per_image=1),
            "seconds": round(time.perf_counter() - start, 1),
        }
        for key, value in row.items():
            curve[key].append(value)
        print(*(f"{key} {value}" for key, value in row.items()), flush=True)
        if epoch % 5 == 0 or epoch == options.epochs:
            write_json(options.out, result)
            with atomic_write(options.out.with_suffix(".pt")) as file:
                torch.save(model.state_dict(), file)
    result["seconds"] = round(time.perf_counter() - start, 1)
    test = digits.test, digits.test_labels
    result["test_images"] = len(digits.test)
    result["test_error"] = {
        "one look": error(model, *test, samples_per_image=1),
        f"mean of {options.num_samples} looks": error(model, *test, samples_per_image=options.num_samples),
    }
    result["complete"] = True
    write_json(options.out, result)
    print(result["test_error"], f"written: {options.out}")


if __name__ == "__main__":
    main()
