"""Attention survives what replaces or folds its host, or says so: fusion, quantization, conversion."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import timm
import torch
import torchvision.models as tv
from timm.layers.norm_act import convert_sync_batchnorm
from timm.utils.model import freeze as freeze_of_timm
from timm.utils.model import reparameterize_model
from torch import Tensor, nn
from torch.ao.quantization import fuse_modules, get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx
from torch.fx.experimental import optimization
from torch.nn.utils.fusion import fuse_conv_bn_eval

import saccade as sc
from saccade.attachment import Attached
from saccade.attachment.guard import Guard
from support.errors import raises
from support.networks import Residual

Where = Any
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def trained(build: Callable[[], nn.Module], where: Where = "residual") -> nn.Module:
    """Return a network with statistics and gates as after training, in evaluation mode."""
    torch.manual_seed(0)
    model = build()
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                assert part.running_mean is not None
                assert part.running_var is not None
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 2)
                part.weight.uniform_(0.5, 1.5)
    sc.attach(model, "cbam:reduction=4", where=where, example_inputs=X)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if key.endswith(".gate"):
                p.fill_(0.5)
    return model.eval()


def resnet() -> nn.Module:
    return tv.resnet18(num_classes=10)  # type: ignore[no-any-return]


def count(model: nn.Module, kind: type[nn.Module]) -> int:
    """Count the modules of a class outside attention."""
    inside = {part for a in model.modules() if isinstance(a, Attached) for part in a.modules()}
    return sum(type(part) is kind for part in model.modules() if part not in inside)


@contextmanager
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


# ----------------------------------------------------------------------------------- graphs of torch.fx

NETWORKS: dict[str, tuple[Callable[[], nn.Module], Where]] = {
    "a norm in a block": (resnet, "residual"),
    "a block": (resnet, "stage"),
    "a sequence": (lambda: tv.mobilenet_v2(num_classes=10), "residual"),
    "a convolution": (resnet, ["layer1.*.conv2", "layer2.0.downsample.0"]),
    "a norm of timm": (lambda: timm.create_model("efficientnet_b0", num_classes=10), "residual"),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore:torch.fx sees")
def test_fusion_of_graphs_keeps_attention(name: str) -> None:
    model = trained(*NETWORKS[name])
    before, places = model(X), len(sc.attached(model))
    plain = copy.deepcopy(model)
    sc.detach(plain)
    assert not torch.allclose(plain(X), before, rtol=1e-4, atol=1e-6)
    fused = optimization.fuse(model)
    torch.testing.assert_close(fused(X), before)
    assert sum(isinstance(part, Attached) for part in fused.modules()) == places
    if "timm" not in name:  # its norms are no plain batch norms
        assert count(fused, nn.BatchNorm2d) < count(model, nn.BatchNorm2d)


@pytest.mark.parametrize("where", ["residual", "stage", "head"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_quantization_of_graphs_keeps_attention(where: Where) -> None:
    model = trained(lambda: tv.mobilenet_v2(num_classes=10), where)
    before, places = model(X), len(sc.attached(model))
    prepared = prepare_fx(model, get_default_qconfig_mapping("x86"), (X,))
    with torch.no_grad():
        torch.testing.assert_close(prepared(X), before)
        quantized = convert_fx(prepared)
        error = (quantized(X) - before).abs().max() / before.abs().max()
    assert error < 0.1
    assert sum(isinstance(part, Attached) for part in quantized.modules()) == places


@pytest.mark.filterwarnings("ignore:torch.fx sees", "ignore::DeprecationWarning", "ignore::FutureWarning")
def test_quantization_of_an_attended_norm_says_what_to_do() -> None:
    model = trained(resnet)
    before, mapping = model(X), get_default_qconfig_mapping("x86")
    with pytest.warns(UserWarning, match=r"layer1.0.bn2 as one module.*drops.*saccade.fuse") as told:
        prepare_fx(copy.deepcopy(model), mapping, (X,))
    assert sum("drops its attention" in str(each.message) for each in told) == 8

    sc.fuse(model, X)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("error", "torch.fx sees")
        prepared = prepare_fx(model, mapping, (X,))
        torch.testing.assert_close(prepared(X), before)
        quantized = convert_fx(prepared)
    assert sum(isinstance(part, Attached) for part in quantized.modules()) == 8
    error = (quantized(X) - before).abs().max() / before.abs().max()
    assert error < 0.1


def test_a_graph_says_that_quantization_would_drop_the_attention_of_a_convolution() -> None:
    model = trained(resnet, ["layer1.0.conv2"])
    with pytest.warns(UserWarning, match=r"torch.fx sees layer1.0.conv2 as one module"):
        torch.fx.symbolic_trace(model)


def test_quantized_features_pass() -> None:
    attached = Attached(sc.create("se", 8, reduction=2), gate=False)
    x = torch.quantize_per_tensor(torch.rand(2, 8, 4, 4), 1 / 255, 0, torch.quint8)
    y = attached(x)
    assert (y.q_scale(), y.q_zero_point(), y.dtype) == (x.q_scale(), x.q_zero_point(), x.dtype)
    torch.testing.assert_close(y.dequantize(), attached(x.dequantize()), atol=1 / 255, rtol=0)


# ------------------------------------------------------------------------------ what replaces a module


def fuse_by_hand(model: Any) -> nn.Module:
    for block in (*model.layer1, *model.layer2, *model.layer3, *model.layer4):
        block.conv2, block.bn2 = fuse_conv_bn_eval(block.conv2, block.bn2), nn.Identity()
    return model  # type: ignore[no-any-return]


def fuse_eagerly(model: nn.Module) -> nn.Module:
    blocks = [f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)]
    return fuse_modules(model, [[f"{path}.conv2", f"{path}.bn2"] for path in blocks])  # type: ignore[no-any-return]


def freeze(model: nn.Module) -> nn.Module:
    freeze_of_timm(model, [f"layer{stage}" for stage in range(1, 5)])  # type: ignore[no-untyped-call]
    return model


REPLACEMENTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "fuse_conv_bn_eval": fuse_by_hand,
    "fuse_modules": fuse_eagerly,
    "SyncBatchNorm": nn.SyncBatchNorm.convert_sync_batchnorm,
    "timm's freeze": freeze,
    "timm's conversion": convert_sync_batchnorm,
}


@pytest.mark.parametrize("name", REPLACEMENTS)
def test_a_replaced_host_is_told_once_and_repaired(name: str) -> None:
    model = trained(resnet)
    before, keys = model(X), {key for key in model.state_dict() if ".attention." in key}
    model = REPLACEMENTS[name](model)
    with pytest.warns(UserWarning, match=r"layer1.0.bn2.attention no longer runs.*saccade.repair") as told:
        changed = model(X)
    assert len(told) == 1
    assert not torch.allclose(changed, before, rtol=1e-4, atol=1e-6)
    with no_warning():
        model(X)
    assert [a.runs for a in sc.attached(model)] == [False] * 8
    assert sc.repair(model) == [a.path for a in sc.attached(model)]
    assert all(a.runs for a in sc.attached(model))
    with no_warning():
        torch.testing.assert_close(model(X), before)
    assert {key for key in model.state_dict() if ".attention." in key} == keys
    assert len(sc.detach(model)) == 8
    assert not any(part._forward_hooks for part in model.modules())


def test_copies_and_pickles_notice_their_own_loss() -> None:
    model: Any = trained(resnet)
    twin: Any
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin.layer1[0].bn2 = nn.Identity()
        with pytest.warns(UserWarning, match=r"layer1.0.bn2.attention"):
            twin(X)
        assert sc.repair(twin) == ["layer1.0.bn2.attention"]
        assert twin.layer1[0].bn2.attention is not model.get_submodule("layer1.0.bn2.attention")
    with no_warning():
        model(X)


def test_a_part_of_a_network_notices_its_loss() -> None:
    model: Any = trained(resnet)
    part: Any = nn.Sequential(*list(model.children())[:-2])
    part[4][1].bn2 = nn.BatchNorm2d(64).eval()
    with pytest.warns(UserWarning, match=r"layer1.1.bn2.attention"):
        part(X)


def test_a_module_around_the_host_is_no_loss() -> None:
    class Around(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)  # type: ignore[no-any-return]

    model: Any = trained(resnet)
    before = model(X)
    model.layer1[0].bn2 = Around(model.layer1[0].bn2)
    with no_warning():
        assert torch.equal(model(X), before)
    assert all(a.runs for a in sc.attached(model))


def test_attention_that_was_removed_on_purpose_is_not_missed() -> None:
    model = trained(resnet)
    assert sc.detach(model.get_submodule("layer1.0.bn2")) == ["attention"]
    with no_warning():
        model(X)
    assert len(sc.attached(model)) == 7


def test_a_place_that_no_longer_exists_cannot_be_repaired() -> None:
    model: Any = trained(resnet)
    del model.layer1[0].bn2
    model.layer2[0].bn2 = nn.Identity()
    with raises(sc.BadOption, owner="repair", option="model", value="layer1.0.bn2.attention"):
        sc.repair(model)
    assert [a.path for a in sc.attached(model) if not a.runs] == ["layer1.0.bn2.attention"]


def test_the_list_says_what_is_there() -> None:
    torch.manual_seed(0)
    model, x = Residual(2), torch.randn(2, 3, 8, 8)
    sc.attach(model, "se", where=["stage1.0.norm2"], example_inputs=x)
    sc.attach(model, "eca", where="input", example_inputs=x, identity=False)
    model.get_submodule("stem.0")._forward_pre_hooks.clear()
    listed = sc.attached(model)
    assert listed == (
        sc.Attachment("stem.0.attention", "eca", "input", None, runs=False),
        sc.Attachment("stage1.0.norm2.attention", "se", "output", 0.0, runs=True),
    )
    assert "stem.0.attention          eca        input         NO" in str(listed)
    assert sc.attached(resnet()) == ()


def test_detach_removes_the_guards() -> None:
    model = trained(resnet)
    assert any(isinstance(hook, Guard) for part in model.modules() for hook in part._forward_hooks.values())
    sc.detach(model)
    assert not any(part._forward_hooks for part in model.modules())


# ---------------------------------------------------------------------------------------------- saccade


@pytest.mark.parametrize(
    ("build", "where", "folded"),
    [
        (resnet, "residual", 20),
        (resnet, ["layer1.*.conv2"], 18),
        (lambda: tv.mobilenet_v2(num_classes=10), "residual", 52),
        (lambda: tv.densenet.DenseNet(16, (2, 2), 32, num_classes=10), "stage", None),
    ],
    ids=["norms", "convolutions", "sequences", "pre-activation"],
)
def test_fuse_keeps_attention(build: Callable[[], nn.Module], where: Where, folded: int | None) -> None:
    model = trained(build, where)
    before, keys = model(X), {key for key in model.state_dict() if ".attention." in key}
    norms, attentions = count(model, nn.BatchNorm2d), sc.attached(model)
    paths = sc.fuse(model, X)
    assert len(paths) == (folded or len(paths))
    assert count(model, nn.BatchNorm2d) == norms - len(paths) < norms
    torch.testing.assert_close(model(X), before)
    assert sc.attached(model) == attentions
    assert {key for key in model.state_dict() if ".attention." in key} == keys
    assert sc.fuse(model, X) == []
    assert len(sc.detach(model)) == len(attentions)


def test_fuse_leaves_what_it_would_change() -> None:
    class Twice(nn.Module):
        """The output of the convolution has two uses; the second norm has a hook of the user."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
            self.conv2, self.norm2 = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.norm2(self.conv2(self.norm(x) + x))  # type: ignore[no-any-return]

    model = Twice().eval()
    model.norm2.register_forward_hook(lambda *_: None)
    assert sc.fuse(model, X) == []
    with raises(sc.BadOption, owner="fuse", option="model", value="Twice"):
        sc.fuse(model.train(), X)


