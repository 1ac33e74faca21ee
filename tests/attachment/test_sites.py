"""The places for attention: those of known models, their selection, and bad input."""

from __future__ import annotations

import copy
import inspect
import json
from typing import Any

import pytest
import timm
import torch
import torchvision.models as tv
from torch import Tensor, nn
from typer.testing import CliRunner

import saccade as sc
from saccade.attachment import KINDS, describe_attachments
from saccade.cli import app
from saccade.models import load_backbone
from saccade.profiling import flops
from support.errors import raises
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
        ("densenet121", "features.pool0", "features", None),
        ("vgg11_bn", None, "features.27", None),
        ("mobilenet_v3_small", "features.0.2", "features.12.2", "features.3.block"),
        ("efficientnet_b0", "features.0.2", "features.8.2", "features.2.1.block"),
        ("convnext_tiny", "features.0.1", "features.7.2", "features.1.0.stochastic_depth"),
        ("swin_t", "features.0.2", "permute", "features.1.0.attn"),
        ("shufflenet_v2_x0_5", "maxpool", "conv5.2", None),
        ("googlenet", "maxpool2", "inception5b", None),
        ("timm:regnety_002", "stem", "s4.b7", "s1.b1.conv3"),
        ("timm:efficientnet_b0", "bn1", "bn2", "blocks.1.1.bn3"),
        ("timm:convnext_atto", "stem.1", "stages.3.blocks.1", "stages.0.blocks.0.drop_path"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_known_networks(name: str, stem: str | None, head: str, branch: str | None) -> None:
    with torch.device("meta"):
        sites = sc.sites(load_backbone(name), torch.zeros(2, 3, 64, 64))
    assert [site.path for site in sites.of("stem")] == ([] if stem is None else [stem])
    assert [site.path for site in sites.of("head")] == [head]
    assert next((site.path for site in sites.of("residual")), None) == branch
    assert len({site.shape for site in sites.of("stage")}) >= 3
    assert sites[0].path == sites.of("input")[0].path


def test_a_stage_ends_with_its_last_block_not_with_what_follows_it() -> None:
    assert [path for path, _ in places(tv.convnext_tiny(), kind="stage")] == [
        f"features.{path}" for path in ("1.2", "3.2", "5.8", "7.2")
    ]


def test_features_with_the_channels_last_are_found() -> None:
    sites = sc.sites(tv.swin_t().to("meta"), torch.zeros(1, 3, 64, 64, device="meta"))
    by_path = {site.path: site for site in sites}
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
    plan = sc.attach(model, "cbam", example_inputs=x, reduction=4)
    assert [site.grid for site in plan] == [None, (8, 8), None, (4, 4)]
    assert torch.equal(model(x), before)
    sc.detach(model)
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
    sites = sc.sites(UNet(), torch.randn(1, 3, 16, 16))
    assert [site.shape[1] for site in sites.of("stage")] == [16, 8, 4, 8, 16]
    assert [site.path for site in sites.of("head")] == ["up1.3"]


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
        sites = sc.sites(model, torch.zeros(1, 3, 64, 64))
    assert not any("high_classifier" in site.path or "low_classifier" in site.path for site in sites)
    assert [site.shape[0] for site in sites.of("head")] == [128]


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
        sites = sc.sites(Sum(swapped), torch.randn(1, 3, 8, 8)).of("residual")
        assert [site.path for site in sites] == ["body.3"]


# ------------------------------------------------------------------------------------------- what they cost


def test_costs_are_those_that_attaching_brings() -> None:
    torch.manual_seed(0)
    model, x = Residual(2), torch.randn(4, 3, 16, 16)
    plain_parameters, plain_flops = sum(p.numel() for p in model.parameters()), flops(model, x[:1])
    sites = sc.sites(model, x, "cbam:reduction=8").of("residual")
    sc.attach(model, "cbam", example_inputs=x, reduction=8, identity=False)
    assert (
        sum(s.parameters or 0 for s in sites) == sum(p.numel() for p in model.parameters()) - plain_parameters
    )
    assert sum(s.flops or 0 for s in sites) == flops(model, x[:1]) - plain_flops
    assert sum(s.share or 0 for s in sites) == pytest.approx(flops(model, x[:1]) / plain_flops - 1)


def test_a_place_where_it_does_not_fit_says_why() -> None:
    sites = sc.sites(Residual(2), torch.randn(1, 3, 8, 8), "se")
    (image,) = sites.of("input")
    assert image.refused == "se: channels=3 must be at least reduction=16"
    assert image.parameters is None
    assert all(site.refused is None for site in sites.of("residual"))
    assert "reduction=16" in str(sites)


def test_the_default_reduction_leaves_channels_of_narrow_features() -> None:
    model, x = Residual(2, width=8), torch.randn(2, 3, 8, 8)
    sites = sc.sites(model, x, "cbam").of("residual")
    assert [(site.channels, site.refused) for site in sites[::2]] == [(8, None), (16, None)]
    sc.attach(model, "cbam", example_inputs=x)
    descriptions = describe_attachments(model)
    assert [each["options"] for each in descriptions[::2]] == [{"reduction": 2}, {}]
    sc.detach(model)
    with raises(sc.BadOption, owner="channel_gate", option="channels", value=8):
        sc.attach(model, "cbam", example_inputs=x, reduction=16)  # as the user says


# ------------------------------------------------------------------------------------------------- choosing


def test_paths_choose_by_levels() -> None:
    model, x = tv.resnet18(), torch.randn(1, 3, 32, 32)

    def selected(*where: str) -> list[str]:
        return [site.path for site in sc.attach(model, "se", where=where, example_inputs=x, dry_run=True)]

    assert selected("layer3.*.bn2") == ["layer3.0.bn2", "layer3.1.bn2"]
    assert selected("layer[34].1.bn?") == ["layer3.1.bn1", "layer3.1.bn2", "layer4.1.bn1", "layer4.1.bn2"]
    assert selected("layer4", "layer1.0") == ["layer1.0", "layer4.1"]  # a Sequential: its last module
    assert selected("layer1.*", "layer1.0") == ["layer1.0", "layer1.1"]  # not layer1.0.conv1; each once


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
    with raises(sc.BadOption, owner="attach", option="where", value="1"):
        sc.attach(model, "se", where=["1"], example_inputs=x)
    assert list(model.state_dict()) == keys
    assert not model[1]._forward_hooks


# ------------------------------------------------------------------------------------------------- bad input

X = torch.randn(1, 3, 16, 16)


@pytest.mark.parametrize(
    ("where", "error", "fields"),
    [
        (["norm"], sc.BadOption, {"value": "norm"}),
        (["unused"], sc.BadOption, {"value": "unused"}),
        (["head"], sc.BadOption, {"value": "head"}),
        (["frist"], sc.UnknownName, {"kind": "module path", "value": "frist", "choices": ("first",)}),
        (
            ["layer9.*.bn2"],
            sc.UnknownName,
            {
                "kind": "module path",
                "value": "layer9.*.bn2",
                "choices": ("first", "head", "norm", "second", "third", "unused"),
            },
        ),
        ([], sc.BadOption, {"value": []}),
        ("residual", sc.BadOption, {"value": "residual"}),
        ("middle", sc.BadOption, {"value": "middle", "choices": KINDS}),
        (nothing := lambda _: False, sc.BadOption, {"value": nothing}),
    ],
)
def test_a_place_that_cannot_take_attention_is_refused(
    where: Any, error: type[sc.SaccadeError], fields: dict[str, Any]
) -> None:
    model = Shared()
    keys = list(model.state_dict())
    option = "where" if error is sc.BadOption else None
    with raises(error, owner="attach", option=option, **fields):
        sc.attach(model, "se", where=where, example_inputs=X)
    assert list(model.state_dict()) == keys


def test_a_module_at_two_paths_that_runs_once_is_one_place() -> None:
    model = Shared().eval()
    before = model(X)
    plan = sc.attach(model, "se", where=["second", "third"], example_inputs=X)
    assert [site.path for site in plan] == ["second"]
    assert torch.equal(model(X), before)
    assert sc.detach(model) == ["second.attention"]


def test_a_module_whose_copies_are_built_anew_is_no_host() -> None:
    class Rearranged(nn.Module):
        """Like the layers of einops, whose state are the arguments that build them."""

        def __getstate__(self) -> Any:
            return ()

        def __setstate__(self, state: Any) -> None:
            self.__init__()  # type: ignore[misc]

        def forward(self, x: Tensor) -> Tensor:
            return x.transpose(2, 3)

    model, x = nn.Sequential(nn.Conv2d(3, 16, 3), Rearranged(), nn.Conv2d(16, 16, 3)), torch.randn(2, 3, 8, 8)
    assert [site.path for site in sc.sites(model, x) if site.path == "1"] == []
    with raises(sc.BadOption, owner="attach", option="where", value="1"):
        sc.attach(model, "se", where=["1"], example_inputs=x)
    sc.attach(model, "se", where="stage", example_inputs=x)
    assert all(place.runs for place in sc.attached(copy.deepcopy(model)))


def test_a_dense_block_says_why_it_cannot_be_a_host() -> None:
    with raises(sc.BadOption, owner="attach", option="where", value="features.denseblock1"):
        sc.attach(
            tv.densenet121().to("meta"),
            "se",
            where=["features.denseblock1"],
            example_inputs=torch.zeros(1, 3, 64, 64, device="meta"),
        )


@pytest.mark.parametrize(
    ("name", "options", "error", "fields"),
    [
        ("sse", {}, sc.UnknownName, {"kind": "mechanism", "value": "sse"}),
        ("se", {"reductoin": 4}, sc.UnknownName, {"kind": "option of se", "value": "reductoin"}),
        ("se", {"reduction": 64}, sc.BadOption, {}),
        ("se:reduction=4", {"reduction": 8}, sc.BadOption, {"option": "reduction", "value": 8}),
        ("additive", {}, sc.BadOption, {"owner": "additive", "option": "shape", "value": (32, 16, 16)}),
        (
            "spatial_transformer",
            {"size": 5},
            sc.BadOption,
            {"owner": "spatial_transformer", "option": "shape", "value": (2, 32, 5, 5)},
        ),
        ("multi_head", {"heads": 5}, sc.BadOption, {}),
    ],
)
def test_a_mechanism_that_does_not_fit_is_refused(
    name: str, options: dict[str, Any], error: type[sc.SaccadeError], fields: dict[str, Any]
) -> None:
    model = Residual(2)
    with raises(error, **fields) as caught:
        sc.attach(model, name, example_inputs=X, **options)
    is_about_a_place = error is sc.BadOption and ":" not in name
    assert str(caught.value).startswith("stage1.0.norm2: ") == is_about_a_place
    assert not any("attention" in key for key in model.state_dict())


@pytest.mark.parametrize(
    ("example", "value", "cause"),
    [
        (torch.randn(1, 4, 16, 16), "(1, 4, 16, 16)", RuntimeError),
        (torch.randn(3, 16), "(3, 16)", RuntimeError),
        ("an image", "'an image'", None),
        ({"y": torch.randn(1, 3, 8, 8)}, "{'y': (1, 3, 8, 8)}", TypeError),
    ],
)
def test_example_inputs_that_do_not_fit_are_refused(
    example: Any, value: str, cause: type[Exception] | None
) -> None:
    with raises(sc.BadOption, option="example_inputs", value=value) as caught:
        sc.sites(Residual(2), example)
    assert isinstance(caught.value.__cause__, cause or type(None))


def test_networks_that_would_not_see_a_change_are_refused() -> None:
    model = Residual(2).eval()
    scripted: Any = torch.jit.trace(model, X, check_trace=False)
    compiled: Any = torch.compile(model)
    layer: Any = torch.compile(nn.Conv2d(3, 8, 1))
    within = nn.Sequential(layer)
    inside = Residual(2)
    inside.compile()
    network: Any
    for network in (scripted, compiled, within, inside, "resnet50"):
        fields: dict[str, Any] = {"option": "model", "value": type(network).__name__}
        with raises(sc.BadOption, owner="attach", **fields):
            sc.attach(network, "se", example_inputs=X)
        with raises(sc.BadOption, owner="detach", **fields):
            sc.detach(network)
        with raises(sc.BadOption, owner="sites", **fields):
            sc.sites(network, X)


@pytest.mark.parametrize("option", ["where", "example_inputs", "identity", "dry_run", "allow_multiple"])
def test_options_of_attach_and_of_a_mechanism_cannot_be_confused(
    option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gate(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(channels))

    known: dict[str, sc.Spec] = {}
    monkeypatch.setattr("saccade.layers.registry._registered", known)
    se = sc.spec("se")
    parameters = [
        inspect.Parameter("channels", inspect.Parameter.POSITIONAL_OR_KEYWORD),
        inspect.Parameter(option, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=True),
    ]
    monkeypatch.setattr(Gate, "__signature__", inspect.Signature(parameters), raising=False)
    sc.register(sc.Spec("gate", "channel", se.paper, "a gate", Gate, se.function, se.examples, se.maps))
    with raises(sc.BadOption, owner="attach", option=option):
        sc.attach(Residual(2), "gate", example_inputs=X)


def test_options_of_sites_need_a_mechanism() -> None:
    with raises(sc.BadOption, owner="sites", option="reduction", value=4):
        sc.sites(Residual(2), X, reduction=4)


# ------------------------------------------------------------------------------------------ the command line


def test_the_command_lists_places_and_costs() -> None:
    listing = CliRunner().invoke(
        app, ["sites", "resnet18", "-a", "se", "--image-size", "64"], env={"COLUMNS": "120"}
    )
    assert listing.exit_code == 0, listing.output
    assert "layer4.1.bn2" in listing.output
    assert "not at conv1: se: channels=3 must be at least reduction=16" in listing.output
    (total,) = (line for line in listing.output.splitlines() if line.startswith("residual"))
    added = sum(
        s.parameters or 0 for s in sc.sites(tv.resnet18(), torch.zeros(1, 3, 64, 64), "se").of("residual")
    )
    assert f"8 x se: {added:,} parameters" in total
    stages = CliRunner().invoke(app, ["sites", "timm:resnet18", "--where", "stage", "--image-size", "64"])
    assert stages.output.count("stage") == 4
    assert "bn2" not in stages.output
    written = CliRunner().invoke(app, ["sites", "resnet18", "-a", "se", "--image-size", "64", "--json"])
    found = sc.sites(tv.resnet18(), torch.zeros(1, 3, 64, 64), "se")
    assert [(s["path"], s["shape"], s["flops"], s["refused"]) for s in json.loads(written.output)] == [
        (site.path, [*site.shape], site.flops, site.refused) for site in found
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["rsnet18"], r"unknown network of torchvision or timm 'rsnet18'; did you mean 'resnet18'"),
        (["tim:resnet18"], "'tim' is none of 'torchvision', 'timm', 'smp'"),
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
        with raises(sc.BadOption, owner="resnet18", option="options", value={"depht": 3}):
            load_backbone("resnet18", depht=3)
