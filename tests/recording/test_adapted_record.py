"""`record` for attention of other libraries: grids, errors, a restored model; and attention rollout."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import saccade as sc
from saccade.maps import ClassTokenMap, DotProductMap, attention_rollout
from saccade.recording.adapters.registry import plugin_adapters
from support.errors import raises


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def vit(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}
    model: nn.Module = timm.create_model("vit_tiny_patch16_224", **small | options)
    return model.eval()


def swin() -> nn.Module:
    model: nn.Module = torchvision.models.SwinTransformer([4, 4], 16, [1, 1], [2, 4], [4, 4], num_classes=5)
    return model.eval()


class Tokens(nn.Module):
    """Attention over flattened feature maps, with a class token if it has a name."""

    def __init__(self, features: nn.Module, token: str | None = None) -> None:
        super().__init__()
        self.features = features
        self.token = token
        if token:
            self.register_parameter(token, nn.Parameter(torch.randn(1, 1, 8)))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).flatten(2).transpose(1, 2)
        if self.token:
            x = torch.cat([self.get_parameter(self.token).expand(len(x), -1, -1), x], 1)
        y: Tensor = self.attention(x, x, x)[0]
        return y


class First(nn.Module):
    def forward(self, parts: tuple[Tensor, Tensor]) -> Tensor:
        return parts[0]


def grid(model: nn.Module, *inputs: Tensor) -> tuple[int, ...]:
    with sc.record(model) as maps:
        model(*inputs)
    (attention,) = maps.values()
    assert isinstance(attention, sc.PairwiseMap)
    return attention.query_shape


# The layout of tokens.


@pytest.mark.parametrize("token", [None, "cls_token", "class_token", "summary"])
def test_tokens_have_the_grid_of_their_feature_map(token: str | None) -> None:
    model = Tokens(nn.Conv2d(3, 8, 4, stride=4), token)
    for size in ((16, 16), (8, 32), (32, 8)):
        with sc.record(model) as maps:
            model(images(2, 3, *size))
        attention = maps["attention"]
        assert isinstance(attention, sc.PairwiseMap)
        assert attention.query_shape == attention.key_shape == (size[0] // 4, size[1] // 4)
        assert isinstance(attention, ClassTokenMap) == (token is not None)


def test_feature_maps_of_any_number_of_axes_and_after_pooling() -> None:
    clip = Tokens(nn.Conv3d(3, 8, 2, stride=2))
    assert grid(clip, images(1, 3, 4, 6, 8)) == (2, 3, 4)
    sound = Tokens(nn.Conv1d(3, 8, 2, stride=2))
    assert grid(sound, images(1, 3, 32)) == (16,)  # and not 4 x 4
    pooled = Tokens(nn.Sequential(nn.Conv2d(3, 8, 1), nn.MaxPool2d(2)))
    assert grid(pooled, images(1, 3, 4, 16)) == (2, 8)
    indices = nn.Sequential(nn.MaxPool2d(2, return_indices=True), First(), nn.Conv2d(3, 8, 1))
    assert grid(Tokens(indices), images(1, 3, 4, 16)) == (2, 8)


def test_without_a_feature_map_a_square_else_a_row() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    for count, expected in ((16, (4, 4)), (12, (12,)), (1, (1,))):
        x = images(2, count, 8)
        assert grid(attention, x, x, x) == expected


def test_a_class_token_that_is_announced_needs_no_feature_map() -> None:
    model = Tokens(nn.Identity(), "class_token")
    with sc.record(model) as maps:
        model(images(2, 8, 16))
    attention = maps["attention"]
    assert isinstance(attention, ClassTokenMap)
    assert attention.query_shape == attention.key_shape == (4, 4)
    assert attention.class_row().shape == (2, 4, 4)


def test_queries_and_keys_of_their_own_shapes() -> None:
    """In a detector, 9 objects, which are no 3 x 3 image, attend to the image."""

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Conv2d(3, 8, 4, stride=4)
            self.objects = nn.Parameter(torch.randn(9, 8))
            self.decoder = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            memory = self.backbone(x).flatten(2).transpose(1, 2)
            y: Tensor = self.decoder(self.objects.expand(len(x), -1, -1), memory)
            return y

    model = Detector().eval()
    with sc.record(model) as maps:
        model(images(2, 3, 16, 24))
    assert [*maps] == ["decoder.self_attn", "decoder.multihead_attn"]
    objects, decoded = maps.values()
    assert isinstance(decoded, sc.PairwiseMap)
    assert isinstance(objects, sc.PairwiseMap)
    assert (objects.query_shape, objects.key_shape) == ((9,), (9,))
    assert (decoded.query_shape, decoded.key_shape) == ((9,), (4, 6))
    assert decoded.attention_from(x=8).shape == (2, 4, 6)
    with raises(sc.BadOption, owner="rollout", option="maps", value=["9 x 9", "9 x 24"]):
        maps.rollout()


# Attention rollout.


@pytest.mark.parametrize(
    "options", [{}, {"reg_tokens": 2}, {"class_token": False, "global_pool": "avg"}], ids=str
)
def test_rollout_is_the_product_of_the_layers(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = vit(img_size=(32, 48), **options)
    with sc.record(model) as maps, torch.no_grad():
        model(images(2, 3, 32, 48))
    product = torch.eye(24 + model.num_prefix_tokens)
    layers = [attention for attention in maps.values() if isinstance(attention, sc.PairwiseMap)]
    assert len(layers) == 3
    for attention in layers:
        mean = attention.tokens().weights().mean(1)
        product = (0.5 * mean + 0.5 * torch.eye(mean.shape[-1])) @ product
    extra = model.num_prefix_tokens
    answer = product[:, 0] if extra else product.mean(1)
    expected = answer[:, extra:].reshape(2, 4, 6)
    torch.testing.assert_close(maps.rollout().weights, expected)
    monkeypatch.setattr("saccade.maps.pairwise.CHUNK", 5 * 2 * 4 * 24)  # a few rows at a time
    torch.testing.assert_close(maps.rollout().weights, expected)
    reverse = attention_rollout(layers[::-1])
    assert not torch.allclose(reverse.weights, expected)


def test_rollout_ignores_maps_that_mix_no_tokens_and_refuses_what_is_no_stack() -> None:
    windows = swin()
    with sc.record(windows) as maps:
        windows(images(1, 3, 32, 32))
    with raises(sc.BadOption, owner="rollout", option="maps", value="WindowMap"):
        maps.rollout()
    gate = sc.create("se", 16)
    with sc.record(gate) as maps:
        gate(images(1, 16, 4, 4))
    with raises(sc.BadOption, owner="rollout", option="maps", value=[]):
        maps.rollout()
    q = images(1, 2, 16, 4)
    with raises(sc.BadOption, owner="rollout", option="maps", value="DotProductMap"):
        attention_rollout([DotProductMap(q, q, 1.0, (4, 4), (4, 4))])
    large, small = (sc.PairwiseMap(x, x, 0.5, (len(x[0, 0]),), (len(x[0, 0]),)) for x in (q, q[:, :, :9]))
    with raises(sc.BadOption, owner="rollout", option="maps", value=["16 x 16", "9 x 9"]):
        attention_rollout([large, small])
    model = nn.Sequential(sc.create("se", 3, reduction=1), vit())
    with sc.record(model) as maps:
        model(images(1, 3, 32, 32))
    assert [attention.kind for attention in maps.values()] == ["channel", *3 * ["pairwise"]]
    assert maps.rollout().heatmap((32, 32)).shape == (1, 32, 32)


# Both kinds in one model, and custom adapters.


def test_a_mechanism_speaks_for_the_attention_inside_it() -> None:
    class Mechanism(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(8, 2, batch_first=True)
            self.tap = sc.Tap()

        def forward(self, x: Tensor) -> Tensor:
            if self.tap.recording:
                self.tap.publish(sc.SpatialMap(x.detach().mean(2)))
            y: Tensor = self.inner(x, x, x)[0]
            return y

    model = nn.Sequential(Mechanism(), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    with sc.record(model) as maps:
        model(images(2, 5, 8))
    assert [*maps] == ["0", "1.self_attn"]
    assert [attention.kind for attention in maps.values()] == ["spatial", "pairwise"]


def test_a_custom_adapter() -> None:
    class Gate(nn.Module):
        def forward(self, features: Tensor, factor: float = 1.0) -> Tensor:
            return features * (factor * features).mean(1, keepdim=True).sigmoid()

    def gate_map(module: nn.Module, inputs: Any, output: Tensor) -> sc.AttentionMap:
        assert isinstance(module, Gate)
        assert output.shape == inputs["features"].shape
        return sc.SpatialMap((inputs["factor"] * inputs["features"]).mean(1).sigmoid())

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = Gate()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.gate(x, factor=3.0)
            return y

    model, x = Net(), images(2, 4, 6, 5).requires_grad_()
    with raises(sc.NothingRecorded, owner="record", value="Net"), sc.record(model):
        pass
    with sc.record(model, adapters={Gate: gate_map}) as maps:
        model(x)
    torch.testing.assert_close(maps["gate"].saliency(), (3 * x).mean(1).sigmoid())
    assert not maps["gate"].saliency().requires_grad
    with (
        raises(sc.BadOption, owner="Gate", option="adapters", value=7),
        sc.record(model, {Gate: lambda *_: 7}),  # type: ignore[dict-item]
    ):
        model(x)
    assert not model.gate._forward_hooks
    # It precedes the built-in one.
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    y = images(2, 5, 8)
    with sc.record(
        attention, {nn.MultiheadAttention: lambda _, i, __: sc.SpatialMap(i["query"][..., 0])}
    ) as maps:
        attention(y, y, y)
    assert maps[""].kind == "spatial"


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The objects of the entry points of the group `saccade.adapters`, by name."""
    objects: dict[str, Any] = {}

    def load(group: str, name: str) -> object:
        assert group == "saccade.adapters"
        return objects[name]

    monkeypatch.setattr("saccade.plugins.names", lambda group: [*objects] * (group == "saccade.adapters"))
    monkeypatch.setattr("saccade.plugins.load", load)
    plugin_adapters.cache_clear()
    yield objects
    plugin_adapters.cache_clear()


