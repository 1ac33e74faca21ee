"""`look`: run a model on images and draw its attention maps, as images and as an interactive page."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from torch import Tensor, nn

from saccade.annotations import check_arguments
from saccade.attribution import grad_cam, last_layer
from saccade.data import Photograph
from saccade.errors import (
    BadData,
    BadShape,
    NothingRecorded,
    UnknownName,
    check_choice,
    check_positive_number,
)
from saccade.files import atomic_write, check_folder
from saccade.maps import AttentionMap, SpatialMap
from saccade.model_state import preserve_state
from saccade.recording import record
from saccade.viz.html import MARKER
from saccade.viz.inputs import ImageLike, Images, PreparedInputs, Transform, prepare_inputs
from saccade.viz.look_page import NOTEBOOK_BUDGET, PAGE_BUDGET, render_look
from saccade.viz.overlay import ALPHA, CMAPS, blend, draw_marks, palette
from saccade.viz.payload import sheet_map

Method = Literal["attention", "grad_cam"]
_SOFTWARE = b"Software\0saccade"  # in the header of every PNG file


def look(
    model: nn.Module,
    images: Images,
    *,
    layers: str | Sequence[str] | None = None,
    method: Method | None = None,
    transform: Transform | None = None,
    size: int | tuple[int, int] = 224,
    display_images: Sequence[ImageLike] | None = None,
    names: Sequence[str] | None = None,
) -> Look:
    """Run a model on images and return the attention maps of its layers.

    In a notebook the result displays as an interactive page with layers, heads, color maps and selectable
    positions. `save_html` writes this page, `save_png` writes images, and `maps` holds the values.

    The model runs once in evaluation mode; its state is restored. Inputs created here are moved to the
    device and dtype of the model.

    Args:
        model: The model.
        images: A tensor (B, 3, H, W) that the model accepts, or one or more paths, PIL images or uint8
            arrays (H, W, 3). Clips (B, 3, T, H, W) are shown as contact sheets of their frames.
        layers: Paths of attention layers, as `record` names them; by default, all. For Grad-CAM, paths of
            modules; by default, the last module with spatial positions.
        method: "attention" or "grad_cam". By default, attention if the model has any, otherwise Grad-CAM of
            the predicted class.
        transform: Maps a PIL image to a model input (3, H, W). By default, the whole image is resized to
            `size` and normalized with the statistics of ImageNet.
        size: Height and width of inputs without `transform`, or one number for both.
        display_images: Images to draw on, one per input, of any size, with the field of view of the input. By
            default, the given images unless a transform may have cropped them; otherwise the inputs: values
            in [0, 1] unchanged, values in the range of ImageNet normalization denormalized, other values
            scaled to [0, 1].
        names: Names of the images; by default, their file names.

    Raises:
        UnknownName: A layer has no map.
        NothingRecorded: `method="attention"`, and the model has no attention.
        BadData: An image cannot be read, or a map is not finite.
        BadShape: No map has two spatial axes.

    Example:
        >>> import torch, saccade as sc
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), sc.create("cbam", 16))
        >>> result = sc.look(model, torch.rand(2, 3, 32, 32))
        >>> result
        Look(Sequential, 2 images, '1.channel': channel, '1.spatial': spatial)
        >>> result.heatmaps("1.spatial")[0].shape
        torch.Size([32, 32])
    """
    check_arguments(look, {"model": model, "layers": layers, "size": size})
    if method is not None:
        check_choice("look", "method", method, get_args(Method))
    prepared = prepare_inputs(
        images, transform=transform, size=size, display_images=display_images, names=names
    )
    inputs = prepared.inputs if isinstance(images, Tensor) else _to_model(model, prepared.inputs)
    paths = [layers] if isinstance(layers, str) else layers
    maps: Mapping[str, AttentionMap] = {}
    if method != "grad_cam":
        try:
            maps = _attention(model, inputs, paths)
        except NothingRecorded:
            if method == "attention":
                raise
    has_attention = bool(maps)
    is_clip = inputs.ndim == 5
    if is_clip:
        maps = {path: sheet_map(attention, tuple(inputs.shape[2:])) for path, attention in maps.items()}
    if not has_attention:
        if is_clip:
            problem = "the model has no attention, and Grad-CAM needs images (B, C, H, W), not clips"
            raise BadShape.of("look", problem, images=tuple(inputs.shape))
        paths = [last_layer(model, inputs)] if paths is None else paths
        maps = {path: grad_cam(model, inputs, path) for path in paths}
    return Look(
        type(getattr(model, "_orig_mod", model)).__name__,
        "attention" if has_attention else "grad_cam",
        prepared,
        *_drawable(maps, len(inputs)),
    )


@dataclass(frozen=True, eq=False, repr=False)
class Look:
    """Attention maps of a model for several images and layers; the result of `look`.

    Attributes:
        title: Class name of the model.
        method: "attention", or "grad_cam" for the gradients of the predicted class.
        inputs: The inputs, the images to draw on, and their names.
        maps: Attention maps by path.
        saliency: Saliency of each map, (B, h, w), in the units of the map, on the CPU.
        left_out: Reasons, by path, why other maps cannot be drawn.
    """

    title: str
    method: Method
    inputs: PreparedInputs
    maps: Mapping[str, AttentionMap]
    saliency: Mapping[str, Tensor]
    left_out: Mapping[str, str]

    def __repr__(self) -> str:
        count = len(self.inputs.names)
        layers = "".join(f", {path!r}: {attention.kind}" for path, attention in self.maps.items())
        return f"Look({self.title}, {count} image{'' if count == 1 else 's'}{layers})"

    def heatmaps(self, path: str) -> list[Tensor]:
        """Return the heat map of a layer for each image, (h, w) in [0, 1], at the size of the image.

        Raises:
            UnknownName: The layer has no map.
        """
        if path not in self.maps:
            raise UnknownName("layer", path, self.maps, owner="look")
        heat = self.saliency[path]
        return [
            SpatialMap(heat[index : index + 1]).heatmap(image.shape[:2])[0]
            for index, image in enumerate(self.inputs.display_images)
        ]

    def overlay(self, path: str, image: int = 0, *, cmap: str = CMAPS[0], alpha: float = ALPHA) -> Photograph:
        """Return an image with the heat map and marks of a layer on it, (h, w, 3) uint8."""
        heat: NDArray[np.floating] = self.heatmaps(path)[image].numpy()
        blended = blend(self.inputs.display_images[image], heat, palette(cmap), alpha)
        return draw_marks(blended, self.maps[path], image)

    def save_png(
        self, folder: str | Path, *, cmap: str = CMAPS[0], alpha: float = ALPHA, overwrite: bool = False
    ) -> list[Path]:
        """Write one PNG per image and layer, `NAME.LAYER.png`, at the size of the image.

        Images with a shorter side of more than 1,200 pixels are reduced.

        Args:
            folder: Output folder.
            cmap: Color map: magma, viridis or cividis.
            alpha: Opacity of the heat map, from 0 to 1.
            overwrite: Whether to replace files that saccade has not written.

        Returns:
            Paths of the files.

        Raises:
            BadRun: The folder cannot be written, or it holds a file of this name that is not a picture of
                saccade.
            BadOption: The color map is unknown, or alpha is out of range.
        """
        check_folder(Path(folder))
        check_positive_number("look", alpha=alpha or 1)
        paths = []
        for index, name in enumerate(_distinct(map(_file_name, self.inputs.names))):
            for path in self.maps:
                target = Path(folder) / f"{name}.{_file_name(path or self.title)}.png"
                picture = self.overlay(path, index, cmap=cmap, alpha=alpha)
                with atomic_write(target, marker=_SOFTWARE, overwrite=overwrite) as file:
                    Image.fromarray(picture).save(file, "png", pnginfo=_png_info())
                paths.append(target)
        return paths

    def save_html(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the interactive page, one self-contained file, and return its path.

        Most of its size are the factors of pairwise attention. The page names the images whose factors
        exceed the size limit; their heat maps are shown.

        Args:
            path: The file.
            overwrite: Whether to replace a file that saccade has not written.

        Raises:
            BadRun: The file cannot be written, or it exists and is not a page of saccade.
        """
        with atomic_write(Path(path), marker=MARKER, overwrite=overwrite) as file:
            file.write(self._render().encode("utf-8", "replace"))  # names may hold lone surrogates
        return Path(path)

    def _repr_html_(self) -> str:
        """Return the page in a frame, which isolates it from the styles and scripts of the notebook."""
        page = html.escape(self._render(NOTEBOOK_BUDGET), quote=True)
        return (
            f'<iframe srcdoc="{page}" sandbox="allow-scripts" title="Attention of {html.escape(self.title)}" '
            'style="width:100%;height:860px;border:0;color-scheme:light dark"></iframe>'
        )

    def _render(self, budget: int = PAGE_BUDGET) -> str:
        return render_look(
            self.title, self.method, self.inputs, self.maps, self.saliency, self.left_out, budget
        )


