"""Attach CBAM to a detector of torchvision, train a step, and fuse its norms around the attention.

python examples/attach_detection.py
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection import fcos_resnet50_fpn

import saccade as sc


def main(size: int = 128) -> None:
    model = fcos_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=2, min_size=size, max_size=2 * size
    )
    images = [torch.rand(3, size, size), torch.rand(3, size, size + 32)]
    targets: list[dict[str, Tensor]] = [
        {"boxes": torch.tensor([[8.0, 8.0, 64.0, 64.0]]), "labels": torch.tensor([1])} for _ in images
    ]

    # %% A detector takes a list of images, in training also targets.
    plan = sc.attach(model, "cbam", example_inputs=images)
    print(f"{len(plan)} x CBAM, the first at {plan[0].path}")
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    losses: dict[str, Tensor] = model.train()(images, targets)
    torch.stack([*losses.values()]).sum().backward()
    optimizer.step()

    # %% For inference: fold the batch norms, keep the attention.
    folded = sc.fuse(model.eval(), images)
    running = [attachment for attachment in sc.attached(model) if attachment.runs]
    print(f"{len(folded)} norms folded, {len(running)} of {len(plan)} attachments run")


if __name__ == "__main__":
    main()
