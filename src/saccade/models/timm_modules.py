"""What each attention module of timm is here: a mechanism, its options, and where its weights are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

from saccade.errors import BadOption


class Counterpart(NamedTuple):
    """A mechanism with the results of a module of timm, and the path there of each layer that is renamed."""

    name: str
    channels: int | None  # None where no layer has their number
    options: Mapping[str, Any]
    layers: Mapping[str, str]


def difference(module: nn.Module, name: str, setting: str, value: object) -> BadOption:
    """Return the error for a setting of timm's module that the mechanism does not have."""
    kind = type(module).__name__
    problem = f"{setting}={value} of timm's {kind} has no counterpart in {name!r}"
    return BadOption(f"from_timm: {problem}", owner=kind, option=setting, value=value)


def _check(module: nn.Module, name: str, **settings: object) -> None:
    """Raise unless the settings of timm's module are those given. A layer is compared by its class's name.

    `__` in a name stands for a dot. A layer that does not exist counts as Identity.
    """
    for setting, expected in settings.items():
        value: Any = module
        for part in setting.split("__"):
            value = getattr(value, part, None)
        if isinstance(expected, str):
            value = "Identity" if value is None else type(value).__name__
        if value != expected:
            raise difference(module, name, setting.replace("__", "."), value)


def _se(m: Any) -> Counterpart:
    _check(m, "se", act="ReLU", gate="Sigmoid", bn="Identity", add_maxpool=False)
    options = {"hidden": m.fc1.out_channels, "bias": m.fc1.bias is not None}
    return Counterpart("se", m.fc1.in_channels, options, {"reduce": "fc1", "expand": "fc2"})


def _ese(m: Any) -> Counterpart:
    _check(m, "ese", gate="Hardsigmoid", add_maxpool=False)
    return Counterpart("ese", m.fc.in_channels, {}, {"conv": "fc"})


def _eca(m: Any) -> Counterpart:
    _check(m, "eca", gate="Sigmoid")
    if m.conv2 is None:
        return Counterpart("eca", None, {"kernel_size": m.conv.kernel_size[0]}, {})
    _check(m, "eca", act="ReLU")
    options = {"kernel_size": m.conv2.kernel_size[0], "hidden": m.conv.out_channels}
    return Counterpart("eca", None, options, {"mlp.0": "conv", "conv": "conv2"})


def _ceca(m: Any) -> Counterpart:
    _check(m, "eca", gate="Sigmoid")
    return Counterpart("eca", None, {"kernel_size": m.conv.kernel_size[0], "padding": "circular"}, {})


def _ge(m: Any) -> Counterpart:
    _check(m, "ge", gate="Sigmoid", gather="Identity", add_maxpool=False)
    if isinstance(m.mlp, nn.Identity):
        return Counterpart("ge", None, {"extent": m.extent}, {})
    _check(m, "ge", mlp__act="ReLU", mlp__norm="Identity")
    options = {"extent": m.extent, "hidden": m.mlp.fc1.out_channels}
    return Counterpart("ge", m.mlp.fc1.in_channels, options, {"mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"})


def _global_context(m: Any) -> Counterpart:
    blocks = {"add": m.mlp_add, "multiply": m.mlp_scale}
    fused = [name for name, block in blocks.items() if block is not None]
    if not fused:
        raise difference(m, "global_context", "fuse_add", False)
    _check(m, "global_context", gate="Sigmoid")
    layers = {"mask": "conv_attn"}
    for name, path in (("add", "mlp_add"), ("multiply", "mlp_scale")):
        layers |= {f"{name}.0": f"{path}.fc1", f"{name}.1": f"{path}.norm", f"{name}.3": f"{path}.fc2"}
        if name in fused:
            _check(m, "global_context", **{f"{path}__act": "ReLU", f"{path}__norm": "LayerNorm2d"})
    mlp = blocks[fused[0]]
    options = {
        "pool": "mean" if m.conv_attn is None else "attention",
        "fusion": "both" if len(fused) == 2 else fused[0],
        "hidden": mlp.fc1.out_channels,
    }
    return Counterpart("global_context", mlp.fc1.in_channels, options, layers)


