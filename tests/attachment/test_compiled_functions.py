"""Models whose functions are compiled one by one, as those of `flex_attention` are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention

import saccade as sc

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


class Block(nn.Module):
    """A residual block whose branch is attention by a function."""

    def __init__(self, attend: Callable[..., Any]) -> None:
        super().__init__()
        self.qkv, self.attend = nn.Linear(16, 48), attend

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        mixed: Tensor = self.attend(q, k, v)
        return mixed.transpose(1, 2).flatten(2)


class Network(nn.Module):
    def __init__(self, attend: Callable[..., Any]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(Block(attend) for _ in range(2))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).mT
        for block in self.blocks:
            x = x + block(x)
        scores: Tensor = self.head(x.mean(1))
        return scores


@pytest.mark.parametrize(
    "attend",
    [
        flex_attention,
        torch.compile(flex_attention, backend="aot_eager", fullgraph=True),
        torch.compile(F.scaled_dot_product_attention, backend="aot_eager"),
    ],
    ids=["flex", "compiled flex", "compiled fused"],
)
def test_their_branches_are_found(attend: Callable[..., Any]) -> None:
    torch.compiler.reset()
    model, images = Network(attend).eval(), torch.randn(2, 3, 4, 5)
    with torch.no_grad():
        plain = model(images)
        sc.attach(model, "se:reduction=4", where="residual", example_inputs=images)
        assert [attachment.path for attachment in sc.attached(model)] == [
            "blocks.0.attention",
            "blocks.1.attention",
        ]
        assert torch.equal(model(images), plain)
        with sc.record(model) as maps:
            assert torch.equal(model(images), plain)
        assert {*maps} >= {"blocks.0.attention.mechanism", "blocks.1.attention.mechanism"}
