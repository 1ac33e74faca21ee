"""`flex_attention`, plain and compiled, with functions that change the scores and hide some of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import saccade as sc
from saccade.maps import PairwiseMap
from saccade.recording import flex_attention as ours
from support.compiler import needs_compiler

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

COUNT, WIDTH, HEADS = 20, 16, 2  # tokens of a grid of 4 x 5
SLOPES = torch.tensor([0.1, 0.7])
TABLE = torch.randn(HEADS, COUNT, COUNT, generator=torch.Generator().manual_seed(0))
CAUSAL = torch.ones(COUNT, COUNT, dtype=torch.bool).tril()
FORMS = ("plain", "additive", "other", "table", "causal", "all", "grouped")


@pytest.fixture(autouse=True)
def _compile_anew() -> None:
    """The compiler gives up on a function that it has compiled eight times."""
    torch.compiler.reset()


def bias_of_distance(score: Tensor, _b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return score + SLOPES[h] * (j - i)


def soft_cap(score: Tensor, *_: Tensor) -> Tensor:
    return 2 * torch.tanh(score / 2)


def from_table(score: Tensor, _b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return score + TABLE[h][i][j]


def soft_cap_from_table(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return soft_cap(from_table(score, b, h, i, j))


def is_before(_b: Tensor, _h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return i >= j


DISTANCE = torch.arange(COUNT) - torch.arange(COUNT)[:, None]
#: What each form changes the scores to.
CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "additive": lambda s: s + SLOPES[:, None, None] * DISTANCE,
    "other": lambda s: 2 * torch.tanh(s / 2),
    "table": lambda s: s + TABLE,
    "causal": lambda s: s.masked_fill(~CAUSAL, -torch.inf),
    "all": lambda s: (2 * torch.tanh((s + TABLE) / 2)).masked_fill(~CAUSAL, -torch.inf),
}
SCORE_MODS = {
    "additive": bias_of_distance,
    "other": soft_cap,
    "table": from_table,
    "all": soft_cap_from_table,
}


class Flex(nn.Module):
    """Self-attention in one call, plain or compiled; it keeps the weights of the formula."""

    def __init__(self, form: str, function: Callable[..., Any] = flex_attention) -> None:
        super().__init__()
        self.form, self.function = form, function
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.weights = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        options: dict[str, Any] = {}
        if self.form in SCORE_MODS:
            options["score_mod"] = SCORE_MODS[self.form]
        if self.form in ("causal", "all"):
            options["block_mask"] = create_block_mask(is_before, None, None, COUNT, COUNT, device="cpu")
        if self.form == "grouped":
            k, v = k[:, :1], v[:, :1]
            options |= {"enable_gqa": True, "scale": 0.7}
        scores = q @ k.mT * options.get("scale", q.shape[-1] ** -0.5)
        change = CHANGES.get(self.form)
        self.weights = (scores if change is None else change(scores)).softmax(-1)
        mixed: Tensor = self.function(q, k, v, **options)
        return mixed.transpose(1, 2).flatten(2)


def check(model: nn.Module, layer: Flex, path: str) -> None:
    x = torch.randn(3, COUNT, WIDTH)
    with torch.no_grad():  # it has no backward pass on a CPU
        plain = model(x)
        for _ in range(2):
            with sc.record(model) as maps:
                assert torch.equal(model(x), plain)
            assert maps.unseen == ()
            attention = maps[path]
            assert isinstance(attention, PairwiseMap)
            torch.testing.assert_close(attention.tokens().weights(), layer.weights, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_the_weights_are_those_of_the_formula(form: str) -> None:
    layer = Flex(form)
    check(nn.Sequential(nn.Linear(WIDTH, WIDTH), layer, nn.Linear(WIDTH, WIDTH)), layer, "1")


@pytest.mark.parametrize("form", FORMS)
def test_compiled_code_is_seen(form: str) -> None:
    """The last operation of the model, and one that is followed by a module."""
    layer = Flex(form, torch.compile(flex_attention, backend="aot_eager", fullgraph=True))
    check(nn.Sequential(layer, nn.GELU()), layer, "0")
    check(layer, layer, "")


@needs_compiler
def test_code_of_inductor_is_seen() -> None:
    layer = Flex("additive", torch.compile(flex_attention))  # its code for tables writes out of bounds
    check(nn.Sequential(layer, nn.Linear(WIDTH, WIDTH)), layer, "0")


class Whole(nn.Module):
    """A compiled function around the attention, with functions that close over its own tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.mix = torch.compile(self.attend, backend="aot_eager", fullgraph=True)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(len(x), COUNT, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        slopes = SLOPES * x.mean()

        def score_mod(score: Tensor, _b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return score + slopes[h] * (j - i)

        mixed: Tensor = flex_attention(q, k, v, score_mod)
        return mixed.transpose(1, 2).flatten(2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.mix(x)
        return y


def test_a_function_that_closes_over_tensors_of_compiled_code() -> None:
    model, x = Whole(), torch.randn(2, COUNT, WIDTH)
    with torch.no_grad():
        plain = model(x)
        with sc.record(model) as maps:
            assert torch.equal(model(x), plain)
        q, k, _ = model.qkv(x).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
    scores = q @ k.mT * q.shape[-1] ** -0.5 + (SLOPES * x.mean())[:, None, None] * DISTANCE
    attention = maps[""]
    assert isinstance(attention, PairwiseMap)
    torch.testing.assert_close(attention.tokens().weights(), scores.softmax(-1), atol=1e-5, rtol=1e-4)


def test_two_calls_in_one_compiled_function_are_both_seen() -> None:
    def twice(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        first: Tensor = flex_attention(q, k, v)
        second: Tensor = flex_attention(k, q, first)
        return second

    layer = Flex("plain", torch.compile(twice, backend="aot_eager", fullgraph=True))
    x = torch.randn(2, COUNT, WIDTH)
    with torch.no_grad():
        plain = layer(x)
        for _ in range(2):
            with sc.record(layer) as maps:
                assert torch.equal(layer(x), plain)
            assert [*maps] == ["", "#2"]
        q, k, _ = layer.qkv(x).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
    second = maps["#2"]
    assert isinstance(second, PairwiseMap)
    expected = (k @ q.mT * q.shape[-1] ** -0.5).softmax(-1)
    torch.testing.assert_close(second.tokens().weights(), expected, atol=1e-5, rtol=1e-4)


def test_without_functions_nothing_of_the_size_of_the_scores_is_kept() -> None:
    model = Flex("plain")
    with torch.no_grad(), sc.record(model) as maps:
        model(torch.randn(1, COUNT, WIDTH))
    assert type(maps[""]) is PairwiseMap  # the factors alone


def test_scores_that_are_too_large_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "_MOST_SCORES", COUNT * COUNT - 1)
    model = nn.Sequential(Flex("plain"), Flex("causal"))
    x = torch.randn(1, COUNT, WIDTH)
    with (
        torch.no_grad(),
        pytest.warns(UserWarning, match="1 attention layers of Sequential"),
        sc.record(model) as maps,
    ):
        model(x)
    assert [*maps] == ["0"]
    assert maps.unseen == ("1",)


class Other(nn.Module):
    """Another attention in compiled code, in a class whose name does not say so."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.mix = torch.compile(F.scaled_dot_product_attention, backend="aot_eager")

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        y: Tensor = self.mix(x, x, x)
        return y


def test_other_attention_of_compiled_code_is_named() -> None:
    model = nn.Sequential(Flex("plain"), Other())
    x = torch.randn(1, COUNT, WIDTH)
    with torch.no_grad():
        plain = model(x)
        for _ in range(2):
            with pytest.warns(UserWarning, match="1 attention layers"), sc.record(model) as maps:
                assert torch.equal(model(x), plain)
            assert [*maps] == ["0"]
            assert maps.unseen == ("1",)


def broken(x: Tensor) -> Tensor:
    """A function that the compiler cannot take as a whole: the rest runs as it is, between its parts."""
    torch._dynamo.graph_break()
    weights = (x @ x.mT).softmax(-1)
    torch._dynamo.graph_break()
    return weights @ x if weights.dim() == 3 and x.shape[-1] == WIDTH else x


class Breaks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.mix = nn.Linear(WIDTH, WIDTH), torch.compile(broken, backend="aot_eager")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.mix(self.linear(x))
        return y


def test_what_the_compiler_leaves_out_computes_the_same() -> None:
    model, x = nn.Sequential(Flex("plain"), Breaks()), torch.randn(1, COUNT, WIDTH)
    with torch.no_grad():
        plain = model(x)
        for _ in range(3):
            with sc.record(model):
                assert torch.equal(model(x), plain)


def outcome(model: nn.Module, x: Tensor) -> tuple[str, str]:
    try:
        model(x)
    except (NotImplementedError, ValueError) as error:
        return type(error).__name__, str(error)
    return "", ""


@pytest.mark.parametrize("function", [flex_attention, torch.compile(flex_attention, backend="aot_eager")])
def test_an_error_of_torch_stays_as_it_is(function: Callable[..., Any]) -> None:
    """Some releases of torch refuse gradients on a CPU."""
    model, x = Flex("plain", function), torch.randn(1, COUNT, WIDTH)
    plain = outcome(model, x)
    with sc.record(model):
        recorded = outcome(model, x)
        with torch.no_grad():
            model(x)
    assert recorded == plain
