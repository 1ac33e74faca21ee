"""The examples run and reach the accuracy that they claim."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "examples"))

import backbones
import same_or_different as example


def test_a_vision_transformer_of_channels_learns_same_from_different() -> None:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        generator = torch.Generator().manual_seed(0)
        train, test = example.features(seed=0)
        model = example.build()
        before = example.accuracy(model, train, test, generator)
        example.learn(model, train, steps=150, batch=128, generator=generator)
    assert before < 0.65  # chance is 0.5
    assert example.accuracy(model, train, test, generator) > 0.72


def test_pairs_are_what_their_labels_say() -> None:
    classes = torch.arange(10).repeat(3)
    maps = torch.arange(30.0) + 100 * classes  # a map that identifies image and class
    pairs = example.Features(maps[:, None, None, None], classes).pairs(500, torch.Generator().manual_seed(0))
    differences, same = pairs
    assert same.double().mean() == 0.5
    assert ((differences.flatten().abs() < 50) == (same == 1)).all()
    assert (differences != 0).all()  # never an image with itself


def test_attention_is_attached_recorded_and_detached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with torch.random.fork_rng(devices=()):
        backbones.main(["--side", "64", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "16 x CBAM" in printed
    assert "12 maps; attention from row 1, column 2 in the last: (2, 4, 4)" in printed
    gate = float(printed.split("after two steps: ")[1].split()[0])
    assert abs(gate) > 1e-6
    names = {path.name for path in tmp_path.iterdir()}
    assert {"resnet50-cbam.html", "vit.html"} < names
    assert sum(name.endswith(".png") for name in names) == 4
