"""from_timm: the output and the gradients of every module that timm's factory builds, weight for weight."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import torch
from timm.layers.create_attn import create_attn, get_attn
from timm.layers.mlp import ConvMlp
from timm.layers.squeeze_excite import SqueezeExciteCl
from torch import Tensor, nn

import saccade as sc
from saccade.models import from_timm
from support.errors import raises
from support.parity import normal

factory: Any = create_attn
C = 24
#: Each name of the factory with the options of timm's modules that mechanisms have.
MODULES: list[tuple[str, dict[str, Any]]] = [
    ("se", {}),
    ("se", {"rd_channels": 7, "bias": False}),
    ("ese", {}),
    ("eca", {}),
    ("eca", {"channels": None, "kernel_size": 7}),
    ("ecam", {}),
    ("ecam", {"rd_channels": 5}),
    ("ceca", {}),
    ("ge", {"use_mlp": False}),
    ("ge", {"use_mlp": False, "extent": 4}),
    ("gc", {}),
    ("gc", {"use_attn": False, "rd_ratio": 0.4}),
    ("gca", {}),
    ("gca", {"fuse_scale": True}),
    ("cbam", {}),
    ("cbam", {"rd_channels": 5, "mlp_bias": True, "spatial_kernel_size": 3}),
    ("lcbam", {}),
    ("coord", {}),
    ("coord", {"rd_ratio": 0.5, "bias": True}),
    ("scoord", {}),
    ("scoord", {"rd_channels": 5, "bias": False}),
    ("ela", {}),
    ("ela", {"kernel_size": 3}),
    ("strip", {}),
    ("strip", {"kernel_size": 5}),
    ("sk", {}),
    ("sk", {"kernel_size": [3, 5, 7], "groups": 4, "rd_channels": 6}),
    ("sk", {"split_input": False}),
    ("splat", {}),
    ("splat", {"groups": 2, "radix": 3, "norm_layer": nn.BatchNorm2d, "kernel_size": 1}),
    ("splat", {"radix": 1, "rd_channels": 10}),
    ("lambda", {}),
    ("lambda", {"r": None, "feat_size": (8, 8), "qkv_bias": True}),
    ("lambda", {"r": 3, "dim_head": None, "num_heads": 2}),
    ("bottleneck", {"feat_size": (8, 8)}),
    ("bottleneck", {"feat_size": (8, 8), "qkv_bias": True, "scale_pos_embed": True, "dim_head": 5}),
    ("halo", {}),
    ("halo", {"block_size": 4, "halo_size": 1, "num_heads": 4, "qkv_bias": True, "scale_pos_embed": True}),
    ("nl", {}),
    ("nl", {"use_scale": False, "rd_channels": 5}),
    ("bat", {"block_size": 4}),
    ("bat", {"block_size": 2, "groups": 4, "rd_channels": 12, "drop_rate": 0.0}),
]


class Hardsigmoid(nn.Module):
    """Exact in float64: the gradient of torch's has the precision of float32."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(x + 3, 0, 6) / 6


def build(name: str, options: dict[str, Any], dtype: torch.dtype = torch.float64) -> Any:
    """Timm's module with random parameters and running statistics."""
    torch.manual_seed(0)
    module = factory(name, **{"channels": C, **options}).to(dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.4)
        for key, buffer in module.named_buffers():
            if key.endswith(("running_mean", "running_var")):
                buffer.uniform_(0.5, 1.5)
    if name == "ese":
        module.gate = Hardsigmoid()
    return module


def outcome(module: nn.Module, x: Tensor) -> list[Tensor]:
    """The output, the gradient of x, and in no order: the gradients of parameters, the running statistics."""
    x = x.clone().requires_grad_()
    torch.manual_seed(1)  # of dropout
    y = module(x)
    parameters = [*module.parameters()]
    gradients = torch.autograd.grad(y, [x, *parameters], normal(*y.shape, seed=9).to(y.dtype))
    floats = [buffer for buffer in module.buffers() if buffer.is_floating_point()]
    return [
        y.detach(),
        gradients[0],
        *(torch.cat([t.flatten() for t in ts]).sort().values for ts in (gradients[1:], floats) if ts),
    ]


def assert_equal(ours: nn.Module, theirs: nn.Module, tolerance: float) -> None:
    x = normal(3, C, 8, 8).to(next((p.dtype for p in theirs.parameters()), torch.float64))
    for got, expected in zip(outcome(ours, x), outcome(theirs, x), strict=True):
        assert got.shape == expected.shape
        assert (got - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("name", "options"), MODULES, ids=str)
