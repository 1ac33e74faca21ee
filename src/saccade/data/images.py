"""Reading images of every kind as RGB, and cutting them to the square that a network takes."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from saccade.errors import BadData

Photograph = NDArray[np.uint8]  # (H, W, 3)

_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")

_OPENING = threading.Lock()  # what is a warning and what an error is settled for all threads at once


class BadImage(BadData):
    """An image that cannot be read: it is missing, none, cut short or too large. It can be left out."""


def read_image(path: Path | str, at_most: int | None = None) -> Photograph:
    """Return an image as RGB, see `as_rgb`; its shorter side reduced to `at_most`.

    Raises `BadImage`, naming the file, if it is missing, not an image, cut short, or larger than Pillow
    takes for safe.

    >>> read_image("nowhere.png")
    Traceback (most recent call last):
    saccade.data.images.BadImage: 'nowhere.png' cannot be read as an image: No such file or directory
    """
    with naming(repr(str(path))), open_image(path) as opened:
        image = as_rgb(opened)
    if at_most is not None and min(image.size) > at_most:
        image = resize(image, at_most)
    return np.asarray(image, dtype=np.uint8)


def open_image(source: Path | str | bytes) -> Image.Image:
    """Open the image of a file, or the content of one; its pixels are decoded when they are asked for."""
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises for an image that it cannot read into `BadImage` with its name."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise BadImage(f"{name} cannot be read as an image: it is of no known format") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(
            f"{name} is too large: {str(error).partition(',')[0].lower()} (PIL.Image.MAX_IMAGE_PIXELS)"
        ) from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # ours is a ValueError, too
        reason = getattr(error, "strerror", None) or error
        raise BadImage(f"{name} cannot be read as an image: {reason}") from error


def as_rgb(image: Image.Image) -> Image.Image:
    """Return an image of any mode as RGB, upright as its EXIF data say.

    16 bits are scaled to 8, not clipped; transparent parts are laid on white; of several frames the first
    is taken.

    Raises `BadData` for pixels whose range is not known: floating-point ones and integers above 16 bits.

    >>> as_rgb(Image.new("LA", (1, 1), (0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        deep = np.asarray(image)
        if deep.min() < 0 or deep.max() > 65535:
            raise BadData(f"its pixels reach from {deep.min()} to {deep.max()}; 8 or 16 bits were expected")
        return Image.fromarray(np.rint(deep / 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise BadData(
            "its pixels are floating-point numbers, of which no range is known; save it as 8 or 16 bits"
        )
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def center(photograph: Photograph) -> Photograph:
    """Return the largest square at the center of a photograph."""
    height, width = photograph.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return photograph[top : top + side, left : left + side]


def fit(photograph: Photograph, size: int) -> Photograph:
    """Return the center of a photograph as a square of `size` pixels: how a folder becomes a task."""
    image = ImageOps.fit(Image.fromarray(photograph), (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8)


def fit_mask(photograph: Photograph, size: int) -> NDArray[np.bool_]:
    """Return the mask that an image draws, true where it is not black, cut as `fit` cuts a photograph."""
    drawn = Image.fromarray((photograph.max(2) > 0).astype(np.uint8) * 255)
    return np.asarray(ImageOps.fit(drawn, (size, size), Image.Resampling.BOX)) >= 128


def resize(image: Image.Image, shorter: int) -> Image.Image:
    """Return an image whose shorter side measures `shorter` pixels."""
    scale = shorter / min(image.size)
    width, height = (max(shorter, round(extent * scale)) for extent in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)
