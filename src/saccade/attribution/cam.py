"""Grad-CAM and its kin: heat maps from the features of one layer and the gradient of a score."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from saccade.annotations import check_arguments
from saccade.attribution.feature_layers import Features, features_with_gradient, last_features
from saccade.attribution.forward import ForwardPass, Inputs, with_gradients
from saccade.attribution.targets import Target, target_scores
from saccade.errors import BadOption, check_choice
from saccade.maps import SpatialMap

CamMethod = Literal["grad_cam", "grad_cam++", "hires_cam", "layer_cam", "eigen_cam", "guided_grad_cam"]


def grad_cam(
    model: nn.Module,
    images: Inputs,
    layer: str | None = None,
    target: Target = None,
    *,
    method: CamMethod = "grad_cam",
) -> SpatialMap:
    """Return the Grad-CAM map of a score: one weight for each position of the output A of a layer.

        grad_cam          a_c = mean_p G_cp                                   M = ReLU(sum_c a_c A_c)
        grad_cam++        a_c = sum_p w_cp ReLU(G_cp)                         M = ReLU(sum_c a_c A_c)
                          w_cp = G_cp^2 / (2 G_cp^2 + G_cp^3 sum_p A_cp)
        hires_cam         M = ReLU(sum_c G_c A_c)
        layer_cam         M = ReLU(sum_c ReLU(G_c) A_c)
        eigen_cam         M = ReLU(u^T A), u the first left singular vector of A; no gradient
        guided_grad_cam   grad_cam, times the largest guided gradient of the pixel's channels

    G = dy/dA is the gradient of the score y before the softmax, p a position, c a channel.

    References:
        Selvaraju et al.: Grad-CAM, ICCV 2017 (equations 1 and 2; guided: section 3.2).
        Chattopadhay et al.: Grad-CAM++, WACV 2018 (equation 19).
        Draelos, Carin: HiResCAM, 2020 (arXiv:2011.08891).
        Jiang et al.: LayerCAM, TIP 2021 (equations 6 to 8).
        Muhammad, Yeasin: Eigen-CAM, IJCNN 2020.

    Args:
        model: A model. It runs in evaluation mode; its flags, buffers, hooks and gradients and the random
            state are restored. The caller may be under `no_grad`.
        images: Images `(B, 3, H, W)`, integers or floating-point numbers; or all inputs of the model, as a
            tuple of positional or a mapping of keyword arguments.
        layer: Path of a module that returns features with an image grid: `(B, C, h, w)`, `(B, h, w, C)`, or
            tokens `(B, N, C)` with or without class tokens. Default: the last one whose positions the score
            depends on. In a transformer with a class token, that is the norm before the last attention.
        target: A class, one class for each image, or a function of the model's output that returns one score
            per image, such as `segmentation_score` and `detection_score`. Default: the predicted class; of a
            segmentation, the class of most pixels; of a detector, the best box.
        method: How to weight the features. "eigen_cam" needs no target.

    Returns:
        The map, `(B, h, w)`; for "guided_grad_cam", `(B, H, W)`.

    Raises:
        UnknownName: If no module has the path `layer`.
        BadShape: If no layer has a grid, or the output holds no class scores and `target` is no function.
        BadOption: If a class does not exist, the layer does not run, the scores do not depend on it, or the
            forward pass fails.

    Note:
        The sign of a singular vector is free: that of `eigen_cam` makes the sum of u^T A positive.

    Example:
        >>> import torch, saccade.models
        >>> model = saccade.models.SmallCNN(2)
        >>> grad_cam(model, torch.rand(4, 3, 32, 32)).weights.shape
        torch.Size([4, 4, 4])
        >>> grad_cam(model, torch.rand(4, 3, 32, 32), target=1, method="layer_cam").weights.shape
        torch.Size([4, 4, 4])
    """
    check_arguments(grad_cam, {"model": model, "layer": layer})
    check_choice("grad_cam", "method", method, get_args(CamMethod))
    with with_gradients("grad_cam", model, images) as forward:
        if method == "eigen_cam":
            return SpatialMap(_eigen_cam(last_features(forward, layer)[1]))
        features = features_with_gradient(forward, layer, target)
        if method != "guided_grad_cam":
            return SpatialMap(_METHODS[method](features))
        heat = F.interpolate(_grad_cam(features)[:, None], forward.images.shape[2:], mode="bilinear")
        return SpatialMap(heat[:, 0] * _guided_gradient(forward, target))


def last_layer(model: nn.Module, images: Inputs, target: Target = None, *, needs_score: bool = True) -> str:
    """Return the path of the layer that `grad_cam` uses by default.

    Args:
        model: The model.
        images: Images, or all inputs of the model.
        target: The score to explain.
        needs_score: Whether the score has to depend on the layer. "eigen_cam" explains no score.

    Example:
        >>> import torch, saccade.models
        >>> last_layer(saccade.models.SmallCNN(2), torch.rand(1, 3, 32, 32))
        'stages.2'
    """
    with with_gradients("last_layer", model, images) as forward:
        if not needs_score:
            return last_features(forward, None)[0].path
        return features_with_gradient(forward, None, target).layer.path


def _grad_cam(f: Features) -> Tensor:
    return (f.gradient.mean((2, 3), keepdim=True) * f.values).sum(1).relu()


def _grad_cam_plus_plus(f: Features) -> Tensor:
    square = f.gradient**2
    denominator = 2 * square + f.gradient**3 * f.values.sum((2, 3), keepdim=True)
    weights = torch.where(denominator != 0, square / denominator, 0)
    return ((weights * f.gradient.relu()).sum((2, 3), keepdim=True) * f.values).sum(1).relu()


def _hires_cam(f: Features) -> Tensor:
    return (f.gradient * f.values).sum(1).relu()


def _layer_cam(f: Features) -> Tensor:
    return (f.gradient.relu() * f.values).sum(1).relu()


def _eigen_cam(values: Tensor) -> Tensor:
    vectors, _, _ = torch.linalg.svd(values.flatten(2), full_matrices=False)
    heat = torch.einsum("bc,bchw->bhw", vectors[:, :, 0], values)
    return (heat * heat.sum((1, 2), keepdim=True).sign()).relu()


_METHODS = {
    "grad_cam": _grad_cam,
    "grad_cam++": _grad_cam_plus_plus,
    "hires_cam": _hires_cam,
    "layer_cam": _layer_cam,
}


class _Scores(nn.Module):
    """A model followed by its target, as Captum takes it."""

    def __init__(self, forward: ForwardPass, target: Target) -> None:
        super().__init__()
        self.model, self.owner, self.target = forward.model, forward.owner, target

    def forward(self, images: Tensor) -> Tensor:
        return target_scores(self.owner, self.model(images), self.target, images)


def _guided_gradient(forward: ForwardPass, target: Target) -> Tensor:
    """Return the largest guided gradient of each pixel's channels, (B, H, W)."""
    from captum.attr import GuidedBackprop

    if forward.kwargs or len(forward.args) > 1:
        message = "grad_cam: guided_grad_cam takes one tensor of images, not several inputs"
        raise BadOption(message, owner="grad_cam", option="method", value="guided_grad_cam")
    gradient: Tensor = GuidedBackprop(_Scores(forward, target)).attribute(forward.images)
    return gradient.detach().abs().amax(1)
