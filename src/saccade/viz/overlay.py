"""Drawing on images: heat maps in colors, sampling grids and fixations."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from saccade.data import Photograph
from saccade.errors import bad_option, check_choice
from saccade.maps import AttentionMap, FixationMap, GridMap, PairwiseMap

#: Color maps, perceptually uniform; the first is the default. cividis also suits color-vision deficiency.
CMAPS = ("magma", "viridis", "cividis")
#: Default opacity of the heat map.
ALPHA = 0.45
_MAX_LINES = 16  # lines of a sampling grid along each axis
_SUPERSAMPLING, _LARGE = 3, 1 << 21  # marks are supersampled, except on images with this many pixels
_LINE_COLOR = "#ffffffd0"
_MARKED = (GridMap, FixationMap)
_SMALLEST = 224  # shorter side of an image with marks

Points = NDArray[np.float64]  # (..., 2): x and y as fractions of the image


def palette(cmap: str) -> NDArray[np.uint8]:
    """Return the 256 colors of a matplotlib color map, (256, 3)."""
    check_choice("look", "cmap", cmap, CMAPS)
    import matplotlib

    colors = matplotlib.colormaps[cmap](np.arange(256), bytes=True)
    return np.asarray(colors[:, :3], dtype=np.uint8)


def blend(
    image: Photograph, heat: NDArray[np.floating], colors: NDArray[np.uint8], alpha: float
) -> Photograph:
    """Return (1 - alpha) image + alpha color(heat), for heat in [0, 1] at the size of the image."""
    if not 0 <= alpha <= 1:
        raise bad_option("look", "must be between 0 and 1", alpha=alpha)
    colored = colors[np.rint(255 * heat).astype(np.intp)]
    mixed = (1 - alpha) * image.astype(np.float64) + alpha * colored
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def outline_classes(image: Photograph, classes: NDArray[np.integer]) -> Photograph:
    """Return an image with the borders of all classes of its pixels but the first, in yellow.

    Args:
        image: The image, (H, W, 3).
        classes: Class of each pixel, (H, W).
    """
    padded = np.pad(classes, 1, mode="edge")
    inner = padded[1:-1, 1:-1]
    neighbors = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    border = np.any([inner != neighbor for neighbor in neighbors], axis=0) & (inner != 0)
    outlined = image.copy()
    outlined[border] = (255, 197, 61)
    return outlined


def grid_lines(attention: GridMap, image: int) -> tuple[list[Points], list[Points]]:
    """Return rows and columns of a sampling grid as polylines; a large grid is subsampled."""
    height, width = attention.grid.shape[1:3]
    rows, columns = (
        np.unique(np.linspace(0, extent - 1, min(extent, _MAX_LINES + 1)).round().astype(int))
        for extent in (height, width)
    )
    points = attention.grid[image].detach().double().cpu()
    if attention.align_corners:  # -1 and 1 are then the centers of the outermost pixels
        extents = torch.tensor([attention.size[1], attention.size[0]], dtype=torch.float64)
        points = points * (extents - 1) / extents
    fractions = (points.numpy() + 1) / 2
    return [*fractions[rows]], [*fractions[:, columns].transpose(1, 0, 2)]


def fixation_points(attention: FixationMap, image: int) -> Points:
    """Return the fixated locations in order, (steps, 2)."""
    return np.asarray((attention.locations[image].detach().double().cpu().numpy() + 1) / 2)


def sink_points(attention: PairwiseMap) -> tuple[list[Points], list[float]]:
    """Return the centers of the attention sinks of each image, (n, 2), and the share that they receive."""
    sinks = attention.sinks()
    return token_points(attention, sinks.tokens), sinks.share.tolist()


def token_points(attention: PairwiseMap, tokens: Tensor) -> list[Points]:
    """Return the centers of those tokens (B, N) of each image that have a place in it, (n, 2)."""
    rows, columns = attention.key_shape
    placed = tokens[:, tokens.shape[1] - rows * columns :].reshape(-1, rows, columns).cpu()
    centers = [of_image.nonzero().double().numpy()[:, ::-1] + 0.5 for of_image in placed]
    return [points / (columns, rows) for points in centers]


def enlarge(image: Photograph, attention: AttentionMap) -> Photograph:
    """Return a small image on which marks will be drawn enlarged by a whole factor, with sharp pixels."""
    factor = -(-_SMALLEST // min(image.shape[:2])) if isinstance(attention, _MARKED) else 1
    return image.repeat(factor, 0).repeat(factor, 1)


def draw_marks(image: Photograph, attention: AttentionMap, index: int) -> Photograph:
    """Draw the sampling grid of a `GridMap` or the path of a `FixationMap`; other maps have no marks."""
    if not isinstance(attention, _MARKED):
        return image
    below = Image.fromarray(image)
    factor = _SUPERSAMPLING if image.size < 3 * _LARGE else 1
    canvas = Image.new("RGBA", (factor * below.width, factor * below.height))
    size = np.array(canvas.size)
    unit = max(1.0, min(below.size) / 160) * factor
    thin = max(factor, round(unit / 2))
    draw = ImageDraw.Draw(canvas)
    if isinstance(attention, GridMap):
        rows, columns = grid_lines(attention, index)
        for line in rows + columns:
            draw.line([(x, y) for x, y in line * size], fill=_LINE_COLOR, width=thin)
    else:
        points, extents = fixation_points(attention, index) * size, np.array(attention.extents) * size[::-1]
        for height, width in extents / 2:
            for x, y in points:
                corners = [x - width, y - height, x + width, y + height]
                draw.rectangle(corners, outline=_LINE_COLOR, width=thin)
        draw.line([(x, y) for x, y in points], fill="white", width=round(unit), joint="curve")
        font = ImageFont.load_default(7 * unit)
        for number, (x, y) in enumerate(points, start=1):
            draw.circle((x, y), 5 * unit, fill="white", outline="black", width=thin)
            draw.text((x, y), str(number), fill="black", anchor="mm", font=font)
    smooth = canvas.resize(below.size, Image.Resampling.BOX)
    return np.asarray(Image.alpha_composite(below.convert("RGBA"), smooth).convert("RGB"), dtype=np.uint8)
