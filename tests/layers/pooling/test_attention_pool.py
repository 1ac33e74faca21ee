"""attention_pool equals torch's multi-head attention of the mean, and the formula, position by position."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import saccade as sc
from saccade.maps import ClassTokenMap
from support.errors import raises
from support.parity import Parameters, assert_close, assert_parity, build, normal

C, HEADS = 12, 3


def tokens(p: Parameters, x: Tensor) -> list[Tensor]:
    """The mean and the positions in row-major order, each (B, C), plus their embeddings."""
    height, width = x.shape[2:]
    places = [x[:, :, i, j] for i in range(height) for j in range(width)]
    return [t + e for t, e in zip([torch.stack(places).mean(0), *places], p["position"], strict=True)]


def project(p: Parameters, name: str, x: Tensor) -> Tensor:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def weights(p: Parameters, x: Tensor) -> Tensor:
    """(B, heads, N)."""
    all_tokens = tokens(p, x)
    q = project(p, "query", all_tokens[0])
    products = torch.stack([q * project(p, "key", t) for t in all_tokens], 2)  # (B, C, N)
    exponentials = torch.exp(products.unflatten(1, (HEADS, -1)).sum(2) / (C / HEADS) ** 0.5)
    return exponentials / exponentials.sum(2, keepdim=True)


def reference(p: Parameters, x: Tensor) -> Tensor:
    values = torch.stack([project(p, "value", t) for t in tokens(p, x)], 2).unflatten(1, (HEADS, -1))
    return project(p, "proj", torch.einsum("bhn,bhdn->bhd", weights(p, x), values).flatten(1))


def torch_attention(p: Parameters, x: Tensor) -> Tensor:
    sequence = torch.stack(tokens(p, x))
    biases = torch.cat([p[f"{name}.bias"] for name in ("query", "key", "value")])
    y, _ = F.multi_head_attention_forward(
        sequence,
        sequence,
        sequence,
        C,
        HEADS,
        in_proj_weight=None,
        in_proj_bias=biases,
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=p["proj.weight"],
        out_proj_bias=p["proj.bias"],
        need_weights=False,
        use_separate_proj_weight=True,
        q_proj_weight=p["query.weight"],
        k_proj_weight=p["key.weight"],
        v_proj_weight=p["value.weight"],
    )
    return y[0]


@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_the_formula_and_torch(size: int, batch: int) -> None:
    module = build("attention_pool", C, size=size, heads=HEADS)
    assert_parity(module, reference, normal(batch, C, size, size))
    assert_parity(module, torch_attention, normal(batch, C, size, size))


def test_parameters_are_those_of_the_authors_in_their_order() -> None:
    module = sc.create("attention_pool", 16)
    names = ["position", *(f"{n}.{k}" for n in ("key", "query", "value", "proj") for k in ("weight", "bias"))]
    assert [*module.state_dict()] == names
    assert module.get_parameter("position").shape == (50, 16)


def test_the_recorded_map_holds_the_weights_of_the_positions() -> None:
    module, x = build("attention_pool", C, size=4, heads=HEADS), normal(2, C, 4, 4)
    with sc.record(module) as maps:
        module(x)
    recorded = maps[""]
    assert isinstance(recorded, ClassTokenMap)
    expected = weights(dict(module.named_parameters()), x).detach()[:, :, 1:]
    assert_close("weights", recorded.rows(recorded.extra_queries)[:, :, 0], expected)
    assert_close("saliency", recorded.saliency().flatten(1), expected.mean(1))


@pytest.mark.parametrize(
    ("option", "value"), [("size", 0), ("size", 2.5), ("heads", 0), ("heads", 5)], ids=str
)
def test_bad_options_are_refused(option: str, value: float) -> None:
    name, wrong = ("channels", C) if value == 5 else (option, value)
    with raises(sc.BadOption, owner="attention_pool", option=name, value=wrong):
        sc.create("attention_pool", C, **{"heads": HEADS, option: value})


@pytest.mark.parametrize("shape", [(2, 33, 7, 7), (2, 32, 7, 8), (2, 32, 49), (0, 32, 7, 7)], ids=str)
def test_bad_inputs_are_refused(shape: tuple[int, ...]) -> None:
    with raises(sc.BadShape, owner="attention_pool", option="shape", value=shape):
        sc.create("attention_pool", 32)(torch.zeros(shape))
