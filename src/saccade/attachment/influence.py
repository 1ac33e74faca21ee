"""Whether the tokens of a grid influence the output of a model.

They do not behind the last attention, if the head reads the class token alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from saccade.attachment.example import call_arguments, tensors_within
from saccade.attachment.site_builder import SiteBuilder
from saccade.attachment.site_detection import Candidate
from saccade.model_state import preserve_state, temporary_hooks


def without_influence(
    model: nn.Module, example_inputs: object, candidates: Iterable[Candidate], builder: SiteBuilder
) -> set[Candidate]:
    """Return the places where a mechanism attends to tokens that no output depends on.

    These are tokens of a grid, which class tokens pass by. From the last place to the first, a forward pass
    replaces them by NaN, which no weight of zero hides, until an output holds one. The places before have
    influence.

    Args:
        model: The model. Its state is restored.
        example_inputs: The inputs of the model.
        candidates: The places.
        builder: Builds the mechanism.
    """
    args, kwargs = call_arguments(example_inputs)
    on_grids = [c for c in candidates if builder.ignores_first_tokens(c.site)]
    found: set[Candidate] = set()
    with preserve_state(model, (args, kwargs)):
        for candidate in sorted(on_grids, key=lambda c: c.node.index, reverse=True):
            if candidate.node.device.type == "meta" or _reaches_output(model, args, kwargs, candidate):
                break
            found.add(candidate)
    return found


def _reaches_output(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], candidate: Candidate
) -> bool:
    axis, count = candidate.node.axis, prod(candidate.site.grid or ())

    def erase(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        tokens = output.clone()
        tokens.movedim(axis, 1)[:, :, -count:] = torch.nan
        return tokens

    try:
        with temporary_hooks([candidate.host.register_forward_hook(erase)]):
            outputs = [*tensors_within(model(*args, **kwargs))]
    except Exception:  # a model that checks its features reads them
        return True
    return any(output.is_floating_point() and bool(output.isnan().any()) for output in outputs)
