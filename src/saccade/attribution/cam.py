"""Grad-CAM: a heat map from the gradients of a classifier, for models without attention."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from saccade._torch import uncompiled
from saccade.annotations import check_arguments
from saccade.errors import BadOption, BadShape, UnknownName, bad_option
from saccade.maps import SpatialMap
from saccade.model_state import preserve_state, temporary_hooks

Outputs = dict[str, tuple[int, ...] | str]  # shapes of tensors, types of other outputs


def grad_cam(
    model: nn.Module,
    images: Tensor,
    layer: str | None = None,
    target: int | Sequence[int] | Tensor | None = None,
) -> SpatialMap:
    """Return the Grad-CAM map of a classifier: one weight for each position of the output A of a layer.

        a_c = mean_p d y_k / d A_cp        M_p = ReLU(sum_c a_c A_cp)

    y_k is the score of class k before the softmax, p a position, c a channel. Captum computes the map.

    References:
        Selvaraju et al.: Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization,
        ICCV 2017 (equations 1 and 2).

    Args:
        model: A classifier that maps images to scores `(B, classes)`. It runs in evaluation mode, and its
            flags, buffers, hooks and gradients and the random state are restored. The caller may be under
            `no_grad`.
        images: Images. Integers are converted to floating-point numbers of the same values.
        layer: Path of a module that returns `(B, C, h, w)`. Default: the module that ends last in the forward
            pass with h and w above 1. Channels come second; a channels-last network such as Swin needs a
            layer that returns channels first.
        target: Class k, one for all images or one for each. Default: the predicted class of each image.

    Returns:
        The map, `(B, h, w)`.

    Raises:
        UnknownName: If no module has the path `layer`.
        BadShape: If the output of the layer or the scores have another shape.
        BadOption: If a class does not exist, the layer does not run, or the scores do not depend on it.

    Shape:
        - images: `(B, 3, H, W)`

    Example:
        >>> import torch, saccade.models
        >>> model = saccade.models.SmallCNN(2)
        >>> grad_cam(model, torch.rand(4, 3, 32, 32)).weights.shape
        torch.Size([4, 4, 4])
    """
    check_arguments(grad_cam, locals())
    from captum.attr import LayerGradCam

    model = uncompiled(model)  # hooks do not run on a model that torch.compile has compiled
    modules = dict(model.named_modules())
    if layer is not None and layer not in modules:
        raise UnknownName("module", layer, modules, owner="grad_cam")
    with preserve_state(model, (images,)):
        images = images if images.is_floating_point() else images.float()
        images = images.detach().clone()  # an inference tensor cannot require gradients
        scores, outputs = _run(model, images)
        path = _layer(model, outputs, layer)
        classes = _classes(type(model).__name__, scores, target)
        try:
            heat: Tensor = LayerGradCam(model, modules[path]).attribute(
                images.requires_grad_(), target=classes.tolist(), relu_attributions=True
            )
        except RuntimeError as error:
            if "not have been used" not in str(error):
                raise
            message = f"grad_cam: the scores do not depend on layer {path!r}; choose another layer"
            raise BadOption(message, owner="grad_cam", option="layer", value=path) from error
    return SpatialMap(heat[:, 0].detach())


def last_layer(model: nn.Module, images: Tensor) -> str:
    """Return the path of the layer that `grad_cam` uses by default."""
    model = uncompiled(model)
    with preserve_state(model, (images,)):
        return _layer(model, _run(model, images)[1], None)


def _run(model: nn.Module, images: Tensor) -> tuple[object, Outputs]:
    """Return the output of the model, and the latest output of each module in the order of their ends."""
    outputs: Outputs = {}

    def keep(path: str, _module: nn.Module, _inputs: object, output: object) -> None:
        outputs.pop(path, None)
        outputs[path] = _described(output)

    hooks = (m.register_forward_hook(functools.partial(keep, path)) for path, m in model.named_modules())
    with temporary_hooks(hooks):
        return model(images), outputs


def _layer(model: nn.Module, outputs: Outputs, layer: str | None) -> str:
    """Return the path of the layer to use."""
    name = type(model).__name__
    maps = {path: shape for path, shape in outputs.items() if isinstance(shape, tuple) and len(shape) == 4}
    if layer is None:
        placed = [path for path, shape in maps.items() if min(shape[2:]) > 1]
        if not placed:
            message = f"grad_cam: no module of {name} returns (B, C, H, W) with H and W above 1"
            raise BadShape(message, owner="grad_cam", option="model", value=name)
        return placed[-1]
    if layer not in outputs:
        module = type(model.get_submodule(layer)).__name__
        message = f"grad_cam: layer {layer!r}, a {module}, does not run"
        raise BadOption(message, owner="grad_cam", option="layer", value=layer)
    if layer not in maps:
        message = f"grad_cam: layer {layer!r} returns {outputs[layer]}, expected (B, C, H, W)"
        raise BadShape(message, owner="grad_cam", option="layer", value=layer)
    return layer


def _classes(name: str, scores: object, target: int | Sequence[int] | Tensor | None) -> Tensor:
    """Return the class of each image, (B,)."""
    if not isinstance(scores, Tensor) or scores.ndim != 2:
        message = f"grad_cam: {name} returns {_described(scores)}, expected scores of shape (B, classes)"
        raise BadShape(message, owner="grad_cam", option="model", value=name)
    if target is None:
        return scores.argmax(1)
    classes = torch.as_tensor(target).cpu()
    if classes.is_floating_point() or tuple(classes.shape) not in ((), (len(scores),)):
        expected = f"must be one class, or one for each of the {len(scores)} images"
        raise bad_option("grad_cam", expected, target=target)
    if ((classes < 0) | (classes >= scores.shape[1])).any():
        raise bad_option("grad_cam", f"is not among the classes 0 to {scores.shape[1] - 1}", target=target)
    return classes.expand(len(scores))


def _described(output: object) -> tuple[int, ...] | str:
    """Return the shape of a tensor, or the type of another output."""
    return tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"
