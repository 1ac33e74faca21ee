"""Adapters: the recorded maps are the weights that the modules of torch, torchvision and timm compute."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from timm.layers import eca, squeeze_excite
from torch import Tensor, nn

import saccade as sc
from saccade.maps import ClassTokenMap, TokenMap, WindowMap
from support.errors import raises

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")


def seeded(model: nn.Module) -> nn.Module:
    """Return the model in evaluation mode with random parameters, also those that start at 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.normal_(std=spread, generator=generator)
    return model.eval()


def images(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def state(model: nn.Module) -> list[Any]:
    """Return everything that recording could change: attributes, hooks and modes."""
    return [
        (name, set(vars(module)), module.training, [list(vars(module)[hooks]) for hooks in HOOKS])
        for name, module in model.named_modules()
    ]


def recorded(model: nn.Module, *inputs: Any, **options: Any) -> sc.Maps:
    """Return the maps of one pass without gradients; recording changes neither result nor model."""
    before, values = state(model), copy.deepcopy(model.state_dict())
    with torch.no_grad():
        expected = model(*inputs, **options)
        with sc.record(model) as maps:
            result = model(*inputs, **options)
    torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)
    assert state(model) == before
    torch.testing.assert_close(dict(model.state_dict()), dict(values), rtol=0, atol=0)
    return maps


def weights(attention: sc.AttentionMap) -> Tensor:
    """Return the weights among all tokens, in the order of the model."""
    assert isinstance(attention, sc.PairwiseMap)
    return attention.tokens().weights()


# nn.MultiheadAttention.


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("mask", ["none", "bool", "float", "heads", "padding", "both"])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"kdim": 12, "vdim": 20}], ids=str)
@pytest.mark.parametrize(
    "more", [{}, {"add_bias_kv": True}, {"add_bias_kv": True, "add_zero_attn": True}], ids=str
)
def test_multihead_attention(
    batch_first: bool, mask: str, options: dict[str, Any], more: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    attention: Any = seeded(nn.MultiheadAttention(16, 4, batch_first=batch_first, **options, **more)).double()
    width = options.get("kdim", 16)
    query, key, value = images(2, 5, 16), images(2, 7, width), images(2, 7, options.get("vdim", 16))
    if not batch_first:
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    hidden = torch.rand(5, 7) < 0.3
    hidden[:, 0] = False
    padding = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])
    masks: dict[str, Any] = {
        "none": {},
        "bool": {"attn_mask": hidden},
        "float": {"attn_mask": images(5, 7)},
        "heads": {"attn_mask": images(8, 5, 7)},
        "padding": {"key_padding_mask": padding},
        "both": {
            "attn_mask": images(5, 7),
            "key_padding_mask": torch.zeros(2, 7).double().masked_fill(padding, -9),
        },
    }[mask]
    maps = recorded(attention, query, key, value, **masks)
    _, expected = attention(query, key, value, **masks, average_attn_weights=False)
    recorded_weights = weights(maps[""])
    if more:  # torch appends the keys that are no tokens
        recorded_weights = recorded_weights.roll(-len(more), -1)
    torch.testing.assert_close(recorded_weights, expected, rtol=1e-12, atol=1e-12)
    plain = mask == "none" and not more
    assert type(maps[""]) is (sc.PairwiseMap if plain else TokenMap)
    received = expected[..., :7].mean((1, 2))
    torch.testing.assert_close(maps[""].saliency(), received, rtol=1e-12, atol=1e-12)
    row = maps[""].attention_from(x=3, head=2)
    torch.testing.assert_close(row, expected[:, 2, 3, :7], rtol=1e-12, atol=1e-12)


