"""`attach` and `detach` on many architectures of torchvision and timm.

Each model is small, has random weights and is built once. Each mechanism is attached, trained for two steps,
saved, loaded and detached.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
import torchvision.models as tv
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.models.swin_transformer import SwinTransformer

import saccade as sc
from support.errors import raises
from support.networks import Residual, UNet


def _vgg() -> nn.Module:
    model: nn.Module = tv.vgg11_bn(init_weights=False)
    model.classifier = nn.Linear(512 * 49, 10)  # the original has 120 million parameters
    return model


def _inception(name: str) -> nn.Module:
    model: nn.Module = tv.get_model(name, weights=None, init_weights=False, aux_logits=False, num_classes=10)
    return model


SMALL_VIT = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2}
#: A function that builds the model, the shape of an image, and the kinds of places.
ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[str, ...]]] = {
    "resnet18": (lambda: tv.resnet18(num_classes=10), (3, 64, 64), ("residual", "stage")),
    "resnext50": (
        lambda: ResNet(Bottleneck, [1, 1, 1, 1], 10, groups=32, width_per_group=4),
        (3, 32, 32),
        ("residual",),
    ),
    "densenet121": (lambda: tv.DenseNet(16, (2, 3, 2), num_classes=10), (3, 48, 48), ("stage", "stem")),
    "vgg11_bn": (_vgg, (3, 32, 32), ("stage", "head")),
    "mobilenet_v2": (lambda: tv.mobilenet_v2(num_classes=10), (3, 32, 32), ("residual",)),
    "mobilenet_v3_small": (lambda: tv.mobilenet_v3_small(num_classes=10), (3, 64, 64), ("residual",)),
    "mnasnet0_5": (lambda: tv.mnasnet0_5(weights=None, num_classes=10), (3, 48, 48), ("residual",)),
    "efficientnet_b0": (lambda: tv.efficientnet_b0(num_classes=10), (3, 48, 48), ("residual", "stage")),
    "regnet_x_400mf": (lambda: tv.regnet_x_400mf(num_classes=10), (3, 48, 48), ("residual",)),
    "regnet_y_400mf": (lambda: tv.regnet_y_400mf(num_classes=10), (3, 48, 48), ("residual",)),
    "shufflenet_v2": (lambda: tv.shufflenet_v2_x0_5(num_classes=10), (3, 64, 64), ("stage", "stem")),
    "squeezenet": (lambda: tv.squeezenet1_1(num_classes=10), (3, 48, 48), ("stage", "head")),
    "inception_v3": (lambda: _inception("inception_v3"), (3, 80, 80), ("stage",)),
    "googlenet": (lambda: _inception("googlenet"), (3, 48, 48), ("stage",)),
    "convnext": (
        lambda: ConvNeXt([CNBlockConfig(32, 64, 2), CNBlockConfig(64, None, 1)], 0.2, num_classes=10),
        (3, 32, 32),
        ("residual", "stage"),
    ),
    "swin": (
        lambda: SwinTransformer([4, 4], 32, [2, 1], [2, 2], [4, 4], num_classes=10),
        (3, 32, 32),
        ("residual", "stage"),
    ),
    "vit": (
        lambda: tv.VisionTransformer(**SMALL_VIT, hidden_dim=32, mlp_dim=64, num_classes=10),
        (3, 32, 32),
        ("residual", "stage"),
    ),
    "r3d_18": (lambda: tv.video.r3d_18(num_classes=10), (3, 2, 24, 24), ("residual",)),
    "lraspp": (
        lambda: tv.segmentation.lraspp_mobilenet_v3_large(weights_backbone=None, num_classes=3),
        (3, 48, 48),
        ("residual",),
    ),
    "timm resnet10t": (lambda: timm.create_model("resnet10t", num_classes=10), (3, 48, 48), ("residual",)),
    "timm resnetv2_18": (
        lambda: timm.create_model("resnetv2_18", num_classes=10),
        (3, 48, 48),
        ("residual",),
    ),
    "timm seresnext26ts": (
        lambda: timm.create_model("seresnext26ts", num_classes=10),
        (3, 48, 48),
        ("residual",),
    ),
    "timm regnety_002": (
        lambda: timm.create_model("regnety_002", num_classes=10),
        (3, 48, 48),
        ("residual", "stage"),
    ),
    "timm mobilenetv3": (
        lambda: timm.create_model("mobilenetv3_small_050", num_classes=10),
        (3, 64, 64),
        ("residual", "stage"),
    ),
    "timm efficientnet": (
        lambda: timm.create_model("test_efficientnet", num_classes=10, drop_path_rate=0.2),
        (3, 32, 32),
        ("stage",),
    ),
    "timm convnext": (
        lambda: timm.create_model(
            "convnext_atto", depths=(1, 1, 2, 1), dims=(16, 32, 32, 64), drop_path_rate=0.2
        ),
        (3, 32, 32),
        ("residual", "stage"),
    ),
    "timm repvgg_a0": (lambda: timm.create_model("repvgg_a0", num_classes=10), (3, 32, 32), ("stage",)),
    "timm densenet": (
        lambda: timm.create_model("densenet121", block_config=(2, 2, 2), num_classes=10),
        (3, 32, 32),
        ("stage",),
    ),
    "timm ghostnet_050": (
        lambda: timm.create_model("ghostnet_050", num_classes=10),
        (3, 48, 48),
        ("residual",),
    ),
    "timm edgenext": (
        lambda: timm.create_model("edgenext_xx_small", num_classes=10),
        (3, 64, 64),
        ("stage",),
    ),
    "timm vit": (
        lambda: timm.create_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2
        ),
        (3, 32, 32),
        ("residual", "stem"),
    ),
    "timm swin": (
        lambda: timm.create_model(
            "swin_tiny_patch4_window7_224",
            img_size=32,
            window_size=4,
            embed_dim=32,
            depths=(1, 1),
            num_heads=(2, 2),
            drop_path_rate=0.2,
        ),
        (3, 32, 32),
        ("stage",),
    ),
    "a U-Net": (UNet, (3, 16, 16), ("stage", "head")),
    "a residual network of sequences": (lambda: Residual(1), (3, 24), ("residual", "stage")),
}
#: The options leave some channels in narrow models.
MECHANISMS: dict[str, dict[str, Any]] = {
    "se": {"reduction": 4},
    "eca": {},
    "cbam": {"reduction": 4},
    "non_local": {},
    "multi_head": {"heads": 1},
}


@dataclass
class Case:
    model: nn.Module
    sites: sc.Sites
    x: Tensor
    where: tuple[str, ...]
    weights: dict[str, Tensor]
    evaluated: Tensor
    trained: Tensor


def rows() -> Iterator[Any]:
    """Yield the pairs of architectures and mechanisms: two mechanisms for each, `make soak` runs the others.

    The two have different kinds of places if the architecture has several, and every mechanism has its turn.
    """
    for number, architecture in enumerate(ARCHITECTURES):
        for index, mechanism in enumerate(MECHANISMS):
            marks = () if index - number % (len(MECHANISMS) - 1) in (0, 1) else pytest.mark.soak
            yield pytest.param(architecture, mechanism, marks=marks, id=f"{architecture}-{mechanism}")


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    build, shape, where = ARCHITECTURES[request.param]
    torch.manual_seed(0)
    model = build()
    x = torch.randn(2, *shape)
    with torch.no_grad():
        for name, p in model.named_parameters():  # a scale of 0 would hide everything before it
            if p.abs().max() < 1e-2 and not name.endswith("bias"):
                p.normal_(std=0.1) if p.ndim > 1 else p.fill_(0.5)
    weights = copy.deepcopy(model.state_dict())  # with the versions that mnasnet needs
    evaluated, trained = output(model, x, training=False), output(model, x, training=True)
    model.load_state_dict(weights)
    return Case(model, sc.sites(model, x), x, where, weights, evaluated, trained)


def output(model: nn.Module, x: Tensor, *, training: bool) -> Tensor:
    """Return the first tensor of the output, with the same random numbers at each call."""
    model.train(training)
    torch.manual_seed(11)
    result: Any = model(x)
    if isinstance(result, dict):
        result = result["out"]
    assert isinstance(result, Tensor)
    return result if training else result.detach()


@pytest.fixture
def _clean(case: Case) -> Iterator[None]:
    """Restore the model after a failure."""
    yield
    sc.detach(case.model)
    case.model.load_state_dict(case.weights)


@pytest.mark.usefixtures("_clean")
@pytest.mark.parametrize(("case", "mechanism"), [*rows()], indirect=["case"], scope="module")
def test_in_and_out(case: Case, mechanism: str) -> None:
    model, x = case.model, case.x
    where: Any = case.where[list(MECHANISMS).index(mechanism) % len(case.where)]
    options = MECHANISMS[mechanism]
    axes = {len(site.shape) - 1 for site in case.sites.of(where)}
    has_grid = fits(mechanism, {2}) and all(site.grid for site in case.sites.of(where))
    if not fits(mechanism, axes) and not has_grid:
        others = tuple(name for name in sc.mechanisms() if fits(name, axes))
        with raises(sc.BadOption, owner=mechanism, option="shape", choices=others):
            sc.attach(model, mechanism, where=where, example_inputs=x, **options)
        assert list(model.state_dict()) == list(case.weights)
        return

    plan = sc.attach(model, mechanism, where=where, example_inputs=x, **options)
    assert len(plan) >= 1
    assert torch.equal(output(model, x, training=False), case.evaluated)
    assert torch.equal(output(model, x, training=True), case.trained)

    added = {key: p for key, p in model.named_parameters() if key not in case.weights}
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    reached: set[str] = set()
    for _ in range(2):
        optimizer.zero_grad()
        output(model, x, training=True).square().mean().backward()
        reached |= {key for key, p in added.items() if p.grad is not None and p.grad.any()}
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # batch norms of two images have huge gradients
        optimizer.step()
    modules = {key.partition(".attention.")[0] for key in added}
    reached_modules = {key.partition(".attention.")[0] for key in reached}
    assert reached_modules == modules
    assert any(".mechanism." in key for key in reached)

    trained, answer = copy.deepcopy(model.state_dict()), output(model, x, training=False)
    assert {key for key in trained if ".attention." not in key} == set(case.weights)
    sc.detach(model)
    sc.attach(model, mechanism, where=where, example_inputs=x, **options)
    model.load_state_dict(trained)
    assert torch.equal(output(model, x, training=False), answer)
    missing, unexpected = model.load_state_dict(case.weights, strict=False)
    assert not unexpected
    assert all(".attention." in key for key in missing)

    assert len(sc.detach(model)) == sum(site.refused is None for site in plan)
    assert list(model.state_dict()) == list(case.weights)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    model.load_state_dict(case.weights)
    assert torch.equal(output(model, x, training=False), case.evaluated)


def fits(name: str, axes: set[int]) -> bool:
    """Return whether a mechanism takes features with so many axes, according to its examples."""
    shapes = {1: {"B C W", "B L C"}, 2: {"B C H W"}, 3: {"B C T H W"}}
    (number,) = axes
    return any(e.shapes in shapes[number] and e.output is None for e in sc.spec(name).examples)


def test_there_are_as_many_as_promised() -> None:
    assert len(ARCHITECTURES) >= 25
    assert len(MECHANISMS) == 5
