"""Attention pooling of CLIP, Radford et al. 2021."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.errors import check_multiple, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import ClassTokenMap, Tap
from saccade.ops.single_query import single_query


def attention_pool(x: Tensor, position: Tensor) -> Tensor:
    """Return the tokens of a map: its mean, then its positions in row-major order, plus their embeddings.

    Args:
        x: Features, (B, C, H, W).
        position: Embeddings of the mean and of the positions, (H W + 1, C).

    Returns:
        Tokens, (B, H W + 1, C).
    """
    places = x.flatten(2).mT
    return torch.cat([places.mean(1, keepdim=True), places], 1) + position


class AttentionPool(nn.Module):
    """Attention pooling: the mean of a map attends to its positions and itself; the result is one vector.

        t_0 = mean_p x_p + e_0        t_p = x_p + e_p
        q = W_q t_0        k_n = W_k t_n        v_n = W_v t_n
        a_hn = softmax_n(q_h . k_hn / sqrt(D))        y = W_o [sum_n a_hn v_hn]_h

    p is a position, n runs over the mean (0) and all positions, e are the embeddings `position`, and h is a
    head of D = C / heads channels. W_q, W_k, W_v and W_o are `query`, `key`, `value` and `proj`, all with
    biases.

    In the recorded map the mean is the class token: the heat map is its row. The other rows are what the same
    projections give for the positions; the result does not depend on them.

    References:
        Radford, Kim, Hallacy, Ramesh, Goh, Agarwal, Sastry, Askell, Mishkin, Clark, Krueger, Sutskever:
        Learning Transferable Visual Models From Natural Language Supervision, ICML 2021 (section 2.4).

    Args:
        channels: Number of channels C, a multiple of `heads`.
        size: Height and width of the map, at least 1: the embeddings belong to fixed positions.
        heads: Number of heads, at least 1.

    Shape:
        - Input: (B, C, size, size).
        - Output: (B, C).

    Raises:
        BadOption: If C is not a multiple of `heads`, or an option is out of range.
        BadShape: For any other input shape.

    Note:
        Deviation: the authors' code can project to another number of outputs; here it is C. Initial weights
        are those of `nn.Linear`; the authors' network draws them from N(0, 1 / C). Keys and values are not
        computed, see `saccade.ops.single_query`.

    Example:
        >>> import torch
        >>> AttentionPool(32, size=5)(torch.randn(2, 32, 5, 5)).shape
        torch.Size([2, 32])
    """

    def __init__(self, channels: int, size: int = 7, heads: int = 8) -> None:
        super().__init__()
        check_positive("attention_pool", size=size)
        check_multiple("attention_pool", channels, heads=heads)
        self.channels, self.size, self.heads = channels, size, heads
        self.position = nn.Parameter(torch.randn(size**2 + 1, channels) / channels**0.5)
        self.key = nn.Linear(channels, channels)
        self.query = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("attention_pool", x, "B C H W", C=self.channels, H=self.size, W=self.size)
        tokens = attention_pool(x, self.position)
        query = self.query(tokens[:, 0])
        if self.tap.recording:
            self._publish(tokens)
        key, value = ((layer.weight, layer.bias) for layer in (self.key, self.value))
        y: Tensor = self.proj(single_query(query, tokens, key, value, self.heads)[0])
        return y

    @torch.no_grad()
    def _publish(self, tokens: Tensor) -> None:
        width = self.channels // self.heads
        q, k = (f(tokens).unflatten(2, (-1, width)).transpose(1, 2) for f in (self.query, self.key))
        (mean_q, q), (mean_k, k) = (x.split([1, self.size**2], dim=2) for x in (q, k))
        grid = (self.size, self.size)
        self.tap.publish(ClassTokenMap(q, k, width**-0.5, grid, grid, mean_q, mean_k))


SPEC = Spec(
    name="attention_pool",
    domain="pooling",
    paper=Paper(
        "Learning Transferable Visual Models From Natural Language Supervision",
        "Radford, Kim, Hallacy, Ramesh, Goh, Agarwal, Sastry, Askell, Mishkin, Clark, Krueger, Sutskever",
        2021,
        "https://arxiv.org/abs/2103.00020",
    ),
    summary="let the mean of a map attend to its positions, and return one vector",
    module=AttentionPool,
    function=attention_pool,
    examples=(
        Example("B C 7 7", output="B C"),
        Example("B C 4 4", {"size": 4, "heads": 4}, output="B C"),
    ),
    maps=(ClassTokenMap,),
    flow="x -> [mean | positions] -> e -> [[W_q of mean | W_k] -> softmax | W_v] -> sum -> W_o -> y",
)
