"""The Residual Attention Network: its layers, sizes, maps, and that it learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import saccade as sc
from saccade.layers.mixed.residual_mask import ResidualMask, ResidualUnit
from saccade.models import ResidualAttentionNetwork
from support.errors import raises

WIDTHS = (8, 16, 24, 32)
MODULES = {56: (1, 1, 1), 92: (1, 2, 3)}


def tiny(**options: Any) -> ResidualAttentionNetwork:
    torch.manual_seed(0)
    given: dict[str, Any] = {"classes": 3, "widths": WIDTHS, **options}
    return ResidualAttentionNetwork(**given)


def paths(depth: int) -> list[str]:
    return [f"stages.{s}.{n}" for s, number in enumerate(MODULES[depth]) for n in range(1, number + 1)]


@pytest.mark.parametrize(("depth", "parameters"), [(56, 31_810_728), (92, 52_466_344)])
def test_the_layers_on_imagenet_are_those_of_the_table(depth: Any, parameters: int) -> None:
    with torch.device("meta"):
        model = ResidualAttentionNetwork(1000, depth)
    assert sum(p.numel() for p in model.parameters()) == parameters
    inside_masks = {id(m) for name, m in model.named_modules() if ".mask." in name}
    trunk = [m for m in model.modules() if isinstance(m, ResidualUnit) and id(m) not in inside_masks]
    assert 3 * len(trunk) + 2 == depth  # three layers each, the first convolution and the linear layer
    masks = [m for m in model.modules() if isinstance(m, ResidualMask)]
    expected = [
        (channels, halvings)
        for channels, halvings, number in zip((256, 512, 1024), (3, 2, 1), MODULES[depth], strict=True)
        for _ in range(number)
    ]
    assert [(m.channels, m.depth) for m in masks] == expected


def test_the_maps_have_the_sizes_of_the_table() -> None:
    model = tiny(depth=92).eval()
    sizes: dict[str, tuple[int, ...]] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: sizes.update({name: tuple(output.shape[1:])})  # noqa: ARG005

    for name in ("stem", "stages.0", "stages.1", "stages.2", "last"):
        model.get_submodule(name).register_forward_hook(keep(name))
    for path in paths(92):
        mask = model.get_submodule(f"{path}.mask.down")
        assert isinstance(mask, nn.ModuleList)
        mask[-1].register_forward_hook(keep(path))
    with torch.no_grad():
        model(torch.randn(1, 3, 224, 224))
    assert {sizes.pop(path)[1:] for path in paths(92)} == {(7, 7)}
    assert sizes == {
        "stem": (2, 56, 56),
        "stages.0": (8, 56, 56),
        "stages.1": (16, 28, 28),
        "stages.2": (24, 14, 14),
        "last": (32, 7, 7),
    }


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("depth", [56, 92])
@pytest.mark.parametrize("size", [(32, 32), (33, 32), (45, 61), (64, 37)], ids=str)
def test_takes_any_size_from_32_on_and_trains(stem: str, depth: int, size: tuple[int, int]) -> None:
    model, images = tiny(depth=depth, stem=stem), torch.randn(2, 3, *size)
    logits = model(images)
    assert logits.shape == (2, 3)
    logits.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    assert model.eval()(images[:1]).shape == (1, 3)


@pytest.mark.parametrize("depth", [56, 92])
def test_attention_is_recorded_at_the_path_of_each_module(depth: int) -> None:
    model = tiny(depth=depth).eval()
    with sc.record(model) as maps:
        model(torch.randn(2, 3, 65, 47))
    assert [*maps] == paths(depth)
    assert {type(m) for m in maps.values()} == {sc.SpatialMap}
    assert maps["stages.0.1"].saliency().shape == (2, 16, 12)
    assert maps["stages.2.1"].heatmap((65, 47)).shape == (2, 65, 47)


def test_masks_run_one_plus_m() -> None:
    """Without scores M is a half (sigmoid) or nothing (tanh), and the trunks grow by it."""
    for activation, factor in (("mixed", 1.5), ("tanh", 1.0)):
        model, images = tiny(activation=activation).double().eval(), torch.randn(2, 3, 40, 33).double()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("mask.head.5.weight"):
                    parameter.zero_()
        x: Tensor = model.stem(images)
        for stage in model.stages:
            entry, module = stage  # type: ignore[misc]
            x = module.pre(entry(x))  # type: ignore[has-type]
            x = module.post(factor * module.trunk(x))  # type: ignore[has-type]
        expected = model.head(torch.relu(model.norm(model.last(x))).mean((2, 3)))
        torch.testing.assert_close(model(images), expected)


def test_the_activations_give_three_networks_of_the_same_parameters() -> None:
    images = torch.randn(2, 3, 32, 32)
    outputs = []
    for activation in ("mixed", "channel", "spatial"):
        model = tiny(activation=activation).eval()
        outputs.append(model(images))
        assert model.state_dict().keys() == tiny().state_dict().keys()
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(outputs[i], outputs[j])


def test_an_image_is_judged_by_itself() -> None:
    model, images = tiny(stem="cifar").double().eval(), torch.randn(3, 3, 32, 35).double()
    together = model(images)
    torch.testing.assert_close(torch.cat([model(image[None]) for image in images]), together)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_keeps_the_dtype_and_takes_channels_last(dtype: torch.dtype) -> None:
    model, images = tiny().to(dtype).eval(), torch.randn(2, 3, 33, 47).to(dtype)
    logits = model(images)
    assert logits.dtype is dtype
    last = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, logits, rtol=0.1 if dtype is torch.bfloat16 else 1e-4, atol=1e-2)


def test_runs_on_the_device_of_the_images_and_compiles_into_one_graph() -> None:
    with torch.device("meta"):
        assert tiny()(torch.zeros(2, 3, 45, 33)).device.type == "meta"
    model, images = tiny().double().eval(), torch.randn(2, 3, 33, 40).double()
    compiled: Any = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images))


def test_it_learns_to_tell_a_square_from_a_bar() -> None:
    model = tiny(classes=2, in_channels=1, widths=(16, 16, 16, 16))
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    labels = torch.arange(32) % 2
    images = 0.1 * torch.randn(32, 1, 32, 32)
    images[labels == 0, :, 4:10, 4:10] += 1
    images[labels == 1, :, 20:22, 8:28] += 1
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_a_batch_of_one_that_batch_norm_cannot_train_on_is_named() -> None:
    with raises(sc.BadShape, owner="residual_mask", option="shape"):
        tiny()(torch.randn(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("depth", 128),
        ("stem", "mnist"),
        ("classes", 0),
        ("widths", (8, 8, 8)),
        ("widths", (3, 8, 8, 8)),
        ("activation", "relu"),
    ],
)
def test_bad_options_are_refused(option: str, value: Any) -> None:
    owner = "residual_mask" if option == "activation" else "ResidualAttentionNetwork"
    with raises(sc.BadOption, owner=owner, option=option, value=value):
        tiny(**{option: value})


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (3, 32, 32), (0, 3, 32, 32)], ids=str)
def test_bad_images_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="ResidualAttentionNetwork", option="shape", value=shape):
        tiny()(torch.zeros(shape))
