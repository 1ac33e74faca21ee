"""Images in the two forms that `look` needs: as inputs of the model and as images to draw on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from saccade.data import Photograph, as_rgb, contact_sheet, read_image, resize_shorter_side
from saccade.errors import BadData, BadOption, BadShape, bad_option
from saccade.maps import normalize

ImageLike: TypeAlias = str | Path | Image.Image | NDArray[np.generic]
Images: TypeAlias = Tensor | ImageLike | Sequence[ImageLike]
Transform: TypeAlias = Callable[[Image.Image], Tensor]

_MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]  # of ImageNet
_STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
_MAX_SIDE = 1200  # shorter side of an image to draw on
_TOLERANCE = 0.02  # interpolation may leave [0, 1] by this much


@dataclass(frozen=True, eq=False)
class PreparedInputs:
    """Model inputs with the images that show them.

    Attributes:
        inputs: Inputs of the model, (B, C, H, W), or clips (B, C, T, H, W).
        display_images: Images to draw on, (h, w, 3) uint8 of any size, with the field of view of the inputs.
        names: Names of the images.
    """

    inputs: Tensor
    display_images: tuple[Photograph, ...]
    names: tuple[str, ...]


def prepare_inputs(
    images: Images,
    *,
    transform: Transform | None = None,
    size: int | tuple[int, int] = 224,
    display_images: Sequence[ImageLike] | None = None,
    names: Sequence[str] | None = None,
) -> PreparedInputs:
    """Prepare images for a model and for drawing. For the arguments, see `saccade.look`."""
    shown: list[Photograph] | None = None
    if isinstance(images, Tensor):
        if transform is not None:
            problem = "transform applies to paths, PIL images and arrays; a tensor is used unchanged"
            raise BadOption.of("look", problem, transform=None)
        if images.ndim not in (4, 5) or 0 in images.shape:
            shape = tuple(images.shape)
            problem = f"images of shape {shape}: expected (B, C, H, W) or clips (B, C, T, H, W)"
            raise BadShape.of("look", problem, images=shape)
        inputs = images
        default_names = [f"image {number}" for number in range(1, len(images) + 1)]
    else:
        items = _as_list(images)
        shown = [_photograph(image) for image in items]
        default_names = [_name(image, number) for number, image in enumerate(items, start=1)]
        if transform is None:
            inputs = torch.stack([_imagenet_input(photograph, size) for photograph in shown])
        else:
            inputs, shown = _transform_all(shown, transform), None  # the transform may crop
    if display_images is not None:
        shown = [_photograph(image) for image in display_images]
    elif shown is None:
        shown = _display_images(inputs if inputs.ndim == 4 else contact_sheet(inputs))
    names = default_names if names is None else names
    for option, values in (("display_images", shown), ("names", names)):
        if len(values) != len(inputs):
            problem = f"{len(values)} {option} for {len(inputs)} images"
            raise BadOption.of("look", problem, **{option: len(values)})
    return PreparedInputs(inputs, tuple(map(_reduced, shown)), tuple(names))


def _reduced(photograph: Photograph) -> Photograph:
    """Reduce a large image to a shorter side of `_MAX_SIDE`: full photographs make pages slow."""
    if min(photograph.shape[:2]) <= _MAX_SIDE:
        return photograph
    return np.asarray(resize_shorter_side(Image.fromarray(photograph), _MAX_SIDE), dtype=np.uint8)


def _as_list(images: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    if isinstance(images, np.ndarray):
        is_one = images.ndim <= 3
    else:
        is_one = isinstance(images, str | Path | Image.Image)
    items: list[Any] = [*images] if isinstance(images, Iterable) and not is_one else [images]
    if not items:
        raise BadData.of("look", "images is empty: expected at least one image", images=[])
    return items


def _photograph(image: ImageLike) -> Photograph:
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, np.ndarray):
        is_gray = image.ndim == 2 and image.dtype in (np.uint8, np.uint16)
        is_color = image.ndim == 3 and image.shape[2] in (3, 4) and image.dtype == np.uint8
        if not (is_gray or is_color) or 0 in image.shape:
            form = f"shape {image.shape} and type {image.dtype}"
            problem = f"an array of {form} is not an image: expected (H, W, 3) uint8"
            raise BadData.of("look", problem, images=image.shape)
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise BadData.of(
            "look",
            f"images has an item of type {type(image).__name__}: expected a path, a PIL image or an array",
            images=type(image).__name__,
        )
    return np.asarray(as_rgb(image), dtype=np.uint8)


def _name(image: ImageLike, number: int) -> str:
    path = image if isinstance(image, str | Path) else getattr(image, "filename", None)
    return Path(path).stem if path else f"image {number}"


def _imagenet_input(photograph: Photograph, size: int | tuple[int, int]) -> Tensor:
    """Resize a whole photograph and normalize it with the statistics of ImageNet."""
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise bad_option("look", "must be at least 1", size=size)
    resized = Image.fromarray(photograph).resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1).float() / 255
    return (pixels - _MEAN) / _STD


def _transform_all(photographs: Sequence[Photograph], transform: Transform) -> Tensor:
    inputs = [transform(Image.fromarray(photograph)) for photograph in photographs]
    for result in inputs:
        if not isinstance(result, Tensor) or result.ndim != 3 or result.shape != inputs[0].shape:
            actual = tuple(result.shape) if isinstance(result, Tensor) else f"a {type(result).__name__}"
            problem = f"transform must return tensors (C, H, W) of one shape, got {actual}"
            raise BadShape.of("look", problem, transform=actual)
    return torch.stack(inputs)


def _display_images(inputs: Tensor) -> list[Photograph]:
    """Convert inputs to images: values in [0, 1], ImageNet normalization, or any other range."""
    channels = inputs.shape[1]
    if channels not in (1, 3):
        problem = f"images of {channels} channels cannot be displayed: pass display_images="
        raise BadShape.of("look", problem, display_images=channels)
    pixels = inputs.detach().cpu()
    unit = pixels.float() / 255 if pixels.dtype == torch.uint8 else _unit_range(pixels.float())
    levels = (255 * unit.clamp(0, 1)).round().to(torch.uint8).expand(-1, 3, -1, -1)
    return [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in levels]


def _unit_range(pixels: Tensor) -> Tensor:
    if not pixels.isfinite().all():
        raise BadData.of("look", "images contains values that are not finite", images=None)
    for candidate in (pixels, pixels * _STD + _MEAN) if pixels.shape[1] == 3 else (pixels,):
        if candidate.min() >= -_TOLERANCE and candidate.max() <= 1 + _TOLERANCE:
            return candidate
    return normalize(pixels)