def test_an_input_without_a_batch() -> None:
    attention: Any = seeded(nn.MultiheadAttention(16, 4)).double()
    x = images(9, 16)
    maps = recorded(attention, x, x, x, key_padding_mask=torch.arange(9) > 6)
    _, expected = attention(x, x, x, key_padding_mask=torch.arange(9) > 6, average_attn_weights=False)
    torch.testing.assert_close(weights(maps[""]), expected[None], rtol=1e-12, atol=1e-12)
    assert maps[""].heatmap().shape == (1, 3, 3)


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize(
    "padding", [None, torch.tensor([[False] * 9, [False] * 5 + [True] * 4])], ids=["", "padded"]
)
def test_encoder_layers_are_seen_on_their_fast_path(
    gradients: bool, norm_first: bool, padding: Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast: list[tuple[Any, ...]] = []
    plain = torch._transformer_encoder_layer_fwd

    def counted(*args: Any) -> Tensor:
        fast.append(args)
        return plain(*args)

    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", counted)
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, norm_first=norm_first)
    nested = padding is not None and not norm_first
    model: Any = seeded(nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)).double()
    x = images(2, 9, 16)
    before = state(model)
    with torch.set_grad_enabled(gradients):
        expected = model(x, src_key_padding_mask=padding)
        with sc.record(model) as maps:
            result = model(x, src_key_padding_mask=padding)
    assert torch.equal(result, expected)
    assert len(fast) == (0 if gradients else 4)  # two layers, before and while they are recorded
    assert state(model) == before
    assert [*maps] == ["layers.0.self_attn", "layers.1.self_attn"]
    slow = copy.deepcopy(model).requires_grad_()  # gradients: the slow path
    real = torch.ones(2, 9, dtype=torch.bool) if padding is None else ~padding
    y = x
    for layer, attention in zip(slow.layers, maps.values(), strict=True):
        inside = layer.norm1(y) if norm_first else y
        _, all_weights = layer.self_attn(
            inside, inside, inside, key_padding_mask=padding, average_attn_weights=False
        )
        torch.testing.assert_close(
            weights(attention).transpose(1, 2)[real], all_weights.transpose(1, 2)[real], rtol=1e-9, atol=1e-12
        )
        y = layer(y, src_key_padding_mask=padding)


def test_an_encoder_layer_that_was_changed_is_seen_where_it_calls_its_attention() -> None:
    class Scaled(nn.TransformerEncoderLayer):
        def _sa_block(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
            return super()._sa_block(2 * x, *args, **options)

    layer: Any = seeded(Scaled(16, 4, 24, batch_first=True)).double()
    x = images(2, 9, 16)
    with sc.record(layer) as maps:
        layer(x)
    _, expected = layer.self_attn(2 * x, 2 * x, 2 * x, average_attn_weights=False)
    torch.testing.assert_close(weights(maps["self_attn"]), expected, rtol=1e-12, atol=1e-12)


# Vision transformers.


def timm_vit(**options: Any) -> nn.Module:
    name = options.pop("name", "vit_tiny_patch16_224")
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
    model: nn.Module = timm.create_model(name, **small | options)
    return model


def torchvision_vit() -> nn.Module:
    model: nn.Module = torchvision.models.VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=4,
        hidden_dim=32,
        mlp_dim=48,
        num_classes=5,
    )
    return model


