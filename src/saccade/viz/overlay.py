"""Painting: heat in colors over a picture, and the marks of mechanisms that choose places."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from saccade.data.images import Photograph
from saccade.errors import BadOption, check_choice
from saccade.maps import AttentionMap, FixationMap, GridMap

COLORS = ("magma", "viridis", "cividis")  # even to the eye; cividis also to the color-blind
OPACITY = 0.6
LINES = 16  # of a sampling grid along each axis, at most
_FINER, _LARGE = 3, 1 << 21  # marks are drawn finer and averaged, but over pictures of so many pixels
_THIN = "#ffffffd0"

Points = NDArray[np.float64]  # (..., 2), x and y as shares of the picture


def palette(name: str) -> NDArray[np.uint8]:
    """Return the 256 colors of one of matplotlib's color maps, (256, 3)."""
    check_choice("look", "cmap", name, COLORS)
    import matplotlib

    colors = matplotlib.colormaps[name](np.arange(256), bytes=True)
    return np.asarray(colors[:, :3], dtype=np.uint8)


def blend(
    picture: Photograph, heat: NDArray[np.floating], colors: NDArray[np.uint8], alpha: float
) -> Photograph:
    """Return (1 - opacity) picture + opacity color(heat), for heat in [0, 1] at the picture's size."""
    if not 0 <= alpha <= 1:
        raise BadOption(f"alpha={alpha!r} must lie between 0 and 1")
    painted = colors[np.rint(255 * heat).astype(np.intp)]
    mixed = (1 - alpha) * picture.astype(np.float64) + alpha * painted
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def grid_lines(attention: GridMap, image: int) -> tuple[list[Points], list[Points]]:
    """Return the rows and the columns of a sampling grid as lines, some of them if there are many."""
    height, width = attention.grid.shape[1:3]
    rows, columns = (
        np.unique(np.linspace(0, extent - 1, min(extent, LINES + 1)).round().astype(int))
        for extent in (height, width)
    )
    points = attention.grid[image].detach().double().cpu()
    if attention.align_corners:  # the edges are then the centers of the outermost pixels
        extents = torch.tensor([attention.size[1], attention.size[0]], dtype=torch.float64)
        points = points * (extents - 1) / extents
    places = (points.numpy() + 1) / 2
    return [*places[rows]], [*places[:, columns].transpose(1, 0, 2)]


def fixations(attention: FixationMap, image: int) -> Points:
    """Return where a mechanism looked, in order, (steps, 2)."""
    return np.asarray((attention.locations[image].detach().double().cpu().numpy() + 1) / 2)


def mark(picture: Photograph, attention: AttentionMap, image: int) -> Photograph:
    """Draw the sampling grid of a `GridMap` or the path of a `FixationMap`; other maps need no marks."""
    if not isinstance(attention, GridMap | FixationMap):
        return picture
    below = Image.fromarray(picture)
    finer = _FINER if picture.size < 3 * _LARGE else 1
    canvas = Image.new("RGBA", (finer * below.width, finer * below.height))
    size = np.array(canvas.size)
    unit = max(1.0, min(below.size) / 160) * finer
    draw = ImageDraw.Draw(canvas)
    if isinstance(attention, GridMap):
        rows, columns = grid_lines(attention, image)
        for line in rows + columns:
            draw.line([(x, y) for x, y in line * size], fill=_THIN, width=max(finer, round(unit / 2)))
    else:
        places, extents = fixations(attention, image) * size, np.array(attention.extents) * size[::-1]
        for high, wide in extents / 2:
            for x, y in places:
                corners = [x - wide, y - high, x + wide, y + high]
                draw.rectangle(corners, outline=_THIN, width=max(finer, round(unit / 2)))
        draw.line([(x, y) for x, y in places], fill="white", width=round(unit), joint="curve")
        font = ImageFont.load_default(7 * unit)
        for number, (x, y) in enumerate(places, start=1):
            draw.circle((x, y), 5 * unit, fill="white", outline="black", width=max(finer, round(unit / 2)))
            draw.text((x, y), str(number), fill="black", anchor="mm", font=font)
    smooth = canvas.resize(below.size, Image.Resampling.BOX)
    return np.asarray(Image.alpha_composite(below.convert("RGBA"), smooth).convert("RGB"), dtype=np.uint8)
