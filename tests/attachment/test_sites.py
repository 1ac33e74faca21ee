"""Where attention can go: the places of known networks, choosing among them, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision.models as tv
from torch import Tensor, nn
from typer.testing import CliRunner

import saccade as sc
from saccade.cli import app
from saccade.models.backbone import load_backbone
from saccade.profiling import flops
from support.networks import Loops, Residual, Shared, UNet, double


def places(model: nn.Module, *shape: int, kind: Any) -> list[tuple[str, tuple[int, ...]]]:
    with torch.device("meta"):
        x = torch.zeros(1, *(shape or (3, 64, 64)))
    return [(site.path, site.shape) for site in sc.sites(model.to("meta"), x).of(kind)]


# ------------------------------------------------------------------------------- the places of known networks


def test_a_resnet_has_the_places_that_papers_name() -> None:
    model = tv.resnet50()
    residual = places(model, 3, 224, 224, kind="residual")
    blocks = [(1, 3, 256, 56), (2, 4, 512, 28), (3, 6, 1024, 14), (4, 3, 2048, 7)]
    assert residual == [(f"layer{s}.{b}.bn3", (c, n, n)) for s, count, c, n in blocks for b in range(count)]
    assert places(model, 3, 224, 224, kind="stage") == [
        (f"layer{s}.{b - 1}", (c, n, n)) for s, b, c, n in blocks
    ]
    assert places(model, kind="input") == [("conv1", (3, 64, 64))]
    assert places(model, 3, 224, 224, kind="stem") == [("maxpool", (64, 56, 56))]
    assert places(model, 3, 224, 224, kind="head") == [("layer4.2", (2048, 7, 7))]


def test_the_places_do_not_depend_on_the_size_of_the_image() -> None:
    for build in (tv.resnet18, tv.mobilenet_v3_small):
        with torch.device("meta"):
            model = build()
            small, large = (sc.sites(model, torch.zeros(1, 3, n, n)) for n in (32, 96))
        for kind in ("input", "stem", "residual", "head"):
            assert [s.path for s in small.of(kind)] == [s.path for s in large.of(kind)], (build, kind)


@pytest.mark.parametrize(
    ("name", "stem", "head", "branch"),
    [
        ("densenet121", "features.pool0", "features.norm5", None),
        ("vgg11_bn", None, "features.27", None),
        ("mobilenet_v3_small", "features.0.2", "features.12.2", "features.3.block.2.1"),
        ("efficientnet_b0", "features.0.2", "features.8.2", "features.2.1.block.3.1"),
        ("convnext_tiny", "features.0.1", "features.7.2", "features.1.0.stochastic_depth"),
        ("swin_t", "features.0.2", "permute", "features.1.0.attn"),
        ("shufflenet_v2_x0_5", "maxpool", "conv5.2", None),
        ("googlenet", "maxpool2", "inception5b", None),
        ("timm:regnety_002", "stem.bn", "s4.b7", "s1.b1.conv3.bn"),
        ("timm:efficientnet_b0", "bn1", "bn2", "blocks.1.1.bn3"),
        ("timm:convnext_atto", "stem.1", "stages.3.blocks.1", "stages.0.blocks.0.drop_path"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_known_networks(name: str, stem: str | None, head: str, branch: str | None) -> None:
    with torch.device("meta"):
        found = sc.sites(load_backbone(name), torch.zeros(2, 3, 64, 64))
    assert [site.path for site in found.of("stem")] == ([] if stem is None else [stem])
    assert [site.path for site in found.of("head")] == [head]
    assert next((site.path for site in found.of("residual")), None) == branch
    assert len({site.shape for site in found.of("stage")}) >= 3
    assert found[0].path == found.of("input")[0].path


def test_a_stage_ends_with_its_last_block_not_with_what_follows_it() -> None:
    assert [path for path, _ in places(tv.convnext_tiny(), kind="stage")] == [
        f"features.{path}" for path in ("1.2", "3.2", "5.8", "7.2")
    ]


def test_features_with_the_channels_last_are_found() -> None:
    found = sc.sites(tv.swin_t().to("meta"), torch.zeros(1, 3, 64, 64, device="meta"))
    by_path = {site.path: site for site in found}
    assert by_path["features.1.1"].shape == (96, 16, 16)
    assert by_path["features.1.1"].channels_last
    assert not by_path["permute"].channels_last
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64).to("meta")
    everywhere = sc.sites(vit, torch.zeros(1, 3, 64, 64, device="meta"))
    assert [(site.path, site.shape, site.channels_last) for site in everywhere.of("stem")] == [
        ("pos_drop", (192, 17), True)
    ]
    tokens = everywhere.of("residual")
    assert len(tokens) == 24
    assert {(site.shape, site.channels_last) for site in tokens} == {((192, 17), True)}


def test_a_swin_of_timm_has_maps_and_tokens_and_a_function_chooses() -> None:
    sizes: dict[str, Any] = {
        "img_size": 32,
        "window_size": 4,
        "embed_dim": 32,
        "depths": (1, 1),
        "num_heads": (2, 2),
    }
    model, x = timm.create_model("swin_tiny_patch4_window7_224", **sizes).eval(), torch.randn(2, 3, 32, 32)
    before = model(x)
    assert {len(site.shape) for site in sc.sites(model, x).of("residual")} == {2, 3}
    with pytest.raises(
        sc.BadOption, match=r"mlp.fc2: cbam does not take and return one map of 1 spatial axis"
    ):
        sc.attach(model, "cbam", example_inputs=x)
    plan = sc.attach(
        model,
        "cbam",
        where=lambda s: s.kind == "residual" and len(s.shape) == 3,
        example_inputs=x,
        reduction=4,
    )
    assert len(plan) == 2
    assert torch.equal(model(x), before)


def test_a_u_net_has_stages_down_and_up() -> None:
    found = sc.sites(UNet(), torch.randn(1, 3, 16, 16))
    assert [site.shape[1] for site in found.of("stage")] == [16, 8, 4, 8, 16]
    assert [site.path for site in found.of("head")] == ["up1.3"]


def test_a_network_without_a_head_ends_with_its_last_map() -> None:
    whole, x = tv.resnet18(), torch.randn(1, 3, 64, 64)
    headless = nn.Sequential(*list(whole.children())[:-2])
    assert [site.path for site in sc.sites(headless, x).of("head")] == ["7.1"]
    assert len(sc.sites(headless, x).of("residual")) == 8
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
    tokens = sc.sites(encoder, torch.randn(2, 5, 16))
    assert [site.path for site in tokens.of("head")] == ["layers.1"]
    assert {(site.shape, site.channels_last) for site in tokens.of("residual")} == {((16, 5), True)}


def test_scores_are_no_features() -> None:
    with torch.device("meta"):
        model = tv.segmentation.lraspp_mobilenet_v3_large(weights_backbone=None, num_classes=3)
        found = sc.sites(model, torch.zeros(1, 3, 64, 64))
    assert not any("high_classifier" in site.path or "low_classifier" in site.path for site in found)
    assert [site.shape[0] for site in found.of("head")] == [128]


def test_the_longer_side_is_the_branch_whatever_the_order_of_the_sum() -> None:
    class Sum(nn.Module):
        def __init__(self, swapped: bool) -> None:
            super().__init__()
            self.stem, self.body, self.swapped = nn.Conv2d(3, 8, 1), double(8, 8), swapped
            self.project = nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            sides = [self.body(x), self.project(x)]
            return torch.add(*(sides[::-1] if self.swapped else sides)).mean((2, 3))

    for swapped in (False, True):
        found = sc.sites(Sum(swapped), torch.randn(1, 3, 8, 8)).of("residual")
        assert [site.path for site in found] == ["body.3"]


# ------------------------------------------------------------------------------------------- what they cost


def test_costs_are_those_that_attaching_brings() -> None:
    torch.manual_seed(0)
    model, x = Residual(2), torch.randn(4, 3, 16, 16)
    plain_parameters, plain_flops = sum(p.numel() for p in model.parameters()), flops(model, x[:1])
    found = sc.sites(model, x, "cbam:reduction=8").of("residual")
    sc.attach(model, "cbam", example_inputs=x, reduction=8, identity=False)
    assert (
        sum(s.parameters or 0 for s in found) == sum(p.numel() for p in model.parameters()) - plain_parameters
    )
    assert sum(s.flops or 0 for s in found) == flops(model, x[:1]) - plain_flops
    assert sum(s.share or 0 for s in found) == pytest.approx(flops(model, x[:1]) / plain_flops - 1)


def test_a_place_where_it_does_not_fit_says_why() -> None:
    found = sc.sites(Residual(2), torch.randn(1, 3, 8, 8), "se")
    (image,) = found.of("input")
    assert image.refused == "se: channels=3 must be at least reduction=16"
    assert image.parameters is None
    assert all(site.refused is None for site in found.of("residual"))
    assert "reduction=16" in str(found)


# ------------------------------------------------------------------------------------------------- choosing


def test_paths_choose_by_levels() -> None:
    model, x = tv.resnet18(), torch.randn(1, 3, 32, 32)

    def chosen(*where: str) -> list[str]:
        return [site.path for site in sc.attach(model, "se", where=where, example_inputs=x, dry_run=True)]

    assert chosen("layer3.*.bn2") == ["layer3.0.bn2", "layer3.1.bn2"]
    assert chosen("layer[34].1.bn?") == ["layer3.1.bn1", "layer3.1.bn2", "layer4.1.bn1", "layer4.1.bn2"]
    assert chosen("layer4", "layer1.0") == ["layer1.0", "layer4.1"]  # a Sequential: its last module
    assert chosen("layer1.*", "layer1.0") == ["layer1.0", "layer1.1"]  # not layer1.0.conv1; each once


def test_a_sequential_whose_last_module_is_shared_is_attended_to_by_a_child() -> None:
    relu = nn.ReLU()
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 16, 3), relu), nn.Sequential(nn.Conv2d(16, 16, 3), relu)
    ).eval()
    x = torch.randn(1, 3, 12, 12)
    before = model(x)
    plan = sc.attach(model, "se", where=["0"], example_inputs=x)
    assert [site.path for site in plan] == ["0"]
    assert torch.equal(model(x), before)
    assert sc.detach(model) == ["0.attention"]


def test_a_network_that_loops_over_its_children_is_attended_to_inside() -> None:
    model, x = Loops().eval(), torch.randn(1, 3, 8, 8)
    before = model(x)
    assert [s.path for s in sc.attach(model, "se", where=["body"], example_inputs=x)] == ["body.norm"]
    assert torch.equal(model(x), before)


def test_one_that_loops_in_another_way_is_refused_after_the_trial() -> None:
    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([child(x) for child in self.children()]).sum(0)

    model, x = nn.Sequential(nn.Conv2d(3, 16, 1), Parallel()), torch.randn(1, 3, 8, 8)
    keys = list(model.state_dict())
    with pytest.raises(
        sc.BadOption, match=r"^1: the attention runs 2 times in a forward pass, not once; a Parallel"
    ):
        sc.attach(model, "se", where=["1"], example_inputs=x)
    assert list(model.state_dict()) == keys
    assert not model[1]._forward_hooks


# ------------------------------------------------------------------------------------------------- bad input

X = torch.randn(1, 3, 16, 16)


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        (["second"], r"'second': its Conv2d stands in 2 places, 'second' and 'third'; saccade.sites lists"),
        (["norm"], r"'norm': its BatchNorm2d is called more than once in a forward pass"),
        (["unused"], r"'unused': it is not called in evaluation mode"),
        (["head"], r"'head': what its Linear returns, \(1, 2\), is no batch of sequences, images or clips"),
        (["frist"], r"unknown module path 'frist'; did you mean 'first'\?"),
        (["layer9.*.bn2"], r"unknown module path 'layer9.\*.bn2'; choose from 'first', 'head', 'norm'"),
        ([], r"there is no place in an empty list; this network has input \(1\)"),
        (
            "residual",
            r"no place of kind 'residual'; this network has input \(1\), .*and modules by their paths",
        ),
        ("middle", r"where='middle' is not one of 'input', 'stem', 'residual', 'stage', 'head', a list"),
        (lambda _: False, r"no place that the function `where` accepts; this network has"),
    ],
)
def test_a_place_that_will_not_do_is_a_sentence(where: Any, sentence: str) -> None:
    model = Shared()
    keys = list(model.state_dict())
    with pytest.raises(sc.SaccadeError, match=sentence):
        sc.attach(model, "se", where=where, example_inputs=X)
    assert list(model.state_dict()) == keys


def test_an_unknown_path_is_an_unknown_name() -> None:
    with pytest.raises(sc.UnknownName):
        sc.attach(Shared(), "se", where=["frist"], example_inputs=X)


def test_a_dense_block_says_why_it_cannot_be_a_host() -> None:
    with pytest.raises(sc.BadOption, match=r"the forward of its _DenseBlock runs over its children"):
        sc.attach(
            tv.densenet121().to("meta"),
            "se",
            where=["features.denseblock1"],
            example_inputs=torch.zeros(1, 3, 64, 64, device="meta"),
        )


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("sse", {}, r"unknown mechanism 'sse'; did you mean 'se'"),
        ("se", {"reductoin": 4}, r"unknown option of se 'reductoin'; did you mean 'reduction'"),
        ("se", {"reduction": 64}, r"^stage1.0.norm2: se: channels=32 must be at least reduction=64"),
        ("se:reduction=4", {"reduction": 8}, r"'se:reduction=4' and reduction=8 give the same option"),
        (
            "additive",
            {},
            r"^stage1.0.norm2: additive does not take and return one map of 2 spatial axes.*cbam",
        ),
        (
            "spatial_transformer",
            {"size": 5},
            r"^stage1.0.norm2: spatial_transformer returns .* not the shape",
        ),
        ("multi_head", {"heads": 5}, r"^stage1.0.norm2: multi_head: .*heads"),
    ],
)
def test_a_mechanism_that_will_not_do_is_a_sentence(
    name: str, options: dict[str, Any], sentence: str
) -> None:
    model = Residual(2)
    with pytest.raises(sc.SaccadeError, match=sentence):
        sc.attach(model, name, example_inputs=X, **options)
    assert not any("attention" in key for key in model.state_dict())


@pytest.mark.parametrize(
    ("example", "sentence"),
    [
        (
            torch.randn(1, 4, 16, 16),
            r"the forward of Residual fails on the example \(1, 4, 16, 16\): RuntimeError",
        ),
        (torch.randn(3, 16), r"the example holds no batch of images.*got \(3, 16\)"),
        ("an image", r"the example holds no batch of images.*got 'an image'"),
        ({"y": torch.randn(1, 3, 8, 8)}, r"fails on the example \{y: \(1, 3, 8, 8\)\}: TypeError"),
    ],
)
def test_an_example_that_will_not_do_is_a_sentence(example: Any, sentence: str) -> None:
    with pytest.raises(sc.BadOption, match=sentence) as caught:
        sc.sites(Residual(2), example)
    if "fails" in sentence:
        assert isinstance(caught.value.__cause__, (RuntimeError, TypeError))


def test_networks_that_would_not_see_a_change_are_refused() -> None:
    model = Residual(2).eval()
    scripted: Any = torch.jit.trace(model, X, check_trace=False)
    compiled: Any = torch.compile(model)
    layer: Any = torch.compile(nn.Conv2d(3, 8, 1))
    within = nn.Sequential(layer)
    inside = Residual(2)
    inside.compile()
    networks: tuple[tuple[Any, str], ...] = (
        (scripted, "is scripted, and its modules cannot be changed; use what it was scripted from"),
        (compiled, "is compiled, and would not see a change; attach to the network itself, then compile"),
        (within, "is compiled"),
        (inside, "is compiled"),
        ("resnet50", "str is not an nn.Module"),
    )
    for network, sentence in networks:
        with pytest.raises(sc.BadOption, match=sentence):
            sc.attach(network, "se", example_inputs=X)
        with pytest.raises(sc.BadOption):
            sc.detach(network)
        with pytest.raises(sc.BadOption):
            sc.sites(network, X)


def test_options_of_attach_and_of_a_mechanism_cannot_be_confused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gate(nn.Module):
        def __init__(self, channels: int, identity: bool = True) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(channels) * identity)

    known: dict[str, sc.Spec] = {}
    monkeypatch.setattr("saccade.layers.registry._registered", known)
    its = sc.spec("se")
    sc.register(sc.Spec("gate", "channel", its.paper, "a gate", Gate, its.function, its.examples, its.maps))
    with pytest.raises(sc.BadOption, match=r"gate has an option 'identity', which is one of attach"):
        sc.attach(Residual(2), "gate", example_inputs=X)
    with pytest.raises(sc.BadOption, match=r"reduction=4 is an option of a mechanism; name one"):
        sc.sites(Residual(2), X, reduction=4)


# ------------------------------------------------------------------------------------------ the command line


def test_the_command_lists_places_and_costs() -> None:
    shown = CliRunner().invoke(
        app, ["sites", "resnet18", "-a", "se", "--image-size", "64"], env={"COLUMNS": "120"}
    )
    assert shown.exit_code == 0, shown.output
    assert "layer4.1.bn2" in shown.output
    assert "not at conv1: se: channels=3 must be at least reduction=16" in shown.output
    (total,) = (line for line in shown.output.splitlines() if line.startswith("residual"))
    added = sum(
        s.parameters or 0 for s in sc.sites(tv.resnet18(), torch.zeros(1, 3, 64, 64), "se").of("residual")
    )
    assert f"8 x se: {added:,} parameters" in total
    only = CliRunner().invoke(app, ["sites", "timm:resnet18", "--where", "stage", "--image-size", "64"])
    assert only.output.count("stage") == 4
    assert "bn2" not in only.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["rsnet18"], r"unknown network of torchvision or timm 'rsnet18'; did you mean 'resnet18'"),
        (["tim:resnet18"], "'tim' is neither 'torchvision' nor 'timm'"),
        (["resnet18", "--where", "top"], "where='top' is not one of"),
        (["resnet18", "--image-size", "0"], "image_size=0 must be an integer of at least 1"),
    ],
)
def test_the_command_refuses(arguments: list[str], sentence: str) -> None:
    result = CliRunner().invoke(app, ["sites", *arguments])
    assert isinstance(result.exception, sc.SaccadeError)
    assert sentence in str(result.exception)


def test_backbones_by_name() -> None:
    with torch.device("meta"):
        assert load_backbone("timm:resnet18", classes=3).get_submodule("fc").out_features == 3
        assert load_backbone("torchvision:fcn_resnet50", classes=3) is not None  # downloads nothing
        with pytest.raises(sc.BadOption, match=r"resnet18 cannot be built with \{'depht': 3\}"):
            load_backbone("resnet18", depht=3)
