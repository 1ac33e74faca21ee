"""Tokens of outlying norm: which they are, and how much attention they take."""

from __future__ import annotations

import html

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import saccade as sc
from saccade.maps import ClassTokenMap
from saccade.recording import outlying_tokens
from saccade.viz.payload import pack_maps

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(8), Attention()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.attention(self.norm(x))
        return out


class Transformer(nn.Module):
    """Four by four tokens and a class token, and tokens of objects at the end.

    Between the blocks, one token of each image becomes large.
    """

    def __init__(self, *, size: float = 100.0, objects: int = 0) -> None:
        super().__init__()
        if objects:
            self.detection_tokens = nn.Parameter(0.1 * torch.randn(1, objects, 8))
        self.stem, self.size = nn.Conv2d(3, 8, 4, 4), size
        self.cls_token = nn.Parameter(0.1 * torch.randn(1, 1, 8))
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        if hasattr(self, "detection_tokens"):
            x = torch.cat([x, self.detection_tokens.expand(len(x), -1, -1)], 1)
        x = self.blocks[0](x)
        large = x.new_zeros(x.shape[:2])
        large[0, 1 + 6] = large[1, 1 + 9] = self.size
        x = self.blocks[1](x + large[..., None])
        out: Tensor = x[:, 0]
        return out


def test_tokens_of_outlying_norm_are_found_where_they_enter() -> None:
    torch.manual_seed(0)
    model = Transformer().eval()
    with torch.no_grad(), sc.record(model) as maps:
        model(IMAGES)
    found = outlying_tokens(model, maps, lambda: model(IMAGES))
    assert [*found] == ["blocks.1.attention"]
    tokens, attention = found["blocks.1.attention"], maps["blocks.1.attention"]
    assert tokens.nonzero().tolist() == [[0, 7], [1, 10]]
    assert isinstance(attention, ClassTokenMap)
    received = attention.tokens().weights().mean((1, 2))
    torch.testing.assert_close(attention.share(tokens), torch.stack([received[0, 7], received[1, 10]]))
    torch.testing.assert_close(attention.share(~tokens), 1 - attention.share(tokens))
    assert not outlying_tokens(model, maps, lambda: model(IMAGES), ratio=1e4)
    even = Transformer(size=0.0).eval()
    assert not outlying_tokens(even, maps, lambda: even(IMAGES), ratio=20)


def test_tokens_at_the_end_are_put_before_the_places() -> None:
    torch.manual_seed(0)
    model = Transformer(objects=2).eval()
    with torch.no_grad(), sc.record(model) as maps:
        model(IMAGES)
    tokens = outlying_tokens(model, maps, lambda: model(IMAGES))["blocks.1.attention"]
    assert tokens.nonzero().tolist() == [[0, 3 + 6], [1, 3 + 9]]


def test_look_marks_them() -> None:
    torch.manual_seed(0)
    seen = sc.look(Transformer(), IMAGES)
    assert [*seen.outliers] == ["blocks.1.attention"]
    data = pack_maps(
        seen.maps,
        seen.saliency,
        seen.inputs.display_images,
        seen.inputs.names,
        1 << 20,
        outliers=seen.outliers,
    )
    first, second = data["layers"]
    assert "outliers" not in first
    assert second["outliers"] == [[[0.625, 0.375]], [[0.375, 0.625]]]
    assert second["outlier_count"] == [1, 1]
    attention = seen.maps["blocks.1.attention"]
    assert isinstance(attention, ClassTokenMap)
    share = attention.tokens().weights().mean((1, 2))[0, 7].item()
    assert second["outlier_share"][0] == pytest.approx(share, abs=1e-3)
    page = html.unescape(seen._repr_html_())
    assert '"outlier_count":[1,1]' in page.replace(" ", "")


def test_windows_are_left_out() -> None:
    model = sc.create("window", 8, size=4)
    with torch.no_grad(), sc.record(model) as maps:
        model(torch.randn(1, 8, 8, 8))
    assert outlying_tokens(model, maps, lambda: pytest.fail("the model ran")) == {}
