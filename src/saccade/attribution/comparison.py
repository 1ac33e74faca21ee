"""One name for every explanation, and a comparison that says which one to trust for a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor, nn

from saccade._torch import tensors_in
from saccade.attribution.attention_relevance import relevance
from saccade.attribution.attention_sensitivity import legrad
from saccade.attribution.cam import CamMethod, grad_cam
from saccade.attribution.forward import Inputs, run_model
from saccade.attribution.targets import class_scores
from saccade.errors import BadOption, SaccadeError, check_choice
from saccade.maps import SpatialMap
from saccade.metrics import evaluate_faithfulness, evaluate_road, localize, sanity_check
from saccade.model_state import preserve_state
from saccade.recording import record

Explanation = Literal[
    "rollout",
    "relevance",
    "legrad",
    "grad_cam",
    "grad_cam++",
    "hires_cam",
    "layer_cam",
    "eigen_cam",
    "guided_grad_cam",
]


def explain(
    model: nn.Module, images: Inputs, method: Explanation, target: Any = None, *, layer: str | None = None
) -> SpatialMap:
    """Return the map of an explanation, by its name.

    Args:
        model: The model.
        images: Images, or all inputs of the model.
        method: "rollout" (of all attention, for no class), "relevance", "legrad", or a method of `grad_cam`.
        target: The score to explain; see `grad_cam`.
        layer: Path of the layer for the methods of `grad_cam`.

    Returns:
        The map, `(B, h, w)`.

    Example:
        >>> import torch, saccade.models
        >>> explain(saccade.models.SmallCNN(2), torch.rand(1, 3, 32, 32), "layer_cam").weights.shape
        torch.Size([1, 4, 4])
    """
    check_choice("explain", "method", method, get_args(Explanation))
    if layer is not None and method in ("rollout", "relevance", "legrad"):
        message = f"explain: layer={layer!r} applies to the methods of grad_cam, not to {method!r}"
        raise BadOption(message, owner="explain", option="layer", value=layer)
    if method == "rollout":
        with preserve_state(model, tuple(tensors_in(images))), record(model) as maps:
            run_model("explain", model, images)
        return maps.rollout()
    if method == "relevance":
        return relevance(model, images, target)
    if method == "legrad":
        return legrad(model, images, target)
    cam: CamMethod = method
    return grad_cam(model, images, layer, target, method=cam)


@dataclass(frozen=True, eq=False)
class ExplanationScores:
    """Scores of one explanation, means over the images.

    Attributes:
        auc_gain: Gain of deletion and insertion over a random order; 0 is chance.
            See `evaluate_faithfulness`.
        road: Score of ROAD; 0 is chance. See `evaluate_road`.
        sanity: Rank correlation with the map of random weights; low is good. See `sanity_check`.
        precision: Average precision for the masks of the target, if they are known. See `localize`.
        chance: The precision of a constant map.
    """

    auc_gain: float
    road: float
    sanity: float
    precision: float | None = None
    chance: float | None = None


def compare_explanations(
    model: nn.Module,
    images: Tensor,
    methods: Sequence[Explanation] | None = None,
    *,
    target: Tensor | None = None,
    masks: Tensor | None = None,
    steps: int = 20,
    seed: int = 0,
) -> dict[str, ExplanationScores]:
    """Score several explanations of the same images by the same tests, the most faithful first.

    An explanation is faithful if `auc_gain` and `road` are above 0 and `sanity` is low. The order is that of
    the mean of `auc_gain` and `road`.

    Args:
        model: A classifier, `(B, 3, H, W)` to `(B, classes)`.
        images: Images.
        methods: Explanations. Default: all that the model has.
        target: Class of each image. Default: the predicted class.
        masks: Regions of the target, bool `(B, H, W)`.
        steps: Number of steps of deletion and insertion.
        seed: Seed of the random order, the noise and the random weights.

    Returns:
        The scores by the name of the explanation.

    Raises:
        SaccadeError: The model is no classifier, or has none of the explanations; see `explain`.

    Example:
        >>> import torch, saccade.models
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...>
        >>> model, images = saccade.models.SmallCNN(2), torch.rand(2, 3, 32, 32)
        >>> sorted(compare_explanations(model, images, ["grad_cam", "eigen_cam"]))
        ['eigen_cam', 'grad_cam']
    """
    with preserve_state(model, (images,)):
        scores = class_scores("compare_explanations", model(images))
        target = scores.argmax(1) if target is None else target

    def predict(x: Tensor) -> Tensor:
        with preserve_state(model, (x,)):
            probabilities: Tensor = model(x).softmax(1)
        return probabilities

    size, found = (images.shape[2], images.shape[3]), {}
    for method in get_args(Explanation) if methods is None else methods:

        def heat(model: nn.Module, method: Explanation = method) -> Tensor:
            return explain(model, images, method, target).heatmap(size)

        try:
            heatmap = heat(model)
        except SaccadeError:
            if methods is not None:
                raise
            continue  # the model has no such explanation
        rankings = "positive", "random"
        curves = evaluate_faithfulness(
            predict, images, heatmap, target=target, rankings=rankings, steps=steps, seed=seed
        )
        road = evaluate_road(predict, images, heatmap, target=target, seed=seed)
        local = None if masks is None else localize(heatmap, masks)
        found[method] = ExplanationScores(
            auc_gain=curves["positive"].auc_gain(over=curves["random"]).mean().item(),
            road=road.score.mean().item(),
            sanity=sanity_check(model, heat, seed=seed).mean()["spearman"],
            precision=None if local is None else local.positive.precision.mean().item(),
            chance=None if local is None else local.chance.mean().item(),
        )
    if not found:
        raise BadOption(
            f"compare_explanations: {type(model).__name__} has none of the explanations",
            owner="compare_explanations",
            option="model",
            value=type(model).__name__,
        )
    order = sorted(found, key=lambda method: found[method].auc_gain + found[method].road, reverse=True)
    return {method: found[method] for method in order}
