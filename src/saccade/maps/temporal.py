"""Maps of attention among the frames of a clip, channel by channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade.maps.base import AttentionMap


@dataclass(frozen=True, eq=False)
class TemporalMap(AttentionMap):
    """Weights of frames in two factors: a gate of each frame, and a kernel over neighboring frames.

        A_cts = k_c,s-t g_cs        the weight of frame s in frame t of the result, for channel c

    The heat map is the energy sum_c g_cs |x_csp| of the features x that the gates weight. `TemporalMap.of`
    computes it.

    Args:
        gates: Gates g of each channel and frame, (B, C, T).
        kernels: Kernels k of each channel over K neighboring frames, K odd, (B, C, K).
        energy: Energy at each position of each frame, (B, T, H, W).

    Example:
        >>> import torch
        >>> gates, kernels, clips = torch.rand(2, 8, 5), torch.rand(2, 8, 3), torch.randn(2, 8, 5, 6, 4)
        >>> frames = TemporalMap.of(gates, kernels, clips)
        >>> frames.heatmap().shape, frames.weights().shape
        (torch.Size([2, 5, 6, 4]), torch.Size([2, 8, 5, 5]))
    """

    gates: Tensor
    kernels: Tensor
    energy: Tensor
    kind = "temporal"

    @classmethod
    def of(cls, gates: Tensor, kernels: Tensor, features: Tensor) -> TemporalMap:
        """Build the map from gates (B, C, T), kernels (B, C, K) and the features (B, C, T, H, W)."""
        gates, kernels = gates.detach(), kernels.detach()
        energy = torch.einsum("bct,bcthw->bthw", gates, features.detach().abs())
        return cls(gates, kernels, energy)

    def weights(self) -> Tensor:
        """Return the weight of each frame in each frame of the result, (B, C, T, T)."""
        return temporal_weights(self.gates, self.kernels)

    def saliency(self) -> Tensor:
        return self.energy


def temporal_weights(gates: Tensor, kernels: Tensor) -> Tensor:
    """Return the matrices A_ts = k_s-t g_s of a gated convolution over frames with zero padding.

    Args:
        gates: Gates g of frames, (..., T).
        kernels: Kernels k over K neighboring frames, K odd, (..., K).

    Returns:
        Weights of frames s in frames t, (..., T, T).

    Example:
        >>> import torch
        >>> temporal_weights(torch.tensor([1, 10, 100]), torch.tensor([2, 3, 4])).tolist()
        [[3, 40, 0], [2, 30, 400], [0, 20, 300]]
    """
    frames = gates.shape[-1]
    beyond = frames - 1 - kernels.shape[-1] // 2  # negative for a kernel that is longer than the clip
    offsets = F.pad(kernels, (beyond, beyond))
    frame = torch.arange(frames, device=kernels.device)
    return offsets[..., frame - frame.unsqueeze(1) + frames - 1] * gates.unsqueeze(-2)
