"""Grad-CAM and its kin: their formulas, tokens and channels-last features, and the default layer."""

from __future__ import annotations

from typing import Any

import captum.attr
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import saccade as sc
from saccade.attribution import detection_score, grad_cam, last_layer, segmentation_score
from saccade.models import SmallCNN
from support.errors import raises

TARGET = [2, 0, 3]
METHODS = ["grad_cam", "grad_cam++", "hires_cam", "layer_cam", "eigen_cam"]


def formula(method: str, a: Tensor, g: Tensor) -> Tensor:
    """Return the map of one image from features and gradient (C, h, w), place by place."""
    heat = torch.zeros(a.shape[1:], dtype=a.dtype)
    places = [(y, x) for y in range(a.shape[1]) for x in range(a.shape[2])]
    if method == "eigen_cam":
        values, vectors = torch.linalg.eigh(a.flatten(1) @ a.flatten(1).T)
        heat = (vectors[:, int(values.argmax())] @ a.flatten(1)).reshape(heat.shape)
        signed: Tensor = heat * heat.sum().sign()
        return signed.relu()
    for c in range(len(a)):
        weight: Any = g[c].mean()
        if method == "grad_cam++":
            weight = 0
            for p in places:
                below = 2 * g[c][p] ** 2 + a[c].sum() * g[c][p] ** 3
                weight += (g[c][p] ** 2 / below if below else 0) * g[c][p].relu()
        for p in places:
            if method == "hires_cam":
                weight = g[c][p]
            if method == "layer_cam":
                weight = g[c][p].relu()
            heat[p] += weight * a[c][p]
    return heat.relu()


@pytest.mark.parametrize("method", METHODS)
def test_each_method_is_its_formula(method: Any) -> None:
    torch.manual_seed(0)
    model = SmallCNN(4).double().eval()
    images = torch.randn(3, 3, 24, 32, dtype=torch.float64)
    features = (model.stages[1](model.stages[0](images))).detach().requires_grad_()
    scores = model.head(model.stages[2](features).mean((2, 3)))
    (gradient,) = torch.autograd.grad(scores[range(3), TARGET].sum(), features)
    expected = [formula(method, a, g) for a, g in zip(features.detach(), gradient, strict=True)]
    heat = grad_cam(model, images, "stages.1", TARGET, method=method).weights
    torch.testing.assert_close(heat, torch.stack(expected), rtol=1e-9, atol=1e-12)
    assert heat.any()


def test_captum_computes_the_same() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=4).double().eval()
    images = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    layer = captum.attr.LayerGradCam(model, model.layer3)
    expected = layer.attribute(images, target=TARGET, relu_attributions=True)[:, 0]
    torch.testing.assert_close(grad_cam(model, images, "layer3", TARGET).weights, expected.detach())
    guided = captum.attr.GuidedBackprop(model).attribute(images.clone().requires_grad_(), target=TARGET)
    expected = F.interpolate(expected[:, None], (64, 64), mode="bilinear")[:, 0] * guided.abs().amax(1)
    heat = grad_cam(model, images, "layer3", TARGET, method="guided_grad_cam").weights
    torch.testing.assert_close(heat, expected.detach())


def test_tokens_and_channels_last_features_are_put_on_the_grid() -> None:
    torch.manual_seed(0)
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    vit: Any = (
        timm.create_model("vit_tiny_patch16_224", img_size=(64, 96), depth=2, num_classes=3).double().eval()
    )
    x = vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))
    x = vit.blocks[0](x)
    a = vit.blocks[1].norm1(x)
    y = x + vit.blocks[1].attn(a)
    score = vit.forward_head(vit.norm(y + vit.blocks[1].mlp(vit.blocks[1].norm2(y))))[0, 2]
    (g,) = torch.autograd.grad(score, a)
    expected = (g[:, 1:].mean(1, keepdim=True) * a[:, 1:]).sum(2).relu().reshape(1, 4, 6).detach()
    torch.testing.assert_close(grad_cam(vit, images, target=2).weights, expected)

    swin: Any = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=64, depths=(1, 1, 1, 1), num_classes=3
    )
    swin.double().eval()
    images = images[:, :, :, :64]
    a = swin.forward_features(images)
    (g,) = torch.autograd.grad(swin.forward_head(a)[0, 2], a)
    expected = (g.mean((1, 2), keepdim=True) * a).sum(3).relu().detach()
    torch.testing.assert_close(grad_cam(swin, images, target=2).weights, expected)


