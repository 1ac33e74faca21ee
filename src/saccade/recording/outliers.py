"""Tokens of outlying norm, in which a transformer keeps something other than their place in the image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from saccade._torch import tensors_in
from saccade.maps import AttentionMap, PairwiseMap, TokenMap, UnplacedWindowMap, WindowMap
from saccade.model_state import temporary_hooks
from saccade.recording.adapters.tokens import AttentionSite, FeatureShapes
from saccade.recording.running import is_within


def outlying_tokens(
    model: nn.Module, maps: Mapping[str, AttentionMap], run: Callable[[], object], *, ratio: float = 3.0
) -> dict[str, Tensor]:
    """Return which tokens enter the block of an attention with a norm far above that of the others.

        |x_i| > ratio * median_j |x_j|

    x is the input of the block: of the outermost module around the attention that holds no other one.

    References:
        Darcet, Oquab, Mairal, Bojanowski: Vision Transformers Need Registers, ICLR 2024 (section 2).

    Args:
        model: The model.
        maps: Its attention maps by path, of the same inputs. Windows are left out, and with them all layers,
            since the order of the tokens in such a model need not be that of the image.
        run: Runs the model once more.
        ratio: Norm of an outlying token, relative to the median over all tokens.

    Returns:
        Whether each token is outlying, (B, N), tokens without a position first, by the path of the attention,
        for the layers that have such tokens.
    """
    pairs = {path: m for path, m in maps.items() if isinstance(m, PairwiseMap) and "#" not in path}
    if not pairs or any(isinstance(attention, WindowMap | UnplacedWindowMap) for attention in pairs.values()):
        return {}
    modules, norms = dict(model.named_modules()), dict[str, Tensor]()

    def keep(path: str, _module: nn.Module, args: Any, kwargs: Any) -> None:
        x = next(iter(tensors_in((args, kwargs))), None)
        if (
            x is not None and path not in norms and x.shape[:-1] == _tokens(pairs[path])
        ):  # the outermost first
            owners = [*accumulate(path.split("."), nn.Module.get_submodule, initial=model)]
            site = AttentionSite.from_owners(owners, FeatureShapes())
            in_order = site.trailing_first(x[:, None]) if site.trailing else x[:, None]
            norms[path] = in_order[:, 0].detach().norm(dim=-1)

    hooks = (
        modules[block].register_forward_pre_hook(partial(keep, path), with_kwargs=True)
        for path in pairs
        for block in accumulate(path.split("."), "{}.{}".format)
        if block in modules and not any(is_within(other, block) for other in pairs if other != path)
    )
    with torch.no_grad(), temporary_hooks(hooks):
        run()
    outlying = {path: norm > ratio * norm.median(1, keepdim=True).values for path, norm in norms.items()}
    return {path: tokens for path, tokens in outlying.items() if tokens.any()}


def _tokens(attention: PairwiseMap) -> tuple[int, int]:
    """Return the number of images and of all tokens."""
    extra = attention.extra_keys.shape[2] if isinstance(attention, TokenMap) else 0
    return attention.keys.shape[0], extra + math.prod(attention.key_shape)