class Blend(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features * features.mean(1, keepdim=True).sigmoid()


class Renamed(Blend):
    pass


class Other(Blend):
    def forward(self, features: Tensor) -> Tensor:
        return 2 * super().forward(features)


def mean_map(_: nn.Module, inputs: Any, __: Tensor) -> sc.AttentionMap:
    return sc.SpatialMap(inputs["features"].mean(1).sigmoid())


@pytest.mark.parametrize("by_name", [True, False])
def test_an_entry_point_adds_adapters_by_class_or_by_full_name(
    by_name: bool, entry_points: dict[str, Any]
) -> None:
    model, x = nn.Sequential(Blend(), Renamed(), Other()), images(2, 4, 6, 5)
    with raises(sc.NothingRecorded, owner="record"), sc.record(model):
        pass
    plugin_adapters.cache_clear()
    entry_points["any name"] = {f"{Blend.__module__}.Blend" if by_name else Blend: mean_map}
    with sc.record(model) as maps:
        model(x)
    assert [*maps] == (["0", "1"] if by_name else ["0", "1", "2"])  # a name is that of the forward's class
    torch.testing.assert_close(maps["0"].saliency(), x.mean(1).sigmoid())


def test_the_adapters_of_the_caller_and_the_built_in_ones_precede_entry_points(
    entry_points: dict[str, Any],
) -> None:
    def unused(*_: Any) -> sc.AttentionMap:
        raise AssertionError

    attention, x = nn.MultiheadAttention(8, 2, batch_first=True), images(2, 5, 8)
    entry_points["other"] = {nn.MultiheadAttention: unused, Blend: unused}
    with sc.record(attention) as maps:
        attention(x, x, x)
    assert maps[""].kind == "pairwise"
    blend = Blend()
    with sc.record(blend, {Blend: mean_map}) as maps:
        blend(images(2, 4, 6, 5))
    assert maps[""].kind == "spatial"


@pytest.mark.parametrize(
    "table", [mean_map, {"my.Class": 3}, {7: mean_map}], ids=["function", "number", "key"]
)
def test_an_entry_point_that_is_no_table_of_adapters_is_named(
    table: Any, entry_points: dict[str, Any]
) -> None:
    entry_points["broken"] = table
    with raises(sc.BadOption, owner="saccade.adapters", option="broken", value=table), sc.record(Blend()):
        pass


def test_an_entry_point_that_cannot_be_loaded_does_not_prevent_recording(
    entry_points: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(group: str, name: str) -> object:
        if name == "broken":
            raise sc.BadOption("plugin 'broken' of 'example' cannot be loaded", owner="example", option=group)
        return entry_points[name]

    monkeypatch.setattr("saccade.plugins.load", load)
    entry_points |= {"broken": None, "other": {Blend: mean_map}}
    blend = Blend()
    with pytest.warns(UserWarning, match="plugin 'broken' of 'example'"), sc.record(blend) as maps:
        blend(images(2, 4, 6, 5))
    assert maps[""].kind == "spatial"


def test_a_class_of_the_same_name_is_left_alone() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.num_heads, self.scale = nn.Linear(8, 24), 2, 0.5

    with raises(sc.NothingRecorded, owner="record"), sc.record(nn.Sequential(Attention())):
        pass


def test_a_class_that_computes_otherwise_than_its_base_is_left_alone() -> None:
    class Named(nn.MultiheadAttention):
        pass

    class Doubled(nn.MultiheadAttention):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            y: Tensor = super().forward(2 * x, x, x)[0]
            return y

    x = images(2, 4, 8)
    named = Named(8, 2, batch_first=True)
    with sc.record(named) as maps:
        named(x, x, x)
    assert [*maps] == [""]
    with raises(sc.NothingRecorded, owner="record"), sc.record(Doubled(8, 2, batch_first=True)):
        pass


# The model is restored, and errors.


def test_hooks_of_others_run_once_and_stay() -> None:
    model = vit()
    calls: list[str] = []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    before = {name: dict(module._forward_hooks) for name, module in model.named_modules()}
    model(images(1, 3, 32, 32))
    plain = calls[:]
    calls.clear()
    with sc.record(model) as maps:
        model(images(1, 3, 32, 32))
    assert calls == plain
    assert len(maps) == 3
    assert {name: dict(module._forward_hooks) for name, module in model.named_modules()} == before


def raise_if(problem: Exception | None) -> None:
    if problem:
        raise problem


@pytest.mark.parametrize("make", [vit, lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)])
def test_nothing_stays_after_an_exception(make: Any) -> None:
    model = make().eval()
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    for problem in (ZeroDivisionError(), None):
        with pytest.raises(type(problem) if problem else sc.NothingRecorded), sc.record(model):
            raise_if(problem)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        assert {name: set(vars(module)) for name, module in model.named_modules()} == before
        assert "forward" not in vars(model)


@pytest.mark.parametrize("make", [vit, lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)])
def test_a_second_recording_inside_the_first_is_refused(make: Any) -> None:
    model = make().eval()
    x = images(1, 3, 32, 32) if make is vit else images(1, 4, 8)
    with sc.record(model) as maps:
        with raises(sc.BadOption, owner="record", option="model"), sc.record(model):
            pass
        model(x)
    assert len(maps) in (1, 3)


