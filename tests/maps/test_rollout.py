"""Rollout with fused heads and discarded weights, sinks, and the mask of a class token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import saccade as sc
from saccade.maps import ClassTokenMap, PairwiseMap, attention_rollout
from support.errors import raises


def layer(seed: int, *, extra: int = 1) -> ClassTokenMap:
    generator = torch.Generator().manual_seed(seed)
    q, k = (3 * torch.randn(2, 3, 6 + extra, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    return ClassTokenMap(
        q[:, :, extra:], k[:, :, extra:], 0.5, (2, 3), (2, 3), q[:, :, :extra], k[:, :, :extra]
    )


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize("ratio", [0.0, 0.5])
@pytest.mark.parametrize("start", [0, 1, -1])
def test_rollout_is_the_product_of_matrices(fusion: Any, ratio: float, start: int) -> None:
    layers = [layer(seed) for seed in range(3)]
    expected = torch.eye(7, dtype=torch.float64).expand(2, -1, -1)
    for attention in layers[start:]:
        a = attention.tokens().weights()
        fused = {"mean": a.mean(1), "max": a.amax(1), "min": a.amin(1)}[fusion]
        for row in fused.reshape(-1, 7):
            for column in row.argsort()[: int(7 * ratio)].tolist():
                row[column] = row[column] if column == 0 else 0
        a = fused + torch.eye(7, dtype=torch.float64)
        expected = a / a.sum(2, keepdim=True) @ expected
    found = attention_rollout(layers, head_fusion=fusion, discard_ratio=ratio, start_layer=start).weights
    torch.testing.assert_close(found, expected[:, 0, 1:].reshape(2, 2, 3))


@pytest.mark.parametrize("options", [{"head_fusion": "sum"}, {"discard_ratio": 1.0}, {"start_layer": 3}])
def test_options_out_of_range(options: dict[str, Any]) -> None:
    ((option, value),) = options.items()
    with raises(sc.BadOption, owner="rollout", option=option, value=value):
        attention_rollout([layer(0)] * 3, **options)


def test_sinks_are_tokens_that_receive_most_attention() -> None:
    attention = layer(0)
    received = attention.tokens().weights().mean((1, 2))
    sinks = attention.sinks(1.5)
    assert torch.equal(sinks.tokens, received > 1.5 / 7)
    assert sinks.tokens.any()
    torch.testing.assert_close(sinks.share, (received * sinks.tokens).sum(1))
    even: Tensor = torch.zeros(1, 1, 16, 2)
    assert not PairwiseMap(even, even, 1.0, (4, 4), (4, 4)).sinks().tokens.any()


def test_the_class_mask_holds_the_mass_with_the_fewest_positions() -> None:
    attention = layer(1)
    for head in (None, 2):
        row = attention.class_row(head).flatten(1)
        mask = attention.class_mask(0.6, head).flatten(1)
        for image in range(2):
            inside, total = row[image][mask[image]], row[image].sum()
            assert inside.sum() >= 0.6 * total > inside.sum() - inside.min()
            assert inside.min() > row[image][~mask[image]].max()
    assert attention.class_mask(1.0).all()
    with raises(sc.BadOption, owner="ClassTokenMap", option="mass", value=0):
        attention.class_mask(0)
