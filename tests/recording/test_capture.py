"""Attention of modules that nobody has written an adapter for, caught by its operations."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
import vit_pytorch
from torch import Tensor, nn

import saccade as sc
from saccade.maps import ChannelMap, ClassTokenMap, DotProductMap, PairwiseMap, TokenMap, WindowMap
from support.errors import raises

SIZE, WIDTH, HEADS = (4, 5), 16, 2
X = torch.randn(2, 3, *(4 * side for side in SIZE), generator=torch.Generator().manual_seed(0))


class Own(nn.Module):
    """Attention of somebody's own, in one of several forms."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.mix = nn.Linear(HEADS, HEADS)
        self.bias = nn.Parameter(torch.randn(HEADS, 20, 20))
        self.drop = nn.Dropout(0.5)
        self.softmax = nn.Softmax(dim=-1)
        self.weights: Tensor = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, count, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        scale = q.shape[-1] ** -0.5
        causal = torch.ones(count, count, dtype=torch.bool).tril()
        form = self.form
        if form == "folded":  # heads in the batch
            q, k, v = (part.flatten(0, 1) for part in (q, k, v))
            weights = torch.bmm(q, k.transpose(1, 2)).mul_(scale).softmax(-1)
            self.weights = weights.unflatten(0, (batch, HEADS))
            out = torch.bmm(weights, v).unflatten(0, (batch, HEADS))
            return torch.flatten(out.transpose(1, 2), 2)
        if form == "fused":
            self.weights = ((q @ k.mT) * scale).softmax(-1)
            out = F.scaled_dot_product_attention(q, k, v)
        elif form == "fused causal":
            self.weights = ((q @ k.mT) * scale).masked_fill(~causal, -torch.inf).softmax(-1)
            out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        elif form == "fused mask":
            self.weights = ((q @ k.mT) * 0.3).masked_fill(~causal, -torch.inf).softmax(-1)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=causal, scale=0.3)
        elif form == "einsum":
            self.weights = F.softmax(torch.einsum("bhid,bhjd->bhij", q, k) * scale, dim=-1)
            out = torch.einsum("bhij,bhjd->bhid", self.weights, v)
        else:
            logits = torch.matmul(q * scale, k.transpose(-2, -1))
            if form == "bias":
                logits = logits / 2 + self.bias
            if form == "bias first":
                logits = self.bias + 2 * logits
            if form == "scaled bias":
                logits = torch.add(logits, self.bias, alpha=3)
            if form == "mask":
                logits = logits.masked_fill(~causal, float("-inf"))
            if form == "talking heads":
                logits = self.mix(logits.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            if form == "clamped":
                logits = logits.clamp(-0.1, 0.1)
            self.weights = self.softmax(logits)
            out = self.drop(self.weights).to(v.dtype) @ v
        return torch.flatten(out.transpose(1, 2), 2)


def _pairs(attention: sc.AttentionMap) -> PairwiseMap:
    assert isinstance(attention, PairwiseMap)
    return attention


class Network(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 4, 4)
        self.block = nn.ModuleDict({"mixer": Own(form)})

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.block["mixer"](self.patches(x).flatten(2).mT)
        return mixed


FORMS = (
    "fused",
    "fused causal",
    "fused mask",
    "folded",
    "einsum",
    "bias",
    "mask",
    "talking heads",
    "clamped",
)


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_those_of_the_model(form: str) -> None:
    model = Network(form).eval()
    expected = model(X)
    with sc.record(model) as maps:
        output = model(X)
    assert torch.equal(output, expected)
    attention = maps["block.mixer"]
    own: Any = model.block["mixer"]
    assert isinstance(attention, PairwiseMap)
    assert attention.query_shape == SIZE
    torch.testing.assert_close(attention.weights(), own.weights, atol=1e-6, rtol=1e-5)
    assert not maps.unseen


def test_factors_are_kept_where_they_are_known() -> None:
    for form, is_factored in (("fused", True), ("folded", True), ("bias", True), ("clamped", False)):
        model = Network(form).eval()
        with sc.record(model) as maps:
            model(X)
        attention: Any = maps["block.mixer"]
        assert (attention.keys.shape[-1] == WIDTH // HEADS) == is_factored, form


@pytest.mark.parametrize("form", ["clamped", "scaled bias"])
def test_of_very_many_weights_the_column_means_are_kept(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saccade.recording.capture._MOST_WEIGHTS", 100)
    model = Network(form).eval()
    with sc.record(model) as maps:
        model(X)
    own: Any = model.block["mixer"]
    assert isinstance(maps["block.mixer"], sc.SpatialMap)
    torch.testing.assert_close(maps["block.mixer"].saliency().flatten(1), own.weights.mean((1, 2)))


def test_an_attention_that_cannot_be_captured_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("unusual")

    model = Network("fused").eval()
    expected = model(X)
    monkeypatch.setattr("saccade.recording.capture.Capture._map", fail)
    with (
        pytest.raises(sc.NothingRecorded),
        pytest.warns(UserWarning, match="1 attention layers of Network.*'block.mixer'"),
        sc.record(model) as maps,
    ):
        assert torch.equal(model(X), expected)
    assert maps.unseen == ("block.mixer",)


@pytest.mark.parametrize("is_early", [True, False])
def test_a_copy_that_ran_in_place_of_the_model_is_named(is_early: bool) -> None:
    model = Network("fused")
    early = copy.deepcopy(model)
    with raises(sc.NothingRecorded, owner="record", value="Network") as caught, sc.record(model):
        late = copy.deepcopy(model)
        (early if is_early else late)(X)
    assert "a copy of it" in str(caught.value)
    with torch.no_grad(), sc.record(late) as maps:  # the hooks of the first recording have no effect
        assert torch.equal(late(X), early(X))
    assert len(maps) > 0


def test_gradients_and_states_are_unchanged() -> None:
    model = Network("mask").train()
    torch.manual_seed(0)
    model(X).square().sum().backward()
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    torch.manual_seed(0)
    with sc.record(model) as maps:
        model(X).square().sum().backward()
    assert all(map(torch.equal, expected, [p.grad for p in model.parameters() if p.grad is not None]))
    attention: Any = maps["block.mixer"]
    assert not attention.queries.requires_grad
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_grouped_keys_and_two_calls_in_one_module() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.kv = nn.Linear(16, 16), nn.Linear(16, 8)

        def forward(self, x: Tensor, context: Tensor) -> Tensor:
            q = self.q(x).unflatten(2, (4, 4)).transpose(1, 2)
            k = self.kv(context).unflatten(2, (2, 4)).transpose(1, 2)
            cross = F.scaled_dot_product_attention(q, k, k, enable_gqa=True)
            return F.scaled_dot_product_attention(q, q, q) + cross

    model = Grouped()
    with sc.record(model) as maps:
        model(torch.randn(2, 5, 16), torch.randn(2, 7, 16))
    assert [*maps] == ["", "#2"]
    cross, own = (_pairs(attention) for attention in maps.values())
    assert (cross.query_shape, cross.key_shape) == ((5,), (7,))
    assert own.query_shape == own.key_shape == (5,)


@pytest.mark.parametrize("fused", [True, False])
def test_multi_query_attention(fused: bool) -> None:
    class MultiQuery(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            q, k = self.q(x).unflatten(2, (4, 4)).transpose(1, 2), self.k(x).unsqueeze(1)
            if fused:
                return F.scaled_dot_product_attention(q, k, k)
            mixed: Tensor = ((q @ k.transpose(-2, -1)) * 0.5).softmax(-1) @ k
            return mixed

    model, x = MultiQuery(), torch.randn(2, 5, 16)
    with sc.record(model) as maps:
        model(x)
    q, k = model.q(x).unflatten(2, (4, 4)).transpose(1, 2), model.k(x).unsqueeze(1)
    weights = _pairs(maps[""]).weights()
    torch.testing.assert_close(weights, (q @ k.mT / 2).softmax(-1), atol=1e-6, rtol=1e-5)


def test_the_fast_path_of_torch_is_kept() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x, padding = torch.randn(2, 6, 32), torch.arange(6).expand(2, 6) > torch.tensor([[5], [3]])
    with torch.inference_mode():
        expected = model(x, src_key_padding_mask=padding)
        with sc.record(model) as maps:
            output = model(x, src_key_padding_mask=padding)
    assert torch.equal(output, expected)
    assert len(maps) == 2


def test_the_functional_form_of_multi_head_attention() -> None:
    class Pool(nn.Module):
        """As CLIP's attention pooling."""

        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            bias = torch.cat([self.q.bias, self.k.bias, self.v.bias])
            weights = {f"{name}_proj_weight": getattr(self, name).weight for name in "qkv"}
            query, no_weight = x[:1], torch.empty(0)
            pooled, self.weights = F.multi_head_attention_forward(
                *(query, x, x, 16, 2, no_weight, bias, None, None, False, 0.0),
                *(self.out.weight, self.out.bias),
                use_separate_proj_weight=True,
                average_attn_weights=False,
                training=False,
                **weights,
            )
            return pooled

    model = Pool()
    with sc.record(model) as maps:
        model(torch.randn(9, 2, 16))
    assert isinstance(model.weights, Tensor)
    torch.testing.assert_close(_pairs(maps[""]).tokens().weights(), model.weights)


@pytest.mark.parametrize(
    ("name", "options", "kind", "count"),
    [
        ("cait_xxs24_224", {"img_size": 64}, TokenMap, 26),
        ("xcit_nano_12_p8_224", {"img_size": 64}, ChannelMap, 14),
        ("coatnet_nano_rw_224", {"img_size": 64}, TokenMap, 16),
        ("levit_128s", {"img_size": 64}, TokenMap, 11),
        ("pvt_v2_b0", {}, PairwiseMap, 8),
        ("mvitv2_tiny", {"img_size": 64}, TokenMap, 10),
        ("edgenext_xx_small", {}, ChannelMap, 3),
        ("twins_pcpvt_small", {"img_size": 64}, PairwiseMap, 16),
        ("maxvit_nano_rw_256", {"img_size": 64}, TokenMap, 21),
        ("hiera_tiny_224", {"img_size": (64, 64)}, PairwiseMap, 12),
        ("tnt_s_patch16_224", {"img_size": 64}, ClassTokenMap, 24),
        ("visformer_tiny", {"img_size": 64}, PairwiseMap, 8),
    ],
)
def test_models_of_timm(name: str, options: dict[str, Any], kind: type[Any], count: int) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, **options).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        with warnings.catch_warnings(action="error"), sc.record(model) as maps:
            output = model(x)
    assert torch.equal(output, expected)
    assert len(maps) == count
    assert any(isinstance(attention, kind) for attention in maps.values())
    assert all(attention.heatmap().isfinite().all() for attention in maps.values())


def test_models_of_vit_pytorch() -> None:
    options: dict[str, Any] = {"image_size": 64, "patch_size": 16, "num_classes": 5, "dim": 32, "mlp_dim": 32}
    for model in (
        vit_pytorch.ViT(depth=2, heads=4, **options),
        vit_pytorch.SimpleViT(depth=2, heads=4, **options),
    ):
        with sc.record(model.eval()) as maps:
            model(torch.randn(2, 3, 64, 64))
        assert len(maps) == 2
        assert all(_pairs(attention).query_shape == (4, 4) for attention in maps.values())


def test_windows_of_torchvision_are_put_back_on_the_grid() -> None:
    model = torchvision.models.maxvit_t().eval()
    with torch.no_grad(), sc.record(model) as maps:
        model(torch.randn(1, 3, 224, 224))
    assert len(maps) == 33
    pairs = [m for m in maps.values() if isinstance(m, PairwiseMap)]
    assert sum(isinstance(m, WindowMap) for m in pairs) == 18  # the last stage has one window
    assert {m.query_shape for m in pairs} == {(56, 56), (28, 28), (14, 14), (7, 7)}


class Detector(nn.Module):
    """A class token, those of the image and, at the end, tokens of objects, as YOLOS has them."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.block = nn.Conv2d(3, WIDTH, 4, 4), Own("fused")
        self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.detection_tokens = nn.Parameter(torch.randn(1, 3, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).mT
        out: Tensor = self.block(
            torch.cat(
                [self.cls_token.expand(len(x), -1, -1), x, self.detection_tokens.expand(len(x), -1, -1)], 1
            )
        )
        return out


def test_tokens_at_the_end_have_no_place() -> None:
    model = Detector().eval()
    with torch.no_grad(), sc.record(nn.Sequential(model)) as maps:
        model(X)
    attention = maps["0.block"]
    assert isinstance(attention, ClassTokenMap)
    assert attention.query_shape == attention.key_shape == SIZE
    assert attention.extra_keys.shape[2] == 1 + 3
    own = model.block.weights[:, :, :, 1:-3]
    torch.testing.assert_close(attention.class_row().flatten(1), own[:, :, 0].mean(1))
    torch.testing.assert_close(attention.weights(), own[:, :, 1:-3])
    tokens = attention.tokens().weights()
    torch.testing.assert_close(tokens[:, :, 1:4, 4:], own[:, :, -3:])


class HiddenAttention(nn.Module):
    """Weights without a softmax, which nothing catches."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.gate(x))


def test_what_is_not_recorded_is_named() -> None:
    model = nn.Sequential(HiddenAttention(), nn.Sequential(Own("fused")), nn.Linear(16, 8), HiddenAttention())
    model[0].gate = nn.Linear(16, 16)
    with pytest.warns(UserWarning, match="2 attention layers of Sequential ran"), sc.record(model) as maps:
        model(torch.randn(2, 20, 16))
    assert [*maps] == ["1.0"]
    assert maps.unseen == ("0", "3")


def test_a_model_of_hidden_attention_alone() -> None:
    model = HiddenAttention()
    with (
        pytest.raises(sc.NothingRecorded),
        pytest.warns(UserWarning, match="1 attention layers of HiddenAttention"),
        sc.record(model),
    ):
        model(torch.randn(2, 5, 8))


def test_an_adapter_makes_it_seen() -> None:
    def adapter(_module: nn.Module, _inputs: Any, output: Tensor) -> sc.SpatialMap:
        return sc.SpatialMap(output.mean(2))

    model = HiddenAttention()
    with warnings.catch_warnings(action="error"), sc.record(model, {HiddenAttention: adapter}) as maps:
        model(torch.randn(2, 5, 8))
    assert maps.unseen == ()


class Linear(Own):
    """Linear attention: the softmax of keys over places is multiplied with the values first."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        k = k.softmax(dim=2)
        self.weights = q @ k.mT
        if self.form == "einsum":
            out = torch.einsum("bhnd,bhde->bhne", q, torch.einsum("bhnd,bhne->bhde", k, v))
        else:
            out = q @ (k.transpose(-1, -2) @ v)
        return out.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("form", ["products", "einsum"])
def test_linear_attention(form: str) -> None:
    model = Network("fused").eval()
    model.block["mixer"] = own = Linear(form)
    expected = model(X)
    with sc.record(model) as maps:
        output = model(X)
    assert torch.equal(output, expected)
    attention = maps["block.mixer"]
    assert isinstance(attention, DotProductMap)
    assert attention.query_shape == attention.key_shape == SIZE
    torch.testing.assert_close(attention.weights(), own.weights, atol=1e-6, rtol=1e-5)
    assert not maps.unseen


def test_a_pooled_vector_that_meets_a_parameter_is_no_linear_attention() -> None:
    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.score, self.out = nn.Linear(16, 1), nn.Parameter(torch.randn(16, 16))

        def forward(self, x: Tensor) -> Tensor:
            mixed: Tensor = (self.score(x).softmax(1).transpose(1, 2) @ x) @ self.out
            return mixed

    model = nn.Sequential(Own("fused"), Pool())
    with sc.record(model) as maps:
        model(torch.randn(2, 20, WIDTH))
    assert [*maps] == ["0"]


def test_a_class_token_of_linear_attention_has_no_place() -> None:
    class WithClass(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, WIDTH, 4, 4)
            self.cls_token = nn.Parameter(torch.randn(1, 1, WIDTH))
            self.mixer = Linear("products")

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.patches(x).flatten(2).mT
            mixed: Tensor = self.mixer(torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1))
            return mixed

    model = WithClass().eval()
    with sc.record(model) as maps:
        model(X)
    attention = maps["mixer"]
    assert isinstance(attention, DotProductMap)
    assert attention.query_shape == attention.key_shape == SIZE
    torch.testing.assert_close(attention.weights(), model.mixer.weights[:, :, 1:, 1:], atol=1e-6, rtol=1e-5)


def test_an_error_inside_of_the_model_leaves_nothing_behind() -> None:
    class Broken(Own):
        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            raise RuntimeError("broken")

    model = Network("fused")
    model.block["mixer"] = Broken("fused")
    with pytest.raises(RuntimeError, match="broken"), sc.record(model):
        model(X)
    assert not torch.nn.modules.module._global_forward_hooks
    model.block["mixer"] = Own("fused")
    with sc.record(model) as maps:
        model(X)
    assert len(maps) == 1


class Mixed(nn.Module):
    """Weights that are mixed with other weights, or with something else."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.qk, self.weights = form, nn.Linear(WIDTH, 2 * WIDTH), torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.qk(x).chunk(2, -1)
        contents, positions = (q @ k.mT).softmax(-1), torch.eye(20).expand(2, -1, -1).softmax(-1)
        if self.form == "weights":
            mixed = 0.3 * contents + 0.7 * positions
            mixed /= mixed.sum(-1, keepdim=True)
        else:
            mixed = contents + q @ k.mT
        self.weights = mixed
        out: Tensor = mixed @ x
        return out


def test_weights_that_are_mixed_with_weights_are_weights() -> None:
    torch.manual_seed(0)
    x, model = torch.randn(2, 20, WIDTH), Mixed("weights").eval()
    with sc.record(model) as maps:
        model(x)
    torch.testing.assert_close(maps[""].tokens().weights()[:, 0], model.weights)  # type: ignore[attr-defined]


def test_weights_that_are_added_to_something_else_are_none() -> None:
    model = nn.Sequential(Mixed("something else"))
    with pytest.raises(sc.NothingRecorded), sc.record(model):
        model(torch.randn(2, 20, WIDTH))


class Fails(nn.Module):
    """An attention, and an error when `fails` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.attend, self.gate, self.fails = Own("fused"), sc.create("se", 20, reduction=4), True

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(self.attend(x))
        if self.fails:
            raise ArithmeticError("own")
        return x


def test_after_an_error_of_the_model_no_module_counts_as_running() -> None:
    model, x = Fails(), torch.randn(2, 20, WIDTH)
    with warnings.catch_warnings(action="error"), sc.record(model) as maps:
        with pytest.raises(ArithmeticError):
            model(x)
        model.fails = False
        model(x)
    assert {*maps} == {"attend", "gate"}


def test_a_model_with_a_compiled_module_says_what_is_not_recorded() -> None:
    gate, x = sc.create("se", 20, reduction=4), torch.randn(2, 20, WIDTH)
    linear: Any = torch.compile(nn.Linear(WIDTH, WIDTH), backend="eager")
    compiled: Any = torch.compile(Own("fused"), backend="eager")
    for attention in (nn.Sequential(linear, Own("fused")), compiled):
        model = nn.Sequential(attention, gate)
        with pytest.warns(UserWarning, match="parts of Sequential are compiled"), sc.record(model) as maps:
            model(x)
        assert [*maps] == ["1"]
    with warnings.catch_warnings(action="error"), sc.record(nn.Sequential(linear, gate)) as maps:
        gate(linear(x))
    assert [*maps] == ["1"]
