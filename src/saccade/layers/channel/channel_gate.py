"""The channel half of CBAM, Woo et al. 2018."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from saccade.errors import BadOption, check_choice, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import ChannelMap, Tap
from saccade.ops.gates import mean, mean_and_maximum, scale

#: Descriptors of a map (B, C, N): avg and max are the paper's, lp and lse are in the authors' code.
POOLS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "avg": mean,
    "max": lambda x: x.max(-1).values,
    "lp": lambda x: x.norm(dim=-1),
    "lse": lambda x: x.logsumexp(-1),
}


def channel_gate(x: Tensor, mlp: nn.Module, pools: Sequence[str] = ("avg", "max")) -> Tensor:
    """Return the channel weights sigma(sum over pools of mlp(pool(x))). x (B, C, ...) -> (B, C)."""
    positions = x.flatten(2)
    both = {"avg", "max"} <= set(pools)
    known = dict(zip(("avg", "max"), mean_and_maximum(positions, 2), strict=True)) if both else {}
    descriptors = torch.stack([known[p] if p in known else POOLS[p](positions) for p in pools])
    return torch.sigmoid(mlp(descriptors).sum(0))


class ChannelGate(nn.Module):
    """CBAM's channel attention module: one shared MLP over the average and the maximum of each channel.

        M_c = sigma(W1 relu(W0 avg(x) + b0) + b1 + W1 relu(W0 max(x) + b0) + b1)        y = M_c x

    Woo, Park, Lee, Kweon: CBAM: Convolutional Block Attention Module, ECCV 2018 (equation 2).
    W0, W1 the layers of `mlp`, r `reduction`; both biases are in the authors' code.

    x (B, C, W), (B, C, H, W) or (B, C, T, H, W) -> the same shape.

    Deviation: none. (The gradient of a maximum goes to one position, as that of the authors' max-pool;
    compiled, positions of equal value share it, see `kernels.gates.mean_and_maximum`.)

    Raises `BadOption` if C < r or a pool is unknown, `BadShape` for any other input.

    >>> import torch
    >>> ChannelGate(32, pools=("avg",))(torch.randn(2, 32, 7, 5)).shape
    torch.Size([2, 32, 7, 5])
    """

    def __init__(self, channels: int, reduction: int = 16, pools: Sequence[str] = ("avg", "max")) -> None:
        super().__init__()
        check_positive("channel_gate", reduction=reduction)
        if channels < reduction:
            raise BadOption(f"channel_gate: channels={channels} must be at least reduction={reduction}")
        if isinstance(pools, str) or not pools:
            raise BadOption(f"channel_gate: pools={pools!r} must be a sequence of names from {list(POOLS)}")
        for pool in pools:
            check_choice("channel_gate", "pools", pool, list(POOLS))
        self.channels, self.pools = channels, tuple(pools)
        hidden = channels // reduction
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("channel_gate", x, "B C ...", C=self.channels)
        gate = channel_gate(x, self.mlp, self.pools)
        if self.tap.recording:
            self.tap.publish(ChannelMap.of(gate, x))
        return scale(x, gate.reshape(*gate.shape, *[1] * (x.ndim - 2)))


SPEC = Spec(
    name="channel_gate",
    domain="channel",
    paper=Paper(
        "CBAM: Convolutional Block Attention Module",
        "Woo, Park, Lee, Kweon",
        2018,
        "https://arxiv.org/abs/1807.06521",
    ),
    summary="gate each channel by one MLP of its average and its maximum",
    module=ChannelGate,
    function=channel_gate,
    examples=(
        Example("B C H W"),
        Example("B C W"),
        Example("B C T H W"),
        Example("B C H W", {"reduction": 4, "pools": ("avg", "max", "lp", "lse")}),
    ),
    maps=(ChannelMap,),
    flow="x -> [[mean over positions | maximum] -> shared MLP -> sum, sigmoid | ] -> multiply -> y",
)
