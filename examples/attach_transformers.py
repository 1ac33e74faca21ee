"""Fine-tune a ViT of transformers with CBAM, and load the checkpoint with its attention.

    python examples/attach_transformers.py --out vit

The network is small and has random weights. Use `from_pretrained` of transformers for yours, then attach.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import ViTConfig, ViTForImageClassification

import saccade as sc
from saccade.integrations import transformers as attention


def build() -> ViTForImageClassification:
    """Return a small ViT."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, num_labels=2, **sizes))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("vit"))
    options = parser.parse_args(arguments)
    model, images, labels = build(), torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])

    # %% CBAM attends to the grid of the patches; the class token passes by. The head reads this token alone:
    # nothing reads the patches of the last block, so that its places are skipped, and the table says so.
    print(attention.attach(model, "cbam:reduction=4", example_inputs={"pixel_values": images}))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        model(pixel_values=images, labels=labels).loss.backward()
        optimizer.step()

    # %% The folder holds the weights, and the configuration says what to attach.
    model.eval().save_pretrained(options.out)
    loaded = attention.from_pretrained(ViTForImageClassification, options.out)
    print(sc.attached(loaded))
    assert torch.equal(loaded(images).logits, model(images).logits)


if __name__ == "__main__":
    main()
