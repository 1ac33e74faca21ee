"""The self-attention of SAGAN, Zhang et al. 2019."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import bad_shape, check_reduction, check_shape
from saccade.layers.dims import AXES, CONV, MAX_POOL, Dims, check_dims
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import PairwiseMap, Tap
from saccade.ops.softmax_attention import softmax_attention

_CONVOLVE = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}  # by the number of axes of the weight


def self_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return at each position of the query map the mean of the values, weighted by softmax(q^T k).

    The softmax runs over all positions of the keys.

    Args:
        query: Queries q, (B, D, ...).
        key: Keys k, (B, D, S...).
        value: Values, (B, E, S...).

    Returns:
        Weighted means of the values, (B, E, ...), at the positions of the queries.

    Example:
        >>> import torch
        >>> self_attention(torch.randn(2, 4, 6, 5), torch.randn(2, 4, 3, 2), torch.randn(2, 16, 3, 2)).shape
        torch.Size([2, 16, 6, 5])
    """
    q, k, v = (x.flatten(2).mT.contiguous() for x in (query, key, value))
    return softmax_attention(q, k, v, scale=1.0).mT.reshape(*value.shape[:2], *query.shape[2:])


class _SpectralConv(nn.Module):
    """A 1 x 1 convolution whose weight is divided by its largest singular value, u^T W v.

    One power iteration per training pass, as in Miyato et al. 2018, updates the buffers `u` and `v`; no
    gradient flows through them. The spectral norm parametrization of torch is equivalent, but cannot be
    pickled.
    """

    u: Tensor
    v: Tensor

    def __init__(self, dims: Dims, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        initial = CONV[dims](inputs, outputs, 1, bias=bias)
        self.in_channels, self.out_channels = inputs, outputs
        self.weight, self.bias = initial.weight, initial.bias
        self.register_buffer("u", F.normalize(torch.randn(outputs), dim=0))
        self.register_buffer("v", F.normalize(torch.randn(inputs), dim=0))
        for _ in range(15):
            self._iterate()

    @torch.no_grad()
    def _iterate(self) -> None:
        matrix = self.weight.flatten(1)
        self.v.copy_(F.normalize(matrix.T @ self.u, dim=0))
        self.u.copy_(F.normalize(matrix @ self.v, dim=0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self._iterate()
        # The next pass may overwrite the buffers before the backward pass of this one: clone them.
        norm = (self.u.clone()[:, None] * self.weight.flatten(1) * self.v.clone()).sum()
        return _CONVOLVE[self.weight.ndim](x, self.weight / norm, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, bias={self.bias is not None}"


class SelfAttention(nn.Module):
    """SAGAN's self-attention: adds to each position a mixture of all positions, with a learned factor.

        beta_ji = softmax_i(q(x_j)^T k(x_i))        y_j = gamma W_o(sum_i beta_ji v(x_i)) + x_j

    i and j are positions, beta are the weights, and y is the output. q is `query` (f in the paper), k is
    `key` (g), v is `value` (h) and W_o is `output` (v), all 1 x 1 convolutions; gamma is `gamma`. The
    products are not scaled. gamma is initialized with 0, so that initially y = x exactly.

    References:
        Zhang, Goodfellow, Metaxas, Odena: Self-Attention Generative Adversarial Networks, ICML 2019
        (equations 1 to 3).

        Miyato, Kataoka, Koyama, Yoshida: Spectral Normalization for Generative Adversarial Networks, ICLR
        2018.

    Args:
        channels: Number of channels C.
        reduction: q and k have C // reduction channels; from 1 to C.
        value_reduction: v has C // value_reduction channels; from 1 to C. W_o exists for values of 2 and
            above.
        spectral_norm: Whether to divide each weight by its largest singular value (one power iteration per
            pass).
        sub_sample: Whether to max-pool k and v by 2 along each axis, which leaves a quarter of the keys of an
            image. An odd last row is dropped.
        bias: Whether the convolutions have biases.
        dims: Number of spatial axes of the input: 1, 2 or 3.

    Shape:
        - Input: (B, C, W), (B, C, H, W) or (B, C, T, H, W), according to `dims`.
        - Output: same shape as the input.

    Raises:
        BadOption: If a reduction leaves no channel, or is below 1.
        BadShape: For any other input shape, and with `sub_sample` for fewer than 2 positions along an axis.

    Note:
        There is no W_o if v keeps all C channels: the two would form a single linear map. The authors'
        TensorFlow code corresponds to `value_reduction=2, spectral_norm=True, sub_sample=True, bias=False`.
        The paper has images, `dims=2`.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 32, 7, 5)
        >>> torch.equal(SelfAttention(32)(x), x)
        True
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 8,
        value_reduction: int = 1,
        spectral_norm: bool = False,
        sub_sample: bool = False,
        bias: bool = True,
        dims: Dims = 2,
    ) -> None:
        super().__init__()
        check_reduction("self_attention", channels, reduction=reduction, value_reduction=value_reduction)
        check_dims("self_attention", dims)

        def conv(inputs: int, outputs: int) -> nn.Module:
            if spectral_norm:
                return _SpectralConv(dims, inputs, outputs, bias)
            return CONV[dims](inputs, outputs, 1, bias=bias)

        self.channels, self.dims = channels, dims
        self.query = conv(channels, channels // reduction)
        self.key = conv(channels, channels // reduction)
        self.value = conv(channels, channels // value_reduction)
        has_output = value_reduction > 1
        self.output = conv(channels // value_reduction, channels) if has_output else nn.Identity()
        self.pool = MAX_POOL[dims](2) if sub_sample else nn.Identity()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("self_attention", x, AXES[self.dims], C=self.channels)
        if not isinstance(self.pool, nn.Identity) and min(x.shape[2:]) < 2:
            raise bad_shape("self_attention", "sub-sampling by 2 needs at least 2 positions on each axis", x)
        q, k, v = self.query(x), self.pool(self.key(x)), self.pool(self.value(x))
        if self.tap.recording:
            queries, keys = (z.detach().flatten(2).mT.unsqueeze(1) for z in (q, k))
            self.tap.publish(PairwiseMap(queries, keys, 1.0, tuple(q.shape[2:]), tuple(k.shape[2:])))
        y: Tensor = self.output(self_attention(q, k, v))
        return x + self.gamma * y


SPEC = Spec(
    name="self_attention",
    domain="pairwise",
    paper=Paper(
        "Self-Attention Generative Adversarial Networks",
        "Zhang, Goodfellow, Metaxas, Odena",
        2019,
        "https://arxiv.org/abs/1805.08318",
    ),
    summary="add to each position a mixture of all positions, with a factor initialized with 0",
    module=SelfAttention,
    function=self_attention,
    examples=(
        Example("B C H W"),
        Example("B C H W", {"reduction": 4, "value_reduction": 3, "bias": False}),
        Example("B C H W", {"value_reduction": 2, "spectral_norm": True, "sub_sample": True, "bias": False}),
        Example("B C W", {"dims": 1}),
        Example("B C T H W", {"dims": 3}),
        Example("B C T H W", {"dims": 3, "value_reduction": 2, "spectral_norm": True, "sub_sample": True}),
    ),
    maps=(PairwiseMap,),
    flow="x -> [[[query | key] -> products, softmax | value] -> sum -> gamma | ] -> add -> y",
)
