"""The InfoNCE losses equal their definitions, written as loops, and stay finite in half precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import saccade as sc
from saccade.models import info_nce
from support.errors import raises
from support.parity import assert_close, normal

LABELS = torch.tensor([3, 1, 3, 2, 1, 3, 7])  # 2 and 7 are alone in their class
PAIR_LABELS = torch.tensor([1, 0, 0, 1, 0, 1, 0, 0, 0])


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / ((a * a).sum().sqrt() * (b * b).sum().sqrt())


def share(z: Tensor, i: int, j: int, temperature: float) -> Tensor:
    """-log of the share of j in what i sees."""
    others = [(cosine(z[i], z[k]) / temperature).exp() for k in range(len(z)) if k != i]
    return -((cosine(z[i], z[j]) / temperature).exp() / torch.stack(others).sum()).log()


def loop_nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    z, n = torch.cat([first, second]), len(first)
    total = torch.zeros((), dtype=z.dtype)
    for i in range(n):
        total = total + share(z, i, i + n, temperature) + share(z, i + n, i, temperature)
    return total / (2 * n)


def loop_supervised(z: Tensor, temperature: float) -> Tensor:
    losses = []
    for i in range(len(z)):
        positives = [p for p in range(len(z)) if p != i and LABELS[p] == LABELS[i]]
        if positives:
            losses.append(torch.stack([share(z, i, p, temperature) for p in positives]).mean())
    return torch.stack(losses).mean()


def loop_pairs(scores: Tensor, temperature: float) -> Tensor:
    sums, counts = [torch.zeros((), dtype=scores.dtype)] * 2, [0, 0]
    for score, label in zip(scores, PAIR_LABELS.tolist(), strict=True):
        sums[label] = sums[label] + score
        counts[label] += 1
    negative, positive = ((s / c / temperature).exp() for s, c in zip(sums, counts, strict=True))
    return -(positive / (positive + negative)).log()


FORMS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "nt_xent": (info_nce.nt_xent, loop_nt_xent, (normal(5, 4), normal(5, 4, seed=1))),
    "supervised": (
        lambda z, temperature: info_nce.supervised(z, LABELS, temperature),
        loop_supervised,
        (normal(7, 4),),
    ),
    "pairs": (
        lambda s, temperature: info_nce.pairs(s, PAIR_LABELS, temperature),
        loop_pairs,
        (normal(9),),
    ),
}


@pytest.mark.parametrize("temperature", [0.07, 0.5, 1, 3.0])
@pytest.mark.parametrize("form", FORMS)
def test_equals_the_loop(form: str, temperature: float) -> None:
    ours, loop, inputs = FORMS[form]
    leaves = [x.clone().requires_grad_() for x in inputs]
    got, expected = ours(*leaves, temperature), loop(*leaves, temperature)
    assert_close("the loss", got, expected)
    for ours_, theirs in zip(
        torch.autograd.grad(got, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        assert_close("the gradient", ours_, theirs)


def test_two_views_are_classes_of_two() -> None:
    first, second = normal(5, 4), normal(5, 4, seed=1)
    both, labels = torch.cat([first, second]), torch.arange(5).repeat(2)
    assert_close("loss", info_nce.supervised(both, labels, 0.5), info_nce.nt_xent(first, second, 0.5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("form", FORMS)
def test_logits_of_a_hundred_in_half_precision(form: str, dtype: torch.dtype, autocast: bool) -> None:
    """Cosines of +-1 at a temperature of 0.01, and scores of +-100, right and wrong way round."""
    ours, _, inputs = FORMS[form]
    for sign in (1, -1):
        if form == "pairs":
            half, temperature = [sign * (200.0 * PAIR_LABELS - 100).to(dtype)], 1.0
        else:
            half = [sign**i * 1000 * x.sign().to(dtype) for i, x in enumerate(inputs)]
            temperature = 0.01
        exact = [x.double().requires_grad_() for x in half]
        leaves = [x.requires_grad_() for x in half]
        with torch.autocast("cpu", dtype=dtype, enabled=autocast):
            loss = ours(*leaves, temperature)
        expected = ours(*exact, temperature)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-5)
        wanted = torch.autograd.grad(expected, exact)
        for got, want in zip(torch.autograd.grad(loss, leaves), wanted, strict=True):
            assert got.dtype == dtype
            assert got.isfinite().all()
            torch.testing.assert_close(got.double(), want, rtol=2e-2, atol=2e-3)


def test_a_hopeless_pair_loss_keeps_its_gradient() -> None:
    scores = torch.tensor([-100.0, 100.0], dtype=torch.float16, requires_grad=True)
    loss = info_nce.pairs(scores, torch.tensor([1, 0]))
    loss.backward()
    assert loss.item() == 200
    assert scores.grad is not None
    assert scores.grad.tolist() == [-1, 1]


@pytest.mark.parametrize("form", FORMS)
def test_compiles_into_one_graph_and_runs_on_meta(form: str) -> None:
    ours, _, inputs = FORMS[form]
    torch._dynamo.reset()
    compiled: Any = torch.compile(ours, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs, 0.5), ours(*inputs, 0.5), rtol=1e-12, atol=0)
    torch._dynamo.reset()
    with torch.device("meta"):
        z, labels = torch.empty(4, 3), torch.empty(4, dtype=torch.long)
    calls = {
        "nt_xent": lambda: info_nce.nt_xent(z, z),
        "supervised": lambda: info_nce.supervised(z, labels),
        "pairs": lambda: info_nce.pairs(z[:, 0], labels),
    }
    assert (calls[form]().shape, calls[form]().device.type) == ((), "meta")


@pytest.mark.parametrize("labels", [PAIR_LABELS.bool(), PAIR_LABELS.double(), PAIR_LABELS.int()], ids=str)
def test_pair_labels_of_any_type(labels: Tensor) -> None:
    assert info_nce.pairs(normal(9), labels) == info_nce.pairs(normal(9), PAIR_LABELS)


Z = torch.ones(4, 3)


@pytest.mark.parametrize(
    ("call", "error", "owner", "option", "value"),
    [
        (lambda: info_nce.nt_xent(Z, Z[:3]), sc.BadShape, "nt_xent", "shape", (3, 3)),
        (lambda: info_nce.nt_xent(Z[0], Z[0]), sc.BadShape, "nt_xent", "shape", (3,)),
        (lambda: info_nce.nt_xent(Z[:1], Z[:1]), sc.BadShape, "nt_xent", "shape", (1, 3)),
        (lambda: info_nce.nt_xent(Z[:0], Z[:0]), sc.BadShape, "nt_xent", "shape", (0, 3)),
        (lambda: info_nce.nt_xent(Z, Z, 0), sc.BadOption, "nt_xent", "temperature", 0),
        (lambda: info_nce.pairs(Z[:, 0], Z[:, 0], math.nan), sc.BadOption, "pairs", "temperature", math.nan),
        (lambda: info_nce.supervised(Z, torch.zeros(3).int()), sc.BadShape, "supervised", "shape", (3,)),
        (lambda: info_nce.supervised(Z, torch.zeros(4)), sc.BadData, "supervised", "labels", torch.float32),
        (lambda: info_nce.supervised(Z, torch.arange(4)), sc.BadData, "supervised", "labels", None),
        (lambda: info_nce.supervised(Z, torch.full((4,), 3)), sc.BadData, "supervised", "labels", None),
        (lambda: info_nce.pairs(Z, torch.ones(4)), sc.BadShape, "pairs", "shape", (4, 3)),
        (lambda: info_nce.pairs(Z[:, 0], torch.ones(4, 1)), sc.BadShape, "pairs", "shape", (4, 1)),
        (lambda: info_nce.pairs(Z[:, 0], torch.ones(4)), sc.BadData, "pairs", "labels", None),
        (lambda: info_nce.pairs(Z[:, 0], torch.zeros(4)), sc.BadData, "pairs", "labels", None),
        (lambda: info_nce.pairs(Z[:, 0], torch.arange(4)), sc.BadData, "pairs", "labels", 2),
        (lambda: info_nce.pairs(Z[:, 0], torch.tensor([1.0, 0, 0.5, 0])), sc.BadData, "pairs", "labels", 0.5),
    ],
)  # fmt: skip
def test_mistakes_are_named(
    call: Callable[[], Tensor], error: type[sc.SaccadeError], owner: str, option: str, value: object
) -> None:
    with raises(error, owner=owner, option=option, value=value):
        call()
