"""Costs: FLOPs equal manual counts, and measuring does not change the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import saccade as sc
from saccade.errors import BadOption, BadShape
from saccade.profiling import Cost, cost, flops, latency
from support.errors import raises


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


X = torch.rand(2, 3, 8, 6)  # 288 values
GRID = torch.zeros(2, 5, 4, 2)

HAND = {
    "linear": (nn.Linear(8, 4), (torch.rand(5, 8),), 2 * 5 * 8 * 4),
    "conv": (nn.Conv2d(3, 7, 3, padding=1), (X,), 2 * (2 * 8 * 6) * 7 * 3 * 9),
    "grouped conv": (nn.Conv2d(3, 3, 3, padding=1, groups=3), (X,), 2 * (2 * 8 * 6) * 3 * 9),
    "batch norm": (nn.BatchNorm2d(3), (X,), 2 * 288),
    "layer norm": (nn.LayerNorm(6), (X,), 5 * 288),
    "group norm": (nn.GroupNorm(3, 3), (X,), 5 * 288),
    "instance norm": (nn.InstanceNorm2d(3), (X,), 5 * 288),
    "activations": (nn.Sequential(nn.ReLU(), nn.GELU(), nn.Sigmoid(), nn.Hardtanh()), (X,), 4 * 288),
    "in place": (nn.ReLU(inplace=True), (X.clone(),), 288),
    "softmax": (nn.Softmax(-1), (X,), 5 * 288),
    "pools": (
        Call(lambda x: (F.max_pool2d(x, 2), F.avg_pool2d(x, 2), F.adaptive_avg_pool2d(x, 1))),
        (X,),
        3 * 288,
    ),
    "reductions": (
        Call(lambda x: (x.sum(), x.mean(1), x.amax((2, 3)), x.max(1), x.cumsum(1))),
        (X,),
        5 * 288,
    ),
    "broadcast": (Call(lambda x: x[:, :1, :1, :1] * x), (X,), 288),
    "outer product": (Call(lambda x: x[:, None] * x[None]), (torch.rand(7),), 49),
    "grid_sample": (
        Call(lambda x, g: F.grid_sample(x, g, align_corners=False)),
        (X, GRID),
        8 * 2 * 3 * 5 * 4,
    ),
    "resize": (Call(lambda x: F.interpolate(x, (4, 3), mode="bilinear")), (X,), 8 * 2 * 3 * 4 * 3),
    "dot and mv": (
        Call(lambda a, b: (torch.dot(b, b), torch.mv(a, b))),
        (torch.rand(5, 7), torch.ones(7)),
        14 + 70,
    ),
    "moving data": (
        Call(
            lambda x: (
                x.flatten(1).clone(),
                torch.cat([x, x]),
                x[:, [0, 2]],
                F.pad(x, (1, 1)),
                x.double(),
                x.split(1),
            )
        ),
        (X,),
        0,
    ),
    "factories": (
        Call(lambda x: (torch.zeros(9), torch.arange(9), torch.randn_like(x), x.new_ones(9))),
        (X,),
        0,
    ),
}


@pytest.mark.parametrize("name", HAND)
def test_flops_by_hand(name: str) -> None:
    model, inputs, expected = HAND[name]
    assert flops(model, *inputs) == expected


@pytest.mark.parametrize("contiguous", [True, False])
def test_attention_counts_two_products(contiguous: bool) -> None:
    batch, heads, queries, keys, dim = 2, 3, 10, 7, 8
    q, k, v = (torch.rand(batch, heads, n, dim) for n in (queries, keys, keys))
    expected = 4 * batch * heads * queries * keys * dim
    if not contiguous:  # torch builds the weights: a scaling of q and of k, and a softmax
        q, k, v = (x.mT.contiguous().mT for x in (q, k, v))
        expected += batch * heads * ((queries + keys) * dim + 5 * queries * keys)
    assert flops(Call(F.scaled_dot_product_attention), q, k, v) == expected


@pytest.mark.parametrize("heads", [1, 4])
def test_multi_head_by_formula(heads: int) -> None:
    batch, length, channels = 2, 10, 32
    expected = 2 * batch * length * channels * 3 * channels  # projections
    expected += 4 * batch * length * length * channels  # weights and weighted sum, for all heads together
    expected += 2 * batch * length * channels * channels  # output
    assert (
        flops(sc.create("multi_head", channels, heads=heads), torch.rand(batch, length, channels)) == expected
    )


def test_squeeze_and_excitation_by_hand() -> None:
    batch, channels, height, width, hidden = 2, 32, 8, 6, 4
    values = batch * channels * height * width
    expected = values + values  # the means, the gating
    expected += 2 * (2 * batch * channels * hidden) + batch * hidden + batch * channels  # MLP, ReLU, sigmoid
    assert (
        flops(sc.create("se", channels, reduction=8), torch.rand(batch, channels, height, width)) == expected
    )


def test_fused_transformer_layer_counts_what_its_parts_count() -> None:
    layer, x = (
        nn.TransformerEncoderLayer(16, 2, dim_feedforward=32, dropout=0, batch_first=True),
        torch.rand(2, 5, 16),
    )
    products = 2 * 10 * 16 * (48 + 16 + 32 + 32) + 4 * 2 * 5 * 5 * 16
    assert products <= flops(layer, x) < 1.4 * products
    assert torch.backends.mha.get_fastpath_enabled()


def test_fused_lstm_counts_its_matrices() -> None:
    steps, batch, channels, hidden = 7, 3, 6, 5
    expected = 2 * steps * batch * 4 * hidden * (channels + hidden)
    counted = flops(nn.LSTM(channels, hidden), torch.rand(steps, batch, channels))
    assert expected <= counted < 1.5 * expected


@pytest.mark.parametrize("name", ["se", "cbam", "multi_head"])
def test_flops_grow_with_the_batch(name: str) -> None:
    model, x = sc.create(name, 32), torch.rand(3, 32, 8, 6)
    assert flops(model, x) == 3 * flops(model, x[:1])


class Restless(nn.Module):
    """Changes everything in a forward pass that a measurement must restore."""

    calls: Tensor
    replaced: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.frozen = nn.Sequential(nn.Linear(4, 4), nn.Dropout()).requires_grad_(False).eval()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("replaced", torch.zeros(()))
        self.cache: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.replaced = self.replaced + 1
        torch.rand(4)
        if self.cache is None:
            self.cache = torch.ones(4)
        if self.training or torch.is_grad_enabled():
            raise RuntimeError("a measurement runs in evaluation mode, without gradients")
        return self.frozen(self.norm(self.conv(x)).mean((2, 3)) * self.cache)  # type: ignore[no-any-return]


@pytest.mark.parametrize("measure", [flops, latency, cost])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(measure: Callable[..., object], fails: bool) -> None:
    model = Restless()
    model.norm.eval()
    state = {name: value.clone() for name, value in model.state_dict(keep_vars=False).items()}
    objects = {name: id(value) for name, value in model.state_dict(keep_vars=True).items()}
    flags = [module.training for module in model.modules()]
    gradients = [(p.requires_grad, p.grad) for p in model.parameters()]
    rng = torch.get_rng_state()
    if fails:
        with pytest.raises(RuntimeError, match="expected input"):
            measure(model, torch.zeros(2, 5, 8, 8))
    else:
        measure(model, torch.zeros(2, 3, 8, 8))
    assert torch.equal(rng, torch.get_rng_state())
    assert flags == [module.training for module in model.modules()]
    assert True in flags
    assert False in flags
    assert gradients == [(p.requires_grad, p.grad) for p in model.parameters()]
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert objects == {name: id(value) for name, value in model.state_dict(keep_vars=True).items()}
    assert torch.is_grad_enabled()


def test_a_model_that_caches_can_be_trained_afterwards() -> None:
    model = Restless()
    cost(model, torch.zeros(2, 3, 8, 8), repeats=1)
    assert model.cache is not None
    (model.conv(torch.zeros(2, 3, 8, 8)).mean((2, 3)) * model.cache).sum().backward()
    assert model.conv.weight.grad is not None


def test_the_count_is_the_same_in_inference_mode() -> None:
    model, inputs, expected = HAND["resize"]
    with torch.inference_mode():
        assert flops(model, *inputs) == expected


def test_cost_is_of_one_example_and_of_trainable_numbers_counted_once() -> None:
    shared = nn.Linear(8, 8)
    measured = cost(nn.Sequential(shared, shared), torch.rand(16, 8), repeats=3)
    assert measured == Cost(parameters=72, flops=2 * 2 * 8 * 8, latency_ms=measured.latency_ms)
    assert measured.latency_ms > 0


def test_latency_is_a_median_of_the_repeats_after_warm_up() -> None:
    calls: list[int] = []
    latency(Call(lambda x: calls.append(len(x))), torch.rand(4, 8), repeats=5, warmup=2)
    assert calls == [4] * 7


def test_latency_tells_large_from_small() -> None:
    x = torch.rand(256, 256)
    once, often = Call(lambda x: x @ x), Call(lambda x: [x @ x for _ in range(200)])
    assert latency(often, x, repeats=5) > 5 * latency(once, x, repeats=5)


@pytest.mark.parametrize("bad", [torch.zeros(0, 8), torch.tensor(1.0)])
def test_an_empty_batch_cannot_be_measured(bad: Tensor) -> None:
    with raises(BadShape, owner="cost", option="shape", value=tuple(bad.shape)):
        cost(nn.Linear(8, 4), bad)


@pytest.mark.parametrize("repeats", [0, 1.5, True])
def test_bad_repeats(repeats: Any) -> None:
    with raises(BadOption, owner="latency", option="repeats", value=repeats):
        cost(nn.Linear(8, 4), torch.zeros(1, 8), repeats=repeats)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu() -> None:
    model, x = sc.create("cbam", 32).cuda(), torch.rand(4, 32, 8, 8, device="cuda")
    rng = torch.cuda.get_rng_state()
    measured = cost(model, x)
    assert measured.flops == flops(sc.create("cbam", 32), torch.rand(1, 32, 8, 8))
    assert measured.latency_ms > 0
    assert torch.equal(rng, torch.cuda.get_rng_state())
