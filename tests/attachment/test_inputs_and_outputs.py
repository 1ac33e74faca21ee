"""Any example inputs, all outputs of a model, ends of branches that no module returns, and unfit places."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import detection

import saccade as sc
from saccade.attachment.example import describe_inputs, tensors_within
from support.errors import raises
from support.networks import Residual

SMALL: dict[str, Any] = {"weights": None, "weights_backbone": None, "min_size": 64, "max_size": 96}


def images(*sizes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def targets(count: int) -> list[dict[str, Tensor]]:
    box = torch.tensor([[4.0, 6.0, 40.0, 50.0]])
    return [{"boxes": box, "labels": torch.tensor([1])} for _ in range(count)]


# ----------------------------------------------------------------------------------------------- inputs


def test_any_mapping_holds_the_arguments() -> None:
    class Batch(UserDict[str, Tensor]):
        """Like `transformers.BatchFeature`, a mapping that is no dict."""

    class Network(Residual):
        def forward(self, pixel_values: Tensor) -> Any:
            return {"logits": super().forward(pixel_values)}

    model, x = Network(2), torch.randn(2, 3, 16, 16)
    expected = sc.sites(model, x)
    assert sc.sites(model, Batch(pixel_values=x)) == sc.sites(model, {"pixel_values": x}) == expected
    assert len(sc.attach(model, "se", example_inputs=Batch(pixel_values=x))) == 4


def test_messages_hold_shapes_and_no_values() -> None:
    batch = UserDict({"pixel_values": torch.full((3,), 7.25), "labels": [torch.ones(3)], "id": "a", "n": 3})
    expected = "{'pixel_values': (3,), 'labels': [(3,)], 'id': 'a', 'n': 3}"
    with raises(sc.BadOption, option="example_inputs", value=expected):
        sc.sites(Residual(2), batch)
    assert describe_inputs((torch.ones(2), object(), None)) == "((2,), a object, None)"
    with raises(sc.BadOption, option="example_inputs", value="[(3, 16, 16), (3, 16, 16)]") as caught:
        sc.sites(Residual(2), images((16, 16), (16, 16)))
    assert isinstance(caught.value.__cause__, (TypeError, AttributeError))


def test_all_tensors_of_an_output_are_found() -> None:
    a, b, c = (torch.ones(n) for n in (1, 2, 3))
    found = tensors_within(
        {"a": [a], "b": UserDict({"x": (b,)}), "c": sc.SpatialMap(c[None, None]), "d": "no"}
    )
    assert [t.numel() for t in found] == [1, 2, 3]


@pytest.mark.parametrize("build", [detection.fcos_resnet50_fpn, detection.fasterrcnn_resnet50_fpn])
def test_detectors_take_lists_of_images(build: Any) -> None:
    torch.manual_seed(0)
    model, x = build(**SMALL).eval(), images((64, 80), (72, 64))
    sites = sc.sites(model, x)
    assert len(sites.of("residual")) == 16
    assert sites.of("residual")[0].shape[0] == 256
    assert sites.of("input")[0].shape[0] == 3
    assert sites == sc.sites(model, (x,)) == sc.sites(model, (x, targets(2)))
    before = [*tensors_within(model(x))]

    plan = sc.attach(model, "cbam", example_inputs=x)
    assert len(plan) == 16
    assert all(torch.equal(a, b) for a, b in zip(before, tensors_within(model(x)), strict=True))
    model.train()
    losses = model(x, targets(2))
    sum(losses.values()).backward()
    gates = [p.grad for key, p in model.named_parameters() if key.endswith(".gate")]
    assert len(gates) == 16
    assert all(gate is not None and gate.any() for gate in gates)
    assert len(sc.detach(model)) == 16


def test_one_image_is_a_batch_of_one_for_a_detector() -> None:
    model = detection.fcos_resnet50_fpn(**SMALL).eval()
    assert len(sc.sites(model, images((64, 80))).of("residual")) == 16


# ---------------------------------------------------------------------------------------------- outputs


@pytest.mark.parametrize(("name", "residual", "outputs"), [("convnext_atto", 12, 4), ("resnet18", 8, 5)])
def test_every_output_of_a_network_of_features_counts(name: str, residual: int, outputs: int) -> None:
    torch.manual_seed(0)
    model, x = timm.create_model(name, features_only=True).eval(), torch.randn(2, 3, 64, 64)
    before = model(x)
    sites = sc.sites(model, x)
    assert len(sites.of("residual")) == residual
    assert [site.shape for site in sites.of("head")] == [tuple(y.shape[1:]) for y in before]
    for where, count in (("residual", residual), ("head", outputs)):
        plan = sc.attach(model, "se", where=where, example_inputs=x, reduction=2)
        assert len(plan) == count
        assert all(torch.equal(a, b) for a, b in zip(before, model(x), strict=True))
        sc.detach(model)


def test_outputs_in_a_tuple_and_a_dict_count() -> None:
    class Two(nn.Module):
        def __init__(self, as_dict: bool) -> None:
            super().__init__()
            self.network, self.as_dict = Residual(2), as_dict

        def forward(self, x: Tensor) -> Any:
            early = self.network.stage1(self.network.stem(x))
            late = self.network.stage2(early)
            return {"early": early, "late": [late]} if self.as_dict else (early, late)

    for as_dict in (False, True):
        sites = sc.sites(Two(as_dict), torch.randn(2, 3, 16, 16))
        assert [site.path for site in sites.of("head")] == ["network.stage1.1", "network.stage2.1"]
        assert len(sites.of("residual")) == 4


# --------------------------------------------------------------------------------------------- branches


class Scaled(nn.Module):
    """A network of blocks `x + gamma * f(x)`."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.stem, self.f, self.drop = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, padding=1), nn.Identity()
        self.gamma, self.inplace = nn.Parameter(torch.full((16, 1, 1), 0.1)), inplace

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(2):
            branch = self.drop(x)
        branch = self.f(branch)
        branch = branch.mul_(self.gamma) if self.inplace else self.gamma * branch
        y: Tensor = x + branch
        return y.mean((2, 3))


