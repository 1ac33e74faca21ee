"""A program of a user, whose types mypy checks against the built wheel; see tests/test_typing.py."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import torch
from torch import nn

import saccade as sc


def deploy(model: nn.Module, images: torch.Tensor, folder: Path) -> float:
    """Attach attention to a model, look at it, save it and export it."""
    assert_type(sc.attach(model, "cbam", where="residual", example_inputs=images), sc.Sites)
    assert_type(sc.attached(model), sc.Attachments)
    with sc.record(model) as maps:
        model(images)
    assert_type(maps, sc.Maps)
    assert_type(maps["layer4"], sc.AttentionMap)
    assert_type(sc.save(model, folder), Path)
    exported = sc.export(model, folder / "model.onnx", images, to="onnx", maps=True)
    assert_type(exported.outputs, tuple[str, ...])
    try:
        sc.create("se", 16, reduction=0)
    except sc.BadOption as error:
        assert_type(error.option, str | None)
    return exported.max_error