@pytest.mark.parametrize("make", [vit, lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)])
def test_a_copy_made_while_recording_is_whole_and_can_be_recorded_later(make: Any) -> None:
    model = make().eval()
    x = images(1, 3, 32, 32) if make is vit else images(1, 4, 8)
    with sc.record(model) as maps, torch.no_grad():
        expected = model(x)
        twin = copy.deepcopy(model)
    kept = {**maps}
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
        assert not torch.equal(twin(x), expected)  # it uses the weights of the copy
        assert torch.equal(model(x), expected)
    with sc.record(twin) as twin_maps:
        twin(x)
    assert twin_maps.keys() == maps.keys()
    assert {**maps} == kept


def test_maps_of_training_are_detached_and_gradients_are_the_same() -> None:
    torch.manual_seed(0)
    model = vit(qk_norm=True).train()
    twin = copy.deepcopy(model)
    x = images(2, 3, 32, 32)
    twin(x).sum().backward()
    with sc.record(model) as maps:
        model(x).sum().backward()
    for parameter, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=0, atol=0)
    for attention in maps.values():
        assert not any(value.requires_grad for value in vars(attention).values() if isinstance(value, Tensor))


def test_dropout_draws_the_same_numbers() -> None:
    model = vit(attn_drop_rate=0.5, proj_drop_rate=0.5).train()
    x = images(2, 3, 32, 32)
    torch.manual_seed(0)
    expected = model(x)
    torch.manual_seed(0)
    with sc.record(model):
        assert torch.equal(model(x), expected)