def _cbam(m: Any) -> Counterpart:
    _check(m, "cbam", channel__act="ReLU", channel__gate="Sigmoid", spatial__gate="Sigmoid")
    _check(m, "cbam", spatial__conv__bn="BatchNormAct2d", spatial__conv__bn__act="Identity")
    reduce, (kernel_size, _) = m.channel.fc1, m.spatial.conv.conv.kernel_size
    options: dict[str, Any] = {
        "bias": reduce.bias is not None,
        "hidden": reduce.out_channels,
        "kernel_size": kernel_size,
    }
    if type(m).__name__ == "LightCbamModule":
        options |= {"pools": ("avgmax",), "spatial_pools": ("avgmax",)}
    layers = {"channel.mlp.0": "channel.fc1", "channel.mlp.2": "channel.fc2"}
    layers |= {"spatial.conv": "spatial.conv.conv", "spatial.norm": "spatial.conv.bn"}
    return Counterpart("cbam", reduce.in_channels, options, layers)


def _coordinate(m: Any) -> Counterpart:
    _check(m, "coordinate", gate="Sigmoid", act="Hardswish", bn1="BatchNorm2d", has_skip=False)
    options = {"hidden": m.conv1.out_channels, "bias": m.conv1.bias is not None}
    layers = {"reduce": "conv1", "norm": "bn1", "rows": "conv_h", "columns": "conv_w"}
    return Counterpart("coordinate", m.conv1.in_channels, options, layers)


def _simple_coordinate(m: Any) -> Counterpart:
    _check(m, "coordinate", gate="Sigmoid", act="SiLU", has_skip=False)
    options = {"hidden": m.fc1.out_features, "bias": m.fc1.bias is not None, "variant": "simple"}
    layers = {"reduce": "fc1", "rows": "fc_h", "columns": "fc_w"}
    return Counterpart("coordinate", m.fc1.in_features, options, layers)


def _ela(m: Any) -> Counterpart:
    _check(m, "ela", gate="Sigmoid", act="SiLU", norm_h="GroupNorm1", has_skip=False)
    channels = m.conv_h.in_channels
    options = {
        "kernel_size": m.conv_h.kernel_size[0],
        "groups": channels,
        "norm_groups": 1,
        "variant": "timm",
    }
    layers = {"conv": "conv_h", "norm": "norm_h", "column_conv": "conv_w", "column_norm": "norm_w"}
    return Counterpart("ela", channels, options, layers)


def _strip_pooling(m: Any) -> Counterpart:
    _check(m, "strip_pooling", gate="Sigmoid", has_skip=False, use_conv=True)
    options = {"kernel_size": m.conv_h.kernel_size[0], "variant": "timm"}
    return Counterpart(
        "strip_pooling", m.conv_h.in_channels, options, {"rows.0": "conv_h", "columns.0": "conv_w"}
    )


def _sk(m: Any) -> Counterpart:
    layers = {"reduce.0": "attn.fc_reduce", "reduce.1": "attn.bn", "select": "attn.fc_select"}
    _check(m, "sk", out_channels=m.in_channels, attn__act="ReLU", attn__bn="BatchNorm2d")
    for i, path in enumerate(m.paths):
        layers |= {f"convs.{i}.0": f"paths.{i}.conv", f"convs.{i}.1": f"paths.{i}.bn"}
        _check(path, "sk", aa="Identity", bn="BatchNormAct2d", bn__act="ReLU", bn__drop="Identity")
        _check(path.conv, "sk", kernel_size=(3, 3), dilation=(i + 1, i + 1), stride=(1, 1))
    options = {
        "paths": len(m.paths),
        "groups": m.paths[0].conv.groups,
        "reduction": m.in_channels,  # so that the width is min_dim
        "min_dim": m.attn.fc_reduce.out_channels,
        "split_input": m.split_input,
    }
    return Counterpart("sk", m.in_channels, options, layers)


