"""The methods of `look`: attention as the model computes it, or maps that explain a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor, nn

from saccade._torch import tensors_in
from saccade.attribution import Explanation, Target, explain, last_layer, model_inputs, run_model
from saccade.errors import BadShape, NothingRecorded, check_choice
from saccade.maps import AttentionMap, Tap
from saccade.model_state import preserve_state
from saccade.recording import Adapter, Maps, outlying_tokens, record

Method = Literal["attention"] | Explanation
METHODS = ("attention", *get_args(Explanation))


@dataclass(frozen=True, eq=False)
class MethodMaps:
    """The maps of a method.

    Attributes:
        method: The method.
        maps: Maps by path.
        outliers: Whether each token of a layer has an outlying norm, by path; see `outlying_tokens`.
    """

    method: Method
    maps: Mapping[str, AttentionMap]
    outliers: Mapping[str, Tensor]


def maps_of(
    model: nn.Module,
    images: Tensor,
    method: Method | None,
    *,
    layers: Sequence[str] | None = None,
    target: Target = None,
    adapters: Mapping[type[nn.Module], Adapter] | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> MethodMaps:
    """Return the maps of a model, and the method that made them. For the arguments, see `look`."""
    if method is not None:
        check_choice("look", "method", method, METHODS)
    inputs = model_inputs(model, images, model_kwargs)
    if method in (None, "attention"):
        try:
            recorded = _record(model, inputs, adapters)
        except NothingRecorded:
            if method is not None:
                raise
        else:
            if method == "attention" or _has_place(model, recorded, len(images)):
                outliers = _outliers(model, inputs, recorded)
                return MethodMaps("attention", _select(recorded, layers), outliers)
    if images.ndim == 5:
        message = "the model has no attention, and the other methods need images (B, C, H, W), not clips"
        raise BadShape(message, owner="look", option="images", value=tuple(images.shape))
    if method in ("rollout", "relevance", "legrad"):
        return MethodMaps(method, {method: explain(model, inputs, method, target)}, {})
    chosen: Explanation = "grad_cam" if method is None or method == "attention" else method
    if layers is None:
        layers = [last_layer(model, inputs, target, needs_score=chosen != "eigen_cam")]
    maps = {path: explain(model, inputs, chosen, target, layer=path) for path in layers}
    return MethodMaps(chosen, maps, {})


def _record(model: nn.Module, inputs: Any, adapters: Mapping[type[nn.Module], Adapter] | None) -> Maps:
    """Run a model once and return its attention maps.

    Raises:
        BadOption: The forward pass fails. The cause is the error of the model.
    """
    with preserve_state(model, tuple(tensors_in(inputs))), record(model, adapters) as recorded:
        run_model("look", model, inputs)
    return recorded


def _outliers(model: nn.Module, inputs: Any, recorded: Maps) -> dict[str, Tensor]:
    with preserve_state(model, tuple(tensors_in(inputs))):
        return outlying_tokens(model, recorded, lambda: run_model("look", model, inputs))


def _has_place(model: nn.Module, recorded: Maps, batch: int) -> bool:
    """Return whether a map has a place in each image, or a mechanism of this package made it."""
    is_own = any(isinstance(module, Tap) for module in model.modules())
    placed = (m.saliency() for m in recorded.values() if m.has_place)
    return is_own or any(heat.ndim > 2 and len(heat) == batch for heat in placed)


def _select(recorded: Maps, layers: Sequence[str] | None) -> dict[str, AttentionMap]:
    if layers is None:
        return dict(recorded)
    chosen = [recorded[layer] for layer in layers]
    return {next(p for p, other in recorded.items() if other is attention): attention for attention in chosen}
