"""Measure how attention changes a network at initialization: the scale of the last features of ResNet-50.

    python benchmarks/attach_scale.py

Each drop-in mechanism is attached to every residual branch, initialized as in its paper and as an identity.
The network has random weights. Its batch-norm statistics are those of the images, so that the network without
attention preserves the scale of its features. The result is the standard deviation of the features before
pooling, relative to the network without attention, in evaluation mode. Writes
benchmarks/results/attach-scale.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

import saccade as sc
from saccade.files import write_json
from saccade.results import hardware_info

RESULTS = Path(__file__).parent / "results" / "attach-scale.json"
SEED, BATCH, SIZE = 0, 16, 64


def features(model: nn.Module, x: Tensor) -> Tensor:
    """Return the output of the last stage."""
    outputs: list[Tensor] = []
    handle = model.get_submodule("layer4").register_forward_hook(lambda _, __, y: outputs.append(y))
    with handle, torch.no_grad():
        model(x)
    return outputs[0]


def plain(x: Tensor) -> nn.Module:
    torch.manual_seed(SEED)
    model: nn.Module = torchvision.models.resnet50(weights=None)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # cumulative statistics instead of a moving average
    with torch.no_grad():
        model.train()(x)
    return model.eval()


def main() -> None:
    torch.manual_seed(SEED)
    x = torch.randn(BATCH, 3, SIZE, SIZE)
    model = plain(x)
    without = features(model, x)
    rows: list[dict[str, Any]] = []
    for name in (name for name in sc.mechanisms() if sc.spec(name).drop_in):
        row: dict[str, Any] = {"mechanism": name}
        for identity in (False, True):
            torch.manual_seed(SEED)
            plan = sc.attach(model, name, example_inputs=x[:2], identity=identity)
            attended = features(model, x)
            key = "identity" if identity else "paper"
            row[key] = round((attended.std() / without.std()).item(), 4)
            row[f"{key}_bit_identical"] = torch.equal(attended, without)
            row["start"] = sorted({site.start for site in plan if site.start})
            sc.detach(model)
        rows.append(row)
        print(
            f"{name:<20} paper {row['paper']:>9.4f}   identity {row['identity']:.4f}   "
            f"{'bit-identical' if row['identity_bit_identical'] else 'up to rounding'}"
        )
    result = {
        "command": "python benchmarks/attach_scale.py",
        "network": "torchvision resnet50, random weights, batch-norm statistics of the images",
        "images": [BATCH, 3, SIZE, SIZE],
        "seed": SEED,
        "std_without_attention": without.std().item(),
        "hardware": hardware_info(),
        "rows": rows,
    }
    write_json(RESULTS, result)


if __name__ == "__main__":
    main()
