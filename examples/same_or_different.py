"""Are these two digits the same? A vision transformer learns it from the difference of their feature maps.

    python examples/same_or_different.py

Two images go through one fixed convolution network of random weights. The difference of their feature maps
is cut into 16 groups of channels; a SimpleViT takes each group as a token and gives one score to the
pair. It is trained by the pair form of InfoNCE: the mean score of the pairs of one class against that of the
pairs of two. Training and test images (1,297 and 500 of scikit-learn's digits) are different ones.

Three numbers are printed: chance; how many test pairs the length of the difference alone tells apart, with
the threshold that suits them best; and the model's accuracy, with a threshold from the training pairs.
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
    """Feature maps (N, C, H, W) of digits and their classes (N,), those of each class also by index."""

    maps: Tensor
    classes: Tensor

    def pairs(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw differences of two maps, half of them of one class. -> (count, C, H, W), (count,)."""
        same = torch.arange(count) % 2
        first = torch.randint(len(self.classes), (count,), generator=generator)
        other = torch.randint(1, 10, (count,), generator=generator)
        wanted = torch.where(same == 1, self.classes[first], (self.classes[first] + other) % 10)
        weights = (self.classes == wanted[:, None]).float()
        weights[torch.arange(count), first] = 0  # never an image and itself
        second = weights.multinomial(1, generator=generator)[:, 0]
        return self.maps[first] - self.maps[second], same


def features(seed: int) -> tuple[Features, Features]:
    """Return the training and the test images as seen by a convolution network that is never trained."""
    generator = torch.Generator().manual_seed(seed)
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    classes = torch.from_numpy(digits.target)
    eyes = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, CHANNELS, 3, stride=2, padding=1),
        nn.ReLU(),
    )
    with torch.no_grad():
        for weights in eyes.parameters():
            fan_in = weights[0].numel()
            weights.normal_(std=(2 / fan_in) ** 0.5 if weights.ndim > 1 else 0.1, generator=generator)
        seen = eyes(images)
    order = torch.randperm(len(seen), generator=generator)
    test, train = order[:TEST], order[TEST:]
    seen = seen / seen[train].std()
    return Features(seen[train], classes[train]), Features(seen[test], classes[test])


def build() -> SimpleViT:
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
    """Return the share of test pairs that a threshold half-way between the training means tells apart."""
    differences, same = train.pairs(1000, generator)
    scores = model(differences)
    threshold = (scores[same == 1].mean() + scores[same == 0].mean()) / 2
    differences, same = test.pairs(2000, generator)
    return float(((model(differences) > threshold) == (same == 1)).double().mean())


def accuracy_of_length(test: Features, generator: torch.Generator) -> float:
    """Return the best that any threshold on the length of the difference can do on test pairs."""
    differences, same = test.pairs(2000, generator)
    longest_last = same[differences.flatten(1).norm(dim=1).argsort()]
    right = (longest_last == 1).cumsum(0) + (longest_last == 0).sum() - (longest_last == 0).cumsum(0)
    return float(right.max()) / len(same)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    train, test = features(options.seed)
    model = build()
    began = time.perf_counter()
    learn(model, train, options.steps, options.batch, generator)
    seconds = time.perf_counter() - began
    print(f"chance                     {0.5:.1%}")
    print(f"length of the difference   {accuracy_of_length(test, generator):.1%}")
    print(f"SimpleViT on its channels  {accuracy(model, train, test, generator):.1%}  after {seconds:.0f} s")
    with sc.record(model) as maps:
        model(test.pairs(2, generator)[0])
    received = maps["blocks.1.attn"].heatmap()[0]
    print(f"most attended of its {len(received)} tokens, for one pair: {received.topk(3).indices.tolist()}")


if __name__ == "__main__":
    main()