def test_equals_timm_in_float64(name: str, options: dict[str, Any], training: bool) -> None:
    theirs = build(name, options).train(training)
    ours = from_timm(theirs, C)
    assert ours.training == training
    assert_equal(ours, theirs, 1e-12)


@pytest.mark.parametrize(("name", "options"), MODULES, ids=str)
def test_equals_timm_in_float32(name: str, options: dict[str, Any]) -> None:
    theirs, x = build(name, options, torch.float32).eval(), normal(2, C, 8, 8, seed=3).float()
    ours, expected = from_timm(theirs, C), theirs(x)
    assert (ours(x) - expected).abs().max() <= 1e-6 * expected.abs().max().clamp(min=1)


def test_every_name_of_the_factory_is_converted() -> None:
    names = {*re.findall(r"attn_type == '(\w+)'", inspect.getsource(get_attn))}
    assert names == {name for name, _ in MODULES}


def test_ge_with_its_mlp() -> None:
    """Which the factory of timm 1.0.31 cannot build."""
    theirs = factory("ge", C, use_mlp=False, extent=2)
    theirs.mlp = ConvMlp(C, 5)
    assert_equal(from_timm(theirs.double()), theirs, 1e-12)


def test_the_result_is_a_mechanism_of_its_own() -> None:
    theirs = build("cbam", {}).eval()
    theirs.channel.fc1.weight.requires_grad_(False)
    ours, x = from_timm(theirs), normal(1, C, 8, 8)
    y = ours(x)
    assert [name for name, p in ours.named_parameters() if not p.requires_grad] == ["channel.mlp.0.weight"]
    with torch.no_grad():
        theirs.channel.fc1.weight.zero_()
    assert torch.equal(ours(x), y)
    with sc.record(ours) as maps:
        ours(x)
    assert [type(m) for m in maps.values()] == [sc.ChannelMap, sc.SpatialMap]


@pytest.mark.parametrize(
    ("name", "options", "setting", "value"),
    [
        ("se", {"gate_layer": "hard_sigmoid"}, "gate", "Hardsigmoid"),
        ("se", {"add_maxpool": True}, "add_maxpool", True),
        ("se", {"act_layer": nn.SiLU}, "act", "SiLU"),
        ("se", {"norm_layer": nn.BatchNorm2d}, "bn", "BatchNorm2d"),
        ("ese", {"gate_layer": "sigmoid"}, "gate", "Sigmoid"),
        ("ceca", {"act_layer": nn.ReLU}, "conv.bias", "weights"),
        ("gc", {"fuse_scale": False}, "fuse_add", False),
        ("gc", {"act_layer": "gelu"}, "mlp_scale.act", "GELU"),
        ("cbam", {"gate_layer": "hard_sigmoid"}, "channel.gate", "Hardsigmoid"),
        ("coord", {"has_skip": True}, "has_skip", True),
        ("coord", {"norm_layer": None}, "bn1", "Identity"),
        ("ela", {"bias": True}, "conv_h.bias", "weights"),
        ("strip", {"use_conv": False}, "use_conv", False),
        ("sk", {"keep_3x3": False}, "kernel_size", (5, 5)),
        ("sk", {"stride": 2}, "stride", (2, 2)),
        ("sk", {"out_channels": 32}, "out_channels", 32),
        ("splat", {"dilation": 2, "padding": 2}, "conv.dilation", (2, 2)),
        ("splat", {"out_channels": 32}, "conv.out_channels", 64),
        ("lambda", {"stride": 2}, "pool", "AvgPool2d"),
        ("lambda", {"dim_out": 32}, "dim_v", 8),
        ("bottleneck", {"feat_size": (8, 8), "dim_out": 32}, "dim_out_v", 32),
        ("halo", {"stride": 2}, "block_stride", 2),
        ("bat", {"act_layer": nn.SiLU}, "bn.act", "SiLU"),
    ],
    ids=str,
)
def test_other_settings_are_refused(name: str, options: dict[str, Any], setting: str, value: Any) -> None:
    with raises(sc.BadOption, option=setting, value=value):
        from_timm(factory(name, C, **options), C)


def test_other_modules_and_missing_channels_are_refused() -> None:
    with raises(sc.BadOption, owner="from_timm", option="module", value="torch.nn.modules.linear.Linear"):
        from_timm(nn.Linear(2, 2))
    with raises(sc.BadOption, owner="from_timm", option="module"):
        from_timm(SqueezeExciteCl(C))
    with raises(sc.BadOption, owner="from_timm", option="channels", value=None):
        from_timm(factory("eca", C))
