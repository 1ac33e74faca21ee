"""Windows of networks of timm whose places an adapter knows: GC ViT and VOLO."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models import gcvit, volo
from torch import Tensor, nn

import saccade as sc
from saccade.maps import SpatialMap, WindowMap
from support.errors import raises

CHANNELS, HEADS = 12, 3


def maps_of(*shape: int) -> Tensor:
    return torch.randn(*shape, CHANNELS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def seeded(module: nn.Module) -> Any:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.double().eval()


@pytest.mark.parametrize("is_global", [False, True])
def test_windows_of_gcvit(is_global: bool) -> None:
    """Weights on the whole grid, times values, make the output of the attention."""
    make: Any = gcvit.GlobalContextVitBlock
    block = seeded(make(CHANNELS, (6, 8), HEADS, (3, 4), use_global=is_global))
    x, query = maps_of(2, 6, 8), maps_of(2, 3, 4)
    inputs = (x, query) if is_global else (x,)
    outputs: list[Tensor] = []
    block.ls1.register_forward_hook(lambda *call: outputs.append(call[-1]))
    with torch.no_grad():
        expected = block(*inputs)
        with sc.record(block) as maps:
            assert torch.equal(block(*inputs), expected)
    attention = maps["attn"]
    assert isinstance(attention, WindowMap)
    assert attention.query_shape == attention.key_shape == (6, 8)
    values = block.attn.qkv(block.norm1(x).flatten(1, 2)).chunk(2 + (not is_global), -1)[-1]
    mixed = attention.weights() @ values.unflatten(2, (HEADS, -1)).transpose(1, 2)
    found = block.attn.proj(mixed.transpose(1, 2).flatten(2)).unflatten(1, (6, 8))
    torch.testing.assert_close(found, outputs[0])


def test_windows_of_gcvit_need_their_block() -> None:
    attention = gcvit.WindowAttentionGlobal(CHANNELS, HEADS, (3, 4))
    name = "WindowAttentionGlobal"
    with raises(sc.BadOption, owner="record", option="model", value=name), sc.record(attention):
        pass


@pytest.mark.parametrize("stride", [1, 2])
def test_outlook_attention_of_volo(stride: int) -> None:
    """If all values are 1, the sum of the outputs over all positions is what the positions give."""
    attention = seeded(volo.OutlookAttention(CHANNELS, HEADS, stride=stride))
    x = maps_of(2, 6, 5)
    with torch.no_grad(), sc.record(attention) as maps:
        attention(x)
    received = maps[""]
    assert isinstance(received, SpatialMap)
    for y, column in ((0, 0), (3, 2), (5, 4)):
        only = torch.zeros(2, 6, 5, CHANNELS, dtype=torch.float64)
        only[:, y, column] = 1
        outputs: list[Tensor] = []
        plain = seeded(volo.OutlookAttention(CHANNELS, HEADS, stride=stride))
        plain.v.forward = lambda _x, only=only: only
        plain.proj.register_forward_pre_hook(lambda _, args, outputs=outputs: outputs.append(args[0]))
        with torch.no_grad():
            plain(x)
        expected = outputs[0].sum((1, 2)).mean(1)  # over positions, and channels of all heads
        torch.testing.assert_close(received.weights[:, y, column], expected)
