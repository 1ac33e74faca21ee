"""Train YOLO11 of ultralytics with CBAM; predict, validate and export the checkpoint.

    python examples/attach_ultralytics.py coco8.yaml --epochs 3

`YOLO.train` builds a new network, so a trainer attaches the attention. Everything that loads the checkpoint
finds it there, also after ultralytics has fused convolutions and batch norms.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer

import saccade as sc
from saccade.integrations.ultralytics import AttachAttention


class CBAMTrainer(AttachAttention, DetectionTrainer):  # type: ignore[misc]
    """A trainer whose networks have CBAM at the end of each residual branch."""

    attention = "cbam:reduction=4@residual"


def train(data: str, out: Path, *, epochs: int, size: int) -> Path:
    """Train a network and return its checkpoint."""
    folder = {"project": str(out), "name": "cbam", "exist_ok": True}
    settings = {"imgsz": size, "batch": 4, "workers": 0, "plots": False, "device": "cpu", "verbose": False}
    YOLO("yolo11n.yaml").train(data=data, epochs=epochs, trainer=CBAMTrainer, **folder, **settings)
    return out / "cbam" / "weights" / "last.pt"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="a data set of ultralytics, a YAML file")
    parser.add_argument("--out", type=Path, default=Path("yolo"))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size", type=int, default=640)
    options = parser.parse_args(arguments)
    checkpoint = train(options.data, options.out.resolve(), epochs=options.epochs, size=options.size)
    loaded = YOLO(checkpoint)
    print(sc.attached(loaded.model))
    loaded.val(
        data=options.data, imgsz=options.size, workers=0, plots=False, project=str(options.out.resolve())
    )
    print(loaded.export(format="torchscript", imgsz=options.size))


if __name__ == "__main__":
    main()
