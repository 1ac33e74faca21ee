"""The naive forms that the benchmark of attention between positions times compute the same as the package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from support.parity import assert_close

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))

from pairwise import CONTENDERS, Contender


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda contender: contender.name)
def test_both_forms_compute_the_same(contender: Contender) -> None:
    module = contender.build(8).double()
    leaves = [x.double().requires_grad_() for x in contender.inputs(8)]

    def gradients(form: str) -> list[Tensor]:
        with contender.form(form):
            y = module(*leaves)
            return [y, *torch.autograd.grad(y.sin().sum(), [*leaves, *module.parameters()])]

    for ours, naive in zip(gradients("ours"), gradients("naive"), strict=True):
        assert_close("the naive form", naive, ours, floor=1.0)  # that of a bias of keys is 0
