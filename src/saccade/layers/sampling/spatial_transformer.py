"""Spatial transformer networks, Jaderberg et al. 2015."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import BadOption, BadShape, check_choice, check_positive, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import GridMap, Tap

Transform = Literal["affine", "attention", "projective", "thin_plate_spline"]

_POINTS = [[x / 3, y / 3] for y in (-3, -1, 1, 3) for x in (-3, -1, 1, 3)]  # 4 x 4 control points
#: The parameters with which each transform is the identity.
IDENTITY: dict[Transform, list[float]] = {
    "affine": [1, 0, 0, 0, 1, 0],
    "attention": [1, 0, 0],
    "projective": [1, 0, 0, 0, 1, 0, 0, 0],
    "thin_plate_spline": [coordinate for point in _POINTS for coordinate in point],
}


def spatial_transformer(x: Tensor, grid: Tensor, align_corners: bool = False) -> Tensor:
    """Sample x bilinearly at every point of a grid, 0 outside of it.

    x (B, C, H, W), grid (B, H', W', 2) as (x, y) in [-1, 1] -> (B, C, H', W').
    """
    return F.grid_sample(
        x.to(grid.dtype), grid, mode="bilinear", padding_mode="zeros", align_corners=align_corners
    ).to(x.dtype)


def sampling_grid(theta: Tensor, transform: Transform, size: Sequence[int], align_corners: bool) -> Tensor:
    """Return where each pixel of an output of `size` (H', W') looks: theta (B, n) -> (B, H', W', 2).

    It is computed in float32 at least, whatever the dtype of theta and also under autocast.
    """
    theta = theta.to(torch.promote_types(theta.dtype, torch.float32))
    y, x = torch.meshgrid(*(_axis(n, theta, align_corners) for n in size), indexing="ij")
    if transform == "thin_plate_spline":
        points = torch.stack([x, y], -1)
        controls = torch.tensor(_POINTS, device=theta.device, dtype=theta.dtype)
        shifts = theta.unflatten(1, controls.shape) - controls
        return points + thin_plate_spline(points.flatten(0, 1), controls, shifts).reshape(-1, *x.shape, 2)
    a, b, c, *rest = theta[:, :, None, None].unbind(1)
    if transform == "attention":
        return torch.stack([a * x + b, a * y + c], -1)
    d, e, f, *rest = rest
    columns, rows = a * x + b * y + c, d * x + e * y + f
    if transform == "projective":
        depth = rest[0] * x + rest[1] * y + 1
        columns, rows = columns / depth, rows / depth
    return torch.stack([columns, rows], -1)


def thin_plate_spline(points: Tensor, controls: Tensor, values: Tensor) -> Tensor:
    """Return, at any points, the interpolant of least bending energy through values at control points.

        f(p) = a_0 + a_1 p_x + a_2 p_y + sum_k w_k U(|p - c_k|),   U(r) = r^2 log r,
        f(c_k) = v_k,   sum_k w_k = 0,   sum_k w_k c_k = 0

    points (N, 2), controls c (K, 2), values v (B, K, D) -> (B, N, D).
    """
    exact = controls.dtype if controls.device.type == "mps" else torch.float64  # which mps does not have
    nodes, places = controls.to(exact), points.to(exact)
    plane = F.pad(nodes, (1, 0), value=1.0)
    system = torch.cat([_bending(nodes, nodes), plane], 1)
    system = torch.cat([system, F.pad(plane.mT, (0, 3))], 0)
    basis = torch.cat([_bending(places, nodes), F.pad(places, (1, 0), value=1.0)], 1)
    device = "cpu" if points.device.type == "meta" else points.device.type
    with torch.autocast(device, enabled=False):  # bfloat16 cannot tell the pixels of a row apart
        shares = basis @ torch.linalg.inv_ex(system).inverse[:, : controls.shape[0]]
        interpolated: Tensor = shares.to(values.dtype) @ values
    return interpolated


def _bending(points: Tensor, controls: Tensor) -> Tensor:
    """Return U(|p - c|) = r^2 log r for every pair, (N, K)."""
    squares = (points[:, None] - controls).square().sum(-1)
    return torch.xlogy(squares, squares) / 2


def _axis(extent: int, like: Tensor, align_corners: bool) -> Tensor:
    """The coordinates of the pixels along an axis, as `F.grid_sample` reads them."""
    steps = torch.arange(extent, device=like.device, dtype=like.dtype)
    if align_corners and extent > 1:
        return 2 * steps / (extent - 1) - 1
    return (2 * steps + 1) / extent - 1


class _Localization(nn.Module):
    """Two strided convolutions, and where on the map each of their channels is, for maps of any size.

    Of each channel f: its mean, and the averages of x, y, x^2, x y and y^2 weighted by f, that is its center
    and its spread. They do not depend on the contrast of the image.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.mix = nn.Linear(6 * 32, 32)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.layers(x)
        y, x = torch.meshgrid(*(_axis(n, maps, False) for n in maps.shape[2:]), indexing="ij")
        moments = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y])
        pooled = torch.einsum("bchw,khw->bck", maps, moments) / x.numel()
        mass, places = pooled[..., :1], pooled[..., 1:]
        features = torch.cat([mass, places / (mass + 1e-3)], -1)  # a channel that is 0 is nowhere: 0
        return F.relu(self.mix(features.flatten(1)))


