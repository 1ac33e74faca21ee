"""Same or different digit? A vision transformer decides from the difference of two feature maps.

    python examples/same_or_different.py

Two images pass through the same convolutional network with fixed random weights. The difference of their
feature maps is split into 16 groups of channels. A SimpleViT takes each group as a token and returns one
score for the pair. It is trained with the pair form of InfoNCE, which contrasts the mean score of pairs from
one class with that of pairs from two classes. Training and test set (1,297 and 500 digits of scikit-learn)
are disjoint.

The script prints three accuracies on test pairs: chance; a threshold on the norm of the difference, chosen as
the best for the test pairs; and the model, with a threshold from the training pairs.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import saccade as sc
from saccade.models import SimpleViT, info_nce

CHANNELS, GROUP, TEST = 128, 8, 500


@dataclass(frozen=True)
class Features:
    """Feature maps (N, C, H, W) of digits and their classes (N,)."""

    maps: Tensor
    classes: Tensor

    def pairs(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return differences of two maps, half of them from one class: (count, C, H, W), (count,)."""
        same = torch.arange(count) % 2
        first = torch.randint(len(self.classes), (count,), generator=generator)
        other = torch.randint(1, 10, (count,), generator=generator)
        wanted = torch.where(same == 1, self.classes[first], (self.classes[first] + other) % 10)
        weights = (self.classes == wanted[:, None]).float()
        weights[torch.arange(count), first] = 0  # never an image with itself
        second = weights.multinomial(1, generator=generator)[:, 0]
        return self.maps[first] - self.maps[second], same


def features(seed: int) -> tuple[Features, Features]:
    """Return the features of the training and test images from an untrained convolutional network."""
    generator = torch.Generator().manual_seed(seed)
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    classes = torch.from_numpy(digits.target)
    encoder = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, CHANNELS, 3, stride=2, padding=1),
        nn.ReLU(),
    )
    with torch.no_grad():
        for weights in encoder.parameters():
            fan_in = weights[0].numel()
            weights.normal_(std=(2 / fan_in) ** 0.5 if weights.ndim > 1 else 0.1, generator=generator)
        maps = encoder(images)
    order = torch.randperm(len(maps), generator=generator)
    test, train = order[:TEST], order[TEST:]
    maps = maps / maps[train].std()
    return Features(maps[train], classes[train]), Features(maps[test], classes[test])


def build() -> SimpleViT:
    """Return a SimpleViT with groups of channels as tokens."""
    return SimpleViT(
        (4, 4),
        channels=CHANNELS,
        tokens="channels",
        group_size=GROUP,
        head="score",
        width=64,
        depth=2,
        heads=4,
        head_width=16,
        mlp_width=128,
    )


def learn(model: SimpleViT, train: Features, steps: int, batch: int, generator: torch.Generator) -> None:
    """Train a model with the pair form of InfoNCE."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    for _ in range(steps):
        differences, same = train.pairs(batch, generator)
        loss = info_nce.pairs(model(differences), same, temperature=5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def accuracy(model: SimpleViT, train: Features, test: Features, generator: torch.Generator) -> float:
    """Return the accuracy on test pairs, with the midpoint of the mean training scores as threshold."""
    differences, same = train.pairs(1000, generator)
    scores = model(differences)
    threshold = (scores[same == 1].mean() + scores[same == 0].mean()) / 2
    differences, same = test.pairs(2000, generator)
    return float(((model(differences) > threshold) == (same == 1)).double().mean())


def accuracy_of_norm(test: Features, generator: torch.Generator) -> float:
    """Return the accuracy of the best threshold on the norm of the difference on test pairs."""
    differences, same = test.pairs(2000, generator)
    by_norm = same[differences.flatten(1).norm(dim=1).argsort()]
    correct = (by_norm == 1).cumsum(0) + (by_norm == 0).sum() - (by_norm == 0).cumsum(0)
    return float(correct.max()) / len(same)


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=600, help="training steps")
    parser.add_argument("--batch", type=int, default=256, help="pairs per step")
    parser.add_argument("--seed", type=int, default=0, help="random seed")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    train, test = features(options.seed)
    model = build()
    started = time.perf_counter()
    learn(model, train, options.steps, options.batch, generator)
    seconds = time.perf_counter() - started
    print(f"chance                     {0.5:.1%}")
    print(f"norm of the difference     {accuracy_of_norm(test, generator):.1%}")
    print(f"SimpleViT on its channels  {accuracy(model, train, test, generator):.1%}  after {seconds:.0f} s")
    with sc.record(model) as maps:
        model(test.pairs(2, generator)[0])
    received = maps["blocks.1.attn"].heatmap()[0]
    print(f"most attended of {len(received)} tokens, for one pair: {received.topk(3).indices.tolist()}")


if __name__ == "__main__":
    main()
