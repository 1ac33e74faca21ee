"""Class attention, Touvron et al. 2021."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.errors import check_multiple, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import PairwiseMap, Tap
from saccade.ops.single_query import single_query


def class_attention(query: Tensor, tokens: Tensor, key: nn.Linear, value: nn.Linear, heads: int) -> Tensor:
    """Return the multi-head attention of one query per image to all tokens.

    Args:
        query: Projected query, (B, C).
        tokens: Tokens, (B, N, C).
        key: Projection of the tokens to keys, C to C.
        value: Projection of the tokens to values, C to C.
        heads: Number of heads, a divisor of C.

    Returns:
        Weighted means of the values, (B, C), concatenated over heads.
    """
    return single_query(query, tokens, (key.weight, key.bias), (value.weight, value.bias), heads)[0]


class ClassAttention(nn.Module):
    """Class attention: the class token alone gathers information from all tokens and itself.

        q = W_q x_0        k_n = W_k x_n        v_n = W_v x_n
        a_hn = softmax_n(q_h . k_hn / sqrt(D))        y = W_o [sum_n a_hn v_hn]_h + b

    x_0 is the class token and x_n are all tokens, x_0 included; h is a head of D = C / heads channels. W_q,
    W_k, W_v are `query`, `key`, `value`; W_o and b are `proj`. The result is the update of the class token:
    the residual connection belongs to the network.

    The recorded map has one query, the class token, and all tokens as keys, the class token first.

    References:
        Touvron, Cord, Sablayrolles, Synnaeve, Jegou: Going deeper with Image Transformers, ICCV 2021
        (equations 3 to 6).

    Args:
        channels: Width C of a token, a multiple of `heads`.
        heads: Number of heads, at least 1.
        qkv_bias: Whether the projections to q, k and v have biases.

    Shape:
        - Input: (B, N, C), N tokens, the class token first.
        - Output: (B, 1, C).

    Raises:
        BadOption: If C is not a multiple of `heads`, or an option is out of range.
        BadShape: For any other input shape.

    Note:
        Deviation: none from the authors' code, whose dropout has a rate of 0 by default and is left out here.
        Initial weights are those of `nn.Linear`; the authors' network sets its own. Keys and values are not
        computed, see `saccade.ops.single_query`: time grows with N C heads, not N C^2.

    Example:
        >>> import torch
        >>> ClassAttention(32)(torch.randn(2, 10, 32)).shape
        torch.Size([2, 1, 32])
    """

    def __init__(self, channels: int, heads: int = 8, qkv_bias: bool = False) -> None:
        super().__init__()
        check_multiple("class_attention", channels, heads=heads)
        self.channels, self.heads = channels, heads
        self.query = nn.Linear(channels, channels, bias=qkv_bias)
        self.key = nn.Linear(channels, channels, bias=qkv_bias)
        self.value = nn.Linear(channels, channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)
        self.tap = Tap()

    def forward(self, tokens: Tensor) -> Tensor:
        check_shape("class_attention", tokens, "B L C", C=self.channels)
        query = self.query(tokens[:, 0])
        if self.tap.recording:
            self._publish(query, tokens)
        y: Tensor = self.proj(class_attention(query, tokens, self.key, self.value, self.heads))
        return y.unsqueeze(1)

    @torch.no_grad()
    def _publish(self, query: Tensor, tokens: Tensor) -> None:
        split = (self.heads, self.channels // self.heads)
        queries, keys = (x.unflatten(-1, split).transpose(1, 2) for x in (query[:, None], self.key(tokens)))
        self.tap.publish(PairwiseMap(queries.detach(), keys, split[1] ** -0.5, (1,), (tokens.shape[1],)))


SPEC = Spec(
    name="class_attention",
    domain="pooling",
    paper=Paper(
        "Going deeper with Image Transformers",
        "Touvron, Cord, Sablayrolles, Synnaeve, Jegou",
        2021,
        "https://arxiv.org/abs/2103.17239",
    ),
    summary="let the class token alone attend to all tokens",
    module=ClassAttention,
    function=class_attention,
    examples=(
        Example("B L C", output="B 1 C"),
        Example("B L C", {"heads": 4, "qkv_bias": True}, output="B 1 C"),
    ),
    maps=(PairwiseMap,),
    unit="item",
    flow="tokens -> [[class token -> W_q | W_k] -> softmax | W_v] -> sum -> W_o -> y",
)
