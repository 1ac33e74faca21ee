"""Images as a model takes them, and as the pictures over which its maps are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from saccade.data.clips import contact_sheet
from saccade.data.images import Photograph, as_rgb, read_image
from saccade.errors import BadData, BadOption, BadShape

ImageLike: TypeAlias = "str | Path | Image.Image | NDArray[np.generic]"
Images: TypeAlias = "Tensor | ImageLike | Sequence[ImageLike]"
Transform: TypeAlias = Callable[[Image.Image], Tensor]

_MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]  # of ImageNet, as its pretrained models want
_STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
_TOLERANCE = 0.02  # how far beyond [0, 1] an interpolated picture may reach


@dataclass(frozen=True, eq=False)
class Shots:
    """`inputs` (B, C, H, W), or (B, C, T, H, W), for the model; of each the `pictures` (h, w, 3) and `names`.

    A picture shows the field of its input, no more and no less, at any resolution.
    """

    inputs: Tensor
    display_images: tuple[Photograph, ...]
    names: tuple[str, ...]


def gather(
    images: Images,
    *,
    transform: Transform | None = None,
    size: int | tuple[int, int] = 224,
    display_images: Sequence[ImageLike] | None = None,
    names: Sequence[str] | None = None,
) -> Shots:
    """Prepare images for a model, and the pictures to draw over; see `saccade.look`."""
    if isinstance(images, Tensor):
        if transform is not None:
            raise BadOption("transform is for paths, PIL images and arrays; a tensor is taken as it is")
        if images.ndim not in (4, 5) or 0 in images.shape:
            raise BadShape(
                f"images of shape {tuple(images.shape)}; a batch is (B, C, H, W), of clips (B, C, T, H, W)"
            )
        inputs, shown = images, None
        found = [f"image {number}" for number in range(1, len(images) + 1)]
    else:
        several = _several(images)
        shown = [_photograph(image) for image in several]
        found = [_name(image, number) for number, image in enumerate(several, start=1)]
        if transform is None:
            inputs = torch.stack([_as_imagenet(photograph, size) for photograph in shown])
        else:
            inputs, shown = _transformed(shown, transform), None  # which may have cut them
    if display_images is not None:
        shown = [_photograph(picture) for picture in display_images]
    elif shown is None:
        shown = _visible(inputs if inputs.ndim == 4 else contact_sheet(inputs))
    for what, given in (("display_images", shown), ("names", names if names is not None else found)):
        if len(given) != len(inputs):
            raise BadOption(f"{len(given)} {what} for {len(inputs)} images")
    return Shots(inputs, tuple(shown), tuple(names if names is not None else found))


def _several(images: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    if isinstance(images, np.ndarray):
        several: list[ImageLike] = [images] if images.ndim <= 3 else [*images]
    else:
        several = [images] if isinstance(images, str | Path | Image.Image) else [*images]
    if not several:
        raise BadData("there is no image to look at")
    return several


def _photograph(image: ImageLike) -> Photograph:
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, np.ndarray):
        fits = (image.ndim == 2 and image.dtype in (np.uint8, np.uint16)) or (
            image.ndim == 3 and image.shape[2] in (3, 4) and image.dtype == np.uint8
        )
        if not fits or 0 in image.shape:
            raise BadData(
                f"an array of shape {image.shape} and type {image.dtype} is no image; "
                "(H, W, 3) of uint8 was expected"
            )
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise BadData(f"a {type(image).__name__} is no image; a path, a PIL image or an array was expected")
    return np.asarray(as_rgb(image), dtype=np.uint8)


def _name(image: ImageLike, number: int) -> str:
    path = image if isinstance(image, str | Path) else getattr(image, "filename", None)
    return Path(path).stem if path else f"image {number}"


def _as_imagenet(photograph: Photograph, size: int | tuple[int, int]) -> Tensor:
    """The whole photograph at the given size, normalized as the models trained on ImageNet want it."""
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise BadOption(f"size={size!r} must be at least 1")
    small = Image.fromarray(photograph).resize((width, height), Image.Resampling.BILINEAR)
    return (_tensor(np.asarray(small)) - _MEAN) / _STD


def _tensor(photograph: Photograph) -> Tensor:
    return torch.from_numpy(photograph.copy()).permute(2, 0, 1).float() / 255


def _transformed(photographs: Sequence[Photograph], transform: Transform) -> Tensor:
    inputs = [transform(Image.fromarray(photograph)) for photograph in photographs]
    for result in inputs:
        if not isinstance(result, Tensor) or result.ndim != 3 or result.shape != inputs[0].shape:
            its = tuple(result.shape) if isinstance(result, Tensor) else f"a {type(result).__name__}"
            raise BadShape(f"transform must return tensors (C, H, W), all of one shape, not {its}")
    return torch.stack(inputs)


def _visible(inputs: Tensor) -> list[Photograph]:
    """Turn what a model takes back into pictures; see `saccade.look` for the three guesses."""
    if inputs.shape[1] not in (1, 3):
        raise BadShape(
            f"images of {inputs.shape[1]} channels cannot be drawn; "
            "give display_images= to draw the maps over"
        )
    pixels = inputs.detach().cpu()
    unit = pixels.float() / 255 if pixels.dtype == torch.uint8 else _unit(pixels.float())
    levels = (255 * unit.clamp(0, 1)).round().to(torch.uint8).expand(-1, 3, -1, -1)
    return [np.ascontiguousarray(picture.permute(1, 2, 0).numpy()) for picture in levels]


def _unit(pixels: Tensor) -> Tensor:
    if not pixels.isfinite().all():
        raise BadData("the images hold values that are not finite")
    guesses = [pixels]
    if pixels.shape[1] == 3:
        guesses.append(pixels * _STD + _MEAN)
    for guess in guesses:
        if guess.min() >= -_TOLERANCE and guess.max() <= 1 + _TOLERANCE:
            return guess
    low, high = pixels.amin((1, 2, 3), keepdim=True), pixels.amax((1, 2, 3), keepdim=True)
    return (pixels - low) / (high - low).clamp_min(1e-12)
