"""The examples learn what they say that they learn."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

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
    own = torch.arange(30.0) + 100 * classes  # a map that tells image and class
    pairs = example.Features(own[:, None, None, None], classes).pairs(500, torch.Generator().manual_seed(0))
    differences, same = pairs
    assert same.double().mean() == 0.5
    assert ((differences.flatten().abs() < 50) == (same == 1)).all()
    assert (differences != 0).all()  # never an image and itself
