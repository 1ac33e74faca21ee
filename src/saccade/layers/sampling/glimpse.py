"""The glimpse sensor of the recurrent attention model, Mnih et al. 2014."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saccade.errors import check_positive, check_shape
from saccade.layers.papers import RAM_PAPER
from saccade.layers.spec import Example, Spec
from saccade.maps import FixationMap, Tap


def glimpse(x: Tensor, locations: Tensor, size: int = 8, scales: int = 1, scale_factor: int = 2) -> Tensor:
    """Return square patches around a location, each `scale_factor` times as wide as the previous one.

    Args:
        x: Images, (B, C, H, W).
        locations: Centers of the patches, (x, y) in [-1, 1], (B, 2).
        size: Height and width of the returned patches in pixels.
        scales: Number of patches.
        scale_factor: Ratio of the widths of consecutive patches.

    Returns:
        Patches, (B, scales * C, size, size), one scale after the other.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)  # bfloat16 cannot distinguish the pixels of a row
    image, centers = x.to(dtype), locations.to(dtype)
    extents = [size * scale_factor**scale for scale in range(scales)]

    def sample(extent: int) -> Tensor:
        points = _points(centers, extent, x.shape[2], x.shape[3])
        return F.grid_sample(image, points, mode="bilinear", padding_mode="zeros", align_corners=False)

    if all((extents[-1] - extent) % 2 == 0 for extent in extents):  # each is the middle of the largest
        largest = sample(extents[-1])
        windows = [_middle(largest, extent) for extent in extents]
    else:
        windows = [sample(extent) for extent in extents]
    steps = [extent // size for extent in extents]
    pairs = zip(windows, steps, strict=True)
    patches = [F.avg_pool2d(window, step) if step > 1 else window for window, step in pairs]
    return torch.cat(patches, dim=1).to(x.dtype)


def _middle(patch: Tensor, extent: int) -> Tensor:
    margin = (patch.shape[2] - extent) // 2
    return patch[:, :, margin : margin + extent, margin : margin + extent]


def _points(centers: Tensor, extent: int, height: int, width: int) -> Tensor:
    """Return a grid of points one pixel apart around each center: (B, 2) -> (B, extent, extent, 2)."""
    pixels = torch.arange(extent, device=centers.device, dtype=centers.dtype) - (extent - 1) / 2
    xs = centers[:, :1] + pixels * (2 / width)
    ys = centers[:, 1:] + pixels * (2 / height)
    return torch.stack([xs[:, None].expand(-1, extent, -1), ys[:, :, None].expand(-1, -1, extent)], dim=-1)


class Glimpse(nn.Module):
    """Glimpse sensor: patches of growing extent and decreasing resolution around one location of each image.

        rho(x, l) = [p_0; ...; p_{k-1}],   p_i = mean of blocks of f^i x f^i pixels of crop(x, l, size f^i)

    rho is the glimpse, l the location, p_i the patch at scale i, k is `scales` and f is `scale_factor`; p_0
    has the resolution of the image. The module has no parameters. Pixels outside the image are 0. A patch
    between pixels is interpolated, so that the result is differentiable in the locations. The recorded map
    holds locations and extents.

    References:
        Mnih, Heess, Graves, Kavukcuoglu: Recurrent Models of Visual Attention, NIPS 2014 (section 3.1).

    Args:
        channels: Number of channels C.
        size: Height and width of the returned patches in pixels, at least 1.
        scales: Number k of patches, at least 1.
        scale_factor: Ratio f of the widths of consecutive patches, at least 1.

    Shape:
        - Input: (B, C, H, W), any H and W.
        - Locations: (B, 2), (x, y) from (-1, -1), the upper left corner, to (1, 1), the lower right corner.
        - Output: (B, k * C, size, size), one scale after the other.

    Raises:
        BadOption: If an option is not an integer of at least 1.
        BadShape: For any other input shape.

    Note:
        Patches between pixels are interpolated bilinearly; the paper does not specify this.

    Example:
        >>> import torch
        >>> x, center = torch.randn(2, 3, 9, 13), torch.zeros(2, 2)
        >>> Glimpse(3, size=5, scales=2)(x, center).shape
        torch.Size([2, 6, 5, 5])
        >>> bool(torch.isclose(Glimpse(3, size=5)(x, center), x[:, :, 2:7, 4:9], atol=1e-5).all())
        True
    """

    def __init__(self, channels: int, size: int = 8, scales: int = 1, scale_factor: int = 2) -> None:
        super().__init__()
        check_positive("glimpse", size=size, scales=scales, scale_factor=scale_factor)
        self.channels = channels
        self.size, self.scales, self.scale_factor = size, scales, scale_factor
        self.tap = Tap()

    def forward(self, x: Tensor, locations: Tensor) -> Tensor:
        check_shape("glimpse", x, "B C H W", C=self.channels)
        check_shape("glimpse", locations, "B xy", B=x.shape[0], xy=2)
        if self.tap.recording:
            height, width = x.shape[2:]
            extents = self.extents(height, width)
            self.tap.publish(FixationMap(locations.detach().unsqueeze(1), extents, (height, width)))
        return glimpse(x, locations, self.size, self.scales, self.scale_factor)

    def extents(self, height: int, width: int) -> tuple[tuple[float, float], ...]:
        """Return the height and width of each patch as fractions of an image."""
        sides = [self.size * self.scale_factor**scale for scale in range(self.scales)]
        return tuple((side / height, side / width) for side in sides)

    def extra_repr(self) -> str:
        return f"size={self.size}, scales={self.scales}, scale_factor={self.scale_factor}"


SPEC = Spec(
    name="glimpse",
    domain="sampling",
    paper=RAM_PAPER,
    summary="cut patches of growing extent around a location",
    module=Glimpse,
    function=glimpse,
    examples=(
        Example("B C H W, B 2", output="B C 8 8"),
        Example("B C H W, B 2", {"size": 5, "scales": 3}, output="B 3*C 5 5"),
        Example("B C H W, B 2", {"size": 1, "scales": 2, "scale_factor": 3}, output="B 2*C 1 1"),
    ),
    maps=(FixationMap,),
    flow="[image | location] -> crops of growing extent -> average to one size -> patches",
)
