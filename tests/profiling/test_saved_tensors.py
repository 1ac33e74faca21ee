"""The memory of a training step, against counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from saccade.profiling import training_memory


def test_saved_tensors_are_counted_once_and_weights_twice() -> None:
    model = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Sigmoid(), nn.Linear(16, 4))
    x = torch.randn(10, 8)
    weights = 8 * 16 + 16 * 4 + 4
    saved = 10 * 8 + 10 * 16  # the input, and the output of the sigmoid, which the second layer saves, too
    assert training_memory(model, x) == 4 * (2 * weights + saved)


def test_buffers_count_once_and_half_precision_half() -> None:
    model = nn.Linear(4, 4, bias=False)
    model.register_buffer("table", torch.zeros(100))
    x = torch.randn(2, 4)
    assert training_memory(model, x) == 4 * (2 * 16 + 100 + 8)
    assert training_memory(nn.Linear(4, 4, bias=False).half(), x.half()) == 2 * (2 * 16 + 8)


def test_memory_grows_with_the_batch_and_needs_no_memory_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU())
        small, large = (training_memory(model, torch.zeros(batch, 3, 512, 512)) for batch in (1, 1000))
    weights = 4 * (2 * (3 * 64 * 9 + 64 + 128) + 128) + 8
    assert (large - weights) / (small - weights) == pytest.approx(1000, rel=0.01)


def test_the_model_is_not_changed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(2, 3, 8, 8)
    state = torch.get_rng_state()
    training_memory(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_recomputation_saves_memory() -> None:
    class Recomputed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = checkpoint(lambda y: F.gelu(F.gelu(y)), x, use_reentrant=False)
            return result

    x = torch.randn(1000, requires_grad=True)
    plain = training_memory(nn.Sequential(nn.GELU(), nn.GELU()), x)
    assert training_memory(Recomputed(), x) < plain
