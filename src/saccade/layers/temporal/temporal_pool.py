"""Attention pooling over the states of a recurrent network or over frames, Yang et al. 2016."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from saccade.errors import check_choice, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import SpatialMap, Tap


def temporal_pool(states: Tensor, scores: Tensor) -> Tensor:
    """Return the mean of the states, weighted by softmax(scores).

    Args:
        states: States, (B, L, C).
        scores: Scores, (B, L).

    Returns:
        Weighted means, (B, C).
    """
    return torch.einsum("bl,blc->bc", scores.softmax(1), states)


class TemporalPool(nn.Module):
    """Attention pooling over time: the mean of a sequence, weighted by the match with a learned context.

        e_t = u . tanh(W h_t + b)   ("additive")      or      e_t = u . h_t   ("dot_product")
        a = softmax over t of e        y = sum_t a_t h_t

    h_t is a state, t a time step, W and b are `hidden`, u is `context`, e_t the score, a the weights and y
    the output. The recorded map holds the weights a, (B, L).

    References:
        Yang, Yang, Dyer, He, Smola, Hovy: Hierarchical Attention Networks for Document Classification, NAACL
        2016 (equations 5 to 7, and 8 to 10).

    Args:
        channels: Width C of a state.
        score: Score of a state: "additive" or "dot_product".

    Shape:
        - Input: (B, L, C), states of a recurrent network or features of frames.
        - Output: (B, C).

    Raises:
        BadOption: If the score is unknown.
        BadShape: For any other input shape.

    Note:
        The score of the paper is "additive"; "dot_product" omits the hidden layer.

    Example:
        >>> import torch
        >>> states, _ = torch.nn.GRU(16, 32, batch_first=True)(torch.randn(4, 10, 16))
        >>> TemporalPool(32)(states).shape
        torch.Size([4, 32])
    """

    def __init__(self, channels: int, score: Literal["additive", "dot_product"] = "additive") -> None:
        super().__init__()
        check_choice("temporal_pool", "score", score, ("additive", "dot_product"))
        self.channels = channels
        self.hidden = nn.Linear(channels, channels) if score == "additive" else None
        self.context = nn.Linear(channels, 1, bias=False)
        self.tap = Tap()

    def forward(self, states: Tensor) -> Tensor:
        check_shape("temporal_pool", states, "B L C", C=self.channels)
        keys = states if self.hidden is None else torch.tanh(self.hidden(states))
        scores = self.context(keys)[..., 0]
        if self.tap.recording:
            self.tap.publish(SpatialMap(scores.detach().softmax(1)))
        return temporal_pool(states, scores)


SPEC = Spec(
    name="temporal_pool",
    domain="temporal",
    paper=Paper(
        "Hierarchical Attention Networks for Document Classification",
        "Yang, Yang, Dyer, He, Smola, Hovy",
        2016,
        "https://aclanthology.org/N16-1174/",
    ),
    summary="average the time steps of a sequence with learned weights",
    module=TemporalPool,
    function=temporal_pool,
    examples=(
        Example("B L C", output="B C"),
        Example("B L C", {"score": "dot_product"}, output="B C"),
    ),
    maps=(SpatialMap,),
    unit="item",
    flow="states -> [score -> softmax over time | ] -> weighted sum -> y",
)
