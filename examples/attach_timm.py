"""Fine-tune a network of timm with CBAM, by timm's own parts, and load the checkpoint.

    python examples/attach_timm.py --out timm

Optimizer with a rate for each layer, schedule, average of the weights (EMA) and checkpoints treat attention
like the rest of the network. For inference, `reparameterize_model` merges the branches and keeps it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models import load_checkpoint
from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.utils.checkpoint_saver import CheckpointSaver
from timm.utils.model import reparameterize_model
from timm.utils.model_ema import ModelEmaV3
from torch import nn

import saccade as sc


def build() -> nn.Module:
    """Return RepVGG with CBAM at the end of each block. Load pretrained weights before `attach`."""
    model = timm.create_model("repvgg_a0", num_classes=2)
    sc.attach(model, "cbam", example_inputs=torch.zeros(1, 3, 64, 64))
    return model


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("timm"))
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    images, labels = torch.rand(4, 3, 64, 64), torch.arange(4) % 2
    model = build().train()

    # %% The average is a copy of the model with its attention.
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.8)
    schedule = CosineLRScheduler(optimizer, t_initial=2)
    average = ModelEmaV3(model, decay=0.5)
    saver: Any = CheckpointSaver(  # type: ignore[no-untyped-call]
        model, optimizer, model_ema=average, checkpoint_dir=str(options.out)
    )
    for epoch in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        average.update(model)
        schedule.step(epoch + 1)
        saver.save_checkpoint(epoch)

    # %% Attach, then load.
    loaded = build().eval()
    load_checkpoint(loaded, str(options.out / "last.pth.tar"), use_ema=True)
    assert torch.equal(loaded(images), average.module.eval()(images))
    print(sc.attached(loaded))

    # %% For inference; in double precision, the branches and their sum agree to many digits.
    merged, images = reparameterize_model(loaded.double()), images.double()
    print(f"{sum(a.runs for a in sc.attached(merged))} of {len(sc.attached(loaded))} attachments run merged")
    torch.testing.assert_close(merged(images), loaded(images))


if __name__ == "__main__":
    main()
