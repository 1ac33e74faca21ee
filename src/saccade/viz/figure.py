"""`look`: run a model on images and return its attention maps, to draw on the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from saccade.annotations import check_arguments
from saccade.attribution import Target
from saccade.errors import BadData, BadShape
from saccade.maps import AttentionMap, UnplacedWindowMap
from saccade.recording import Adapter
from saccade.viz.inputs import ImageLike, Images, Transform, prepare_inputs
from saccade.viz.look_page import Look
from saccade.viz.methods import Method, maps_of
from saccade.viz.payload import sheet_map


def look(
    model: nn.Module,
    images: Images,
    *,
    layers: str | Sequence[str] | None = None,
    method: Method | None = None,
    target: Target = None,
    adapters: Mapping[type[nn.Module], Adapter] | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    transform: Transform | None = None,
    size: int | tuple[int, int] = 224,
    display_images: Sequence[ImageLike] | None = None,
    names: Sequence[str] | None = None,
) -> Look:
    """Run a model on images and return its attention maps, or maps that explain a class.

    In a notebook the result displays as an interactive page with layers, heads, color maps and selectable
    positions. `save_html` writes this page, `save_png` writes images, and `maps` holds the values.

    The page marks tokens of outlying norm, which take the attention of all others in large transformers.
    To find them, the model runs once more.

    The model runs in evaluation mode; its state is restored. Inputs created here are moved to the device and
    dtype of the model.

    Args:
        model: The model.
        images: A tensor (B, 3, H, W) that the model accepts, or one or more paths, PIL images or uint8
            arrays (H, W, 3). Clips (B, 3, T, H, W) are shown as contact sheets of their frames.
        layers: Paths of attention layers, as `record` names them; by default, all. For the methods of
            `saccade.attribution.grad_cam`, paths of modules; by default, the last one with an image grid.
        method: "attention"; "rollout" of the attention; "relevance" or "legrad", which weight attention by
            the gradient of a score; or a method of `saccade.attribution.grad_cam`. By default, attention if a
            layer has weights with a place in the image or is a mechanism of this package, otherwise Grad-CAM.
        target: The score that is explained: a class, one class for each image, or a function of the model's
            output; see `saccade.attribution.grad_cam`. By default, the predicted class.
        adapters: Further classes of attention; see `saccade.record`.
        model_kwargs: Further keyword arguments of the model, such as the tokens of a text.
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
        NothingRecorded: The method needs attention that the model does not have.
        BadData: An image cannot be read, or a map is not finite.
        BadShape: No map has two spatial axes, or the output of the model holds no scores.
        BadOption: The forward pass fails, or an option is out of range.

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
    prepared = prepare_inputs(
        images, transform=transform, size=size, display_images=display_images, names=names
    )
    inputs = prepared.inputs if isinstance(images, Tensor) else _to_model(model, prepared.inputs)
    paths = [layers] if isinstance(layers, str) else layers
    made = maps_of(
        model, inputs, method, layers=paths, target=target, adapters=adapters, model_kwargs=model_kwargs
    )
    maps = made.maps
    if inputs.ndim == 5:
        frames = tuple(inputs.shape[2:])
        maps = {path: sheet_map(attention, frames) for path, attention in maps.items()}
    title = type(getattr(model, "_orig_mod", model)).__name__
    return Look(title, made.method, prepared, *_drawable(maps, len(inputs)), made.outliers)


def _to_model(model: nn.Module, inputs: Tensor) -> Tensor:
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    return inputs if first is None else inputs.to(first.device, first.dtype)


def _drawable(
    maps: Mapping[str, AttentionMap], images: int
) -> tuple[dict[str, AttentionMap], dict[str, Tensor], dict[str, str]]:
    """Separate maps that can be drawn, with their saliency, from those that cannot."""
    drawable, saliency, left_out = {}, {}, {}
    for path, attention in maps.items():
        values = attention.saliency().detach().float().cpu()
        if isinstance(attention, UnplacedWindowMap):
            left_out[path] = "attention within windows whose places in the image are unknown"
        elif values.ndim != 3 or len(values) != images:
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
