"""Grad-CAM: where a network without attention looks, read from its gradients. Captum computes it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from saccade.errors import BadOption, BadShape, UnknownName
from saccade.maps import SpatialMap
from saccade.model_state import preserve_state


def grad_cam(
    model: nn.Module,
    images: Tensor,
    layer: str | None = None,
    target: int | Sequence[int] | Tensor | None = None,
) -> SpatialMap:
    """Return the Grad-CAM heat of a classifier, one weight for each position of a layer's output A.

        a_c = mean_p d y_k / d A_cp        M_p = ReLU(sum_c a_c A_cp)

    Selvaraju et al.: Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization,
    ICCV 2017 (equations 1 and 2). y_k is the score of class k before the softmax, p a position.

    model     images (B, 3, H, W) -> scores (B, classes). It runs in evaluation mode, and comes back as it
              was: flags, buffers, hooks, gradients and random numbers; callers may be under `no_grad`.
    layer     the path of a module whose output is (B, C, h, w); by default the last one to end in the
              forward pass with h and w above 1. Channels come second: a network that keeps them last, as
              Swin does, needs a layer of which that is not so.
    target    class k, one for all images or one for each; by default the class that each is given

    The map is (B, h, w). Images of integers are passed on as floating-point numbers of the same values.

    Raises `UnknownName` for a path that no module has, `BadShape` for an output or scores of another shape,
    `BadOption` for a class that does not exist, a layer that did not run or that the score ignores.

    >>> import torch, saccade.models
    >>> model = saccade.models.SmallCNN(2)
    >>> grad_cam(model, torch.rand(4, 3, 32, 32)).weights.shape
    torch.Size([4, 4, 4])
    """
    from captum.attr import LayerGradCam

    model = getattr(model, "_orig_mod", model)  # hooks added to a model that torch.compile ran never fire
    modules = dict(model.named_modules())
    if layer is not None and layer not in modules:
        raise UnknownName("module", layer, modules)
    with preserve_state(model, (images,)):
        images = images.detach().clone()  # a tensor of inference mode could not take part
        images = images if images.is_floating_point() else images.float()
        scores, outputs = _run(model, images)
        chosen = _layer(type(model).__name__, modules, outputs, layer)
        classes = _classes(type(model).__name__, scores, target)
        try:
            heat: Tensor = LayerGradCam(model, modules[chosen]).attribute(
                images.requires_grad_(), target=classes.tolist(), relu_attributions=True
            )
        except RuntimeError as error:
            if "not have been used" not in str(error):
                raise
            raise BadOption(f"the scores do not depend on layer {chosen!r}; name another one") from error
    return SpatialMap(heat[:, 0].detach())


def last_layer(model: nn.Module, images: Tensor) -> str:
    """Return the path of the layer that `grad_cam` takes by default."""
    model = getattr(model, "_orig_mod", model)
    with preserve_state(model, (images,)):
        _, outputs = _run(model, images)
    return _layer(type(model).__name__, {}, outputs, None)


def _run(model: nn.Module, images: Tensor) -> tuple[object, dict[str, object]]:
    """Return the model's output, and the latest output of each module, in the order in which they ended."""
    outputs: dict[str, object] = {}

    def keep(path: str, output: object) -> None:
        outputs.pop(path, None)
        outputs[path] = output.shape if isinstance(output, Tensor) else type(output).__name__

    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, path=path: keep(path, output))
        for path, module in model.named_modules()
    ]
    try:
        return model(images), outputs
    finally:
        for handle in handles:
            handle.remove()


def _layer(name: str, modules: dict[str, nn.Module], outputs: dict[str, object], layer: str | None) -> str:
    def has_places(path: str) -> bool:
        shape = outputs[path]
        return isinstance(shape, torch.Size) and len(shape) == 4 and min(shape[2:]) > 1

    if layer is None:
        found = [path for path in outputs if has_places(path)]
        if not found:
            raise BadShape(
                f"no module of {name} returns (B, C, H, W) with H and W above 1, as Grad-CAM needs"
            )
        return found[-1]
    if layer not in outputs:
        raise BadOption(f"layer {layer!r}, a {type(modules[layer]).__name__}, did not run")
    shape = outputs[layer]
    if not (isinstance(shape, torch.Size) and len(shape) == 4):
        its = tuple(shape) if isinstance(shape, torch.Size) else f"a {shape}"
        raise BadShape(f"layer {layer!r} returns {its}; Grad-CAM needs (B, C, H, W)")
    return layer


def _classes(name: str, scores: object, target: int | Sequence[int] | Tensor | None) -> Tensor:
    """Return the class of each image, (B,)."""
    if not isinstance(scores, Tensor) or scores.ndim != 2:
        its = tuple(scores.shape) if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise BadShape(f"{name} returns {its}; Grad-CAM needs scores of shape (B, classes)")
    if target is None:
        return scores.argmax(1)
    classes = torch.as_tensor(target).cpu()
    if classes.is_floating_point() or tuple(classes.shape) not in ((), (len(scores),)):
        raise BadOption(f"target={target!r} must be one class, or one for each of the {len(scores)} images")
    outside = (classes < 0) | (classes >= scores.shape[1])
    if outside.any():
        raise BadOption(f"target={target!r} is not among the classes, 0 to {scores.shape[1] - 1}")
    return classes.expand(len(scores))
