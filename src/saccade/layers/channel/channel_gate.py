"""The channel attention module of CBAM, Woo et al. 2018."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from saccade.errors import bad_option, check_choice, check_shape
from saccade.layers.papers import CBAM_PAPER
from saccade.layers.spec import Example, Spec
from saccade.layers.widths import hidden_width
from saccade.maps import ChannelMap, Tap
from saccade.ops.gates import gate_by_pools, gate_channels, mean, mean_and_maximum

#: Pooling functions (B, C, N) -> (B, C): avg and max are in the paper, lp and lse in the authors' code, and
#: avgmax, the average of mean and maximum, in timm's light form.
POOLS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "avg": mean,
    "max": lambda x: x.max(-1).values,
    "lp": lambda x: x.norm(dim=-1),
    "lse": lambda x: x.logsumexp(-1),
    "avgmax": lambda x: torch.stack(mean_and_maximum(x, 2)).mean(0),
}


def channel_gate(x: Tensor, mlp: nn.Module, pools: Sequence[str] = ("avg", "max")) -> Tensor:
    """Return the channel weights sigma(sum over pools of mlp(pool(x))).

    Args:
        x: Features, (B, C, ...).
        mlp: Module from (..., C) to (..., C), shared by all pools.
        pools: Names of pooling functions in `POOLS`.

    Returns:
        Weights, (B, C).
    """
    positions = x.flatten(2)
    both = {"avg", "max"} <= set(pools)
    shared = dict(zip(("avg", "max"), mean_and_maximum(positions, 2), strict=True)) if both else {}
    descriptors = torch.stack([shared[p] if p in shared else POOLS[p](positions) for p in pools])
    return _weights(descriptors, mlp)


def _weights(descriptors: Tensor, mlp: nn.Module) -> Tensor:
    """Return the channel weights from the pools, (number, B, C)."""
    return torch.sigmoid(mlp(descriptors).sum(0))


class ChannelGate(nn.Module):
    """CBAM's channel attention module: one shared MLP of the mean and the maximum of each channel.

        M_c = sigma(W1 relu(W0 avg(x) + b0) + b1 + W1 relu(W0 max(x) + b0) + b1)        y = M_c x

    W0, b0, W1 and b1 are the layers of `mlp`, avg and max the mean and the maximum over positions, sigma the
    logistic function and M_c the gate. Both biases are in the authors' code.

    References:
        Woo, Park, Lee, Kweon: CBAM: Convolutional Block Attention Module, ECCV 2018 (equation 2).

    Args:
        channels: Number of channels C.
        reduction: Reduction ratio r, from 1 to C. The hidden layer has C // r units.
        pools: Pooling functions: "avg" and "max" are those of the paper; "lp" (L2 norm) and "lse"
            (log-sum-exp) are in the authors' code; "avgmax" is the average of mean and maximum.
        bias: Whether both layers have biases.
        hidden: Width of the hidden layer in place of C // r.

    Shape:
        - Input: (B, C, W), (B, C, H, W) or (B, C, T, H, W).
        - Output: same shape as the input.

    Raises:
        BadOption: If C < r, or a pooling function is unknown.
        BadShape: For any other input shape.

    Note:
        The gradient of a maximum flows to one position, as in the max-pooling of the authors. Under
        compilation, positions of equal value share it; see `saccade.ops.gates.mean_and_maximum`.

    Example:
        >>> import torch
        >>> ChannelGate(32, pools=("avg",))(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        pools: Sequence[str] = ("avg", "max"),
        bias: bool = True,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        width = hidden_width("channel_gate", channels, reduction, hidden)
        if isinstance(pools, str) or not pools or len({*pools}) < len(pools):
            raise bad_option("channel_gate", f"must be different names from {list(POOLS)}", pools=pools)
        for pool in pools:
            check_choice("channel_gate", "pools", pool, list(POOLS))
        self.channels, self.pools = channels, tuple(pools)
        self.mlp = nn.Sequential(
            nn.Linear(channels, width, bias=bias), nn.ReLU(), nn.Linear(width, channels, bias=bias)
        )
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("channel_gate", x, "B C ...", C=self.channels)
        if self.has_paper_pools:
            return gate_by_pools(x, channel=partial(self.weigh, x))
        return gate_channels(x, channel_gate(x, self.mlp, self.pools), self.tap)

    @property
    def has_paper_pools(self) -> bool:
        """Whether the pooling functions are those of the paper, in any order."""
        return {*self.pools} == {"avg", "max"}

    def weigh(self, x: Tensor, average: Tensor, maximum: Tensor) -> Tensor:
        """Return the weights from mean and maximum of x, (B, C) each. The tap publishes them."""
        gate = _weights(torch.stack([average, maximum]), self.mlp)
        if self.tap.recording:
            self.tap.publish(ChannelMap.of(gate, x))
        return gate


SPEC = Spec(
    name="channel_gate",
    domain="channel",
    paper=CBAM_PAPER,
    summary="gate each channel by a shared MLP of the channel means and maxima",
    module=ChannelGate,
    function=channel_gate,
    examples=(
        Example("B C H W"),
        Example("B C W"),
        Example("B C T H W"),
        Example("B C H W", {"hidden": 6, "bias": False, "pools": ("avgmax", "lp", "lse")}),
    ),
    maps=(ChannelMap,),
    flow="x -> [[mean over positions | maximum] -> shared MLP -> sum, sigmoid | ] -> multiply -> y",
)