@pytest.mark.parametrize(
    ("name", "layer", "grid"),
    [
        ("resnet18", "layer4", (2, 2)),
        ("vit_tiny_patch16_224", "blocks.11.norm1", (4, 4)),
        ("deit_tiny_distilled_patch16_224", "blocks.11.norm1", (4, 4)),
        ("swin_tiny_patch4_window7_224", "norm", (2, 2)),
        ("cait_xxs24_224", "blocks_token_only.1.norm1", (4, 4)),
        ("levit_128s", "stages.1", (2, 2)),
        ("pvt_v2_b0", "stages", (2, 2)),
        ("mixer_s32_224", "norm", (2, 2)),
        ("convnext_atto", "norm_pre", (2, 2)),
    ],
)
def test_the_default_layer_has_the_grid_of_the_image(name: str, layer: str, grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    size: dict[str, Any] = {} if name in ("resnet18", "convnext_atto", "pvt_v2_b0") else {"img_size": 64}
    model: Any = timm.create_model(name, num_classes=3, **size).eval()
    images = torch.rand(2, 3, 64, 64)
    assert last_layer(model, images) == layer
    assert grad_cam(model, images, target=1).weights.shape == (2, *grid)


def test_attention_weights_are_no_features() -> None:
    model: Any = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=3).eval()
    for block in model.blocks:
        block.attn.fused_attn = False
    with raises(sc.BadShape, owner="grad_cam", option="layer", value="blocks.1.attn.attn_drop"):
        grad_cam(model, torch.rand(1, 3, 64, 64), "blocks.1.attn.attn_drop")


def test_segmentation_detection_and_several_inputs() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 64, 64)
    create = torchvision.models.segmentation.lraspp_mobilenet_v3_large
    model = create(weights=None, weights_backbone=None, num_classes=3).eval()
    assert last_layer(model, image, segmentation_score(1)).startswith("backbone.")
    first, second = (grad_cam(model, image, target=segmentation_score(k)).weights for k in (0, 1))
    assert not torch.equal(first, second)
    with raises(sc.BadShape, owner="grad_cam", option="target", value=(1, 3, 64, 64)):
        grad_cam(model, image)  # an output of the shape of the image may be an image

    detector = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    ).eval()
    heat = grad_cam(detector, ([image[0]],), target=detection_score())
    assert heat.weights.shape[0] == 1
    assert torch.equal(grad_cam(detector, ([image[0]],)).weights, heat.weights)
    assert torch.equal(grad_cam(detector, image).weights, heat.weights)
    create = torchvision.models.segmentation.lraspp_mobilenet_v3_large
    model = create(weights=None, weights_backbone=None, num_classes=5).eval()
    most = int(model(image)["out"].argmax(1).mode(1).values.mode(1).values)
    found = [grad_cam(model, image, target=t).weights for t in (None, segmentation_score(most))]
    torch.testing.assert_close(*found)

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = SmallCNN(3)

        def forward(self, *, pixel_values: Tensor, shift: Tensor) -> dict[str, Tensor]:
            return {"logits": self.model(pixel_values + shift)}

    named, inputs = Named(), {"pixel_values": image, "shift": torch.ones(1, 1, 1, 1)}
    expected = grad_cam(named.model, image + 1, target=1).weights
    torch.testing.assert_close(grad_cam(named, inputs, target=1).weights, expected)
    with raises(sc.BadOption, owner="grad_cam", option="method", value="guided_grad_cam"):
        grad_cam(named, inputs, method="guided_grad_cam")


def test_bad_models_and_targets() -> None:
    image = torch.rand(1, 3, 16, 16)
    with raises(sc.BadOption, owner="grad_cam", option="model", value="TopLevelTracedModule"):
        grad_cam(torch.jit.trace(SmallCNN(2).eval(), image), image)
    with raises(sc.BadOption, owner="grad_cam", option="target"):
        grad_cam(SmallCNN(2), image, target=lambda output: output)
    with raises(sc.BadOption, owner="grad_cam", option="method", value="cam"):
        grad_cam(SmallCNN(2), image, method="cam")  # type: ignore[arg-type]
    with raises(sc.BadOption, owner="grad_cam", option="images"):
        grad_cam(SmallCNN(2), ("image",))