@pytest.mark.parametrize("inplace", [False, True])
def test_a_branch_that_is_scaled_ends_with_its_last_module(inplace: bool) -> None:
    model, x = Scaled(inplace).eval(), torch.randn(2, 3, 8, 8)
    before = model(x)
    assert [site.path for site in sc.sites(model, x).of("residual")] == ["f"]
    sc.attach(model, "cbam", example_inputs=x, reduction=4)
    assert torch.equal(model(x), before)


def test_the_search_for_the_end_stays_in_the_branch() -> None:
    class Function(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return (x + self.gamma * x.relu()).mean((2, 3))

    assert sc.sites(Function(), torch.randn(2, 3, 8, 8)).of("residual") == ()


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("cait_xxs24_224", 48, "blocks.0.attn"),
        ("beit_base_patch16_224", 24, "blocks.0.drop_path1"),
        ("nfnet_f0", 12, "stages.0.0.drop_path"),
    ],
)
def test_branches_of_known_networks(name: str, count: int, first: str) -> None:
    with torch.device("meta"):
        options: dict[str, Any] = {} if name == "nfnet_f0" else {"img_size": 64}
        model = timm.create_model(name, **options)
        sites = sc.sites(model, torch.zeros(2, 3, 64, 64)).of("residual")
    assert (len(sites), sites[0].path) == (count, first)


def test_costs_in_a_network_whose_class_token_is_the_input_of_a_module() -> None:
    sites = sc.sites(timm.create_model("cait_xxs24_224", img_size=64), torch.randn(1, 3, 64, 64), "cbam")
    assert len([site for site in sites.of("residual") if site.refused is None]) == 48


# ----------------------------------------------------------------------------------------- unfit places


