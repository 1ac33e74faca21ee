"""The interactive page of `saccade.look`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from saccade.maps import AttentionMap
from saccade.viz.html import render_page
from saccade.viz.inputs import PreparedInputs
from saccade.viz.payload import pack_maps, select_images

MAX_IMAGES = 24  # images on a page
#: Size of factors and features in bytes, before base64: of a file, and of the output of a notebook cell.
PAGE_BUDGET, NOTEBOOK_BUDGET = 24 << 20, 6 << 20


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


def render_look(
    title: str,
    method: str,
    images: PreparedInputs,
    maps: Mapping[str, AttentionMap],
    saliency: Mapping[str, Tensor],
    left_out: Mapping[str, str],
    budget: int = PAGE_BUDGET,
) -> str:
    """Return the page as HTML.

    Args:
        title: Name of the model.
        method: The method of `look` that made the maps.
        images: The images. The page shows the first `MAX_IMAGES`.
        maps: Attention maps by path.
        saliency: Saliency of each map, (B, h, w).
        left_out: Reasons, by path, why other maps are not shown.
        budget: Maximum size of factors and features in bytes.
    """
    first = slice(MAX_IMAGES)
    data = pack_maps(
        {path: select_images(attention, first) for path, attention in maps.items()},
        {path: values[first] for path, values in saliency.items()},
        images.display_images[first],
        images.names[first],
        budget,
    )
    shown = data.pop("images")
    return render_page(
        "look",
        data={
            "title": title,
            "method": method,
            "about": EXPLANATIONS.get(method),
            "images": [{key: image[key] for key in ("name", "width", "height")} for image in shown],
            "layers": data["layers"],
        },
        title=title,
        about=EXPLANATIONS.get(method),
        images=shown,
        layers=data["layers"],
        labels=shorten_paths([path or title for path in maps]),
        total=len(images.names),
        left_out=left_out,
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