@contextmanager
def softmax_of(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the inputs of the dropout on the weights; attention is not fused."""
    inputs: list[Tensor] = []
    handles = []
    for name, module in model.named_modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
        if name.endswith("attn_drop"):
            handles.append(module.register_forward_hook(lambda _, args, __: inputs.append(args[0])))
    yield inputs
    for handle in handles:
        handle.remove()


VITS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int], int, type]] = {
    "ViT": (timm_vit, (32, 32), 1, ClassTokenMap),
    "ViT, not square": (lambda: timm_vit(img_size=(32, 48)), (32, 48), 1, ClassTokenMap),
    "ViT of any size": (lambda: timm_vit(dynamic_img_size=True), (24, 40), 1, ClassTokenMap),
    "ViT of any size, padded": (
        lambda: timm_vit(dynamic_img_size=True, dynamic_img_pad=True),
        (21, 45),
        1,
        ClassTokenMap,
    ),
    "ViT, norms": (lambda: timm_vit(qk_norm=True), (32, 32), 1, ClassTokenMap),
    "ViT, registers": (lambda: timm_vit(reg_tokens=4), (32, 32), 5, ClassTokenMap),
    "ViT, registers alone": (
        lambda: timm_vit(reg_tokens=3, class_token=False, global_pool="avg"),
        (32, 32),
        3,
        TokenMap,
    ),
    "ViT, no class token": (
        lambda: timm_vit(class_token=False, global_pool="avg"),
        (32, 32),
        0,
        sc.PairwiseMap,
    ),
    "DeiT": (lambda: timm_vit(name="deit_tiny_patch16_224"), (32, 32), 1, ClassTokenMap),
    "DeiT, distilled": (
        lambda: timm_vit(name="deit_tiny_distilled_patch16_224"),
        (32, 32),
        2,
        ClassTokenMap,
    ),
    "EVA-02": (lambda: timm_vit(name="eva02_tiny_patch14_224"), (32, 32), 1, ClassTokenMap),
    "DINOv3": (lambda: timm_vit(name="vit_small_patch16_dinov3"), (32, 48), 5, ClassTokenMap),
    "mixed rotations": (
        lambda: timm_vit(name="vit_small_patch16_rope_mixed_224"),
        (32, 32),
        1,
        ClassTokenMap,
    ),
    "BEiT": (lambda: timm_vit(name="beit_base_patch16_224"), (32, 32), 1, ClassTokenMap),
}


@pytest.mark.parametrize("name", VITS)
def test_vision_transformers_of_timm(name: str) -> None:
    make, size, extra, kind = VITS[name]
    model = seeded(make()).double()
    x = images(2, 3, *size)
    maps = recorded(model, x)
    assert [*maps] == ["blocks.0.attn", "blocks.1.attn"]
    plain = copy.deepcopy(model)
    with softmax_of(plain) as expected:
        plain(x)
    assert len(expected) == 2
    grid = tuple(math.ceil(extent / 8) for extent in size)
    for attention, layer_weights in zip(maps.values(), expected, strict=True):
        assert type(attention) is kind
        assert isinstance(attention, sc.PairwiseMap)
        torch.testing.assert_close(weights(attention), layer_weights, rtol=1e-9, atol=1e-12)
        assert attention.query_shape == attention.key_shape == grid
        among = layer_weights[:, :, extra:, extra:]
        torch.testing.assert_close(attention.weights(), among, rtol=1e-9, atol=1e-12)
        row = attention.attention_from(y=1, x=2, head=3)
        torch.testing.assert_close(row, among[:, 3, grid[1] + 2].reshape(2, *grid), rtol=1e-9, atol=1e-12)
        where = layer_weights[:, :, 0, extra:] if kind is ClassTokenMap else among.mean(2)
        torch.testing.assert_close(
            attention.saliency(), where.mean(1).reshape(2, *grid), rtol=1e-9, atol=1e-12
        )


def test_the_vision_transformer_of_torchvision() -> None:
    model: Any = seeded(torchvision_vit()).double()
    x = images(2, 3, 32, 32)
    maps = recorded(model, x)
    attention = maps["encoder.layers.encoder_layer_1"]
    tokens: list[Tensor] = []
    handle = model.encoder.layers[1].ln_1.register_forward_hook(lambda _, __, y: tokens.append(y))
    model(x)
    handle.remove()
    layer = model.encoder.layers[1].self_attention
    _, expected = layer(*3 * tokens, average_attn_weights=False)
    torch.testing.assert_close(weights(attention), expected, rtol=1e-12, atol=1e-12)
    assert isinstance(attention, ClassTokenMap)
    row = expected[:, :, 0, 1:].mean(1).reshape(2, 4, 4)
    torch.testing.assert_close(attention.saliency(), row, rtol=1e-12, atol=1e-12)


def test_a_mask_of_timms_attention_counts() -> None:
    attention: Any = seeded(timm.layers.attention.Attention(16, 4)).double()
    x = images(2, 6, 16)
    plain = copy.deepcopy(attention)
    for masks in (
        {"attn_mask": torch.ones(6, 6, dtype=torch.bool).tril()},
        {"attn_mask": images(2, 1, 6, 6)},
        {"is_causal": True},
    ):
        maps = recorded(attention, x, **masks)
        with softmax_of(plain) as expected:
            plain(x, **masks)
        torch.testing.assert_close(weights(maps[""]), expected[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shared", [False, True])
def test_keys_of_several_heads_and_projections_apart(shared: bool) -> None:
    options: Any = {"num_kv_heads": 2} if shared else {}
    attention: Any = timm.layers.attention.AttentionRope(16, 4, qkv_fused=False, **options)
    seeded(attention).double()
    x, rope = images(2, 7, 16), images(6, 8)
    maps = recorded(attention, x, rope=rope)
    plain = copy.deepcopy(attention)
    with softmax_of(plain) as expected:
        plain(x, rope=rope)
    torch.testing.assert_close(weights(maps[""]), expected[0], rtol=1e-9, atol=1e-12)


# Swin.


def torchvision_swin(version: int, size: tuple[int, int]) -> nn.Module:  # noqa: ARG001
    from torchvision.models import swin_transformer as swin

    block: Any = {1: swin.SwinTransformerBlock, 2: swin.SwinTransformerBlockV2}[version]
    merge: Any = {1: swin.PatchMerging, 2: swin.PatchMergingV2}[version]
    model: nn.Module = swin.SwinTransformer(
        [4, 4], 16, [2, 2], [2, 4], [4, 3], num_classes=5, block=block, downsample_layer=merge
    )
    return model


def timm_swin(version: int, size: tuple[int, int]) -> nn.Module:
    name = {1: "swin_tiny_patch4_window7_224", 2: "swinv2_tiny_window8_256"}[version]
    options: Any = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": (4, 3)}
    model: nn.Module = timm.create_model(name, img_size=size, num_classes=5, **options)
    return model


def timm_swin_of_any_size(version: int, size: tuple[int, int]) -> nn.Module:  # noqa: ARG001
    name = {1: "swin_tiny_patch4_window7_224", 2: "swinv2_tiny_window8_256"}[version]
    options: Any = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "window_size": (4, 3)}
    model: nn.Module = timm.create_model(
        name, img_size=64, strict_img_size=False, always_partition=True, num_classes=5, **options
    )
    return model


def values_of(attention: Any, x: Tensor) -> Tensor:
    """Return the values of all places `(B, H, W, C)` without bias, `(B, heads, H * W, D)`."""
    weight: Tensor = attention.qkv.weight.chunk(3)[2]
    projected = F.linear(x.flatten(1, 2), weight)
    values: Tensor = projected.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
    return values


def noting(function: Callable[[Tensor], Tensor], calls: list[tuple[Tensor, Tensor]]) -> Callable[..., Tensor]:
    """Return the function; it keeps inputs and results."""

    def noted(x: Tensor) -> Tensor:
        calls.append((x, function(x)))
        return calls[-1][1]

    return noted


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    "make", [torchvision_swin, timm_swin, timm_swin_of_any_size], ids=["torchvision", "timm", "any size"]
)
@pytest.mark.parametrize("size", [(64, 48), (36, 56), (24, 20), (12, 8)], ids=str)
def test_swin(make: Callable[..., nn.Module], version: int, size: tuple[int, int]) -> None:
    """Weights on the whole grid, times values, make the output of the attention: all that there is to it.

    The biases of values are 0, so that padding, which has no place in the grid, adds nothing.
    """
    model: Any = seeded(make(version, size)).double()
    attentions = {
        name: m
        for name, m in model.named_modules()
        if type(m).__name__.endswith(("Attention", "AttentionV2"))
    }
    assert len(attentions) == 4
    with torch.no_grad():
        for attention in attentions.values():
            (attention.qkv.bias.chunk(3)[2] if attention.qkv.bias is not None else attention.v_bias).zero_()
            if version == 2:
                attention.logit_scale[0] = 5.0  # beyond log(100), where it is cut off
    x = images(2, 3, *size)
    maps = recorded(model, x)
    assert [*maps] == [*attentions]
    # The inputs and outputs of each attention on the grid.
    calls: list[tuple[Tensor, Tensor]] = []
    handles = []
    for name, attention in attentions.items():
        if make is torchvision_swin:
            handles.append(attention.register_forward_hook(lambda _, args, y: calls.append((args[0], y))))
        else:
            block = model.get_submodule(name.rpartition(".")[0])
            block._attn = noting(block._attn, calls)
    model(x)
    for (inputs, output), attention, recorded_map in zip(
        calls, attentions.values(), maps.values(), strict=True
    ):
        assert isinstance(recorded_map, WindowMap)
        grid = tuple(inputs.shape[1:3])
        assert recorded_map.query_shape == recorded_map.key_shape == grid
        all_weights = recorded_map.weights()
        mixed = (all_weights @ values_of(attention, inputs)).transpose(1, 2).flatten(2)
        torch.testing.assert_close(attention.proj(mixed).reshape(output.shape), output, rtol=1e-9, atol=1e-9)
        # The other results follow from all weights.
        torch.testing.assert_close(
            recorded_map.attention_received(), all_weights.mean((1, 2)).reshape(2, *grid)
        )
        torch.testing.assert_close(
            recorded_map.attention_received(head=1), all_weights[:, 1].mean(1).reshape(2, *grid)
        )
        y, column = grid[0] - 1, grid[1] // 2
        row = all_weights[:, :, y * grid[1] + column].mean(1).reshape(2, *grid)
        torch.testing.assert_close(recorded_map.attention_from(y=y, x=column), row)
        assert recorded_map.heatmap((40, 40)).shape == (2, 40, 40)
        inside = recorded_map.window_weights()
        torch.testing.assert_close(inside.sum(-1), torch.ones_like(inside[..., 0]))


def test_windows_do_not_depend_on_how_many_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = seeded(torchvision_swin(1, (64, 48))).double()
    maps = recorded(model, images(2, 3, 64, 48))
    attention = maps["features.1.1"]
    expected = attention.saliency()
    monkeypatch.setattr("saccade.maps.pairwise.CHUNK", 2 * 2 * 12 * 12 * 3)
    torch.testing.assert_close(attention.saliency(), expected)


def test_a_query_of_a_window_needs_its_place() -> None:
    maps = recorded(seeded(torchvision_swin(1, (24, 20))), images(1, 3, 24, 20, dtype=torch.float32))
    attention = maps["features.1.0.attn"]
    assert isinstance(attention, WindowMap)
    with raises(sc.BadOption, owner="WindowMap", option="queries"):
        attention.rows(attention.queries)
    with raises(sc.BadShape, owner="WindowMap", option="y", value=6):
        attention.attention_from(y=6, x=0)
    block: Any = seeded(timm_swin(1, (24, 20)))
    alone = sc.record(block.layers[0].blocks[0].attn)
    with raises(sc.BadOption, owner="record", option="model", value="WindowAttention"), alone:
        pass


# Squeeze and excitation.

SQUEEZES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "mobilenet_v3_small": (lambda: torchvision.models.mobilenet_v3_small(), 9),
    "efficientnet_b0": (lambda: timm.create_model("efficientnet_b0"), 16),
    "torchvision's efficientnet_b0": (lambda: torchvision.models.efficientnet_b0(), 16),
}
BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "SEModule": lambda: squeeze_excite.SEModule(16),
    "SEModule, normalized": lambda: squeeze_excite.SEModule(16, norm_layer=nn.BatchNorm2d, add_maxpool=True),
    "EffectiveSEModule": lambda: squeeze_excite.EffectiveSEModule(16),
    "EcaModule": lambda: eca.EcaModule(16),
    "CecaModule": lambda: eca.CecaModule(16),
    "SqueezeExcitation": lambda: torchvision.ops.SqueezeExcitation(16, 4),
}


@pytest.mark.parametrize("name", SQUEEZES)
def test_networks_with_squeeze_and_excitation(name: str) -> None:
    make, count = SQUEEZES[name]
    model = make().eval()
    calls: dict[str, tuple[Tensor, Tensor]] = {}
    for path, module in model.named_modules():
        if type(module).__name__ in ("SqueezeExcitation", "SqueezeExcite"):
            module.register_forward_hook(
                lambda _, args, y, path=path: calls.__setitem__(path, (args[0].clone(), y.clone()))
            )
    maps = recorded(model, images(2, 3, 32, 64, dtype=torch.float32))
    assert len(maps) == count
    assert calls.keys() == maps.keys()
    for path, (features, output) in calls.items():
        gate = maps[path]
        assert isinstance(gate, sc.ChannelMap)
        torch.testing.assert_close(gate.weights[:, :, None, None] * features, output)
        torch.testing.assert_close(gate.saliency(), output.abs().sum(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_of_squeeze_and_excitation(name: str, training: bool) -> None:
    block = seeded(BLOCKS[name]()).double().train(training)
    twin = copy.deepcopy(block)
    x = images(3, 16, 5, 4)
    expected = twin(x)
    with sc.record(block) as maps:
        output = block(x)
    assert torch.equal(output, expected)
    torch.testing.assert_close(dict(block.state_dict()), dict(twin.state_dict()), rtol=0, atol=0)
    gate = maps[""]
    assert isinstance(gate, sc.ChannelMap)
    assert not gate.weights.requires_grad
    torch.testing.assert_close(gate.weights[:, :, None, None].expand_as(x), output / x)
    torch.testing.assert_close(gate.saliency(), output.abs().sum(1))