def test_unfit_places_are_skipped_and_named_on_request() -> None:
    torch.manual_seed(0)
    model, x = Residual(2, width=16).eval(), torch.randn(2, 3, 8, 8)
    before = model(x)
    with raises(sc.BadOption, owner="se", option="channels", value=16):
        sc.attach(model, "se", example_inputs=x, reduction=32)
    plan = sc.attach(model, "se", example_inputs=x, reduction=32, skip_unfit=True)
    assert [site.path for site in plan if site.refused] == ["stage1.0.norm2", "stage1.1.norm2"]
    assert all("reduction=32" in (site.refused or "") for site in plan[:2])
    assert [a.path for a in sc.attached(model)] == ["stage2.0.norm2.attention", "stage2.1.norm2.attention"]
    assert torch.equal(model(x), before)
    sc.detach(model)
    with raises(sc.BadOption, owner="attach", option="where", value="residual"):
        sc.attach(model, "se", example_inputs=x, reduction=128, skip_unfit=True)
    assert sc.attached(model) == ()


# ----------------------------------------------------------------------------------------------- tokens

VIT: dict[str, Any] = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def vit(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **{**VIT, **options}).eval()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cbam", {"reduction": 4}),
        ("spatial_gate", {}),
        ("coordinate", {"reduction": 4}),
        ("sk", {}),
        ("self_attention", {"dims": 2}),
    ],
)
@pytest.mark.parametrize("extra", [0, 1, 5])
def test_spatial_mechanisms_attend_to_the_grid_of_tokens(
    name: str, options: dict[str, Any], extra: int
) -> None:
    choices: dict[int, dict[str, Any]] = {
        0: {"class_token": False, "global_pool": "avg"},
        1: {},
        5: {"reg_tokens": 4},
    }
    model, x = vit(**choices[extra]), torch.randn(2, 3, 32, 48)
    before = model(x)
    plan = sc.attach(model, name, example_inputs=x, **options)
    assert {(site.shape, site.grid) for site in plan} == {((32, 24 + extra), (4, 6))}
    assert torch.equal(model(x), before)

    inserted: Any = model.get_submodule("blocks.0.attn.attention")
    inserted.gate = None
    tokens = torch.randn(2, 24 + extra, 32)
    inserted.mechanism.eval()
    places = tokens[:, extra:].reshape(2, 4, 6, 32).permute(0, 3, 1, 2)
    expected = inserted.mechanism(places).permute(0, 2, 3, 1).reshape(2, 24, 32)
    torch.testing.assert_close(inserted(tokens), torch.cat([tokens[:, :extra], expected], 1))
    model(x).sum().backward()


def test_the_grid_follows_the_size_of_the_image() -> None:
    model = vit(dynamic_img_size=True)
    sc.attach(model, "cbam", example_inputs=torch.randn(2, 3, 32, 48), identity=False, reduction=4)
    with sc.record(model) as maps:
        model(torch.randn(1, 3, 64, 96))
    assert maps["blocks.0.attn.attention.mechanism.spatial"].heatmap().shape[-2:] == (8, 12)
    with raises(sc.BadShape, owner="attach", option="shape", value=35):
        model(torch.randn(1, 3, 40, 56))


def test_tokens_of_another_order_have_no_grid() -> None:
    class Last(nn.Module):
        """A class token after the places; queries that are no places."""

        def __init__(self) -> None:
            super().__init__()
            self.patch, self.token = nn.Conv2d(3, 16, 4, 4), nn.Parameter(torch.zeros(1, 1, 16))
            self.mlp, self.head = nn.Linear(16, 16), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.patch(x).flatten(2).mT
            x = torch.cat([x, self.token.expand(len(x), 1, 16)], 1)
            x = x + self.mlp(x)
            return self.head(x.mean(1))  # type: ignore[no-any-return]

    model, x = Last(), torch.randn(2, 3, 16, 16)
    assert [site.grid for site in sc.sites(model, x).of("residual")] == [None]
    with raises(sc.BadOption, owner="cbam", option="shape", value=(16, 17)):
        sc.attach(model, "cbam", example_inputs=x)
    plan = sc.attach(model, "cbam", example_inputs=x, dims=1, reduction=4)  # a sequence, as the user says
    assert [site.shape for site in plan] == [(16, 17)]
    with sc.record(model) as maps:
        model(x)
    assert maps["mlp.attention.mechanism.spatial"].saliency().shape == (2, 17)
    sc.detach(model)
    sc.attach(model, "self_attention", example_inputs=x)  # all pairs, in any order
    assert model.get_parameter("mlp.attention.mechanism.query.weight").ndim == 3


