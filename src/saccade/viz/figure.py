"""`look`: run a model on images and keep where it looked, as pictures and as a page."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from saccade._torch import uncompiled
from saccade.attribution import grad_cam, last_layer
from saccade.data.clips import heat_sheet
from saccade.data.images import Photograph
from saccade.errors import BadData, BadShape, NothingRecorded, UnknownName, check_choice
from saccade.files import atomic_write
from saccade.maps import AttentionMap, SpatialMap
from saccade.model_state import preserve_state
from saccade.recording import record
from saccade.viz import overlay as drawing
from saccade.viz.inputs import ImageLike, Images, Shots, Transform, gather

Method = Literal["attention", "grad_cam"]


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
    """Run a model on images and return where each of its attention layers looks.

    In a notebook the result displays itself: one page on which layers, heads, colors and pixels can be
    chosen. `save_html` writes that page, `save_png` pictures, and `maps` holds the numbers.

    images      a tensor (B, 3, H, W) as the model takes it; or one or several paths, PIL images or arrays
                (H, W, 3) of uint8. Of a tensor of clips, (B, 3, T, H, W), each is shown as one sheet of its
                frames, see `saccade.data.clips`, with the heat of every frame in its place
    layers      paths of the mechanisms to show, as `record` names them; by default all. For Grad-CAM, paths
                of modules; by default the last one with places, see `grad_cam`
    method      "attention" or "grad_cam"; by default attention where the model has any, else Grad-CAM of
                the class that it predicts
    transform   from a PIL image to the model's input (3, H, W); by default the whole image is resized to
                `size`, (height, width) or one number for both, and normalized as ImageNet's models want it
    display_images  what to draw the maps over, one for each image, of any size, showing what the model is
                given.
                By default the images themselves where no transform may have cut them; else the inputs:
                in [0, 1] as they are, after ImageNet's normalization undone, other values stretched
    names       how to call the images; by default by the names of their files

    The model runs once, in evaluation mode, and comes back as it was. Inputs made here are moved to its
    device and precision.

    Raises `UnknownName` for a layer without a map, `NothingRecorded` if attention is asked for and there is
    none, `BadData` for an image that cannot be read or a map that is not finite, `BadShape` if no map can
    be drawn over an image.

    >>> import torch, saccade as sc
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), sc.create("cbam", 16))
    >>> seen = sc.look(model, torch.rand(2, 3, 32, 32))
    >>> seen
    Look(Sequential, 2 images, '1.channel': channel, '1.spatial': spatial)
    >>> seen.heatmaps("1.spatial")[0].shape
    torch.Size([32, 32])
    """
    if method is not None:
        check_choice("look", "method", method, ("attention", "grad_cam"))
    shots = gather(images, transform=transform, size=size, display_images=display_images, names=names)
    inputs = shots.inputs if isinstance(images, Tensor) else _for(model, shots.inputs)
    chosen = [layers] if isinstance(layers, str) else layers
    maps: Mapping[str, AttentionMap] = {}
    if method != "grad_cam":
        try:
            maps = _attention(model, inputs, chosen)
        except NothingRecorded:
            if method == "attention":
                raise
    attention = bool(maps)
    if inputs.ndim == 5:
        maps = {path: _on_sheets(its, tuple(inputs.shape[2:])) for path, its in maps.items()}
    if not attention:
        if inputs.ndim == 5:
            raise BadShape("Grad-CAM is of images, not of clips, and no attention was recorded")
        paths = [last_layer(model, inputs)] if chosen is None else chosen
        maps = {path: grad_cam(model, inputs, path) for path in paths}
    return Look(
        type(uncompiled(model)).__name__,
        "attention" if attention else "grad_cam",
        shots,
        *_drawable(maps, len(inputs)),
    )


@dataclass(frozen=True, eq=False, repr=False)
class Look:
    """Where a model looks, of several images and layers; `look` makes it.

    title       name of the model's class
    method      "attention", or "grad_cam" for the gradients of the class predicted
    maps        attention maps by the path of their layer
    saliency    of each the weight of each place, (B, h, w), in its own units, on the CPU
    left_out    layers whose maps cannot be drawn over an image, and why
    """

    title: str
    method: Method
    shots: Shots
    maps: Mapping[str, AttentionMap]
    saliency: Mapping[str, Tensor]
    left_out: Mapping[str, str]

    def __repr__(self) -> str:
        count = len(self.shots.names)
        layers = "".join(f", {path!r}: {attention.kind}" for path, attention in self.maps.items())
        return f"Look({self.title}, {count} image{'' if count == 1 else 's'}{layers})"

    def heatmaps(self, path: str) -> list[Tensor]:
        """Return a layer's heat in [0, 1] over each picture, (h, w) each. Raises `UnknownName`."""
        if path not in self.maps:
            raise UnknownName("layer", path, self.maps)
        heat = self.saliency[path]
        return [
            SpatialMap(heat[image : image + 1]).heatmap(picture.shape[:2])[0]
            for image, picture in enumerate(self.shots.display_images)
        ]

    def overlay(
        self, path: str, image: int = 0, *, cmap: str = drawing.COLORS[0], alpha: float = drawing.OPACITY
    ) -> Photograph:
        """Return a picture with a layer's heat and marks over it, uint8 (h, w, 3), at the picture's size."""
        heat: NDArray[np.floating] = self.heatmaps(path)[image].numpy()
        painted = drawing.blend(self.shots.display_images[image], heat, drawing.palette(cmap), alpha)
        return drawing.mark(painted, self.maps[path], image)

    def save_png(
        self, folder: str | Path, *, cmap: str = drawing.COLORS[0], alpha: float = drawing.OPACITY
    ) -> list[Path]:
        """Write a PNG of each image and layer, `NAME.LAYER.png`, at the image's own size, without a border.

        Returns their paths. Raises `BadRun` if the folder cannot be written, `BadOption` for colors other
        than magma, viridis and cividis or an opacity outside of [0, 1].
        """
        paths = []
        for image, name in enumerate(_distinct(map(_safe, self.shots.names))):
            for path in self.maps:
                target = Path(folder) / f"{name}.{_safe(path or self.title)}.png"
                painted = self.overlay(path, image, cmap=cmap, alpha=alpha)
                with atomic_write(target) as file:
                    Image.fromarray(painted).save(file, "png")
                paths.append(target)
        return paths

    def save_html(self, path: str | Path) -> Path:
        """Write the interactive page, one self-contained file, and return its path.

        The factors of pairwise attention take most of its bytes. Images for which they did not fit in are
        named on the page; their mean is there. Raises `BadRun` if the file cannot be written.
        """
        from saccade.viz.html import render

        with atomic_write(Path(path)) as file:
            file.write(render(self).encode())
        return Path(path)

    def _repr_html_(self) -> str:
        """The page in a frame of its own, which neither the notebook's styles nor its scripts enter."""
        from saccade.viz.html import NOTEBOOK, render

        page = html.escape(render(self, NOTEBOOK), quote=True)
        return (
            f'<iframe srcdoc="{page}" sandbox="allow-scripts" title="Where {html.escape(self.title)} looks" '
            'style="width:100%;height:860px;border:0;color-scheme:light dark"></iframe>'
        )


