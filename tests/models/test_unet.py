"""Test the U-Net against one written plainly, and its attention gates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import saccade as sc
from saccade.errors import BadOption, BadShape
from saccade.layers.spatial.attention_gate import AttentionGate
from saccade.models import UNet
from support.errors import raises


def _plain(model: UNet, image: Tensor) -> Tensor:
    """The equations with the weights of the model, in evaluation mode, for two levels."""

    def block(layers: torch.nn.Module, x: Tensor) -> Tensor:
        for k in (0, 3):
            convolution, norm = layers[k], layers[k + 1]  # type: ignore[index]
            x = F.conv2d(x, convolution.weight, padding=1)
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            x = (x - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
            x = x.clamp_min(0)
        return x

    def pool(x: Tensor) -> Tensor:
        return x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))

    x0 = block(model.encoder[0], image)
    x1 = block(model.encoder[1], pool(x0))
    x2 = block(model.encoder[2], pool(x1))
    z1 = block(model.decoder[0], torch.cat([x1, _up(model.up[0], x2)], 1))
    z0 = block(model.decoder[1], torch.cat([x0, _up(model.up[1], z1)], 1))
    return torch.einsum("bchw,kc->bkhw", z0, model.head.weight[:, :, 0, 0]) + model.head.bias[:, None, None]  # type: ignore[index]


def _up(layer: torch.nn.Module, x: Tensor) -> Tensor:
    """A transposed 2 x 2 convolution with stride 2: each position becomes four."""
    batch, _, height, width = x.shape
    spread = torch.einsum("bchw,ckij->bkhiwj", x, layer.weight)
    return spread.reshape(batch, -1, 2 * height, 2 * width) + layer.bias[:, None, None]  # type: ignore[index]


def test_values_and_gradients_equal_the_equations() -> None:
    torch.manual_seed(0)
    model = UNet(classes=3, width=4, levels=2).double()
    model(torch.randn(2, 3, 16, 24).double())  # running statistics that are not 0 and 1
    model.eval()
    x = torch.randn(2, 3, 16, 24).double()
    ours, plain = (y.requires_grad_() for y in (x.clone(), x.clone()))
    results = model(ours), _plain(model, plain)
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(results[0])
    gradients = [
        torch.autograd.grad((y * weight).sum(), [z, *model.parameters()])
        for y, z in zip(results, (ours, plain), strict=True)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (4, 5), (31, 8)])
def test_the_output_has_the_size_of_the_input(size: tuple[int, int]) -> None:
    for gate in (None, "attention_gate"):
        model = UNet(classes=2, width=4, levels=2, gate=gate, gate_options={"stride": 1} if gate else None)
        assert model.eval()(torch.randn(1, 3, *size)).shape == (1, 2, *size)


def test_gates_weight_the_skip_connections_and_are_recorded() -> None:
    model = UNet(classes=2, width=4, levels=2, gate="attention_gate").eval()
    gate = model.gates[1]
    assert isinstance(gate, AttentionGate)
    x = torch.randn(2, 3, 32, 32)
    with sc.record(model) as maps:
        model(x)
    assert list(maps) == ["gates.0", "gates.1"]
    assert [maps[path].saliency().shape for path in maps] == [(2, 16, 16), (2, 32, 32)]
    before = model(x)
    with torch.no_grad():
        for weight in gate.psi.parameters():
            weight.fill_(-1e4 if weight.ndim == 1 else 0)
    closed = model(x)
    assert not torch.allclose(before, closed)
    torch.testing.assert_close(closed, _without_first_skip(model, x))


def _without_first_skip(model: UNet, x: Tensor) -> Tensor:
    def close(_module: object, args: tuple[Tensor]) -> tuple[Tensor]:
        joined = args[0].clone()
        joined[:, : joined.shape[1] // 2] = 0
        return (joined,)

    with model.decoder[1].register_forward_pre_hook(close):
        result: Tensor = model(x)
    return result


def test_attention_is_attached_to_the_decoder() -> None:
    model = UNet(classes=2, width=8, levels=2).eval()
    x = torch.randn(1, 3, 16, 16)
    before = model(x)
    sc.attach(model, "cbam", where=["decoder.*"], example_inputs=x, reduction=4)
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)


def test_what_it_refuses() -> None:
    with raises(BadOption, option="width", value=0):
        UNet(2, width=0)
    with raises(BadShape):
        UNet(2, levels=3)(torch.randn(1, 3, 7, 16))
    with raises(BadShape):
        UNet(2)(torch.randn(1, 1, 32, 32))