class _LazyHead(nn.LazyLinear):
    """A linear layer of as many inputs as the features of its first call, which starts as `_identity_`."""

    def __init__(self, transform: Transform) -> None:
        super().__init__(len(IDENTITY[transform]))
        self.transform = transform

    def reset_parameters(self) -> None:
        if self.in_features and not self.has_uninitialized_params():
            _identity_(self, self.transform)


def _identity_(head: nn.Linear, transform: Transform) -> nn.Linear:
    """Make a layer give the parameters of the identity, whatever its input, until it is trained."""
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor(IDENTITY[transform]))
    return head


class SpatialTransformer(nn.Module):
    """Resample a map where a small network says, differentiably in the map and in the network.

        theta = W f_loc(x) + b        y(p) = sum_q x(q) max(0, 1 - |T(p)_x - q_x|) max(0, 1 - |T(p)_y - q_y|)

    Jaderberg, Simonyan, Zisserman, Kavukcuoglu: Spatial Transformer Networks, NIPS 2015 (equations 1 to 5).
    f_loc `localization`; W, b `head`, W = 0 and b the identity at the start; p, q pixels of output and
    input; T the transform of an output pixel into the input's coordinates, -1 to 1 from edge to edge:

    "affine"             6 parameters [a b c; d e f], T(p) = (a x + b y + c, d x + e y + f)
    "attention"          3 parameters (s, t_x, t_y), T(p) = (s x + t_x, s y + t_y)
    "projective"         8 parameters, the affine ones and (g, h), divided by g x + h y + 1
    "thin_plate_spline"  32 parameters: where 4 x 4 control points, regular in the output, lie in the input

    x (B, C, H, W) -> (B, C, *size). The recorded map holds the grid of samples.

    localization   a module from x to features (B, ...), which are flattened; `head` takes their number at
                   the first call. By default two strided convolutions and where their channels are
    size           (H', W') of the output, or one number for both; by default the input's
    align_corners  whether -1 and 1 are the centers of the outermost pixels, not their outer edges

    Deviation: none; the paper leaves f_loc open. What is sampled from outside of the input is 0.

    Raises `BadOption` for options out of range, `BadShape` for other input and for a localization that
    does not return one row of features for each image.

    >>> import torch
    >>> x, transformer = torch.randn(2, 32, 9, 7), SpatialTransformer(32)
    >>> bool((transformer(x) - x).abs().max() < 1e-5)
    True
    >>> SpatialTransformer(32, "attention", size=4)(x).shape
    torch.Size([2, 32, 4, 4])
    """

    def __init__(
        self,
        channels: int,
        transform: Transform = "affine",
        localization: nn.Module | None = None,
        size: int | Sequence[int] | None = None,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        check_choice("spatial_transformer", "transform", transform, tuple(IDENTITY))
        if not isinstance(localization, nn.Module | None):
            raise BadOption(f"spatial_transformer: localization={localization!r} is not an nn.Module")
        self.channels, self.transform, self.align_corners = channels, transform, align_corners
        self.size = _checked(size)
        self.localization = _Localization(channels) if localization is None else localization
        self.head: nn.Linear = (
            _identity_(nn.Linear(32, len(IDENTITY[transform])), transform)
            if localization is None
            else _LazyHead(transform)
        )
        self.tap = Tap()

    def forward(self, x: Tensor) -> Tensor:
        check_shape("spatial_transformer", x, "B C H W", C=self.channels)
        height, width = x.shape[2:]
        grid = sampling_grid(self.theta(x), self.transform, self.size or (height, width), self.align_corners)
        if self.tap.recording:
            self.tap.publish(GridMap(grid.detach(), (height, width), self.align_corners))
        return spatial_transformer(x, grid, self.align_corners)

    def theta(self, x: Tensor) -> Tensor:
        """Return the parameters of each image's transform, (B, n)."""
        features = self.localization(x)
        if not isinstance(features, Tensor) or features.ndim < 2 or features.shape[0] != x.shape[0]:
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise BadShape(
                f"spatial_transformer: localization must return ({x.shape[0]}, features), got {got}"
            )
        theta: Tensor = self.head(features.flatten(1))
        return theta


def _checked(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    pair = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(pair) != 2:
        raise BadOption(f"spatial_transformer: size={size!r} must be a number or a pair (height, width)")
    check_positive("spatial_transformer", **{"the height of size": pair[0], "the width of size": pair[1]})
    return pair[0], pair[1]


SPEC = Spec(
    name="spatial_transformer",
    domain="sampling",
    paper=Paper(
        "Spatial Transformer Networks",
        "Jaderberg, Simonyan, Zisserman, Kavukcuoglu",
        2015,
        "https://arxiv.org/abs/1506.02025",
    ),
    summary="resample the map on a grid that a small network places",
    module=SpatialTransformer,
    function=spatial_transformer,
    examples=(
        Example("B C H W"),
        Example("B C H W", {"transform": "attention", "size": (5, 9)}, output="B C 5 9"),
        Example("B C H W", {"transform": "projective", "align_corners": True}),
        Example("B C H W", {"transform": "thin_plate_spline"}),
    ),
    maps=(GridMap,),
    flow="x -> [localization -> theta -> grid | ] -> sample bilinearly -> y",
)
