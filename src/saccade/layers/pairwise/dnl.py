"""Disentangled non-local blocks, Yin et al. 2020."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from saccade.errors import check_positive, check_positive_number, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import PairwiseMap, SpatialMap, Tap
from saccade.ops.softmax_attention import softmax_attention


def dnl(
    query: Tensor, key: Tensor, value: Tensor, unary: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the whitened pairwise term and the unary term.

    The mean over positions is subtracted from queries and keys. No N x N weights are built.

    Args:
        query: Queries, (B, N, D).
        key: Keys, (B, N, D).
        value: Values, (B, N, C).
        unary: Logits of the unary term, (B, N).
        temperature: Temperature t: the scale of the pairwise logits is 1 / (t D^0.5).

    Returns:
        Weighted means of the values: one for each query, (B, N, C), and one for all queries, (B, 1, C).
    """
    pairwise = softmax_attention(_whitened(query), _whitened(key), value, _scale(query, temperature))
    return pairwise, unary.softmax(1).unsqueeze(1) @ value


class DNL(nn.Module):
    """Disentangled non-local block: adds a whitened pairwise term and a unary term.

        y_i = x_i + gamma sum_j softmax_j((q_i - mean q) . (k_j - mean k) / (t sqrt(D))) v_j
                  + sum_j softmax_j(m_j) v_j

    q, k (`query`, `key`, with biases), v (`value`, without) and the unary logits m (`unary`, one channel,
    with bias) are 1 x 1 convolutions of x, D is the width of q and k, and t the temperature. i and j are
    positions; the means are over positions. gamma multiplies the pairwise term alone and is initialized with
    0, so that initially y adds the unary term to x, the same vector at every position.

    Recording gives two maps: the pairwise weights, without gamma, and from `unary` the unary weights.

    References:
        Yin, Yao, Cao, Li, Zhang, Lin, Hu: Disentangled Non-Local Neural Networks, ECCV 2020 (equations 11 and
        12).

    Args:
        channels: Number of channels C.
        inner_channels: Width D of queries and keys, at least 1; by default, C // 2.
        temperature: Temperature t of the pairwise softmax, above 0. 0.05 is that of the authors'
            configuration for Cityscapes.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H, W).

    Raises:
        BadOption: If no inner channel is left, or an option is out of range.
        BadShape: For any other input shape.

    Note:
        Deviation: the paper has neither gamma nor the temperature, which are those of the authors' code
        (temp_in). Their variants of whitening, downsampling and an output convolution are left out. As there,
        convolutions are initialized from N(0, 0.01^2) with bias 0. The bias of the keys and, after whitening,
        that of the queries cancel.

    Example:
        >>> import torch
        >>> DNL(32)(torch.randn(2, 32, 7, 5)).shape
        torch.Size([2, 32, 7, 5])
    """

    def __init__(self, channels: int, inner_channels: int | None = None, temperature: float = 0.05) -> None:
        super().__init__()
        inner = channels // 2 if inner_channels is None else inner_channels
        check_positive("dnl", inner_channels=inner)
        check_positive_number("dnl", temperature=temperature)
        self.channels, self.temperature = channels, temperature
        self.query = nn.Conv2d(channels, inner, 1)
        self.key = nn.Conv2d(channels, inner, 1)
        self.value = nn.Conv2d(channels, channels, 1, bias=False)
        self.tap = Tap()
        self.unary = _Unary(channels)
        self.gamma = nn.Parameter(torch.zeros(1))
        for conv in (self.query, self.key, self.value, self.unary):
            nn.init.normal_(conv.weight, std=0.01)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        check_shape("dnl", x, "B C H W", C=self.channels)
        q, k, v = (f(x).flatten(2).mT for f in (self.query, self.key, self.value))
        if self.tap.recording:
            grid, scale = (x.shape[2], x.shape[3]), _scale(q, self.temperature)
            queries, keys = (_whitened(z.detach()).unsqueeze(1) for z in (q, k))
            self.tap.publish(PairwiseMap(queries, keys, scale, grid, grid))
        pairwise, unary = dnl(q, k, v, self.unary(x).flatten(1), self.temperature)
        y = torch.addcmul(unary, self.gamma.to(pairwise.dtype), pairwise)
        return x + y.mT.reshape(x.shape)


class _Unary(nn.Conv2d):
    """The convolution of the unary logits, with a tap for their softmax."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 1, 1)
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        if self.tap.recording:
            self.tap.publish(SpatialMap(logits.detach().flatten(1).softmax(1).unflatten(1, x.shape[2:])))
        return logits


def _whitened(x: Tensor) -> Tensor:
    return x - x.mean(1, keepdim=True)


def _scale(query: Tensor, temperature: float) -> float:
    width: float = query.shape[-1] ** -0.5
    return width / temperature


SPEC = Spec(
    name="dnl",
    domain="pairwise",
    paper=Paper(
        "Disentangled Non-Local Neural Networks",
        "Yin, Yao, Cao, Li, Zhang, Lin, Hu",
        2020,
        "https://arxiv.org/abs/2006.06668",
    ),
    summary="add a non-local mixture by whitened similarity, and one that all positions share",
    module=DNL,
    function=dnl,
    examples=(Example("B C H W"), Example("B C H W", {"inner_channels": 4, "temperature": 0.5})),
    maps=(PairwiseMap, SpatialMap),
    flow="x -> [[[q | k] -> whiten, softmax | v] -> gamma | m -> softmax over v | ] -> add -> y",
)
