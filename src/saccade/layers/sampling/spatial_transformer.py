"""Spatial transformer networks, Jaderberg et al. 2015."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import BadShape, bad_option, check_choice, check_pair, check_shape
from saccade.layers.spec import Example, Paper, Spec
from saccade.maps import GridMap, Tap

Transform = Literal["affine", "attention", "projective", "thin_plate_spline"]

_POINTS = [[x / 3, y / 3] for y in (-3, -1, 1, 3) for x in (-3, -1, 1, 3)]  # 4 x 4 control points
#: The parameters of the identity for each transform.
IDENTITY: dict[Transform, list[float]] = {
    "affine": [1, 0, 0, 0, 1, 0],
    "attention": [1, 0, 0],
    "projective": [1, 0, 0, 0, 1, 0, 0, 0],
    "thin_plate_spline": [coordinate for point in _POINTS for coordinate in point],
}


def spatial_transformer(x: Tensor, grid: Tensor, align_corners: bool = False) -> Tensor:
    """Sample x bilinearly at each point of a grid; values outside the image are 0.

    Args:
        x: Images, (B, C, H, W).
        grid: Sampling points (x, y) in [-1, 1], (B, H', W', 2).
        align_corners: Whether -1 and 1 are the centers of the outermost pixels instead of their outer edges.

    Returns:
        Samples, (B, C, H', W').
    """
    return F.grid_sample(
        x.to(grid.dtype), grid, mode="bilinear", padding_mode="zeros", align_corners=align_corners
    ).to(x.dtype)


def sampling_grid(theta: Tensor, transform: Transform, size: Sequence[int], align_corners: bool) -> Tensor:
    """Return the sampling point of each output pixel, in float32 or higher precision, also under autocast.

    Args:
        theta: Parameters of the transform, (B, n).
        transform: Name of the transform, see `SpatialTransformer`.
        size: Height and width (H', W') of the output.
        align_corners: Whether -1 and 1 are the centers of the outermost pixels instead of their outer edges.

    Returns:
        Sampling points (x, y), (B, H', W', 2).
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
    """Return the interpolant of least bending energy through values at control points, at any points.

        f(p) = a_0 + a_1 p_x + a_2 p_y + sum_k w_k U(|p - c_k|),   U(r) = r^2 log r,
        f(c_k) = v_k,   sum_k w_k = 0,   sum_k w_k c_k = 0

    Args:
        points: Points p, (N, 2).
        controls: Control points c, (K, 2).
        values: Values v at the control points, (B, K, D).

    Returns:
        Interpolated values, (B, N, D).
    """
    exact = controls.dtype if controls.device.type == "mps" else torch.float64  # MPS has no float64
    nodes, targets = controls.to(exact), points.to(exact)
    plane = F.pad(nodes, (1, 0), value=1.0)
    system = torch.cat([_bending(nodes, nodes), plane], 1)
    system = torch.cat([system, F.pad(plane.mT, (0, 3))], 0)
    basis = torch.cat([_bending(targets, nodes), F.pad(targets, (1, 0), value=1.0)], 1)
    device = "cpu" if points.device.type == "meta" else points.device.type
    with torch.autocast(device, enabled=False):  # bfloat16 cannot distinguish the pixels of a row
        weights = basis @ torch.linalg.inv_ex(system).inverse[:, : controls.shape[0]]
        return torch.matmul(weights.to(values.dtype), values)


def _bending(points: Tensor, controls: Tensor) -> Tensor:
    """Return U(|p - c|) = r^2 log r for each pair, (N, K)."""
    squares = (points[:, None] - controls).square().sum(-1)
    return torch.xlogy(squares, squares) / 2


def _axis(extent: int, like: Tensor, align_corners: bool) -> Tensor:
    """Return the coordinates of the pixels along an axis, as defined by `F.grid_sample`."""
    steps = torch.arange(extent, device=like.device, dtype=like.dtype)
    if align_corners and extent > 1:
        return 2 * steps / (extent - 1) - 1
    return (2 * steps + 1) / extent - 1