def test_fuse_serves_linear_layers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(7200, 4), nn.BatchNorm1d(4)).eval()
    before = model(X)
    assert sc.fuse(model, X) == ["3"]
    torch.testing.assert_close(model(X), before)


@pytest.mark.parametrize("name", ["mobileone_s0", "repvgg_a0"])
def test_reparameterization_keeps_attention(name: str) -> None:
    model = trained(lambda: timm.create_model(name, num_classes=10)).double()
    x = X.double()
    before, places = model(x), sc.attached(model)
    merged = reparameterize_model(model)
    torch.testing.assert_close(merged(x), before)
    assert sc.attached(merged) == places
    assert len(places) >= 20


def test_reparameterization_replaces_no_host_that_has_a_module_around_it() -> None:
    model = timm.create_model("levit_128s", num_classes=10).eval()
    x = torch.randn(1, 3, 224, 224)
    places = sc.attach(model, "se", example_inputs=x)
    assert places[1].path == "stages.0.blocks.0.mlp"  # its last layer is merged
    merged = reparameterize_model(model)
    with no_warning():
        merged(x)
    assert sum(a.runs for a in sc.attached(merged)) == len(places) == 20


def test_reparameterization_that_replaces_a_host_is_told_and_repaired() -> None:
    model = trained(lambda: timm.create_model("repvit_m0_9", num_classes=10))
    before = model(X)
    merged = reparameterize_model(model)
    with pytest.warns(UserWarning, match=r"token_mixer.attention no longer runs"):
        merged(X)
    assert len(sc.repair(merged)) == 23
    torch.testing.assert_close(merged(X), before, rtol=1e-3, atol=1e-4)


def test_jit_script_is_refused() -> None:
    model = trained(resnet)
    with raises(sc.BadOption, owner="attach", option="model", value="CBAM"):
        torch.jit.script(model)
    sc.detach(model)
    torch.jit.script(model)


def test_what_is_no_module_is_refused() -> None:
    wrong: Any = 5
    with raises(sc.BadOption, owner="attached", option="model", value=5):
        sc.attached(wrong)