def _split_attention(m: Any) -> Counterpart:
    norm = "Identity" if isinstance(m.bn0, nn.Identity) else "BatchNorm2d"
    channels, (kernel_size, _) = m.conv.in_channels, m.conv.kernel_size
    _check(m, "split_attention", bn0=norm, bn1=norm, act0="ReLU", act1="ReLU", drop="Identity")
    _check(m, "split_attention", conv__out_channels=channels * m.radix, conv__dilation=(1, 1))
    _check(m, "split_attention", conv__stride=(1, 1), conv__padding=(kernel_size // 2,) * 2)
    options = {
        "radix": m.radix,
        "cardinality": m.conv.groups // m.radix,
        "kernel_size": kernel_size,
        "batch_norm": norm != "Identity",
        "hidden": m.fc1.out_channels,
    }
    layers = {"norm": "bn0", "reduce.0": "fc1", "reduce.1": "bn1", "select": "fc2"}
    return Counterpart("split_attention", channels, options, layers)


def _non_local(m: Any) -> Counterpart:
    _check(m, "non_local", norm="BatchNorm2d")
    layers = {"theta": "t", "phi": "p", "output": "z"}
    options = {"inner_channels": m.t.out_channels, "scale": float(m.scale)}
    return Counterpart("non_local", m.t.in_channels, options, layers)


def _bat(m: Any) -> Counterpart:
    for layer in (m.conv1, m.ba.conv1, m.ba.conv2, m.conv2):
        _check(layer, "bat", bn="BatchNormAct2d", bn__act="ReLU", bn__drop="Identity")
    options = {"rd_channels": m.conv1.conv.out_channels, "drop_rate": m.dropout.p}
    options |= {"block_size": m.ba.block_size, "groups": m.ba.groups}
    return Counterpart("bat", m.conv1.conv.in_channels, options, {})


def _lambda_layer(m: Any) -> Counterpart:
    _check(m, "lambda_layer", pool="Identity", dim_v=m.qkv.in_channels // m.num_heads)
    options = {"num_heads": m.num_heads, "dim_head": m.dim_qk, "qkv_bias": m.qkv.bias is not None}
    options |= (
        {"r": m.conv_lambda.kernel_size[0]} if m.pos_emb is None else {"r": None, "feat_size": m.feat_size}
    )
    return Counterpart("lambda_layer", m.qkv.in_channels, options, {})


def _bottleneck(m: Any) -> Counterpart:
    options = {"feat_size": (m.pos_embed.height, m.pos_embed.width), **_query_options(m, "bottleneck", m.qkv)}
    return Counterpart("bottleneck", m.qkv.in_channels, options, {})


def _halo(m: Any) -> Counterpart:
    _check(m, "halo", block_stride=1)
    options = {"block_size": m.block_size, "halo_size": m.halo_size, **_query_options(m, "halo", m.q)}
    return Counterpart("halo", m.q.in_channels, options, {})


def _query_options(m: Any, name: str, conv: nn.Conv2d) -> dict[str, Any]:
    _check(m, name, pool="Identity", dim_out_v=conv.in_channels)
    return {
        "num_heads": m.num_heads,
        "dim_head": m.dim_head_qk,
        "qkv_bias": conv.bias is not None,
        "scale_pos_embed": m.scale_pos_embed,
    }


#: By the full name of the class, so that timm is not imported.
CONVERTERS: Mapping[str, Callable[[Any], Counterpart]] = {
    "timm.layers.squeeze_excite.SEModule": _se,
    "timm.layers.squeeze_excite.EffectiveSEModule": _ese,
    "timm.layers.eca.EcaModule": _eca,
    "timm.layers.eca.CecaModule": _ceca,
    "timm.layers.gather_excite.GatherExcite": _ge,
    "timm.layers.global_context.GlobalContext": _global_context,
    "timm.layers.cbam.CbamModule": _cbam,
    "timm.layers.cbam.LightCbamModule": _cbam,
    "timm.layers.coord_attn.CoordAttn": _coordinate,
    "timm.layers.coord_attn.SimpleCoordAttn": _simple_coordinate,
    "timm.layers.coord_attn.EfficientLocalAttn": _ela,
    "timm.layers.coord_attn.StripAttn": _strip_pooling,
    "timm.layers.selective_kernel.SelectiveKernel": _sk,
    "timm.layers.split_attn.SplitAttn": _split_attention,
    "timm.layers.non_local_attn.NonLocalAttn": _non_local,
    "timm.layers.non_local_attn.BatNonLocalAttn": _bat,
    "timm.layers.lambda_layer.LambdaLayer": _lambda_layer,
    "timm.layers.bottleneck_attn.BottleneckAttn": _bottleneck,
    "timm.layers.halo_attn.HaloAttn": _halo,
}