class _Localization(nn.Module):
    """Two strided convolutions and the spatial moments of their channels, for maps of any size.

    The moments of a channel f are its mean and the averages of x, y, x^2, x y and y^2 weighted by f: its
    center and its spread. The averages do not depend on the contrast of the image.
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
        mass, averages = pooled[..., :1], pooled[..., 1:]
        features = torch.cat([mass, averages / (mass + 1e-3)], -1)  # 0 for a channel of zeros
        return F.relu(self.mix(features.flatten(1)))


class _LazyHead(nn.LazyLinear):
    """A linear layer that infers its number of inputs at the first call, initialized by `_identity_`."""

    def __init__(self, transform: Transform) -> None:
        super().__init__(len(IDENTITY[transform]))
        self.transform = transform

    def reset_parameters(self) -> None:
        if self.in_features and not self.has_uninitialized_params():
            _identity_(self, self.transform)


def _identity_(head: nn.Linear, transform: Transform) -> nn.Linear:
    """Initialize a layer so that it returns the parameters of the identity for any input."""
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.tensor(IDENTITY[transform]))
    return head


class SpatialTransformer(nn.Module):
    """Resamples a map on a grid computed by a small network, with gradients for the map and the network.

        theta = W f_loc(x) + b        y(p) = sum_q x(q) max(0, 1 - |T(p)_x - q_x|) max(0, 1 - |T(p)_y - q_y|)

    f_loc is `localization`, W and b are `head` (initialized so that T is the identity), theta the parameters
    of the transform T, p a pixel of the output y and q a pixel of the input x. T maps an output pixel (x, y)
    to input coordinates in [-1, 1] from edge to edge. Samples outside the input are 0. The recorded map holds
    the sampling grid.

    References:
        Jaderberg, Simonyan, Zisserman, Kavukcuoglu: Spatial Transformer Networks, NIPS 2015 (equations 1 to
        5).

    Args:
        channels: Number of channels C.
        transform: "affine": 6 parameters [a b c; d e f], T(p) = (a x + b y + c, d x + e y + f). "attention":
            3 parameters (s, t_x, t_y), T(p) = (s x + t_x, s y + t_y). "projective": 8 parameters, those of
            "affine" and (g, h), with T(p) divided by g x + h y + 1. "thin_plate_spline": 32 parameters, the
            positions in the input of 4 x 4 control points that form a regular grid in the output.
        localization: Module from x to features (B, ...), which are flattened; `head` infers their number at
            the first call. By default, two strided convolutions and the spatial moments of their channels.
        size: Height and width (H', W') of the output, or one number for both; by default, those of the input.
        align_corners: Whether -1 and 1 are the centers of the outermost pixels instead of their outer edges.

    Shape:
        - Input: (B, C, H, W).
        - Output: (B, C, H', W').

    Raises:
        BadOption: If an option is out of range.
        BadShape: For any other input shape, or if the localization does not return one row of features per
            image.

    Note:
        The paper leaves f_loc open.

    Example:
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
            raise bad_option("spatial_transformer", "must be an nn.Module", localization=localization)
        self.channels, self.transform, self.align_corners = channels, transform, align_corners
        self.size = None if size is None else check_pair("spatial_transformer", size=size)
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
        """Return the parameters of the transform of each image, (B, n)."""
        features = self.localization(x)
        if not isinstance(features, Tensor) or features.ndim < 2 or features.shape[0] != x.shape[0]:
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            message = f"spatial_transformer: localization must return ({x.shape[0]}, features), got {got}"
            raise BadShape(message, owner="spatial_transformer", option="localization", value=got)
        theta: Tensor = self.head(features.flatten(1))
        return theta


SPEC = Spec(
    name="spatial_transformer",
    domain="sampling",
    paper=Paper(
        "Spatial Transformer Networks",
        "Jaderberg, Simonyan, Zisserman, Kavukcuoglu",
        2015,
        "https://arxiv.org/abs/1506.02025",
    ),
    summary="resample the map on a grid computed by a small network",
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
