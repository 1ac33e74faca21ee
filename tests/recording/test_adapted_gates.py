"""Gates of other libraries, without a softmax: the map is the block's own gate."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.layers import cbam, coord_attn, eca, gather_excite, global_context, selective_kernel, split_attn
from torch import Tensor, nn

import saccade as sc
from saccade.maps import BranchMap

CHANNELS = 16


def images(channels: int = CHANNELS) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, channels, 6, 4, generator=generator, dtype=torch.float64) + 0.1


def library(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name.partition('.')[0]} is not installed")


def record(block: nn.Module, *inputs: Any) -> tuple[Any, Tensor]:
    """Return the maps and the output of a block, after a check that the recording changed nothing."""
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    block.double()
    twin = copy.deepcopy(block)
    expected = twin(*inputs)
    with sc.record(block) as maps:
        output = block(*inputs)
    assert torch.equal(output, expected)
    torch.testing.assert_close(dict(block.state_dict()), dict(twin.state_dict()), rtol=0, atol=0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in block.modules())
    return maps, output


def ratio(output: Tensor, features: Tensor) -> Tensor:
    """Return the gate of `output = gate * features`."""
    assert features.abs().min() > 0
    return output / features


SPATIAL: dict[str, Callable[[], nn.Module]] = {
    "SpatialAttn": cbam.SpatialAttn,
    "LightSpatialAttn": cbam.LightSpatialAttn,
    "GatherExcite": lambda: gather_excite.GatherExcite(CHANNELS, extent=2, use_mlp=False),
    "CoordAttn": lambda: coord_attn.CoordAttn(CHANNELS),
    "SimpleCoordAttn": lambda: coord_attn.SimpleCoordAttn(CHANNELS),
    "EfficientLocalAttn": lambda: coord_attn.EfficientLocalAttn(CHANNELS),
    "StripAttn": lambda: coord_attn.StripAttn(CHANNELS),
}
CHANNEL: dict[str, Callable[[], nn.Module]] = {
    "ChannelAttn": lambda: cbam.ChannelAttn(CHANNELS),
    "LightChannelAttn": lambda: cbam.LightChannelAttn(CHANNELS),
    "EcaModule with a perceptron": lambda: eca.EcaModule(CHANNELS, use_mlp=True),
    "GatherExcite": lambda: gather_excite.GatherExcite(CHANNELS, use_mlp=False),
    "GlobalContext": lambda: global_context.GlobalContext(CHANNELS, use_attn=False),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SPATIAL)
def test_gates_of_positions(name: str, training: bool) -> None:
    maps, output = record(SPATIAL[name]().train(training), images())
    gate = maps[""]
    assert isinstance(gate, sc.SpatialMap)
    torch.testing.assert_close(gate.weights, ratio(output, images()).mean(1))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CHANNEL)
def test_gates_of_channels(name: str, training: bool) -> None:
    maps, output = record(CHANNEL[name]().train(training), images())
    gate = maps[""]
    assert isinstance(gate, sc.ChannelMap)
    torch.testing.assert_close(gate.weights[:, :, None, None].expand_as(output), ratio(output, images()))


def test_both_gates_of_cbam_have_a_map() -> None:
    maps, output = record(cbam.CbamModule(CHANNELS), images())
    assert [*maps] == ["channel", "spatial"]
    product = maps["channel"].weights[:, :, None, None] * maps["spatial"].weights[:, None]
    torch.testing.assert_close(product, ratio(output, images()))


def test_the_context_is_a_weighted_mean_of_positions() -> None:
    block = global_context.GlobalContext(CHANNELS, fuse_scale=False, fuse_add=True)
    maps, output = record(block, images())
    weights = maps[""].weights
    assert isinstance(maps[""], sc.SpatialMap)
    torch.testing.assert_close(weights.sum((1, 2)), torch.ones(3, dtype=torch.float64))
    context = (weights[:, None] * images()).sum((2, 3), keepdim=True)
    torch.testing.assert_close(block.mlp_add(context).expand_as(output), output - images())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("split", [True, False])
def test_selective_kernels(split: bool, training: bool) -> None:
    block = selective_kernel.SelectiveKernel(CHANNELS, split_input=split).train(training)
    branches: list[Tensor] = []
    block.attn.register_forward_pre_hook(lambda _, args: branches.append(args[0].detach()))
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    block.double()
    with sc.record(block) as maps:
        output = block(images())
    gate = maps["attn"]
    assert isinstance(gate, BranchMap)
    torch.testing.assert_close((gate.weights[..., None, None] * branches[0]).sum(1), output)
    torch.testing.assert_close(gate.energy, (gate.weights[..., None, None] * branches[0].abs()).sum((1, 2)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("radix", [1, 2, 4])
def test_split_attention(radix: int, training: bool) -> None:
    block = split_attn.SplitAttn(CHANNELS, groups=2, radix=radix, norm_layer=nn.BatchNorm2d).train(training)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)
    block.double()
    features: list[Tensor] = []
    block.act0.register_forward_hook(lambda *call: features.append(call[-1].detach()))
    with sc.record(block) as maps:
        output = block(images())
    gate, branches = maps[""], features[0].unflatten(1, (radix, -1))
    assert isinstance(gate, sc.ChannelMap if radix == 1 else BranchMap)
    weights = gate.weights.reshape(3, radix, CHANNELS, 1, 1)
    torch.testing.assert_close((weights * branches).sum(1), output)


def test_resnest_is_seen() -> None:
    model = timm.create_model("resnest14d").eval()
    with sc.record(model) as maps:
        model(torch.randn(1, 3, 64, 64))
    assert len(maps) == sum(isinstance(m, split_attn.SplitAttn) for m in model.modules()) == 4
    assert not maps.unseen


def test_scse_of_segmentation_models_pytorch() -> None:
    modules = library("segmentation_models_pytorch.base.modules")
    maps, output = record(modules.Attention("scse", in_channels=CHANNELS, reduction=4), images())
    channel, spatial = (maps[f"attention.{name}"] for name in ("cSE", "sSE"))
    assert isinstance(channel, sc.ChannelMap)
    assert isinstance(spatial, sc.SpatialMap)
    assert maps["attention"] is spatial
    gate = channel.weights[:, :, None, None] + spatial.weights[:, None]
    torch.testing.assert_close(gate, ratio(output, images()))


def test_attention_of_manet() -> None:
    """The position attention has one softmax over all pairs; the other blocks gate their two inputs."""
    decoder = library("segmentation_models_pytorch.decoders.manet.decoder")
    block = decoder.PABBlock(CHANNELS, 4)
    maps, _ = record(block, images())
    mixed: list[Tensor] = []
    block.out_conv.register_forward_pre_hook(lambda _, args: mixed.append(args[0]))
    with torch.no_grad():
        for place in ((0, 0), (5, 3)):
            values = torch.zeros_like(images())
            values[:, :, *place] = 1
            block.bottom_conv.forward = lambda _x, values=values: values
            block(images())
            received = (mixed[-1] - images()).sum((1, 2, 3)) / CHANNELS
            torch.testing.assert_close(maps[""].weights[:, *place], received)

    gates, skip = decoder.MFABBlock(8, CHANNELS, 4, reduction=4).eval(), images().repeat(1, 1, 2, 2)
    maps, _ = record(gates, images(8), skip)
    assert [*maps] == ["SE_ll", "SE_hl"]
    assert all(isinstance(gate, sc.ChannelMap) for gate in maps.values())
    torch.testing.assert_close(maps["SE_ll"].weights, gates.SE_ll(skip).detach().flatten(1))


@pytest.mark.parametrize("training", [True, False])
def test_attention_gates_of_monai(training: bool) -> None:
    library("monai")
    nets = importlib.import_module("monai.networks.nets.attentionunet")
    block = nets.AttentionBlock(2, f_int=4, f_g=8, f_l=CHANNELS).train(training)
    maps, output = record(block, images(8).flip(0), images())
    gate = maps[""]
    assert isinstance(gate, sc.SpatialMap)
    torch.testing.assert_close(gate.weights[:, None].expand_as(output), ratio(output, images()))


def test_squeeze_and_excitation_of_monai() -> None:
    library("monai")
    blocks = importlib.import_module("monai.networks.blocks.squeeze_and_excitation")
    maps, output = record(blocks.ChannelSELayer(2, CHANNELS), images())
    expected = ratio(output, images())
    torch.testing.assert_close(maps[""].weights[:, :, None, None].expand_as(output), expected)


def test_squeeze_and_excitation_of_transformers() -> None:
    library("transformers")
    regnet = importlib.import_module("transformers.models.regnet.modeling_regnet")
    efficientnet = importlib.import_module("transformers.models.efficientnet.modeling_efficientnet")
    config = importlib.import_module("transformers").EfficientNetConfig()
    blocks = (
        regnet.RegNetSELayer(CHANNELS, 4),
        efficientnet.EfficientNetSqueezeExciteLayer(config, CHANNELS, CHANNELS),
    )
    for block in blocks:
        maps, output = record(block, images())
        expected = ratio(output, images())
        torch.testing.assert_close(maps[""].weights[:, :, None, None].expand_as(output), expected)


@pytest.mark.parametrize("embed", [CHANNELS, 8])
def test_gates_of_ultralytics(embed: int) -> None:
    modules = library("ultralytics.nn.modules")
    maps, output = record(modules.CBAM(CHANNELS), images())
    assert [*maps] == ["channel_attention", "spatial_attention"]
    channel, spatial = maps.values()
    product = channel.weights[:, :, None, None] * spatial.weights[:, None]
    torch.testing.assert_close(product, ratio(output, images()))

    block_module = importlib.import_module("ultralytics.nn.modules.block")
    heads, width = 2, embed
    block = block_module.MaxSigmoidAttnBlock(CHANNELS, width, nh=heads, ec=embed, gc=5, scale=True).eval()
    guide = torch.randn(3, 7, 5, dtype=torch.float64)
    maps, output = record(block, images(), guide)
    features = block.proj_conv(images()).unflatten(1, (heads, -1))
    expected = ratio(output.unflatten(1, (heads, -1)), features)[:, :, 0].mean(1)
    torch.testing.assert_close(maps[""].weights, expected)
    assert not maps.unseen


def test_an_exception_inside_a_block_leaves_no_outputs_behind() -> None:
    block = coord_attn.CoordAttn(CHANNELS).double()
    fails = [True]

    def fail(*_: object) -> None:
        if fails:
            raise ZeroDivisionError

    block.conv_w.register_forward_hook(fail)
    with sc.record(block) as maps:
        with pytest.raises(ZeroDivisionError):
            block(images())
        fails.clear()
        output = block(images())
    gate = maps[""]
    assert isinstance(gate, sc.SpatialMap)
    torch.testing.assert_close(gate.weights, ratio(output, images()).mean(1))
