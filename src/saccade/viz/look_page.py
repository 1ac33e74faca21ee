"""The result of `saccade.look`: attention maps of a model, as images and as an interactive page."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from PIL import Image, PngImagePlugin
from torch import Tensor

from saccade.data import Photograph
from saccade.errors import UnknownName, check_positive_number
from saccade.files import atomic_write, check_folder
from saccade.maps import AttentionMap, SpatialMap
from saccade.viz.html import MARKER, render_page
from saccade.viz.inputs import PreparedInputs
from saccade.viz.methods import Method
from saccade.viz.overlay import ALPHA, CMAPS, blend, draw_marks, enlarge, palette
from saccade.viz.payload import pack_maps, select_images

MAX_IMAGES = 24  # images on a page
#: Size of factors and features in bytes, before base64: of a file, and of the output of a notebook cell.
PAGE_BUDGET, NOTEBOOK_BUDGET = 24 << 20, 6 << 20
_SOFTWARE = b"Software\0saccade"  # in the header of every PNG file

_CAM = "{} shows the positions of a layer whose features increase the explained score."
#: What the maps of a method show, if they are not the attention of single layers.
EXPLANATIONS = {
    "rollout": "Attention rollout: the attention of all layers, multiplied from the output to the input.",
    "relevance": "Relevance: the attention of all layers, weighted by the gradient of the explained score.",
    "legrad": "LeGrad: how much the explained score gains from attention to a position, over all layers.",
    "grad_cam": _CAM.format("Grad-CAM"),
    "grad_cam++": _CAM.format("Grad-CAM++"),
    "hires_cam": _CAM.format("HiResCAM"),
    "layer_cam": _CAM.format("LayerCAM"),
    "eigen_cam": "Eigen-CAM shows the strongest common pattern of the features of a layer, for no class.",
    "guided_grad_cam": "Guided Grad-CAM shows the pixels that increase the explained score.",
}


@dataclass(frozen=True, eq=False, repr=False)
class Look:
    """Attention maps of a model for several images and layers; the result of `look`.

    Attributes:
        title: Class name of the model.
        method: The method of `look` that made the maps.
        inputs: The inputs, the images to draw on, and their names.
        maps: Attention maps by path.
        saliency: Saliency of each map, (B, h, w), in the units of the map, on the CPU.
        left_out: Reasons, by path, why other maps cannot be drawn.
        outliers: Whether each token of an attention layer has an outlying norm, (B, N), tokens without a
            position first, by path, for the layers that have such tokens. The page marks them.
        captions: What the page says above each image; by default, its name.
    """

    title: str
    method: Method
    inputs: PreparedInputs
    maps: Mapping[str, AttentionMap]
    saliency: Mapping[str, Tensor]
    left_out: Mapping[str, str]
    outliers: Mapping[str, Tensor]
    captions: Sequence[str] = ()

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
        pairs = zip(self.saliency[path], self.inputs.display_images, strict=True)
        return [SpatialMap(heat[None]).heatmap(image.shape[:2])[0] for heat, image in pairs]

    def overlay(self, path: str, image: int = 0, *, cmap: str = CMAPS[0], alpha: float = ALPHA) -> Photograph:
        """Return an image with the heat map and marks of a layer on it, (h, w, 3) uint8.

        Marks, such as numbered fixations, do not fit on a small image: it is enlarged by a whole factor.
        """
        if path not in self.maps:
            raise UnknownName("layer", path, self.maps, owner="look")
        below = enlarge(self.inputs.display_images[image], self.maps[path])
        heat = SpatialMap(self.saliency[path][image][None]).heatmap(below.shape[:2])[0].numpy()
        return draw_marks(blend(below, heat, palette(cmap), alpha), self.maps[path], image)

    def save_png(
        self, folder: str | Path, *, cmap: str = CMAPS[0], alpha: float = ALPHA, overwrite: bool = False
    ) -> list[Path]:
        """Write one PNG per image and layer, `NAME.LAYER.png`, at the size of the image, see `overlay`.

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
        first = slice(MAX_IMAGES)
        data = pack_maps(
            {path: select_images(attention, first) for path, attention in self.maps.items()},
            {path: values[first] for path, values in self.saliency.items()},
            self.inputs.display_images[first],
            self.inputs.names[first],
            budget,
            outliers={path: tokens[first] for path, tokens in self.outliers.items()},
        )
        images, layers = data["images"], data["layers"]
        captions = self.captions or self.inputs.names
        return render_page(
            "look",
            data={
                "title": self.title,
                "about": EXPLANATIONS.get(self.method),
                "images": [
                    {key: image[key] for key in ("name", "width", "height")} | {"caption": caption}
                    for image, caption in zip(images, captions, strict=False)
                ],
                "layers": layers,
            },
            look=self,
            about=EXPLANATIONS.get(self.method),
            images=images,
            layers=layers,
            labels=shorten_paths([path or self.title for path in self.maps]),
        )


def shorten_paths(paths: list[str]) -> list[str]:
    """Drop the levels that all paths start or end with, and the levels that `attach` adds.

    Example:
        >>> shorten_paths(["layer1.0.attention.mechanism.channel", "layer1.0.attention.mechanism.spatial"])
        ['channel', 'spatial']
        >>> shorten_paths(["layer1.0.attention.mechanism.channel", "layer2.0.attention.mechanism.spatial"])
        ['layer1.0.channel', 'layer2.0.spatial']
        >>> shorten_paths(["blocks.0.attn", "blocks.1.attn"])
        ['0', '1']
        >>> shorten_paths(["attention.1.channel", "attention.2"])
        ['1.channel', '2']
    """
    levels = [path.replace(".attention.mechanism", "").split(".") for path in paths]
    for end in (0, -1):
        while min(map(len, levels)) > 1 and len({path[end] for path in levels}) == 1:
            for path in levels:
                del path[end]
    return [".".join(path) for path in levels]


def _png_info() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", "saccade")
    return info


def _distinct(names: Iterable[str]) -> list[str]:
    distinct: list[str] = []
    for name in names:
        numbered = (f"{name}-{number}" for number in count(2))
        distinct.append(next(text for text in chain([name], numbered) if text not in distinct))
    return distinct


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.\-]+", "-", name).strip("-.") or "image"
