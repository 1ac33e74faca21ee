"""Relevance: equal to the rules of Chefer et al. written with matrices, on the weights themselves."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import saccade as sc
from saccade.attribution import relevance
from saccade.models import SmallCNN
from support.errors import raises
from support.transformers import WAYS, Transformer

TARGET = [3, 1]


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 3, 12, 20, dtype=torch.float64)  # 3 x 5 patches


def normalized(r: Tensor) -> Tensor:
    identity = torch.eye(len(r), dtype=r.dtype)
    change = r - identity
    sums = change.sum(1, keepdim=True)
    return identity + torch.where(sums > 0, change / sums, 0)


def reference(model: Any, images: Tensor) -> Tensor:
    """Return the rows of R, equations 6 to 11, image by image."""
    model.set_way("kept")
    model.zero_grad()
    model(images)[range(2), TARGET].sum().backward()
    rows = []
    for image in range(2):
        count = 15 + (model.kind == "class")
        ii, tt = torch.eye(count, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
        ti, it = torch.zeros(3, count, dtype=torch.float64), torch.zeros(count, 3, dtype=torch.float64)
        for block in model.blocks:
            ii = ii + model.weighted(block)[image] @ ii
        if model.kind == "class":
            rows.append(ii[0, 1:])
        elif model.kind == "mean":
            rows.append(ii.mean(0))
        else:
            for index, (block, cross) in enumerate(zip(model.self_blocks, model.cross_blocks, strict=True)):
                a = model.weighted(block)[image]
                tt, ti = tt + a @ tt, ti + a @ ti
                a = model.weighted(cross)[image]
                more_ti, more_tt = normalized(tt).T @ a @ normalized(ii), a @ it
                if model.kind == "both" and index == 0:  # the last image stream has no influence
                    a = model.weighted(model.back_blocks[index])[image]
                    it, ii = it + normalized(ii).T @ a @ normalized(tt), ii + a @ ti
                ti, tt = ti + more_ti, tt + more_tt
            rows.append(ti[1])
    return torch.stack(rows).reshape(2, 3, 5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["class", "mean", "queries", "both"])
def test_relevance_equals_the_rules_of_the_paper(kind: str, way: str, images: Tensor) -> None:
    model = Transformer(kind, way).double()
    with torch.no_grad():
        heat = relevance(model, images, TARGET).weights
    expected = reference(model, images)
    assert heat.shape == (2, 3, 5)
    torch.testing.assert_close(heat, expected, rtol=1e-9, atol=1e-12)
    assert heat.flatten(1).std(1).min() > 1e-6 * heat.max()
    assert all(p.grad is not None for p in model.blocks.parameters())  # of the reference, not of relevance
    other = relevance(model, images, [0, 4]).weights
    assert not torch.allclose(heat, other)


def test_a_model_of_timm_with_and_without_fused_kernels() -> None:
    torch.manual_seed(0)
    model: Any = (
        timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3, num_classes=5).double().eval()
    )
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    fused = relevance(model, images, TARGET).weights
    kept: list[Any] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(keep)
    model(images)[range(2), TARGET].sum().backward()
    r = torch.eye(17, dtype=torch.float64).expand(2, -1, -1)
    for weights in kept:
        r = r + (weights * weights.grad).clamp(min=0).mean(1) @ r
    torch.testing.assert_close(fused, r[:, 0, 1:].reshape(2, 4, 4).detach(), rtol=1e-9, atol=1e-12)


def test_class_attention_of_cait_is_a_row_of_all_tokens() -> None:
    torch.manual_seed(0)
    model: Any = timm.create_model("cait_xxs24_224", img_size=64, depth=2, num_classes=5).double().eval()
    for block in [*model.blocks, *model.blocks_token_only]:
        nn.init.ones_(block.gamma_1)
        nn.init.ones_(block.gamma_2)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    heat = relevance(model, images, TARGET)
    assert heat.weights.shape == (2, 4, 4)
    assert heat.weights.flatten(1).std(1).min() > 0
    last = relevance(model, images, TARGET, start_layer=-1).weights
    assert not torch.allclose(last, heat.weights)


def test_what_has_no_relevance_is_refused() -> None:
    images = torch.rand(1, 3, 224, 224)
    with raises(sc.NothingRecorded, owner="relevance", value="SmallCNN"):
        relevance(SmallCNN(2), torch.rand(1, 3, 32, 32))
    swin: Any = timm.create_model("swin_tiny_patch4_window7_224", num_classes=2, depths=(1, 1, 1, 1))
    with raises(sc.NothingRecorded, owner="relevance", value="layers.0.blocks.0.attn"):
        relevance(swin, images)
    two_grids = timm.create_model("coatnet_nano_rw_224", img_size=64, num_classes=2)
    with raises(sc.BadShape, owner="relevance", option="model", value="16 x 16, 4 x 4"):
        relevance(two_grids, images[:, :, :64, :64])
    model = Transformer("class")
    with raises(sc.BadOption, owner="relevance", option="start_layer", value=3):
        relevance(model, torch.rand(1, 3, 8, 8), start_layer=3)
    with raises(sc.BadOption, owner="relevance", option="target", value=5):
        relevance(model, torch.rand(1, 3, 8, 8), 5)
    with raises(sc.BadOption, owner="relevance", option="images") as caught:
        relevance(model, torch.rand(1, 1, 8, 8))
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_model_keeps_its_state() -> None:
    model = Transformer("mean").train()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    relevance(model, torch.rand(1, 3, 8, 8))
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