def test_precisions_and_memory_formats() -> None:
    model, x = vit(), images(1, 3, 32, 32)
    with sc.record(model) as exact, torch.no_grad():
        model(x)
    with sc.record(model) as maps, torch.no_grad():
        model(x.to(memory_format=torch.channels_last))
    for path in exact:
        torch.testing.assert_close(maps[path].saliency(), exact[path].saliency())
    with sc.record(model) as maps, torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(x)
    for path in exact:
        torch.testing.assert_close(maps[path].saliency(), exact[path].saliency(), rtol=0.1, atol=0.01)
    halves = copy.deepcopy(model).to(torch.bfloat16)
    with sc.record(halves) as maps, torch.no_grad():
        halves(x.to(torch.bfloat16))
    attention = maps["blocks.2"]
    assert isinstance(attention, ClassTokenMap)
    assert attention.queries.dtype is torch.bfloat16
    torch.testing.assert_close(attention.saliency(), exact["blocks.2"].saliency(), rtol=0.1, atol=0.01)
    with torch.inference_mode(), sc.record(model) as maps:
        model(x)
    torch.testing.assert_close(maps["blocks.2"].saliency(), exact["blocks.2"].saliency())
    assert maps.rollout().weights.shape == (1, 4, 4)


@pytest.mark.parametrize(
    "make",
    [vit, lambda: torchvision.models.SwinTransformer([4, 4], 16, [2], [2], [4, 4])],
    ids=["vit", "swin"],
)
def test_maps_are_on_the_device_of_the_model(make: Any) -> None:
    with torch.device("meta"):
        model = make().eval()
    x = torch.empty(2, 3, 32, 32, device="meta")
    with sc.record(model) as maps:
        model(x)
    for attention in maps.values():
        tensors = [value for value in vars(attention).values() if isinstance(value, Tensor)]
        assert {value.device.type for value in (*tensors, attention.saliency())} == {"meta"}
        assert attention.heatmap((32, 32)).shape == (2, 32, 32)


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("_fresh_compiler")
def test_a_compiled_network_is_refused_and_the_advice_helps() -> None:
    model, x = vit(depth=1), images(1, 3, 32, 32)
    compiled: Any = torch.compile(model, backend="eager")
    expected = compiled(x)
    with raises(sc.BadOption, owner="record", option="model", value="blocks.0.attn"), sc.record(compiled):
        pass
    with sc.record(compiled._orig_mod) as maps:
        torch.testing.assert_close(compiled._orig_mod(x), expected)
    assert len(maps) == 1
    part: Any = copy.deepcopy(model)
    part.blocks.compile(backend="eager")
    part.blocks[0].compile(backend="eager")
    part(x)
    with raises(sc.BadOption, owner="record", option="model", value="blocks.0.attn"), sc.record(part):
        pass
    inside = torch.compile(lambda x: model(x), backend="eager")
    inside(x)
    with sc.record(model) as maps:  # a function mode makes torch.compile trace again, with the hooks
        torch.testing.assert_close(inside(x), expected)
    assert len(maps) == 1
    plain = copy.deepcopy(part)
    with sc.record(plain) as maps:
        torch.testing.assert_close(plain(x), expected)
    assert len(maps) == 1
    head: Any = copy.deepcopy(model)
    head.head.compile(backend="eager")  # the compiled part holds no attention
    with sc.record(head) as maps:
        torch.testing.assert_close(head(x), expected)
    assert len(maps) == 1
