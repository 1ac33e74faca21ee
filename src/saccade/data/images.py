"""Image files: read them in any mode as RGB, and crop them to the square that a model takes."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from saccade.errors import BadData
from saccade.files import check_regular

Photograph = NDArray[np.uint8]  # (H, W, 3)

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")

_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")

_OPEN_LOCK = threading.Lock()  # the filter of warnings is global to all threads


class BadImage(BadData):
    """An image that cannot be read: missing, truncated, too large, or not an image. It can be skipped."""


def image_files(folder: Path) -> list[Path]:
    """Return the image files in a folder and its subfolders, sorted by path.

    Raises:
        BadData: The folder or a subfolder is missing or unreadable, or there is no image.
    """
    name = str(folder)
    if not folder.is_dir():
        raise BadData(f"{name!r} is not a folder of images", owner=name, value=name)

    def fail(error: OSError) -> NoReturn:
        unreadable = str(error.filename)
        message = f"{unreadable!r} cannot be read: {error.strerror}"
        raise BadData(message, owner=name, value=unreadable) from error

    files = sorted(
        Path(parent, file)
        for parent, _, names in os.walk(folder, onerror=fail)
        for file in names
        if Path(file).suffix.lower() in IMAGE_SUFFIXES
    )
    if not files:
        message = f"{name!r} contains no image ({', '.join(IMAGE_SUFFIXES)})"
        raise BadData(message, owner=name, value=name, choices=IMAGE_SUFFIXES)
    return files


def read_image(path: Path | str, max_side: int | None = None) -> Photograph:
    """Read an image file as RGB, see `as_rgb`.

    Args:
        path: The file.
        max_side: Larger images are reduced until their shorter side has this length.

    Raises:
        BadImage: The file is missing, truncated, not an image, or larger than Pillow considers safe.

    Example:
        >>> read_image("nowhere.png")
        Traceback (most recent call last):
        saccade.data.images.BadImage: 'nowhere.png' cannot be read as an image: No such file or directory
    """
    with convert_image_errors(repr(str(path))), open_image(path) as opened:
        image = as_rgb(opened)
    if max_side is not None and min(image.size) > max_side:
        image = resize_shorter_side(image, max_side)
    return np.asarray(image, dtype=np.uint8)


def open_image(source: Path | str | bytes) -> Image.Image:
    """Open an image file, or its content. Pillow decodes the pixels at first access."""
    if not isinstance(source, bytes):
        check_regular(Path(source))  # a pipe would wait forever
    with _OPEN_LOCK, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


@contextmanager
def convert_image_errors(name: str) -> Iterator[None]:
    """Convert the errors that Pillow raises for an unreadable image to `BadImage` with a name."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit, reason = Image.MAX_IMAGE_PIXELS, str(error).partition(",")[0].lower()
        message = f"{name} is too large: {reason} (PIL.Image.MAX_IMAGE_PIXELS)"
        raise BadImage(message, owner=name, option="MAX_IMAGE_PIXELS", value=limit) from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # `BadData` is a ValueError, too
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "unknown format" if unknown else getattr(error, "strerror", None) or str(error)
        raise BadImage(f"{name} cannot be read as an image: {reason}", owner=name, value=name) from error


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB, with the orientation of its EXIF data.

    16 bits are scaled to 8, not clipped. Transparent pixels are blended with white. The first frame of an
    animation is used.

    Raises:
        BadData: The range of the pixels is unknown: floating-point pixels, or integers of more than 16 bits.

    Example:
        >>> as_rgb(Image.new("LA", (1, 1), (0, 0))).getpixel((0, 0))
        (255, 255, 255)
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        deep = np.asarray(image)
        low, high = int(deep.min()), int(deep.max())
        if low < 0 or high > 65535:
            message = f"pixels range from {low} to {high}; 8 or 16 bits were expected"
            raise BadData(message, owner="as_rgb", value=(low, high))
        return Image.fromarray(np.rint(deep / 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        message = "its pixels are floating-point numbers of unknown range; save it with 8 or 16 bits"
        raise BadData(message, owner="as_rgb", option="mode", value=image.mode)
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def center_crop(photograph: Photograph) -> Photograph:
    """Return the largest square at the center of an image."""
    height, width = photograph.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return photograph[top : top + side, left : left + side]


def resize_and_crop(photograph: Photograph, size: int) -> Photograph:
    """Return the center of an image as a square of `size` pixels, as tasks of images do."""
    image = ImageOps.fit(Image.fromarray(photograph), (size, size), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8)


def resize_and_crop_mask(photograph: Photograph, size: int) -> NDArray[np.bool_]:
    """Return the mask of an image, true where it is not black, aligned with `resize_and_crop`."""
    drawn = Image.fromarray((photograph.max(2) > 0).astype(np.uint8) * 255)
    return np.asarray(ImageOps.fit(drawn, (size, size), Image.Resampling.BOX)) >= 128


def resize_shorter_side(image: Image.Image, side: int) -> Image.Image:
    """Resize an image to a shorter side of `side` pixels; the aspect ratio is kept."""
    scale = side / min(image.size)
    width, height = (max(side, round(extent * scale)) for extent in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)
