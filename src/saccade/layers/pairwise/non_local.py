"""Non-local blocks on sequences, images and clips, Wang et al. 2018."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from torch import Tensor, nn

from saccade.errors import (
    bad_option,
    bad_shape,
    check_choice,
    check_positive,
    check_positive_number,
    check_shape,
)
from saccade.layers.dims import AXES, CONV, MAX_POOL, NORM, Dims, check_dims
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import DotProductMap, PairwiseMap, RectifiedSumMap, Tap
from saccade.ops.rectified_mean import rectified_mean
from saccade.ops.softmax_attention import softmax_attention

Pairwise = Literal["embedded_gaussian", "gaussian", "dot_product", "concatenation"]

#: The maps of the functions that are not Gaussian.
_MAPS: Mapping[str, type[PairwiseMap]] = {"dot_product": DotProductMap, "concatenation": RectifiedSumMap}
_WINDOW = {1: (2,), 2: (2, 2), 3: (1, 2, 2)}


def non_local(
    theta: Tensor, phi: Tensor, g: Tensor, pairwise: Pairwise = "embedded_gaussian", scale: float = 1.0
) -> Tensor:
    """Return y_i = sum_j f(theta_i, phi_j) g_j / C(x).

    For the two Gaussian functions f, the weights are a softmax over j of scale * theta_i . phi_j. For
    "dot_product" and "concatenation", C(x) = M; for the latter, f = relu(theta_i + phi_j) of projections with
    D = 1. Nothing of size N x M is built.

    Args:
        theta: Query features, (B, N, D).
        phi: Key features, (B, M, D).
        g: Values, (B, M, E).
        pairwise: Name of the function f.
        scale: Factor of the exponent of the Gaussian functions.

    Returns:
        Weighted sums of the values, (B, N, E).

    Example:
        >>> import torch
        >>> theta, phi, g = torch.randn(2, 6, 4), torch.randn(2, 3, 4), torch.randn(2, 3, 8)
        >>> torch.allclose(non_local(theta, phi, g, "dot_product"), theta @ phi.mT @ g / 3, atol=1e-5)
        True
    """
    if pairwise == "dot_product":
        factor: float = phi.shape[1] ** -0.5  # applied to both operands, for the range of half precision
        return theta @ ((phi * factor).mT @ (g * factor))
    if pairwise == "concatenation":
        return rectified_mean(theta.squeeze(-1), phi.squeeze(-1), g)
    return softmax_attention(theta, phi, g, scale)


class NonLocal(nn.Module):
    """Non-local block: adds to each position a weighted mean of all positions of a sequence, image or clip.

        z_i = W_z y_i + x_i        y_i = 1/C(x) sum_j f(x_i, x_j) g(x_j)

        embedded_gaussian  f = exp(theta(x_i)^T phi(x_j))            C = sum_j f
        gaussian           f = exp(x_i^T x_j)                        C = sum_j f
        dot_product        f = theta(x_i)^T phi(x_j)                 C = the number of positions j
        concatenation      f = relu(w_f^T [theta(x_i), phi(x_j)])    C = the number of positions j

    i and j are positions, f is the pairwise function, C(x) its normalization, y the response and z the
    output. `theta`, `phi`, `g` and W_z (`output`) are 1 x 1 convolutions, and w_f (`pair`) is another one
    without bias; "gaussian" has no theta and phi. As in the authors' code (Caffe2), convolutions are
    initialized from N(0, 0.01^2) with bias 0, and a batch norm with initial weight 0 follows W_z, so that
    initially z = x exactly.

    References:
        Wang, Girshick, Gupta, He: Non-local Neural Networks, CVPR 2018 (equations 1 to 6).

    Args:
        channels: Number of channels C.
        dims: Number of spatial axes of the input: 1, 2 or 3.
        pairwise: Function f: "embedded_gaussian", "gaussian", "dot_product" or "concatenation".
        inner_channels: Number of channels of theta, phi and g, at least 1; by default, C // 2.
        sub_sample: Whether to max-pool the positions j by 2 along height and width (or along a sequence), not
            along time. An odd last row is dropped.
        pool: What sub-sampling pools: the "input" of phi and g, as in the authors' code, or their
            "projection".
        scale: Whether to multiply the exponent of the Gaussian functions by D^-0.5, where D is the width of
            the vectors; or a positive number, the factor itself.
        batch_norm: Whether a batch norm follows W_z. Otherwise the weights of W_z are initialized with 0.

    Shape:
        - Input: (B, C, W), (B, C, H, W) or (B, C, T, H, W), according to `dims`.
        - Output: same shape as the input.

    Raises:
        BadOption: If no inner channel is left, `scale` is set for a function that is not Gaussian, or another
            option is out of range.
        BadShape: For any other input shape or one that is too small to be sub-sampled; in training also for a
            single position in the batch, which has no batch statistics.

    Note:
        `scale` and `sub_sample` are off by default, as in the paper; the authors' code enables them. The N x
        N weights are never built: the Gaussian functions use the fused attention of torch, the dot product is
        computed as theta (phi^T g), and the concatenation by sorting (see `rectified_mean`).

    Example:
        >>> import torch
        >>> x = torch.randn(2, 32, 3, 7, 5)
        >>> torch.equal(NonLocal(32, dims=3, pairwise="concatenation", sub_sample=True)(x), x)
        True
    """

    def __init__(
        self,
        channels: int,
        dims: Dims = 2,
        pairwise: Pairwise = "embedded_gaussian",
        inner_channels: int | None = None,
        sub_sample: bool = False,
        pool: Literal["input", "projection"] = "input",
        scale: bool | float = False,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        check_dims("non_local", dims)
        check_choice("non_local", "pairwise", pairwise, get_args(Pairwise))
        check_choice("non_local", "pool", pool, ("input", "projection"))
        if inner_channels is None:
            if channels < 2:
                raise bad_option("non_local", "must be at least 2 to halve it", channels=channels)
            inner_channels = channels // 2
        check_positive("non_local", inner_channels=inner_channels)
        if scale and pairwise in _MAPS:
            expected = f"needs a Gaussian pairwise function, not pairwise={pairwise!r}"
            raise bad_option("non_local", expected, scale=scale)
        if not isinstance(scale, bool):
            check_positive_number("non_local", scale=scale)
        conv = CONV[dims]
        has_embedding = pairwise != "gaussian"
        self.channels, self.dims, self.pairwise, self.pool = channels, dims, pairwise, pool
        width = inner_channels if has_embedding else channels
        self.scale = (width**-0.5 if scale else 1.0) if isinstance(scale, bool) else float(scale)
        self.theta = conv(channels, inner_channels, 1) if has_embedding else nn.Identity()
        self.phi = conv(channels, inner_channels, 1) if has_embedding else nn.Identity()
        self.g = conv(channels, inner_channels, 1)
        self.pair = conv(2 * inner_channels, 1, 1, bias=False) if pairwise == "concatenation" else None
        self.output = conv(inner_channels, channels, 1)
        self.norm = NORM[dims](channels) if batch_norm else nn.Identity()
        self.pooling = MAX_POOL[dims](_WINDOW[dims]) if sub_sample else nn.Identity()
        self.tap = Tap()
        for module in self.children():
            if isinstance(module, conv):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.zeros_((self.norm if batch_norm else self.output).get_parameter("weight"))

    def forward(self, x: Tensor) -> Tensor:
        check_shape("non_local", x, AXES[self.dims], C=self.channels)
        if not isinstance(self.pooling, nn.Identity) and min(x.shape[2:][-2:]) < 2:
            raise bad_shape("non_local", "sub-sampling by 2 needs at least 2 positions on each axis", x)
        if self.training and not isinstance(self.norm, nn.Identity) and x[:, 0].numel() == 1:
            raise bad_shape("non_local", "batch norm needs more than one position in training", x)
        source = self.pooling(x) if self.pool == "input" else x
        keys, values = self.phi(source), self.g(source)
        if self.pool == "projection":
            keys, values = self.pooling(keys), self.pooling(values)
        theta, phi, g = (z.flatten(2).mT.contiguous() for z in (self.theta(x), keys, values))
        if self.pair is not None:  # w_f^T [theta, phi] is the sum of two projections to one value
            w_theta, w_phi = self.pair.weight.flatten()[:, None].chunk(2)
            theta, phi = theta @ w_theta, phi @ w_phi
        if self.tap.recording:
            kind = _MAPS.get(self.pairwise, PairwiseMap)
            factor = 1 / phi.shape[1] if self.pairwise in _MAPS else self.scale
            queries, pooled = theta.detach().unsqueeze(1), phi.detach().unsqueeze(1)
            self.tap.publish(kind(queries, pooled, factor, tuple(x.shape[2:]), tuple(keys.shape[2:])))
        y = non_local(theta, phi, g, self.pairwise, self.scale)
        z: Tensor = self.norm(self.output(y.mT.unflatten(2, x.shape[2:])))
        return x + z


SPEC = Spec(
    name="non_local",
    domain="pairwise",
    paper=Paper(
        "Non-local Neural Networks", "Wang, Girshick, Gupta, He", 2018, "https://arxiv.org/abs/1711.07971"
    ),
    summary="add to each position a weighted mean of all positions of a sequence, image or clip",
    module=NonLocal,
    function=non_local,
    examples=(
        Example("B C H W"),
        Example("B C W", {"dims": 1, "sub_sample": True, "scale": True}),
        Example("B C T H W", {"dims": 3, "sub_sample": True, "pool": "projection", "batch_norm": False}),
        Example("B C H W", {"pairwise": "gaussian", "scale": 0.3, "inner_channels": 12}),
        Example("B C T H W", {"dims": 3, "pairwise": "dot_product"}),
        Example("B C H W", {"pairwise": "dot_product", "sub_sample": True, "batch_norm": False}),
        Example("B C W", {"dims": 1, "pairwise": "concatenation", "batch_norm": False}),
        Example("B C H W", {"pairwise": "concatenation", "sub_sample": True, "pool": "projection"}),
    ),
    maps=(PairwiseMap,),
    flow="x -> [[[theta | phi] -> pairwise f | g] -> sum -> W, BN | ] -> add -> y",
)
