"""Train a network of timm with CBAM in Lightning, and load the checkpoint.

    python examples/attach_lightning.py --out lightning

Attach in `__init__`: `load_from_checkpoint` calls it, and then loads the weights, those of the attention too.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import lightning
import timm
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import saccade as sc


class Classifier(lightning.LightningModule):
    """ResNet-10 with CBAM at the end of each residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.model = timm.create_model("resnet10t", num_classes=2)
        sc.attach(self.model, "cbam", example_inputs=torch.zeros(1, 3, 64, 64))

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self.model(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        gates = [p for key, p in self.named_parameters() if key.endswith(".attention.gate")]
        others = [p for key, p in self.named_parameters() if not key.endswith(".attention.gate")]
        groups: list[dict[str, Any]] = [{"params": others}, {"params": gates, "lr": 1e-2}]
        return torch.optim.AdamW(groups, lr=1e-3)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("lightning"))
    options = parser.parse_args(arguments)
    images, labels = torch.rand(8, 3, 64, 64), torch.arange(8) % 2
    module = Classifier()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(images, labels), batch_size=4))
    trainer.save_checkpoint(options.out / "last.ckpt")
    loaded = Classifier.load_from_checkpoint(options.out / "last.ckpt", map_location="cpu").eval()
    print(sc.attached(loaded))
    assert torch.equal(loaded.model(images), module.eval().model(images))


if __name__ == "__main__":
    main()