def _png_info() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", "saccade")
    return info


def _to_model(model: nn.Module, inputs: Tensor) -> Tensor:
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    return inputs if first is None else inputs.to(first.device, first.dtype)


def _attention(model: nn.Module, inputs: Tensor, layers: Sequence[str] | None) -> dict[str, AttentionMap]:
    with preserve_state(model, (inputs,)), record(model) as recorded:
        model(inputs)
    if layers is None:
        return dict(recorded)
    maps = {}
    for layer in layers:
        attention = recorded[layer]
        maps[next(path for path, other in recorded.items() if other is attention)] = attention
    return maps


def _drawable(
    maps: Mapping[str, AttentionMap], images: int
) -> tuple[dict[str, AttentionMap], dict[str, Tensor], dict[str, str]]:
    """Separate maps that can be drawn, with their saliency, from those that cannot."""
    drawable, saliency, left_out = {}, {}, {}
    for path, attention in maps.items():
        values = attention.saliency().detach().float().cpu()
        if values.ndim != 3 or len(values) != images:
            left_out[path] = f"a {attention.kind} map of shape {tuple(values.shape)}, not ({images}, h, w)"
        elif not values.isfinite().all():
            problem = f"the map of {path!r} contains values that are not finite: choose other layers"
            raise BadData.of("look", problem, layers=path)
        else:
            drawable[path], saliency[path] = attention, values
    if not drawable:
        reasons = "; ".join(f"{path!r} is {reason}" for path, reason in left_out.items())
        raise BadShape.of("look", f"no map can be drawn on an image: {reasons}", layers=None)
    return drawable, saliency, left_out


def _distinct(names: Iterable[str]) -> list[str]:
    distinct: list[str] = []
    for name in names:
        candidate, number = name, 2
        while candidate in distinct:
            candidate, number = f"{name}-{number}", number + 1
        distinct.append(candidate)
    return distinct


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.\-]+", "-", name).strip("-.") or "image"