def _for(model: nn.Module, inputs: Tensor) -> Tensor:
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
        maps[next(path for path, its in recorded.items() if its is attention)] = attention
    return maps


def _on_sheets(attention: AttentionMap, frames: tuple[int, ...]) -> AttentionMap:
    """Return the map of clips, of space-time or of time alone, over the sheets of their frames."""
    weights = attention.saliency()
    return SpatialMap(heat_sheet(weights, frames)) if weights.ndim in (2, 4) else attention


def _drawable(
    maps: Mapping[str, AttentionMap], images: int
) -> tuple[dict[str, AttentionMap], dict[str, Tensor], dict[str, str]]:
    """Part the maps that can be drawn over images, with their saliency, from those that cannot."""
    drawable, saliency, left_out = {}, {}, {}
    for path, attention in maps.items():
        weight = attention.saliency().detach().float().cpu()
        if weight.ndim != 3 or len(weight) != images:
            left_out[path] = f"a {attention.kind} map of shape {tuple(weight.shape)}, not ({images}, h, w)"
        elif not weight.isfinite().all():
            raise BadData(f"the map of {path!r} holds values that are not finite; name other layers")
        else:
            drawable[path], saliency[path] = attention, weight
    if not drawable:
        reasons = "; ".join(f"{path!r} is {reason}" for path, reason in left_out.items())
        raise BadShape(f"no map can be drawn over an image: {reasons}")
    return drawable, saliency, left_out


def _distinct(names: Iterable[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        same, number = name, 2
        while same in found:
            same, number = f"{name}-{number}", number + 1
        found.append(same)
    return found


def _safe(name: str) -> str:
    return re.sub(r"[^\w.\-]+", "-", name).strip("-.") or "image"