@pytest.mark.parametrize(("size", "grid"), [((32, 48), (4, 6)), ((32, 40), None)])
def test_unfolded_patches_have_the_proportions_of_their_map(
    size: tuple[int, int], grid: tuple[int, int] | None
) -> None:
    class Unfolded(nn.Module):
        """Patches of 8 x 8 pixels; padded, 40 columns give 4 x 6 patches, which is no scaled 16 x 20."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.mlp = nn.Conv2d(3, 4, 2, 2), nn.Linear(64, 64)
            self.unfold = nn.Unfold(4, stride=4, padding=(0, 2) if size[1] == 40 else 0)

        def forward(self, x: Tensor) -> Tensor:
            x = self.unfold(self.stem(x)).mT
            return (x + self.mlp(x)).mean(1)  # type: ignore[no-any-return]

    sites = sc.sites(Unfolded(), torch.randn(2, 3, *size)).of("residual")
    assert [site.grid for site in sites] == [grid]


class Waves(nn.Module):
    """Tokens from waves (B, L), by convolutions or by views, with a class token before them."""

    def __init__(self, convolution: bool) -> None:
        super().__init__()
        self.patch = nn.Conv1d(1, 16, 4, 4) if convolution else nn.Linear(4, 16)
        self.token, self.mlp, self.head = nn.Parameter(torch.zeros(1, 1, 16)), Mixer(), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = (
            self.patch(x[:, None]).mT
            if isinstance(self.patch, nn.Conv1d)
            else self.patch(x.unflatten(1, (-1, 4)))
        )
        x = torch.cat([self.token.expand(len(x), 1, 16), x], 1)
        return self.head((x + self.mlp(x)).mean(1))  # type: ignore[no-any-return]


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x + x.mean(1, keepdim=True))  # type: ignore[no-any-return]


@pytest.mark.parametrize("convolution", [True, False])
def test_tokens_of_waves_are_a_row(convolution: bool) -> None:
    torch.manual_seed(0)
    model, x = Waves(convolution), torch.randn(2, 32)
    before = model(x)
    plan = sc.attach(model, "cbam", example_inputs={"x": x})
    assert [(site.path, site.shape, site.grid) for site in plan] == [("mlp", (16, 9), (8,))]
    assert torch.equal(model(x), before)
    assert sc.sites(model, x).of("input") == ()
    with sc.record(model) as maps:
        model(torch.randn(3, 64))
    assert maps["mlp.attention.mechanism.spatial"].saliency().shape == (3, 16)


def test_dims_choose_between_the_grid_and_the_sequence() -> None:
    model, x = vit(), torch.randn(2, 3, 32, 48)
    cases: list[tuple[str, dict[str, Any], int]] = [
        ("spatial_gate", {}, 4),
        ("spatial_gate", {"dims": 1}, 3),
        ("non_local", {}, 3),  # all pairs, those with the class token included
        ("non_local", {"dims": 2}, 4),
        ("self_attention", {}, 3),
    ]
    for name, options, axes in cases:
        sc.attach(model, name, example_inputs=x, **options)
        inserted: Any = model.get_submodule("blocks.0.attn.attention")
        assert inserted.grid == ((4, 6) if axes == 4 else None)
        assert max(p.ndim for p in inserted.mechanism.parameters()) == axes
        sc.detach(model)
    with raises(sc.BadOption, owner="non_local", option="shape", value=(2, 32, 4, 6)):
        sc.attach(model, "non_local", example_inputs=x, dims=3)
