"""Gated attention pooling of multiple-instance learning, Ilse et al. 2018."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.errors import check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import SpatialMap, Tap


def gated_pool(instances: Tensor, scores: Tensor) -> Tensor:
    """Return the means of the instances of each bag, weighted by the softmax of each branch over the bag.

    Args:
        instances: Instances, (B, K, C).
        scores: Scores of the branches, (B, K, branches).

    Returns:
        Weighted means, (B, branches, C).
    """
    return scores.softmax(1).mT @ instances


class GatedPool(nn.Module):
    """Gated attention pooling: the mean of the instances of a bag, weighted by learned scores.

        s_k = w (tanh(V h_k + b_V) * sigma(U h_k + b_U)) + b        a = softmax_k(s)        z = sum_k a_k h_k

    h_k is instance k of a bag, V and b_V are `hidden`, U and b_U are `gate`, w and b are `score`, sigma is
    the logistic function and * the elementwise product. Without the gate, s_k = w tanh(V h_k + b_V) + b.
    Every branch has its own row of w, its own softmax over the instances and its own z. The result does not
    depend on the order of the instances.

    The recorded map holds the weights a, (B, K), averaged over branches.

    References:
        Ilse, Tomczak, Welling: Attention-based Deep Multiple Instance Learning, ICML 2018 (equations 7 to 9).

    Args:
        channels: Width C of an instance.
        hidden: Number of hidden units of the scores, at least 1.
        gated: Whether tanh is multiplied by the gate.
        branches: Number of weighted means of a bag, at least 1.

    Shape:
        - Input: (B, K, C), B bags of K instances.
        - Output: (B, C); with more than one branch, (B, branches, C).

    Raises:
        BadOption: If an option is below 1.
        BadShape: For any other input shape.

    Note:
        Deviation: the script of the authors runs the form without gate by default. The paper has no biases;
        those of the authors' code are kept, and b cancels in the softmax.

    Example:
        >>> import torch
        >>> GatedPool(32)(torch.randn(4, 10, 32)).shape
        torch.Size([4, 32])
        >>> GatedPool(32, branches=3)(torch.randn(4, 10, 32)).shape
        torch.Size([4, 3, 32])
    """

    def __init__(self, channels: int, hidden: int = 128, gated: bool = True, branches: int = 1) -> None:
        super().__init__()
        check_positive("gated_pool", hidden=hidden, branches=branches)
        self.channels, self.branches = channels, branches
        self.hidden = nn.Linear(channels, hidden)
        self.gate = nn.Linear(channels, hidden) if gated else None
        self.score = nn.Linear(hidden, branches)
        self.tap = Tap()

    def forward(self, instances: Tensor) -> Tensor:
        check_shape("gated_pool", instances, "B K C", C=self.channels)
        features = torch.tanh(self.hidden(instances))
        if self.gate is not None:
            features = features * torch.sigmoid(self.gate(instances))
        scores = self.score(features)
        if self.tap.recording:
            self.tap.publish(SpatialMap(scores.detach().softmax(1).mean(2)))
        pooled = gated_pool(instances, scores)
        return pooled.squeeze(1) if self.branches == 1 else pooled


SPEC = Spec(
    name="gated_pool",
    domain="pooling",
    paper=Paper(
        "Attention-based Deep Multiple Instance Learning",
        "Ilse, Tomczak, Welling",
        2018,
        "https://arxiv.org/abs/1802.04712",
    ),
    summary="average the instances of a bag with learned, gated weights",
    module=GatedPool,
    function=gated_pool,
    examples=(
        Example("B K C", output="B C"),
        Example("B K C", {"gated": False, "hidden": 16}, output="B C"),
        Example("B K C", {"branches": 3}, output="B 3 C"),
    ),
    maps=(SpatialMap,),
    unit="item",
    flow="instances -> [[V -> tanh | U -> sigmoid] -> multiply -> softmax | ] -> weighted sum -> z",
)
