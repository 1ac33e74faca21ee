"""The map of attention among frames: its weights are those of a gated convolution."""

from __future__ import annotations

import pytest
import torch

from saccade.maps import TemporalMap
from support.parity import normal


@pytest.mark.parametrize(("frames", "size"), [(5, 3), (4, 5), (1, 3), (2, 7), (3, 1)])
def test_weights_are_those_of_a_gated_convolution(frames: int, size: int) -> None:
    gates, kernels = normal(2, 3, frames), normal(2, 3, size, seed=1)
    expected = torch.zeros(2, 3, frames, frames, dtype=torch.float64)
    for t in range(frames):
        for s in range(frames):
            offset = s - t + size // 2
            if 0 <= offset < size:
                expected[:, :, t, s] = kernels[:, :, offset] * gates[:, :, s]
    clips = normal(2, 3, frames, 4, 2)
    assert torch.equal(TemporalMap.of(gates, kernels, clips).weights(), expected)


def test_saliency_is_the_energy_of_the_gated_frames() -> None:
    gates, clips = normal(2, 3, 5).abs(), normal(2, 3, 5, 4, 2).requires_grad_()
    energy = TemporalMap.of(gates, normal(2, 3, 3), clips).saliency()
    expected = sum(gates[:, c, :, None, None] * clips[:, c].abs() for c in range(3))
    assert not energy.requires_grad
    torch.testing.assert_close(energy, torch.as_tensor(expected).detach())
