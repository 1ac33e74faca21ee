"""The vision transformers: sizes, precisions, devices, compilation, and mistakes in one sentence."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import saccade as sc
from saccade.models import SimpleViT, ViT
from support.errors import raises

MODELS: dict[str, type[nn.Module]] = {"ViT": ViT, "SimpleViT": SimpleViT}
SMALL: dict[str, Any] = {"width": 32, "depth": 2, "heads": 2, "mlp_width": 48}
PATCHES: dict[str, Any] = {"image_size": (24, 40), "patch_size": 8, "classes": 5, **SMALL}
CHANNELS: dict[str, Any] = {
    "image_size": (7, 5),
    "channels": 24,
    "group_size": 4,
    "tokens": "channels",
    **SMALL,
}
SCORES: dict[str, Any] = {**CHANNELS, "head": "score"}

Build = Callable[..., nn.Module]
CASES = [
    pytest.param(lambda m=model, o=options, **changed: m(**o | changed), shape, out, id=f"{name}-{kind}")
    for name, model in MODELS.items()
    for kind, options, shape, out in (
        ("patches", PATCHES, (3, 24, 40), (5,)),
        ("channels", {**CHANNELS, "classes": 5}, (24, 7, 5), (5,)),
        ("score", SCORES, (24, 7, 5), ()),
    )
]
every_case = pytest.mark.parametrize(("build", "shape", "out"), CASES)


def images(batch: int, shape: tuple[int, ...], **options: Any) -> Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)).to(**options)


def seeded(build: Build, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return build(**options)


def test_defaults_are_the_papers() -> None:
    with torch.device("meta"):
        sizes = {name: sum(p.numel() for p in model().parameters()) for name, model in MODELS.items()}
    assert sizes["ViT"] == 86_567_656  # ViT-B/16, 86 million (table 1)
    assert round(sizes["SimpleViT"] / 1e6) == 22  # S/16


@pytest.mark.parametrize("name", MODELS)
def test_the_shapes_of_the_catalog(name: str) -> None:
    """512 x 7 x 7 in groups of 32 channels: 16 tokens of 32 * 7 * 7 values, one score per map."""
    model: Any = MODELS[name](tokens="channels", head="score", **SMALL)
    assert (model.tokens.count, model.tokens.width) == (16, 32 * 7 * 7)
    with sc.record(model) as maps, torch.no_grad():
        assert model(torch.randn(128, 512, 7, 7)).shape == (128,)
    recorded = maps["blocks.0.attn"]
    assert isinstance(recorded, sc.PairwiseMap)
    assert recorded.weights().shape == (128, 2, 16, 16)
    assert recorded.attention_from(x=15).shape == (128, 16)


@every_case
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_batches_and_precisions(
    build: Build, shape: tuple[int, ...], out: tuple[int, ...], batch: int, dtype: torch.dtype
) -> None:
    exact, model = seeded(build).double(), seeded(build).to(dtype)
    x = images(batch, shape)
    y = model(x.to(dtype))
    assert (y.dtype, y.shape) == (dtype, (batch, *out))
    y.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    tolerance = {torch.float64: 0.0, torch.float32: 1e-6, torch.bfloat16: 0.03}[dtype]
    torch.testing.assert_close(y.double(), exact(x.double()), atol=tolerance, rtol=tolerance)


@every_case
def test_every_parameter_and_every_value_of_the_input_matter(
    build: Build, shape: tuple[int, ...], out: tuple[int, ...]
) -> None:
    model, x = seeded(build), images(2, shape).requires_grad_()
    (model(x) * torch.arange(1.0, 1 + max(out, default=1)).reshape(out)).sum().backward()
    for name, gradient in [("input", x.grad), *((n, p.grad) for n, p in model.named_parameters())]:
        assert gradient is not None
        assert gradient.abs().max() > 0, name
    assert x.grad is not None
    assert (x.grad != 0).double().mean() > 0.99


@every_case
def test_memory_formats_change_nothing(build: Build, shape: tuple[int, ...], out: tuple[int, ...]) -> None:  # noqa: ARG001
    model, x = seeded(build), images(2, shape)
    y = model(x)
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), y)
    torch.testing.assert_close(model(x.transpose(2, 3).contiguous().transpose(2, 3)), y)


@every_case
def test_on_the_meta_device(build: Build, shape: tuple[int, ...], out: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = build()
    y = model(torch.empty(2, *shape, device="meta"))
    assert (y.device.type, y.shape) == ("meta", (2, *out))
    real = model.to_empty(device="cpu")
    expected = seeded(build)
    real.load_state_dict(expected.state_dict())  # all that it needs to be whole again
    assert torch.equal(real(images(2, shape)), expected(images(2, shape)))


@every_case
def test_state_makes_the_round_trip(build: Build, shape: tuple[int, ...], out: tuple[int, ...]) -> None:  # noqa: ARG001
    model, other = seeded(build), build()
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(other(images(2, shape)), model(images(2, shape)))
    assert {*model.state_dict()} == {name for name, _ in model.named_parameters()}


@every_case
def test_compiles_into_one_graph(build: Build, shape: tuple[int, ...], out: tuple[int, ...]) -> None:  # noqa: ARG001
    model, x = seeded(build, depth=1).double(), images(2, shape, dtype=torch.float64)
    expected = model(x)
    torch._dynamo.reset()
    compiled: Any = torch.compile(model, fullgraph=True, backend="aot_eager")
    result = compiled(x)
    with sc.record(compiled) as maps:
        recorded = compiled(x)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(recorded, expected, rtol=1e-10, atol=1e-12)
    assert [*maps] == ["blocks.0.attn"]
    expected.sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    result.sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], rtol=1e-9, atol=1e-12)
    torch._dynamo.reset()


@every_case
def test_exports_with_a_dynamic_batch(build: Build, shape: tuple[int, ...], out: tuple[int, ...]) -> None:  # noqa: ARG001
    model = seeded(build, depth=1).eval()
    program = torch.export.export(
        model, (images(2, shape),), dynamic_shapes=({0: Dim("batch", min=1)},)
    ).module()
    for batch in (1, 2, 5):
        torch.testing.assert_close(program(images(batch, shape)), model(images(batch, shape)))


@every_case
def test_recording_changes_nothing(build: Build, shape: tuple[int, ...], out: tuple[int, ...]) -> None:  # noqa: ARG001
    model, x = seeded(build), images(2, shape)
    y = model(x)
    with sc.record(model) as maps:
        assert torch.equal(model(x), y)
    grid = (3, 5) if shape[0] == 3 else (6,)
    for recorded in maps.values():
        assert isinstance(recorded, sc.PairwiseMap)
        assert recorded.query_shape == recorded.key_shape == grid
        assert not recorded.queries.requires_grad
        assert recorded.heatmap().shape == (2, *grid)
        total = recorded.weights().sum(-1)
        if isinstance(model, ViT):
            assert ((total > 0) & (total < 1)).all()  # the rest is the class token's
        else:
            torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize("name", MODELS)
def test_an_image_of_another_size_is_refused(name: str) -> None:
    model = MODELS[name](**PATCHES)
    for shape in (
        (2, 3, 40, 24),
        (2, 3, 24, 32),
        (2, 3, 48, 40),
        (2, 1, 24, 40),
        (3, 24, 40),
        (0, 3, 24, 40),
    ):
        with raises(sc.BadShape, owner=name, option="shape", value=shape):
            model(torch.zeros(shape))
    with raises(sc.BadShape, owner=name, option="shape", value=(2, 24, 5, 7)):
        MODELS[name](**SCORES)(torch.zeros(2, 24, 5, 7))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("options", "option", "value"),
    [
        ({"image_size": (24, 41)}, "image_size", (24, 41)),
        ({"image_size": 0}, "image_size", 0),
        ({"image_size": (24, 40, 1)}, "image_size", (24, 40, 1)),
        ({"patch_size": 2.5}, "patch_size", 2.5),
        ({"tokens": "channels"}, "channels", 512),
        ({"tokens": "pixels"}, "tokens", "pixels"),
        ({"head": "scores"}, "head", "scores"),
        ({"classes": 0}, "classes", 0),
        ({"depth": 0}, "depth", 0),
        ({"width": 30, "heads": 4}, "width", 30),
    ],
    ids=str,
)
def test_sizes_at_odds_are_refused(name: str, options: dict[str, Any], option: str, value: object) -> None:
    with raises(sc.BadOption, owner=name, option=option, value=value):
        MODELS[name](**PATCHES | {"group_size": 5} | options)


@pytest.mark.parametrize("name", MODELS)
def test_nan_stays_with_its_image(name: str) -> None:
    model, x = MODELS[name](**PATCHES), images(2, (3, 24, 40))
    x[0, 0, 0, 0] = float("nan")
    y = model(x)
    assert y[0].isnan().all()
    assert y[1].isfinite().all()


def test_the_position_code_tells_groups_apart() -> None:
    """Equal groups in another order give another answer, though each token is the same."""
    model = seeded(lambda: SimpleViT(**SCORES)).double()
    x = images(1, (24, 7, 5), dtype=torch.float64)
    swapped = torch.cat([x[:, 4:8], x[:, :4], x[:, 8:]], dim=1)
    assert (model(x) - model(swapped)).abs() > 1e-6
