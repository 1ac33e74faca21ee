"""Cross-covariance attention, El-Nouby et al. 2021."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import check_multiple, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import ChannelMap, Tap
from saccade.ops.sum_of_squares import sum_of_squares

_EPSILON = 1e-12  # smallest norm, as in F.normalize


def xca(query: Tensor, key: Tensor, temperature: Tensor) -> Tensor:
    """Return the weights softmax(t q k^T / (|q| |k|)) of the channels of a head for each other.

    Norms are over positions. Both are computed in float32 or higher precision, and k is not copied for its
    normalization.

    Args:
        query: Queries q, (B, heads, D, N), for D channels of a head and N positions.
        key: Keys k, (B, heads, D, N).
        temperature: Factor t of each head, (heads, 1, 1).

    Returns:
        Weights, (B, heads, D, D), which sum to 1 over the last axis.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    q_norm, k_norm = (sum_of_squares(x).clamp(min=_EPSILON**2).sqrt() for x in (query, key))
    # The norm of q divides before the product, for the range of half precision.
    cosine = ((query / q_norm.unsqueeze(-1)).to(key.dtype) @ key.mT).to(dtype) / k_norm.unsqueeze(-2)
    return (cosine * temperature.to(dtype)).softmax(-1)


class XCA(nn.Module):
    """Cross-covariance attention: mixes the channels of each head by the similarity of their maps.

        q = W_q x        k = W_k x        v = W_v x        (each C x N, in heads of D = C / h channels)
        A = softmax_j(t_h q_i . k_j / (|q_i| |k_j|))       (D x D for each head)
        y = W_o [A v] + b

    i and j are channels of one head h, and the products and norms run over all N positions. W_q, W_k and W_v
    are the rows of `qkv`, W_o and b the layer `proj`, t is `temperature`, a scalar per head that starts at 1.
    There is no factor D^-0.5. The cost grows linearly with N. There is no residual connection, so y is not
    close to x at initialization.

    Recording gives the weight that each channel of v receives, the mean of A over the channels i of its head,
    and the energy of v at each position.

    References:
        El-Nouby, Touvron, Caron, Bojanowski, Douze, Joulin, Laptev, Neverova, Synnaeve, Verbeek, Jegou: XCiT:
        Cross-Covariance Image Transformers, NeurIPS 2021 (section 3.2).

    Args:
        channels: Number of channels C, a multiple of `heads`.
        heads: Number of heads h, at least 1.
        bias: Whether `qkv` has a bias.

    Shape:
        - Input: (B, C, W), (B, C, H, W) or (B, C, T, H, W). All positions are tokens.
        - Output: same shape as the input.

    Raises:
        BadOption: If C is not a multiple of `heads`, or an option is out of range.
        BadShape: For any other input shape.

    Note:
        The result is that of the authors' code. For maps of more than 2 C positions, W_o, A and W_v are first
        multiplied to one C x C matrix per image, which replaces three products with maps by one. As in the
        authors' network, weights are initialized from a truncated normal distribution with a standard
        deviation of 0.02, and biases with 0. Dropout is left out; its rate is 0 in the authors' code.

    Example:
        >>> import torch
        >>> XCA(64)(torch.randn(2, 64, 7, 5)).shape
        torch.Size([2, 64, 7, 5])
    """

    def __init__(self, channels: int, heads: int = 8, bias: bool = False) -> None:
        super().__init__()
        check_multiple("xca", channels, heads=heads)
        self.channels, self.heads = channels, heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Linear(channels, 3 * channels, bias=bias)
        self.proj = nn.Linear(channels, channels)
        self.tap = Tap()
        for layer in (self.qkv, self.proj):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        check_shape("xca", x, "B C ...", C=self.channels)
        places = x.flatten(2).unsqueeze(-1)  # (B, C, N, 1): one layout and one convolution for all inputs
        is_folded = not torch.compiler.is_compiling() and places.shape[2] > 2 * self.channels
        rows = (2 if is_folded else 3) * self.channels
        bias = self.qkv.bias
        projected = _pointwise(places, self.qkv.weight[:rows], None if bias is None else bias[:rows])
        query, key, *value = (self._split(part) for part in projected.split(self.channels, dim=1))
        weights = xca(query, key, self.temperature)
        if self.tap.recording:
            self._publish(weights, x)
        y = self._fold(weights, places) if is_folded else self._mix(weights, value[0], places)
        return y.reshape(x.shape)

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], self.heads, -1, x.shape[2])

    def _mix(self, weights: Tensor, value: Tensor, places: Tensor) -> Tensor:
        mixed = weights.to(value.dtype) @ value
        return _pointwise(mixed.reshape(places.shape), self.proj.weight, self.proj.bias)

    def _fold(self, weights: Tensor, places: Tensor) -> Tensor:
        """Return W_o (A (W_v x + b_v)) + b as a single product with x."""
        w_value = self.qkv.weight[2 * self.channels :].unflatten(0, (self.heads, -1))
        weights = weights.to(w_value.dtype)
        matrix = self.proj.weight @ (weights @ w_value).flatten(1, 2)
        shift: Tensor = self.proj.bias
        if self.qkv.bias is not None:
            b_value = self.qkv.bias[2 * self.channels :].reshape(self.heads, -1, 1)
            shift = shift + ((weights @ b_value).flatten(1) @ self.proj.weight.T)
        y: Tensor = matrix @ places.squeeze(-1)
        return y + shift.reshape(-1, self.channels, 1).to(y.dtype)

    def _publish(self, weights: Tensor, x: Tensor) -> None:
        with torch.no_grad():
            bias = self.qkv.bias
            value = _pointwise(
                x.flatten(2).unsqueeze(-1),
                self.qkv.weight[2 * self.channels :],
                None if bias is None else bias[2 * self.channels :],
            )
            self.tap.publish(
                ChannelMap.of(weights.mean(2).flatten(1).to(value.dtype), value.reshape(x.shape))
            )


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(x, weight[:, :, None, None], bias)


SPEC = Spec(
    name="xca",
    domain="channel",
    paper=Paper(
        "XCiT: Cross-Covariance Image Transformers",
        "El-Nouby, Touvron, Caron, Bojanowski, Douze, Joulin, Laptev, Neverova, Synnaeve, Verbeek, Jegou",
        2021,
        "https://arxiv.org/abs/2106.09681",
    ),
    summary="mix the channels of each head by the cosine similarity of their maps",
    module=XCA,
    function=xca,
    examples=(
        Example("B C H W"),
        Example("B C W"),
        Example("B C T H W"),
        Example("B C H W", {"heads": 16, "bias": True}),
    ),
    maps=(ChannelMap,),
    flow="x -> [[query | key] -> products over positions, softmax | value] -> mix channels -> W -> y",
)
